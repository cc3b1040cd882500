"""How vectors are stored: fit a code behind a dimension cut, and judge float queries against decoded documents.

fitted(bench, reduction, step)     a codebook for the bench's documents after their dimension cut
stored(judge, reduction, codes)    what is compared: decoded documents, float queries
budgets(judge, context, steps)     one code method at many sizes, as a curve over bytes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import registry
from core.bench import Bench, Judge
from core.codes import compiled, reader
from core.compare import RANDOM_DRAWS, Retention, retention
from core.errors import InputError
from core.evaluate import cost
from core.evaluate.cost import vector_bytes
from core.judging import measure, reduced
from core.methods.base import CodeMethod
from core.plan import Step
from core.select import apply
from core.sweeps import Curve, outside
from core.types import Codes, FitContext, Floats, Measurement, Progress, Reduction, quiet

SIZES = (4, 8, 12, 16, 20, 32, 48)  # times smaller than float32: the points of a curve over bytes


def built(step: Step) -> CodeMethod:
    """The configured code method of a step."""
    method = registry.build(step)
    assert isinstance(method, CodeMethod)
    return method


def planned_bytes(step: Step | None, dimension: int) -> int:
    """Bytes a vector of so many dimensions takes as the step stores it; float32 without one. Raises PlanError."""
    return vector_bytes(dimension) if step is None else built(step).size(dimension, step.cut)


def fitted(bench: Bench, reduction: Reduction, step: Step, progress: Progress = quiet) -> Codes:
    """The step's codebook for vectors behind a dimension cut, fitted on the documents methods learn from."""
    context = bench.context(registry.card(step.name), progress)
    return built(step).fit(behind(context, reduction), step.cut)


def behind(context: FitContext, reduction: Reduction) -> FitContext:
    """The context as it looks after a dimension cut; the prior over general text stays in the full space."""
    if reduction.identity:
        return context
    return replace(
        context, documents=apply(reduction, context.documents), metric=reduction.metric, prior=None,
        pseudo_queries=np.zeros((0, reduction.size), np.float32), owners=np.zeros(0, np.int64), pairs=None,
    )  # fmt: skip


def stored(judge: Judge, reduction: Reduction, codes: Codes | None) -> tuple[Floats, Floats]:
    """The judge's documents as they come back from storage, and its queries in float (a classifier's: stored too)."""
    documents, queries = reduced(judge, reduction)
    if codes is None:
        return documents, queries
    kept = codes.decode(codes.encode(documents))
    return kept, codes.decode(codes.encode(queries)) if judge.dataset.kind == "labels" else queries


def judged(judge: Judge, reduction: Reduction, codes: Codes | None) -> Measurement:
    """Quality on a data set: float query against decoded document."""
    return measure(judge, *stored(judge, reduction, codes), reduction.metric)


def code_search_ms(codes: Codes, queries: Floats, documents: Floats, k: int = 10) -> float:
    """Milliseconds per query of an exact search over the codes themselves; lengths are known, as in an index."""
    book, kept, asked = codes.arrays(), codes.encode(documents), queries[:64]
    if not len(asked) or not len(kept):
        return float("nan")
    norms = reader.lengths(kept, book, compiled.numbers)
    return cost.timed_ms(lambda: reader.search(kept, book, asked, k, norms, compiled.numbers), len(asked))


def drawn(step: Step, reduction: Reduction) -> list[Step | int]:
    """What a code is held against: components by chance with the same bytes, or a size of random float32 axes."""
    if step.target == "components":
        rest = tuple((k, v) for k, v in step.options if k != "seed")
        return [Step("components/random", (*rest, ("seed", s))) for s in range(RANDOM_DRAWS)]
    return [max(1, planned_bytes(step, reduction.size) // 4)] * RANDOM_DRAWS


def codes_at(context: FitContext, step: Step | None) -> Codes | None:
    """The step's codebook for a context as it is; None for float32."""
    return None if step is None else built(step).fit(context, step.cut)


def at_sizes(step: Step, dimension: int, ratios: Sequence[float] | None = None) -> list[Step]:
    """The step at the sizes of a curve: `ratios` of bytes removed, else SIZES. Raises InputError for none it can have.

    Methods of one size give one point, and components are cut by ratio.
    """
    full, known = vector_bytes(dimension), registry.find(step.name).__dataclass_fields__
    if step.target == "components":
        return [step.with_cut(ratio=r) for r in ratios or [i / 8 for i in range(1, 8)]]
    if "bytes" not in known:
        return [step]
    asked = [full / s for s in SIZES] if ratios is None else [full * (1 - r) for r in ratios]
    sizes = [max(1, int(b + 0.5)) for b in asked]
    if max(sizes) > dimension:
        raise InputError(
            f"{step.name} stores one byte a dimension at most: write ratios of {1 - dimension / full:g} and more"
        )
    rest = tuple((k, v) for k, v in step.options if k != "bytes")
    return [Step(step.name, (("bytes", b), *rest)) for b in dict.fromkeys(sizes)]


def budgets(
    judge: Judge, context: FitContext, steps: Sequence[Step | None], only: NDArray[Any] | None = None,
    progress: Progress = quiet,
) -> Curve:  # fmt: skip
    """One code method at several sizes on one data set; `kept` are bytes a vector, `ratios` the share removed.

    A step that is None stands for float32: the unpruned model.
    """
    d, found, sizes = context.dimension, [], []
    asked = judge if only is None or judge.task is None else replace(judge, task=judge.task.only(only))
    whole = Reduction("none", d, np.arange(d), metric=context.metric, identity=True)
    notes: tuple[str, ...] = ()
    for n, step in enumerate(steps):
        progress("encoding and judging", n, len(steps))
        codes = codes_at(context, step)
        got = judged(asked, whole, codes)
        own = dict(got.values) | {m: np.array([v]) for m, v in got.extra.items()}
        found.append({m: v for m, v in own.items() if m != "score"})
        sizes.append(vector_bytes(d) if codes is None else codes.bytes)
        notes = codes.notes if codes else notes
    values = {m: np.stack([f[m] for f in found]) for m in found[0]}
    ratios = tuple(1 - b / vector_bytes(d) for b in sizes)
    name = next((s.name for s in steps if s), "none")
    return Curve(name, judge.name, ratios, tuple(sizes), values, notes=notes)


def outside_budgets(
    bench: Bench, judge: Judge, steps: Sequence[Step | None], progress: Progress = quiet
) -> Curve | None:
    """The same, each query judged by a codebook that never saw its relevant documents; None where it is not needed."""
    first = next(s for s in steps if s)
    return outside(bench, judge, first, lambda context, mine: budgets(judge, context, steps, mine), progress)


def kept_outside(
    bench: Bench, step: Step, before: Sequence[Measurement], seed: int, progress: Progress = quiet
) -> dict[str, dict[str, Retention]]:
    """What one code keeps outside its fit, by data set and measure; empty where there are documents enough."""
    out = {}
    for judge, one in zip(bench.judges, before, strict=True):
        curve = outside_budgets(bench, judge, [step], progress)
        if curve is not None:
            out[judge.name] = {m: retention(one.values[m], v[0], seed) for m, v in curve.values.items()}
    return out
