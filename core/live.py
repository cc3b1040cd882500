"""What a running job says of itself while it trains: points of a curve, and whether the person asked it to stop.

    live.into(folder)                                   the run folder, set once by the worker
    live.point(phase="distill", step=20, loss=0.03)     one more point of the live curve
    live.stopped()                                      True once the person pressed Stop: keep the best and return

Outside a job nothing is written and nobody stops anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CURVE = "curve.jsonl"
STOP = "stop"
TRAINING = "training"
_folder: list[Path] = []


def into(folder: Path) -> None:
    """Write what follows into this run folder."""
    _folder[:] = [folder]


def point(**values: Any) -> None:
    """Append a point: `phase` and `step`, and figures such as loss, held_out, seconds."""
    if _folder:
        with (_folder[0] / CURVE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def stopped() -> bool:
    """Whether the person wants the best so far; looked at between two training steps."""
    return bool(_folder) and (_folder[0] / STOP).exists()


@contextmanager
def stoppable(wanted: bool = True) -> Iterator[None]:
    """Work that looks at `stopped` and then ends with the best so far: as long as it lasts, a page offers that."""
    marks = [f / TRAINING for f in _folder if wanted]
    for mark in marks:
        mark.touch()
    try:
        yield
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


@contextmanager
def unwatched() -> Iterator[None]:
    """Work whose training is nobody's curve and not to be stopped early: what a result is compared with."""
    before, _folder[:] = list(_folder), []
    try:
        yield
    finally:
        _folder[:] = before


def stop(folder: Path) -> None:
    """Ask the worker of a run folder to end its training and go on with the best so far."""
    (folder / STOP).touch()


def curve(folder: Path) -> list[dict[str, Any]]:
    """The points of a run, in order; a line that is being written is left out."""
    try:
        lines = (folder / CURVE).read_text(encoding="utf-8").split("\n")[:-1]
    except OSError:
        return []
    return [json.loads(line) for line in lines]


def stopping(folder: Path) -> bool:
    """Whether a run was asked to stop its training."""
    return (folder / STOP).exists()


def training(folder: Path) -> bool:
    """Whether the run is at work that a stop ends with the best so far."""
    return (folder / TRAINING).exists()
