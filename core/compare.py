"""Before and after, paired over the same queries: ratio retained with an interval and a p-value.

retained   mean after / mean before; 95 % paired bootstrap over queries, 2,000 draws
p-value    paired randomisation (signs of the differences flipped; of ranks, for Spearman: swapped), two-sided, with
           the +1 correction
wins, ties, losses per query; slices: the same by topic, by length; random pruning at the same budget beside it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
RANDOM_DRAWS = 5
_MOST = 1 << 22  # numbers held at a time


@dataclass(frozen=True)
class Retention:
    """What a cut keeps of one measure. `low` and `high` bound `ratio` with 95 % confidence.

    wins, ties, losses: queries; None where the measure is no mean over them (Spearman).
    """

    before: float
    after: float
    ratio: float
    low: float
    high: float
    p_value: float
    queries: int
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None

    @property
    def significant(self) -> bool:
        """Whether the change is more than noise: p below 0.05."""
        return self.p_value < 0.05

    def as_json(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in self.__dataclass_fields__}


def retention(before: NDArray[np.float64], after: NDArray[np.float64], seed: int = 0) -> Retention:
    """Compare per-query values of one measure, (q,) each. NaN where the mean before is zero: "not defined"."""
    n = len(before)
    rng = np.random.default_rng(seed)
    difference = after - before
    first, second = (float(v.mean()) if n else float("nan") for v in (before, after))
    low, high = _interval(before, after, rng)
    return Retention(
        first,
        second,
        second / first if first > 0 else float("nan"),
        low,
        high,
        _randomisation(difference, rng),
        n,
        int((difference > 1e-9).sum()),
        int((np.abs(difference) <= 1e-9).sum()),
        int((difference < -1e-9).sum()),
    )


def _interval(before: NDArray[np.float64], after: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    if len(before) < 2 or before.mean() <= 0:
        return float("nan"), float("nan")
    # how often each query is drawn, as one matrix: a draw's mean is then a product
    drawn = rng.multinomial(len(before), np.full(len(before), 1 / len(before)), size=DRAWS)
    bottom = drawn @ before
    ratios = np.divide(drawn @ after, bottom, out=np.full(DRAWS, np.nan), where=bottom > 0)
    return float(np.nanquantile(ratios, 0.025)), float(np.nanquantile(ratios, 0.975))


def _randomisation(difference: NDArray[np.float64], rng: np.random.Generator) -> float:
    if not len(difference) or not np.any(difference):
        return 1.0
    signs = rng.integers(0, 2, size=(DRAWS, len(difference)), dtype=np.int8) * 2.0 - 1.0
    extreme = np.abs(signs @ difference) >= abs(difference.sum()) - 1e-12
    return float((extreme.sum() + 1) / (DRAWS + 1))


def retention_of_spearman(
    before: NDArray[np.float64], after: NDArray[np.float64], wanted: NDArray[np.float64], seed: int = 0
) -> Retention:
    """The same for Spearman's correlation of scores (n,) with the wanted ones, which is no mean over pairs.

    The bootstrap draws pairs and ranks them anew; the randomisation swaps a pair's two ranks. NaN where a side is
    constant. O(DRAWS n), in parts that fit into memory.
    """
    n, rng = len(wanted), np.random.default_rng(seed)
    first, second = (float(v[0]) for v in _spearman([before, after], wanted, np.ones((1, n))))
    ratios, higher = [], 0
    ranks = np.stack([_ranks(v, np.ones((1, n)))[0] for v in (before, after, wanted)])
    for start in range(0, DRAWS, step := max(1, _MOST // max(n, 1))):
        draws = min(step, DRAWS - start)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=draws) if n else np.zeros((draws, 0))
        one, two = _spearman([before, after], wanted, weights)
        ratios.append(np.divide(two, one, out=np.full(draws, np.nan), where=one != 0))
        swapped = rng.integers(0, 2, size=(draws, n)) > 0
        sides = [_pearson(np.where(swapped, *pair), ranks[2:], np.ones((1, n))) for pair in (ranks[:2], ranks[1::-1])]
        higher += int((np.abs(sides[0] - sides[1]) >= abs(second - first) - 1e-12).sum())
    good = (found := np.concatenate(ratios))[np.isfinite(found)]
    low, high = np.quantile(good, [0.025, 0.975]) if len(good) else (np.nan, np.nan)
    p = (higher + 1) / (DRAWS + 1) if np.isfinite([first, second]).all() else float("nan")
    return Retention(first, second, second / first if first else float("nan"), float(low), float(high), p, n)


def _spearman(
    scores: Sequence[NDArray[np.float64]], wanted: NDArray[np.float64], weights: NDArray[Any]
) -> list[NDArray[np.float64]]:
    """Each (draws,): Spearman of scores with the wanted ones where pair i stands weights[:, i] times."""
    gold = _ranks(wanted, weights)
    return [_pearson(_ranks(one, weights), gold, weights) for one in scores]


def _ranks(values: NDArray[np.float64], weights: NDArray[Any]) -> NDArray[np.float64]:
    """(draws, n) mean ranks, up to a constant, of values (n,) that stand weights (draws, n) times each."""
    if not len(values):
        return np.zeros(weights.shape)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    groups = np.add.reduceat(weights[:, np.argsort(values, kind="stable")], starts, axis=1).astype(np.float64)
    return np.asarray((np.cumsum(groups, axis=1) - groups / 2)[:, place.ravel()])


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[Any]) -> NDArray[np.float64]:
    """(draws,) correlation of rows, weighted; NaN where either is constant."""
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    x, y = (v - (v * weights).sum(axis=1, keepdims=True) / total for v in (x, y))
    spread = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    found = (weights * x * y).sum(axis=1)
    return np.asarray(np.divide(found, spread, out=np.full(len(found), np.nan), where=spread > 1e-9))


@dataclass(frozen=True)
class Slice:
    """A named part of the queries or documents, with what it keeps. `ratio` is NaN where nothing was found before."""

    by: str
    name: str
    queries: int
    before: float
    after: float
    ratio: float


def slices(
    by: str, names: Sequence[str], before: NDArray[np.float64], after: NDArray[np.float64], least: int = 5
) -> list[Slice]:
    """One slice per distinct name, the worst first; slices of under `least` items are left out (too noisy to name)."""
    out = []
    labels = np.asarray(names)
    for name in sorted(set(names)):
        rows = labels == name
        if rows.sum() >= least:
            a, b = float(before[rows].mean()), float(after[rows].mean())
            out.append(Slice(by, name, int(rows.sum()), a, b, b / a if a > 0 else float("nan")))
    return sorted(out, key=lambda s: (not np.isfinite(s.ratio), s.ratio))


def length_bands(lengths: Sequence[int]) -> list[str]:
    """Short, middle or long, by thirds of the lengths in words."""
    if not len(lengths):
        return []
    one, two = np.quantile(lengths, [1 / 3, 2 / 3])
    bands = (f"short (to {one:.0f} words)", f"middle (to {two:.0f})", f"long (over {two:.0f})")
    return [bands[0] if v <= one else bands[1] if v <= two else bands[2] for v in lengths]


@dataclass(frozen=True, eq=False)
class Band:
    """What every cut of a curve keeps: ratio with its 95 % interval and p-value, each (cuts,)."""

    ratio: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    p_value: NDArray[np.float64]


def band(values: NDArray[np.float64], seed: int = 0) -> Band:
    """The same statistics as `retention`, for (cuts, queries) against the first row, in a few matrix products.

    The queries drawn and the signs flipped are the same for every cut, so a curve does not jitter.
    """
    cuts, n = values.shape
    before, nothing = values[0], np.full(cuts, np.nan)
    if n < 2 or before.mean() <= 0:
        ratio = values.mean(axis=1) / before.mean() if n and before.mean() > 0 else nothing
        return Band(ratio, nothing, nothing, nothing)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    bottom = drawn @ before
    ratios = np.divide(drawn @ values.T, bottom[:, None], out=np.full((DRAWS, cuts), np.nan), where=bottom[:, None] > 0)
    low, high = np.nanquantile(ratios, [0.025, 0.975], axis=0)
    difference = values - before
    signs = rng.integers(0, 2, size=(DRAWS, n), dtype=np.int8) * 2.0 - 1.0
    extreme = np.abs(signs @ difference.T) >= np.abs(difference.sum(axis=1)) - 1e-12
    p = np.where(np.any(difference != 0, axis=1), (extreme.sum(axis=0) + 1) / (DRAWS + 1), 1.0)
    return Band(values.mean(axis=1) / before.mean(), low, high, p)
