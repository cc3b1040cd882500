"""Compose the verbs: rank (cached), sweep all ratios at once, judge one cut. Computes nothing itself.

curve = sweep(bench, "dimensions/svd")          every ratio of a method, per query
result = judge_cut(bench, parse("dimensions/svd keep=128"))   one cut: before, after, retention, drift
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import registry
from core.compare import RANDOM_DRAWS, Retention, retention, retention_of
from core.errors import PlanError
from core.evaluate import drift as moved
from core.evaluate import ranking as engine
from core.evaluate import retrieval, similarity
from core.plan import Cut, Plan, Step
from core.bench import Bench, Judge
from core.select import apply, ordered, select, served
from core.store import get_arrays, put_arrays
from core.types import FitContext, Floats, Measurement, Metric, Progress, Ranking, Reduction, digest, quiet

RATIOS = tuple(i / 24 for i in range(24))
Values = Mapping[str, NDArray[np.float64]]


# ---- rank -----------------------------------------------------------------------------------------------------


def rank(context: FitContext, step: Step, keep: int | None = None) -> Ranking:
    """The step's ranking, kept on disk under what it was made from. `keep` counts only for methods that refit."""
    method = registry.build(step)
    keep = keep if method.card.refits else None
    options = sorted((k, v) for k, v in step.options if k not in ("ratio", "keep"))
    full = {f: getattr(method, f) for f in method.__dataclass_fields__}
    key = digest("ranking", step.name, repr(sorted(full.items()) or options), str(keep), context.fingerprint)
    stored = get_arrays(key)
    if stored is not None:
        return _thaw(step.name, stored)
    ranking = method.rank(context, keep)
    arrays: dict[str, NDArray[Any]] = {
        "scores": ranking.scores,
        "notes": np.frombuffer(json.dumps(ranking.notes).encode(), np.uint8),
    }
    arrays |= {k: getattr(ranking, k) for k in _PARTS if getattr(ranking, k) is not None}
    put_arrays(key, arrays)
    return ranking


_PARTS = ("basis", "query_basis", "mean")


def _thaw(name: str, stored: dict[str, NDArray[Any]]) -> Ranking:
    notes = tuple(json.loads(stored["notes"].tobytes()))
    basis, query_basis, mean = (stored.get(k) for k in _PARTS)
    return Ranking(name, stored["scores"], basis, query_basis, mean, notes)


# ---- measure --------------------------------------------------------------------------------------------------


def measure(judge: Judge, documents: Floats, queries: Floats, metric: Metric) -> Measurement:
    """Quality of these vectors on a data set: per query, per test text, or one Spearman over pairs."""
    data = judge.dataset
    if judge.task is not None:
        found = engine.ranks(judge.task, queries, documents, [documents.shape[1]], metric)[0]
        return Measurement(data.name, retrieval.per_query(judge.task, found), data.truth)
    if data.kind == "pairs":
        assert data.scores is not None
        scores = similarity.pair_scores(documents, queries, metric)
        return Measurement(
            data.name, {"score": scores}, data.truth, extra={"spearman": similarity.spearman(scores, data.scores)}
        )
    hits = similarity.label_hits(documents, data.documents.labels, queries, data.queries.labels)
    return Measurement(data.name, hits, data.truth)


def figures(m: Measurement) -> dict[str, float]:
    """The measures a person reads (a pair's raw score is none)."""
    return {k: v for k, v in m.means.items() if k != "score"}


def reduced(judge: Judge, reduction: Reduction) -> tuple[Floats, Floats]:
    """The judge's documents and queries after the cut; two maps meet in every score but a classifier's."""
    side = "document" if judge.dataset.kind == "labels" else "query"
    return apply(reduction, judge.documents.vectors), apply(reduction, judge.queries.vectors, side)  # type: ignore[arg-type]


def compare(judge: Judge, before: Measurement, after: Measurement, seed: int = 0) -> dict[str, Retention]:
    """Retention of every measure of a data set, paired."""
    if judge.dataset.kind != "pairs":
        return {k: retention(before.values[k], after.values[k], seed) for k in before.values}
    wanted, one, two = judge.dataset.scores, before.values["score"], after.values["score"]
    assert wanted is not None

    def statistic(rows: NDArray[np.int64]) -> tuple[float, float]:
        return similarity.spearman(one[rows], wanted[rows]), similarity.spearman(two[rows], wanted[rows])

    return {"spearman": retention_of(statistic, len(wanted), seed, draws=500)}


# ---- sweep ----------------------------------------------------------------------------------------------------


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


def _retrieval_curve(judge: Judge, task: engine.Judgements, ranking: Ranking, kept: list[int]) -> Values:
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
    return {m: np.stack([each[k][m] for k in kept]) for m in retrieval.MEASURES}


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
    """The same curve, each query judged by a fit that never saw its relevant documents; None where it is not needed.

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
    parts: dict[str, NDArray[np.float64]] = {}
    kept: tuple[int, ...] = ()
    for fold, (mine, rows) in enumerate(zip(asking, seen, strict=True)):
        progress("fitting without the judged documents", fold, folds)
        part = curve(judge, rank(_without(context, rows), step), ratios, only=mine)
        kept = part.kept
        for m, v in part.values.items():
            parts.setdefault(m, np.zeros((len(ratios), len(task))))[:, mine] = v
    return Curve(step.name, judge.name, tuple(ratios), kept, parts, outside=True)


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
    steps = [Step("dimensions/random", (("seed", s),)) for s in range(draws)]
    context = bench.context(registry.card("dimensions/random"))
    return [curve(judge, rank(context, s), ratios) for s in steps]


def recommend(curve_: Curve, measure_: str, floor: float) -> int:
    """The index of the largest ratio whose mean keeps `floor` of the first point's, and all smaller ratios do too."""
    means = curve_.means(measure_)
    if not means[0] > 0:
        return 0
    failing = np.flatnonzero(means < floor * means[0] - 1e-12)
    return int(failing[0]) - 1 if len(failing) else len(means) - 1


# ---- one cut --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cutting:
    """A plan applied to a bench: what it is, what it keeps, beside random pruning of the same size."""

    plan: Plan
    resolved: Plan
    reduction: Reduction
    before: tuple[Measurement, ...]
    after: tuple[Measurement, ...]
    retention: Mapping[str, Mapping[str, Retention]]
    random: Mapping[str, Mapping[str, tuple[float, float]]]  # data -> measure -> (ratio, std) over the draws
    outside: Mapping[str, Mapping[str, Retention]]
    drift: moved.Drift
    two_stage: Mapping[str, Mapping[str, float]]
    spread: Mapping[str, Mapping[str, tuple[float, float]]]
    notes: tuple[str, ...]


def dimension_step(plan: Plan) -> Step:
    """The plan's one dimension cut. Raises PlanError where the plan holds anything else (not built yet)."""
    steps = [s for s in plan.steps if isinstance(s, Step)]
    if len(steps) != 1 or steps[0].target != "dimensions":
        raise PlanError(f"{plan}: only one dimensions/... step can be run so far; write e.g. dimensions/svd keep=128")
    return steps[0]


def reduce(bench: Bench, step: Step, progress: Progress = quiet) -> tuple[Ranking, Reduction]:
    """Rank and select one dimension step; methods that refit are fitted for this size."""
    cut = step.cut or Cut(ratio=0.0)
    keep = cut.count(bench.model.dimension)
    context = bench.context(registry.card(step.name), progress)
    ranking = rank(context, step, keep)
    return ranking, select(ranking, Cut(keep=keep), bench.model.metric)


def judge_cut(
    bench: Bench, plan: Plan, *, rescore: int = 0, seed: int = 0, progress: Progress = quiet, spread: bool = True
) -> Cutting:
    """Apply a plan and hold it against the unpruned model and random pruning. Raises PlanError for bad plans."""
    resolved = registry.resolve(plan, seed)
    step = dimension_step(resolved)
    progress("ranking the units", 0, 1)
    ranking, reduction = reduce(bench, step, progress)
    before, after = [], []
    kept: dict[str, dict[str, Retention]] = {}
    outside: dict[str, dict[str, Retention]] = {}
    chance: dict[str, dict[str, tuple[float, float]]] = {}
    stages: dict[str, dict[str, float]] = {}
    spreads: dict[str, dict[str, tuple[float, float]]] = {}
    others = _seeds(step) if spread and registry.card(step.name).seeded else []
    for n, judge in enumerate(bench.judges):
        progress(f"judging on {judge.name}", n, len(bench.judges))
        one = measure(judge, judge.documents.vectors, judge.queries.vectors, judge.documents.metric)
        two = measure(judge, *reduced(judge, reduction), reduction.metric)
        before.append(one)
        after.append(two)
        kept[judge.name] = compare(judge, one, two, seed)
        ratio = (1 - reduction.size / reduction.dimension,)
        chance[judge.name] = _ratios(one, [_at(judge, reduction.size, c) for c in _draws(bench)])
        if others:
            spreads[judge.name] = _ratios(one, [_at(judge, reduction.size, reduce(bench, s)[0]) for s in others])
        careful = outside_curve(bench, judge, step, ratio, progress)
        if careful is not None:
            outside[judge.name] = {m: retention(one.values[m], v[0], seed) for m, v in careful.values.items()}
        if rescore and judge.task is not None:
            stages[judge.name] = two_stage(judge, reduction, rescore)
    first = bench.judges[0].documents.vectors
    asked = apply(reduction, first, "query")
    metrics = (bench.model.metric, reduction.metric)
    shift = moved.drift(first, apply(reduction, first), asked=asked, metrics=metrics, seed=seed)
    notes = (*bench_notes(bench), *ranking.notes)
    return Cutting(
        plan, resolved, reduction, tuple(before), tuple(after), kept, chance, outside, shift, stages, spreads, notes
    )


def _draws(bench: Bench) -> list[Ranking]:
    context = bench.context(registry.card("dimensions/random"))
    return [rank(context, Step("dimensions/random", (("seed", s),))) for s in range(RANDOM_DRAWS)]


def _seeds(step: Step) -> list[Step]:
    rest = tuple((k, v) for k, v in step.options if k != "seed")
    return [Step(step.name, (*rest, ("seed", s))) for s in range(RANDOM_DRAWS)]


def _at(judge: Judge, size: int, ranking: Ranking) -> dict[str, float]:
    reduction = select(ranking, Cut(keep=size), judge.documents.metric)
    return figures(measure(judge, *reduced(judge, reduction), reduction.metric))


def _ratios(before: Measurement, draws: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    base = figures(before)
    out = {}
    for m, value in base.items():
        ratios = np.array([d[m] / value if value > 0 else np.nan for d in draws])
        out[m] = (float(ratios.mean()), float(ratios.std(ddof=1)))
    return out


def two_stage(judge: Judge, reduction: Reduction, shortlist: int) -> dict[str, float]:
    """Figures when `shortlist` hits on the pruned vectors are rescored with the full ones."""
    assert judge.task is not None
    documents, queries = reduced(judge, reduction)
    full = (judge.queries.vectors, judge.documents.vectors)
    metrics = (reduction.metric, judge.documents.metric)
    found = retrieval.two_stage_ranks(judge.task, (queries, documents), full, shortlist, metrics)
    return {m: float(v.mean()) for m, v in retrieval.per_query(judge.task, found).items()}


def bench_notes(bench: Bench) -> tuple[str, ...]:
    """What a reader of any figure of this bench must know."""
    out = [f"{j.name}: {note}" for j in bench.judges for note in j.dataset.notes]
    out += [f"{j.name}: {_unjudged(j)}" for j in bench.judges if _unjudged(j)]
    if bench.small and bench.inside:
        out.append(
            f"{len(bench.fit):,} documents for {bench.model.dimension} dimensions is fewer than 10 each: a fitted "
            "basis may overfit. Where there are enough, `outside_fit` judges each query by a fit that never saw its "
            "relevant documents."
        )
    return tuple(out)


def _unjudged(judge: Judge) -> str:
    left = 0 if judge.task is None else len(judge.dataset.queries) - len(judge.task)
    return f"{left} queries have no relevant document in the corpus and are not judged" if left else ""


def with_overlap(judge: Judge, ranking: Ranking, found: Curve, seed: int = 0) -> Curve:
    """The curve with the mean neighbour overlap@10 at every ratio added (documents of a retrieval data set)."""
    if judge.task is None:
        return found
    return replace(found, overlap=overlap_curve(judge, ranking, found.ratios, seed))
