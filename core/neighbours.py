"""Rows as points: a hash of each, which are the same, and which lie nearest to each other.

Nearness is one measure for every metric, 1 for rows that are the same: 1 - |a - b|^2 / 2 of *framed* rows. For
cosine these are unit rows, so it is the cosine itself. A large dot product does not make two rows alike, nor does
an index searched by Euclidean distance know an origin: there the rows are measured in units of their own spread.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.types import Floats, Ints, Metric, Progress, quiet, unit

EXACT = 30_000  # rows up to which every pair is compared
RECALL = 0.95  # of the k nearest, on the sample, that an approximate search is widened to reach
SAMPLE = 200
_STEP = 4096  # rows that ask at a time
_BLOCK = 2**25  # numbers held at a time


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest other rows of every row, nearest first.

    rows          (n, k)
    similarities  (n, k): 1 - |a - b|^2 / 2, computed pair by pair, the same whatever found the pair
    recall        share of the true k nearest that was found, on 200 rows; 1 where every pair was compared
    """

    rows: Ints
    similarities: Floats
    recall: float = 1.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the ranking must know, if anything."""
        if self.recall == 1.0:
            return ()
        return (f"neighbours found approximately: recall {self.recall:.3f} on {SAMPLE} rows",)


def hashed(x: Floats, seed: int = 0) -> NDArray[np.uint64]:
    """(n, d) -> (n,): a number by the bytes of each row and the seed; it knows no position."""
    start = hashlib.blake2b(str(seed).encode(), digest_size=8)

    def one(row: Floats) -> bytes:
        h = start.copy()
        h.update((row + np.float32(0)).tobytes())  # -0 is 0
        return h.digest()

    return np.frombuffer(b"".join(map(one, x)), np.uint64)


def distinct(x: Floats) -> tuple[Ints, Ints]:
    """The first row (u,) of every set of equal rows, ascending, and (n,) which of these each row equals."""
    rows = np.ascontiguousarray(x + np.float32(0)).view(np.dtype((np.void, x.itemsize * x.shape[1]))).ravel()
    _, first, place = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order].astype(np.int64), np.argsort(order)[place.ravel()]


def frame(x: Floats, metric: Metric) -> Floats:
    """(n, d) -> the same rows, scaled so that 1 - |a - b|^2 / 2 says how alike two are.

    cosine  unit rows; a row of zeros has an axis of its own: cosine 0 to all but other such rows
    dot     divided by the root mean square length
    l2      centred, then divided likewise: nothing depends on where the origin lies
    """
    if metric == "cosine":
        rows, empty = unit(x), ~x.any(axis=1)
        return np.column_stack([rows, empty.astype(np.float32)]) if empty.any() else rows
    rows = x.astype(np.float64)
    rows = rows - rows.mean(axis=0) if metric == "l2" else rows
    scale = float(np.sqrt((rows**2).sum(axis=1).mean()))
    return (rows / (scale or 1.0)).astype(np.float32)


def nearest(z: Floats, k: int, progress: Progress = quiet) -> Neighbours:
    """The k nearest other rows of every framed row (n, d); k is at most n - 1.

    Exact up to 30,000 rows, O(n^2 d). Above that an inverted file: rows are clustered into 2 sqrt(n) lists (k-means on
    a sample), and each is compared with the rows of the lists nearest to it, of so many that the recall on another
    sample is at least 0.95. Both samples are drawn by content: row order does not matter.
    """
    import faiss

    n, k = len(z), min(k, len(z) - 1)
    if k < 1:
        return Neighbours(np.zeros((n, 0), np.int64), np.zeros((n, 0), np.float32))
    if n > EXACT:
        return _clustered(z, k, progress)
    found = np.empty((n, k), np.int64)
    for i in range(0, n, _STEP):
        asked = np.arange(i, min(i + _STEP, n))
        found[asked] = _without(asked, faiss.knn(z[asked], z, k + 1)[1])
        progress("nearest rows", asked[-1] + 1, n)
    return _sorted(z, found)


def alike(z: Floats, asked: Ints, rows: Ints) -> Floats:
    """(a, k): the similarities of the rows `asked` (a,) to `rows` (a, k), pair by pair."""
    similarities, step = np.empty(rows.shape, np.float32), max(1, _BLOCK // max(1, rows.shape[1] * z.shape[1]))
    for i in range(0, len(asked), step):
        gap = z[rows[i : i + step]] - z[asked[i : i + step], None]
        similarities[i : i + step] = 1 - np.einsum("ijk,ijk->ij", gap, gap) / 2
    return similarities


def _sorted(z: Floats, rows: Ints, recall: float = 1.0) -> Neighbours:
    """The rows in order of similarity; equal ones by index."""
    similarities = alike(z, np.arange(len(z)), rows)
    order = np.lexsort((rows, -similarities))
    return Neighbours(np.take_along_axis(rows, order, 1), np.take_along_axis(similarities, order, 1), recall)


def _without(asked: Ints, found: Ints) -> Ints:
    """(a, k + 1) -> (a, k): without the row that asks (of many equal rows it may not be among those found)."""
    away = found != asked[:, None]
    away[away.all(axis=1), -1] = False
    return np.asarray(found[away].reshape(len(found), -1), np.int64)


def _clustered(z: Floats, k: int, progress: Progress) -> Neighbours:
    import faiss

    n, count, by_hash = len(z), int(2 * len(z) ** 0.5), np.argsort(hashed(z))
    means = faiss.Kmeans(z.shape[1], count, niter=8, seed=0, max_points_per_centroid=64)
    means.train(z[by_hash[: 64 * count]])
    centres = np.asarray(means.centroids)
    home = faiss.knn(z, centres, 1)[1].ravel()
    lists = np.split(np.argsort(home, kind="stable"), np.cumsum(np.bincount(home, minlength=count))[:-1])
    sample = np.sort(by_hash[:SAMPLE])
    truth = _without(sample, faiss.knn(z[sample], z, k + 1)[1])
    width, recall = 8, 0.0
    while recall < RECALL and width < count:
        width = min(3 * width // 2, count)
        hits = [np.isin(a, b).mean() for a, b in zip(_probed(z, sample, k, centres, lists, width), truth, strict=True)]
        recall = float(np.mean(hits))
    found, step = np.empty((n, k), np.int64), max(1, _BLOCK // (width * (k + 1)))
    for i in range(0, n, step):
        asked = np.arange(i, min(i + step, n))
        found[asked] = _probed(z, asked, k, centres, lists, width)
        progress("nearest rows", asked[-1] + 1, n)
    return _sorted(z, found, recall)


def _probed(z: Floats, asked: Ints, k: int, centres: Floats, lists: list[Ints], width: int) -> Ints:
    """(a, k): the nearest other rows of `asked` in the `width` lists nearest to each; list by list, in products."""
    import faiss

    near = faiss.knn(z[asked], centres, width)[1]
    distances = np.full((len(asked), width, k + 1), np.inf, np.float32)
    rows = np.full(distances.shape, -1, np.int64)
    by_list = np.argsort(near, axis=None, kind="stable")
    parts = np.split(by_list, np.cumsum(np.bincount(near.ravel(), minlength=len(lists)))[:-1])
    for part, inside in zip(parts, lists, strict=True):
        if len(part) and len(inside):
            who, slot = np.divmod(part, width)
            most = min(k + 1, len(inside))
            distances[who, slot, :most], found = faiss.knn(z[asked[who]], z[inside], most)
            rows[who, slot, :most] = inside[found]
    first = np.argpartition(distances.reshape(len(asked), -1), k, axis=1)[:, : k + 1]
    best = np.take_along_axis(rows.reshape(len(asked), -1), first, axis=1)
    short = (best < 0).any(axis=1)
    if short.any():  # lists with too few rows
        best[short] = faiss.knn(z[asked[short]], z, k + 1)[1]
    return _without(asked, best)
