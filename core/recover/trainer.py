"""The one training loop: short, seeded, never worse than its start, stopped at any step and resumed after a kill.

    fit(student, task, steps=600, batch=32, rate=1e-4, seed=0, checkpoint=key)

A Task says what an example costs and how good the student is on held-out examples; the loop does the rest: batches
of like length, AdamW with warm-up and decay, bf16 where this machine is faster with it, the best state kept. What is
evaluated and kept is a running mean of the weights (Polyak and Juditsky, 1992), good at any moment and not only when
the rate has fallen.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from core import live
from core.store import get_arrays, put_arrays
from core.types import Ints, Progress, digest, quiet

CLIP = 1.0  # norm that gradients are clipped to
MEAN = 0.98  # decay of the running mean of the weights that is evaluated: about the last 50 steps
WARMUP = 0.1  # share of the steps in which the rate grows
_POOL = 8  # batches that are drawn at once and sorted by length
_GAIN = 1.2  # bf16 must be so much faster than float32 to be taken
_SMALL = 1_000_000  # parameters below which there is nothing to gain from bf16


class Task(Protocol):
    """What a student is trained on; examples are rows 0..len(lengths)-1."""

    @property
    def lengths(self) -> Sequence[int]:
        """Of every example, in any unit."""

    def loss(self, student: Any, rows: Ints) -> Any:
        """The loss of these examples, a scalar tensor with its gradient."""

    def held_out(self, student: Any) -> float:
        """The loss on examples that are never trained on; lower is better."""


@dataclass(frozen=True)
class Fitted:
    """How a training went: `best` is the held-out loss of what is kept, from `at`; `curve` has every evaluation."""

    steps: int
    at: int
    start: float
    best: float
    curve: tuple[dict[str, float], ...]
    precision: str
    seconds: float
    notes: tuple[str, ...] = ()
    checkpoint: str = ""  # where its best state is kept, until the encoder itself is written

    def as_json(self) -> dict[str, Any]:
        out = {k: getattr(self, k) for k in ("steps", "at", "start", "best", "precision", "seconds")}
        out = {k: None if v != v else v for k, v in out.items()}  # NaN, where no step was taken, is no JSON
        return out | {"curve": list(self.curve)}


def fit(
    student: Any,
    task: Task,
    *,
    steps: int,
    batch: int = 32,
    rate: float = 1e-4,
    patience: int = 0,
    every: int = 50,
    seed: int = 0,
    precision: str = "auto",
    phase: str = "training",
    decay: float = 0.0,
    parameters: Sequence[Any] | None = None,
    after_step: Callable[[], None] | None = None,
    progress: Progress = quiet,
    checkpoint: str = "",
) -> Fitted:
    """Train `student` in place and leave it at its best held-out state; the start is a candidate like any other.

    patience    evaluations without a gain after which it ends; 0 trains to the end
    precision   "bf16", "float32", or "auto": what a timed pilot step says is faster here
    decay       weight decay (decoupled, of everything that is trained)
    parameters  what is trained (default: all but token and position tables); exact zeros in a matrix stay zero
    after_step  called after every step of the optimizer (proximal steps); the weights themselves are then evaluated,
                since a mean would lose what such a step makes exact
    checkpoint  a content key: the best state is kept on disk under it, and a killed run goes on from there

    A loss that is not finite ends the training, and so does `live.stopped()`, both with a note and the best so far.
    """
    run = _Run(student, task, list(trainable(student) if parameters is None else parameters), checkpoint, phase)
    begun = time.perf_counter()
    with run.ready():
        try:
            run.begin(batch, precision, seed, steps)
            run.train(steps, batch, rate, every, patience, seed, decay, after_step, progress)
        except _Stopped:
            run.notes.append(f"{phase}: stopped after {run.step} of {steps} steps")
    run.take(run.kept)
    seconds = time.perf_counter() - begun
    return Fitted(run.step, run.at, run.start, run.best, tuple(run.curve), run.precision, seconds, tuple(run.notes),
                  checkpoint)  # fmt: skip


def untrained(*notes: str) -> Fitted:
    """No step was taken."""
    return Fitted(0, 0, math.nan, math.nan, (), "float32", 0.0, notes)


def identity(student: Any, *parts: str) -> str:
    """The key of a training: the weights it starts from, and what else decides it."""
    weights = [p.detach().numpy() for p in student.parameters()]
    return digest("training 1", *parts, *weights)


def trainable(student: Any) -> list[Any]:
    """All parameters but the tables of tokens, positions and types: they are most of a model and move least."""
    from torch.nn import Embedding

    tables = {id(p) for module in student.modules() if isinstance(module, Embedding) for p in module.parameters()}
    return [p for p in student.parameters() if id(p) not in tables]


def schedule(lengths: Sequence[int], batch: int, seed: int) -> Iterator[Ints]:
    """Rows of one batch after another, each row once an epoch; examples of like length stand together."""
    rng = np.random.default_rng(seed)
    size = np.asarray(lengths)
    while True:
        order = rng.permutation(len(size))
        for begin in range(0, len(order), _POOL * batch):
            pool = order[begin : begin + _POOL * batch]
            pool = pool[np.argsort(size[pool], kind="stable")]
            cuts = range(0, len(pool), batch)
            yield from (pool[cuts[i] : cuts[i] + batch] for i in rng.permutation(len(cuts)))


def rate_at(step: int, steps: int, rate: float) -> float:
    """Linear warm-up over the first tenth, then linear decay to nothing."""
    done, warm = (step + 1) / steps, max(WARMUP, 1 / steps)
    return rate * min(done / warm, max(0.0, (1 - done + 1 / steps) / (1 - warm + 1 / steps)))


class _Stopped(Exception):
    """The person wants the best so far."""


def _look(*_: Any) -> None:
    if live.stopped():
        raise _Stopped


class _Run:
    """One training under way: what is trained, the best so far, the curve."""

    def __init__(self, student: Any, task: Task, parameters: list[Any], checkpoint: str, phase: str) -> None:
        self.student, self.task, self.parameters, self.checkpoint = student, task, parameters, checkpoint
        self.phase, self.precision, self.step, self.at = phase, "float32", 0, 0
        self.start = self.best = math.inf
        self.kept = [p.detach().clone() for p in parameters]
        self.mean: list[Any] = []
        self.curve: list[dict[str, float]] = []
        self.notes: list[str] = []

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Gradients for what is trained alone; between two layers, forward and back, the stop is looked for."""
        before = [(p, p.requires_grad) for p in self.student.parameters()]
        for p, _ in before:
            p.requires_grad_(False)
        for p in self.parameters:
            p.requires_grad_(True)
        hooks = [m.register_forward_pre_hook(_look) for m in self.student.modules() if not list(m.children())]
        hooks += [p.register_hook(_look) for p in self.parameters]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for p, flag in before:
                p.requires_grad_(flag)
                p.grad = None

    def begin(self, batch: int, precision: str, seed: int, steps: int) -> None:
        """Take up a run that was killed, or choose the precision and look where the student stands."""
        if self._resumed():
            return
        if steps:
            rows = next(schedule(self.task.lengths, batch, seed))
            self.precision, said = choose(self.student, self.task, rows, precision)
            self.notes += [f"{self.phase}: {said}"] if said else []
        self.start = self.best = self.look()
        point = {"step": 0, "held_out": self.start} | self.figures()
        self.curve.append(point)
        live.point(phase=self.phase, steps=steps, **point)

    def train(
        self, steps: int, batch: int, rate: float, every: int, patience: int, seed: int, decay: float,
        after_step: Callable[[], None] | None, progress: Progress,
    ) -> None:  # fmt: skip
        """Steps until the end, until nothing is gained any more, or until the loss is no number."""
        import torch

        optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=decay)
        zeros = [(p, p == 0) for p in self.parameters if p.dim() > 1 and bool((p == 0).any())]
        batches = islice(schedule(self.task.lengths, batch, seed), self.step, steps)
        self.mean = [] if after_step is not None else [p.detach().clone() for p in self.parameters]
        losses: list[float] = []
        begun = time.perf_counter()
        for rows in batches:
            _look()
            progress(f"{self.phase}, held-out loss {self.best:.4f}", self.step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate_at(self.step, steps, rate)
            optimizer.zero_grad(set_to_none=True)
            loss = self.loss(rows)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                self.notes.append(f"{self.phase}: the loss was no number at step {self.step + 1}: lower rate=")
                break
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, CLIP))
            optimizer.step()
            for p, zero in zeros:
                p.data.masked_fill_(zero, 0.0)
            if after_step is not None:
                after_step()
            self.step += 1
            self.average()
            if self.step % every == 0 or self.step == steps:
                self.note(losses, norm, steps, time.perf_counter() - begun)
                losses = []
                if patience and (self.step - self.at) // every >= patience:
                    self.notes.append(f"{self.phase}: no gain in {patience} evaluations, ended at step {self.step}")
                    break

    def note(self, losses: Sequence[float], norm: float, steps: int, seconds: float) -> None:
        """Evaluate the mean of the weights, keep what is better, and write the point of the curve."""
        own = [p.detach().clone() for p in self.parameters] if self.mean else []
        self.take(self.mean)
        found = self.look()
        point = {"step": self.step, "loss": float(np.mean(losses)), "held_out": found, "gradient": norm}
        point |= self.figures()
        self.curve.append(point)
        live.point(phase=self.phase, steps=steps, seconds=seconds, **point)
        if found < self.best:
            self.best, self.at = found, self.step
            self.kept = [p.detach().clone() for p in self.parameters]
        if self.checkpoint:
            self._keep()
        self.take(own)

    def average(self) -> None:
        """Let the running mean follow the weights, closely at first."""
        import torch

        if self.mean:
            share = 1 - min(MEAN, self.step / (self.step + 9))
            torch._foreach_lerp_(self.mean, [p.detach() for p in self.parameters], share)

    def take(self, weights: Sequence[Any]) -> None:
        """Put these weights into the student, where there are any."""
        for p, own in zip(self.parameters if weights else (), weights, strict=True):
            p.data.copy_(own)

    def loss(self, rows: Ints) -> Any:
        with autocast(self.precision):
            return self.task.loss(self.student, rows)

    def look(self) -> float:
        import torch

        with torch.no_grad(), autocast(self.precision):
            return float(self.task.held_out(self.student))

    def figures(self) -> dict[str, float]:
        """What a task says of itself beside its loss, where it has more to say."""
        say: Callable[[], dict[str, float]] = getattr(self.task, "figures", dict)
        return say()

    def _keep(self) -> None:
        about = {k: getattr(self, k) for k in _STATE}
        arrays = {f"p{i}": kept.numpy() for i, kept in enumerate(self.kept)}
        put_arrays(self.checkpoint, arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)})

    def _resumed(self) -> bool:
        import torch

        found = get_arrays(self.checkpoint) if self.checkpoint else None
        if found is None:
            return False
        for k, v in json.loads(found["about"].tobytes()).items():
            setattr(self, k, v)
        self.kept = [torch.from_numpy(found[f"p{i}"].copy()) for i in range(len(self.parameters))]
        self.take(self.kept)
        self.notes.append(f"{self.phase}: taken up again at step {self.step}")
        return True


_STATE = ("precision", "step", "at", "start", "best", "curve")


@contextmanager
def autocast(precision: str) -> Iterator[None]:
    """bf16 inside matrix products where asked for; weights, gradients and sums stay float32."""
    import torch

    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        yield


def choose(student: Any, task: Task, rows: Ints, precision: str = "auto") -> tuple[str, str]:
    """(precision, what was measured): one step forward and back in both, after one to warm up; no weight moves.

    A processor without bf16 instructions can be 100 times slower with it, so it is timed on a few examples first.
    """
    if precision != "auto" or sum(p.numel() for p in student.parameters()) < _SMALL:
        return ("float32" if precision == "auto" else precision), ""
    few = rows[: max(2, len(rows) // 4)]
    taken = {p: _timed(student, task, few, p) for p in ("float32", "bf16")}
    gain = taken["float32"] / taken["bf16"]
    chosen = "bf16" if gain > _GAIN else "float32"
    return chosen, f"{chosen}: bf16 takes a step {gain:.1f}x as fast as float32 here"


def _timed(student: Any, task: Task, rows: Ints, precision: str) -> float:
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        with autocast(precision):
            loss = task.loss(student, rows)
        loss.backward()
        times.append(time.perf_counter() - begun)
    student.zero_grad(set_to_none=True)
    return min(times)
