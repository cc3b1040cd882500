"""How far the vectors moved, measured in the full space and never on a map.

Neighbour overlap@10 (share of a document's ten nearest that stay among its ten nearest), cosine after the
best rotation, and CKA. Each per document where that makes sense, so that it can colour a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.evaluate.judgements import Judgements, from_neighbours
from core.evaluate.ranking import ranks
from core.types import Floats, Ints, Metric, unit

PROBES = 1000  # documents whose neighbours are followed; seeded, stated


@dataclass(frozen=True, eq=False)
class Drift:
    """overlap and cosine per probed document; cka is one number for the whole set. `rows` are the probes."""

    rows: Ints
    overlap: NDArray[np.float64]
    cosine: NDArray[np.float64]
    cka: float
    k: int

    @property
    def summary(self) -> dict[str, float]:
        return {
            f"neighbour_overlap@{self.k}": float(self.overlap.mean()) if len(self.overlap) else float("nan"),
            "cosine": float(self.cosine.mean()) if len(self.cosine) else float("nan"),
            "cka": self.cka,
        }


def probes(n: int, seed: int = 0, most: int = PROBES) -> Ints:
    """A seeded sample of document rows, ascending; all of them where there are few."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


def neighbours(documents: Floats, rows: Ints, metric: Metric = "cosine", k: int = 10) -> Judgements:
    """The k nearest of each probed document in the full space: what the pruned space is held against."""
    ids = [f"{i:09d}" for i in range(len(documents))]
    return from_neighbours(documents[rows], documents, ids, rows, k=k, metric=metric)


def overlap(
    near: Judgements, probed: Floats, documents: Floats, cuts: list[int], metric: Metric
) -> NDArray[np.float64]:
    """(len(cuts), probes) share of the true neighbours that keep a rank within k, for axes in order."""
    k = int(near.pointer[1]) if len(near) else 0
    if k == 0:
        return np.ones((len(cuts), len(near)))
    found = ranks(near, probed, documents, cuts, metric)
    return np.asarray((found <= k).reshape(len(cuts), len(near), k).mean(axis=2))


def aligned_cosine(before: Floats, after: Floats) -> NDArray[np.float64]:
    """(n,) cosine of each vector with itself after the cut, under the best rotation between the two spaces.

    Orthogonal Procrustes: R = U V^T from the SVD of after^T before; a cut that only rotates costs nothing.
    """
    x, y = unit(before).astype(np.float64), unit(after).astype(np.float64)
    u, _, vt = np.linalg.svd(y.T @ x, full_matrices=False)
    return np.asarray(np.einsum("ij,ij->i", unit(y @ (u @ vt)), x))


def cka(before: Floats, after: Floats) -> float:
    """Linear centred kernel alignment in [0, 1]; Kornblith et al., ICML 2019, eq. 5. NaN where a side is constant."""
    x, y = (v.astype(np.float64) - v.mean(axis=0, dtype=np.float64) for v in (before, after))
    cross = np.linalg.norm(x.T @ y) ** 2
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(cross / own) if own > 1e-12 else float("nan")


def drift(
    before: Floats, after: Floats, *, metrics: tuple[Metric, Metric] = ("cosine", "cosine"),
    near: Judgements | None = None, asked: Floats | None = None, seed: int = 0, most: int = PROBES, k: int = 10,
) -> Drift:  # fmt: skip
    """All three, on seeded probes. `near` (from `neighbours`) may be passed where it is known already; `asked` are
    the same documents as the query side maps them, where it has a map of its own."""
    rows = probes(len(before), seed, most) if near is None else near.columns[near.own]
    near = neighbours(before, rows, metrics[0], k) if near is None else near
    moved = overlap(near, (after if asked is None else asked)[rows], after, [after.shape[1]], metrics[1])[0]
    k = int(near.pointer[1]) if len(near) else k
    return Drift(rows, moved, aligned_cosine(before[rows], after[rows]), cka(before[rows], after[rows]), k)
