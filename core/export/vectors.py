"""The projection that migrates an existing index without re-encoding, and the pruned vectors themselves.

projection.npz   matrix (d, k) float32; mean (d,) where the method centres; query_matrix (d, k) where queries
                 are mapped differently; kept (k,) where columns can simply be dropped
documents.npy    (n, k) float32; documents.parquet the same with ids, as a fixed-size list column
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.types import Floats, Reduction

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


def npy(vectors: Floats) -> bytes:
    out = io.BytesIO()
    np.save(out, vectors)
    return out.getvalue()


def write_vectors(reduction: Reduction, ids: Sequence[str], vectors: Floats, into: Path) -> None:
    """Projection, vectors in both forms."""
    (into / "projection.npz").write_bytes(projection(reduction))
    (into / "documents.npy").write_bytes(npy(vectors))
    (into / "documents.parquet").write_bytes(parquet(ids, vectors))
    (into / "apply.py").write_text(SNIPPET + "\n", encoding="utf-8")
