"""The reader's inner loop as machine code: what a stream of bits stands for, in one pass and on all cores.

    reader.search(codes, book, queries, k, norms, read=compiled.numbers)

The reader itself stays numpy alone; the numbers are the same to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.codes import reader
from core.types import Floats

_BLOCK = 1024  # vectors a core reads at a time


def numbers(codes: NDArray[np.uint8], book: Mapping[str, NDArray[Any]]) -> Floats:
    """The stored numbers (n, m) of codes (n, bytes), as reader.numbers gives them."""
    if "table" not in book:
        return np.asarray(reader.numbers(codes, book))
    ends = book["ends"].astype(np.int64)
    at, shift = (ends - 1) // 8, -ends % 8
    base, table = book["which"].astype(np.int64) * 256, book["table"].ravel()
    out, look_up = np.empty((len(codes), len(ends)), np.float32), _kernel()

    def part(first: int) -> None:
        rows = slice(first, first + _BLOCK)
        look_up(codes[rows], at, shift, base, table, int(book["start"]), out[rows])

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(part, range(0, len(codes), _BLOCK)))
    return out


@cache
def _kernel() -> Any:
    """The loop, compiled once (numba keeps the machine code on disk)."""
    import numba

    @numba.njit(cache=True, nogil=True)
    def look_up(codes, at, shift, base, table, start, out):  # type: ignore[no-untyped-def]
        for r in range(codes.shape[0]):
            row = codes[r]
            for i in range(at.shape[0]):
                place = at[i]
                before = np.int64(row[place - 1]) if place else start
                window = ((before << 8 | np.int64(row[place])) >> shift[i]) & 255
                out[r, i] = table[base[i] + window]

    return look_up
