"""What a bit string stands for: Lloyd-Max levels, and the tables of a trellis code; both for a unit Gaussian.

A table has 256 entries, one for each string of eight bits. A number that gets b bits is looked up by the eight bits
that end with its own. `scalar`: the bits before do not matter, the levels are Lloyd-Max's (Max, 1960). `trellis`: they
do, so that a sequence of numbers has far more levels to choose from than its bits alone would give: at one bit a
number the error falls from 0.363 to 0.287 of the variance, at two from 0.117 to 0.076 (0.25 and 0.0625 are the least
that any code could reach). Bit-shift trellis: Tseng et al., QTIP, NeurIPS 2024; Marcellin & Fischer, 1990.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from core.types import Floats

MOST = 8  # bits a number may get
WINDOW = 256  # entries of a table: eight bits
START = 3  # the eight bits before the first: those that leave the first numbers the best choice
_STRIDES = (129 | 7, 64 | 7, 32 | 3, 16 | 3, 8 | 1)  # steps between neighbours' levels, for 1..5 bits; searched
_TRELLIS_ERROR = (0.287, 0.0755, 0.0208, 0.0064, 0.0023)  # mean squared error of these, measured (tests/test_codes.py)


@cache
def levels(bits: int) -> tuple[NDArray[np.float64], float]:
    """The 2^bits levels that code a unit Gaussian best, ascending, and their mean squared error (Lloyd's iteration)."""
    from scipy.special import ndtr, ndtri

    count = 1 << bits
    x = np.sqrt(3.0) * ndtri((np.arange(count) + 0.5) / count)  # the best density for many levels: Panter & Dite, 1951
    x = np.zeros(1) if count == 1 else x
    for _ in range(2000):
        edges = np.concatenate([[-np.inf], (x[1:] + x[:-1]) / 2, [np.inf]])
        mass = np.diff(ndtr(edges))
        new = -np.diff(np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi)) / mass
        done, x = np.abs(new - x).max() < 1e-10, new
        if done:
            break
    return x, float(1 - (mass * x * x).sum())


@cache
def tables(coder: str) -> tuple[Floats, NDArray[np.float64]]:
    """(9, 256) tables and (9,) errors for 0 to 8 bits a number; `coder` is "trellis" or "scalar"."""
    from scipy.special import ndtri

    table, errors = np.zeros((MOST + 1, WINDOW), np.float32), np.ones(MOST + 1)
    for bits in range(1, MOST + 1):
        if coder == "trellis" and bits <= len(_STRIDES):  # more bits leave too few before them to gain by
            place = np.arange(WINDOW) * _STRIDES[bits - 1] % WINDOW
            table[bits], errors[bits] = ndtri((place + 0.5) / WINDOW), _TRELLIS_ERROR[bits - 1]
        else:
            found, errors[bits] = levels(bits)
            table[bits] = np.tile(found, WINDOW >> bits)
    return table, errors


def allocate(variances: NDArray[np.float64], errors: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Bits for every axis, `total` in all: one at a time to where it lowers sum variance * error(bits) most.

    Greedy is optimal as the gains fall with every bit (Shoham & Gersho, 1988). Axes without variance get none.
    """
    gains = -np.diff(errors)[:, None] * variances[None, :]  # (8, axes)
    order = np.argsort(-gains.ravel(), kind="stable")[:total]
    order = order[gains.ravel()[order] > 0]
    return np.bincount(order % len(variances), minlength=len(variances))
