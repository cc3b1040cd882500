"""Whole vectors: a ranking of rows + cut -> Rows, several steps one behind the other, and an index with fewer rows.

cut_rows(context, full, steps)   rank each step on what the one before it left
judge.without(rows)              the same questions to the smaller index (bench.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from core import registry
from core.judging import rank_rows
from core.plan import Cut, Step
from core.types import FitContext, Floats, Ints, Metric, Ranking, Rows, unit


def everything(n: int) -> Rows:
    """No row goes."""
    return Rows("none", np.arange(n), np.arange(n))


def by_chance(n: int, seed: int) -> Ranking:
    """Rows in a drawn order: what every method is held against; every figure of one seed is of the same draw."""
    scores = np.empty(n, np.float32)
    scores[np.random.default_rng(seed).permutation(n)] = -np.arange(n)
    return Ranking("vectors/random", scores)


def count(ranking: Ranking, cut: Cut) -> int:
    """Rows that a cut keeps; a threshold keeps those whose nearest survivor is less similar than it."""
    if cut.threshold is None:
        return cut.count(ranking.units)
    cut.check()
    assert ranking.levels is not None
    return max(1, int((ranking.levels < cut.threshold).sum()))


def select_rows(ranking: Ranking, keep: int) -> Rows:
    """The first `keep` rows of the order; where rows are folded, every other row stands behind its survivor."""
    n = ranking.units
    kept = np.sort(ranking.order[:keep])
    stays = np.zeros(n, bool)
    stays[kept] = True
    stands = np.where(stays, np.arange(n), -1 if ranking.into is None else ranking.into)
    while ranking.into is not None and not stays[stands].all():  # halves the way to a survivor every time
        stands = stands[stands]
    return Rows(ranking.method, kept, stands)


def merged(rows: Rows, vectors: Floats, metric: Metric) -> Rows:
    """Survivors become the mean of the rows they stand for, of length one where the metric is cosine."""
    x = unit(vectors) if metric == "cosine" else vectors
    served = rows.served
    place = np.searchsorted(rows.kept, rows.stands[served])
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(rows)))
    sums = np.add.reduceat(x[served[order]].astype(np.float64), starts, axis=0)
    means = sums / np.diff(np.append(starts, len(served)))[:, None]
    alone = np.bincount(place) == 1
    out = (unit(means) if metric == "cosine" else means).astype(np.float32)
    out[alone] = vectors[rows.kept[alone]]  # bit for bit
    return replace(rows, vectors=out)


def behind(first: Rows, second: Rows) -> Rows:
    """Two cuts as one: `second` counts the rows that `first` kept."""
    place = np.searchsorted(first.kept, first.stands)
    lands = np.append(second.stands, -1)[np.where(first.stands >= 0, place, len(first))]
    stands = np.append(first.kept, -1)[np.where(lands >= 0, lands, len(first))]
    vectors = second.vectors
    if vectors is None and first.vectors is not None:
        vectors = first.vectors[second.kept]
    return Rows(second.method, first.kept[second.kept], stands, vectors)


def cut_rows(context: FitContext, full: Floats, steps: Sequence[Step]) -> tuple[Rows, tuple[str, ...]]:
    """Which rows of an index stay behind all steps, and the methods' notes.

    context  its documents (n, k) are the index as it is ranked, behind a dimension cut where there is one
    full     (n, d) the index as it is: what merged survivors are the mean of
    """
    rows = everything(len(full))
    notes: tuple[str, ...] = ()
    for step in steps:
        ranking = rank_rows(_left(context, rows), step)
        rows = behind(rows, select_rows(ranking, count(ranking, step.cut or Cut(ratio=0.0))))
        if registry.card(step.name).merges:
            rows = merged(rows, full, context.metric)
        notes += ranking.notes
    return rows, tuple(dict.fromkeys(notes))


def as_shares(steps: Sequence[Step], n: int) -> tuple[Step, ...]:
    """The same steps for any number of rows: a count to keep becomes the share of `n` rows that it is.

    Raises PlanError where a count is more than the rows that are left.
    """
    left, out = n, []
    for step in steps:
        if step.cut is not None and step.cut.threshold is None:
            kept = step.cut.count(left)
            step, left = step.with_cut(ratio=1 - kept / left), kept
        out.append(step)
    return tuple(out)


def _left(context: FitContext, rows: Rows) -> FitContext:
    """What a step ranks: the rows that are still there; a query taken from one that is gone is from none."""
    if len(rows) == len(context.documents):
        return context
    place = np.full(len(context.documents) + 1, -1, np.int64)
    place[rows.kept] = np.arange(len(rows))
    aside = place[context.aside] if context.aside is not None else None
    return replace(
        context, documents=np.ascontiguousarray(context.documents[rows.kept]), owners=place[context.owners],
        aside=None if aside is None else aside[aside >= 0],
    )  # fmt: skip


def folded(rows: Rows) -> Ints:
    """(f, 2) every row that was folded away, and its survivor."""
    gone = np.flatnonzero((rows.stands >= 0) & (rows.stands != np.arange(len(rows.stands))))
    return np.stack([gone, rows.stands[gone]], axis=1)
