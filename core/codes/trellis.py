"""Choose the bits of a trellis code: the cheapest path through all that every number's bits could be (Viterbi).

O(axes * 256) additions a vector, in numpy over blocks of vectors. Reading needs none of it: see reader.numbers.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from core.codes.tables import START, WINDOW
from core.types import Floats

_BLOCK = 256  # vectors whose path costs, (256, 256) floats, stay in a core's cache


def choose(z: Floats, bits: NDArray[np.int64], table: Floats) -> NDArray[np.uint8]:
    """(n, m) the bits of every number, as small integers, that bring the looked-up values closest to z (n, m).

    bits (m,) in 1..8; table (9, 256), a row for each count of bits. Before the first number stand the bits of START.
    """
    blocks = [z[i : i + _BLOCK] for i in range(0, len(z), _BLOCK)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # numpy lets go of the interpreter: a core each
        parts = list(pool.map(lambda block: _block(block, bits, table), blocks))
    return np.concatenate(parts) if parts else np.zeros(z.shape, np.uint8)


def _block(z: Floats, bits: NDArray[np.int64], table: Floats) -> NDArray[np.uint8]:
    n, m = z.shape
    cost = np.full((n, WINDOW), np.inf, np.float32)
    cost[:, START] = 0
    new = np.empty_like(cost)
    came = []  # for each number and each string of bits that stay: which oldest bits fell out
    for i, b in enumerate(bits):
        least, dropped = _least(cost.reshape(n, 1 << b, WINDOW >> b))
        came.append(dropped)
        np.subtract(z[:, i, None], table[b], out=new)
        np.multiply(new, new, out=new)
        by_rest = new.reshape(n, WINDOW >> b, 1 << b)
        by_rest += least[:, :, None]
        cost, new = new, cost
    window, rows = cost.argmin(axis=1), np.arange(n)
    out = np.empty((n, m), np.uint8)
    for i in range(m - 1, -1, -1):
        b = int(bits[i])
        out[:, i] = window & ((1 << b) - 1)
        rest = window >> b
        window = rest + came[i][rows, rest].astype(np.int64) * (WINDOW >> b)
    return out


def _least(cost: Floats) -> tuple[Floats, NDArray[np.uint8]]:
    """Smallest over the middle axis and where it is; numpy's own argmin is far slower on so few."""
    least, where = cost[:, 0].copy(), np.zeros((cost.shape[0], cost.shape[2]), np.uint8)
    for i in range(1, cost.shape[1]):
        np.putmask(where, cost[:, i] < least, i)
        np.minimum(least, cost[:, i], out=least)
    return least, where
