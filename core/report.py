"""Records -> the JSON that scripts rely on (the headless contract). Keys may be added, never renamed or dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.anatomy import Shape, shape_of
from core.bench import Bench, Judge
from core.compare import RANDOM_DRAWS, Slice, length_bands, slices
from core.derive import Derived
from core.encoders import ModelInfo
from core.evaluate import cost
from core.evaluate.drift import Drift
from core.judging import figures, reduced
from core.pipeline import Cutting
from core.plan import Step
from core.storing import code_search_ms
from core.sweeps import Curve
from core.thinning import ceiling
from core.types import Codes, Measurement, Reduction, Rows


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
            "fingerprint": j.dataset.fingerprint,
        })  # fmt: skip
    return out


def quality_block(measurements: Sequence[Measurement]) -> dict[str, dict[str, float]]:
    return {m.name: figures(m) for m in measurements}


def cost_block(
    shape: Shape, dimension: int, timing: dict[str, Any] | None, search: float, codes: Codes | None = None
) -> dict[str, Any]:
    return {
        **stored_block(dimension, codes),
        "search_ms_per_query": search,
        **cost.encode_cost(shape, timing),
    }


def stored_block(dimension: int, codes: Codes | None) -> dict[str, int]:
    """Bytes of each vector, and where they are codes, of what is stored once for all of them."""
    if codes is None:
        return {"vector_bytes": cost.vector_bytes(dimension)}
    return {"vector_bytes": codes.bytes, "codebook_bytes": codes.codebook_bytes}


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
        "cost": cost_block(shape_of(bench.model), bench.model.dimension, timing, search),
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
    documents, queries = reduced(cut.left[0], reduction)
    if cut.rows:  # what is stored: each survivor once, whatever stands behind it
        documents = documents[np.searchsorted(cut.left[0].held(cut.rows[0]), cut.rows[0].kept)]
    own = cost.search_ms(queries, documents) if cut.codes is None else code_search_ms(cut.codes, queries, documents)
    searches = (cost.search_ms(first.queries.vectors, first.documents.vectors), own)
    model, dense = bench.model, shape_of(bench.model)
    small = cut.derived.shape if cut.derived else dense
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
            "cost": cost_block(dense, model.dimension, None, searches[0]),
        },
        "after": {
            "model": pruned_model(cut.pruned.model, reduction) | shape_block(cut.derived),
            "quality": quality_block(cut.after),
            "cost": cost_block(small, reduction.size, None, searches[1], cut.codes),
        },
        "retention": {d: {m: r.as_json() for m, r in ms.items()} for d, ms in cut.retention.items()},
        "random_baseline": _pairs(cut.random, cut.draws),
        "outside_fit": {d: {m: r.as_json() for m, r in ms.items()} for d, ms in cut.outside.items()},
        "seed_spread": _pairs(cut.spread),
        "two_stage": cut.two_stage,
        "drift": _drift(cut.drift),
        "slices": {j.name: [s.__dict__ for s in sliced(bench.judges[i], cut.before[i], cut.after[i])[:12]]
                   for i, j in enumerate(bench.judges)},
        "speedup": _speedup(dense, small, cost.LENGTH),
        "vectors": _rows(cut),
        "rounded": list(cut.derived.rounded) if cut.derived else [],
        "encoder": _encoder(cut.derived),
        "notes": list(cut.notes),
        "export": None,
    }  # fmt: skip


def _rows(cut: Cutting) -> dict[str, Any]:
    """What a cut of whole vectors left of each index, and what it put out of reach; {} where none was cut."""
    out: dict[str, Any] = {}
    for judge, rows in zip(cut.pruned.judges, cut.rows, strict=False):
        if judge.dataset.kind == "pairs":
            continue
        after = cost.vector_bytes(cut.reduction.size) if cut.codes is None else cut.codes.bytes
        n, top = len(rows.stands), ceiling(judge, rows)
        out[judge.name] = {
            "before": n, "after": len(rows), "served": len(rows.served), "folded": len(rows.served) - len(rows),
            "bytes_before": n * cost.vector_bytes(cut.pruned.model.dimension), "bytes_after": len(rows) * after,
            "ceiling": None if top is None else top.__dict__, "survivors_alone": cut.alone.get(judge.name, {}),
            "topics": topics_left(judge, rows)[:12],
        }  # fmt: skip
    return out


def topics_left(judge: Judge, rows: Rows) -> list[dict[str, Any]]:
    """Each topic's share of rows that can still be found, worst first; [] where documents have no topics."""
    labels = np.array(judge.dataset.documents.labels)
    found = []
    for topic in np.unique(labels):
        mine = rows.stands[labels == topic]
        found.append({"topic": str(topic), "rows": len(mine), "left": float((mine >= 0).mean())})
    return sorted(found, key=lambda t: (t["left"], t["topic"]))


def _drift(found: Drift) -> dict[str, float]:
    """`neighbour_overlap@10` always stands there; with fewer neighbours the key of the true k stands beside it."""
    return {"neighbour_overlap@10": found.summary[f"neighbour_overlap@{found.k}"], **found.summary}


def _pairs(found: Mapping[str, Mapping[str, tuple[float, float]]], draws: int = RANDOM_DRAWS) -> dict[str, Any]:
    return {d: {m: {"ratio": a, "std": s, "draws": draws} for m, (a, s) in ms.items()} for d, ms in found.items()}


def shape_block(derived: Derived | None) -> dict[str, Any]:
    """What the model block says of a cut encoder beyond the source's: its real shape, not the padded one."""
    if derived is None:
        return {}
    shape = derived.shape
    return {"heads_per_layer": list(shape.heads), "neurons_per_layer": list(shape.inner)}


def _encoder(derived: Derived | None) -> dict[str, Any] | None:
    """Whether stock sentence-transformers can load the cut encoder at its real shape, and what was found on the way."""
    return None if derived is None else {"plain_reload": derived.plain, "why": derived.why, **derived.facts}


def _speedup(dense: Shape, small: Shape, length: float) -> dict[str, Any]:
    one, two = dense.flops_per_token(length), small.flops_per_token(length)
    share = two / one if one else 1.0
    return {"measured": None, "ideal": 1 / share if share else 1.0, "flops_ratio": share, "mean_tokens": length}


def add_timing(report: dict[str, Any], shapes: tuple[Shape, Shape], timing: Mapping[str, Any]) -> None:
    """Fill in what the fresh process measured, dense and pruned in alternation, beside the ideal at those lengths."""
    shared = {k: timing[k] for k in ("peak_bytes", "mean_tokens")}
    for side, shape, name in zip(("before", "after"), shapes, ("dense", "pruned"), strict=True):
        report[side]["cost"] |= cost.encode_cost(shape, dict(timing["models"][name]) | shared)
    report["speedup"] = _speedup(*shapes, timing["mean_tokens"]) | {
        "measured": timing.get("speedup"), "measured_batch1": timing.get("speedup_batch1"),
        "engine": timing.get("engine", "torch"),
    }  # fmt: skip


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
    if judge.dataset.documents.bare:
        return sorted(out, key=lambda s: (math.isnan(s.ratio), s.ratio))
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


def code_point(cut: Cutting) -> dict[str, Any]:
    """One size of a code's curve; `ratio` is the share of bytes removed, `kept` the bytes of a vector."""
    assert cut.codes is not None
    before, dimension = quality_block(cut.before), cut.source.dimension
    return {
        "ratio": 1 - cut.codes.bytes / cost.vector_bytes(dimension),
        "kept": cut.codes.bytes,
        "plan": str(cut.plan),
        "quality": quality_block(cut.after),
        "random": {d: {m: before[d][m] * a for m, (a, _) in ms.items()} for d, ms in cut.random.items()},
        "outside_fit": {d: {m: r.after for m, r in ms.items()} for d, ms in cut.outside.items()},
        "retention": {d: {m: r.as_json() for m, r in ms.items()} for d, ms in cut.retention.items()},
        "drift": _drift(cut.drift),
        **stored_block(dimension, cut.codes),
    }


def encoder_point(cut: Cutting, ratio: float) -> dict[str, Any]:
    """One ratio of an encoder method's curve; `kept` counts units of the first layer, or of the whole."""
    before = quality_block(cut.before)
    step = next(s for s in cut.resolved.steps if isinstance(s, Step))
    return {
        "ratio": ratio,
        "kept": _kept(cut, step.target),
        "quality": quality_block(cut.after),
        "random": {d: {m: before[d][m] * a for m, (a, _) in ms.items()} for d, ms in cut.random.items()},
        "retention": {d: {m: r.as_json() for m, r in ms.items()} for d, ms in cut.retention.items()},
        "drift": _drift(cut.drift),
        "vector_bytes": cost.vector_bytes(cut.reduction.size),
        "parameters": cut.pruned.model.parameters,
        "vectors": _rows(cut),
        "rounded": list(cut.derived.rounded) if cut.derived else [],
        "speedup": _speedup(shape_of(cut.source), cut.derived.shape, cost.LENGTH) if cut.derived else None,
    }


def _kept(cut: Cutting, target: str) -> int:
    shape = cut.derived.shape if cut.derived else shape_of(cut.pruned.model)
    counts = {"neurons": shape.inner[:1], "heads": shape.heads[:1], "layers": (len(shape.heads),),
              "width": (shape.width,), "tokens": (shape.vocabulary,)}  # fmt: skip
    return next(iter(counts.get(target, ())), shape.parameters)
