"""Records -> the JSON that scripts rely on (the headless contract). Keys may be added, never renamed or dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from core.bench import Bench, Judge
from core.compare import Slice, length_bands, slices
from core.encoders import ModelInfo
from core.evaluate import cost
from core.evaluate.drift import Drift
from core.judging import figures
from core.pipeline import Cutting
from core.sweeps import Curve
from core.types import Measurement, Reduction


def plain(value: Any) -> Any:
    """The same value with NaN and infinities as null: "not defined", never NaN in a report."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.item() if hasattr(value, "item") else value


def data_block(judges: Sequence[Judge]) -> list[dict[str, Any]]:
    out = []
    for j in judges:
        judged = len(j.dataset.queries) if j.task is None else len(j.task)
        out.append({
            "name": j.name, "kind": j.dataset.kind, "split": j.dataset.split, "truth": j.dataset.truth,
            "documents": len(j.dataset.documents), "queries": judged, "notes": list(j.dataset.notes),
        })  # fmt: skip
    return out


def quality_block(measurements: Sequence[Measurement]) -> dict[str, dict[str, float]]:
    return {m.name: figures(m) for m in measurements}


def cost_block(model: ModelInfo, dimension: int, timing: dict[str, Any] | None, search: float) -> dict[str, Any]:
    return {
        "vector_bytes": cost.vector_bytes(dimension),
        "search_ms_per_query": search,
        **cost.encode_cost(model, timing),
    }


def evaluation(
    bench: Bench, before: Sequence[Measurement], timing: dict[str, Any] | None, seconds: float
) -> dict[str, Any]:
    """The answer of `evaluate`."""
    first = bench.judges[0]
    search = cost.search_ms(first.queries.vectors, first.documents.vectors)
    return {
        "model": bench.model.as_json(),
        "data": data_block(bench.judges),
        "quality": quality_block(before),
        "cost": cost_block(bench.model, bench.model.dimension, timing, search),
        "seconds": seconds,
    }


def pruned_model(model: ModelInfo, reduction: Reduction) -> dict[str, Any]:
    """The model block after a dimension cut, before it is written: the projection's parameters come on top."""
    extra = 0 if reduction.identity else reduction.matrix.size + (reduction.size if reduction.mean is not None else 0)
    return model.as_json() | {
        "dimension": reduction.size,
        "parameters": model.parameters + extra,
        "bytes": model.bytes + 4 * extra,
        "parts": dict(model.parts) | ({"projection": dict(model.parts).get("projection", 0) + extra} if extra else {}),
    }


def pruning(bench: Bench, cut: Cutting, seed: int) -> dict[str, Any]:
    """The answer of `prune` but for timing and export, which are added when they were measured."""
    first, reduction = bench.judges[0], cut.reduction
    from core.judging import reduced

    documents, queries = reduced(first, reduction)
    searches = (cost.search_ms(first.queries.vectors, first.documents.vectors), cost.search_ms(queries, documents))
    model = bench.model
    return {
        "plan": str(cut.plan),
        "resolved_plan": str(cut.resolved),
        "seed": seed,
        "data": data_block(bench.judges),
        "fit_on": list(bench.fit_names),
        "fit_documents": len(bench.fit),
        "before": {
            "model": model.as_json(),
            "quality": quality_block(cut.before),
            "cost": cost_block(model, model.dimension, None, searches[0]),
        },
        "after": {
            "model": pruned_model(model, reduction),
            "quality": quality_block(cut.after),
            "cost": cost_block(model, reduction.size, None, searches[1]),
        },
        "retention": {d: {m: r.as_json() for m, r in ms.items()} for d, ms in cut.retention.items()},
        "random_baseline": _pairs(cut.random),
        "outside_fit": {d: {m: r.as_json() for m, r in ms.items()} for d, ms in cut.outside.items()},
        "seed_spread": _pairs(cut.spread),
        "two_stage": cut.two_stage,
        "drift": _drift(cut.drift),
        "slices": {j.name: [s.__dict__ for s in sliced(bench.judges[i], cut.before[i], cut.after[i])[:12]]
                   for i, j in enumerate(bench.judges)},
        "speedup": {"measured": None, "ideal": 1.0, "flops_ratio": 1.0},
        "rounded": [],
        "notes": list(cut.notes),
        "export": None,
    }  # fmt: skip


def _drift(found: Drift) -> dict[str, float]:
    """`neighbour_overlap@10` always stands there; with fewer neighbours the key of the true k stands beside it."""
    return {"neighbour_overlap@10": found.summary[f"neighbour_overlap@{found.k}"], **found.summary}


def _pairs(found: Mapping[str, Mapping[str, tuple[float, float]]]) -> dict[str, Any]:
    return {d: {m: {"ratio": a, "std": s, "draws": 5} for m, (a, s) in ms.items()} for d, ms in found.items()}


def add_timing(report: dict[str, Any], model: ModelInfo, timing: Mapping[str, Any]) -> None:
    """Fill in what the fresh process measured, dense and pruned in alternation."""
    for side, name in (("before", "source"), ("after", "pruned")):
        shared = {k: timing[k] for k in ("peak_bytes", "mean_tokens")}
        report[side]["cost"] |= cost.encode_cost(model, dict(timing["models"][name]) | shared)
    report["speedup"]["measured"] = timing.get("speedup")


def sliced(judge: Judge, before: Measurement, after: Measurement, measure: str | None = None) -> list[Slice]:
    """The main measure by topic or label, and by the length of query and relevant document; worst first."""
    name = measure or judge.main
    if name not in before.values:
        return []
    one, two = before.values[name], after.values[name]
    asked = judge.query_texts
    if len(one) != len(asked):
        return []  # one figure for all of them (Spearman over pairs): nothing to slice
    out = []
    topics = asked.labels or _topics(judge)
    if topics:
        out += slices("topic", topics, one, two)
    out += slices("query length", length_bands([len(t.split()) for t in asked.texts]), one, two)
    if judge.task is not None:
        first = judge.task.columns[judge.task.judged[judge.task.pointer[:-1]]]
        lengths = [len(judge.dataset.documents.texts[int(i)].split()) for i in first]
        out += slices("document length", length_bands(lengths), one, two)
    return sorted(out, key=lambda s: (math.isnan(s.ratio), s.ratio))


def _topics(judge: Judge) -> tuple[str, ...]:
    """The topic of each judged query's first relevant document, where documents have topics."""
    labels = judge.dataset.documents.labels
    if not labels or judge.task is None:
        return ()
    return tuple(labels[int(judge.task.columns[judge.task.judged[p]])] for p in judge.task.pointer[:-1])


def sweep(
    curves: Sequence[Curve],
    chance: Mapping[str, Sequence[Curve]],
    outside: Sequence[Curve],
    moved: Sequence[Drift],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The answer of `sweep`: one point a ratio, with every data set's figures, random pruning's and the drift."""
    points = []
    for i, (ratio, kept) in enumerate(zip(curves[0].ratios, curves[0].kept, strict=True)):
        draws = {
            c.judge: {m: sum(float(d.means(m)[i]) for d in chance[c.judge]) / len(chance[c.judge]) for m in c.values}
            for c in curves
            if chance.get(c.judge)
        }
        points.append({
            "ratio": ratio,
            "kept": kept,
            "quality": {c.judge: {m: float(c.means(m)[i]) for m in c.values} for c in curves},
            "random": draws,
            "outside_fit": {c.judge: {m: float(c.means(m)[i]) for m in c.values} for c in outside},
            "drift": _drift(moved[i]),
            "vector_bytes": cost.vector_bytes(kept),
        })  # fmt: skip
    return {"method": curves[0].method, "points": points, "seconds": seconds}
