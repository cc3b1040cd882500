"""Whole vectors by what a row is, or by how crowded it stands: chance, length, a coreset's draw, density."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from core.methods.base import Card, VectorMethod, option
from core.neighbours import frame, hashed, nearest
from core.types import FitContext, Floats, Ints, Metric, Ranking, unit


def _ranks(keys: NDArray[Any]) -> Floats:
    """Scores in the order of the keys, equal where these are: float32 holds every rank, not every key."""
    return np.unique(keys, return_inverse=True)[1].ravel().astype(np.float32)


def _race(x: Floats, seed: int) -> NDArray[np.float64]:
    """(n,) one seeded draw from Exp(1) for each row, by its bytes."""
    return -np.log((hashed(x, seed).astype(np.float64) + 1) / 2.0**64)


def _spread(x: Floats, metric: Metric) -> NDArray[np.float64]:
    """(n,) squared distance of every row from the mean row, of unit rows for cosine."""
    rows = (unit(x) if metric == "cosine" else x).astype(np.float64)
    return np.asarray(((rows - rows.mean(axis=0)) ** 2).sum(axis=1))


@dataclass(frozen=True)
class Random(VectorMethod):
    """Keep a random set of rows: the baseline every other method must beat.  O(n d)."""

    card: ClassVar[Card] = Card(
        name="vectors/random",
        criterion="random",
        label="Random",
        idea="Keep rows drawn by chance.",
        cost="One hash per row.",
        benefits="The honest floor: what any cut of this size costs.",
        limits="A relevant row that goes is a miss: removing 30 % loses about 30 % of nDCG@10 where one row answers.",
        reference="Baseline.",
        kind="rows",
        learns_from="nothing",
        seeded=True,
        exempt=("scaling: the draw is by the bytes of a row",),
    )
    seed: int = option(0, "which draw", 0)

    def rank(self, context: FitContext) -> Ranking:
        return Ranking(self.card.name, _ranks(-_race(context.documents, self.seed)))


@dataclass(frozen=True)
class Norm(VectorMethod):
    """Score of a row: its length, or its distance from the mean where the metric ignores length.  O(n d).

    dot           |x|: a short row wins few searches
    cosine, l2    |x - mean| (of unit rows for cosine): the row's share of the variance; rows of zeros, which cosine
                  cannot find, go first
    """

    card: ClassVar[Card] = Card(
        name="vectors/norm",
        criterion="norm",
        label="Norm (contributes least)",
        idea="Short rows win few searches by dot product: drop them. For cosine and L2: rows close to the mean.",
        cost="One pass over the rows.",
        benefits="Instant; in recommender tables it finds the ids that were hardly trained.",
        limits="Looks at one row at a time: copies stay together. Weak for cosine, where all rows are equally long.",
        reference="Magnitude pruning: Han et al., NeurIPS 2015, applied to rows.",
        kind="rows",
    )

    def rank(self, context: FitContext) -> Ranking:
        x = context.documents
        if context.metric == "dot":
            return Ranking(self.card.name, np.linalg.norm(x, axis=1).astype(np.float32))
        scores = np.sqrt(_spread(x, context.metric))
        if context.metric == "cosine":
            scores[~x.any(axis=1)] = 0.0
        return Ranking(self.card.name, scores.astype(np.float32))


@dataclass(frozen=True)
class ImportanceSampling(VectorMethod):
    """Sample rows without replacement by their lightweight-coreset sensitivity.  O(n d).

    q(x) = 1 / 2n + |x - mean|^2 / 2 sum |x - mean|^2, of unit rows for cosine. Keys E / q with E ~ Exp(1) from a
    hash of the row make one nested order whose every prefix is such a sample (an exponential race).
    """

    card: ClassVar[Card] = Card(
        name="vectors/importance-sampling",
        criterion="importance-sampling",
        label="Importance sampling (coreset)",
        idea="Draw rows by chance, those far from the mean more often: every region keeps its share.",
        cost="One pass over the rows and one hash each.",
        benefits="No region is emptied; clustering costs survive the cut; its spread over seeds says how much is luck.",
        limits="A draw: read it with its spread. Close to random where all rows lie equally far from the mean.",
        reference="Bachem, Lucic & Krause, Scalable k-Means Clustering via Lightweight Coresets, KDD 2018.",
        kind="rows",
        seeded=True,
        exempt=("scaling: the draw is by the bytes of a row",),
    )
    seed: int = option(0, "which draw", 0)

    def rank(self, context: FitContext) -> Ranking:
        spread = _spread(context.documents, context.metric)
        share = 1 + spread * len(spread) / (spread.sum() or 1.0)
        return Ranking(self.card.name, _ranks(-_race(context.documents, self.seed) / share))


@dataclass(frozen=True)
class Density(VectorMethod):
    """Remove, one at a time, the row with the densest neighbourhood among those left.  O(n^2 d), sparse above 30,000.

    Density: mean similarity to the k nearest rows left. It only falls as rows go, so a heap with stale keys finds
    the maximum. Lists hold 4 k rows; when half of the rows are gone, they are made anew.
    """

    card: ClassVar[Card] = Card(
        name="vectors/density",
        criterion="density",
        label="Density (crowded rows)",
        idea="Take rows away where they stand closest together, one at a time, so that crowds thin out evenly.",
        cost="A neighbour graph, made anew at every halving: a minute and a half for 100,000 rows.",
        benefits="Keeps the rare and the strange; a cluster is thinned, never emptied.",
        limits="Popular topics are the crowded ones. What goes is gone: `duplicates` also says who stands for it.",
        reference="Density-based data pruning; cf. Abbas et al., SemDeDup, arXiv 2303.09540.",
        kind="rows",
        slow=True,
    )
    k: int = option(8, "neighbours that make a density", 1, 100)

    def rank(self, context: FitContext) -> Ranking:
        z = frame(context.documents, context.metric)
        left = np.arange(len(z))
        gone: list[Ints] = []
        notes: tuple[str, ...] = ()
        while len(left) > 1:
            near = nearest(z[left], 4 * self.k, context.progress)
            notes = notes or near.notes
            out = _thinned(near.rows, near.similarities, self.k, len(left) // 2)
            gone.append(left[out])
            left = np.delete(left, out)
        scores = np.empty(len(z), np.float32)
        scores[np.concatenate([*gone, left])] = np.arange(len(z))
        return Ranking(self.card.name, scores, notes=notes)


def _thinned(rows: Ints, similarities: Floats, k: int, count: int) -> Ints:
    """(count,) rows in the order in which they go; a neighbour that is gone, and not listed, counts as the last."""
    values = similarities.astype(np.float64)
    k = min(k, rows.shape[1])
    left = np.ones(len(rows), bool)
    heap = [(-float(v), -i) for i, v in enumerate(values[:, :k].sum(axis=1))]
    heapq.heapify(heap)
    out: list[int] = []
    while len(out) < count:
        _, i = heapq.heappop(heap)
        found = values[-i][left[rows[-i]]][:k]
        entry = (-float(found.sum() + (k - len(found)) * values[-i, -1]), i)
        if heap and entry > heap[0]:
            heapq.heappush(heap, entry)
            continue
        left[-i] = False
        out.append(-i)
    return np.asarray(out, np.int64)
