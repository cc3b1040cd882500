"""Records in, plotly figures out. Titles state the finding; whatever a figure shows, a table can show.

One hue for the chosen method, grey for the others, dashes for random; blue and orange for gain and loss, and a
shape or a word beside every colour. Backgrounds are transparent: the page's theme shows through.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.maps import MapPair
from core.verdict import MEASURE_NAMES, Study, percent

CHOSEN, GREY, FLOOR, LOSS, GAIN = "#2f9e68", "rgba(128,138,132,0.55)", "#c2871a", "#d9622b", "#3b7dd8"
BAND = "rgba(47,158,104,0.18)"
TOPICS = ("#3b7dd8", "#d9622b", "#2f9e68", "#a45bc9", "#c2871a", "#1aa3a3", "#d1477f", "#7a8b2e", "#6b6fd6",
          "#b0703c", "#4c9bd1", "#8a8f98", "#c95b5b", "#3f8f5a", "#9a6fb0", "#5f7d8c")  # fmt: skip
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross")  # five beside sixteen colours: eighty pairs
SCALE = [[0.0, "#dc3a08"], [0.5, "#e3a257"], [1.0, "#94a5a0"]]  # what is lost stands out, what stays steps back
_TOOLBAR, _LINE = 34, 19  # pixels: plotly's toolbar above a title, and one line of it


def _figure(data: list[dict[str, Any]], title: str, height: int = 380, above: int = 8, **layout: Any) -> Any:
    """A figure from plain dictionaries, unchecked: validation is the slow part of a redraw, and a test does it.

    A title stands below the toolbar, and the plot `above` pixels below the title, or further where the margin says so.
    """
    import plotly.graph_objects as go

    text = _wrapped(title)
    lines = text.count("<br>") + 1
    margin = {"l": 48, "r": 12, "t": 58, "b": 44} | layout.pop("margin", {})
    if text:
        margin["t"] = max(margin["t"], _TOOLBAR + _LINE * lines + above)
    lower = _TOOLBAR + _LINE * (lines - 1) / 2  # lines stand around the place of the first one
    top = {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": lower}}
    base: dict[str, Any] = {
        "title": {"text": text, "font": {"size": 15}, "x": 0, "xanchor": "left", **top},
        "height": height,
        "margin": margin,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "hoverlabel": {"align": "left"},
    }
    return go.Figure({"data": data, "layout": base | layout}, _validate=False)


def _wrapped(title: str) -> str:
    """Lines of a title; a number and its percent sign stay together."""
    return "<br>".join(textwrap.wrap(title.replace(" %", "\u00a0%"), 46)).replace("\u00a0%", " %")


def curve_title(found: Study, measure: str, floor: float) -> str:
    """The finding: how far the chosen method goes before it crosses the floor."""
    best = found.recommended(measure, floor)
    kept, ratio = found.plain.kept[best], found.plain.ratios[best]
    name = MEASURE_NAMES.get(measure, measure)
    return f"{percent(floor, 0)} of {name} holds down to {kept:,} {found.name} (ratio {100 * ratio:.0f} %)"


def curves(
    found: Study, others: Mapping[str, Study], labels: Mapping[str, str], measure: str, index: int, floor: float,
    ceiling: NDArray[np.float64] | None = None,
) -> Any:  # fmt: skip
    """Quality kept against pruning ratio: the chosen method with its interval, the others thin, random dashed.

    ceiling (cuts,): the share of the judged documents that can still be found, where vectors go.
    """
    x = [100 * r for r in found.plain.ratios]
    b = found.band(measure)
    chance, _ = found.random(measure)
    data: list[dict[str, Any]] = [
        _line(x, s.ratio(measure), labels[n], GREY, 1.2) for n, s in others.items() if n != found.step.name
    ]
    if data:  # one entry in the legend stands for all the thin lines
        data[0] |= {"showlegend": True, "name": "other methods"}
    random = _line(x, chance, "random, mean of 5", "rgba(128,138,132,0.95)", 1.6, dash="dash")
    data.append(random | {"showlegend": True})
    if ceiling is not None:
        data.append(_line(x, ceiling, "judged documents left", GAIN, 1.6, dash="dashdot") | {"showlegend": True})
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "type": "scatter", "x": x, "showlegend": False}
    data += [edge | {"y": _pct(b.high)}, edge | {"y": _pct(b.low), "fill": "tonexty", "fillcolor": BAND}]
    data.append(_line(x, b.ratio, labels[found.step.name], CHOSEN, 3) | {"showlegend": True})
    here = {"x": [x[index]], "y": _pct(b.ratio[index : index + 1]), "type": "scatter", "mode": "markers",
            "marker": {"size": 13, "color": CHOSEN, "line": {"width": 2, "color": "white"}},
            "hoverinfo": "skip", "showlegend": False}  # fmt: skip
    data.append(here)
    mark = found.recommended(measure, floor)
    shapes = [
        {"type": "line", "x0": 0, "x1": x[-1], "y0": 100 * floor, "y1": 100 * floor,
         "line": {"color": FLOOR, "width": 1.4, "dash": "dot"}},
        {"type": "line", "x0": x[mark], "x1": x[mark], "y0": 0, "y1": 1, "yref": "paper",
         "line": {"color": FLOOR, "width": 1.4, "dash": "dot"}},
    ]  # fmt: skip
    least = 100 * float(np.nanmin(b.ratio)) if np.isfinite(b.ratio).any() else 50.0
    notes = [{"x": x[mark], "y": 1.0, "yref": "paper", "text": f"▲ meets your {100 * floor:.0f} %", "showarrow": False,
              "xanchor": "right" if x[mark] > 50 else "left", "yanchor": "bottom",
              "font": {"color": FLOOR, "size": 12}}]  # fmt: skip
    return _figure(
        data, curve_title(found, measure, floor), 440, shapes=shapes, annotations=notes,
        xaxis={"title": {"text": f"pruning ratio, % of {found.name} removed"}, "range": [0, x[-1]], "zeroline": False},
        yaxis={"title": {"text": f"% of {MEASURE_NAMES.get(measure, measure)} kept"}, "zeroline": False,
               "range": [max(0.0, min(50.0, least - 4)), 104]},
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "traceorder": "reversed"},
        showlegend=True, margin={"l": 52, "r": 12, "b": 92}, above=26,
    )  # fmt: skip


def _pct(values: NDArray[np.float64]) -> list[float | None]:
    return [round(100 * float(v), 3) if np.isfinite(v) else None for v in values]


def _line(
    x: Sequence[float], y: NDArray[np.float64], name: str, color: str, width: float, dash: str = "solid"
) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "lines", "x": list(x), "y": _pct(y), "name": name, "showlegend": False,
        "line": {"color": color, "width": width, "dash": dash},
        "hovertemplate": name + ": %{y:.1f} % kept at ratio %{x:.0f} %<extra></extra>",
    }  # fmt: skip


def meter(rows: Sequence[tuple[str, str, float]]) -> Any:
    """The honest meter: what is left of each cost, as a share of the unpruned model's. Rows: label, words, share."""
    places = list(range(len(rows)))[::-1]
    shares = [100 * r[2] for r in rows]
    grey = "rgba(128,138,132,0.5)"
    base = {"type": "bar", "orientation": "h", "y": places, "width": 0.26, "hoverinfo": "skip"}
    data = [
        base | {"x": [100.0] * len(rows), "marker": {"color": "rgba(128,138,132,0.18)"}},
        base | {"x": shares, "marker": {"color": [CHOSEN if s < 99.5 else grey for s in shares]}},
    ]
    words = [
        {
            "x": 0,
            "y": y + 0.36,
            "text": f"{label}: <b>{text}</b>",
            "showarrow": False,
            "xanchor": "left",
            "font": {"size": 13},
        }
        for (label, text, _), y in zip(rows, places, strict=True)
    ]
    return _figure(
        data, "", 44 * len(rows) + 16, barmode="overlay", annotations=words, margin={"l": 2, "r": 2, "t": 4, "b": 2},
        xaxis={"visible": False, "range": [0, max(100.0, *shares)], "fixedrange": True},
        yaxis={"visible": False, "range": [-0.35, len(rows) - 0.3], "fixedrange": True},
    )  # fmt: skip


def anatomy(parts: Sequence[tuple[str, int]], total: int) -> Any:
    """Parameters by part as one stacked bar."""
    data = [
        {"type": "bar", "orientation": "h", "y": ["parameters"], "x": [n / 1e6], "name": part,
         "marker": {"color": TOPICS[i % len(TOPICS)]}, "text": part if n > 0.07 * total else "",
         "textposition": "inside",
         "insidetextanchor": "middle", "textangle": 0,
         "hovertemplate": f"{part}: {n:,} parameters, {100 * n / max(total, 1):.1f} %<extra></extra>"}
        for i, (part, n) in enumerate(parts)
    ]  # fmt: skip
    first, count = parts[0] if parts else ("nothing", 0)
    return _figure(
        data, f"{100 * count / max(total, 1):.0f} % of {total / 1e6:.1f} M parameters: {first}", 210, barmode="stack",
        xaxis={"ticksuffix": " M"}, yaxis={"visible": False}, showlegend=True,
        legend={"orientation": "h", "y": -0.35, "x": 0, "traceorder": "normal"},
        margin={"l": 4, "r": 4, "t": 44, "b": 4},
    )  # fmt: skip


def maps(
    pair: MapPair,
    colour: NDArray[Any],
    names: Sequence[str] | None,
    title: str,
    hover: Sequence[str],
) -> Any:
    """Before and after side by side, one colour scale; only short titles travel, texts are looked up by row.

    colour: (n,) indices into `names` for topics or clusters, or, when names is None, shares in [0, 1].
    hover (n,): a title for each point. A figure that changed with the selection would lose it again.
    """
    data: list[dict[str, Any]] = []
    kept = "%{marker.color:.0%} of neighbours kept"
    for axis, points in (("", pair.before), ("2", pair.after)):
        for name, rows, marker in _groups(colour, names):
            group = _plain_text(name)
            data.append({
                "type": "scattergl", "mode": "markers", "x": points[rows, 0].tolist(), "y": points[rows, 1].tolist(),
                "xaxis": "x" + axis, "yaxis": "y" + axis, "customdata": pair.rows[rows].tolist(),
                "name": group, "text": [_short(hover[i]) for i in rows],
                "legendgroup": group, "showlegend": bool(group) and not axis, "marker": marker,
                "hovertemplate": f"%{{text}}<br>{group or kept}<extra></extra>",
                "selected": {"marker": {"opacity": 1}}, "unselected": {"marker": {"opacity": 0.25}},
            })  # fmt: skip
    hidden = {"visible": False, "zeroline": False}
    heads = [{"text": t, "x": x, "y": 1.0, "xref": "paper", "yref": "paper", "showarrow": False, "yanchor": "bottom",
              "xanchor": "left", "font": {"size": 13}} for t, x in (("before", 0.0), ("after", 0.52))]  # fmt: skip
    return _figure(
        data, title, 560, annotations=heads, showlegend=names is not None,
        dragmode="pan",  # while the lasso is the drag mode, Streamlit lets no click select
        xaxis=hidden | {"domain": [0, 0.48]}, xaxis2=hidden | {"domain": [0.52, 1]},
        yaxis=hidden | {"scaleanchor": "x"}, yaxis2=hidden | {"anchor": "x2", "scaleanchor": "x2"},
        legend={"orientation": "h", "y": -0.02, "itemsizing": "constant"}, margin={"l": 8, "r": 8, "b": 8}, above=26,
    )  # fmt: skip


def points_figure(groups: Sequence[tuple[str, NDArray[Any], Sequence[str], Mapping[str, Any]]], title: str) -> Any:
    """One map: groups of points, each a name, places (n, 2), hover texts, and its marker."""
    data = [
        {"type": "scattergl", "mode": "markers", "x": points[:, 0].tolist(), "y": points[:, 1].tolist(), "name": name,
         "text": [_short(t) for t in hover], "marker": {"opacity": 0.85, **marker},
         "hovertemplate": f"%{{text}}<br>{name}<extra></extra>"}
        for name, points, hover, marker in groups
    ]  # fmt: skip
    hidden = {"visible": False, "zeroline": False}
    return _figure(data, title, 460, showlegend=True, xaxis=hidden, yaxis=hidden | {"scaleanchor": "x"},
                   legend={"orientation": "h", "y": -0.02, "itemsizing": "constant"},
                   margin={"l": 8, "r": 8, "t": 60, "b": 8})  # fmt: skip


def _groups(colour: NDArray[Any], names: Sequence[str] | None) -> list[tuple[str, NDArray[np.int64], dict[str, Any]]]:
    if names is None:
        low = min(0.9, float(colour.min())) if len(colour) else 0.9  # what lost nothing never looks like a loss
        bar = {"title": {"text": "neighbours kept", "side": "top"}, "tickformat": ".0%", "thickness": 12, "len": 0.5,
               "orientation": "h", "x": 0, "xanchor": "left", "y": -0.02, "yanchor": "top"}  # fmt: skip
        sizes = [round(5 + 5 * (1 - float(c)) / (1 - low), 1) for c in colour]  # what lost most is larger, too
        marker = {"size": sizes, "opacity": 0.85, "color": [float(c) for c in colour], "colorscale": SCALE,
                  "cmin": low, "cmax": 1, "colorbar": bar, "line": {"width": 0}}  # fmt: skip
        return [("", np.arange(len(colour)), marker)]
    groups = []
    for i, name in enumerate(names):
        marker = {"size": 6, "opacity": 0.85, "color": TOPICS[i % len(TOPICS)], "symbol": SYMBOLS[i % len(SYMBOLS)]}
        groups.append((name, np.flatnonzero(colour == i), marker))
    return groups


def moves(before: Sequence[str], after: Sequence[str], grades: Mapping[str, int], titles: Mapping[str, str]) -> Any:
    """One query's hits before (left) and after (right), lines for the moves; relevant ones in colour, starred."""
    data: list[dict[str, Any]] = []
    places = {d: i for i, d in enumerate(after)}
    depth = max(len(before), len(after))
    for i, d in enumerate(before):
        j = places.get(d, depth + 0.6)
        data.append(_move(0, i, 1, j, grades.get(d, 0)))
    for j, d in enumerate(after):
        if d not in before:
            data.append(_move(0, depth + 0.6, 1, j, grades.get(d, 0)))
    notes = [_hit(d, i, 0, grades, titles) for i, d in enumerate(before)]
    notes += [_hit(d, j, 1, grades, titles) for j, d in enumerate(after)]
    notes += [{"x": -0.05 if s == 0 else 1.05, "y": depth + 0.6, "text": f"beyond {depth}", "showarrow": False,
               "xanchor": "right" if s == 0 else "left", "font": {"size": 12}} for s in (0, 1)]  # fmt: skip
    kept = len(set(before) & set(after))
    return _figure(
        data, f"{kept} of the first {depth} hits stay", 34 * depth + 120, annotations=notes,
        xaxis={"range": [-1.9, 2.9], "visible": False, "fixedrange": True},
        yaxis={"range": [depth + 1.2, -0.7], "visible": False, "fixedrange": True},
        margin={"l": 4, "r": 4, "t": 44, "b": 4},
    )  # fmt: skip


def _move(x0: float, y0: float, x1: float, y1: float, grade: int) -> dict[str, Any]:
    colour = CHOSEN if grade else GREY
    return {"type": "scatter", "mode": "lines", "x": [x0, x1], "y": [y0, y1], "hoverinfo": "skip",
            "line": {"color": colour, "width": 3 if grade else 1.4, "shape": "spline"}}  # fmt: skip


def _hit(d: str, place: int, side: int, grades: Mapping[str, int], titles: Mapping[str, str]) -> dict[str, Any]:
    grade = grades.get(d, 0)
    words = titles.get(d) or d
    text = f"{place + 1}. {_short(words)}" + (" ★" * min(grade, 2))
    return {"x": -0.05 if side == 0 else 1.05, "y": place, "text": text, "showarrow": False,
            "xanchor": "right" if side == 0 else "left", "font": {"size": 12, "color": CHOSEN if grade else None},
            "hovertext": _plain_text(words)}  # fmt: skip


def _short(text: str, most: int = 46) -> str:
    text = _plain_text(text)
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _plain_text(text: str) -> str:
    """Plotly reads a little HTML: a corpus must not be able to write any."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def methods_title(rows: Sequence[tuple[str, float, float, float]], measured: str, kept: str) -> str:
    """The finding that the intervals allow: who keeps most, or who is ahead within the noise. Rows as in `methods`."""
    first, *others = sorted(rows, key=lambda r: -r[1])
    best, near = first[0].split(" (")[0], [r[0].split(" (")[0] for r in others if r[3] >= first[2]]
    if others and first[1] - min(r[1] for r in others) < 5e-4:
        return f"All methods keep the same of {measured} at {kept}"
    if not np.isfinite(first[2]):
        return f"{best} is highest on {measured} at {kept}; there are no intervals"
    if not near:
        return f"{best} keeps most of {measured} at {kept}"
    beside = near[0] if len(near) == 1 else f"{len(near)} others"
    return f"{best} is ahead of {beside} on {measured} at {kept}, within the noise"


def methods(rows: Sequence[tuple[str, float, float, float]], chosen: str, title: str, baseline: float) -> Any:
    """Methods at one ratio: what each keeps with its 95 % interval, the chosen one in colour, random as a dashed line.

    Rows: label, kept, low, high.
    """
    rows = sorted(rows, key=lambda r: r[1])
    kept = [100 * r[1] for r in rows]
    data = [{
        "type": "scatter", "mode": "markers+text", "x": kept, "y": [r[0] for r in rows],
        "text": [f"{k:.1f}" for k in kept], "textposition": "top center", "textfont": {"size": 11},
        "marker": {"size": 12, "color": [CHOSEN if r[0] == chosen else "rgba(128,138,132,0.9)" for r in rows],
                   "symbol": ["diamond" if r[0] == chosen else "circle" for r in rows]},
        "error_x": {"type": "data", "symmetric": False, "array": [_gap(r[3], r[1]) for r in rows],
                    "arrayminus": [_gap(r[1], r[2]) for r in rows], "thickness": 1.4, "color": "rgba(128,138,132,0.8)"},
        "hovertemplate": "%{y}: %{x:.1f} % kept<extra></extra>",
    }]  # fmt: skip
    shapes = [{"type": "line", "x0": 100 * baseline, "x1": 100 * baseline, "y0": 0, "y1": 1, "yref": "paper",
               "line": {"dash": "dash", "width": 1.5, "color": FLOOR}}]  # fmt: skip
    return _figure(data, title, 40 * len(rows) + 110, shapes=shapes, yaxis={"automargin": True},
                   xaxis={"title": {"text": "% kept, 95 % interval"}})  # fmt: skip


def _gap(high: float, low: float) -> float:
    return 100 * (high - low) if np.isfinite(high) and np.isfinite(low) else 0.0
