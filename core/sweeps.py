"""Every ratio of a method at once: the curve, its careful twin outside the fit, the random floor, neighbours kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import registry
from core.bench import Bench, Judge
from core.compare import RANDOM_DRAWS
from core.errors import PlanError
from core.evaluate import drift as moved
from core.evaluate import ranking as engine
from core.evaluate import retrieval
from core.evaluate.judgements import Judgements
from core.judging import measure, rank, reduced
from core.plan import Cut, Step
from core.select import ordered, select, served
from core.types import FitContext, Progress, Ranking, quiet

RATIOS = tuple(i / 24 for i in range(24))
Values = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Curve:
    """Quality of one method at every cut on one data set.

    values   measure -> (cuts, queries), or (cuts, 1) for a Spearman
    overlap  (cuts,) mean neighbour overlap@10, or empty where it was not asked for
    outside  whether every query was judged by a fit that had not seen its relevant documents
    """

    method: str
    judge: str
    ratios: tuple[float, ...]
    kept: tuple[int, ...]
    values: Values
    overlap: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    outside: bool = False
    notes: tuple[str, ...] = ()

    def means(self, measure: str) -> NDArray[np.float64]:
        return np.asarray(self.values[measure].mean(axis=1))


def kept_at(ratios: Sequence[float], units: int) -> list[int]:
    return [Cut(ratio=float(r)).count(units) for r in ratios]


def curve(judge: Judge, ranking: Ranking, ratios: Sequence[float], only: NDArray[Any] | None = None) -> Curve:
    """Every cut of one ranking on one data set. For retrieval all cuts are counted in one pass over the axes."""
    kept = kept_at(ratios, ranking.units)
    if judge.task is not None:
        task = judge.task if only is None else judge.task.only(only)
        values = _retrieval_curve(judge, task, ranking, kept)
    else:
        values = _plain_curve(judge, ranking, kept)
    return Curve(ranking.method, judge.name, tuple(ratios), tuple(kept), values, notes=ranking.notes)


def _retrieval_curve(judge: Judge, task: Judgements, ranking: Ranking, kept: list[int]) -> Values:
    metric = judge.documents.metric
    cuts = sorted({k for k in kept if k < ranking.units})
    documents = ordered(ranking, judge.documents.vectors)
    queries = ordered(ranking, judge.queries.vectors, "query")
    found = (
        dict(zip(cuts, engine.ranks(task, queries, documents, cuts, served(ranking, metric)), strict=True))
        if cuts
        else {}
    )
    if any(k >= ranking.units for k in kept):  # nothing is cut: the original vectors, to the bit
        full = engine.ranks(task, judge.queries.vectors, judge.documents.vectors, [ranking.units], metric)
        found[ranking.units] = full[0]
    each = {k: retrieval.per_query(task, r) for k, r in found.items()}
    return {m: np.stack([each[k][m] for k in kept]) for m in retrieval.measures(task)}


def _plain_curve(judge: Judge, ranking: Ranking, kept: list[int]) -> Values:
    rows: list[dict[str, NDArray[np.float64]]] = []
    for k in kept:
        reduction = select(ranking, Cut(keep=k), judge.documents.metric)
        m = measure(judge, *reduced(judge, reduction), reduction.metric)
        found = dict(m.values) | {name: np.array([v]) for name, v in m.extra.items()}
        rows.append({name: v for name, v in found.items() if name != "score"})
    return {k: np.stack([r[k] for r in rows]) for k in rows[0]}


def outside_curve(
    bench: Bench, judge: Judge, step: Step, ratios: Sequence[float], progress: Progress = quiet
) -> Curve | None:
    """The same curve, each query judged by a fit that never saw its relevant documents; None where it is not needed."""

    def part(context: FitContext, asking: NDArray[np.int64]) -> Curve:
        return curve(judge, rank(context, step), ratios, only=asking)

    return outside(bench, judge, step, part, progress)


def outside(
    bench: Bench, judge: Judge, step: Step, part: Callable[[FitContext, NDArray[np.int64]], Curve],
    progress: Progress = quiet,
) -> Curve | None:  # fmt: skip
    """Any curve judged outside its fit: `part(context, queries)` fits on a context and judges these queries by it.

    The queries are dealt into folds; for each fold the method is fitted without the documents judged relevant
    for the fold's queries. What is shipped is fitted on all documents, so this is the careful estimate of it.
    """
    card = registry.card(step.name)
    if not (bench.inside and bench.small and judge.task is not None) or card.learns_from == "nothing":
        return None
    task = judge.task
    folds = min(2 if card.slow else 5, len(task))
    dealt = np.random.default_rng(bench.seed).permutation(len(task)) % max(folds, 1)
    row_of = {text: i for i, text in enumerate(bench.fit.full)}
    fit_row = np.array([row_of.get(t, -1) for t in judge.dataset.documents.full], np.int64)
    asking = [np.flatnonzero(dealt == fold) for fold in range(folds)]
    seen = [fit_row[task.columns[np.unique(task.only(mine).judged)]] for mine in asking]
    seen = [np.unique(rows[rows >= 0]) for rows in seen]
    if not folds or any(len(bench.fit) - len(rows) < 2 for rows in seen):
        return None  # so few texts that nothing is left to fit on without them
    context = bench.context(card, progress)
    found: Curve | None = None
    parts: dict[str, NDArray[np.float64]] = {}
    for fold, (mine, rows) in enumerate(zip(asking, seen, strict=True)):
        progress("fitting without the judged documents", fold, folds)
        found = part(_without(context, rows), mine)
        for m, v in found.values.items():
            parts.setdefault(m, np.zeros((len(v), len(task))))[:, mine] = v
    assert found is not None
    return replace(found, values=parts, outside=True, notes=())


def _without(context: FitContext, rows: NDArray[np.int64]) -> FitContext:
    """The context without some documents and all that was taken from them."""
    stays = np.ones(len(context.documents), bool)
    stays[rows] = False
    if stays.sum() < 2:
        raise PlanError("too few documents are left to fit on: choose other texts with --fit-on")
    new_row = np.cumsum(stays) - 1
    asked = stays[context.owners]
    lent = np.zeros(0, np.int64) if context.pair_owners is None else context.pair_owners
    pairs = None if context.pairs is None else (context.pairs[0][stays[lent]], context.pairs[1][stays[lent]])
    return replace(
        context,
        documents=context.documents[stays],
        pseudo_queries=context.pseudo_queries[asked],
        owners=new_row[context.owners[asked]],
        pairs=pairs,
        pair_owners=new_row[lent[stays[lent]]],
    )


def overlap_curve(
    judge: Judge, ranking: Ranking, ratios: Sequence[float], seed: int = 0, most: int = 500
) -> NDArray[np.float64]:
    """(cuts,) mean neighbour overlap@10 of seeded documents at every ratio."""
    documents, metric = judge.documents.vectors, judge.documents.metric
    rows = moved.probes(len(documents), seed, most)
    near = moved.neighbours(documents, rows, metric)
    kept = kept_at(ratios, ranking.units)
    cuts = sorted(set(kept))
    turned = ordered(ranking, documents)
    asked = turned[rows] if ranking.query_basis is None else ordered(ranking, documents[rows], "query")
    means = moved.overlap(near, asked, turned, cuts, served(ranking, metric)).mean(axis=1)
    found = dict(zip(cuts, means, strict=True)) | {ranking.units: 1.0}
    return np.array([found[k] for k in kept])


def random_curves(bench: Bench, judge: Judge, ratios: Sequence[float], draws: int = RANDOM_DRAWS) -> list[Curve]:
    """Random pruning at the same ratios, one curve per seed: the floor of every figure."""
    draws = 2 if judge.dataset.kind == "labels" else draws  # a classifier is trained for every ratio of every draw
    steps = [Step("dimensions/random", (("seed", s),)) for s in range(draws)]
    context = bench.context(registry.card("dimensions/random"))
    return [curve(judge, rank(context, s), ratios) for s in steps]


def with_overlap(judge: Judge, ranking: Ranking, found: Curve, seed: int = 0) -> Curve:
    """The curve with the mean neighbour overlap@10 at every ratio added (documents of a retrieval data set)."""
    if judge.task is None:
        return found
    return replace(found, overlap=overlap_curve(judge, ranking, found.ratios, seed))
