"""Spearman and classification against scipy and scikit-learn; what cannot be computed is "not defined"."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity

from core.evaluate.similarity import label_hits, pair_scores, spearman
from core.types import Floats
from tests.synthetic import documents_like_text, near


def rated_pairs(n: int = 200, seed: int = 0) -> tuple[Floats, Floats, NDArray[np.float64]]:
    """Sentence pairs of every closeness, rated 0 to 5 in halves by somebody who is not quite sure: many ties."""
    rng = np.random.default_rng(seed)
    left = documents_like_text(n, 24, seed)
    right = np.concatenate([near(left[i : i + 1], 3 * rng.random(), i) for i in range(n)])
    truth = np.einsum("ij,ij->i", left, right) + 0.1 * rng.normal(size=n)
    return left, right, np.round(np.clip(5 * truth, 0, 5) * 2) / 2


def topics(n: int, seed: int, spread: float = 1.2) -> tuple[Floats, list[str]]:
    """Texts of five topics that overlap, the first topic as large as the other four together."""
    rng = np.random.default_rng(seed)
    centres = documents_like_text(5, 24, seed=77)
    label = rng.choice(5, n, p=[0.5, 0.125, 0.125, 0.125, 0.125])
    return near(centres[label], spread, seed + 1), [f"topic {i}" for i in label]


# ---- pairs ----------------------------------------------------------------------------------------------------


def test_pair_scores_are_scikit_learns_rounded_to_a_millionth() -> None:
    left, right, _ = rated_pairs()
    found = pair_scores(left * 3, right)
    assert found == pytest.approx(np.diag(cosine_similarity(left, right)), abs=2e-6)
    assert found.tolist() == np.round(found, 6).tolist()
    dots = pair_scores(left * 3, right, "dot")
    assert dots == pytest.approx((left * 3 * right).sum(axis=1), abs=2e-6)


def test_a_zero_vector_is_similar_to_nothing() -> None:
    left, right, _ = rated_pairs(4)
    left[1] = 0
    assert pair_scores(left, right)[1] == 0
    assert np.isfinite(pair_scores(left, right)).all()


def test_identical_pairs_score_the_same() -> None:
    x = documents_like_text(50, 24)
    assert len(set(pair_scores(np.tile(x[:1], (50, 1)), np.tile(x[1:2], (50, 1))))) == 1
    assert (pair_scores(x, x) == 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_spearman_is_scipys(seed: int) -> None:
    left, right, wanted = rated_pairs(seed=seed)
    scores = pair_scores(left, right)
    official = stats.spearmanr(scores, wanted).statistic
    assert spearman(scores, wanted) == pytest.approx(official, abs=1e-12)
    assert 0.7 < official < 0.99


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), max_size=20))
@settings(max_examples=80)
def test_spearman_is_pearson_of_the_ranks(rows: list[tuple[int, int]]) -> None:
    scores, wanted = (np.array([r[i] for r in rows], np.float64) for i in (0, 1))
    found = spearman(scores, wanted)
    if len({r[0] for r in rows}) < 2 or len({r[1] for r in rows}) < 2:
        assert np.isnan(found)
    else:
        ranks = stats.rankdata(scores), stats.rankdata(wanted)
        assert found == pytest.approx(np.corrcoef(*ranks)[0, 1])
        assert spearman(-scores, wanted) == pytest.approx(-found)
        assert spearman(np.exp(scores), wanted) == pytest.approx(found)  # only the order counts


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0]])
def test_what_has_no_order_is_not_defined(values: list[float]) -> None:
    other = np.arange(len(values), dtype=np.float64)
    assert np.isnan(spearman(np.array(values), other))
    assert np.isnan(spearman(other, np.array(values)))


# ---- labels ---------------------------------------------------------------------------------------------------


def nearest_votes(train: Floats, labels: list[str], test: Floats, k: int) -> list[str]:
    """k nearest neighbours by cosine, one vote each, ties to the first label in order: by hand."""
    out = []
    for row in cosine_similarity(test, train):
        votes = [labels[i] for i in np.argsort(-row, kind="stable")[:k]]
        out.append(min(set(votes), key=lambda v: (-votes.count(v), v)))
    return out


@pytest.mark.parametrize("k", [1, 5, 10])
def test_nearest_neighbours_are_a_vote(k: int) -> None:
    (train, labels), (test, wanted) = topics(150, 1), topics(80, 2)
    found = label_hits(train, labels, test, wanted, k)[f"knn@{k}"]
    assert found.tolist() == [float(a == b) for a, b in zip(nearest_votes(train, labels, test, k), wanted, strict=True)]
    assert 0.4 < found.mean() < 0.99


def test_accuracy_is_a_logistic_regression_run_to_its_end() -> None:
    (train, labels), (test, wanted) = topics(200, 3), topics(120, 4)
    found = label_hits(train, labels, test, wanted)
    official = LogisticRegression(C=10.0, solver="newton-cg", max_iter=1000, tol=1e-8).fit(train, labels)
    assert found["accuracy"].mean() == pytest.approx(official.score(test, wanted), abs=0.01)
    assert (found["accuracy"] == (official.predict(test) == np.array(wanted))).mean() > 0.98
    assert found["accuracy"].mean() > 0.55 > 0.5  # more than always naming the largest topic


def test_noise_costs_accuracy() -> None:
    (train, labels), (test, wanted) = topics(200, 5, spread=0.8), topics(150, 6, spread=0.8)
    clear = label_hits(train, labels, test, wanted)
    blurred = label_hits(near(train, 3, 1), labels, near(test, 3, 2), wanted)
    assert clear["accuracy"].mean() > blurred["accuracy"].mean() + 0.1
    assert clear["knn@10"].mean() > blurred["knn@10"].mean() + 0.1


def test_labels_may_be_any_text() -> None:
    train, _ = topics(40, 7)
    labels = ["007", "7"] * 20  # two labels, not one
    found = label_hits(train, labels, train, labels, k=1)
    assert found["knn@1"].mean() == 1
    assert label_hits(train, labels, train, ["7.0"] * 40, k=1)["knn@1"].sum() == 0


def test_k_is_clamped_to_the_training_texts() -> None:
    (train, labels), (test, wanted) = topics(4, 8), topics(9, 9)
    labels = ["a", "b", "b", "b"]
    found = label_hits(train, labels, test, ["b"] * 9)
    assert (found["knn@10"] == 1).all()  # all four vote
    assert set(found) == {"accuracy", "knn@10"}
    assert len(found["accuracy"]) == len(wanted) == 9


def test_one_label_leaves_accuracy_undefined() -> None:
    train, _ = topics(12, 10)
    found = label_hits(train, ["same"] * 12, train[:3], ["same", "same", "other"])
    assert {k: v.tolist() for k, v in found.items()} == {"knn@10": [1, 1, 0]}


def test_zero_and_identical_vectors_do_not_crash() -> None:
    zero = np.zeros((12, 6), np.float32)
    for x in (zero, zero + 1):
        found = label_hits(x, ["a", "b"] * 6, x[:5], ["a"] * 5)
        assert all(set(v.tolist()) <= {0.0, 1.0} for v in found.values())


def test_inputs_may_be_read_only() -> None:
    (train, labels), (test, wanted) = topics(30, 11), topics(8, 12)
    train.flags.writeable = test.flags.writeable = False
    label_hits(train, labels, test, wanted)
    assert np.isfinite(pair_scores(test, test)).all()
