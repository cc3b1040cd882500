"""Vector files written a batch at a time: a hidden file beside the target takes its name when all is well.

What is read back equals what was given, bit for bit. A format that cannot hold an id or a value refuses it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.data.vector_bodies import ASSEMBLE, TEXT, Body, Target, integers
from core.data.vector_record import Columns, IdType, VectorFile
from core.errors import InputError
from core.store import sync, unfinished
from core.types import Floats

DType = Literal["float32", "float16"]
_FLUSH = 32 << 20  # bytes of a Parquet row group in memory
_NO_TEXT = "[\ud800-\udfff]"  # lone surrogates
_CANNOT = {
    ".npz": r"\0\Z",
    ".parquet": _NO_TEXT,
    **dict.fromkeys(TEXT, rf"{_NO_TEXT}|[ \t\n\r\v\f]|\A\ufeff|\A\Z"),
}


class _Parquet:
    """Row groups of about 32 MiB: ids, vectors as a fixed-size list, and the other columns, in the old order."""

    def __init__(self, target: Target, like: Columns | None) -> None:
        self.target, self.like = target, like
        self.id, self.vector = (like.id if like else "") or "id", like.vector if like else "vector"
        self.file: Any = None
        self.waiting: list[Any] = []

    def _id_column(self, ids: Sequence[str]) -> Any:
        import pyarrow as pa

        old = self.like.schema.field(self.like.id).type if self.like and self.like.id else None
        whole = self.target.id_type != "string"
        if old is None or pa.types.is_integer(old) != whole:
            old = pa.int64() if whole else pa.string()
        return pa.array(integers(ids, unsigned=old == pa.uint64()) if whole else ids, old)

    def write(self, ids: Sequence[str], values: NDArray[Any], more: Any) -> None:
        import pyarrow as pa

        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, self.target.dimension)
        columns = {self.id: self._id_column(ids), self.vector: vectors}
        fields = {name: pa.field(name, column.type) for name, column in columns.items()}
        for name in () if more is None else more.schema.names:
            if name in columns:
                raise InputError(f"the column {name!r} stands twice; rename it among the other columns.")
            columns[name], fields[name] = more.column(name), more.schema.field(name)
        order = [n for n in self.like.schema.names if n in columns] if self.like else []
        names = [n for n in columns if n not in order] + order
        self.waiting.append(pa.table([columns[n] for n in names], schema=pa.schema([fields[n] for n in names])))
        if sum(table.nbytes for table in self.waiting) >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.waiting:
            table = pa.concat_tables(self.waiting)
            self.waiting.clear()
            if self.file is None:
                plain = [name for name in table.schema.names if name != self.vector]
                self.file = pq.ParquetWriter(self.target.made, table.schema, use_dictionary=plain)
            self.file.write_table(table)

    def finish(self) -> None:
        self._flush()
        self.file.close()

    def place(self) -> None:
        """Nothing stands beside a Parquet."""

    def discard(self) -> None:
        if self.file is not None:
            self.file.close()


class Writer:
    """A vector file in the making: `with open_writer(…) as out: out.add(ids, vectors)`.

    Nothing of that name appears, or changes, unless the block ends well. Memory: a batch, and the ids where the
    format keeps them apart from the vectors (npy, npz, safetensors).
    """

    def __init__(self, target: Target, like: Columns | None, begun: Callable[[Path], None] | None) -> None:
        self.target, self.rows = target, 0
        self._like, self._begun = like, begun
        self._left_out: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the format could not take."""
        if not self._left_out:
            return ()
        return (f"columns left out, for a {self.target.suffix} holds none: {', '.join(self._left_out)}",)

    def __enter__(self) -> Writer:
        target = self.target
        with _writing(target.path):
            target.path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = _Parquet(target, self._like) if target.suffix == ".parquet" else Body(target)
        return self

    def add(self, ids: Sequence[str], vectors: Floats, more: Any = None) -> None:
        """Rows at the end: ids (n), vectors (n, dimension), other columns as a pyarrow RecordBatch or Table of n rows.

        InputError where shapes disagree, values are not finite or overflow, or the format cannot hold an id.
        """
        x = np.asarray(vectors, np.float32)
        if x.shape != (len(ids), self.target.dimension) or (more is not None and len(more) != len(ids)):
            given = f"{len(ids):,} ids, vectors of shape {x.shape}" + ("" if more is None else f", {len(more):,} rows")
            raise InputError(f"{given} do not fit together at dimension {self.target.dimension}; give them row by row.")
        if not len(ids):
            return
        values = self._values(x)
        self._check_ids(ids)
        if more is not None and self.target.suffix != ".parquet":
            self._left_out, more = tuple(more.schema.names), None
        with _writing(self.target.path):
            self._sink.write(ids, values, more)
        self.rows += len(ids)

    def _values(self, x: Floats) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            values = np.asarray(x, self.target.dtype)
        wrong, before = (int((~np.isfinite(v)).sum()) for v in (values, x))
        if wrong:
            why = f"{before:,} values are NaN or infinite; remove their rows"
            if not before:
                why = f"{wrong:,} values overflow float16 (the largest is 65,504); write float32"
            raise InputError(f"{self.target.path.name}: {why}.")
        return values

    def _check_ids(self, ids: Sequence[str]) -> None:
        suffix = self.target.suffix
        if suffix in _CANNOT:
            wrong = re.compile(_CANNOT[suffix])
            for name in ids:
                if wrong.search(name):
                    what = "is empty, holds white space or" if suffix in TEXT else "ends in NUL or"
                    message = f"the id {name[:60]!r} {what} is no valid text: a {suffix} cannot hold it; "
                    raise InputError(message + "write another format.")

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        path, made = self.target.path, self.target.made
        try:
            if kind is None:
                if not self.rows:
                    raise InputError(f"{path.name} would hold no rows; keep at least one.")
                with _writing(path):
                    self._sink.finish()
                    sync(made)
                    if self._begun:
                        self._begun(made)
                    self._sink.place()
                    made.replace(path)
                    sync(path.parent)
        finally:
            with contextlib.suppress(OSError):  # a full disk says so once
                self._sink.discard()
            made.unlink(missing_ok=True)


def open_writer(
    path: Path,
    *,
    dimension: int,
    id_type: IdType = "string",
    dtype: DType = "float32",
    like: VectorFile | None = None,
    begun: Callable[[Path], None] | None = None,
) -> Writer:
    """A Writer for `path`, whose suffix says the format.

    id_type  "row" or "integer": ids are whole numbers in decimal digits, and stand as int64 where the format has it
    dtype    "float16" halves npy, npz, Parquet and safetensors; a value over 65,504 is then refused
    like     the file that the rows come from: names, types and order of its Parquet columns are kept
    begun    is called with the finished file just before that takes its name

    InputError for an unknown suffix, a dimension below 1, a type the format has not, or a path that is `like`'s own.
    """
    target = Target(path, unfinished(path, "tmp"), dimension, id_type, dtype)
    if target.suffix not in (*ASSEMBLE, ".parquet"):
        raise InputError(f"{path.name} has no suffix of a vector file: give one of .parquet, {', '.join(ASSEMBLE)}.")
    if dimension < 1:
        raise InputError(f"dimension {dimension} holds nothing; give 1 or more.")
    if dtype not in ("float32", "float16") or (dtype == "float16" and target.suffix in TEXT):
        raise InputError(f"a {target.suffix} cannot hold {dtype}; write float32.")
    if like is not None and path.exists() and path.samefile(like.path):
        raise InputError(f"{path.name} is the file that is being read; write to another one.")
    return Writer(target, like.columns if like else None, begun)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise InputError(f"cannot write {path}: {e.strerror}. Free space or choose a folder you may write to.") from e
