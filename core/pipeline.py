"""Compose the verbs: one plan on one bench, held against the unpruned model and random pruning; computes nothing.

judge_cut(bench, parse("dimensions/svd keep=128"))   before, after, retention, drift
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core import registry
from core.bench import Bench, Judge
from core.compare import RANDOM_DRAWS, Retention, retention
from core.errors import PlanError
from core.evaluate import drift as moved
from core.evaluate import retrieval
from core.evaluate.ranking import Judgements
from core.judging import compare, figures, measure, rank, reduced
from core.plan import Cut, Plan, Step
from core.select import apply, select
from core.sweeps import outside_curve
from core.types import Measurement, Progress, Ranking, Reduction, quiet


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
    shift = drift(bench.judges[0], reduction, seed)
    notes = (*bench_notes(bench), *ranking.notes)
    return Cutting(
        plan, resolved, reduction, tuple(before), tuple(after), kept, chance, outside, shift, stages, spreads, notes
    )


def drift(judge: Judge, reduction: Reduction, seed: int = 0, near: Judgements | None = None) -> moved.Drift:
    """How far a data set's documents moved, on seeded probes; `near` are their neighbours, where they are known."""
    full = judge.documents.vectors
    asked = apply(reduction, full, "query")
    metrics = (judge.documents.metric, reduction.metric)
    return moved.drift(full, apply(reduction, full), asked=asked, metrics=metrics, near=near, seed=seed)


def drift_curve(judge: Judge, ranking: Ranking, kept: Sequence[int], seed: int = 0) -> list[moved.Drift]:
    """The same at every cut of a ranking; the neighbours in the full space are found once."""
    full, metric = judge.documents.vectors, judge.documents.metric
    near = moved.neighbours(full, moved.probes(len(full), seed), metric)
    return [drift(judge, select(ranking, Cut(keep=k), metric), seed, near) for k in kept]


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
