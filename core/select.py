"""Ranking + cut -> Reduction, and the reduction applied to vectors. Both are cheap and decide nothing else.

select(rank, Cut(keep=128))   which units stay; nested across cuts of one ranking
apply(reduction, x)           normalise((x - mean) @ basis); an identity returns x itself
ordered(ranking, x)           all units, most important first: what a sweep accumulates
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from core.plan import Cut
from core.types import Floats, Metric, Ranking, Reduction, frozen, unit

Side = Literal["document", "query"]


def select(ranking: Ranking, cut: Cut, metric: Metric = "cosine") -> Reduction:
    """The units that stay at this cut. At ratio 0 the reduction is the identity: nothing is rotated either.

    Raises PlanError where the cut is outside what there is.
    """
    keep = cut.count(ranking.units)
    dimension = ranking.units if ranking.basis is None else len(ranking.basis)
    if keep == dimension:
        return Reduction(ranking.method, dimension, np.arange(dimension), metric=metric, identity=True)
    kept = ranking.order[:keep]
    if ranking.basis is None:
        return Reduction(ranking.method, dimension, np.sort(kept), metric=metric)
    query_basis = None if ranking.query_basis is None else frozen(ranking.query_basis[:, kept])
    return Reduction(
        ranking.method,
        dimension,
        kept,
        frozen(ranking.basis[:, kept]),
        query_basis,
        ranking.mean,
        "dot" if query_basis is not None else metric,
    )


def apply(reduction: Reduction, x: Floats, side: Side = "document") -> Floats:
    """x (n, d) -> (n, k), rows of length one where the metric is cosine. Ratio 0 returns x, bit for bit."""
    if reduction.identity:
        return x
    basis = reduction.query_basis if side == "query" and reduction.query_basis is not None else reduction.basis
    centred = x if reduction.mean is None else x - reduction.mean
    small = centred[:, reduction.kept] if basis is None else centred @ basis
    return unit(np.asarray(small, np.float32)) if reduction.metric == "cosine" else np.asarray(small, np.float32)


def ordered(ranking: Ranking, x: Floats, side: Side = "document") -> Floats:
    """x (n, d) -> (n, m) with the units in order of importance, not normalised: a cut is its first columns."""
    if ranking.basis is None:
        return np.ascontiguousarray(x[:, ranking.order])
    basis = ranking.query_basis if side == "query" and ranking.query_basis is not None else ranking.basis
    centred = x if ranking.mean is None else x - ranking.mean
    return np.asarray(centred @ basis[:, ranking.order])


def served(ranking: Ranking, metric: Metric) -> Metric:
    """The metric in the reduced space: two maps give plain dot products."""
    return "dot" if ranking.query_basis is not None else metric
