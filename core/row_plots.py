"""The map of what went: which rows of an index stay, which are folded into another one, which are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.maps import MapPair
from core.plots import CHOSEN, GREY, LOSS, points_figure
from core.types import Ints, Rows
from core.verdict import percent

STATES = {
    "stays": {"color": GREY, "size": 5, "symbol": "circle"},
    "folded into another": {"color": CHOSEN, "size": 7, "symbol": "diamond"},
    "gone": {"color": LOSS, "size": 7, "symbol": "x"},
}


def states(rows: Rows, shown: Ints) -> tuple[list[str], str]:
    """What became of each row on a map, and the finding over all rows."""
    names = list(STATES)
    stands = rows.stands[shown]
    found = [names[2 if s < 0 else int(s != r)] for s, r in zip(stands, shown, strict=True)]
    n, served = len(rows.stands), len(rows.served)
    gone, folded = (n - served) / n, (served - len(rows)) / n
    said = [f"{percent(share)} {what}" for share, what in ((folded, "folded into another"), (gone, "gone")) if share]
    return found, f"Of {n:,} vectors {' and '.join(said) or 'all stay'}"


def gone(pair: MapPair, state: Sequence[str], title: str, hover: Sequence[str]) -> Any:
    """One map of the whole index: rows that stay in grey, what is folded or gone in colour and with its own shape."""
    groups = []
    for name, marker in STATES.items():
        mine = np.array([i for i, s in enumerate(state) if s == name], np.int64)
        if len(mine):
            groups.append((name, pair.before[mine], [hover[int(i)] for i in mine], marker))
    return points_figure(groups, title)
