"""What a page shows of a method: its whole curve with intervals, and at any ratio a sentence that is true.

A `Study` holds every figure of every ratio, so that moving the slider only looks things up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core import judging, registry, sweeps
from core.bench import Bench, Judge
from core.compare import Band, Slice, band
from core.plan import Plan, Step
from core.report import sliced
from core.store import get_arrays, has_arrays, put_arrays
from core.types import Measurement, Progress, digest, quiet

RATIOS = tuple(i / 100 for i in range(97))
MEASURE_NAMES = {
    "hit_rate@10": "Hit rate@10",
    "ndcg@10": "nDCG@10", "recall@10": "Recall@10", "recall@100": "Recall@100", "mrr@10": "MRR@10",
    "map@100": "MAP@100", "spearman": "Spearman", "accuracy": "Accuracy", "knn@10": "kNN accuracy",
}  # fmt: skip
MEASURE_HELP = {
    "hit_rate@10": "The share of users of whom at least one held-out item is among the first ten.",
    "ndcg@10": "How well the first ten hits are ordered: relevant ones near the top count most. 1 is perfect.",
    "recall@10": "The share of relevant documents that are among the first ten hits.",
    "recall@100": "The share of relevant documents among the first hundred hits: the ceiling for a re-ranker.",
    "mrr@10": "One over the rank of the first relevant hit, 0 beyond rank ten, averaged over queries.",
    "map@100": "Average precision: precision at each relevant hit within a hundred, averaged.",
    "spearman": "Do the model's similarities put sentence pairs in the order people put them? Rank correlation.",
    "accuracy": "Share of test texts a logistic regression on the vectors labels correctly.",
    "knn@10": "Share of test texts whose ten nearest training texts vote for the right label.",
}
UNSURE = 0.1  # a lower bound further than this below what is kept: the queries are too few to tell


@dataclass(frozen=True, eq=False)
class Study:
    """One method on one data set: `careful` judges outside the fit where documents are few, else it is `plain`.

    chance   measure -> (draws, cuts) means of random pruning
    overlap  (cuts,) neighbours kept, of the ranking fitted on everything
    """

    step: Step
    judge: Judge
    units: int
    plain: sweeps.Curve
    careful: sweeps.Curve
    chance: Mapping[str, NDArray[np.float64]]
    overlap: NDArray[np.float64]

    name = "dimensions"  # what a unit is

    def ratio(self, measure: str) -> NDArray[np.float64]:
        """(cuts,) mean kept, as a share of the unpruned model's."""
        full = float(self.plain.means(measure)[0])
        means = np.concatenate([[full], self.careful.means(measure)[1:]])
        return means / full if full > 0 else np.full(len(means), np.nan)

    def band(self, measure: str) -> Band:
        """The same with intervals and p-values; computed once a measure."""
        memo: dict[str, Band] = self.__dict__.setdefault("_bands", {})
        if measure not in memo:
            full = self.plain.values[measure][:1]
            memo[measure] = band(np.concatenate([full, self.careful.values[measure][1:]]))
        return memo[measure]

    def random(self, measure: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(cuts,) mean and standard deviation of what random pruning keeps."""
        full = float(self.plain.means(measure)[0])
        drawn = self.chance[measure] / full if full > 0 else np.full_like(self.chance[measure], np.nan)
        return drawn.mean(axis=0), drawn.std(axis=0, ddof=1)

    def recommended(self, measure: str, floor: float) -> int:
        """The index of the largest cut that keeps `floor`, with all smaller cuts, on the careful curve.

        It ends where the queries are too few to tell: noise is no recommendation.
        """
        ratio = self.ratio(measure)
        unsure = ratio - self.band(measure).low > UNSURE
        failing = np.flatnonzero(~(ratio >= floor - 1e-12) | unsure)
        return int(failing[0]) - 1 if len(failing) and failing[0] > 0 else (0 if len(failing) else len(ratio) - 1)

    def percent(self, index: int) -> int:
        """The ratio at an index, as the slider shows it."""
        return round(100 * self.plain.ratios[index])

    def at(self, percent: int) -> int:
        """The index of the ratio nearest to a slider's percentage."""
        return int(np.abs(np.asarray(self.plain.ratios) - percent / 100).argmin())

    def plan(self, index: int) -> Plan:
        return Plan((self.step.with_cut(keep=self.plain.kept[index]),))

    def slices(self, index: int, measure: str) -> list[Slice]:
        one, two = (Measurement(self.judge.name, {m: v[i] for m, v in self.careful.values.items()}) for i in (0, index))
        one = Measurement(one.name, {m: self.plain.values[m][0] for m in one.values})
        return sliced(self.judge, one, two, measure)

    def hurt(self, index: int, measure: str) -> NDArray[np.int64]:
        """The judged queries in order of what they lost, worst first."""
        change = self.careful.values[measure][index] - self.plain.values[measure][0]
        return np.argsort(change, kind="stable")


def study(bench: Bench, judge: Judge, step: Step, ratios: Sequence[float] = (), progress: Progress = quiet) -> Study:
    """Rank once, then every figure of every ratio; kept on disk. `ratios` begins with 0; by default the page's."""
    ratios = ratios or ratios_for(judge)
    key = _key(bench, judge, step, ratios)
    stored = get_arrays(key)
    units = bench.model.dimension
    kept = tuple(sweeps.kept_at(ratios, units))
    chance = random_means(bench, judge, ratios)
    if stored is None:
        stored = _work_out(bench, judge, step, ratios, progress)
        put_arrays(key, stored)

    def curve(kind: str) -> sweeps.Curve:
        values = {k.removeprefix(kind): v for k, v in stored.items() if k.startswith(kind)}
        return sweeps.Curve(step.name, judge.name, tuple(ratios), kept, values, outside=kind == "careful:")

    plain = curve("plain:")
    careful = curve("careful:") if any(k.startswith("careful:") for k in stored) else plain
    return Study(step, judge, units, plain, careful, chance, stored.get("overlap", np.zeros(0)))


def ratios_for(judge: Judge) -> tuple[float, ...]:
    """The ratios a page offers: every percent, or every eighth where a classifier is trained for each."""
    return RATIOS[::8] if judge.dataset.kind == "labels" else RATIOS


def _key(bench: Bench, judge: Judge, step: Step, ratios: Sequence[float]) -> str:
    options = str(registry.resolve(Plan((step.with_cut(ratio=0.0),)), bench.seed))
    return digest("study", bench.fingerprint, judge.dataset.fingerprint, options, repr(ratios))


def ready(bench: Bench, judge: Judge, step: Step, ratios: Sequence[float] = ()) -> bool:
    """Whether `study` answers from the disk alone."""
    return has_arrays(_key(bench, judge, step, ratios or ratios_for(judge)))


def _work_out(
    bench: Bench, judge: Judge, step: Step, ratios: Sequence[float], progress: Progress
) -> dict[str, NDArray[np.float64]]:
    ranking = judging.rank(bench.context(registry.card(step.name), progress), step)
    plain = sweeps.curve(judge, ranking, ratios)
    careful = sweeps.outside_curve(bench, judge, step, ratios, progress)
    found = {f"plain:{m}": v for m, v in plain.values.items()}
    found |= {} if careful is None else {f"careful:{m}": v for m, v in careful.values.items()}
    overlap = sweeps.with_overlap(judge, ranking, plain, bench.seed).overlap
    return found | ({"overlap": overlap} if len(overlap) else {})


def random_means(bench: Bench, judge: Judge, ratios: Sequence[float]) -> dict[str, NDArray[np.float64]]:
    """measure -> (draws, cuts) means of random pruning; the same for every method, so kept apart."""
    key = digest("chance", bench.fingerprint, judge.dataset.fingerprint, repr(ratios))
    stored = get_arrays(key)
    if stored is None:
        draws = sweeps.random_curves(bench, judge, ratios)
        stored = {m: np.stack([c.means(m) for c in draws]) for m in draws[0].values}
        put_arrays(key, stored)
    return stored


def percent(value: float, digits: int = 1) -> str:
    return "not defined" if not np.isfinite(value) else f"{100 * value:.{digits}f} %"


def gigabytes(size: float) -> str:
    """Bytes for people, decimal units."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size:,.0f} B"


def kept_words(ratio: float, low: float, high: float, p: float) -> str:
    """Retention first, then the interval; a loss inside the noise is called that."""
    if not np.isfinite(ratio):
        return "not defined (the unpruned model scores 0)"
    interval = (
        f"95 % interval {100 * low:.1f} to {100 * high:.1f}" if np.isfinite(low) else "too few queries for an interval"
    )
    if ratio - low > UNSURE:
        return f"too few queries to tell ({percent(ratio)} kept; {interval})"
    if p >= 0.05 and low <= 1.0 <= high:
        return f"no measurable loss ({percent(ratio)}; {interval})"
    return f"{percent(ratio)} kept ({interval})"


def sentence(found: Study, index: int, measure: str, vectors: float) -> tuple[str, str]:
    """The verdict in two lines: what it keeps beside random pruning, and what it saves. Always of what is shown."""
    b, kept = found.band(measure), found.plain.kept[index]
    name, count = MEASURE_NAMES.get(measure, measure), found.careful.values[measure].shape[1]
    if kept == found.units:
        whole = "the whole vectors" if found.judge.dataset.documents.bare else "the unpruned model"
        return (
            f"All {kept} dimensions: {whole}, {name} {found.plain.means(measure)[0]:.3f}.",
            f"{size_words(vectors, kept, kept)} Move the ratio to see what a cut costs.",
        )
    words = kept_words(*(float(v[index]) for v in (b.ratio, b.low, b.high, b.p_value)))
    judged = f"{count:,} queries" if found.judge.task is not None else f"{len(found.judge.dataset.queries):,} texts"
    truth = truth_words(found.judge)
    outside = ", judged outside the fit" if found.careful.outside else ""
    chance = percent(float(found.random(measure)[0][index]))
    where = f"of {name} on {judged}{truth}{outside}"
    first = f"Keep {kept} of {found.units} dimensions: {words} {where}; random pruning: {chance}."
    return first, f"{size_words(vectors, found.units, kept)}{encoding_words(found.judge)}"


def truth_words(judge: Judge) -> str:
    """What stands for truth where there are no judgements."""
    if judge.dataset.truth != "agreement":
        return ""
    return f", agreement with the {'whole index' if judge.dataset.documents.bare else 'unpruned model'}"


def encoding_words(judge: Judge) -> str:
    """What a cut of vectors does not give; nothing where there is nothing to encode with."""
    return "" if judge.dataset.documents.bare else " Encoding is not faster."


def size_words(vectors: float, before: int, after: int) -> str:
    """'10 M vectors: 15.4 GB -> 3.8 GB.'"""
    count = f"{vectors / 1e6:,.10g} M" if vectors >= 1e6 else f"{vectors:,.0f}"
    one = gigabytes(vectors * 4 * before)
    return (
        f"{count} vectors: {one}." if before == after else f"{count} vectors: {one} → {gigabytes(vectors * 4 * after)}."
    )
