"""Contrastive fine-tuning on the corpus itself: a title must find its own text among others, the hardest included.

Loss of a batch: -log softmax of cos(title, own text) / TEMPERATURE among the batch's texts and mined negatives
(InfoNCE: van den Oord et al., 2018, eq. 4; in sentence-transformers MultipleNegativesRankingLoss with scale 20),
plus `anchor` x (1 - cosine to the unpruned model's vectors), without which similarity of sentences is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.calibration import CalibrationTexts
from core.errors import InputError
from core.methods.recovery import Finetune
from core.recover.distill import Teacher, answers, embedded, towards
from core.recover.trainer import Fitted, fit, identity, untrained
from core.types import Floats, Ints, Progress, quiet, unit

TEMPERATURE = 0.05
LEAST = 16  # pairs
HELD = 128  # pairs held out, a tenth where there are few
_MARGIN = 0.95  # a text nearer to a title than this share of its own text's similarity may be relevant: no negative


class Pairs:
    """Titles with their texts, the teacher's vectors of both, and the rows of each title's hard negatives."""

    def __init__(self, titles: Sequence[str], bodies: Sequence[str], vectors: tuple[Floats, Floats], method: Finetune):
        import torch

        held = min(HELD, len(titles) // 10)
        self.count = len(titles) - held
        self.texts = (list(titles), list(bodies))
        self.lengths = [len(b) for b in bodies[: self.count]]
        asked, found = (unit(v) for v in vectors)
        self.teacher = (torch.from_numpy(asked), torch.from_numpy(found))
        self.allowed = torch.from_numpy(allowed(asked, found))
        self.negatives = mined(asked[: self.count], found[: self.count], method.negatives)
        self.anchor = method.anchor
        self.held = np.arange(self.count, len(titles))

    def loss(self, student: Any, rows: Ints) -> Any:
        return self._loss(student, rows, self.negatives[rows])

    def held_out(self, student: Any) -> float:
        """The same loss of the held-out pairs among themselves, which no training has seen."""
        return float(self._loss(student, self.held, np.zeros((len(self.held), 0), np.int64)))

    def _loss(self, student: Any, rows: Ints, negatives: Ints) -> Any:
        columns = np.concatenate([rows, np.setdiff1d(negatives, rows)])
        asked = embedded(student, [self.texts[0][i] for i in rows])
        found = embedded(student, [self.texts[1][i] for i in columns])
        loss = contrast(asked, found, self.allowed[rows][:, columns])
        if self.anchor:
            apart = towards(asked, self.teacher[0][rows]) + towards(found, self.teacher[1][columns])
            loss = loss + self.anchor * apart / 2
        return loss


def contrast(asked: Any, found: Any, allowed: Any) -> Any:
    """Mean -log softmax of the own text, which stands in the same row of `found` (n + k, d); others where allowed."""
    import torch

    own = torch.arange(len(asked))
    scores = (asked @ found.T / TEMPERATURE).masked_fill(~allowed, -torch.inf)
    scores = scores.scatter(1, own[:, None], (asked * found[: len(asked)]).sum(1, keepdim=True) / TEMPERATURE)
    return torch.nn.functional.cross_entropy(scores, own)


def allowed(asked: Floats, found: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(n, n) True where a text may count as a negative of a title: clearly further from it than its own.

    Source: TopK-PercPos, Moreira et al., NV-Retriever, 2024; similarities count from the mean of the title's row,
    since there are models whose vectors are all alike.
    """
    scores = asked @ found.T
    scores -= scores.mean(axis=1, keepdims=True)
    return np.asarray(scores < _MARGIN * np.diag(scores)[:, None])


def mined(asked: Floats, found: Floats, count: int) -> Ints:
    """(n, count) rows of the texts that the teacher holds for most alike among those allowed; exact search."""
    scores = np.where(allowed(asked, found), asked @ found.T, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def finetune(
    student: Any, teacher: Teacher, texts: CalibrationTexts, method: Finetune, progress: Progress = quiet
) -> Fitted:
    """Train `student` in place on the corpus's titles and texts. Raises InputError where it has too few titles."""
    titles, bodies = ([pair[side] for pair in texts.pairs] for side in (0, 1))
    if len(titles) < LEAST:
        raise InputError(
            f"recover/finetune learns from titles and their texts: {len(titles)} are given, at least {LEAST} are "
            "needed; use recover/distill, which needs no titles"
        )
    if not method.steps:
        return untrained()
    vectors = answers(teacher, [*titles, *bodies], progress)
    if vectors is None:
        return untrained("fine-tuning: stopped before the first step")
    task = Pairs(titles, bodies, (vectors[: len(titles)], vectors[len(titles) :]), method)
    key = identity(student, repr(method), *titles, *bodies)
    return fit(student, task, **method.schedule(), phase="fine-tuning", progress=progress, checkpoint=key)
