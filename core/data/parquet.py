"""Parquet to rows: string-like columns only, a few rows at a time, decoded bytes counted while reading.

The footer is not believed: 212 kB can hold 2 GB. Integers are taken where they are ids or labels, exactly.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from core.data.readers import Table, no_rows, shown, unique_names
from core.errors import DataError
from core.types import Progress, quiet

CAP = 2 << 30  # decoded bytes
BATCH = 256  # rows: small, so that the count stops a bomb soon after the cap
EXACT = frozenset({"id", "_id", "label", "topic", "category", "class", "intent", "target"})


def _wanted(field: Any) -> bool:
    import pyarrow.types as t

    kind = field.type.value_type if t.is_dictionary(field.type) else field.type
    view = getattr(t, "is_string_view", lambda _: False)(kind)
    return bool(
        t.is_string(kind) or t.is_large_string(kind) or view or (t.is_integer(kind) and field.name.lower() in EXACT)
    )


def read_parquet(path: Path, progress: Progress = quiet) -> Table:
    """DataError where the file is no Parquet, decodes to over 2 GiB, has no text column or no rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = shown(path)
    rows: list[dict[str, Any]] = []
    try:
        schema = pq.read_schema(path)
        # text columns stay dictionaries, so that a value that stands a million times is held once
        with pq.ParquetFile(path, buffer_size=1 << 16, read_dictionary=schema.names) as source:
            unique_names(schema.names, file, None)
            names = [field.name for field in schema if _wanted(field)]
            if not names:
                message = f"no text column among {', '.join(schema.names) or 'none'}; add a string column `text`."
                raise DataError(message, file=file)
            columns = tuple(name.strip().lower() for name in names)
            total, decoded = source.metadata.num_rows, 0
            for batch in source.iter_batches(BATCH, columns=names):
                values = [_values(column) for column in batch.columns]
                decoded += sum(len(v) if isinstance(v, str) else 8 for v in chain(*values))
                if decoded > CAP:
                    message = f"decodes to more than {CAP:,} bytes (the limit, 2 GiB); split the file."
                    raise DataError(message, file=file)
                rows.extend(dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))
                progress(f"reading {file}", len(rows), max(total, len(rows)))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        message = f"not a readable Parquet file ({str(e)[:120]}); write it again, e.g. with pyarrow."
        raise DataError(message, file=file) from e
    if not rows:
        raise no_rows(file)
    return Table(file, columns, rows, range(1, len(rows) + 1), unit="row")


def _values(column: Any) -> list[Any]:
    """Python values; those of a dictionary are shared, not copied."""
    if not hasattr(column, "dictionary"):
        return list(column.to_pylist())
    shared = column.dictionary.to_pylist()
    return [None if i is None else shared[i] for i in column.indices.to_pylist()]
