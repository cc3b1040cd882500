"""Every ratio of a method for whole vectors, as a page shows it: quality, the ceiling, random rows beside it.

study(bench, judge, step)     a Study whose units are the rows of the index; `ceiling` is what can still be found
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import registry, sweeps
from core.bench import Bench, Judge
from core.compare import RANDOM_DRAWS
from core.evaluate import retrieval
from core.evaluate.cost import vector_bytes
from core.evaluate.thinned import ranks_left
from core.judging import measured, rank_rows
from core.plan import Cut, Plan, Step
from core.rows import by_chance, merged, select_rows
from core.store import get_arrays, has_arrays, put_arrays
from core.thinning import ceiling
from core.types import Ints, Progress, Ranking, Rows, digest, quiet
from core.verdict import MEASURE_NAMES, Study, encoding_words, gigabytes, kept_words, percent, truth_words

RATIOS = tuple(i / 100 for i in range(96))
_LARGE = 20_000  # rows from which on every fifth ratio is studied
_VERSION = "rows 1"  # raise it when what is computed changes
WARNING = (
    "30 % is not a conservative cut here: a vector that is removed is not found any more, whatever asks for it. "
    "Removing a share of the vectors by chance costs about that share of the results."
)


@dataclass(frozen=True, eq=False)
class RowStudy(Study):
    """The same for whole vectors: `kept` and `units` count rows.

    ranking   the order in which rows go
    top       (cuts,) share of the judged documents that can still be found; NaN without any
    """

    ranking: Ranking
    top: NDArray[np.float64]

    name = "vectors"

    def plan(self, index: int) -> Plan:
        return Plan((self.step.with_cut(ratio=self.plain.ratios[index]),))

    def rows(self, index: int) -> Rows:
        """Which rows stay at a ratio."""
        return select_rows(self.ranking, self.plain.kept[index])


def ratios_for(judge: Judge) -> tuple[float, ...]:
    """The ratios a page offers: every percent, or every fifth of a large index or where a classifier is trained."""
    many = len(judge.documents) > _LARGE or judge.dataset.kind == "labels"
    return RATIOS[::5] if many else RATIOS


def study(bench: Bench, judge: Judge, step: Step, ratios: Sequence[float] = (), progress: Progress = quiet) -> RowStudy:
    """Rank once, then every figure of every ratio; kept on disk. `ratios` begins with 0; by default the page's."""
    ratios = ratios or ratios_for(judge)
    n = len(judge.documents)
    kept = [Cut(ratio=r).count(n) for r in ratios]
    key = _key(bench, judge, step, ratios)
    stored = get_arrays(key)
    ranking = rank_rows(bench.index(judge, registry.card(step.name), progress), step)
    if stored is None:
        plain = _values(judge, ranking, kept, registry.card(step.name).merges, progress)
        chance = [_values(judge, by_chance(n, seed), kept, False, progress) for seed in range(RANDOM_DRAWS)]
        stored = {f"plain:{m}": v for m, v in plain.items()}
        stored |= {f"chance:{m}": np.stack([c[m].mean(axis=1) for c in chance]) for m in plain}
        tops = [ceiling(judge, select_rows(ranking, k)) for k in kept]
        stored["top"] = np.array([np.nan if t is None else t.judged for t in tops])
        put_arrays(key, stored)

    def part(kind: str) -> dict[str, NDArray[np.float64]]:
        return {k.removeprefix(kind): v for k, v in stored.items() if k.startswith(kind)}

    curve = sweeps.Curve(step.name, judge.name, tuple(ratios), tuple(kept), part("plain:"), notes=ranking.notes)
    return RowStudy(step, judge, n, curve, curve, part("chance:"), np.zeros(0), ranking, stored["top"])


def ready(bench: Bench, judge: Judge, step: Step, ratios: Sequence[float] = ()) -> bool:
    """Whether `study` answers from the disk alone."""
    return has_arrays(_key(bench, judge, step, ratios or ratios_for(judge)))


def _key(bench: Bench, judge: Judge, step: Step, ratios: Sequence[float]) -> str:
    options = str(registry.resolve(Plan((step.with_cut(ratio=0.0),)), bench.seed))
    return digest(_VERSION, bench.fingerprint, judge.dataset.fingerprint, options, repr(ratios))


def _values(
    judge: Judge, ranking: Ranking, kept: Sequence[int], merges: bool, progress: Progress
) -> Mapping[str, NDArray[np.float64]]:
    """measure -> (cuts, queries): in one pass where rows simply go, cut by cut where they are folded together."""
    if judge.task is not None and ranking.into is None:
        places = np.empty(ranking.units, np.int64)
        places[ranking.order] = np.arange(ranking.units)
        asked, index = judge.queries.vectors, judge.documents
        found = ranks_left(judge.task, asked, index.vectors, places, kept, index.metric)
        each = [retrieval.per_query(judge.task, r) for r in found]
    else:
        each = [_measured(judge, ranking, k, merges, progress, (n, len(kept))) for n, k in enumerate(kept)]
    return {m: np.stack([e[m] for e in each]) for m in each[0]}


def _measured(
    judge: Judge, ranking: Ranking, keep: int, merges: bool, progress: Progress, place: tuple[int, int]
) -> dict[str, NDArray[np.float64]]:
    progress("judging every ratio", *place)
    rows = select_rows(ranking, keep)
    rows = merged(rows, judge.documents.vectors, judge.documents.metric) if merges else rows
    got = measured(judge.without(rows, judge.documents.vectors))
    return {m: v for m, v in got.values.items() if m != "score"} | {m: np.array([v]) for m, v in got.extra.items()}


# ---- in words -------------------------------------------------------------------------------------------------


def sentence(found: RowStudy, index: int, measure: str, vectors: float, dimension: int) -> tuple[str, str]:
    """The verdict in two lines: what the rows that are left keep beside random ones, the ceiling, what it saves."""
    b, kept = found.band(measure), found.plain.kept[index]
    name = MEASURE_NAMES.get(measure, measure)
    if kept == found.units:
        full = gigabytes(vectors * vector_bytes(dimension))
        return (f"All {kept:,} vectors: {name} {found.plain.means(measure)[0]:.3f}.",
                f"{_count(vectors)} vectors: {full}. Move the ratio to see what a cut costs.")  # fmt: skip
    words = kept_words(*(float(v[index]) for v in (b.ratio, b.low, b.high, b.p_value)))
    asked = f"{len(found.judge.query_texts):,} {'queries' if found.judge.task is not None else 'texts'}"
    top = found.top[index]
    still = f"; {percent(float(top))} of the judged documents can still be found" if np.isfinite(top) else ""
    first = (
        f"Keep {kept:,} of {found.units:,} vectors: {words} of {name} on {asked}{truth_words(found.judge)}{still}; "
        f"random vectors: {percent(float(found.random(measure)[0][index]))}."
    )
    left, size = vectors * kept / found.units, vector_bytes(dimension)
    saved = f"{gigabytes(vectors * size)} → {gigabytes(left * size)}"
    return first, f"{_count(vectors)} vectors become {_count(left)}: {saved}.{encoding_words(found.judge)}"


def _count(vectors: float) -> str:
    return f"{vectors / 1e6:,.4g} M" if vectors >= 1e6 else f"{vectors:,.0f}"


def lost(judge: Judge, rows: Rows) -> Ints:
    """The judged queries (their place in the per-query values) of which no relevant document can be found any more."""
    task = judge.task
    if task is None or not len(task):
        return np.zeros(0, np.int64)
    stays = rows.stands[task.columns[task.judged]] >= 0
    return np.flatnonzero(~np.logical_or.reduceat(stays, task.pointer[:-1]))


def points(found: Sequence[RowStudy], ratios: Sequence[float], dimension: int) -> list[dict[str, Any]]:
    """The points of `sweep`: one a ratio, of every data set; each study begins with ratio 0 before these."""
    out = []
    for i, ratio in enumerate(ratios, 1):
        quality = {f.judge.name: {m: float(f.plain.means(m)[i]) for m in f.plain.values} for f in found}
        chance = {f.judge.name: {m: float(v[:, i].mean()) for m, v in f.chance.items()} for f in found}
        kept = found[0].plain.kept[i]
        out.append({
            "ratio": ratio, "kept": kept, "quality": quality, "random": chance,
            "ceiling": {f.judge.name: float(f.top[i]) for f in found},
            "drift": {}, "vector_bytes": vector_bytes(dimension), "index_bytes": kept * vector_bytes(dimension),
        })  # fmt: skip
    return out
