"""Sentence pairs with a score: columns score, sentence1, sentence2 in any order, or three bare columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.data import readers
from core.data.cleaning import Tally, blank, number, text_of
from core.data.readers import Cells, Table
from core.errors import DataError
from core.types import Dataset, Texts

COLUMNS = ("score", "sentence1", "sentence2")
_OTHERS = {"text", "label", "category", "class", "intent", "target", "title", "id", "_id"}


def fits(rows: Cells) -> bool:
    """Is this a pairs file? By its header, or by three columns of which one begins with a number."""
    first = next(row for _, row in rows if row)
    names = {cell.strip().lower() for cell in first}
    if names & {"sentence1", "sentence2"}:
        return True
    return len(first) == 3 and not names & _OTHERS and any(number(cell) is not None for cell in first)


def _bare(file: str, rows: Cells) -> Table:
    """A file without a header: the one column of numbers is the score."""
    full = [(line, row) for line, row in rows if row]
    for line, row in full:
        if len(row) != 3:
            raise readers.ragged(file, line, len(row), 3)
    scores = [i for i in range(3) if number(full[0][1][i]) is not None]
    if len(scores) > 1:
        scores = [i for i in scores if all(number(row[i]) is not None for _, row in full)]
    if len(scores) != 1:
        message = f"{len(scores)} of 3 columns are numbers: add a header with {', '.join(COLUMNS)}."
        raise DataError(message, file=file, line=full[0][0])
    left, right = (i for i in range(3) if i != scores[0])
    out = [dict(zip(COLUMNS, (row[scores[0]], row[left], row[right]), strict=True)) for _, row in full]
    return Table(file, COLUMNS, out, [line for line, _ in full])


def read_pairs(path: Path, name: str, rows: Cells | None = None) -> Dataset:
    """One data set of pairs; a pair with a blank sentence is skipped and counted. DataError on a bad score."""
    file = readers.shown(path)
    rows = readers.cells(path, COLUMNS) if rows is None else rows
    first = {cell.strip().lower() for cell in next(row for _, row in rows if row)}
    headed = bool(first & set(COLUMNS))
    table = readers.with_header(file, rows) if headed else _bare(file, rows)
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        message = f"no column {', '.join(missing)} among {', '.join(table.columns)}; rename or add it."
        raise DataError(message, file=file, line=rows[0][0])
    tally = Tally()
    kept: list[tuple[str, str, str, float]] = []
    for row in range(len(table)):
        left, right = text_of(table, row, "sentence1", tally), text_of(table, row, "sentence2", tally)
        cell = table.rows[row]["score"]
        score = number(cell)
        if score is None:
            raise table.error(row, f"score {cell!r} is no finite number; write one with a decimal point, e.g. 3.5.")
        if blank(left) or blank(right):
            tally.add("pairs with a blank sentence skipped")
            continue
        kept.append((str(row + 1), left, right, score))
    if not kept:
        raise DataError("no rows left: every pair has a blank sentence.", file=file)
    ids, lefts, rights, scores = zip(*kept, strict=True)
    values = np.asarray(scores, np.float64)
    values.flags.writeable = False
    return Dataset(name, "pairs", Texts(ids, lefts), Texts(ids, rights), scores=values, notes=tally.notes)
