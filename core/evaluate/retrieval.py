"""Retrieval quality from the ranks of the judged documents: trec_eval's definitions, per query.

nDCG@10 (linear gain), Recall@10 and @100, MRR@10, MAP@100. The mean is derived from the per-query values.
The official library (pytrec_eval) is the oracle in the tests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.evaluate.judgements import MISSING, Judgements, similarity, top
from core.types import Floats, Ints, Metric

MEASURES = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map@100")


def measures(task: Judgements) -> tuple[str, ...]:
    """What is measured; of recommendations (items a user has had are hidden) the hit rate first."""
    return MEASURES if task.hidden is None else ("hit_rate@10", *MEASURES)


def per_query(task: Judgements, ranks: Ints) -> dict[str, NDArray[np.float64]]:
    """Every measure for every judged query, from ranks (j,) that start at 1. Arrays have shape (q,)."""
    if len(task) == 0:
        return {m: np.zeros(0) for m in measures(task)}
    starts, owner = task.pointer[:-1], task.owner
    relevant = np.diff(task.pointer).astype(np.float64)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.add.reduceat(values, starts)

    within10, within100 = ranks <= 10, ranks <= 100
    gained = np.where(within10, task.grades / np.log2(ranks + 1.0), 0.0)
    order = np.lexsort((ranks, owner))  # relevant documents of a query, best first
    place = np.arange(len(ranks)) - starts[owner] + 1.0
    precision = np.zeros(len(ranks))
    precision[order] = place / ranks[order]
    first = np.minimum.reduceat(ranks, starts)
    hits = {} if task.hidden is None else {"hit_rate@10": (first <= 10).astype(np.float64)}
    return hits | {
        "ndcg@10": total(gained) / _ideal(task),
        "recall@10": total(within10.astype(np.float64)) / relevant,
        "recall@100": total(within100.astype(np.float64)) / relevant,
        "mrr@10": np.where(first <= 10, 1.0 / first, 0.0),
        "map@100": total(np.where(within100, precision, 0.0)) / relevant,
    }


def _ideal(task: Judgements) -> NDArray[np.float64]:
    """(q,) the DCG@10 of the best possible order."""
    owner = task.owner
    order = np.lexsort((-task.grades, owner))
    place = np.arange(len(order)) - task.pointer[:-1][owner] + 1.0
    gains = np.where(place <= 10, task.grades[order] / np.log2(place + 1.0), 0.0)
    return np.add.reduceat(gains, task.pointer[:-1])


def two_stage_ranks(
    task: Judgements, small: tuple[Floats, Floats], full: tuple[Floats, Floats], shortlist: int,
    metrics: tuple[Metric, Metric] = ("cosine", "cosine"),
) -> Ints:  # fmt: skip
    """(j,) ranks when the first `shortlist` hits on the pruned vectors are re-ordered by the full ones.

    `small` and `full` are (queries, documents). A judged document outside the shortlist is not retrieved.
    """
    out = np.full(len(task.judged), MISSING, np.int64)
    small_d, full_d = small[1][task.columns], full[1][task.columns]
    for start in range(0, len(task), 128):
        rows = task.query_rows[start : start + 128]
        coarse = similarity(small[0][rows], small_d, metrics[0])
        for i, scores in enumerate(coarse, start):
            never = task.never(i)
            scores[never] = -np.inf
            short = np.setdiff1d(top(scores, shortlist), never)  # a shortlist of everything would hold them
            fine = similarity(full[0][task.query_rows[i : i + 1]], full_d[short], metrics[1])[0]
            place = dict(zip(short[top(fine, len(short))].tolist(), range(1, len(short) + 1), strict=True))
            for p in range(task.pointer[i], task.pointer[i + 1]):
                out[p] = place.get(int(task.judged[p]), MISSING)
    return out
