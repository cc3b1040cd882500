"""The property battery, over every method in the registry (faults.md, last part).

A card's `exempt` names the properties that do not hold, each with its reason. An exemption must be needed: a
method that passes a property it is exempt from fails here, until the entry goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core import pipeline, registry
from core.errors import PlanError
from core.methods.base import Method
from core.plan import Cut, Step
from core.select import apply, ordered, select, served
from core.types import FitContext, Floats, Ranking, Reduction, digest
from tests.synthetic import context, near

Cls = type[Method]
METHODS = [pytest.param(m, id=m.card.name) for m in registry.METHODS]
every_method = pytest.mark.parametrize("cls", METHODS)
D = 16


def make(cls: Cls, **given_options: Any) -> Method:
    """The method with its defaults, but few steps where it trains."""
    few = {"steps": 20} if "steps" in cls.__dataclass_fields__ else {}
    return cls(**(few | given_options))


@cache
def usual() -> FitContext:
    return context(n=120, d=D)


@cache
def many() -> FitContext:
    """More documents and pseudo-queries than any method looks at: those that sample must choose."""
    return context(n=2300, d=8, each=1)


def rank(cls: Cls, on: FitContext, keep: int | None = None, **options: Any) -> Ranking:
    return make(cls, **options).rank(on, keep)


def product(ranking: Ranking, size: int) -> NDArray[np.float64]:
    """(d, d): the M of q^T M d, the score without normalising, when `size` units stay."""
    reduction = select(ranking, Cut(keep=size))
    one = np.eye(reduction.dimension) if reduction.identity else reduction.matrix.astype(np.float64)
    two = one if reduction.query_basis is None else reduction.query_basis.astype(np.float64)
    return np.asarray(one @ two.T)


def clear_cuts(ranking: Ranking) -> list[int]:
    """The sizes at which the last unit that stays and the first that goes are no near tie."""
    scores = ranking.scores[ranking.order].astype(np.float64)
    scale = np.ptp(scores) or 1.0
    return [k for k in range(1, len(scores)) if scores[k - 1] - scores[k] > 2e-4 * scale]


def same_answer(one: Ranking, two: Ranking, move: Callable[[NDArray[Any]], NDArray[Any]] = lambda m: m) -> None:
    """Assert that two rankings keep the same at every clear cut; `move` takes the first one's M to the second's."""
    assert one.units == two.units
    scale = float(np.ptp(one.scores)) or 1.0
    assert np.sort(two.scores) == pytest.approx(np.sort(one.scores), abs=1e-3 * scale)
    cuts = clear_cuts(one)
    assert len(cuts) >= one.units / 2, "too few cuts to compare"
    for k in cuts:
        wanted, found = move(product(one, k)), product(two, k)
        assert np.abs(found - wanted).max() <= 2e-3 * np.abs(wanted).max(), f"{k} units"


# ---- properties that a card may be exempt from ----------------------------------------------------------------


def idempotent(cls: Cls, on: FitContext) -> None:
    """Reduced, taken back by the same matrix, and reduced again: nothing changes any more."""
    for keep in (1, on.dimension // 2, on.dimension - 1):
        r = select(rank(cls, on, keep), Cut(keep=keep), "dot")
        once = apply(r, on.documents)
        back = once @ r.matrix.T + (0 if r.mean is None else r.mean)
        assert np.abs(apply(r, back.astype(np.float32)) - once).max() < 1e-5


def rows(cls: Cls, on: FitContext) -> None:
    """Documents, pseudo-queries and pairs in another order: the same answer."""
    rng = np.random.default_rng(3)
    new, asked = rng.permutation(len(on.documents)), rng.permutation(len(on.pseudo_queries))
    assert on.pairs is not None
    where = np.argsort(new)
    pair_order = rng.permutation(len(on.pairs[0]))
    moved = replace(
        on, documents=on.documents[new], pseudo_queries=on.pseudo_queries[asked], owners=where[on.owners][asked],
        pairs=(on.pairs[0][pair_order], on.pairs[1][pair_order]),
    )  # fmt: skip
    same_answer(rank(cls, on), rank(cls, moved))


def permutation(cls: Cls, on: FitContext) -> None:
    """Axes in another order: the answer in that order."""
    p = np.random.default_rng(4).permutation(on.dimension)
    assert on.pairs is not None
    moved = replace(
        on, documents=on.documents[:, p], pseudo_queries=on.pseudo_queries[:, p],
        pairs=(on.pairs[0][:, p], on.pairs[1][:, p]),
    )  # fmt: skip
    same_answer(rank(cls, on), rank(cls, moved), lambda m: m[np.ix_(p, p)])


def gram(cls: Cls, on: FitContext) -> None:
    """||X X^T - X M X^T||_F, nothing normalised, never falls as the ratio rises."""
    ranking = rank(cls, on)
    x = on.documents.astype(np.float64)
    offset = 0.0 if ranking.mean is None else ranking.mean.astype(np.float64)
    full = x @ x.T
    errors = [
        np.linalg.norm(full - (x - offset) @ product(ranking, k) @ (x - offset).T)
        for k in range(ranking.units - 1, 0, -1)
    ]
    assert (np.diff(errors) >= -1e-4 * np.linalg.norm(full)).all()


PROPERTIES = {"idempotent": idempotent, "rows": rows, "permutation": permutation, "gram": gram}
