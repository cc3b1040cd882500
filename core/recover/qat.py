"""Quantization-aware training: the student learns with the rounding that its int8 export, or its vectors, will have.

Weights and the inputs of linear layers pass a fake quantization (rounded forwards, straight through backwards:
Bengio et al., arXiv 1308.3432; Jacob et al., CVPR 2018), in the form of the int8 export: signed with one scale an
output for weights, unsigned with one range a tensor for activations, smoothed as in SmoothQuant. The weights that
are kept are the float ones behind the rounding, so the encoder stays an ordinary one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from core.anatomy import Anatomy, features
from core.calibration import BATCH, CalibrationTexts, hooked, valid
from core.errors import InputError
from core.methods.recovery import Qat
from core.recover.distill import LEAST, Teacher, Vectors, answers, embedded, held_out, towards
from core.recover.trainer import Fitted, fit, identity, untrained
from core.types import Floats, Ints, Progress, quiet

ALPHA = 0.7  # SmoothQuant's balance between activations and weights
CLIPS = {"int8": (127, 4.0), "int4": (7, 2.9)}  # levels on either side, and standard deviations they cover


def qat(student: Any, teacher: Teacher, texts: CalibrationTexts, method: Qat, progress: Progress = quiet) -> Fitted:
    """Distil the teacher into `student`, in place, while weights, activations and vectors are rounded.

    Raises InputError where there are too few texts.
    """
    read = [*texts.documents, *texts.short]
    if len(read) < LEAST:
        raise InputError(f"train/qat learns from texts: {len(read)} are given, at least {LEAST} are needed")
    if not method.steps:
        return untrained()
    targets = answers(teacher, read, progress)
    if targets is None:
        return untrained("quantization-aware training: stopped before the first step")
    task = Rounded(read, targets, held_out(len(texts.documents), len(texts.short)), method)
    key = identity(student, repr(method), *read)
    with fake_quantized(student, read[:BATCH]) if method.weights == "int8" else hooked([]):
        return fit(
            student, task, **method.schedule(), phase="quantization-aware training", progress=progress, checkpoint=key
        )


class Rounded(Vectors):
    """Distillation whose texts are stored in few bits: float queries meet rounded documents."""

    def __init__(self, texts: Sequence[str], targets: Floats, held: Ints, method: Qat) -> None:
        super().__init__(texts, targets, held, method.similarity)
        self.bits = method.vectors

    def cost(self, vectors: Any, targets: Any) -> Any:
        """As in distillation; for vectors of few bits, what a float query scores against the rounded documents."""
        if self.bits == "float":
            return super().cost(vectors, targets)
        return towards(vectors, targets) + self.similarity * unlike(vectors, rounded(vectors, self.bits), targets)

    def held_out(self, student: Any) -> float:
        """Distillation's; for vectors of few bits, how unlike the teacher's the scores are: no rounding can bring the
        rounded vectors nearer to the teacher's than rounding those, but scores it can."""
        import torch

        if self.bits == "float":
            return super().held_out(student)
        vectors = torch.cat([embedded(student, texts) for texts, _ in self.asked])
        targets = torch.cat([v for _, v in self.asked])
        return float(unlike(vectors, rounded(vectors, self.bits), targets))


def unlike(asked: Any, stored: Any, targets: Any) -> Any:
    """1 - correlation of the scores asked x stored with the teacher's, a text's own score left out."""
    import torch

    others = ~torch.eye(len(asked), dtype=torch.bool)
    got, wanted = (asked @ stored.T)[others], (targets @ targets.T)[others]
    return 1 - torch.cosine_similarity(got - got.mean(), wanted - wanted.mean(), dim=0)


def rounded(vectors: Any, bits: str) -> Any:
    """Unit vectors (n, d) as they are read back from few bits an axis, of length one, gradients straight through."""
    import torch

    if bits == "binary":
        codes = torch.where(vectors > 0, 1.0, -1.0)
    else:
        levels, deviations = CLIPS[bits]
        step = deviations * vectors.detach().square().mean().sqrt() / levels
        codes = (vectors / step).round().clamp(-levels, levels)
    stored = torch.nn.functional.normalize(codes, dim=-1)
    return vectors + (stored - vectors).detach()


@contextmanager
def fake_quantized(student: Any, texts: Sequence[str]) -> Iterator[None]:
    """Round weights and inputs of the linear layers as long as this lasts; smoothing is fitted to a few texts."""
    from torch.nn.utils import parametrize

    linears = [module for _, module in Anatomy(student).linears()]
    smooth = [_smoothing(m, x) for m, x in zip(linears, _largest(student, linears, texts), strict=True)]
    for module, s in zip(linears, smooth, strict=True):
        parametrize.register_parametrization(module, "weight", _weight_rounding(s), unsafe=True)
    try:
        with hooked([(m, _input_rounding(s), True) for m, s in zip(linears, smooth, strict=True)]):
            yield
    finally:
        for module in linears:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def straight(x: Any, codes: Any) -> Any:
    """The value of `codes`, the gradient of x."""
    return x + (codes - x).detach()


def _weight_rounding(smooth: Any) -> Any:
    from torch import nn

    class Round(nn.Module):
        def forward(self, weight: Any) -> Any:
            """(out, in) as signed bytes with one scale an output."""
            scaled = weight * smooth
            step = (scaled.detach().abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
            return straight(weight, (scaled / step).round() * step / smooth)

    return Round()


def _input_rounding(smooth: Any) -> Any:
    def read(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0].float() / smooth
        low, high = x.detach().amin().clamp_max(0.0), x.detach().amax().clamp_min(0.0)
        step = ((high - low) / 255).clamp_min(1e-12)
        return (straight(inputs[0], (x / step).round() * step * smooth), *inputs[1:])

    return read


def _largest(student: Any, linears: Sequence[Any], texts: Sequence[str]) -> list[Any]:
    """The largest absolute value of every input of each layer, over the tokens of some texts."""
    import torch

    batch = features(student, texts)
    mask, found = valid(batch), dict[int, Any]()

    def see(number: int) -> Any:
        def read(_: Any, inputs: tuple[Any, ...]) -> None:
            found[number] = inputs[0][mask].abs().amax(0)

        return read

    with torch.no_grad(), hooked([(m, see(i), True) for i, m in enumerate(linears)]):
        student.forward(dict(batch))
    return [found[i] for i in range(len(linears))]


def _smoothing(module: Any, largest: Any) -> Any:
    """s_j = max|X_j|^a / max|W_j|^(1-a), Xiao et al. 2023, eq. 4."""
    weights = module.weight.detach().abs().amax(0).clamp_min(1e-5)
    return (largest.clamp_min(1e-5) ** ALPHA / weights ** (1 - ALPHA)).clamp_min(1e-4)
