"""Every size of a code at once, as a page shows it: bytes per vector against quality, with intervals and random.

study(bench, judge, step)     a Study whose units are bytes: index 0 is the float vector, then fewer and fewer bytes
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core import judging, pipeline, registry, storing, sweeps
from core.bench import Bench, Judge
from core.evaluate.cost import vector_bytes
from core.plan import Plan, Step
from core.store import get_arrays, has_arrays, put_arrays
from core.types import Progress, digest, quiet
from core.verdict import MEASURE_NAMES, Study, encoding_words, gigabytes, kept_words, percent, random_means, truth_words

SMALLER = (4, 8, 12, 16, 20, 32, 48, 64, 96)  # times smaller than floats: the sizes of a code with a budget
_VERSION = "budgets 1"  # raise it when a code's computation changes


@dataclass(frozen=True, eq=False)
class Budgets(Study):
    """The same for codes: `kept` and `units` count bytes per vector."""

    def plan(self, index: int) -> Plan:
        return Plan((sized(self.step, self.plain.kept[index]),))


def sized(step: Step, size: int) -> Step:
    """The step with a budget, where it takes one."""
    if "bytes" not in registry.find(step.name).__dataclass_fields__:
        return step
    return Step(step.name, (("bytes", size), *((k, v) for k, v in step.options if k != "bytes")))


def offered_sizes(step: Step, dimension: int) -> list[int]:
    """Bytes per vector that a code is shown at, the most first."""
    return [storing.planned_bytes(s, dimension) for s in _steps(step, dimension)]


def _steps(step: Step, dimension: int) -> list[Step]:
    return storing.at_sizes(sized(step, 1), dimension, [1 - 1 / s for s in SMALLER])


def study(bench: Bench, judge: Judge, step: Step, progress: Progress = quiet) -> Budgets:
    """Fit, encode and judge at every size; kept on disk. About half a minute for a few hundred documents."""
    full, steps = vector_bytes(bench.model.dimension), _steps(step, bench.model.dimension)
    kept = (full, *offered_sizes(step, bench.model.dimension))
    ratios = tuple(1 - b / full for b in kept)
    stored = get_arrays(_key(bench, judge, step))
    if stored is None:
        context = bench.context(registry.card(step.name), progress)
        plain = storing.budgets(judge, context, [None, *steps], progress=progress)
        careful = storing.outside_budgets(bench, judge, [None, *steps], progress)
        stored = {f"plain:{m}": v for m, v in plain.values.items()}
        stored |= {} if careful is None else {f"careful:{m}": v for m, v in careful.values.items()}
        put_arrays(_key(bench, judge, step), stored)

    def curve(kind: str) -> sweeps.Curve:
        values = {k.removeprefix(kind): v for k, v in stored.items() if k.startswith(kind)}
        return sweeps.Curve(step.name, judge.name, ratios, kept, values, outside=kind == "careful:")

    plain = curve("plain:")
    careful = curve("careful:") if any(k.startswith("careful:") for k in stored) else plain
    return Budgets(step, judge, full, plain, careful, random_means(bench, judge, ratios), np.zeros(0))


def ready(bench: Bench, judge: Judge, step: Step) -> bool:
    """Whether `study` answers from the disk alone."""
    return has_arrays(_key(bench, judge, step))


def _key(bench: Bench, judge: Judge, step: Step) -> str:
    plan = registry.resolve(Plan((sized(step, 1),)), bench.seed)
    sizes = repr(offered_sizes(step, bench.model.dimension))
    return digest(_VERSION, bench.fingerprint, judge.dataset.fingerprint, str(plan), sizes)


def two_stage(bench: Bench, judge: Judge, step: Step, shortlist: int) -> dict[str, float]:
    """Quality where a shortlist on the codes, fitted on all documents, is scored again with the float vectors."""
    _, whole = judging.reduce(bench, None)
    return pipeline.two_stage(judge, whole, shortlist, codes=storing.fitted(bench, whole, step))


def recommended(found: Budgets, measure: str, floor: float) -> int:
    """The index of the fewest bytes that keep the floor, with all larger sizes; 1 where none does."""
    return max(1, found.recommended(measure, floor))


# ---- in words -------------------------------------------------------------------------------------------------


def sentence(found: Budgets, index: int, measure: str, vectors: float) -> tuple[str, str]:
    """The verdict in two lines: what these bytes keep beside random pruning, and what they save."""
    b, kept, full = found.band(measure), found.plain.kept[index], found.units
    name, task = MEASURE_NAMES.get(measure, measure), found.judge.task
    words = kept_words(*(float(v[index]) for v in (b.ratio, b.low, b.high, b.p_value)))
    count = found.careful.values[measure].shape[1] if task is not None else len(found.judge.dataset.queries)
    judged = f"{count:,} queries" if task is not None else f"{count:,} texts"
    where = truth_words(found.judge) + (", judged outside the fit" if found.careful.outside else "")
    first = (
        f"Keep {kept:,} of {full:,} bytes a vector ({full / kept:.3g}x smaller): {words} of {name} on {judged}"
        f"{where}; random dimensions of that size: {percent(float(found.random(measure)[0][index]))}."
    )
    count_words = f"{vectors / 1e6:,.10g} M" if vectors >= 1e6 else f"{vectors:,.0f}"
    sizes = f"{gigabytes(vectors * full)} → {gigabytes(vectors * kept)}"
    return first, f"{count_words} vectors: {sizes}. Queries stay floats.{encoding_words(found.judge)}"
