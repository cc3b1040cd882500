"""What stands beside a cut: random pruning of the same size, other seeds, and figures outside the fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core import registry
from core.bench import Bench, Judge
from core.compare import RANDOM_DRAWS, Retention, retention
from core.judging import figures, measure, rank, reduce, reduced
from core.plan import Cut, Step
from core.rows import by_chance, select_rows
from core.select import select
from core.storing import drawn, fitted, judged, kept_outside
from core.sweeps import outside_curve
from core.thinning import cut_judges, paired, thinned
from core.types import Codes, Measurement, Progress, Ranking, Reduction, Rows

Ratios = dict[str, dict[str, tuple[float, float]]]


def dimension_sides(
    bench: Bench, step: Step, reduction: Reduction, before: Sequence[Measurement], seed: int, progress: Progress,
    spread: bool,
) -> tuple[Ratios, Ratios, dict[str, dict[str, Retention]]]:  # fmt: skip
    """What stands beside a dimension cut: random pruning, other seeds, and the careful figures outside the fit."""
    chance: Ratios = {}
    spreads: Ratios = {}
    outside: dict[str, dict[str, Retention]] = {}
    others = _seeds(step) if spread and registry.card(step.name).seeded else []
    for n, (judge, one) in enumerate(zip(bench.judges, before, strict=True)):
        progress(f"judging on {judge.name}", n, len(bench.judges))
        chance[judge.name] = ratios(one, [_at(judge, reduction.size, c) for c in _draws(bench)])
        if others:
            rankings = [reduce(bench, s)[0] for s in others]
            spreads[judge.name] = ratios(one, [_at(judge, reduction.size, r) for r in rankings if r is not None])
        ratio = (1 - reduction.size / reduction.dimension,)
        careful = outside_curve(bench, judge, step, ratio, progress)
        if careful is not None:
            outside[judge.name] = {m: retention(one.values[m], v[0], seed) for m, v in careful.values.items()}
    return chance, spreads, outside


def code_sides(
    bench: Bench, parts: registry.Parts, reduction: Reduction, before: Sequence[Measurement], seed: int,
    progress: Progress, spread: bool,
) -> tuple[Ratios, Ratios, dict[str, dict[str, Retention]]]:  # fmt: skip
    """What stands beside a code: chance with the same bytes, other seeds, and the figures outside the fit."""
    chance: Ratios = {}
    spreads: Ratios = {}
    step = parts.codes
    assert step is not None
    others = [fitted(bench, reduction, s) for s in _seeds(step)] if spread and registry.card(step.name).seeded else []
    floors = [s if isinstance(s, int) else fitted(bench, reduction, s) for s in drawn(step, reduction)]
    for judge, one, n in zip(bench.judges, before, range(len(before)), strict=True):
        progress(f"judging on {judge.name}", n, len(before))
        draws = [
            _at(judge, min(f, bench.model.dimension), c)
            if isinstance(f, int) else figures(judged(judge, reduction, f))
            for f, c in zip(floors, _draws(bench), strict=True)
        ]  # fmt: skip
        chance[judge.name] = ratios(one, draws)
        if others:
            spreads[judge.name] = ratios(one, [figures(judged(judge, reduction, c)) for c in others])
    return chance, spreads, {} if parts.dimensions else kept_outside(bench, step, before, seed, progress)


def row_sides(
    bench: Bench, parts: registry.Parts, reduction: Reduction, rows: Sequence[Rows], before: Sequence[Measurement],
    progress: Progress, spread: bool,
) -> tuple[Ratios, Ratios, dict[str, dict[str, Retention]]]:  # fmt: skip
    """What stands beside a cut of whole vectors: as many by chance, of as many random dimensions, stored alike."""
    chance: Ratios = {}
    spreads: Ratios = {}
    axes = _draws(bench) if parts.dimensions and not reduction.identity else []
    seeded = spread and any(registry.card(s.name).seeded for s in parts.vectors)
    drawn_rows, drawn_cuts, again = [], [], []
    for draw in range(RANDOM_DRAWS):
        drawn_rows.append([select_rows(by_chance(len(r.stands), draw), len(r)) for r in rows])
        drawn_cuts.append(select(axes[draw], Cut(keep=reduction.size), bench.model.metric) if axes else reduction)
        if seeded:
            steps = tuple(_seeds(s)[draw] if registry.card(s.name).seeded else s for s in parts.vectors)
            again.append(cut_judges(bench, reduction, steps, progress)[0])
    progress("random pruning", 0, 1)
    books = [fitted(bench, c, parts.codes) if parts.codes else None for c in drawn_cuts]
    own = fitted(bench, reduction, parts.codes) if parts.codes and seeded else None
    for n, (judge, one) in enumerate(zip(bench.judges, before, strict=True)):
        cuts = zip(drawn_rows, drawn_cuts, books, strict=True)
        chance[judge.name] = _spread([_kept(bench, n, one, r, c, b) for r, c, b in cuts])
        if seeded:
            spreads[judge.name] = _spread([_kept(bench, n, one, r, reduction, own) for r in again])
    return chance, spreads, {}


def _kept(
    bench: Bench, n: int, before: Measurement, rows: Sequence[Rows], reduction: Reduction, book: Codes | None
) -> dict[str, float]:
    """What one data set keeps with these rows; of pairs of words, those of which both words are left."""
    judge = bench.judges[n]
    base = figures(paired(judge, before, rows))
    return {m: v / base[m] if base[m] > 0 else float("nan")
            for m, v in figures(judged(thinned(bench.judges, rows)[n], reduction, book)).items()}  # fmt: skip


def _spread(draws: Sequence[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each measure over the draws."""
    each = {m: np.array([d[m] for d in draws]) for m in draws[0]}
    return {m: (float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else float("nan")) for m, v in each.items()}


def _draws(bench: Bench) -> list[Ranking]:
    context = bench.context(registry.card("dimensions/random"))
    return [rank(context, Step("dimensions/random", (("seed", s),))) for s in range(RANDOM_DRAWS)]


def _seeds(step: Step) -> list[Step]:
    rest = tuple((k, v) for k, v in step.options if k != "seed")
    return [Step(step.name, (*rest, ("seed", s))) for s in range(RANDOM_DRAWS)]


def _at(judge: Judge, size: int, ranking: Ranking) -> dict[str, float]:
    reduction = select(ranking, Cut(keep=size), judge.documents.metric)
    return figures(measure(judge, *reduced(judge, reduction), reduction.metric))


def ratios(before: Measurement, draws: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """What draws keep of every measure, mean and standard deviation."""
    base = figures(before)
    return _spread([{m: d[m] / v if v > 0 else float("nan") for m, v in base.items()} for d in draws])
