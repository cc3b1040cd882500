"""Walk an encoder through texts layer by layer, looking at what passes.

Each layer is run on its own with the arguments its model would give it, so that a cut in layer 3 is made and
refitted in the network that is already pruned up to there, and a text passes each layer once or twice, not L times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core.anatomy import Anatomy, Sublayer
from core.calibration import hooked, valid
from core.surgery.least_squares import Moments

Spot = tuple[Any, Literal["input", "output"]]
Tensors = list[Any]  # one tensor a batch: (texts, tokens, width)


class _Seen(Exception):
    """All that was to be looked at has passed: the rest of the layer need not run."""


@dataclass(eq=False)
class Walker:
    """An encoder's hidden states over all batches, standing before layer `at`.

    calls[b][l] are the arguments that layer l gets with batch b, beside the hidden states; `ahead` are the
    hidden states behind layer `at` where they are already known.
    """

    view: Anatomy
    batches: Sequence[Mapping[str, Any]]
    masks: Tensors
    hidden: Tensors
    calls: list[list[tuple[tuple[Any, ...], dict[str, Any]]]]
    at: int = 0
    ahead: Tensors | None = None

    @classmethod
    def start(cls, view: Anatomy, batches: Sequence[Mapping[str, Any]]) -> Walker:
        """Embed the tokens and note what each layer would be called with; no layer runs."""
        import torch

        with torch.no_grad():
            seen = [_arguments(view, batch) for batch in batches]
        calls = [[(args, kwargs) for _, args, kwargs in one] for one in seen]
        return cls(view, batches, [valid(b) for b in batches], [one[0][0] for one in seen], calls)

    def look(self, spots: Sequence[Spot], whole: bool = True) -> list[Tensors]:
        """What passes these spots of the layer stood before; without `whole` the layer stops at the last of them."""
        import torch

        found: list[Tensors] = [[] for _ in spots]

        def note(place: int, value: Any) -> None:
            found[place].append(value.detach())
            if not whole and all(len(f) == len(found[place]) for f in found):
                raise _Seen

        def before(place: int) -> Callable[..., None]:
            return lambda _, inputs: note(place, inputs[0])

        def after(place: int) -> Callable[..., None]:
            return lambda _, __, output: note(place, output)

        hooks = [(m, before(i) if w == "input" else after(i), w == "input") for i, (m, w) in enumerate(spots)]
        ahead = []
        with torch.no_grad(), hooked(hooks):
            for b in range(len(self.hidden)):
                try:
                    ahead.append(self._run(b))
                except _Seen:
                    continue
        self.ahead = ahead if whole else None
        return found

    def sum_spot(self, ffn: bool) -> Spot:
        """Where residual + output of a sublayer passes."""
        sub = self.sublayer(ffn)
        return (self.view.layers[self.at], "output") if sub.sum is None else (sub.sum, "input")

    def sublayer(self, ffn: bool) -> Sublayer:
        return self.view.feed_forward(self.at) if ffn else self.view.attention(self.at)

    def step(self, ahead: Tensors | None = None) -> None:
        """Move every batch through the layer it stands before."""
        if ahead is None:
            if self.ahead is None:
                self.look([])
            ahead = self.ahead
        assert ahead is not None
        self.hidden, self.ahead, self.at = ahead, None, self.at + 1

    def _run(self, batch: int) -> Any:
        args, kwargs = self.calls[batch][self.at]
        return first_of(self.view.layers[self.at](self.hidden[batch], *args, **kwargs))

    def moments(self, inputs: Tensors, wanted: Tensors) -> Moments:
        """Moments of a projection's inputs and of what it should give, over real tokens."""
        out = Moments(inputs[0].shape[-1], wanted[0].shape[-1])
        for x, y, mask in zip(inputs, wanted, self.masks, strict=True):
            out.add(x[mask], y[mask])
        return out


def first_of(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _arguments(view: Anatomy, batch: Mapping[str, Any]) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """(hidden, args, kwargs) of every layer's call; the layers are replaced by pass-through while we look."""
    seen: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def note(hidden: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((hidden, args, kwargs))
        return (hidden,) if view.parts.tuples else hidden

    blocks = list(view.layers)
    try:
        for block in blocks:
            block.forward = note
        view.backbone(**{k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "token_type_ids")})
    finally:
        for block in blocks:
            del block.forward
    return seen
