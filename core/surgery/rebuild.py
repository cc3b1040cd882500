"""Cut neurons and heads layer by layer in the network that is already pruned, and refit what is left.

    rebuild(student, teacher, batches, cuts, reconstruct="least-squares")

Targets are the teacher's residual sums: what a refitted projection adds makes up for errors made before it.
Cost: one pass of the teacher and under two of the student over the calibration texts, and one linear system of the
projection's size a sublayer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.anatomy import Anatomy
from core.surgery.least_squares import Moments, refit
from core.surgery.slicing import cut_heads, cut_neurons
from core.surgery.walk import Tensors, Walker, first_of
from core.types import Ints, Progress, quiet

Reconstruct = Literal["none", "bias", "least-squares"]
Choose = Callable[[int, Moments | None, NDArray[np.float64]], Ints]


@dataclass(eq=False)
class Cuts:
    """What to keep: a function (layer, moments, weight (inputs, outputs)) -> kept units; None leaves a kind alone.

    origins     the teacher's layer behind each of the student's; by default the same
    channels    the teacher's hidden channels that the student has; by default all
    sequential  the choice needs the moments of the network that is already pruned (OBS)
    """

    neurons: Choose | None = None
    heads: Choose | None = None
    origins: Sequence[int] = ()
    channels: Ints | None = None
    sequential: bool = False


def rebuild(
    student: Anatomy,
    teacher: Anatomy,
    batches: Sequence[Mapping[str, Any]],
    cuts: Cuts,
    reconstruct: Reconstruct = "none",
    progress: Progress = quiet,
) -> None:
    """Cut `student` in place. Without reconstruction and with choices made beforehand no text is run at all."""
    layers = len(student.layers)
    if reconstruct == "none" and not cuts.sequential:
        for layer in range(layers):
            for ffn in (False, True):
                _cut(student, layer, ffn, cuts, None, reconstruct)
        return
    origins = list(cuts.origins or range(layers))
    follow = [*origins[1:], len(teacher.layers)]
    here, there = Walker.start(student, batches), Walker.start(teacher, batches)
    for layer in range(layers):
        progress(f"layer {layer + 1} of {layers}: cutting and refitting", layer, layers)
        last = follow[layer] - 1
        if reconstruct == "least-squares" and last > origins[layer]:
            _take_norm(student, layer, teacher, last, cuts.channels)
        targets = _targets(there, origins[layer], last)
        _sublayer(here, False, targets[0], cuts, reconstruct)
        here.step(_sublayer(here, True, targets[1], cuts, reconstruct))
    progress("cutting and refitting", 1, 1)


def _take_norm(student: Anatomy, layer: int, teacher: Anatomy, last: int, channels: Ints | None) -> None:
    """Before a gap, the sum that is aimed at passes the norm of the last layer that is gone: take that norm over."""
    import torch

    mine, its = student.norm(layer, True), teacher.norm(last, True)
    with torch.no_grad():
        for one, other in zip(*(() if m is None else m.parameters() for m in (mine, its)), strict=True):
            one.copy_(other if channels is None else other[torch.as_tensor(channels)])


def _targets(there: Walker, first: int, last: int) -> tuple[Tensors, Tensors]:
    """The teacher's sum behind the attention of layer `first` and behind the feed-forward of layer `last`."""
    while there.at < first:
        there.step()
    attention, ffn = there.look([there.sum_spot(False), there.sum_spot(True)])
    while there.at < last:
        there.step()
        (ffn,) = there.look([there.sum_spot(True)])
    there.step()
    return attention, [first_of(f) for f in ffn]


def _sublayer(here: Walker, ffn: bool, wanted: Tensors, cuts: Cuts, reconstruct: Reconstruct) -> Tensors | None:
    """Look, cut and refit one sublayer; behind a feed-forward the hidden states it now gives."""
    import torch

    sub = here.sublayer(ffn)
    if cuts.channels is not None:
        wanted = [w[..., cuts.channels] for w in wanted]
    x, y, total = here.look([(sub.out, "input"), (sub.out, "output"), here.sum_spot(ffn)], whole=False)
    residual = [first_of(t) - o for t, o in zip(total, y, strict=True)]
    moments = here.moments(x, [w - r for w, r in zip(wanted, residual, strict=True)])
    kept = torch.as_tensor(_cut(here.view, here.at, ffn, cuts, moments, reconstruct))
    if not ffn:
        return None
    sub = here.sublayer(ffn)
    with torch.no_grad():
        sums = [r + sub.out(i[..., kept]) for r, i in zip(residual, x, strict=True)]
        return sums if sub.sum is None else [sub.sum(s) for s in sums]


def _cut(view: Anatomy, layer: int, ffn: bool, cuts: Cuts, moments: Moments | None, reconstruct: Reconstruct) -> Ints:
    """Choose, slice and refit one sublayer; the inputs of its projection that stay."""
    choose = cuts.neurons if ffn else cuts.heads
    out = (view.feed_forward(layer) if ffn else view.attention(layer)).out
    weight = out.weight.detach().double().numpy().T
    bias = None if out.bias is None else out.bias.detach().double().numpy().copy()
    size = 1 if ffn else view.head_size
    units = np.arange(len(weight) // size) if choose is None else np.sort(choose(layer, moments, weight))
    kept = (units[:, None] * size + np.arange(size)).ravel()
    if len(kept) < len(weight):
        cut_neurons(view, layer, units) if ffn else cut_heads(view, layer, units)
    if moments is not None and reconstruct != "none":
        out = (view.feed_forward(layer) if ffn else view.attention(layer)).out
        put(out, *_solution(moments, weight, bias, kept, reconstruct))
    return np.asarray(kept, np.int64)


def _solution(
    moments: Moments, weight: NDArray[np.float64], bias: Any, kept: Ints, reconstruct: Reconstruct
) -> tuple[NDArray[np.float64], Any]:
    if reconstruct == "least-squares":
        return refit(moments, weight, kept, bias is not None)
    n = max(moments.count, 1.0)
    return weight[kept], moments.y / n - (moments.x[kept] / n) @ weight[kept]


def put(linear: Any, weight: NDArray[np.float64], bias: Any) -> None:
    """Write W (inputs, outputs) and b into a linear layer of that shape."""
    import torch

    with torch.no_grad():
        linear.weight.copy_(torch.as_tensor(weight.T.astype(np.float32)))
        if linear.bias is not None:
            linear.bias.copy_(torch.as_tensor(bias.astype(np.float32)))
