"""Ranks of the judged documents in ever smaller indexes: every cut of a ranking of whole vectors in one pass.

A row that goes changes no score; it only no longer stands above others. So scores are computed once, and for each
judged document the rows above it are counted by the place at which they go: a histogram, summed up, is its rank at
every cut. Ties as in ranking.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.evaluate.judgements import MISSING, NOISE, STEP, Judgements, similarity
from core.types import Floats, Ints, Metric, centred

_BLOCK = 64  # queries whose scores are held at a time


def ranks_left(
    task: Judgements, queries: Floats, documents: Floats, places: Ints, cuts: Sequence[int], metric: Metric = "cosine"
) -> Ints:
    """(len(cuts), j) rank of every judged document where the rows of the first `cut` places are left.

    places (n,) is the place of each document row in the order, most important first. A judged row that is gone has
    the rank MISSING. Cost: one matrix product and one pass over the rows for each judged document.
    """
    if metric == "l2":
        queries, documents = centred(queries, documents)
    place = places[task.columns]
    sizes = np.asarray(cuts, np.int64)
    ordered = np.sort(sizes)
    # the first cut, by size, at which a row is still there
    enters = np.searchsorted(ordered, place, side="right")
    out = np.full((len(sizes), len(task.judged)), MISSING, np.int64)
    columns = documents[task.columns]
    largest = _lengths(columns, metric)
    for start in range(0, len(task), _BLOCK):
        rows = task.query_rows[start : start + _BLOCK]
        scores = similarity(queries[rows], columns, metric)
        lengths = _lengths(queries[rows], metric)
        for i, own in enumerate(scores, start):
            noise = NOISE * float(lengths[i - start]) * largest
            wanted = task.judged[task.pointer[i] : task.pointer[i + 1]]
            levels = own[wanted].astype(np.float64)
            own[task.never(i)] = -np.inf
            for p, column, level in zip(range(task.pointer[i], task.pointer[i + 1]), wanted, levels, strict=True):
                if column >= 0:
                    out[:, p] = _counted(own, int(column), float(level), float(noise[column]), enters, len(sizes))
    by_size = out[np.searchsorted(ordered, sizes)]
    gone = place[task.judged][None, :] >= sizes[:, None]
    return np.where(gone | (task.judged < 0)[None, :], MISSING, by_size)


def _lengths(x: Floats, metric: Metric) -> NDArray[np.float64]:
    """(n,) what the rounding of a score grows with: 1 where vectors are scaled to length one."""
    return np.ones(len(x)) if metric == "cosine" else np.linalg.norm(x, axis=1).astype(np.float64)


def _counted(scores: Floats, column: int, level: float, noise: float, enters: Ints, cuts: int) -> Ints:
    """(cuts,) the rank of one document at every cut, ascending by size: rows that win a tie stand before it."""
    middle = np.floor(level / STEP + 0.5)
    low, high = min((middle - 0.5) * STEP, level - noise), max((middle + 0.5) * STEP, level + noise)
    before, behind = scores[:column] >= low, scores[column + 1 :] >= high
    found = np.bincount(enters[:column][before], minlength=cuts + 1)
    found += np.bincount(enters[column + 1 :][behind], minlength=cuts + 1)
    return np.asarray(1 + np.cumsum(found)[:cuts])
