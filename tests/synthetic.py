"""Made-up data with the shape of the real thing, and the slow, plain definitions that the fast code is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.bench import Judge
from core.evaluate.judgements import from_qrels
from core.types import Dataset, Embeddings, FitContext, Floats, Metric, Texts

Qrels = Mapping[str, Mapping[str, int]]


# ---- a search task, and its ranks by sorting ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Case:
    """Queries, documents and judgements; several identical documents and zero vectors may be among them."""

    query_ids: list[str]
    document_ids: list[str]
    qrels: Qrels
    queries: Floats
    documents: Floats
    metric: Metric


def random_case(seed: int, *, n: int = 0, d: int = 0, queries: int = 0, metric: Metric | None = None) -> Case:
    """A seeded case: 1 to 300 documents, graded judgements, half of the cases with many identical documents."""
    rng = np.random.default_rng(seed)
    n, d, m = n or int(rng.integers(1, 300)), d or int(rng.integers(6, 40)), queries or int(rng.integers(1, 90))
    distinct = n if seed % 2 else max(1, n // 4)
    x = rng.normal(size=(distinct, d)) + rng.normal(size=d)
    documents = x[rng.integers(0, distinct, n)] if distinct < n else x
    asked = documents[rng.integers(0, n, m)] + 0.5 * rng.normal(size=(m, d))
    if n > 3:
        documents[rng.integers(0, n, max(1, n // 20))] = 0.0
    if m > 3:
        asked[rng.integers(0, m)] = 0.0
    ids = [f"d{i}" for i in rng.permutation(n)]  # d10 sorts before d9: ids are compared as text
    names = [f"q{i}" for i in range(m)]
    qrels = {
        q: {ids[j]: int(g) for j, g in zip(rng.integers(0, n, k), rng.integers(0, 4, k), strict=True)}
        for q, k in zip(names, rng.integers(1, min(12, n + 1) + 1, m), strict=True)
    }
    chosen: Metric = metric or ("dot" if rng.random() < 0.4 else "cosine")
    return Case(names, ids, qrels, asked.astype(np.float32), documents.astype(np.float32), chosen)


def exact_scores(queries: Floats, documents: Floats, metric: Metric) -> NDArray[np.float64]:
    """(q, n) scores in double precision, the same bits for identical documents."""
    distinct, place = np.unique(documents, axis=0, return_inverse=True)
    q, d = queries.astype(np.float64), distinct.astype(np.float64)
    scores = q @ d.T
    if metric == "cosine":
        norms = np.outer(np.linalg.norm(q, axis=1), np.linalg.norm(d, axis=1))
        scores = np.divide(scores, norms, out=np.zeros_like(scores), where=norms > 0)
    return np.asarray(scores[:, place.ravel()])


def rounded(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Scores in whole millionths: what is ranked."""
    return np.floor(scores / 1e-6 + 0.5).astype(np.int64)


def too_close(scores: NDArray[np.float64], row: int, size: float = 1.0) -> bool:
    """Whether another score lies so near to that of `row` that single precision decides which is higher.

    Equal scores are no problem: they tie. `size` is what the scores are measured in, |q| |d| for dot products.
    """
    gap = np.abs(scores - scores[row])
    return bool(((gap > 1e-12 * size) & (gap < 2.5e-6 * max(1.0, size))).any())


def sorted_ids(scores: NDArray[np.float64], ids: list[str], without: int = -1) -> list[str]:
    """Documents from best to worst: by rounded score, then by id, descending. `without` is left out."""
    keys = rounded(scores)
    rows = [i for i in range(len(ids)) if i != without]
    return [ids[i] for i in sorted(sorted(rows, key=lambda i: ids[i], reverse=True), key=lambda i: -keys[i])]


# ---- what a method learns from, and a judge -------------------------------------------------------------------


def _unit(x: NDArray[np.float64]) -> Floats:
    return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def documents_like_text(n: int, d: int, seed: int = 0) -> Floats:
    """Unit vectors with a common mean, a falling spectrum and noise, as sentence encoders give them."""
    rng = np.random.default_rng(seed)
    rank = max(1, d // 2)
    mixing = np.random.default_rng(99).normal(size=(rank, d)) * (1 + np.arange(rank))[:, None] ** -0.5
    mean = np.random.default_rng(98).normal(size=d)
    return _unit(0.6 * mean + rng.normal(size=(n, rank)) @ mixing + 0.3 * rng.normal(size=(n, d)))


def near(x: Floats, noise: float, seed: int) -> Floats:
    """Each row with noise of that length added, as a title or a sentence lies near its text."""
    rng = np.random.default_rng(seed)
    return _unit(x + noise * rng.normal(size=x.shape) / np.sqrt(x.shape[1]))


def context(n: int = 120, d: int = 24, seed: int = 0, each: int = 2) -> FitContext:
    """Documents with `each` pseudo-queries and one title-body pair taken from every one; all arrays read-only."""
    documents = documents_like_text(n, d, seed)
    owners = np.repeat(np.arange(n), each)
    asked = near(documents[owners], 0.7, seed + 1)
    titles, bodies = near(documents, 0.8, seed + 2), near(documents, 0.2, seed + 3)
    for array in (documents, owners, asked, titles, bodies):
        array.flags.writeable = False
    return FitContext(documents, asked, owners, (titles, bodies), pair_owners=owners[::each])


def judge(n: int = 240, d: int = 24, queries: int = 80, seed: int = 0, metric: Metric = "cosine") -> Judge:
    """A retrieval task: each query lies near one document (grade 2) whose two nearest are relevant too (grade 1)."""
    documents = documents_like_text(n, d, seed)
    rng = np.random.default_rng(seed + 10)
    wanted = rng.choice(n, queries, replace=False)
    asked = near(documents[wanted], 0.9, seed + 11)
    order = np.argsort(-(documents[wanted] @ documents.T), axis=1)[:, :3]
    ids = tuple(f"d{i}" for i in range(n))
    names = tuple(f"q{i}" for i in range(queries))
    qrels = {q: {ids[int(j)]: 2 if j == w else 1 for j in row} for q, w, row in zip(names, wanted, order, strict=True)}
    dataset = Dataset("synthetic", "retrieval", Texts(ids, ids), Texts(names, names), qrels)
    return Judge(dataset, Embeddings(documents, metric), Embeddings(asked, metric), from_qrels(names, ids, qrels))
