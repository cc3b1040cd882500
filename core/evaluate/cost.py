"""What vectors and models cost: bytes per vector, memory of an index, search time, encoding time.

Encoding is timed in a fresh process by `core/export/fresh.py`, dense and pruned in alternation.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.anatomy import Shape
from core.types import Floats

LENGTH = 64.0  # tokens of a text, where none was measured


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

    def search() -> None:
        scores = asked @ documents.T
        np.argpartition(-scores, min(k, scores.shape[1] - 1), axis=1)[:, :k]

    return timed_ms(search, len(asked), repeats)


def timed_ms(work: Callable[[], object], count: int, repeats: int = 5) -> float:
    """Milliseconds of `work` for each of `count` things, median of the repeats."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) / count * 1000)
    return float(np.median(times))


def encode_cost(shape: Shape, timing: dict[str, Any] | None) -> dict[str, float]:
    """The cost block of a report: what the fresh process measured, FLOPs from the encoder's shape."""
    length = timing["mean_tokens"] if timing else LENGTH
    out = {"flops_per_token": shape.flops_per_token(length), "mean_tokens": length}
    if timing:
        out["encode_ms_batch1"] = timing["ms_batch1"]
        out["encode_texts_per_second"] = timing["texts_per_second"]
        out["peak_memory_bytes"] = timing["peak_bytes"]
    return out


def zipped_bytes(folder: Path) -> int:
    """Bytes of a folder's weight files when zipped (deflate, fastest level): what zeros save where sizes stay."""
    total = 0
    for file in sorted(folder.rglob("*.safetensors")):
        packer = zlib.compressobj(1)
        with file.open("rb") as source:
            while block := source.read(1 << 20):
                total += len(packer.compress(block))
        total += len(packer.flush())
    return total


def peak_bytes() -> int:
    """The most memory this process has held so far."""
    import resource
    import sys

    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
