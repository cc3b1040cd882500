"""Whole vectors by likeness: near-copies are folded into one of them, or into their mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from core.methods.base import Card, VectorMethod, option
from core.neighbours import alike, distinct, frame, nearest
from core.types import FitContext, Floats, Ints, Progress, Ranking

_ROWS_PER_SEARCH = 20_000  # of a large index several groups wait for each other, and search in one product
_NOISE = 1e-6  # what float32 cannot tell apart


@dataclass(frozen=True)
class Duplicates(VectorMethod):
    """Fold rows into their likes, the closest first, until one is left.  O(n^2 d), sparse above 30,000 rows.

    Edges of the k-nearest-neighbour graph are contracted in descending order of link. The link of two groups is the
    mean similarity of the rows that go to the survivor that stays, which is the one more similar to all rows of
    both: so no chain of near-copies grows long. `levels` are the links, `into` the survivors; a link of 1 is a
    copy, whatever the metric (core.neighbours). A group without an edge left looks for its neighbours again.
    """

    card: ClassVar[Card] = Card(
        name="vectors/duplicates",
        criterion="similarity",
        label="Duplicates (near-copies)",
        idea="Fold near-copies into one of them, the closest first; a hit on the survivor stands for its group.",
        cost="A neighbour graph: a minute for 100,000 rows.",
        benefits="Copies cost nothing: the id map expands a hit to its group, so that every row is still found.",
        limits="Beyond real copies a group is only alike: its rows are found together, in one place of the ranking.",
        reference="Agglomeration on a neighbour graph; cf. Abbas et al., SemDeDup, arXiv 2303.09540.",
        kind="groups",
        thresholds=True,
        slow=True,
    )
    k: int = option(16, "neighbours per row in the graph", 1, 200)

    def rank(self, context: FitContext) -> Ranking:
        z = frame(context.documents, context.metric)
        first, place = distinct(z)
        near = nearest(z[first], self.k, context.progress)
        central = near.similarities.sum(axis=1, dtype=np.float64)
        folding = _Folding(z[first], np.bincount(place).astype(np.float64), central)
        folding.join(np.arange(len(first)), near.rows, near.similarities)
        order = folding.run(self.k, context.progress)
        n, copies = len(z), np.setdiff1d(np.arange(len(z)), first)[::-1]
        scores, into, levels = np.empty(n, np.float32), first[place], np.ones(n, np.float32)
        scores[np.concatenate([copies, first[order]])] = np.arange(n)
        into[first], levels[first] = first[folding.into], folding.levels
        return Ranking(self.card.name, scores, notes=near.notes, into=into, levels=levels)


@dataclass(frozen=True)
class Centroid(Duplicates):
    """The groups of `duplicates`, each with the mean of its rows as its vector.  O(n^2 d), sparse above 30,000 rows."""

    card: ClassVar[Card] = Card(
        name="vectors/centroid",
        criterion="similarity",
        label="Centroid (mean of a group)",
        idea="Fold near-copies together as `duplicates` does, and keep the mean of each group instead of a member.",
        cost="A neighbour graph: a minute for 100,000 rows.",
        benefits="The mean lies closer to its rows than any of them: less is lost where groups are large.",
        limits="Merged: the vectors that stay are no longer those of any text, and cannot be made again from one.",
        reference="Ward, 1963, for means of groups; the groups are those of `duplicates`.",
        kind="groups",
        thresholds=True,
        merges=True,
        slow=True,
    )


class _Folding:
    """Groups of rows z (n, d), each with a survivor, that are folded into one another one by one.

    `weights` (n,) are how many rows of the index each row stands for. An edge is a key, minus the link, and two rows;
    the first edge is taken, and put back where its link has changed since, because its groups grew.
    """

    def __init__(self, z: Floats, weights: NDArray[np.float64], central: NDArray[np.float64]) -> None:
        n = len(z)
        self.z, self.central = z, central
        self.half = (z.astype(np.float64) ** 2).sum(axis=1) / 2
        self.sums, self.counts, self.halves = z * weights[:, None].astype(np.float32), weights, self.half * weights
        self.own = weights.copy()  # sum of the similarities of a group's rows to its survivor
        self.root, self.edges = np.arange(n), np.zeros(n, np.int64)  # ends of edges at each group
        self.keys, self.ends = np.zeros(0), np.zeros((0, 2), np.int64)
        self.into, self.levels = np.arange(n), np.full(n, -np.inf, np.float32)
        self.gone, self.lonely = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.pool, self.pooled = np.arange(n), z

    def run(self, k: int, progress: Progress) -> Ints:
        """Fold until one row is left; the rows in the order in which they go, and that one."""
        n, gone, alone, step = len(self.z), 0, 0, _compiled()
        while gone < n - 1:
            if not len(self.keys) or alone > (n - gone) // _ROWS_PER_SEARCH:
                rows = np.unique(self.lonely[:alone])
                self.search(rows[(self.root[rows] == rows) & (self.edges[rows] == 0)], k, n - gone)
                alone = 0
            size, gone, alone = step(
                self.keys, self.ends, self.z, self.half, self.sums, self.counts, self.halves, self.own, self.central,
                self.root, self.edges, self.into, self.levels, self.gone, gone, self.lonely, alone,
                (n - gone) // _ROWS_PER_SEARCH,
            )  # fmt: skip
            self.keys, self.ends = self.keys[:size], self.ends[:size]
            progress("folding rows", gone, n)
        return np.append(self.gone[:gone], np.flatnonzero(self.root == np.arange(n)))

    def join(self, rows: Ints, found: Ints, similarities: Floats) -> None:
        """Edges from rows (a,) to those found (a, k); each pair once."""
        one, two = np.minimum(rows[:, None], found).ravel(), np.maximum(rows[:, None], found).ravel()
        _, kept = np.unique(one * len(self.z) + two, return_index=True)
        ends = np.stack([one[kept], two[kept]], axis=1)
        self.edges += np.bincount(ends.ravel(), minlength=len(self.z))
        keys = np.concatenate([self.keys, -similarities.ravel()[kept].astype(np.float64)])
        ends = np.concatenate([self.ends, ends])
        order = np.lexsort((ends[:, 1], ends[:, 0], keys))  # what is sorted is a heap
        self.keys, self.ends = keys[order], ends[order]

    def search(self, rows: Ints, k: int, left: int) -> None:
        """Edges from some survivors to the k nearest of the others, all compared."""
        there = self.root[self.pool] == self.pool
        if 2 * left <= len(self.pool):  # the gone make searches slow: leave them out
            self.pool = self.pool[there]
            self.pooled, there = self.z[self.pool], np.ones(len(self.pool), bool)
        scores = self.z[rows] @ self.pooled.T - self.half[self.pool]
        scores[:, ~there] = -np.inf
        scores[np.arange(len(rows)), np.searchsorted(self.pool, rows)] = -np.inf
        k = min(k, left - 1)
        found = self.pool[np.argpartition(-scores, k - 1, axis=1)[:, :k]]
        self.join(rows, found, alike(self.z, rows, found))


@cache
def _parts() -> Any:
    """What the loop over edges is made of: a heap of edges, the survivor of a row, the likeness of two groups."""
    import numba

    @numba.njit(cache=True, nogil=True)
    def before(keys, ends, a, b):  # type: ignore[no-untyped-def]
        """Whether edge a comes before edge b."""
        if keys[a] != keys[b]:
            return keys[a] < keys[b]
        return ends[a, 0] < ends[b, 0] or (ends[a, 0] == ends[b, 0] and ends[a, 1] < ends[b, 1])

    @numba.njit(cache=True, nogil=True)
    def sink(keys, ends, size):  # type: ignore[no-untyped-def]
        """Move the first edge of a heap down to its place."""
        i = 0
        while 2 * i + 1 < size:
            low = 2 * i + 1
            if low + 1 < size and before(keys, ends, low + 1, low):
                low += 1
            if not before(keys, ends, low, i):
                return
            keys[i], keys[low] = keys[low], keys[i]
            for c in range(2):
                ends[i, c], ends[low, c] = ends[low, c], ends[i, c]
            i = low

    @numba.njit(cache=True, nogil=True)
    def find(root, i):  # type: ignore[no-untyped-def]
        """The survivor of a row's group."""
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    @numba.njit(cache=True, nogil=True)
    def towards(z, half, sums, counts, halves, i, j):  # type: ignore[no-untyped-def]
        """Sum of the similarities of the rows of group i to survivor j."""
        total = counts[i] * (1 - half[j]) - halves[i]
        for c in range(z.shape[1]):
            total += np.float64(sums[i, c]) * np.float64(z[j, c])
        return total

    return before, sink, find, towards


@cache
def _compiled() -> Any:
    """The loop over edges, compiled once (numba keeps the machine code on disk)."""
    import numba

    before, sink, find, towards = _parts()

    @numba.njit(cache=True, nogil=True)
    def step(  # type: ignore[no-untyped-def]
        keys, ends, z, half, sums, counts, halves, own, central, root, edges, into, levels,
        gone, done, lonely, alone, most,
    ):  # fmt: skip
        """Fold until 1,000 rows more are gone, no edge is left, or more than `most` groups have none left."""
        size, stop = len(keys), min(done + 1000, len(root) - 1)
        while size and done < stop and alone <= most:
            i, j = find(root, ends[0, 0]), find(root, ends[0, 1])
            if i != j:
                across = towards(z, half, sums, counts, halves, i, j)
                back = towards(z, half, sums, counts, halves, j, i)
                one, two = own[i] + back, own[j] + across  # all rows, to survivor i and to survivor j
                tie = abs(one - two) <= _NOISE * (counts[i] + counts[j])  # two rows: the more central one stays
                if (tie and (central[i], j) > (central[j], i)) or (not tie and one > two):
                    i, j, across, two = j, i, back, one
                keys[0] = -across / counts[i]  # i would go, j would stay
                if (size > 1 and before(keys, ends, 1, 0)) or (size > 2 and before(keys, ends, 2, 0)):
                    sink(keys, ends, size)
                    continue
                levels[i] = min(-keys[0], levels[gone[done - 1]] if done else 1.0)
                root[i], into[i], gone[done], own[j] = j, j, i, two
                sums[j] += sums[i]
                counts[j] += counts[i]
                halves[j] += halves[i]
                edges[j] += edges[i]
                done += 1
            edges[j] -= 2
            if edges[j] == 0:
                lonely[alone] = j
                alone += 1
            size -= 1
            keys[0], ends[0, 0], ends[0, 1] = keys[size], ends[size, 0], ends[size, 1]
            sink(keys, ends, size)
        return size, done, alone

    return step
