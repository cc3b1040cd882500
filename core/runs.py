"""What was run, found again on disk: the finished prunings with their figures, ready to stand side by side."""

from __future__ import annotations

from typing import Any

from core import jobs, registry
from core.errors import PlanError
from core.plan import parse

_FORMS = {"onnx-int8": ", int8"}  # formats that change vectors: two runs of one plan are two cuts


def prunings(measure: str = "ndcg@10") -> list[dict[str, Any]]:
    """One row for each finished pruning on disk, the newest first; `measure` where its first data set has it."""
    rows = []
    for status in jobs.runs():
        report = jobs.result(status.id) if status.state == "done" and status.argv[:1] == ("prune",) else None
        row = None if report is None else row_of(report, measure)
        if row is not None:
            rows.append(row | {"run": status.id, "started": status.started})
    return rows


def row_of(report: dict[str, Any], measure: str) -> dict[str, Any] | None:
    """The figures of one pruning's report that a comparison shows."""
    for data, measures in report.get("retention", {}).items():
        careful = report.get("outside_fit", {}).get(data, {})
        found = careful.get(measure) or measures.get(measure)
        if found and found["ratio"] is not None:
            chance = report["random_baseline"].get(data, {}).get(measure, {})
            return {
                "label": _label(report["plan"]) + _FORMS.get((report.get("export") or {}).get("format", ""), ""),
                "model": report["before"]["model"].get("fingerprint"),
                "data": data,
                "measure": measure,
                "kept": found["ratio"],
                "low": found["low"] if found["low"] is not None else found["ratio"],
                "high": found["high"] if found["high"] is not None else found["ratio"],
                "p": found["p_value"],
                "judged": "outside the fit" if measure in careful else "",
                "random": chance.get("ratio"),
                "bytes": report["after"]["cost"]["vector_bytes"] * _left(report, data),
                "neighbours": report["drift"].get("neighbour_overlap@10"),
                "model_bytes": report["after"]["model"]["bytes"],
                "speedup": report["speedup"]["measured"],
                "encoding": 1 / (report["speedup"]["measured"] or report["speedup"]["ideal"] or 1.0),
                "path": (report.get("export") or {}).get("path"),
            }
    return None


def _left(report: dict[str, Any], data: str) -> float:
    """The share of vectors that stay: bytes are told for each vector that there was."""
    rows = report.get("vectors", {}).get(data)
    return float(rows["after"] / rows["before"]) if rows else 1.0


def _label(plan: str) -> str:
    """The plan without what stands at its default; as it was written where its words are no longer known."""
    try:
        return registry.brief(parse(plan))
    except PlanError:
        return plan
