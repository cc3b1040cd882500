"""L1 training: distillation while a penalty pulls gates on units to exactly zero; then gates become weights.

    min  mean (1 - cosine to the unpruned model)  +  strength x mean |gate|

A gate multiplies a unit's weights, so folding it in changes no vector. After each optimizer step a gate is soft-
thresholded in Adam's metric: by rate x (strength / units) / sqrt(v), v its mean squared gradient, and at most so that
all steps together take REACH (Yun et al., ProxGen, NeurIPS 2021). Single weights are their own gates, in units of
their matrix's mean |w|.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from core.anatomy import Anatomy
from core.calibration import CalibrationTexts
from core.errors import InputError
from core.methods.recovery import L1
from core.recover.distill import LEAST, Teacher, Vectors, answers, held_out
from core.recover.trainer import Fitted, fit, rate_at, trainable, untrained
from core.types import Ints, Progress, quiet

FASTER = 100.0  # gates learn so much faster than weights; much more and the training falls apart
REACH = 3.0  # how far the penalty may pull a gate over all steps: it begins at 1
SMALL = 1e-3  # a gate below this is as good as zero
VANISHED = 0.01  # of the largest mean gradient so far
_MEMORY = 0.99  # of the running mean of squared gradients


def train_l1(student: Any, teacher: Teacher, texts: CalibrationTexts, method: L1, progress: Progress = quiet) -> Fitted:
    """Train `student` in place under an L1 penalty; it is left with the gates of the best objective folded in.

    Cost: a step of distillation each; memory beside it: twice the gates. Not taken up again after a kill.
    Raises InputError where there are too few texts or the encoder has no place for such gates.
    """
    texts = _enough(texts, method.steps * method.batch)
    read = [*texts.documents, *texts.short]
    if len(read) < LEAST:
        raise InputError(f"train/l1 learns from texts: {len(read)} are given, at least {LEAST} are needed")
    if not method.steps:
        return untrained()
    targets = answers(teacher, read, progress)
    if targets is None:
        return untrained("L1: stopped before the first step")
    own, table = trainable(student), {id(p) for p in student.parameters()}
    gates = weight_gates(student) if method.target == "weights" else unit_gates(student, method.target)
    held = held_out(len(texts.documents), len(texts.short))
    task = Penalised(Vectors(read, targets, held, similarity=0.0), gates, method)
    new = [p for p in student.parameters() if id(p) not in table]
    try:
        done = fit(student, task, **method.schedule(), decay=method.decay, phase="L1", parameters=[*own, *new],
                   after_step=task.shrink, progress=progress)  # fmt: skip
    finally:
        gates.fold()
    return replace(done, notes=(*done.notes, *task.said()))


def _enough(texts: CalibrationTexts, wanted: int) -> CalibrationTexts:
    """As many texts as so many rows can be drawn from once, half of them documents, and some to hold out."""
    most = max(wanted // 2, 32) * 10 // 8
    return CalibrationTexts(texts.documents[:most], texts.short[:most])


# ---- gates ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Gates:
    """Parameters, each a row of gates; a gate is its parameter times `scales`, 1 at the start (on average).

    fold   makes them part of the weights
    """

    rows: list[Any]
    scales: list[float]
    fold: Callable[[], None]
    squares: list[Any] = field(default_factory=list)

    def values(self) -> list[Any]:
        return [row.detach().abs() * scale for row, scale in zip(self.rows, self.scales, strict=True)]

    def below(self, level: float) -> float:
        """The share of gates that are at most `level`."""
        return sum(int((v <= level).sum()) for v in self.values()) / self.count

    @property
    def count(self) -> int:
        return sum(row.numel() for row in self.rows)


def unit_gates(student: Any, target: str) -> Gates:
    """A gate for every unit, put on the weights that carry it: their product is what every forward pass uses."""
    import torch
    from torch.nn.utils import parametrize

    class Scale(torch.nn.Module):
        """weight -> weight x gates, along one axis, `size` neighbours sharing a gate."""

        def __init__(self, row: Any, size: int, axis: int) -> None:
            super().__init__()
            self.row, self.size, self.axis = row, size, axis

        def forward(self, weight: Any) -> Any:
            gate = (self.row * FASTER).repeat_interleave(self.size)
            return weight * (gate if self.axis == weight.dim() - 1 else gate[:, None])

    rows, done = [], []
    for carriers in _carriers(student, target):
        module, name, axis, size = carriers[0]
        count = getattr(module, name).shape[axis] // size
        rows.append(torch.nn.Parameter(torch.full((count,), 1 / FASTER)))
        for module, name, axis, size in carriers:
            done.append((module, name, list(module._parameters)))
            parametrize.register_parametrization(module, name, Scale(rows[-1], size, axis))

    def fold() -> None:
        for module, name, order in done:
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            getattr(module, name).data.add_(0.0)  # -0.0 becomes 0.0
            for other in order:
                if other in module._parameters:
                    module._parameters[other] = module._parameters.pop(other)

    return Gates(rows, [FASTER] * len(rows), fold)


def weight_gates(student: Any) -> Gates:
    """Every single weight of the linear layers is its own gate, counted in its matrix's mean |w|."""
    rows = [module.weight for _, module in Anatomy(student, "weights").linears()]
    return Gates(rows, [1 / max(float(w.detach().abs().mean()), 1e-12) for w in rows], lambda: None)


Carrier = tuple[Any, str, int, int]  # module, parameter, axis that counts units, neighbours that make a unit


def _carriers(student: Any, target: str) -> list[list[Carrier]]:
    """For every row of gates the parameters that carry its units."""
    if target == "dimensions":
        return [_output(student)]
    view = Anatomy(student, target)
    if target == "tokens":
        return [[(view.tokens, "weight", 0, 1)]]
    if target == "neurons":
        return [[(view.feed_forward(i).out, "weight", 1, 1)] for i in range(len(view.layers))]
    return [[(view.attention(i).out, "weight", 1, view.head_size)] for i in range(len(view.layers))]


def _output(student: Any) -> list[Carrier]:
    """Where the embedding's dimensions come from: a Dense or LayerNorm behind the pooling, the last norm, a table."""
    for module in reversed(list(student)):
        name = type(module).__name__
        if name == "StaticEmbedding":
            return [(module.embedding, "weight", 1, 1)]
        if name == "Dense" and type(module.activation_function).__name__ != "Identity":
            break
        found = getattr(module, {"Dense": "linear", "LayerNorm": "norm"}.get(name, ""), None)
        if name == "Transformer":
            view = Anatomy(student)
            found = getattr(view.backbone, "final_norm", None) or view.norm(len(view.layers) - 1, True)
        if found is not None:
            return [(found, n, 0, 1) for n in ("weight", "bias") if getattr(found, n, None) is not None]
    raise InputError("train/l1 target=dimensions: the last layer bends its output: take another target")


# ---- the penalty ----------------------------------------------------------------------------------------------


class Penalised:
    """A task with the penalty on its held-out loss, and the step that shrinks the gates behind each optimizer step."""

    def __init__(self, task: Vectors, gates: Gates, method: L1) -> None:
        import torch

        self.task, self.gates, self.method, self.lengths = task, gates, method, task.lengths
        self.gates.squares = [torch.zeros_like(row) for row in gates.rows]
        self.step, self.norms, self.means = 0, list[float](), list[float]()
        self.vanished = ""

    def loss(self, student: Any, rows: Ints) -> Any:
        return self.task.loss(student, rows)

    def held_out(self, student: Any) -> float:
        self.apart = self.task.held_out(student)
        size = sum(float(g.sum()) for g in self.gates.values()) / self.gates.count
        return self.apart + self.method.strength * size

    def shrink(self) -> None:
        """Soft-threshold in Adam's metric; gates stay at or above zero, and the last of a layer's stays."""
        import torch

        rate = rate_at(self.step, self.method.steps, self.method.rate)
        self.step += 1
        total, whole = 0.0, self.method.rate * self.method.steps / 2  # warm-up and decay take half
        for row, square, scale in zip(self.gates.rows, self.gates.squares, self.gates.scales, strict=True):
            gradient = row.grad
            if gradient is None:
                continue
            total += float((gradient.double() / scale).square().sum())
            square.mul_(_MEMORY).addcmul_(gradient, gradient, value=1 - _MEMORY)
            typical = (square / (1 - _MEMORY**self.step)).sqrt_()
            pull = self.method.strength / self.gates.count * scale / typical.clamp_min(1e-30)
            most = REACH / (scale * whole)
            with torch.no_grad():
                last = row.abs().argmax()
                spared = row.flatten()[last].clone()
                row.copy_(torch.sign(row) * (row.abs() - rate * pull.clamp_max(most)).clamp_min(0.0))
                if row.dim() == 1:
                    row.clamp_min_(0.0)
                if not row.any():
                    row.view(-1)[last] = spared.abs()
        self.norms.append(total**0.5)

    def figures(self) -> dict[str, float]:
        """Shares of gates at zero and below SMALL, their gradient's norm, the held-out loss without penalty."""
        found = {"zeros": self.gates.below(0.0), "small": self.gates.below(SMALL), "distance": self.apart}
        if self.norms:
            self.means.append(float(np.mean(self.norms)))
            found["gate_gradient"] = self.means[-1]
            if self.means[-1] <= VANISHED * max(self.means) and not self.vanished:
                self.vanished = f"gradients of the gates vanished by step {self.step}: now only the penalty moves them"
            self.norms = []
        return found

    def said(self) -> list[str]:
        zero = self.gates.below(0.0)
        out = [f"L1: {100 * zero:.1f} % of the gates on {self.method.target} are zero"]
        if zero == 0:
            out[0] += ": raise strength= or steps= for any"
        return out + ([f"L1: {self.vanished}"] if self.vanished else [])
