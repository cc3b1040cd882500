"""Files to rows: every cell is text as it stands in the file, and every row knows its line.

Nothing is guessed silently and nothing is repaired: a file that is not UTF-8, has a NUL byte, an open quote, a
ragged row, or the same name twice is refused with the line and the remedy. `NA`, `null`, `007` are texts.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.types import Progress, quiet

LINES = (".tsv", ".txt")
DELIMITED = (".csv", *LINES)
JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (*DELIMITED, *JSON_LINES, ".parquet")
Cells = list[tuple[int, list[str]]]  # line number, cells


@dataclass(frozen=True, eq=False)
class Table:
    """Rows by column name, each with where it stood (`unit` is "line", or "row" where a file has no lines)."""

    file: str
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    places: Sequence[int]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.rows)

    def error(self, row: int, message: str) -> DataError:
        place = self.places[row]
        if self.unit == "line":
            return DataError(message, file=self.file, line=place)
        return DataError(f"{self.unit} {place}: {message}", file=self.file)


def shown(path: Path) -> str:
    """The name a message calls a file by: short, and the same for an upload and a local file."""
    return f"qrels/{path.name}" if path.parent.name == "qrels" else path.name


def no_rows(file: str) -> DataError:
    return DataError("no rows: the file is empty or holds a header only. Give at least one row.", file=file)


def decode(path: Path) -> str:
    """The file's text, without a byte order mark. DataError names the byte offset and what to do about it."""
    file = shown(path)
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise DataError(f"cannot be read: {e.strerror}. Check the path and its permissions.", file=file) from e
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or raw[:1000].count(0) > len(raw[:1000]) // 4:
        remedy = "save it as UTF-8 (iconv -f UTF-16 -t UTF-8 old > new)"
        raise DataError(f"byte offset 0: this looks like UTF-16; {remedy}.", file=file, line=1)
    if raw.startswith(b"version https://git-lfs"):
        raise DataError("this is a Git-LFS pointer, not the data; run `git lfs pull`.", file=file, line=1)
    nul = raw.find(b"\0")
    if nul >= 0:
        message = f"NUL byte at byte offset {nul}: the file is damaged or not a text file; remove it (tr -d '\\0')."
        raise DataError(message, file=file, line=raw.count(b"\n", 0, nul) + 1)
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as e:
        message = (
            f"byte offset {e.start} (0x{raw[e.start]:02x}) is not UTF-8; it may be Windows-1252: "
            "save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8 old > new)."
        )
        raise DataError(message, file=file, line=raw.count(b"\n", 0, e.start) + 1) from e


def lines(path: Path) -> list[str]:
    """Lines ended by \\n or \\r\\n and by nothing else (U+2028 stays inside a text)."""
    text = decode(path)
    out = [line.removesuffix("\r") for line in text.split("\n")]
    if out and not out[-1]:
        out.pop()
    if not any(line.strip() for line in out):
        raise no_rows(shown(path))
    return out


def _csv_rows(text: str, file: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # the default refuses a cell over 128 KiB; long texts are cut later, and counted
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            why = "a quote is opened and never closed" if "unexpected end" in str(e) else f"not valid CSV ({e})"
            remedy = 'close it, and write a quote inside a quoted cell twice ("")'
            raise DataError(f"{why}; {remedy}.", file=file, line=start) from e
        yield start, cells


def cells(path: Path, named: Sequence[str] = ()) -> Cells:
    """Rows of a CSV (RFC 4180) or TSV (unquoted); blank lines have no cells.

    The suffix says which, unless only the other delimiter finds the `named` columns in the first line.
    """
    text = decode(path)
    file = shown(path)
    first = text.split("\n", 1)[0].rstrip("\r")
    tabbed = path.suffix.lower() in LINES
    if "\t" not in first and tabbed and _knows(first.split(","), named):
        tabbed = False
    elif "," not in first and not tabbed and _knows(first.split("\t"), named):
        tabbed = True
    if not tabbed:
        rows = list(_csv_rows(text, file))
    else:
        rows = [(i, line.split("\t") if line else []) for i, line in enumerate(lines(path), 1)]
    if not any(cell.strip() for _, row in rows for cell in row):
        raise no_rows(file)
    return rows


def _knows(names: list[str], named: Sequence[str]) -> bool:
    return len(names) > 1 and len({n.strip().lower() for n in names} & set(named)) > 1


def unique_names(names: Sequence[str], file: str, line: int | None) -> tuple[str, ...]:
    """Column names without outer blanks, in lower case; DataError where one stands twice."""
    columns = tuple(name.strip().lower() for name in names)
    for name in columns:
        if columns.count(name) > 1:
            message = f"duplicate header {name!r}: rename or remove one of the columns."
            raise DataError(message, file=file, line=line)
    return columns


def ragged(file: str, line: int, found: int, wanted: int) -> DataError:
    remedy = "quote a text that holds a comma, or remove the tab inside a text"
    return DataError(f"ragged row: {found} cells where the first row has {wanted}; {remedy}.", file=file, line=line)


def with_header(file: str, rows: Cells) -> Table:
    """The rows under the names of the first one."""
    full = [(line, row) for line, row in rows if row]
    if not full:
        raise no_rows(file)
    head_line, head = full[0]
    columns = unique_names(head, file, head_line)
    if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
        message = f"one column, {columns[0]!r}, that looks like several; separate cells by commas (tabs in a .tsv)."
        raise DataError(message, file=file, line=head_line)
    out, places = [], []
    for line, row in rows:
        if line <= head_line or (not row and len(columns) > 1):
            continue
        padded = row or [""]
        if len(padded) != len(columns):
            raise ragged(file, line, len(row), len(columns))
        out.append(dict(zip(columns, padded, strict=True)))
        places.append(line)
    if not out:
        raise no_rows(file)
    return Table(file, columns, out, places)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice!r}; keep one of the two")
    return out


def json_lines(path: Path, progress: Progress = quiet) -> Table:
    """One JSON object a line. Values keep their type: whoever wants a text checks that it is one."""
    file = shown(path)
    found = lines(path)
    columns: dict[str, None] = {}
    out, places = [], []
    for number, line in enumerate(found, 1):
        if number % 2000 == 0:
            progress(f"reading {file}", number, len(found))
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as e:
            message = f"not valid JSON: {e}. Write one complete object on each line."
            raise DataError(message, file=file, line=number) from e
        if not isinstance(row, dict):
            raise DataError('not an object; each line is one, e.g. {"text": "…"}.', file=file, line=number)
        columns.update(dict.fromkeys(row))
        out.append(row)
        places.append(number)
    return Table(file, tuple(columns), out, places)


def read_table(path: Path, progress: Progress = quiet, named: Sequence[str] = ()) -> Table:
    """Any of the table formats by its suffix; a .txt is one text a line, in the column `text`."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        from core.data.parquet import read_parquet

        return read_parquet(path, progress)
    if suffix in JSON_LINES:
        return json_lines(path, progress)
    if suffix == ".txt":
        found = lines(path)
        return Table(shown(path), ("text",), [{"text": line} for line in found], range(1, len(found) + 1))
    if suffix in DELIMITED:
        return with_header(shown(path), cells(path, named))
    raise DataError(f"unknown kind of file {suffix!r}: give one of {', '.join(SUFFIXES)}.", file=shown(path))
