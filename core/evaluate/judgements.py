"""Which documents are relevant to which query, as index arrays; the scores that are ranked, and the first k by them.

The tie rule of every figure stands here: scores are rounded to 1e-6, then documents go by id, descending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.types import Floats, Ints, Metric, centred, unit

MISSING = 1 << 40  # the rank of a document that cannot be retrieved at all
STEP = 1e-6  # scores are rounded to this before they are ranked
NOISE = 5e-7  # what float32 cannot tell apart, in units of |q| |d|
AXES = 64  # axes added up in one product: more at a time gather more rounding than NOISE


@dataclass(frozen=True, eq=False)
class Judgements:
    """Which documents are judged for which query, as index arrays (rows = queries, columns = documents).

    query_rows (q,)   the row of each judged query in the queries' matrix
    columns    (n,)   the document row that stands in each column: ids in descending order
    pointer    (q+1,) where each query's judged documents begin in `judged` and `grades`
    judged     (j,)   columns, -1 for a document that is gone from the index; grades (j,) > 0
    own        (q,)   the column of the query itself where it is a document, else -1
    hidden     (h, 2) or None: query and column of what a query never retrieves (a user's training items), by query
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
        hidden = (
            np.zeros(0, np.int64)
            if self.hidden is None
            else self.hidden[slice(*np.searchsorted(self.hidden[:, 0], (query, query + 1))), 1]
        )
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
            hidden = hidden[np.argsort(hidden[:, 0], kind="stable")]
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


def between(hidden: Ints, first: int, last: int) -> Ints:
    """The rows of `hidden` of the queries first..last - 1."""
    return hidden[slice(*np.searchsorted(hidden[:, 0], (first, last)))]


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
        ints(rows), columns, ints(pointer), ints(judged), np.array(grades, np.float64), own
    )  # fmt: skip


def ints(values: Any) -> Ints:
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
        return Judgements(ints([]), columns, ints([0]), ints([]), np.zeros(0), ints([]))
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
    return Judgements(ints(np.arange(len(queries))), columns, ints(pointer), found.ravel(), grades, own_columns)


def similarity(queries: Floats, documents: Floats, metric: Metric) -> Floats:
    """(q, n) serving scores: cosine, the plain dot product, or minus half the squared distance."""
    if metric == "cosine":
        queries, documents = unit(queries), unit(documents)
    if metric == "l2":
        queries, documents = centred(queries, documents)
    out = np.zeros((len(queries), len(documents)), np.float32)
    for a in range(0, documents.shape[1], AXES):
        out += queries[:, a : a + AXES] @ documents[:, a : a + AXES].T
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
