"""Before and after: the interval and the p-value against scipy, their coverage on simulated data, slices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from core.compare import DRAWS, Retention, _spearman, band, length_bands, retention, retention_of_spearman, slices
from core.evaluate.similarity import spearman

Values = NDArray[np.float64]


def simulated(n: int, seed: int, kept: float = 1.0, spread: float = 0.2) -> tuple[Values, Values]:
    """Per-query values whose means stand, in expectation, in the ratio `kept`."""
    rng = np.random.default_rng(seed)
    before = rng.beta(2, 2, n)
    return before, before * (kept + spread * rng.uniform(-1, 1, n))


# ---- retention ------------------------------------------------------------------------------------------------


def test_no_change_is_ratio_one_and_p_one() -> None:
    before, _ = simulated(60, 1)
    r = retention(before, before.copy())
    assert (r.ratio, r.low, r.high, r.p_value) == (1.0, 1.0, 1.0, 1.0)
    assert (r.wins, r.ties, r.losses, r.queries) == (0, 60, 0, 60)
    assert not r.significant


def test_the_same_loss_everywhere() -> None:
    r = retention(np.full(40, 0.5), np.full(40, 0.4))
    assert (r.before, r.after) == (pytest.approx(0.5), pytest.approx(0.4))
    assert [r.ratio, r.low, r.high] == pytest.approx([0.8, 0.8, 0.8])
    assert r.p_value == pytest.approx(1 / (DRAWS + 1))  # no draw is as extreme; the +1 correction keeps it above 0
    assert (r.wins, r.ties, r.losses) == (0, 0, 40)
    assert r.significant


def test_a_known_effect_lies_in_its_interval() -> None:
    r = retention(*simulated(300, 2, kept=0.9))
    assert r.low < 0.9 < r.high < 1
    assert r.p_value < 0.01
    assert r.losses > r.wins > 0


@pytest.mark.parametrize("kept", [0.8, 1.0, 1.1])
def test_the_interval_is_scipys(kept: float) -> None:
    before, after = simulated(120, 3, kept)
    r = retention(before, after)
    official = stats.bootstrap(
        (before, after), lambda a, b, axis: b.mean(axis=axis) / a.mean(axis=axis), paired=True, vectorized=True,
        method="percentile", n_resamples=20000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    width = official.high - official.low
    assert r.low == pytest.approx(official.low, abs=0.1 * width)
    assert r.high == pytest.approx(official.high, abs=0.1 * width)


@pytest.mark.parametrize("seed", range(6))
def test_the_p_value_is_scipys_exact_one(seed: int) -> None:
    before, after = simulated(10, seed, kept=0.93 if seed % 2 else 1.0)
    official = stats.permutation_test((after - before,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert retention(before, after).p_value == pytest.approx(official.pvalue, abs=0.04)


def test_the_same_seed_gives_the_same_answer() -> None:
    data = simulated(80, 4, kept=0.97)
    assert retention(*data, seed=5) == retention(*data, seed=5)
    one, two = retention(*data, seed=5), retention(*data, seed=6)
    assert one != two  # a draw is a draw
    assert [one.low, one.high] == pytest.approx([two.low, two.high], abs=0.01)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    found = [retention(*simulated(80, seed, kept=0.95, spread=0.5)) for seed in range(200)]
    covered = np.mean([r.low <= 0.95 <= r.high for r in found])
    assert 0.91 <= covered <= 0.985


def test_without_an_effect_few_are_called_significant() -> None:
    alarms = np.mean([retention(*simulated(50, seed, kept=1.0, spread=0.5)).significant for seed in range(200)])
    assert 0.02 <= alarms <= 0.09


def test_power_grows_with_the_queries() -> None:
    small, large = (
        np.mean([retention(*simulated(n, s, kept=0.93, spread=0.5)).significant for s in range(40)]) for n in (15, 150)
    )
    assert small < 0.4 < 0.7 < large


twentieths = st.integers(0, 20).map(lambda v: v / 20)


@given(st.lists(st.tuples(twentieths, twentieths), min_size=2, max_size=25))
def test_what_always_holds(rows: list[tuple[float, float]]) -> None:
    before, after = np.array(rows).T
    r = retention(before, after)
    assert r.wins + r.ties + r.losses == len(rows) == r.queries
    assert 1 / (DRAWS + 1) <= r.p_value <= 1
    if before.any():
        assert r.ratio == pytest.approx(after.mean() / before.mean())
        assert r.low <= r.high
        assert r.high >= 0
    if (before == after).all():
        assert r.p_value == 1


def test_a_measure_in_other_units_keeps_as_much() -> None:
    before, after = simulated(60, 8, kept=0.9)
    one, two = retention(before, after), retention(before * 8, after * 8)
    assert (one.ratio, one.low, one.high, one.p_value) == (two.ratio, two.low, two.high, two.p_value)


def test_too_little_to_say() -> None:
    none = retention(np.zeros(0), np.zeros(0))
    assert none.queries == 0
    assert none.p_value == 1.0
    assert np.isnan([none.before, none.ratio, none.low, none.high]).all()
    one = retention(np.array([0.5]), np.array([0.25]))
    assert one.ratio == 0.5
    assert np.isnan([one.low, one.high]).all()
    assert one.p_value == 1.0  # a single sign flip is always as extreme
    zero = retention(np.zeros(5), np.array([0, 0, 1.0, 0, 0]))
    assert np.isnan([zero.ratio, zero.low, zero.high]).all()
    assert zero.after == pytest.approx(0.2)


def test_as_json_holds_the_contracts_keys() -> None:
    keys = set(retention(*simulated(10, 1)).as_json())
    assert {"ratio", "low", "high", "p_value", "queries"} <= keys == set(Retention.__dataclass_fields__)


# ---- all cuts of a curve --------------------------------------------------------------------------------------


def test_a_band_is_retention_at_every_cut() -> None:
    before, _ = simulated(70, 5)
    rng = np.random.default_rng(0)
    values = np.stack([before, *(before * (k + 0.1 * rng.normal(size=70)) for k in (0.99, 0.9, 0.6))])
    found = band(values, seed=3)
    for i, row in enumerate(values):
        r = retention(before, row, seed=3)
        for one, two in ((found.ratio, r.ratio), (found.low, r.low), (found.high, r.high), (found.p_value, r.p_value)):
            assert one[i] == pytest.approx(two, abs=1e-9)
    assert (found.ratio[0], found.p_value[0]) == (1, 1)


@pytest.mark.parametrize("values", [np.zeros((3, 9)), np.zeros((3, 0)), np.full((3, 1), 0.5)])
def test_a_band_of_too_little_is_not_defined(values: Values) -> None:
    found = band(values)
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(found.ratio).all() == (values.shape[1] != 1)


# ---- a figure that is no mean ---------------------------------------------------------------------------------


def correlations(noise: float, n: int = 150, seed: int = 0) -> tuple[Values, Values, Values]:
    """Targets, and scores before and after a cut that adds `noise`."""
    rng = np.random.default_rng(seed)
    wanted = rng.normal(size=n)
    before = wanted + 0.4 * rng.normal(size=n)
    return wanted, before, before + noise * rng.normal(size=n)


def spearman_of(wanted: Values, before: Values, after: Values, seed: int = 0) -> Retention:
    return retention_of_spearman(before, after, wanted, seed)


def test_spearman_without_a_change() -> None:
    wanted, before, _ = correlations(0)
    r = spearman_of(wanted, before, before)
    assert (r.ratio, r.low, r.high, r.p_value) == (1.0, 1.0, 1.0, 1.0)


def test_spearman_with_a_loss() -> None:
    wanted, before, after = correlations(1.0)
    r = spearman_of(wanted, before, after)
    assert r.before == pytest.approx(stats.spearmanr(before, wanted).statistic)
    assert r.ratio == pytest.approx(stats.spearmanr(after, wanted).statistic / r.before)
    assert r.low < r.ratio < r.high < 1
    assert r.p_value == pytest.approx(1 / (DRAWS + 1))
    assert r == spearman_of(wanted, before, after)


def test_a_small_change_is_not_significant() -> None:
    r = spearman_of(*correlations(0.1, n=40))
    assert r.low < 1 < r.high
    assert r.p_value > 0.05


def test_a_change_of_what_is_not_defined_is_not_significant() -> None:
    constant = np.ones(8)
    r = spearman_of(np.arange(8.0), constant, np.arange(8.0))
    assert np.isnan([r.before, r.ratio, r.p_value]).all()
    assert not r.significant


@given(st.integers(0, 1000), st.integers(2, 30), st.integers(2, 9))
def test_a_drawn_spearman_is_scipys(seed: int, n: int, levels: int) -> None:
    """Weights that say how often each pair was drawn, ties and all, against scipy on the pairs themselves."""
    rng = np.random.default_rng(seed)
    scores, wanted = rng.integers(0, levels, (2, n)).astype(np.float64)
    drawn = rng.integers(0, n, n)
    got = _spearman([scores], wanted, np.bincount(drawn, minlength=n)[None, :])[0][0]
    assert got == pytest.approx(spearman(scores[drawn], wanted[drawn]), abs=1e-9, nan_ok=True)


# ---- slices ---------------------------------------------------------------------------------------------------


def test_slices_are_means_of_their_own_the_worst_first() -> None:
    names = ["a"] * 6 + ["b"] * 5 + ["tiny"] * 4 + ["zero"] * 5
    before = np.array([0.5] * 11 + [0.9] * 4 + [0.0] * 5)
    after = np.array([0.5] * 6 + [0.25] * 5 + [0.0] * 4 + [1.0] * 5)
    found = slices("topic", names, before, after)
    assert [(s.name, s.queries) for s in found] == [("b", 5), ("a", 6), ("zero", 5)]
    assert [s.ratio for s in found[:2]] == [0.5, 1.0]
    assert np.isnan(found[2].ratio)
    assert {s.by for s in found} == {"topic"}
    assert [s.name for s in slices("topic", names, before, after, least=4)] == ["tiny", "b", "a", "zero"]
    assert slices("topic", [], np.zeros(0), np.zeros(0)) == []


@given(st.lists(st.integers(0, 400), min_size=1, max_size=60))
def test_length_bands_follow_the_lengths(lengths: list[int]) -> None:
    found = length_bands(lengths)
    order = ["short", "middle", "long"]
    place = [order.index(b.split()[0]) for b in found]
    assert len(found) == len(lengths)
    in_order = [p for _, p in sorted(zip(lengths, place, strict=True))]
    assert in_order == sorted(in_order)
    assert place.count(0) >= len(lengths) / 3  # ties go to the shorter band


def test_length_bands_in_thirds() -> None:
    found = [b.split()[0] for b in length_bands(list(range(1, 31)))]
    assert [found.count(w) for w in ("short", "middle", "long")] == [10, 10, 10]
    assert length_bands([]) == []
