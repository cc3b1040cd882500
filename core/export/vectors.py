"""The projection that migrates an existing index without re-encoding, and the pruned vectors themselves.

codebook.npz, reader.py    where vectors are stored as codes: what decodes and searches them, in numpy alone
codes.npy (n, bytes) uint8, codes.parquet the same with ids, ids.json the ids in the same order
projection.npz   matrix (d, k) float32; mean (d,) where the method centres; query_matrix (d, k) where queries
                 are mapped differently; kept (k,) where columns can simply be dropped
documents.npy    (n, k) float32; documents.parquet the same with ids, as a fixed-size list column
groups.json      where rows were folded together: the id of a survivor -> the ids that a hit on it stands for
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.codes import reader
from core.rows import folded
from core.types import Codes, Floats, Reduction, Rows, unit

SNIPPET = """import numpy as np
p = np.load("projection.npz")
def prune(vectors, side="document"):
    x = np.asarray(vectors, np.float32) - (p["mean"] if "mean" in p else 0)
    m = p["query_matrix"] if side == "query" and "query_matrix" in p else p["matrix"]
    y = x @ m
    return y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-30) if p["normalize"] else y
small = prune(np.load("my_vectors.npy"))"""


def projection(reduction: Reduction) -> bytes:
    """The bytes of projection.npz; a few hundred kB. Only plain arrays: it loads with allow_pickle=False."""
    arrays = {"matrix": reduction.matrix, "normalize": np.array(reduction.metric == "cosine")}
    if reduction.mean is not None:
        arrays["mean"] = reduction.mean
    if reduction.query_basis is not None:
        arrays["query_matrix"] = reduction.query_basis
    if reduction.basis is None:
        arrays["kept"] = reduction.kept
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def project(arrays: Mapping[str, NDArray[Any]], x: Floats, side: str = "document") -> Floats:
    """What SNIPPET does: vectors (n, d) of an index or its queries, by the arrays of a projection.npz."""
    matrix = arrays["query_matrix"] if side == "query" and "query_matrix" in arrays else arrays["matrix"]
    y = np.asarray(x - arrays["mean"] if "mean" in arrays else x, np.float32) @ matrix
    return unit(y) if arrays["normalize"] else np.asarray(y, np.float32)


def parquet(ids: Sequence[str], vectors: Floats) -> bytes:
    """Ids and vectors as Parquet: columns `id` (string) and `vector` (fixed-size list of float32)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    table = pa.table(
        {"id": pa.array(list(ids), pa.string()), "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def npy(vectors: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, vectors)
    return out.getvalue()


def groups(rows: Rows, ids: Sequence[str]) -> dict[str, list[str]]:
    """Survivor id -> the ids of the rows that were folded into it: a hit on it brings them all."""
    out: dict[str, list[str]] = {}
    for gone, survivor in folded(rows):
        out.setdefault(ids[survivor], []).append(ids[gone])
    return out


def write_groups(rows: Rows, ids: Sequence[str], into: Path) -> None:
    """groups.json, where any row was folded."""
    found = groups(rows, ids)
    if found:
        (into / "groups.json").write_text(json.dumps(found, ensure_ascii=False, indent=0), encoding="utf-8")


def write_vectors(reduction: Reduction, ids: Sequence[str], vectors: Floats, into: Path) -> None:
    """Projection, vectors in both forms."""
    (into / "projection.npz").write_bytes(projection(reduction))
    (into / "documents.npy").write_bytes(npy(vectors))
    (into / "documents.parquet").write_bytes(parquet(ids, vectors))
    (into / "apply.py").write_text(SNIPPET + "\n", encoding="utf-8")


READER = """import json, numpy as np
from reader import decode, lengths, search              # reader.py beside this file: numpy alone
book, codes = dict(np.load("codebook.npz")), np.load("codes.npy")
ids = json.load(open("ids.json", encoding="utf-8"))     # the id of each row
norms = lengths(codes, book)                            # once
rows, scores = search(codes, book, queries, 10, norms)  # float queries (q, d)
vectors = decode(codes, book)                           # where float vectors are wanted
# new documents, with Espalier: from core.codes import opened; opened(book).encode(vectors)"""


def codebook(codes: Codes) -> bytes:
    """The bytes of codebook.npz. Only plain arrays: it loads with allow_pickle=False."""
    out = io.BytesIO()
    np.savez(out, **codes.arrays())  # type: ignore[arg-type]
    return out.getvalue()


def write_codebook(codes: Codes, into: Path) -> None:
    """codebook.npz and its reader."""
    (into / "codebook.npz").write_bytes(codebook(codes))
    shutil.copyfile(reader.__file__, into / "reader.py")


def write_codes(codes: Codes, ids: Sequence[str], vectors: Floats, into: Path) -> None:
    """The vectors as codes, with their ids, in both forms."""
    stored = codes.encode(vectors)
    (into / "codes.npy").write_bytes(npy(stored))
    (into / "ids.json").write_text(json.dumps(list(ids)), encoding="utf-8")
    (into / "codes.parquet").write_bytes(coded_parquet(ids, stored))


CODED = ("id", "code")


def coded_parquet(ids: Sequence[str], codes: NDArray[np.uint8], more: Any = None) -> bytes:
    """Ids and codes (n, bytes) as Parquet: columns `id` (string) and `code` (binary of that size), and `more`'s."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stored = np.ascontiguousarray(codes)
    rows = pa.FixedSizeBinaryArray.from_buffers(pa.binary(codes.shape[1]), len(stored), [None, pa.py_buffer(stored)])
    table = pa.table(dict(zip(CODED, (pa.array(list(ids), pa.string()), rows), strict=True)))
    for name in () if more is None else more.schema.names:
        table = table.append_column(more.schema.field(name), more.column(name))
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()
