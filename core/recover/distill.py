"""Distillation: the unpruned model's vectors are the targets, on unlabelled texts; its labels are never needed.

Loss of a batch: mean (1 - cosine to the teacher's vector) + weight x mean squared difference of the similarities
between the batch's texts. Sources: LEAF, 2025 (vectors as targets); Tung and Mori, Similarity-Preserving Knowledge
Distillation, ICCV 2019 (similarities, there row by row of length one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core import live
from core.anatomy import features
from core.calibration import BATCH, CalibrationTexts, sentence_vectors
from core.errors import InputError
from core.methods.recovery import Distill
from core.recover.trainer import Fitted, fit, identity, untrained
from core.types import Floats, Ints, Progress, quiet, unit

Teacher = Callable[[Sequence[str]], Floats]  # texts -> (n, d), the unpruned model's
LEAST = 8
HELD = 128  # texts of either kind that are held out, a tenth where there are few
_SLICE = 60_000  # characters the teacher reads between two looks at the stop


def distill(
    student: Any, teacher: Teacher, texts: CalibrationTexts, method: Distill, progress: Progress = quiet
) -> Fitted:
    """Train `student` in place towards the teacher's vectors of these texts.

    A tenth of the texts of either kind, at most HELD, is held out and decides what is kept. Raises InputError where
    there are too few texts.
    """
    read = [*texts.documents, *texts.short]
    if len(read) < LEAST:
        raise InputError(f"recover/... learns from texts: {len(read)} are given, at least {LEAST} are needed")
    if not method.steps:
        return untrained()
    targets = answers(teacher, read, progress)
    if targets is None:
        return untrained("distillation: stopped before the first step")
    task = Vectors(read, targets, held_out(len(texts.documents), len(texts.short)), method.similarity)
    key = identity(student, repr(method), *read)
    return fit(student, task, **method.schedule(), phase="distillation", progress=progress, checkpoint=key)


def held_out(documents: int, short: int) -> Ints:
    """Rows of documents + short that are never trained on: the last of both kinds."""
    of = [min(HELD, n // 10) for n in (documents, short)]
    ends = [np.arange(documents - of[0], documents), documents + np.arange(short - of[1], short)]
    found = np.concatenate(ends)
    return found if len(found) else np.array([documents + short - 1])


def answers(teacher: Teacher, texts: Sequence[str], progress: Progress = quiet) -> Floats | None:
    """The teacher's vectors of all texts; None where it was stopped. A slice takes a second or two."""
    order = np.argsort([len(t) for t in texts], kind="stable")
    total = np.cumsum([len(texts[i]) for i in order])
    out: list[Floats] = []
    for part in np.split(order, np.flatnonzero(np.diff(total // _SLICE)) + 1):
        if live.stopped():
            return None
        progress("reading what the unpruned model answers", sum(map(len, out)), len(texts))
        out.append(teacher([texts[i] for i in part]))
    return np.concatenate(out)[np.argsort(order)]


class Vectors:
    """Texts with the teacher's vectors; the last ones of both kinds are held out."""

    def __init__(self, texts: Sequence[str], targets: Floats, held: Ints, similarity: float) -> None:
        import torch

        rows = np.setdiff1d(np.arange(len(texts)), held)
        self.texts, self.similarity = [texts[i] for i in rows], similarity
        self.targets = torch.from_numpy(unit(targets[rows]))
        self.lengths = [len(t) for t in self.texts]
        order = held[np.argsort([len(texts[i]) for i in held], kind="stable")]
        self.asked = [([texts[i] for i in part], torch.from_numpy(unit(targets[part]))) for part in _parts(order)]

    def loss(self, student: Any, rows: Ints) -> Any:
        return self.cost(embedded(student, [self.texts[i] for i in rows]), self.targets[rows])

    def cost(self, vectors: Any, targets: Any) -> Any:
        return towards(vectors, targets, self.similarity)

    def held_out(self, student: Any) -> float:
        """Mean 1 - cosine to the teacher."""
        lost = [float(towards(embedded(student, t), v).detach()) * len(t) for t, v in self.asked]
        return sum(lost) / sum(len(t) for t, _ in self.asked)


def _parts(order: Ints) -> list[Ints]:
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


def embedded(student: Any, texts: Sequence[str]) -> Any:
    """(n, d) float32 vectors of length one, with gradients where torch records them."""
    import torch

    return torch.nn.functional.normalize(sentence_vectors(student, features(student, texts)).float(), dim=-1)


def towards(vectors: Any, targets: Any, similarity: float = 0.0) -> Any:
    """The loss of unit vectors (n, d) against the teacher's unit vectors."""
    loss = (1 - (vectors * targets).sum(-1)).mean()
    if similarity and len(vectors) > 1:
        loss = loss + similarity * (vectors @ vectors.T - targets @ targets.T).square().mean()
    return loss
