"""What vectors and models cost: bytes per vector, memory of an index, search time, encoding time.

Encoding is timed in a fresh process by `core/export/fresh.py`, dense and pruned in alternation.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from core.encoders import ModelInfo
from core.types import Floats


def vector_bytes(dimension: int) -> int:
    """Bytes one float32 vector takes in an index."""
    return 4 * dimension


def index_bytes(vectors: int, dimension: int) -> int:
    """Bytes of a flat index of so many vectors."""
    return vectors * vector_bytes(dimension)


def search_ms(queries: Floats, documents: Floats, k: int = 10, repeats: int = 5) -> float:
    """Milliseconds per query of an exact search: one matrix product and a top-k, median of the repeats."""
    asked = np.ascontiguousarray(queries[:64])
    if not len(asked) or not len(documents):
        return float("nan")
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        scores = asked @ documents.T
        np.argpartition(-scores, min(k, scores.shape[1] - 1), axis=1)[:, :k]
        times.append((time.perf_counter() - start) / len(asked) * 1000)
    return float(np.median(times))


def encode_cost(model: ModelInfo, timing: dict[str, Any] | None) -> dict[str, float]:
    """The cost block of a report: what the fresh process measured, FLOPs from the architecture."""
    length = timing["mean_tokens"] if timing else 64.0
    out = {"flops_per_token": model.flops_per_token(length), "mean_tokens": length}
    if timing:
        out["encode_ms_batch1"] = timing["ms_batch1"]
        out["encode_texts_per_second"] = timing["texts_per_second"]
        out["peak_memory_bytes"] = timing["peak_bytes"]
    return out
