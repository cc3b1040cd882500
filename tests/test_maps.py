"""Maps: alignment is exact, the noise floor is honest, what is cached is not laid out again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import procrustes

from core.errors import Cancelled, InputError
from core.maps import MapPair, align, cached_umap, movement, pca_pair, sample_rows, umap_pair
from core.plan import Cut
from core.select import select
from core.types import Floats, Ranking, Reduction

ROOT = Path(__file__).parents[1]
D = 32


def docs(n: int, d: int = D, seed: int = 0) -> Floats:
    """Unit vectors on a smooth sheet of six hidden dimensions, a little noise: a graph in one part."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) @ rng.normal(size=(6, d)) + 0.2 * rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def cut(keep: int, d: int = D, seed: int = 1, metric: str = "cosine") -> Reduction:
    """The first `keep` axes of a random rotation of d dimensions."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0].astype(np.float32)
    return select(Ranking("a rotation", np.arange(d, 0, -1).astype(np.float32), basis), Cut(keep=keep), metric)  # type: ignore[arg-type]


def rows_of(x: Floats) -> np.ndarray:
    return np.arange(len(x))


def counter() -> tuple[list[tuple[str, int, int]], object]:
    seen: list[tuple[str, int, int]] = []
    return seen, lambda *step: seen.append(step)


# ---- alignment ------------------------------------------------------------------------------------------------


@given(
    n=st.integers(3, 40),
    seed=st.integers(0, 999),
    angle=st.floats(0, 6.3),
    mirror=st.booleans(),
    scale=st.floats(0.01, 100),
    shift=st.floats(-50, 50),
)
def test_align_removes_rotation_mirror_scale_and_shift(n, seed, angle, mirror, scale, shift):
    fixed = np.random.default_rng(seed).normal(size=(n, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moving = scale * fixed @ (turn * [1, -1] if mirror else turn) + shift
    found = align(moving, fixed)
    np.testing.assert_allclose(found, fixed, atol=1e-5)
    assert movement(fixed.astype(np.float32), found) < 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_align_is_scipys_procrustes(seed):
    rng = np.random.default_rng(seed)
    fixed, moving = rng.normal(size=(30, 2)) + 3, rng.normal(size=(30, 2))
    _, _, disparity = procrustes(fixed, moving)  # on fixed of unit size
    left = np.square(align(moving, fixed) - fixed).sum() / np.square(fixed - fixed.mean(axis=0)).sum()
    assert left == pytest.approx(disparity, abs=1e-5)


def test_align_never_makes_it_worse_and_survives_no_extent():
    rng = np.random.default_rng(0)
    fixed, moving = rng.normal(size=(20, 2)), rng.normal(size=(20, 2))
    assert np.square(align(moving, fixed) - fixed).sum() <= np.square(moving - fixed).sum()
    np.testing.assert_allclose(align(np.ones((20, 2)), fixed), np.tile(fixed.mean(axis=0), (20, 1)), atol=1e-6)
    assert np.array_equal(align(fixed, np.full((20, 2), 7.0)), np.full((20, 2), 7.0, np.float32))
    assert align(np.zeros((0, 2)), np.zeros((0, 2))).shape == (0, 2)


def test_movement_is_a_median_in_radii():
    square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)  # every corner is sqrt 2 from the centre
    after = square + np.array([[2, 0], [2, 0], [2, 0], [100, 0]], np.float32)
    assert movement(square, after) == pytest.approx(2 / np.sqrt(2))
    assert movement(10 * square, 10 * after) == pytest.approx(2 / np.sqrt(2))
    assert movement(np.ones((4, 2), np.float32), after) == 0.0


# ---- rows -----------------------------------------------------------------------------------------------------


def test_rows_are_all_or_a_seeded_sample():
    assert np.array_equal(sample_rows(10, 3, 10), np.arange(10))
    some = sample_rows(1000, 3, 50)
    assert len(some) == 50
    assert np.all(np.diff(some) > 0)
    assert np.array_equal(some, sample_rows(1000, 3, 50))
    assert not np.array_equal(some, sample_rows(1000, 4, 50))
    for bad in ({"most": 0}, {"seed": -1}):
        with pytest.raises(InputError, match="seed"):
            sample_rows(10, **bad)


# ---- PCA ------------------------------------------------------------------------------------------------------


def test_pca_pair_is_deterministic_and_its_key_names_the_content():
    x = docs(60)
    x.flags.writeable = False
    one, two = (pca_pair(x, cut(8), rows_of(x)) for _ in range(2))
    assert np.array_equal(one.before, two.before)
    assert np.array_equal(one.after, two.after)
    assert one.key == two.key
    assert (one.kind, one.noise) == ("pca", 0.0)
    assert one.moved == movement(one.before, one.after) > 0
    keys = {one.key, pca_pair(x, cut(9), rows_of(x)).key, pca_pair(x, cut(8), rows_of(x)[:59]).key}
    keys |= {pca_pair(np.ascontiguousarray(x[::-1]), cut(8), rows_of(x)).key}
    assert len(keys) == 4
    assert pca_pair(x, replace(cut(8), method="another name"), rows_of(x)).key == one.key


def test_pca_pair_keeps_its_signs_when_rows_change_places():
    x = docs(60)
    order = np.random.default_rng(0).permutation(60)
    one, two = pca_pair(x, cut(8), rows_of(x)), pca_pair(x, cut(8), order)
    np.testing.assert_allclose(two.before, one.before[order], atol=1e-5)
    np.testing.assert_allclose(two.after, one.after[order], atol=1e-5)


def test_pca_before_is_the_best_plane():
    x = docs(60)
    before = pca_pair(x, cut(8), rows_of(x)).before
    strongest = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)[:2]
    np.testing.assert_allclose(np.linalg.norm(before, axis=0), strongest, rtol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_nothing_cut_and_nothing_but_a_rotation_move_nothing_on_a_pca(metric):
    x = docs(60) * (1 if metric == "cosine" else 3)
    assert pca_pair(x, cut(D, metric=metric), rows_of(x)).moved == 0.0
    turned = replace(cut(D - 1, metric=metric), kept=np.arange(D), basis=cut(D - 1).basis)
    whole = np.linalg.qr(np.random.default_rng(2).normal(size=(D, D)))[0].astype(np.float32)
    assert pca_pair(x, replace(turned, basis=whole), rows_of(x)).moved < 1e-4


def test_a_vector_that_is_not_finite_is_named():
    x = docs(20)
    x[7, 3] = np.nan
    for make in (lambda: pca_pair(x, cut(8), rows_of(x)), lambda: umap_pair(x, cut(8)), lambda: cached_umap(x, cut(8))):
        with pytest.raises(InputError, match="vector 8 is not finite"):
            make()


FEW = {
    "no rows": np.zeros((0, D), np.float32),
    "one row": docs(1),
    "four rows": docs(4),
    "all the same": np.repeat(docs(1), 40, axis=0),
    "all zero": np.zeros((40, D), np.float32),
    "four different": np.tile(docs(4), (10, 1)),
}


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_too_few_different_documents_fall_back_to_pca_and_say_so(name, metric):
    x = FEW[name]
    pair = umap_pair(x, cut(8, metric=metric))
    assert pair.kind == "pca"
    assert "so this is a PCA" in pair.notes[0]
    assert pair.before.shape == pair.after.shape == (len(x), 2)
    assert np.isfinite(pair.before).all()
    assert np.isfinite(pair.after).all()
    assert np.isfinite([pair.moved, pair.noise]).all()
    again = cached_umap(x, cut(8, metric=metric))  # nothing to wait for: no job is needed
    assert again is not None
    assert np.array_equal(again.after, pair.after)


def test_one_kept_dimension_under_cosine_is_two_points_and_a_pca():
    pair = umap_pair(docs(40), cut(1))
    assert pair.kind == "pca"
    assert "only 2 different vectors" in pair.notes[0]


# ---- UMAP (one import and compilation for all of these) --------------------------------------------------------

SEED = 5
SIX = np.repeat(docs(6), 8, axis=0)  # six different vectors, eight times each


@pytest.fixture(scope="module")
def same() -> MapPair:
    """The pair of a cut that removes nothing."""
    x = docs(400)
    assert cached_umap(x, cut(D), SEED) is None
    return umap_pair(x, cut(D), seed=SEED)


def test_identical_vectors_move_no_more_than_the_noise_floor(same):
    assert same.kind == "umap"
    assert 0 < same.noise < 0.5
    assert same.moved <= 2 * same.noise  # one draw each of the same chance
    assert same.moved == movement(same.before, same.after)
    assert same.notes == ()


def test_a_real_cut_moves_more_than_the_noise_and_lays_out_once_only(same):
    x = docs(400)
    seen, progress = counter()
    hard = umap_pair(x, cut(2), seed=SEED, progress=progress)
    assert seen == [("UMAP", 0, 1), ("UMAP", 1, 1)]  # the layout before the cut, and its noise, were there
    assert np.array_equal(hard.before, same.before)
    assert hard.noise == same.noise
    assert hard.moved > 2 * hard.noise
    assert hard.key != same.key


def test_the_second_call_imports_no_umap_and_answers_the_same(same, tmp_path):
    np.save(tmp_path / "x.npy", docs(400))
    np.save(tmp_path / "after.npy", same.after)
    code = f"""
import sys; sys.modules["umap"] = None
import numpy as np
from core.maps import cached_umap, umap_pair
from core.types import Reduction
x, cut = np.load("x.npy"), Reduction("another name", {D}, np.arange({D}), identity=True)
for pair in (umap_pair(x, cut, seed={SEED}), cached_umap(x, cut, {SEED})):
    assert np.array_equal(pair.after, np.load("after.npy")), "differs"
    assert (pair.noise, pair.moved, pair.key) == ({same.noise!r}, {same.moved!r}, {same.key!r})
assert "numba" not in sys.modules and "sklearn" not in sys.modules
assert cached_umap(x, cut, {SEED + 1}) is None and cached_umap(x[1:], cut, {SEED}) is None
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**_environment(), "PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def test_the_same_seed_gives_the_same_map_from_nothing(same, tmp_path, monkeypatch):
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path))
    seen, progress = counter()
    fresh = umap_pair(docs(400), cut(D), seed=SEED, progress=progress)
    assert [done for _, done, _ in seen] == [0, 1, 2, 3]
    assert np.array_equal(fresh.before, same.before)
    assert np.array_equal(fresh.after, same.after)
    assert fresh.noise == same.noise


def test_a_sample_is_stated_and_its_rows_are_those_laid_out(same):
    x = docs(400)
    pair = umap_pair(x, cut(8), seed=SEED, most=40)
    assert pair.notes == ("40 of 400 documents are shown: a seeded sample",)
    assert np.array_equal(pair.rows, sample_rows(400, SEED, 40))
    assert pair.before.shape == pair.after.shape == (40, 2)
    assert cached_umap(x, cut(8), SEED, 40) is not None
    assert cached_umap(x, cut(8), SEED, 41) is None


@pytest.mark.parametrize("x", [docs(n) for n in (5, 6, 15, 16)] + [SIX], ids=["5", "6", "15", "16", "six"])
def test_fewer_rows_than_neighbours_are_clamped(same, x):
    pair = umap_pair(x, cut(8))
    assert pair.kind == "umap"
    assert np.isfinite(pair.before).all()
    assert np.isfinite(pair.after).all()
    assert np.isfinite([pair.noise, pair.moved]).all()


def test_zero_vectors_have_a_place(same):
    x = docs(40)
    x[::4] = 0
    assert np.isfinite(umap_pair(x, cut(8)).after).all()


def test_a_cancel_is_heard_between_layouts(same, tmp_path, monkeypatch):
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path))

    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise Cancelled

    x = docs(30)
    with pytest.raises(Cancelled):
        umap_pair(x, cut(8), progress=stop)
    assert cached_umap(x, cut(8)) is None
    seen, progress = counter()
    umap_pair(x, cut(8), progress=progress)
    assert seen[0] == ("UMAP", 0, 1)  # the layout before the cut was kept
