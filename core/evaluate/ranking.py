"""Ranks of the judged documents at every cut, in one pass: the engine under every retrieval figure.

Every measure that trec_eval computes from judgements needs only the *ranks of the judged documents*, and
a rank is one plus the number of documents that score higher. So nothing is ever sorted: axes are taken in
order of importance, scores are accumulated block by block, and after each block one pass counts what
stands above each judged document. All cuts of a method cost about as much as one exact search.

Ties: scores are rounded to 1e-6, then go by document id, descending (trec_eval). Columns are kept in that
order, so among equal scores the lower column wins. BLAS gives identical documents scores that differ in the
last bits by where they stand, which may fall on two sides of a rounding edge; so scores closer than float32
can tell apart tie too.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.evaluate.judgements import AXES, MISSING, NOISE, STEP, Judgements, between, ints
from core.types import Floats, Ints, Metric, centred

_QUERIES, _DOCUMENTS = 128, 2048  # a tile of scores: small enough to stay in a core's cache


def ranks(
    task: Judgements,
    queries: Floats,
    documents: Floats,
    cuts: Sequence[int],
    metric: Metric = "cosine",
) -> Ints:
    """(len(cuts), j) rank of every judged document when only the first `cut` columns count, for each cut.

    queries (q, d) and documents (n, d) have their axes in order of importance, most important first; `cuts`
    are ascending numbers of axes. Cost: one matrix product over max(cuts) axes and one pass over the scores a
    cut, O(q n (d + cuts)), spread over the machine's cores; memory a few MB beside the inputs.
    """
    from threadpoolctl import threadpool_limits

    if metric == "l2":
        return np.concatenate([_l2_ranks(task, queries[:, :c], documents[:, :c]) for c in cuts])
    edges = ints([0, *cuts])
    q = np.ascontiguousarray(queries[task.query_rows], np.float32)
    d = np.ascontiguousarray(documents[task.columns].T, np.float32)  # (d, n): a block of axes is a block of rows
    lq, ld = _lengths(q.T, edges), _lengths(d, edges)
    work = _Work(task, q, d, _scales(lq, metric), _scales(ld, metric), lq, ld, edges)
    out = np.ones((len(cuts), len(task.judged)), np.int64)
    blocks = [slice(a, min(a + _QUERIES, len(q))) for a in range(0, len(q), _QUERIES)]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(lambda rows: _rank_block(work, rows, out), blocks))
    out[:, task.judged < 0] = MISSING
    return out


def _l2_ranks(task: Judgements, queries: Floats, documents: Floats) -> Ints:
    """Nearest by distance is largest by q.d - |d|^2 / 2: a dot product with one axis more, scaled like the others."""
    queries, documents = centred(queries, documents)
    squares = np.einsum("ij,ij->i", documents, documents, dtype=np.float64)
    level = np.sqrt(squares.mean()) or 1.0
    d = np.concatenate([documents, (-squares / (2 * level)).astype(np.float32)[:, None]], axis=1)
    q = np.concatenate([queries, np.full((len(queries), 1), level, np.float32)], axis=1)
    return ranks(task, q, d, [d.shape[1]], "dot")


def _lengths(x: Floats, edges: Ints) -> NDArray[np.float64]:
    """(cuts, items) the norm of the first `cut` rows of x (d, items)."""
    blocks = [np.einsum("ij,ij->j", x[a:b], x[a:b], dtype=np.float64) for a, b in itertools.pairwise(edges)]
    return np.asarray(np.sqrt(np.cumsum(blocks, axis=0)))


def _scales(lengths: NDArray[np.float64], metric: Metric) -> Floats:
    """One over each length, zero for a zero vector; ones where the metric is dot."""
    if metric == "dot":
        return np.ones(lengths.shape, np.float32)
    return np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Work:
    """What every block of queries reads: q (q, d), d (d, n), scales and lengths per cut, the edges between blocks."""

    task: Judgements
    q: Floats
    d: Floats
    scale_q: Floats
    scale_d: Floats
    length_q: NDArray[np.float64]
    length_d: NDArray[np.float64]
    edges: Ints

    def accumulate(self, rows: slice, columns: Any) -> Iterator[tuple[int, Floats, Floats]]:
        """(cut, scores so far, what is to be added to them) for each cut, both (rows, columns) and before scaling.

        The last addition is left to who reads them: the counting loop does it on its way.
        """
        d = self.d[:, columns]
        total = np.zeros((rows.stop - rows.start, d.shape[1]), np.float32)
        part = np.empty_like(total)
        for cut, (a, b) in enumerate(itertools.pairwise(self.edges)):
            if a == b:
                part[:] = 0
            for start in range(a, b, AXES):
                if start > a:
                    total += part
                axes = slice(start, min(start + AXES, b))
                np.matmul(self.q[rows, axes], d[axes], out=part)
            yield cut, total, part


def _rank_block(work: _Work, rows: slice, out: Ints) -> None:
    """Add to `out`, tile by tile of documents, how many stand above each judged document of these queries."""
    task, count = work.task, _kernel()
    pointer = task.pointer[rows.start : rows.stop + 1]
    tie, above = _thresholds(work, rows)
    n, never = work.d.shape[1], np.zeros((0, 2), np.int64) if task.hidden is None else task.hidden
    never = between(never, rows.start, rows.stop) - [rows.start, 0]
    for start in range(0, n, _DOCUMENTS):
        tile = slice(start, min(start + _DOCUMENTS, n))
        asking, column = never[(never[:, 1] >= start) & (never[:, 1] < tile.stop)].T
        for cut, scores, more in work.accumulate(rows, tile):
            scores[asking, column - start] = -np.inf  # for good: what is added later does not change it
            scale = work.scale_d[cut, tile]
            count(scores, more, scale, tie[cut], above[cut], pointer, task.judged, task.own[rows], start, out[cut])


def _thresholds(work: _Work, rows: slice) -> tuple[Floats, Floats]:
    """Two (cuts, j of these rows): the unscaled score from which a document ties with, or beats, the judged one.

    Its own rounding interval, widened to all that float32 cannot tell from its score.
    """
    task = work.task
    first, last = task.pointer[rows.start], task.pointer[rows.stop]
    columns, place = np.unique(task.judged[first:last], return_inverse=True)
    wide = np.resize(columns, max(64, -(-len(columns) // 64) * 64))  # a round width: the product's main loop
    owner = task.owner[first:last] - rows.start
    tie, above = (np.empty((len(work.edges) - 1, last - first), np.float32) for _ in range(2))
    for cut, scores, more in work.accumulate(rows, wide):
        scores += more
        unit = work.scale_q[cut, rows][owner].astype(np.float64) / STEP
        scaled = (scores[owner, place] * work.scale_d[cut, columns[place]]).astype(np.float64)
        mine = np.floor(scaled * unit + 0.5)
        with np.errstate(divide="ignore", invalid="ignore"):  # a zero query: every score is 0, all tie
            tie[cut] = np.where(unit > 0, (mine - 0.5) / unit, -1.0)
            above[cut] = np.where(unit > 0, (mine + 0.5) / unit, 1.0)
        d = columns[place]
        noise = NOISE * work.length_q[cut, rows][owner] * work.length_d[cut, d] * work.scale_d[cut, d]
        tie[cut] = np.minimum(tie[cut], scaled - noise)
        above[cut] = np.maximum(above[cut], scaled + noise)
    return tie, above


@cache
def _kernel() -> Any:
    """The counting loop, compiled once (numba keeps the machine code on disk)."""
    import numba

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def above_level(scores, scale, level):  # type: ignore[no-untyped-def]
        found = np.int32(0)  # as wide as a score, and indices from 0: so the loop runs in full vectors
        for j in range(scores.shape[0]):
            found = np.int32(found + np.int32(scores[j] * scale[j] >= level))
        return found

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def count(scores, more, scale, tie, above, pointer, judged, own, start, out):  # type: ignore[no-untyped-def]
        n = scores.shape[1]
        for i in range(scores.shape[0]):
            row, new = scores[i], more[i]
            for j in range(n):
                row[j] += new[j]
            for p in range(pointer[i], pointer[i + 1]):
                low, high = tie[p - pointer[0]], above[p - pointer[0]]
                mine = judged[p] - start  # its place in this tile, or outside it
                middle = min(max(mine, 0), n)
                behind = middle + (0 <= mine < n)
                higher = above_level(row[:middle], scale[:middle], low)  # these win a tie
                higher += above_level(row[behind:], scale[behind:], high)  # these lose it
                o = own[i] - start
                if 0 <= o < n and o != mine:
                    higher -= row[o] * scale[o] >= (low if o < mine else high)
                out[p] += higher

    return count
