"""Rows to texts: what a text may be, and a count of all that was skipped, cut or replaced on the way.

Damage that leaves the rest meaningful (a blank, an overlong text, a lone surrogate) is mended and counted;
what would make an answer silently wrong (a number as text, an id that stands twice) is refused with its line.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core.data.readers import Table
from core.errors import DataError
from core.types import Texts

LONGEST = 100_000  # characters
IDS = ("_id", "id")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK = re.compile(r"[\s\u200b\u2060\ufeff]*\Z")
_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


class Tally:
    """Counts of what happened while reading, in the order in which each first happened."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._said: list[str] = []
        self.blank: defaultdict[str, set[str]] = defaultdict(set)  # file -> ids of its texts that were skipped

    def add(self, what: str, count: int = 1) -> None:
        if count:
            self._counts[what] += count

    def skip(self, file: str, name: str) -> None:
        self.add("blank texts skipped")
        self.blank[file].add(name)

    def say(self, note: str) -> None:
        self._said.append(note)

    def count(self, what: str) -> int:
        return self._counts[what]

    @property
    def notes(self) -> tuple[str, ...]:
        return (*(f"{what}: {count:,}" for what, count in self._counts.items()), *self._said)


def blank(text: str) -> bool:
    return _BLANK.match(text) is not None


def text_of(table: Table, row: int, column: str, tally: Tally) -> str:
    """The text in a cell, mended and counted. DataError where it is no string or holds a NUL."""
    value = table.rows[row].get(column)
    if not isinstance(value, str):
        kind = "missing or null" if value is None else _KINDS.get(type(value), type(value).__name__)
        message = f"{column!r} is {kind}, where a text belongs; write it in quotes or remove the row."
        raise table.error(row, message)
    return _mended(table, row, value, tally)


def _mended(table: Table, row: int, value: str, tally: Tally) -> str:
    if "\0" in value:
        raise table.error(row, "a NUL character inside a text; remove it.")
    if _SURROGATE.search(value):
        tally.add("texts with lone surrogates (replaced by U+FFFD)")
        value = _SURROGATE.sub("\ufffd", value)
    if len(value) > LONGEST:
        tally.add(f"texts over {LONGEST:,} characters (cut)")
        value = value[:LONGEST]
    return value


def optional(table: Table, row: int, column: str, tally: Tally) -> str:
    """A title or label: "" where there is none; an integer counts as its digits."""
    value = table.rows[row].get(column) if column else None
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(table, row, column, tally)


def first_of(names: Sequence[str], columns: Sequence[str]) -> str:
    """The first of `names` that is a column, else ""."""
    return next((name for name in names if name in columns), "")


def ids_of(table: Table, tally: Tally, *, required: bool, prefix: str = "") -> list[str]:
    """Ids as they stand; rows without one are numbered (or refused where `required`). DataError on a duplicate."""
    column = first_of(IDS, table.columns)
    if not column and not required:
        return [f"{prefix}{i}" for i in range(1, len(table) + 1)]
    out = [optional(table, row, column or IDS[0], tally).strip() for row in range(len(table))]
    seen: dict[str, int] = {}
    for row, name in enumerate(out):
        if not name and required:
            raise table.error(row, 'no "_id"; give every row one of its own.')
        if name and name in seen:
            unit, first = table.unit, table.places[seen[name]]
            raise table.error(row, f"duplicate id {name!r}, first on {unit} {first}; give every row its own id.")
        seen[name] = row
    for row, name in enumerate(out):
        if not name:
            tally.add("rows without an id (numbered)")
            made = f"{prefix or 'row-'}{row + 1}"
            while made in seen:
                made = "row-" + made
            out[row] = made
            seen[made] = row
    return out


def only_text_column(table: Table, names: Sequence[str], reserved: Sequence[str], tally: Tally) -> str:
    """The column of `names` that is there, else the only one that holds texts; DataError where that is unclear."""
    named = first_of(names, table.columns)
    if named:
        return named
    free = [c for c in table.columns if c not in reserved]
    found = free if len(free) == 1 else [c for c in free if _holds_text(table, c)]
    if len(found) != 1:
        message = f"cannot tell which column holds the texts ({', '.join(table.columns)}); name one {names[0]!r}."
        raise DataError(message, file=table.file)
    tally.say(f"texts are taken from the column {found[0]!r}")
    return found[0]


def _holds_text(table: Table, column: str) -> bool:
    values = [row.get(column) for row in table.rows]
    return any(isinstance(v, str) and not blank(v) and number(v) is None for v in values)


def number(text: str) -> float | None:
    """A plain decimal number, or None (also for nan, inf and 1_000)."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) != float("inf") and value == value and "_" not in text else None


def texts_of(
    table: Table,
    tally: Tally,
    *,
    text: str,
    title: str = "",
    label: Callable[[int], str] | None = None,
    required: bool = False,
    prefix: str = "",
) -> Texts:
    """The rows as Texts; blank ones (no text and no title) are skipped and counted.

    `label` gives a row's label; `required` demands an id on every row; `prefix` begins made-up ids.
    """
    rows: list[tuple[str, str, str, str]] = []
    for row, name in enumerate(ids_of(table, tally, required=required, prefix=prefix)):
        body, head = text_of(table, row, text, tally), optional(table, row, title, tally)
        if blank(body) and blank(head):
            tally.skip(table.file, name)
            continue
        rows.append((name, body, "" if blank(head) else head, label(row).strip() if label else ""))
    if not rows:
        raise DataError("no rows left: every text is blank. Give at least one text.", file=table.file)
    ids, bodies, titles, labels = (tuple(column) for column in zip(*rows, strict=True))
    return Texts(ids, bodies, titles if any(titles) else (), labels if any(labels) else ())


def topic_of(row: Mapping[str, Any]) -> str:
    """A BEIR row's topic: metadata.topic, or topic or label beside the text."""
    metadata = row.get("metadata")
    found = metadata.get("topic") if isinstance(metadata, dict) else None
    for value in (found, row.get("topic"), row.get("label")):
        if isinstance(value, str | int) and not isinstance(value, bool):
            return _SURROGATE.sub("\ufffd", str(value)).strip()
    return ""
