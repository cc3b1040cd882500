"""Which cuts are worth having: quality against what they cost, and what beats what.

Point                        one cut: the share of quality it keeps, and its costs
beaten(points, axes)         for each point the index of the best one that beats it, or None on the front
of_runs, of_study, ...       points from finished runs, from a method's curve, and to compare with
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.budgets import Budgets
from core.meter import LATER
from core.verdict import Study, gigabytes, percent

AXES = {
    "vector_bytes": "bytes per vector",
    "model_bytes": "bytes of the model file",
    "encoding": "encoding time, share left",
}
_SHOWN = 10  # sizes that a whole curve is shown at


@dataclass(frozen=True)
class Point:
    """A cut among others. `kept` is a share of the unpruned quality, costs are named as in AXES (NaN: unknown).

    family  what a whole curve of points belongs to; "" for one that stands alone
    kind    "run" (prepared, measured), "study" (a size of a method's curve), "dense" (nothing cut) or "random"
    """

    label: str
    kept: float
    costs: Mapping[str, float]
    low: float = math.nan
    high: float = math.nan
    kind: str = "run"
    family: str = ""

    def known(self, axes: Iterable[str]) -> bool:
        """Whether quality and these costs are all known."""
        return all(math.isfinite(v) for v in (self.kept, *(self.costs.get(a, math.nan) for a in axes)))


def beats(one: Point, two: Point, axes: Sequence[str]) -> bool:
    """No worse in quality and in every cost of `axes`, and better in one of them."""
    gains = [one.kept - two.kept, *(two.costs[a] - one.costs[a] for a in axes)]
    return min(gains) >= 0 and max(gains) > 0


def beaten(points: Sequence[Point], axes: Sequence[str]) -> list[int | None]:
    """For each point the index of the point that beats it and keeps most; None where nothing beats it.

    axes  costs that count beside quality, any of AXES; points that lack one neither beat nor are beaten.

    What is named is on the front itself: of all that beat a point, nothing beats the one that keeps most at the
    lowest costs. O(n^2) in the points.
    """
    known = [p.known(axes) for p in points]
    out: list[int | None] = []
    for i, p in enumerate(points):
        better = [j for j, q in enumerate(points) if known[i] and known[j] and beats(q, p, axes)]
        out.append(min(better, key=lambda j: _rank(points[j], axes, j), default=None))
    return out


def _rank(p: Point, axes: Sequence[str], place: int) -> tuple[Any, ...]:
    return (-p.kept, *(p.costs[a] for a in axes), place)


def cheapest(points: Sequence[Point], axis: str, floor: float) -> int | None:
    """The index of the point that keeps the floor at the lowest cost; random pruning is no offer."""
    fit = [i for i, p in enumerate(points) if p.known([axis]) and p.kept >= floor and p.kind != "random"]
    return min(fit, key=lambda i: (points[i].costs[axis], -points[i].kept, i), default=None)


def finding(points: Sequence[Point], axis: str, floor: float, measure: str) -> str:
    """The finding: the cheapest cut that keeps the floor, and its cost."""
    best = cheapest(points, axis, floor)
    if best is None or points[best].kind == "dense":
        return f"No cut here keeps {percent(floor, 0)} of {measure} at less cost"
    p = points[best]
    return f"Cheapest that keeps {percent(floor, 0)} of {measure}: {p.label}, {cost_words(p, axis)}"


def alt(points: Sequence[Point], axis: str, floor: float, measure: str) -> str:
    """The figure in words: the finding, and the front from the cheapest to the dearest."""
    front = [p for p, b in zip(points, beaten(points, [axis]), strict=True) if b is None and p.known([axis])]
    steps = "; ".join(f"{p.label} keeps {percent(p.kept)}, {cost_words(p, axis)}" for p in
                      sorted(front, key=lambda p: p.costs[axis]))  # fmt: skip
    return f"{finding(points, axis, floor, measure)}. {len(front)} of {len(points)} are not beaten: {steps}."


def cost_words(p: Point, axis: str) -> str:
    """One cost of a point as people read it."""
    value = p.costs.get(axis, math.nan)
    if not math.isfinite(value):
        return LATER
    if axis == "encoding":
        return f"{1 / value:.2f}x as fast"
    return f"{value:,.0f} B a vector" if axis == "vector_bytes" else f"a file of {gigabytes(value)}"


def table(points: Sequence[Point], axis: str) -> list[dict[str, Any]]:
    """One row a point, the best first: its figures, and what beats it at this cost and at every cost."""
    here, everywhere = beaten(points, [axis]), beaten(points, list(AXES))
    names: dict[int | None, str] = {None: ""} | {i: p.label for i, p in enumerate(points)}
    rows = [
        {"cut": p.label, "kind": p.kind, "kept": p.kept, "low": p.low, "high": p.high, **p.costs,
         "beaten at this cost by": names[h], "beaten at every cost by": names[e]}
        for p, h, e in zip(points, here, everywhere, strict=True)
    ]  # fmt: skip
    return sorted(rows, key=lambda r: (r["beaten at this cost by"] != "", -r["kept"]))


# ---- where points come from -----------------------------------------------------------------------------------


def dense(dimension: int, model_bytes: int) -> Point:
    """The unpruned model: all of the quality at all of the cost."""
    costs = {"vector_bytes": 4.0 * dimension, "model_bytes": float(model_bytes), "encoding": 1.0}
    return Point("the unpruned model", 1.0, costs, 1.0, 1.0, "dense")


def of_runs(rows: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Finished runs (rows of core.runs), one point for each plan and format, the newest; random pruning beside it."""
    out: dict[str, list[Point]] = {}
    for row in rows:
        costs = {"vector_bytes": float(row["bytes"]), "model_bytes": float(row["model_bytes"]),
                 "encoding": float(row["encoding"])}  # fmt: skip
        found = [Point(row["label"], row["kept"], costs, row["low"], row["high"])]
        if row["random"] is not None:
            found.append(Point(f"random, like {row['label']}", row["random"], costs, kind="random"))
        out.setdefault(row["label"], found)
    return [p for found in out.values() for p in found]


def of_study(found: Study, label: str, measure: str, model_bytes: int, floor: float) -> list[Point]:
    """A method's curve over dimensions at some ten sizes and where it meets the floor, and random pruning there."""
    band, (chance, _) = found.band(measure), found.random(measure)
    kept = np.asarray(found.plain.kept)
    wanted = np.geomspace(max(1, kept[-1]), found.units, _SHOWN + 1)[:-1]
    out = []
    sizes = {int(np.abs(np.log(kept / w)).argmin()) for w in wanted} | {found.recommended(measure, floor)}
    for i in sorted(sizes - {0}):
        size = found.plain.kept[i]
        costs = {"vector_bytes": 4.0 * size, "model_bytes": model_bytes + 4.0 * found.units * size, "encoding": 1.0}
        low, high = float(band.low[i]), float(band.high[i])
        out.append(Point(f"{label}, {size} dimensions", float(band.ratio[i]), costs, low, high, "study", label))
        out.append(Point(f"random, {size} dimensions", float(chance[i]), costs, kind="random"))
    return out


def of_budgets(found: Budgets, label: str, measure: str, model_bytes: int) -> list[Point]:
    """A code at every size it was judged at; the encoder stays what it is."""
    band = found.band(measure)
    return [
        Point(
            f"{label}, {found.units / size:.3g}x smaller",
            float(band.ratio[i]),
            {"vector_bytes": float(size), "model_bytes": float(model_bytes), "encoding": 1.0},
            float(band.low[i]),
            float(band.high[i]),
            "study",
            label,
        )
        for i, size in enumerate(found.plain.kept)
        if i > 0
    ]
