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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.types import Floats, Ints, Metric, unit

MISSING = 1 << 40  # the rank of a document that cannot be retrieved at all
STEP = 1e-6  # scores are rounded to this before they are ranked
NOISE = 5e-7  # what float32 cannot tell apart, in units of |q| |d|
_AXES = 64  # axes added up in one product: more at a time gather more rounding than NOISE
_QUERIES, _DOCUMENTS = 128, 2048  # a tile of scores: small enough to stay in a core's cache


@dataclass(frozen=True, eq=False)
class Judgements:
    """Which documents are judged for which query, as index arrays (rows = queries, columns = documents).

    query_rows (q,)   the row of each judged query in the queries' matrix
    columns    (n,)   the document row that stands in each column: ids in descending order
    pointer    (q+1,) where each query's judged documents begin in `judged` and `grades`
    judged     (j,)   columns, -1 for a document that is gone from the index; grades (j,) > 0
    own        (q,)   the column of the query itself where it is a document, else -1
    hidden     (h, 2) or None: query and column of what a query never retrieves (a user's training items)
    """

    query_rows: Ints
    columns: Ints
    pointer: Ints
    judged: Ints
    grades: NDArray[np.float64]
    own: Ints
    hidden: Ints | None = None

    def __len__(self) -> int:
        return len(self.query_rows)

    @property
    def owner(self) -> Ints:
        """(j,) the judged query each judged document belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.pointer))

    def never(self, query: int) -> Ints:
        """The columns that a judged query never retrieves: itself, and what is hidden from it."""
        hidden = np.zeros(0, np.int64) if self.hidden is None else self.hidden[self.hidden[:, 0] == query, 1]
        return hidden if self.own[query] < 0 else np.append(hidden, self.own[query])

    def only(self, queries: NDArray[Any]) -> Judgements:
        """The same judgements for some of the judged queries (indices into 0..q-1)."""
        queries = np.asarray(queries, np.int64)
        lengths = np.diff(self.pointer)[queries]
        pick = np.concatenate([np.arange(self.pointer[i], self.pointer[i + 1]) for i in queries] or [np.zeros(0, int)])
        pointer = np.concatenate([[0], np.cumsum(lengths)])
        hidden = self.hidden
        if hidden is not None:
            place = np.full(len(self), -1, np.int64)
            place[queries] = np.arange(len(queries))
            hidden = np.stack([place[hidden[:, 0]], hidden[:, 1]], axis=1)[place[hidden[:, 0]] >= 0]
        return Judgements(
            self.query_rows[queries], self.columns, pointer, self.judged[pick], self.grades[pick], self.own[queries],
            hidden,
        )  # fmt: skip

    def left(self, rows: Ints) -> Judgements:
        """The same where only these document rows (ascending) are left in the index; relevant ones stay relevant."""
        new_row = np.full(len(self.columns) + 1, -1, np.int64)
        new_row[rows] = np.arange(len(rows))
        stays = new_row[self.columns] >= 0
        new_column = np.append(np.where(stays, np.cumsum(stays) - 1, -1), -1)  # the last entry is for -1 itself
        hidden = self.hidden
        if hidden is not None:
            hidden = np.stack([hidden[:, 0], new_column[hidden[:, 1]]], axis=1)[new_column[hidden[:, 1]] >= 0]
        return Judgements(
            self.query_rows, new_row[self.columns[stays]], self.pointer, new_column[self.judged], self.grades,
            new_column[self.own], hidden,
        )  # fmt: skip


def column_order(ids: Sequence[str]) -> Ints:
    """Document rows in the order of their ids, descending: the order in which ties are broken."""
    return np.array(sorted(range(len(ids)), key=lambda i: ids[i], reverse=True), np.int64)


def from_qrels(
    query_ids: Sequence[str], document_ids: Sequence[str], qrels: Mapping[str, Mapping[str, int]]
) -> Judgements:
    """Judgements of the queries that have at least one relevant document (grade > 0) in the corpus."""
    columns = column_order(document_ids)
    column_of = {document_ids[int(row)]: c for c, row in enumerate(columns)}
    rows, pointer, judged, grades = [], [0], [], []
    for row, query in enumerate(query_ids):
        found = sorted((column_of[d], g) for d, g in qrels.get(query, {}).items() if g > 0 and d in column_of)
        if found:
            rows.append(row)
            judged += [c for c, _ in found]
            grades += [float(g) for _, g in found]
            pointer.append(len(judged))
    own = np.full(len(rows), -1, np.int64)
    return Judgements(
        _ints(rows), columns, _ints(pointer), _ints(judged), np.array(grades, np.float64), own
    )  # fmt: skip


def _ints(values: Any) -> Ints:
    return np.asarray(values, np.int64)


def from_neighbours(
    queries: Floats,
    documents: Floats,
    document_ids: Sequence[str],
    own: Ints,
    *,
    k: int = 10,
    metric: Metric = "cosine",
) -> Judgements:
    """The k nearest documents of every query in these vectors, as binary judgements (*agreement*).

    own (q,) is the document row of a query that is a document itself, else -1: it never retrieves itself.
    k is clamped to the documents there are; with none to find, no query is judged.
    """
    columns = column_order(document_ids)
    inverse = np.empty(len(columns), np.int64)
    inverse[columns] = np.arange(len(columns))
    own_columns = np.where(own >= 0, inverse[own], -1)
    k = min(k, len(document_ids) - int((own >= 0).any()))
    if k < 1:
        return Judgements(_ints([]), columns, _ints([0]), _ints([]), np.zeros(0), _ints([]))
    ordered = documents[columns]
    found = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), 256):
        block = slice(start, start + 256)
        scores = similarity(queries[block], ordered, metric)
        mine = own_columns[block]
        scores[np.flatnonzero(mine >= 0), mine[mine >= 0]] = -np.inf
        for i, row in enumerate(scores):
            found[start + i] = top(row, k)
    pointer = np.arange(len(queries) + 1) * k
    grades = np.ones(found.size)
    return Judgements(_ints(np.arange(len(queries))), columns, _ints(pointer), found.ravel(), grades, own_columns)


def similarity(queries: Floats, documents: Floats, metric: Metric) -> Floats:
    """(q, n) serving scores: cosine, the plain dot product, or minus half the squared distance."""
    if metric == "cosine":
        queries, documents = unit(queries), unit(documents)
    out = np.zeros((len(queries), len(documents)), np.float32)
    for a in range(0, documents.shape[1], _AXES):
        out += queries[:, a : a + _AXES] @ documents[:, a : a + _AXES].T
    if metric == "l2":
        out -= (np.einsum("ij,ij->i", queries, queries)[:, None] + np.einsum("ij,ij->i", documents, documents)) / 2
    return out


def top(scores: Floats, k: int) -> Ints:
    """Columns of the k highest scores after rounding to 1e-6, best first, ties to the lower column."""
    k = min(k, len(scores))
    if k <= 0:
        return np.zeros(0, np.int64)
    edge = np.partition(scores, len(scores) - k)[len(scores) - k]
    noise = NOISE * max(1.0, float(scores.max()), -float(edge) if np.isfinite(edge) else 0.0)
    candidates = np.flatnonzero(scores >= edge - 2 * (STEP + noise))
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    found = scores[candidates].astype(np.float64)
    with np.errstate(invalid="ignore"):  # among excluded ones, at minus infinity, the gap is no number
        new = (np.diff(np.floor(found / STEP + 0.5)) != 0) & (np.diff(found) < -noise)
    place = np.concatenate([[0], np.cumsum(new)])
    return candidates[np.lexsort((candidates, place))[:k]]


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
    edges = _ints([0, *cuts])
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
            for start in range(a, b, _AXES):
                if start > a:
                    total += part
                axes = slice(start, min(start + _AXES, b))
                np.matmul(self.q[rows, axes], d[axes], out=part)
            yield cut, total, part


def _rank_block(work: _Work, rows: slice, out: Ints) -> None:
    """Add to `out`, tile by tile of documents, how many stand above each judged document of these queries."""
    task, count = work.task, _kernel()
    pointer = task.pointer[rows.start : rows.stop + 1]
    tie, above = _thresholds(work, rows)
    n, never = work.d.shape[1], np.zeros((0, 2), np.int64) if task.hidden is None else task.hidden
    never = never[(never[:, 0] >= rows.start) & (never[:, 0] < rows.stop)] - [rows.start, 0]
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
