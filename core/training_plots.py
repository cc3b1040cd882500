"""Training as figures: the loss and the held-out loss while a run goes on, and the rounds of a schedule.

live_curve(points)     from core.live.curve: one training after another, the best of each marked
rounds(rows, floor)    held-out quality against the ratio of each round of a schedule
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.plots import CHOSEN, FLOOR, GREY, _figure
from core.verdict import percent

Point = Mapping[str, Any]


def stretches(points: Sequence[Point]) -> list[list[Point]]:
    """The points of each training by itself: another begins where the phase changes or steps count from 0 again."""
    out: list[list[Point]] = []
    for p in (p for p in points if p["phase"] != "round"):
        if not out or p["phase"] != out[-1][-1]["phase"] or p["step"] <= out[-1][-1]["step"]:
            out.append([])
        out[-1].append(p)
    return out


def live_curve(points: Sequence[Point]) -> Any:
    """Loss (thin) and held-out loss (thick, the best of each training starred) against training steps."""
    parts, begin = stretches(points), 0
    lines: dict[str, list[tuple[float, float | None]]] = {"loss": [], "held_out": []}
    best: list[tuple[float, float | None]] = []
    ends: list[int] = []
    for part in parts:
        for name, line in lines.items():
            line += [(begin + p["step"], p[name]) for p in part if p.get(name) is not None] + [
                (begin + part[-1]["step"], None)
            ]
        found = min(((p["held_out"], p["step"]) for p in part if p.get("held_out") is not None), default=None)
        best += [(begin + found[1], found[0])] if found else []
        begin += part[-1]["step"]
        ends.append(begin)
    star = {"size": 13, "color": CHOSEN, "symbol": "star", "line": {"width": 1, "color": "white"}}
    data = [
        _path(lines["loss"], "loss", GREY, 1.6),
        _path(lines["held_out"], "held-out loss", CHOSEN, 3),
        _path(best, "best, kept", CHOSEN, 0) | {"mode": "markers", "marker": star},
    ]
    shapes = [{"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper",
               "line": {"color": FLOOR, "width": 1.2, "dash": "dot"}} for x in ends[:-1]]  # fmt: skip
    return _figure(
        data, live_title(points), 300, shapes=shapes, showlegend=True,
        xaxis={"title": {"text": "training steps"}, "zeroline": False, "rangemode": "tozero"},
        yaxis={"title": {"text": "loss, lower is better"}, "zeroline": False},
        legend={"orientation": "h", "x": 0, "y": -0.28, "yanchor": "top"}, margin={"l": 60, "r": 12, "t": 64, "b": 84},
    )  # fmt: skip


def live_title(points: Sequence[Point]) -> str:
    """How far training has come, and what it gained on texts it never saw."""
    parts = stretches(points)
    if not parts:
        return "Nothing is trained yet"
    last, phase = parts[-1][-1], str(parts[-1][-1]["phase"]).capitalize()
    held = [p["held_out"] for p in parts[-1] if p.get("held_out") is not None]
    of = f" of {last['steps']:,}" if last.get("steps") else ""
    if len(held) < 2 or not held[0] > 0:
        return f"{phase}: step {last['step']:,}{of}"
    if min(held) == held[0]:
        return f"{phase}: step {last['step']:,}{of}, no gain over the held-out loss it began with, {held[0]:.3g}"
    return (
        f"{phase}: step {last['step']:,}{of}, held-out loss {held[0]:.3g} → {min(held):.3g} "
        f"({percent(1 - min(held) / held[0], 0)} lower)"
    )


def rounds(rows: Sequence[Point], floor: float = 0.0) -> Any:
    """Held-out quality of every round against its ratio; the floor where there is one."""
    held = [r for r in rows if r["quality"] >= floor]
    best = max((r["ratio"] for r in held), default=0.0)
    data = [
        {"type": "scatter", "mode": "lines+markers+text", "x": [100 * r["ratio"] for r in rows],
         "y": [100 * r["quality"] for r in rows], "text": [str(r["round"]) for r in rows],
         "textposition": "top center", "line": {"color": CHOSEN, "width": 3},
         "marker": {"size": 11, "color": [CHOSEN if r in held else GREY for r in rows],
                    "symbol": ["circle" if r in held else "x" for r in rows]},
         "hovertemplate": "round %{text}: %{y:.1f} % kept at ratio %{x:.0f} %<extra></extra>"}
    ]  # fmt: skip
    lines = [{"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": 100 * floor, "y1": 100 * floor,
              "line": {"color": FLOOR, "width": 1.4, "dash": "dot"}}] if floor else []  # fmt: skip
    words = f"{len(held)} of {len(rows)} rounds hold the floor of {percent(floor, 0)}" if floor else (
        f"{len(rows)} rounds, to ratio {percent(best, 0)}")  # fmt: skip
    return _figure(
        data, words, 280, shapes=lines,
        xaxis={"title": {"text": "pruning ratio, % removed"}, "zeroline": False},
        yaxis={"title": {"text": "% kept on held-out texts"}, "zeroline": False},
    )  # fmt: skip


def round_table(rows: Sequence[Point]) -> list[dict[str, Any]]:
    """The rounds for people: what each cut to, what it kept on held-out texts, how long it took."""
    return [
        {"round": r["round"], "removed, %": round(100 * r["ratio"], 1), "kept on held-out texts, %":
         round(100 * r["quality"], 1), "cosine": round(r["cosine"], 4)}
        | ({"parameters": r["parameters"]} if "parameters" in r else {})
        | ({"seconds": round(r["seconds"])} if "seconds" in r else {})
        for r in rows
    ]  # fmt: skip


def _path(points: Sequence[tuple[float, float | None]], name: str, colour: str, width: float) -> dict[str, Any]:
    """A line through points; None breaks it."""
    return {
        "type": "scatter", "mode": "lines+markers" if len(points) < 40 else "lines", "x": [x for x, _ in points],
        "y": [y for _, y in points], "name": name, "line": {"color": colour, "width": width}, "connectgaps": False,
        "marker": {"size": 4}, "hovertemplate": name + " %{y:.4g} at step %{x:,.0f}<extra></extra>",
    }  # fmt: skip
