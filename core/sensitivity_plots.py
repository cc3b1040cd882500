"""Sensitivity as figures: a heat map of layers and units, and what is kept as layers are cut further.

sensitivity_map(answer), sensitivity_layers(answer)      from the answer of `sensitivity`; both are re-read as tables
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.plots import CHOSEN, FLOOR, GAIN, GREY, LOSS, _figure, _line, _plain_text
from core.verdict import MEASURE_NAMES

_COLUMNS = 192  # cells in a row: more units are averaged in groups, so that a figure stays small
_WRITTEN = 16  # cells in a row up to which each carries its number
_DECADES = 3  # importance is shown by its logarithm, down to this far below the largest
Json = dict[str, Any]


def sensitivity_map(answer: Json) -> Any:
    """Layer x unit: what is lost without each unit where that was measured, else how important it is.

    More than a few units are sorted within their layer by importance, so that the picture reads from left to right.
    """
    measured = any(u["quality_drop"] is not None for u in answer["units"])
    rows = _rows(answer, "quality_drop" if measured else "importance")
    names, wide = list(rows), max(len(r) for r in rows.values())
    ordered = not measured and wide > _WRITTEN
    values = [_in_order([u[1] for u in rows[n]]) if ordered else np.array([u[1] for u in rows[n]]) for n in names]
    shown = _percents(values) if measured else _decades(values)
    columns = max(len(r) for r in shown)
    table = [_cells(r, columns) for r in shown]
    words = "% lost" if measured else "log10 importance"
    heat = {
        "type": "heatmap", "z": table, "y": names, "x": _column_names(answer, rows, columns, ordered),
        "xgap": 1 if columns <= 64 else 0, "ygap": 2, "hoverongaps": False,
        "hovertemplate": f"%{{y}}, %{{x}}: %{{z:.2f}} {words}<extra></extra>",
        "colorbar": {"title": {"text": words}, "thickness": 12, "len": 1.0 if len(names) > 2 else 1.8},
        **_colours(table, measured),
    }  # fmt: skip
    if columns <= _WRITTEN:
        heat |= {"texttemplate": "%{z:.1f}", "textfont": {"size": 11}}
    axis = f"{answer['target']}, most important first" if ordered else answer["target"]
    if ordered and wide > columns:
        axis += f", groups of about {round(wide / columns)}"
    return _figure(
        [heat], _map_title(answer, rows, measured), 34 * len(names) + 170,
        xaxis={"title": {"text": axis}, "type": "category", "nticks": 12 if ordered else None,
               "showticklabels": columns <= 64, "zeroline": False},
        yaxis={"autorange": "reversed", "automargin": True, "type": "category"},
        margin={"l": 60, "r": 12, "t": 78, "b": 56},
    )  # fmt: skip


def sensitivity_layers(answer: Json) -> Any:
    """Quality kept against pruning ratio: each layer cut alone, and the whole cut with its reconstruction."""
    lines: dict[int, list[tuple[float, float]]] = {}
    for row in answer["layers"]:
        if row["layer"] is not None and row["kept"] and row["quality_kept"] is not None:
            lines.setdefault(row["layer"], [(0.0, 1.0)]).append((row["ratio"], row["quality_kept"]))
    worst = min(lines, key=lambda n: lines[n][-1][1], default=None)
    data = []
    for layer, points in lines.items():
        name, colour = f"layer {layer + 1} alone", LOSS if layer == worst else GREY
        data.append(_path(points, name, colour, 2.0 if layer == worst else 1.2))
        data[-1] |= {"showlegend": layer == worst}
    other = next((i for i, n in enumerate(lines) if n != worst), None)
    if other is not None:
        data[other] |= {"showlegend": True, "name": "each other layer alone"}
    curve = [(0.0, 1.0), *((p["removed"], p["quality_kept"]) for p in answer["curve"] if p["quality_kept"] is not None)]
    curve = sorted(dict(curve).items())
    data.append(_path(curve, "the whole encoder", CHOSEN, 3) | {"showlegend": True, "mode": "lines+markers"})
    best = answer["recommended"]
    floor, mark = 100 * best["keep_quality"], 100 * best["ratio"]
    dots = {"color": FLOOR, "width": 1.4, "dash": "dot"}
    shapes = [
        {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": floor, "y1": floor, "line": dots},
        {"type": "line", "x0": mark, "x1": mark, "y0": 0, "y1": 1, "yref": "paper", "line": dots},
    ]
    low = min([y for points in (curve, *lines.values()) for _, y in points])
    return _figure(
        data, _layers_title(answer, lines, worst), 400, shapes=shapes, showlegend=True,
        xaxis={"title": {"text": f"pruning ratio, % of {answer['target']} removed"}, "range": [0, 100],
               "zeroline": False},
        yaxis={"title": {"text": f"% of {_measure(answer)} kept"}, "range": [max(0.0, 100 * low - 5), 104],
               "zeroline": False},
        legend={"orientation": "h", "x": 0.02, "y": 0.04, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
        margin={"l": 52, "r": 12, "t": 84, "b": 48},
    )  # fmt: skip


def _measure(answer: Json) -> str:
    return MEASURE_NAMES.get(answer["measure"], str(answer["measure"]))


def _rows(answer: Json, key: str) -> dict[str, list[tuple[str, float]]]:
    """Row name -> (unit's name, value); layers themselves stand in one row, and so do units of the whole encoder."""
    rows: dict[str, list[tuple[str, float]]] = {}
    for u in answer["units"]:
        value = np.nan if u[key] is None else float(u[key])
        if answer["target"] == "layers":
            rows.setdefault("encoder", []).append((f"layer {u['layer'] + 1}", value))
        else:
            place = "encoder" if u["layer"] is None else f"layer {u['layer'] + 1}"
            rows.setdefault(place, []).append((u["name"] or str(u["unit"] + 1), value))
    return rows


def _in_order(values: list[float]) -> NDArray[np.float64]:
    """From large to small, in at most _COLUMNS means of groups."""
    found = np.sort(np.nan_to_num(np.array(values, np.float64), nan=-np.inf))[::-1]
    found = found[np.isfinite(found)]
    return np.array([part.mean() for part in np.array_split(found, min(_COLUMNS, len(found)))])


def _cells(row: NDArray[np.float64], columns: int) -> list[float | None]:
    found = [round(float(v), 3) if np.isfinite(v) else None for v in row]
    return found + [None] * (columns - len(found))


def _percents(values: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    return [100 * v for v in values]


def _decades(values: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """log10 of each share of the largest; what is zero or less stands at the lower end."""
    top = max((float(np.nanmax(v)) for v in values if np.isfinite(v).any()), default=1.0)
    return [np.log10(np.clip(v / top if top > 0 else v, 10.0**-_DECADES, None)) for v in values]


def _colours(table: list[list[float | None]], measured: bool) -> Json:
    """Loss orange, gain blue, nothing at zero; importance from pale to green."""
    if not measured:
        return {"colorscale": [[0.0, "#eef3ef"], [1.0, CHOSEN]], "zmin": -_DECADES, "zmax": 0}
    far = max((abs(z) for row in table for z in row if z is not None), default=0.0) or 1.0
    return {"colorscale": [[0.0, GAIN], [0.5, "#f4f4f2"], [1.0, LOSS]], "zmin": -far, "zmax": far}


def _column_names(answer: Json, rows: dict[str, list[tuple[str, float]]], columns: int, ordered: bool) -> list[str]:
    first = max(rows.values(), key=len)
    if ordered:
        return [f"{100 * i / columns:.0f} % in front" for i in range(columns)] if columns > 64 else [
            f"place {i + 1}" for i in range(columns)
        ]  # fmt: skip
    unit = answer["target"].removesuffix("s")
    numbered = len(first) > _WRITTEN // 2 and not answer["quantiles"]
    return [name if numbered or not name.isdigit() else f"{unit} {name}" for name in (_plain_text(n) for n, _ in first)]


def _map_title(answer: Json, rows: dict[str, list[tuple[str, float]]], measured: bool) -> str:
    """The finding in words."""
    cells = [(value, place, name) for place, row in rows.items() for name, value in row if np.isfinite(value)]
    if not cells:
        return f"No importance is defined for {answer['target']}"
    if measured:
        value, place, name = max(cells)
        unit = name if answer["target"] == "layers" else f"{place}, head {name}"
        if value <= 0:
            return f"No single one of the {answer['target']} is missed on this sample"
        return f"{unit.capitalize()} is missed most: without it {100 * value:.1f} % of {_measure(answer)} is lost"
    if answer["target"] == "weights":
        _, place, name = max(cells)
        return f"The most important weights, on average, are in {place}: {_plain_text(name)}"
    if answer["quantiles"]:
        _, _, name = max(cells)
        half = f"{answer['quantiles']['0.5']:.2g}"
        return f"{_plain_text(name)} is the most important row; half of the {answer['whole']:,} score {half} or less"
    share, place = max((_quarter([v for _, v in row]), place) for place, row in rows.items())
    where = "A quarter of the" if place == "encoder" else f"In {place} a quarter of the"
    return f"{where} {answer['target']} carries {100 * share:.0f} % of the importance"


def _quarter(values: list[float]) -> float:
    """The share of the largest quarter in the sum."""
    found = np.sort(np.clip(np.array([v for v in values if np.isfinite(v)]), 0, None))[::-1]
    total = float(found.sum())
    return float(found[: max(1, round(len(found) / 4))].sum()) / total if total > 0 else 0.25


def _path(points: list[tuple[float, float]], name: str, colour: str, width: float) -> Json:
    x, y = zip(*points, strict=True)
    return _line([100 * v for v in x], np.array(y), name, colour, width)


def _layers_title(answer: Json, lines: dict[int, list[tuple[float, float]]], worst: int | None) -> str:
    best, measure = answer["recommended"], _measure(answer)
    whole = f"{100 * best['keep_quality']:.0f} % of {measure} holds up to ratio {100 * best['ratio']:.0f} %"
    if worst is None:
        return f"{whole} of the {answer['target']}"
    ratio, kept = lines[worst][-1]
    return f"Layer {worst + 1} suffers most: {100 * kept:.1f} % left at ratio {100 * ratio:.0f} %; in all, {whole}"
