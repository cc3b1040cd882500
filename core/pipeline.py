"""Compose the verbs: one plan on one bench, held against the unpruned model and random pruning; computes nothing.

judge_cut(bench, parse("neurons/obs ratio=0.5 | dimensions/svd keep=128"))   before, after, retention, drift
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from core import live, registry
from core.bench import Bench, Judge, rebased, sampled
from core.beside import Ratios, code_sides, dimension_sides, ratios, row_sides
from core.compare import RANDOM_DRAWS, Retention
from core.cuts import random_plan
from core.derive import Derived, derive
from core.encoders import ModelInfo
from core.errors import InputError, PlanError
from core.evaluate import drift as moved
from core.evaluate import retrieval
from core.evaluate.judgements import Judgements
from core.judging import compare, figures, measured, popularity, reduce
from core.plan import Cut, Group, Plan, Step
from core.rounds import settled
from core.rows import as_shares
from core.select import apply, select
from core.storing import fitted, judged, stored
from core.thinning import check_index, covered_notes, cut_judges, paired, same_rows, survivors_alone, thinned
from core.types import Codes, Measurement, Progress, Ranking, Reduction, Rows, quiet


@dataclass(frozen=True, eq=False)
class Cutting:
    """A plan applied to a bench: what it is, what it keeps, beside random pruning of the same size.

    codes     how the vectors are stored behind all cuts, or None for float32
    pruned    the same data embedded by the cut encoder; the bench itself where the plan cuts none
    rows      which vectors of each data set's index stay, () where all do
    left      the judges of `pruned` with the rows that are left
    alone     data -> measure -> ratio where hits on survivors are not expanded to what they stand for
    derived   the cut encoder, or None; source is the unpruned one
    random    data -> measure -> (ratio, std) over `draws` seeds; `chance_on` says on what, where on a sample
    """

    plan: Plan
    resolved: Plan
    reduction: Reduction
    pruned: Bench
    derived: Derived | None
    source: ModelInfo
    before: tuple[Measurement, ...]
    after: tuple[Measurement, ...]
    retention: Mapping[str, Mapping[str, Retention]]
    random: Mapping[str, Mapping[str, tuple[float, float]]]
    outside: Mapping[str, Mapping[str, Retention]]
    drift: moved.Drift
    two_stage: Mapping[str, Mapping[str, float]]
    spread: Mapping[str, Mapping[str, tuple[float, float]]]
    notes: tuple[str, ...]
    left: tuple[Judge, ...]
    draws: int = RANDOM_DRAWS
    codes: Codes | None = None
    rows: tuple[Rows, ...] = ()
    alone: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def dimension_step(plan: Plan) -> Step:
    """The plan's one dimension cut. Raises PlanError where the plan holds anything else."""
    parts = registry.parts(plan)
    step = parts.dimensions
    if parts.encoder or parts.codes or parts.vectors or step is None:
        raise PlanError(f"{plan}: this needs one dimensions/... step alone; write e.g. dimensions/svd keep=128")
    return step


def judge_cut(
    bench: Bench,
    plan: Plan,
    *,
    rescore: int = 0,
    seed: int = 0,
    progress: Progress = quiet,
    spread: bool = True,
    draws: int = RANDOM_DRAWS,
) -> Cutting:
    """Apply a plan and hold it against the unpruned model and random pruning. Raises PlanError for bad plans."""
    resolved = registry.resolve(plan, seed)
    parts = registry.parts(resolved)
    steps, step = parts.encoder, parts.dimensions
    if draws < 0:
        raise InputError(f"--draws {draws} is negative: give how many random prunings to compare with, or 0")
    check_index(bench, parts.vectors)
    derived = derive(bench.model, steps, bench.fit, seed, progress) if steps else None
    fit = step is not None or parts.codes is not None
    pruned = bench if derived is None else rebased(bench, derived.info, progress, fit=fit)
    progress("ranking the units", 0, 1)
    ranking, reduction = reduce(pruned, step, progress)
    rows, said = cut_judges(pruned, reduction, parts.vectors, progress)
    left = thinned(pruned.judges, rows)
    before = tuple(measured(j) for j in bench.judges)
    codes = fitted(pruned, reduction, parts.codes, progress) if parts.codes else None
    after = tuple(judged(j, reduction, codes) for j in left)
    kept = _retained(bench, before, left, after, rows, seed)
    chance, spreads, outside = _sides(bench, resolved, derived, reduction, rows, before, seed, progress, spread, draws)
    stages = {}
    whole = same_rows(bench.judges, rows)
    for one, two in zip(whole, left, strict=True):
        if rescore and one.task is not None:
            stages[one.name] = two_stage(two, reduction, rescore, one, codes)
    shift = drift(left[0], reduction, seed, whole[0], codes=codes)
    notes = (
        *bench_notes(bench, fit), *(ranking.notes if ranking else ()), *said,
        *covered_notes(bench.judges, rows), *(codes.notes if codes else ()),
        *_encoder_notes(bench, derived),
    )  # fmt: skip
    return Cutting(
        plan, resolved, reduction, pruned, derived, bench.model, before, after, kept, chance, outside, shift, stages,
        spreads, notes, left, _draws_of(resolved, derived, draws), codes, rows,
        survivors_alone(pruned, rows, reduction, codes, before),
    )  # fmt: skip


def _retained(
    bench: Bench,
    before: Sequence[Measurement],
    left: Sequence[Judge],
    after: Sequence[Measurement],
    rows: Sequence[Rows],
    seed: int,
) -> dict[str, dict[str, Retention]]:
    """Paired retention of every data set; of pairs of words those whose words are still there."""
    out = {}
    for judge, one, small, two in zip(bench.judges, before, left, after, strict=True):
        out[judge.name] = compare(small, paired(judge, one, rows), two, seed)
    return out


def _sides(
    bench: Bench, resolved: Plan, derived: Derived | None, reduction: Reduction, rows: Sequence[Rows],
    before: Sequence[Measurement], seed: int, progress: Progress, spread: bool, draws: int,
) -> tuple[Ratios, Ratios, dict[str, dict[str, Retention]]]:  # fmt: skip
    """What stands beside a plan: random pruning of the same size, other seeds, and figures outside the fit."""
    parts = registry.parts(resolved)
    if derived is not None:
        draws = _draws_of(resolved, derived, draws)
        return encoder_chance(bench, _as_given(resolved, derived), seed, draws, progress), {}, {}
    if rows:
        return row_sides(bench, parts, reduction, rows, before, progress, spread)
    if parts.codes is not None:
        return code_sides(bench, parts, reduction, before, seed, progress, spread)
    if parts.dimensions is not None:
        return dimension_sides(bench, parts.dimensions, reduction, before, seed, progress, spread)
    return {}, {}, {}


def _draws_of(resolved: Plan, derived: Derived | None, draws: int) -> int:
    """How many random prunings are drawn; random units of a plan that trains are trained as long: minutes a draw."""
    return RANDOM_DRAWS if derived is None else min(draws, 1) if _trains(resolved) else draws


def _trains(plan: Plan) -> bool:
    return any(registry.card(s.name).kind == "training" for s in plan.flat)


def _encoder_notes(bench: Bench, derived: Derived | None) -> tuple[str, ...]:
    """What a reader of an encoder cut's figures must know: what it was calibrated on, above all."""
    if derived is None:
        return ()
    found, facts = [], derived.facts.get("calibration")
    if facts:
        found.append(
            f"calibrated on {facts['texts']:,} texts, {facts['tokens']:,} tokens of {', '.join(bench.fit_names)}; "
            f"cutting took {derived.facts['seconds']:.0f} s and {derived.facts['peak_memory_bytes'] / 1e9:.1f} GB"
        )
    foreign = [j.name for j in bench.judges if j.dataset.kind == "retrieval" and j.name not in bench.fit_names]
    if foreign:
        found.append(
            f"calibrated on other texts than {', '.join(foreign)}: calibrate on what will be embedded, retrieval pays "
            "for the difference where sentence pairs show nothing of it"
        )
    return (*found, *derived.notes)


def _as_given(resolved: Plan, derived: Derived | None) -> Plan:
    """The plan as it was done: the round of a schedule that was given, the steps of a training that was stopped.

    Random units are compared at the same counts, after as much training.
    """
    facts = derived.facts if derived else {}
    plan, done = settled(resolved, facts.get("round_given")), iter(facts.get("training", []))
    if not facts.get("stopped") or any(isinstance(s, Group) for s in plan.steps):
        return plan

    def short(step: Step) -> Step:
        if registry.card(step.name).kind != "training":
            return step
        steps = next(done, {"steps": 0})["steps"]
        return Step(step.name, tuple((k, steps if k == "steps" else v) for k, v in step.options))

    return Plan(tuple(map(short, plan.flat)))


def encoder_chance(bench: Bench, resolved: Plan, seed: int, draws: int, progress: Progress = quiet) -> Ratios:
    """Random units with the same counts and the same reconstruction, on a seeded sample of every data set."""
    small = replace(bench, judges=tuple(sampled(j, seed) for j in bench.judges))
    before = [measured(j) for j in small.judges]
    found: dict[str, list[dict[str, float]]] = {j.name: [] for j in small.judges}
    for draw in range(draws):
        progress(f"random pruning, draw {draw + 1} of {draws}", draw, draws)
        parts = registry.parts(random_plan(resolved, draw))
        step = parts.dimensions
        with live.unwatched():  # its training is not what the person watches or stops
            derived = derive(bench.model, parts.encoder, bench.fit, seed, _inside(progress, f"random draw {draw + 1}"))
        cut = rebased(small, derived.info, fit=step is not None or parts.codes is not None)
        _, reduction = reduce(cut, step)
        rows, _ = cut_judges(cut, reduction, as_shares(parts.vectors, len(bench.judges[0].documents)))
        codes = fitted(cut, reduction, parts.codes) if parts.codes else None
        for judge in thinned(cut.judges, rows):
            found[judge.name].append(figures(judged(judge, reduction, codes)))
    return {j.name: ratios(one, found[j.name]) for j, one in zip(small.judges, before, strict=True) if draws}


def _inside(progress: Progress, what: str) -> Progress:
    """Progress of a part: its own words behind what it is a part of."""
    return lambda part, done, total: progress(f"{what}: {part}", done, total)


def drift(
    judge: Judge, reduction: Reduction, seed: int = 0, dense: Judge | None = None, near: Judgements | None = None,
    codes: Codes | None = None,
) -> moved.Drift:  # fmt: skip
    """How far a data set's documents moved, on seeded probes; `dense` is the judge with the unpruned encoder's vectors.

    `near` are the documents' neighbours in the full space, where they are known.
    """
    full, own = (dense or judge).documents.vectors, judge.documents.vectors
    asked = apply(reduction, own, "query")
    metrics = ((dense or judge).documents.metric, reduction.metric)
    small = stored(judge, reduction, codes)[0]
    return moved.drift(full, small, asked=asked, metrics=metrics, near=near, seed=seed)


def drift_curve(judge: Judge, ranking: Ranking, kept: Sequence[int], seed: int = 0) -> list[moved.Drift]:
    """The same at every cut of a ranking; the neighbours in the full space are found once."""
    full, metric = judge.documents.vectors, judge.documents.metric
    near = moved.neighbours(full, moved.probes(len(full), seed), metric)
    return [drift(judge, select(ranking, Cut(keep=k), metric), seed, near=near) for k in kept]


def two_stage(
    judge: Judge, reduction: Reduction, shortlist: int, dense: Judge | None = None, codes: Codes | None = None
) -> dict[str, float]:
    """Figures when `shortlist` hits on the pruned vectors are rescored with the full ones (the unpruned encoder's)."""
    assert judge.task is not None
    whole = dense or judge
    documents, queries = stored(judge, reduction, codes)
    full = (whole.queries.vectors, whole.documents.vectors)
    metrics = (reduction.metric, whole.documents.metric)
    found = retrieval.two_stage_ranks(judge.task, (queries, documents), full, shortlist, metrics)
    return {m: float(v.mean()) for m, v in retrieval.per_query(judge.task, found).items()}


def bench_notes(bench: Bench, fitted: bool = True) -> tuple[str, ...]:
    """What a reader of any figure of this bench must know; `fitted`: a dimension method learns a basis from it."""
    out = [f"{j.name}: {note}" for j in bench.judges for note in j.dataset.notes]
    for judge in bench.judges:
        if (floor := popularity(judge)) is not None:
            own, base = measured(judge).means["ndcg@10"], floor.means["ndcg@10"]
            out.append(f"{judge.name}: recommending by popularity alone has nDCG@10 {base:.3f}, this table {own:.3f}")
    out += [f"{j.name}: {_unjudged(j)}" for j in bench.judges if _unjudged(j)]
    if fitted and bench.small and bench.inside:
        out.append(
            f"{len(bench.fit):,} documents for {bench.model.dimension} dimensions is fewer than 10 each: a fitted "
            "basis may overfit. Where there are enough, `outside_fit` judges each query by a fit that never saw its "
            "relevant documents."
        )
    return tuple(out)


def _unjudged(judge: Judge) -> str:
    left = 0 if judge.task is None else len(judge.dataset.queries) - len(judge.task)
    return f"{left} queries have no relevant document in the corpus and are not judged" if left else ""
