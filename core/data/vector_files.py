"""Vectors without a model: npy, npz, Parquet, word2vec and GloVe, safetensors, read as a stream or whole, and written.

open_vectors (the header, checked)  ->  VectorFile.batches  ->  open_writer(…).add, in bounded memory
read_vectors (all rows, or a seeded sample, in memory)
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from core.data import sampling
from core.data.readers import shown
from core.data.vector_arrays import open_npy, open_npz, open_safetensors
from core.data.vector_parquet import looks_like_parquet, open_parquet
from core.data.vector_record import CAP, Batch, Columns, VectorFile, Vectors, check_cap, damage_named
from core.data.vector_text import looks_like_text, open_binary, open_text
from core.data.vector_writers import Writer, open_writer
from core.errors import DataError, InputError
from core.types import Progress, frozen, quiet

__all__ = [
    "CAP", "SUFFIXES", "Batch", "Columns", "VectorFile", "Vectors", "Writer", "looks_like_vectors", "open_vectors",
    "open_writer", "read_vectors",
]  # fmt: skip

_OPEN = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".parquet": open_parquet,
    ".txt": open_text,
    ".vec": open_text,
    ".bin": open_binary,
    ".safetensors": open_safetensors,
}
SUFFIXES = tuple(_OPEN)  # which may hold vectors


def looks_like_vectors(path: Path) -> bool:
    """Whether a file holds vectors rather than texts: by its suffix, of .parquet and .txt by its beginning."""
    suffix = path.suffix.lower()
    if suffix not in (".parquet", ".txt"):
        return suffix in SUFFIXES
    try:
        return looks_like_parquet(path) if suffix == ".parquet" else looks_like_text(path)
    except Exception:  # whatever is wrong with it, opening it will say so
        return False


def open_vectors(path: Path, column: str | None = None, cap: int | None = None) -> VectorFile:
    """The header of a vector file, checked; its rows are read by `batches`.

    column  which Parquet column, or which array of a npz or safetensors file, holds the vectors
    cap     bytes that the file may decode to: CAP for an upload, None for a file of the user's own machine

    InputError where the choice is unclear, DataError where the file is damaged, of another kind, or has no rows.
    """
    suffix = path.suffix.lower()
    if suffix not in _OPEN and not os.path.isfile(path):
        raise InputError(f"no file at {str(path)!r}: give vectors ({', '.join(SUFFIXES)}).")
    if suffix not in _OPEN:
        raise InputError(f"{path.name} is no vector file that can be read: give one of {', '.join(SUFFIXES)}.")
    with damage_named(path):
        opened = _OPEN[suffix](path, column, cap)
        check_cap(path, 4 * opened.rows * opened.dimension, cap)
    return opened


def read_vectors(
    path: Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    column: str | None = None,
    progress: Progress = quiet,
    cap: int | None = None,
) -> Vectors:
    """A vector file in memory: 4 · rows · dimension bytes, and the ids.

    limit  at most so many rows: a seeded sample in file order, said in the notes; all rows are checked all the same

    Errors as in `open_vectors` and `VectorFile.batches`.
    """
    sampling.check_limit(limit)
    source = open_vectors(path, column, cap)
    count = source.rows if limit is None else min(limit, source.rows)
    try:
        keep = sampling.rows(source.rows, count, seed)
        out = np.empty((count, source.dimension), np.float32)
    except (MemoryError, ValueError) as e:
        message = f"{count:,} x {source.dimension:,} values do not fit into memory; read a sample with a limit."
        raise DataError(message, file=shown(path)) from e
    ids: list[str] = []
    done = 0
    for batch in source.batches(progress=progress):
        wanted = keep[len(ids) : np.searchsorted(keep, done + len(batch.ids))] - done
        out[len(ids) : len(ids) + len(wanted)] = batch.vectors[wanted]
        ids.extend(batch.ids[i] for i in wanted)
        done += len(batch.ids)
    notes = source.notes + ((sampling.said(count, source.rows, "vectors", seed),) if count < source.rows else ())
    return Vectors(tuple(ids), frozen(out), notes, source.id_type, source.form)
