"""Quality against costs: the Pareto figure, what beats what in its hover; and codes by their bytes per vector."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from core.pareto import AXES, Point, beaten, cost_words, finding
from core.plots import BAND, CHOSEN, FLOOR, GREY, _figure, _gap, _plain_text, _short
from core.verdict import MEASURE_NAMES, Study, gigabytes, percent


def pareto(points: Sequence[Point], axis: str, measure: str, floor: float) -> Any:
    """Quality kept against one cost of pareto.AXES: the front as a line, what is beaten in grey, random as crosses.

    Points whose cost is not known are left out; hovering over a beaten one names what beats it.
    """
    name = MEASURE_NAMES.get(measure, measure)
    shown = [p for p in points if p.known([axis])]
    by = beaten(shown, [axis])
    front = sorted((p for p, b in zip(shown, by, strict=True) if b is None), key=lambda p: (p.costs[axis], p.kept))
    grey = [(p, shown[b].label) for p, b in zip(shown, by, strict=True) if b is not None and p.kind != "random"]
    grey.sort(key=lambda row: row[0].costs[axis])
    chance = [p for p in shown if p.kind == "random" and p not in front]
    steps = _points(front, axis, "not beaten", CHOSEN, "star") | {"mode": "lines+markers+text"}
    steps |= {"line": {"shape": "hv", "color": CHOSEN, "width": 2}, "text": _names(front)}
    behind = _points([p for p, _ in grey], axis, "beaten", "rgba(128,138,132,0.75)", "circle", 9,
                     [f"<br>beaten by {_plain_text(b)}" for _, b in grey])  # fmt: skip
    behind |= {"mode": "markers+text", "text": _curves([p for p, _ in grey], {p.family for p in front})}
    data = [
        _points(chance, axis, "random pruning", "rgba(128,138,132,0.9)", "x-thin-open", 7),
        behind,
        steps,
    ]  # fmt: skip
    lowest = min((p.kept for p in shown if p.kind != "random"), default=0.5)
    line = {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": 100 * floor, "y1": 100 * floor,
            "line": {"color": FLOOR, "width": 1.4, "dash": "dot"}}  # fmt: skip
    return _figure(
        [d for d in data if d["x"]], finding(points, axis, floor, name), 440, shapes=[line], showlegend=True,
        xaxis={"title": {"text": AXES[axis]}, "zeroline": False, **_scale(shown, axis)},
        yaxis={"title": {"text": f"% of {name} kept"}, "range": [max(0.0, 100 * lowest - 6), 106], "zeroline": False},
        legend={"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top"}, margin={"l": 52, "r": 12, "t": 84, "b": 96},
    )  # fmt: skip


def _points(
    points: Sequence[Point], axis: str, name: str, colour: str, symbol: str, size: int = 12, more: Sequence[str] = ()
) -> dict[str, Any]:
    """One kind of points, with whiskers where an interval is known."""
    most = max((p.costs[axis] for p in points), default=0.0)
    words = [f"{_plain_text(p.label)}: {percent(p.kept)} kept, {cost_words(p, axis)}" for p in points]
    return {
        "type": "scatter", "mode": "markers", "name": name, "showlegend": True, "x": [p.costs[axis] for p in points],
        "y": [100 * p.kept for p in points], "marker": {"size": size, "color": colour, "symbol": symbol},
        "error_y": {"type": "data", "symmetric": False, "array": [_gap(p.high, p.kept) for p in points],
                    "arrayminus": [_gap(p.kept, p.low) for p in points], "thickness": 1, "width": 3},
        "customdata": [w + m for w, m in zip(words, more or [""] * len(words), strict=True)],
        "textposition": ["bottom left" if p.costs[axis] > 0.4 * most else "bottom right" for p in points],
        "textfont": {"size": 11}, "hovertemplate": "%{customdata}<extra></extra>",
    }  # fmt: skip


def _names(points: Sequence[Point]) -> list[str]:
    """The words beside the points of the front: a plan's own, and the name of a curve once."""
    families = [p.family for p in points]
    return ["" if p.family and p.family in families[:i] else _short(p.family or p.label, 30)
            for i, p in enumerate(points)]  # fmt: skip


def _curves(points: Sequence[Point], said: Collection[str]) -> list[str]:
    """The words beside beaten points: the name of a whole curve, once; the others are named when hovered over."""
    families = [p.family for p in points]
    return [f if f and f not in said and f not in families[:i] and families.count(f) > 2 else ""
            for i, f in enumerate(families)]  # fmt: skip


def _scale(points: Sequence[Point], axis: str) -> dict[str, Any]:
    """Bytes on a logarithmic axis, with halves of the largest as ticks; time on a plain one."""
    if axis == "encoding":
        return {"rangemode": "tozero"}
    values = [p.costs[axis] for p in points] or [1.0]
    ticks = [v for n in range(13) if (v := max(values) / 2**n) >= min(values) / 1.5]
    ticks = ticks[:: 1 + len(ticks) // 7]
    words = [gigabytes(v) if axis == "model_bytes" else f"{v:,.0f} B" for v in ticks]
    return {"type": "log", "tickvals": ticks, "ticktext": words}


def sizes(
    found: Study, others: Mapping[str, Study], labels: Mapping[str, str], measure: str, index: int, floor: float
) -> Any:
    """Quality kept against bytes per vector: the chosen code with its interval, the others in grey, random dashed."""
    name, full = MEASURE_NAMES.get(measure, measure), found.units
    x, b, (chance, _) = list(found.plain.kept), found.band(measure), found.random(measure)
    data = []
    for other, s in others.items():
        if other != found.step.name:
            data.append(_size_line(list(s.plain.kept)[1:], s.ratio(measure)[1:], labels[other], GREY, 1.2) | {
                "mode": "lines+markers" if len(s.plain.kept) > 2 else "markers+text", "text": [labels[other]],
                "textposition": "bottom center", "textfont": {"size": 11}})  # fmt: skip
    data.append(_size_line(x, chance, "random dimensions, mean of 5", "rgba(128,138,132,0.95)", 1.6, "dash"))
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "type": "scatter", "x": x, "showlegend": False}
    data += [edge | {"y": [100 * v for v in b.high]},
             edge | {"y": [100 * v for v in b.low], "fill": "tonexty", "fillcolor": BAND}]  # fmt: skip
    data.append(_size_line(x, b.ratio, labels[found.step.name], CHOSEN, 3) | {"mode": "lines+markers"})
    data.append({"x": [x[index]], "y": [100 * float(b.ratio[index])], "type": "scatter", "mode": "markers",
                 "marker": {"size": 14, "color": CHOSEN, "line": {"width": 2, "color": "white"}},
                 "hoverinfo": "skip", "showlegend": False})  # fmt: skip
    for line in data:
        line.setdefault("showlegend", line.get("name") in ("random dimensions, mean of 5", labels[found.step.name]))
    shapes = [{"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": 100 * floor, "y1": 100 * floor,
               "line": {"color": FLOOR, "width": 1.4, "dash": "dot"}}]  # fmt: skip
    lowest = min([float(np.nanmin(b.ratio)), *(float(np.nanmin(s.ratio(measure))) for s in others.values())])
    ticks = [full >> n for n in range(9) if full >> n >= 0.9 * min(x)]
    return _figure(
        data, size_title(found, measure, floor), 400, shapes=shapes, showlegend=True,
        xaxis={"title": {"text": "bytes per vector"}, "type": "log", "tickvals": ticks,
               "ticktext": [f"{t:,} B" for t in ticks], "zeroline": False},
        yaxis={"title": {"text": f"% of {name} kept"}, "range": [max(0.0, 100 * lowest - 8), 104], "zeroline": False},
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"}, margin={"l": 52, "r": 12, "t": 64, "b": 88},
    )  # fmt: skip


def size_title(found: Study, measure: str, floor: float) -> str:
    """The finding: how few bytes keep the floor."""
    best, name = found.recommended(measure, floor), MEASURE_NAMES.get(measure, measure)
    if best < 1:
        return f"No size shown keeps {percent(floor, 0)} of {name}"
    kept = found.plain.kept[best]
    return f"{percent(floor, 0)} of {name} holds down to {kept:,} bytes a vector ({found.units / kept:.3g}x smaller)"


def _size_line(x: Sequence[int], y: Any, name: str, colour: str, width: float, dash: str = "solid") -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "x": list(x), "y": [100 * float(v) for v in y], "name": name,
        "line": {"color": colour, "width": width, "dash": dash}, "marker": {"size": 7, "color": colour},
        "hovertemplate": name + ": %{y:.1f} % kept at %{x:,} B<extra></extra>",
    }  # fmt: skip
