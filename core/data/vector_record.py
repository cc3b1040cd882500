"""What a vector file is to the rest of Espalier, and the checks that every format shares.

A format gives parts of a file (ids, values, other columns); here they become batches of float32 that are finite,
counted and under ids of their own. Nothing is repaired: NaN, a doubled id or a short file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.data.readers import no_rows, shown
from core.errors import DataError, EspalierError
from core.types import Floats, Ints, Progress, frozen, quiet

CAP = 2 << 30  # bytes that an upload may decode to; local files have no cap
_VALUES = 1 << 22  # of a batch at most
FLOATS = ("float16", "float32", "float64")
IdType = Literal["row", "string", "integer"]
# ids (None: the row numbers), values (n, d) as they stand in the file, other columns as a pyarrow RecordBatch or None
Part = tuple[Sequence[str] | None, NDArray[Any], Any]
Parts = Callable[[int], Iterator[Part]]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows in file order: ids (n), vectors (n, d) float32, `more` the other Parquet columns (RecordBatch) or None."""

    ids: tuple[str, ...]
    vectors: Floats
    more: Any = None


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a Parquet file: its Arrow schema, which one holds the vectors, which one the ids ("": none)."""

    schema: Any
    vector: str
    id: str = ""

    @property
    def others(self) -> tuple[str, ...]:
        return tuple(name for name in self.schema.names if name not in (self.vector, self.id))


@dataclass(frozen=True, eq=False)
class VectorFile:
    """A vector file whose header was checked: what it holds, and its rows as a stream.

    id_type  "row" where the file names no ids: they are the row numbers "0", "1", …
    dtype    of the values in the file; they are read as float32
    columns  of a Parquet file, so that a Writer can keep names and order
    """

    path: Path
    form: str
    rows: int
    dimension: int
    dtype: str
    id_type: IdType
    parts: Parts = field(repr=False)
    columns: Columns | None = None
    cap: int | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What reading changes."""
        return ("float64 values were rounded to float32",) if self.dtype == "float64" else ()

    def _read(self, size: int) -> Iterator[Part]:
        with damage_named(self.path):
            yield from self.parts(max(1, min(size, _VALUES // self.dimension)))

    def batches(self, size: int = 8192, progress: Progress = quiet) -> Iterator[Batch]:
        """All rows, at most `size` at a time, in memory for one batch and 8 bytes a row.

        DataError at the end where values are not finite or an id stands twice, at once where the file is damaged
        or decodes to more than the cap: keep nothing of what was read before the last batch came.
        """
        file, done, decoded = shown(self.path), 0, 0
        bad: list[Ints] = []
        hashes: list[Ints] = []
        for ids, values, more in self._read(size):
            decoded += values.nbytes + sum(map(len, ids or ())) + (0 if more is None else more.nbytes)
            check_cap(self.path, decoded, self.cap)
            with np.errstate(over="ignore"):
                vectors = frozen(values)
            wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
            if len(wrong):
                bad.append(wrong + done)
            names = tuple(map(str, range(done, done + len(values)))) if ids is None else tuple(ids)
            if ids is not None:
                hashes.append(np.fromiter(map(hash, names), np.int64, len(names)))
            done += len(values)
            progress(f"reading {file}", done, max(done, self.rows))
            if not bad:
                yield Batch(names, vectors, more)
        if done != self.rows:
            raise DataError(f"holds {done:,} rows where its header promises {self.rows:,}; write it again.", file=file)
        if bad:
            raise _not_finite(file, np.concatenate(bad))
        if hashes:
            self._check_unique(np.concatenate(hashes))

    def _check_unique(self, hashes: Ints) -> None:
        """DataError naming the first id that stands twice; ids of one hash are read again, so that none is accused."""
        found, counts = np.unique(hashes, return_counts=True)
        rows = np.flatnonzero(np.isin(hashes, found[counts > 1]))
        if not len(rows):
            return
        seen: dict[str, int] = {}
        start = 0
        for ids, values, _ in self._read(8192):
            end = start + len(values)
            for row in rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)]:
                name = (ids or ())[int(row) - start]
                if name in seen:
                    message = f"row {row + 1}: duplicate id {name!r}, first on row {seen[name] + 1}; "
                    raise DataError(message + "give every row its own id.", file=shown(self.path))
                seen[name] = int(row)
            start = end


@dataclass(frozen=True, eq=False)
class Vectors:
    """A vector file in memory: ids (n), vectors (n, d) float32, and what was sampled or rounded."""

    ids: tuple[str, ...]
    vectors: Floats
    notes: tuple[str, ...]
    id_type: IdType
    form: str


_CAUSES = (
    (rb"version https://git-lfs", "a Git-LFS pointer, not the vectors: run `git lfs pull`"),
    (rb"\s*<(!doctype|html|\?xml)", "a web page, not the vectors: download the file itself"),
    (rb"\x80[\x02-\x05]", "a Python pickle, which is never opened: save it as npy or Parquet"),
    (rb"PK\x03\x04", "a zip or torch pickle under another name: save it as npy or Parquet"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ", "compressed: unpack it first"),
    (rb"\x93NUMPY|PAR1|\x89HDF|GGUF", "a binary file under another name: give it its own suffix"),
)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """What a library raises over a damaged file becomes a DataError; the likely cause is named where it is known."""
    try:
        yield
    except Exception as e:  # zipfile, zlib, pyarrow and safetensors raise a dozen unrelated types
        if isinstance(e, EspalierError) and not isinstance(e, DataError):
            raise
        if not path.is_file() or (isinstance(e, OSError) and e.errno is not None):
            why = (isinstance(e, OSError) and e.strerror) or ("not a file" if path.exists() else "No such file")
            raise DataError(f"cannot be read: {why}. Check the path and its permissions.", file=shown(path)) from e
        with path.open("rb") as f:
            head = f.read(512)
        own = {".npz": b"PK", ".npy": b"\x93N", ".parquet": b"PA"}.get(path.suffix.lower())
        known = (text for pattern, text in _CAUSES if re.match(pattern, head, re.I | re.S))
        if (own is None or not head.startswith(own)) and (cause := next(known, "")):
            raise DataError(f"this is {cause}.", file=shown(path)) from e
        if isinstance(e, DataError):
            raise
        why = " ".join(str(e).split())[:120]
        message = f"damaged, truncated or another kind of file ({why}); download or write it again."
        raise DataError(message, file=shown(path)) from e


def _not_finite(file: str, rows: Ints) -> DataError:
    message = f"rows with NaN, infinity or values beyond float32: {len(rows):,}, the first is row {rows[0] + 1}; "
    return DataError(message + "remove or repair them.", file=file)


def check_cap(path: Path, decoded: int, cap: int | None) -> None:
    if cap is not None and decoded > cap:
        raise DataError(f"decodes to more than {cap:,} bytes, the limit; split the file.", file=shown(path))


def check_shape(path: Path, shape: Sequence[int]) -> None:
    """DataError unless there are rows, and dimensions."""
    file = shown(path)
    if len(shape) != 2:
        sizes = " x ".join(map(str, shape)) or "no"
        raise DataError(f"an array of {sizes} values, where rows x dimensions is wanted; reshape it.", file=file)
    if shape[0] < 1:
        raise no_rows(file)
    if shape[1] < 1:
        raise DataError(f"{shape[0]:,} vectors of dimension 0; give at least one dimension.", file=file)


def check_type(path: Path, dtype: str) -> None:
    """DataError unless the values are floats that numpy and everybody else can read."""
    if dtype not in FLOATS:
        file = shown(path)
        if dtype == "object":
            raise DataError("holds pickled objects, which are never opened; save it as plain float32.", file=file)
        remedy = "decode codes first, or save the vectors as float32" if "int" in dtype else "save it as float32"
        raise DataError(f"holds {dtype} values, not {', '.join(FLOATS)}; {remedy}.", file=file)
