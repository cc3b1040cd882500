"""Least squares for one linear layer y = X W + b from accumulated moments, and OBS elimination of its inputs.

Moments are added batch by batch, so that memory does not grow with the calibration texts: (p, p) for p inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
DAMP = 0.01  # ridge, as a share of the mean diagonal of the inputs' covariance


@dataclass(eq=False)
class Moments:
    """Sums over tokens of x, y, x x^T and x y^T for inputs (p,) and targets (q,)."""

    inputs: int
    outputs: int
    count: float = 0.0
    x: Matrix = field(init=False)
    y: Matrix = field(init=False)
    xx: Matrix = field(init=False)
    xy: Matrix = field(init=False)

    def __post_init__(self) -> None:
        p, q = self.inputs, self.outputs
        self.x, self.y, self.xx, self.xy = np.zeros(p), np.zeros(q), np.zeros((p, p)), np.zeros((p, q))

    def add(self, x: Any, y: Any) -> None:
        """Rows of torch tensors x (n, p) and y (n, q)."""
        self.count += len(x)
        self.x += x.sum(0).double().numpy()
        self.y += y.sum(0).double().numpy()
        self.xx += (x.T @ x).numpy()
        self.xy += (x.T @ y).numpy()

    def centred(self, bias: bool) -> tuple[Matrix, Matrix]:
        """Covariances of x with x and with y; plain second moments where the layer has no bias."""
        n = max(self.count, 1.0)
        if not bias:
            return self.xx / n, self.xy / n
        return self.xx / n - np.outer(self.x, self.x) / n**2, self.xy / n - np.outer(self.x, self.y) / n**2


def ridge(second: Matrix, damp: float = DAMP) -> float:
    return damp * float(np.trace(second)) / max(len(second), 1) + 1e-12


def refit(moments: Moments, weight: Matrix, kept: NDArray[np.int64], bias: bool) -> tuple[Matrix, Matrix]:
    """W (kept, q) and b (q,) that minimise |X_S W + b - Y|^2 + ridge |W - W_old|^2 over the kept inputs.

    weight (p, q) is the layer's present W: with few tokens the answer stays near it.
    """
    xx, xy = moments.centred(bias)
    lam = ridge(xx)
    gram = xx[np.ix_(kept, kept)] + lam * np.eye(len(kept))
    new = np.linalg.solve(gram, xy[kept] + lam * weight[kept])
    n = max(moments.count, 1.0)
    return np.asarray(new), moments.y / n - (moments.x[kept] / n) @ new


def eliminate(moments: Moments, weight: Matrix, keep: int, bias: bool, group: int = 1) -> NDArray[np.int64]:
    """The order in which OBS removes inputs (groups of `group` neighbours), least harmful first, down to `keep`.

    Starts from the ridge solution for all inputs; every step removes the group with the smallest increase of the
    squared error, tr(W_G^T ([H^-1]_GG)^-1 W_G), and updates W and H^-1 by Gaussian elimination. (p / group) steps of
    O(p^2). Source: Optimal Brain Surgeon (Hassibi & Stork 1993), for groups as in ZipLM (arXiv 2302.04089), eq. 3.
    """
    xx, xy = moments.centred(bias)
    lam = ridge(xx)
    inverse: Matrix = np.asarray(np.linalg.inv(xx + lam * np.eye(len(xx))), np.float64)
    w: Matrix = inverse @ (xy + lam * weight)
    return _single(inverse, w, keep) if group == 1 else _grouped(inverse, w, keep, group)


def _single(inverse: Matrix, w: Matrix, keep: int, lazy: int = 64) -> NDArray[np.int64]:
    """Groups of one. The diagonal of H^-1 and the norms of w's rows are carried along; the matrices themselves are
    updated once in `lazy` steps by one product, since rank-one updates would be bound by memory."""
    p, q = w.shape
    diagonal, norms = np.diagonal(inverse).copy(), np.einsum("ij,ij->i", w, w)
    columns, rows, owns = np.zeros((p, lazy)), np.zeros((lazy, p)), np.zeros((lazy, q))
    alive, removed, b = np.ones(p, bool), [], 0
    for _ in range(p - keep):
        u = int(np.where(alive, norms / np.maximum(diagonal, 1e-30), np.inf).argmin())
        row = inverse[u] - columns[u, :b] @ rows[:b]
        own = w[u] - columns[u, :b] @ owns[:b]
        column = row / max(row[u], 1e-30)
        dots = w @ own - columns[:, :b] @ (owns[:b] @ own)
        diagonal -= column * row
        norms += column * (column * float(own @ own) - 2.0 * dots)
        columns[:, b], rows[b], owns[b], b = column, row, own, b + 1
        alive[u] = False
        removed.append(u)
        if b == lazy:
            inverse, w, b = inverse - columns @ rows, w - columns @ owns, 0
    return np.asarray(removed, np.int64)


def _grouped(inverse: Matrix, w: Matrix, keep: int, group: int) -> NDArray[np.int64]:
    blocks = np.arange(len(inverse)).reshape(-1, group)
    alive = list(range(len(blocks)))
    removed = []
    while len(alive) > keep:
        cost = [float(np.sum(w[b] * np.linalg.solve(inverse[np.ix_(b, b)], w[b]))) for b in blocks[alive]]
        g = alive.pop(int(np.argmin(cost)))
        b = blocks[g]
        factor = inverse[:, b] @ np.linalg.inv(inverse[np.ix_(b, b)])
        w -= factor @ w[b]
        inverse -= factor @ inverse[b]
        w[b] = 0.0
        inverse[b] = 0.0
        inverse[:, b] = 0.0
        removed.append(g)
    return np.asarray(removed, np.int64)
