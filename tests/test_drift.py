"""Drift: a rotation costs nothing, noise costs, and degenerate vectors give "not defined" instead of a crash."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.evaluate.drift import aligned_cosine, cka, drift, neighbours, overlap, probes
from core.evaluate.judgements import similarity
from core.types import Floats
from tests.synthetic import documents_like_text, near


def rotated(x: Floats, seed: int = 0) -> Floats:
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(x.shape[1], x.shape[1])))[0]
    return (x @ basis).astype(np.float32)


@pytest.mark.parametrize("n", [40, 300])
def test_a_rotation_costs_nothing(n: int) -> None:
    x = documents_like_text(n, 24)
    d = drift(x, rotated(x))
    assert (d.overlap == 1).all()
    assert d.cosine == pytest.approx(np.ones(n), abs=1e-5)
    assert d.cka == pytest.approx(1, abs=1e-5)
    assert d.summary == {k: pytest.approx(1, abs=1e-5) for k in ("neighbour_overlap@10", "cosine", "cka")}


def test_no_change_is_exactly_none() -> None:
    x = documents_like_text(100, 12)
    d = drift(x, x)
    assert (d.overlap == 1).all()
    assert d.cka == pytest.approx(1, abs=1e-12)


def test_noise_costs_the_more_the_more() -> None:
    x = documents_like_text(300, 24)
    found = [drift(x, near(x, noise, 1)).summary for noise in (0.05, 0.3, 1.0, 4.0)]
    for key in ("neighbour_overlap@10", "cosine", "cka"):
        values = [f[key] for f in found]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[-1] + 0.3
    assert found[-1]["neighbour_overlap@10"] < 0.2


def test_overlap_is_the_share_of_neighbours_kept() -> None:
    x, y = documents_like_text(120, 16), near(documents_like_text(120, 16), 0.5, 3)
    d = drift(x, y, most=50, seed=4)
    assert len(d.rows) == len(d.overlap) == 50
    shares = []
    for row in d.rows:
        one, two = (similarity(v[row : row + 1], v, "cosine")[0] for v in (x, y))
        one[row] = two[row] = -np.inf
        shares.append(len(set(np.argsort(-one)[:10]) & set(np.argsort(-two)[:10])) / 10)
    assert d.overlap == pytest.approx(shares)


def test_overlap_at_every_cut_in_one_pass() -> None:
    x = documents_like_text(150, 20)
    rows = probes(150, seed=1, most=30)
    near_ones = neighbours(x, rows)
    found = overlap(near_ones, x[rows], x, [2, 10, 20], "cosine").mean(axis=1)
    assert found[0] < found[1] < found[2] == 1
    alone = drift(x, x[:, :10], near=near_ones)
    assert alone.overlap.mean() == pytest.approx(found[1])
    assert (alone.rows == rows).all()


def test_a_query_map_of_its_own() -> None:
    """Two maps whose products give the old scores back: nothing is lost, though each side looks different."""
    x = documents_like_text(90, 12)
    grow = np.exp(np.random.default_rng(0).normal(size=12)).astype(np.float32)
    d = drift(x, x * grow, asked=x / grow, metrics=("cosine", "dot"))
    assert d.overlap.mean() > 0.999
    assert drift(x, x * grow, metrics=("cosine", "dot")).overlap.mean() < 0.95


def test_procrustes_finds_a_reflection_and_a_smaller_space() -> None:
    x = documents_like_text(60, 10)
    assert aligned_cosine(x, -x) == pytest.approx(np.ones(60), abs=1e-6)
    flat = np.zeros((60, 10), np.float32)
    flat[:, :4] = x[:, :4]
    assert aligned_cosine(flat, rotated(flat[:, :4])) == pytest.approx(np.ones(60), abs=1e-5)


def test_cka_ignores_scale_and_shift_but_not_shuffling() -> None:
    x = documents_like_text(80, 10)
    assert cka(x, 3 * rotated(x) + 5) == pytest.approx(1, abs=1e-4)
    assert cka(x, x[np.random.default_rng(0).permutation(80)]) < 0.5


def test_cka_is_the_definition_with_kernels() -> None:
    x, y = documents_like_text(40, 8).astype(np.float64), documents_like_text(40, 6, seed=5).astype(np.float64)
    centre = np.eye(40) - 1 / 40
    k, m = (centre @ v @ v.T @ centre for v in (x, y))
    wanted = np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))
    assert cka(x.astype(np.float32), y.astype(np.float32)) == pytest.approx(wanted, rel=1e-5)


# ---- degenerate inputs ----------------------------------------------------------------------------------------


def test_constant_vectors_are_not_defined_and_do_not_crash() -> None:
    x = np.ones((30, 5), np.float32)
    d = drift(x, x[:, :3])
    assert (d.overlap == 1).all()  # all tie, and ties are broken alike
    assert d.cosine == pytest.approx(np.ones(30), abs=1e-6)
    assert np.isnan(d.cka)


def test_zero_vectors_do_not_crash() -> None:
    d = drift(np.zeros((12, 4), np.float32), np.zeros((12, 2), np.float32))
    assert (d.overlap == 1).all()
    assert (d.cosine == 0).all()
    assert np.isnan(d.cka)


@pytest.mark.parametrize("n", [2, 5, 10, 11])
def test_k_is_clamped_to_the_documents_there_are(n: int) -> None:
    x = documents_like_text(n, 6)
    d = drift(x, x[:, :3])
    assert d.k == min(10, n - 1)
    assert next(iter(d.summary)) == f"neighbour_overlap@{d.k}"
    assert (d.overlap == 1).all() if d.k == n - 1 else d.overlap.min() < 1


def test_one_document_has_no_neighbours_to_lose() -> None:
    x = documents_like_text(1, 6)
    d = drift(x, x[:, :3])
    assert len(d.overlap) <= 1
    assert np.isnan(d.summary[f"neighbour_overlap@{d.k}"]) or (d.overlap == 1).all()
    assert np.isnan(d.cka)


@given(st.integers(0, 50), st.integers(0, 9), st.integers(1, 60))
@settings(max_examples=30)
def test_probes_are_a_seeded_sample(n: int, seed: int, most: int) -> None:
    rows = probes(n, seed, most)
    assert len(rows) == len(set(rows.tolist())) == min(n, most)
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == probes(n, seed, most).tolist()


def test_inputs_may_be_read_only() -> None:
    x = documents_like_text(30, 6)
    y = x[:, :4].copy()
    x.flags.writeable = y.flags.writeable = False
    assert 0 <= drift(x, y).overlap.min() <= 1
