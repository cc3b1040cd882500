"""One query's results before and after, and one document's neighbours: what the Explore page shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.bench import Judge
from core.evaluate.judgements import similarity, top
from core.judging import reduced
from core.select import apply
from core.types import Ints, Reduction


@dataclass(frozen=True)
class Hits:
    """Document rows of the first hits before and after, and the grades of judged documents by id."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    grades: dict[str, int]


def hits(judge: Judge, reduction: Reduction, query: int, k: int = 10) -> Hits:
    """The first k documents of a judged query (its index in the per-query values), ties as everywhere."""
    assert judge.task is not None
    task, row = judge.task, int(judge.task.query_rows[query])
    documents, queries = reduced(judge, reduction)
    one = _first(
        judge,
        similarity(judge.queries.vectors[row : row + 1], judge.documents.vectors, judge.documents.metric)[0],
        query,
        k,
    )
    two = _first(judge, similarity(queries[row : row + 1], documents, reduction.metric)[0], query, k)
    span = slice(task.pointer[query], task.pointer[query + 1])
    ids = judge.dataset.documents.ids
    grades = {ids[int(task.columns[c])]: int(g) for c, g in zip(task.judged[span], task.grades[span], strict=True)
              if c >= 0}  # fmt: skip
    return Hits(one, two, grades)


def _first(judge: Judge, scores: NDArray[np.float32], query: int, k: int) -> tuple[int, ...]:
    assert judge.task is not None
    in_order = scores[judge.task.columns]
    in_order[judge.task.never(query)] = -np.inf
    return tuple(int(judge.task.columns[c]) for c in top(in_order, k))


def neighbours(judge: Judge, reduction: Reduction, row: int, k: int = 10) -> tuple[Ints, Ints]:
    """Rows of the k nearest documents of one document, before and after, itself left out."""
    documents = judge.documents.vectors
    small = apply(reduction, documents)
    asked = apply(reduction, documents[row : row + 1], "query")
    found = []
    for q, d, metric in (
        (documents[row : row + 1], documents, judge.documents.metric),
        (asked, small, reduction.metric),
    ):
        scores = similarity(q, d, metric)[0]
        scores[row] = -np.inf
        found.append(top(scores, min(k, len(documents) - 1)))
    return found[0], found[1]


def clusters(vectors: NDArray[np.float32], count: int = 8, seed: int = 0) -> NDArray[np.int64]:
    """A k-means cluster of every document in the full space, for colouring a map without topics."""
    from sklearn.cluster import KMeans

    count = max(1, min(count, len(np.unique(vectors, axis=0))))
    return np.asarray(KMeans(count, n_init=3, random_state=seed).fit_predict(vectors), np.int64)
