"""Vectors in Parquet files: a column of float lists, a column of ids, and all others passed on as they are.

The lists are Arrow's fixed-size ones, or variable ones that are all of one length. Row groups are streamed; the
footer is not believed: where there is a cap, what was decoded is counted 256 rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data.readers import no_rows, shown
from core.data.vector_record import Columns, IdType, Part, VectorFile, check_cap, check_shape, check_type
from core.errors import DataError, InputError

VECTORS = ("vector", "embedding", "vectors", "embeddings")
IDS = ("id", "_id", "key", "word", "doc_id", "docid")
_FEW = 256  # rows that are decoded before they are counted against a cap


def _is_list(kind: Any) -> bool:
    import pyarrow.types as t

    return bool(t.is_fixed_size_list(kind) or t.is_list(kind) or t.is_large_list(kind))


def _lists(schema: Any) -> list[str]:
    import pyarrow.types as t

    return [f.name for f in schema if _is_list(f.type) and t.is_floating(f.type.value_type)]


def looks_like_parquet(path: Path) -> bool:
    """Whether a column holds lists of floats; only the footer is read."""
    import pyarrow.parquet as pq

    return bool(_lists(pq.read_schema(path)))


def _vector_column(file: str, schema: Any, column: str | None) -> str:
    found = _lists(schema)
    if column is not None:
        if column not in found:
            message = f"{file} has no column {column!r} of float lists; give one of {', '.join(found) or 'none'}."
            raise InputError(message)
        return column
    if not found:
        others = [f.name for f in schema if f.name.lower() in VECTORS or _is_list(f.type)]
        kinds = f"; {others[0]!r} is {schema.field(others[0]).type}: decode codes first" if others else ""
        message = f"no column of float lists among {', '.join(schema.names) or 'none'}{kinds}; write one as `vector`."
        raise DataError(message, file=file)
    named = next((name for wanted in VECTORS for name in found if name.lower() == wanted), None)
    if named is None and len(found) > 1:
        raise InputError(f"{file} has {len(found)} columns of float lists: {', '.join(found)}; choose one by its name.")
    return named or found[0]


def _id_column(file: str, schema: Any) -> tuple[str, IdType]:
    """The first of the usual names that holds strings or integers, or none."""
    import pyarrow.types as t

    for wanted in IDS:
        for name in (n for n in schema.names if n.lower() == wanted):
            kind = schema.field(name).type
            if t.is_integer(kind):
                return name, "integer"
            if t.is_string(kind) or t.is_large_string(kind) or getattr(t, "is_string_view", lambda _: False)(kind):
                return name, "string"
            if wanted in ("id", "_id"):
                raise DataError(f"the column {name!r} is {kind}; write the ids as strings or integers.", file=file)
    return "", "row"


def _matrix(file: str, column: Any, dimension: int, done: int) -> NDArray[Any]:
    """A list column as (n, d). DataError naming the first row that is null, ragged, or holds a null."""
    import pyarrow.types as t

    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"row {done + row + 1}: no vector (null); fill or remove the row.", file=file)
    if not t.is_fixed_size_list(column.type):
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        if (lengths != dimension).any():
            row = int(np.flatnonzero(lengths != dimension)[0])
            message = f"row {done + row + 1}: {lengths[row]} values where the first row has {dimension}; "
            raise DataError(message + "give all vectors one length.", file=file)
    flat = column.flatten()
    if flat.null_count:
        place = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0])
        message = f"row {done + place // dimension + 1}: a null among its values; fill or remove the row."
        raise DataError(message, file=file)
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(column), dimension)


def _names(file: str, column: Any, done: int) -> Sequence[str]:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"row {done + row + 1}: no id (null); give every row its own id.", file=file)
    return list(map(str, column.to_pylist()))


def _values(footer: Any, vector: str) -> int:
    """How many values the footer gives a column: a single list of a small file may be gigabytes."""
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    found = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(chunk.num_values for chunk in found if chunk.path_in_schema.startswith(f"{vector}."))


def _dimension(path: Path, source: Any, vector: str) -> int:
    """Of fixed-size lists the type's, else the length of the first row's."""
    kind = source.schema_arrow.field(vector).type
    if hasattr(kind, "list_size"):
        return int(kind.list_size)
    first = next(source.iter_batches(1, columns=[vector])).column(0)
    length = first.value_lengths()[0].as_py()
    if length is None:
        raise DataError("row 1: no vector (null); fill or remove the row.", file=shown(path))
    return int(length)


def open_parquet(path: Path, column: str | None, cap: int | None) -> VectorFile:
    """DataError where no column, or an unusable one, holds vectors; InputError where several could."""
    import pyarrow.parquet as pq

    file = shown(path)
    with pq.ParquetFile(path, buffer_size=1 << 16) as source:
        schema, rows = source.schema_arrow, source.metadata.num_rows
        if len(set(schema.names)) < len(schema.names):
            twice = next(n for n in schema.names if schema.names.count(n) > 1)
            raise DataError(f"duplicate header {twice!r}: rename or remove one of the columns.", file=file)
        vector = _vector_column(file, schema, column)
        id_name, id_type = _id_column(file, schema)
        if rows < 1:
            raise no_rows(file)
        check_cap(path, 4 * _values(source.metadata, vector), cap)
        dimension = _dimension(path, source, vector)
    kind = str(schema.field(vector).type.value_type.to_pandas_dtype().__name__)
    check_type(path, kind)
    check_shape(path, (rows, dimension))
    columns = Columns(schema, vector, id_name)

    def parts(size: int) -> Iterator[Part]:
        done = 0
        with pq.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as source:
            for batch in source.iter_batches(size if cap is None else min(size, _FEW)):
                ids = _names(file, batch.column(id_name), done) if id_name else None
                values = _matrix(file, batch.column(vector), dimension, done)
                yield ids, values, batch.select(list(columns.others)) if columns.others else None
                done += len(values)

    return VectorFile(path, "parquet", rows, dimension, kind, id_type, parts, columns, cap)
