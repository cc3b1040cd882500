"""Word-similarity sets (WordSim-353, SimLex-999, MEN): two words and a score on each line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.data.cleaning import number
from core.data.readers import lines, no_rows, shown
from core.errors import DataError


def _cells(line: str, separator: str | None) -> list[str]:
    return [cell.strip() for cell in line.split(separator)]


def _separator(lines: Sequence[str]) -> str | None:
    """Tab, else comma, of the first line that is not blank; None for blanks."""
    first = next(line for line in lines if line.strip())
    return next((mark for mark in ("\t", ",") if mark in first), None)


def read_word_pairs(path: Path) -> list[tuple[str, str, float]]:
    """Rows `word1 word2 score`, parted by tabs, commas or blanks; a first line without a score is a header.

    DataError with the line where a row has not two words and a finite score, or where there are no rows.
    """
    file, found = shown(path), lines(path)
    separator = _separator(found)
    out: list[tuple[str, str, float]] = []
    header = True
    for place, line in enumerate(found, 1):
        if not line.strip():
            continue
        cells = _cells(line, separator)
        score = number(cells[-1])
        if len(cells) != 3 or not cells[0] or not cells[1] or (score is None and not header):
            message = f"{line.strip()[:60]!r} is not two words and a score; write e.g. `tiger,cat,7.35`."
            raise DataError(message, file=file, line=place)
        if score is not None:
            out.append((cells[0], cells[1], score))
        header = False
    if not out:
        raise no_rows(file)
    return out
