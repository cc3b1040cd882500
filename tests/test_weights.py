"""Single weights: masks by their definition and by torch's own, exact cuts, and files without a trace of a mask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from torch.nn.utils import prune

from core.anatomy import Anatomy, duplicate
from core.calibration import EncoderContext, Importance, batches, sentence_vectors
from core.embedding import load
from core.encoders import open_model
from core.errors import InputError, PlanError
from core.methods import weights
from core.plan import Cut
from core.surgery.masks import cut_weights, mask, refit, sparse_speed
from tests.tiny_models import ARCHITECTURES, WORDS, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS: tuple[type[weights.WeightMethod], ...] = (
    weights.Random, weights.Magnitude, weights.Activation, weights.Taylor, weights.L1, weights.SecondOrder,
    weights.ImportanceSampling,
)  # fmt: skip
SEEDED = [m for m in METHODS if m.card.seeded]
TEXTS = tuple(" ".join(np.random.default_rng(i).choice(WORDS, 3 + i % 9)) for i in range(48))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {a: tiny_model(a, root / a) for a in ARCHITECTURES}


@pytest.fixture(scope="module")
def context(folders: Mapping[str, Path]) -> EncoderContext:
    return EncoderContext(load(folders["bert"]), TEXTS, "weights")


def built(cls: type[weights.WeightMethod], **options: Any) -> weights.WeightMethod:
    return cls(**({"steps": 5} if cls is weights.L1 else {}), **options)


def matrices(encoder: Any) -> list[np.ndarray]:
    return [m.weight.detach().numpy() for _, m in Anatomy(encoder, "weights").linears()]


def vectors(encoder: Any) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([sentence_vectors(encoder, b).numpy() for b in batches(encoder, TEXTS)])


# ---- masks ----------------------------------------------------------------------------------------------------

SCORES = st.tuples(st.integers(1, 5), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.integers(0, 4).map(float))  # many ties
)


@given(st.lists(SCORES, min_size=1, max_size=4), st.floats(0, 0.999), st.sampled_from(["matrix", "row", "global"]))
def test_the_best_stay_in_exact_numbers_and_ties_go_to_the_lowest_index(
    scores: list[np.ndarray], ratio: float, group: str
) -> None:
    cut = Cut(ratio)
    masks = mask(scores, cut, "global" if group == "global" else "local", rows=group == "row")
    if group == "global":
        pairs = [(np.concatenate([s.ravel() for s in scores]), np.concatenate([m.ravel() for m in masks]))]
    elif group == "matrix":
        pairs = [(s.ravel(), m.ravel()) for s, m in zip(scores, masks, strict=True)]
    else:
        pairs = [(a, b) for s, m in zip(scores, masks, strict=True) for a, b in zip(s, m, strict=True)]
    for s, m in pairs:
        wanted = np.argsort(-s, kind="stable")[: cut.count(len(s))]
        assert sorted(wanted) == list(np.flatnonzero(m))


@given(SCORES, st.floats(0, 0.99), st.floats(0, 0.99), st.booleans())
def test_masks_are_nested(scores: np.ndarray, a: float, b: float, rows: bool) -> None:
    (fewer,), (more,) = (mask([scores], Cut(r), rows=rows) for r in (max(a, b), min(a, b)))
    assert not (fewer & ~more).any()


def test_two_of_four() -> None:
    scores = np.random.default_rng(0).random((6, 16))
    (kept,) = mask([scores], Cut(0.5), pattern="2:4")
    fours, best = kept.reshape(-1, 4), np.argsort(-scores.reshape(-1, 4), axis=1)[:, :2]
    assert (fours.sum(1) == 2).all()
    assert all(fours[i, best[i]].all() for i in range(len(fours)))
    assert list(mask([np.zeros((1, 4))], Cut(0.5), pattern="2:4")[0][0]) == [True, True, False, False]
    with pytest.raises(InputError, match="has 6"):
        mask([np.zeros((2, 6))], Cut(0.5), pattern="2:4")


def test_a_cut_that_makes_no_sense_is_refused_with_the_way_out() -> None:
    with pytest.raises(PlanError, match=r"not ratio=0\.4; write ratio=0\.5"):
        weights.Magnitude(pattern="2:4").check(0.4)
    with pytest.raises(PlanError, match=r"2:4 removes exactly half"):
        mask([np.zeros((1, 4))], Cut(0.75), pattern="2:4")
    with pytest.raises(PlanError, match="add scope=global"):
        weights.Magnitude().check(None)
    with pytest.raises(PlanError, match="none of local, global"):
        weights.Magnitude(scope="everywhere")
    weights.Magnitude(scope="global").check(None)


# ---- the oracle: torch.nn.utils.prune --------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.9])
def test_magnitude_is_torchs_own_l1_pruning(context: EncoderContext, scope: str, ratio: float) -> None:
    theirs = duplicate(context.encoder)
    linears = [m for _, m in Anatomy(theirs, "weights").linears()]
    if scope == "local":
        for m in linears:
            prune.l1_unstructured(m, "weight", amount=ratio)
    else:
        pairs = [(m, "weight") for m in linears]
        prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=ratio)
    method = weights.Magnitude(scope=scope)
    importance = method.rank(context)
    ours = cut_weights(duplicate(context.encoder), method, importance, Cut(ratio))
    masks = mask(importance.scores, Cut(ratio), scope)
    for kept, w, m in zip(masks, matrices(ours), linears, strict=True):
        np.testing.assert_array_equal(kept, getattr(m, "weight_mask", torch.ones_like(m.weight)).numpy() == 1)
        np.testing.assert_array_equal(w, m.weight.detach().numpy())


def test_global_takes_more_where_weights_are_small(context: EncoderContext) -> None:
    copy = duplicate(context.encoder)
    first = Anatomy(copy, "weights").linears()[0][1]
    with torch.no_grad():
        first.weight.mul_(0.01)
    there = EncoderContext(copy, TEXTS, "weights")
    zeros = {}
    for scope in ("local", "global"):
        method = weights.Magnitude(scope=scope)
        cut = cut_weights(duplicate(copy), method, method.rank(there), Cut(0.5))
        counts = [int((w == 0).sum()) for w in matrices(cut)]
        assert sum(counts) == sum(w.size for w in matrices(cut)) // 2
        zeros[scope] = counts[0] / first.weight.numel()
    assert zeros == {"local": 0.5, "global": 1.0}


def test_keep_counts_all_weights_together(context: EncoderContext) -> None:
    method = weights.Magnitude(scope="global")
    cut = cut_weights(duplicate(context.encoder), method, method.rank(context), Cut(keep=1000))
    assert sum(int((w != 0).sum()) for w in matrices(cut)) == 1000


# ---- every method ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", METHODS, ids=lambda m: m.card.name)
def test_what_every_method_must_keep(context: EncoderContext, cls: type[weights.WeightMethod]) -> None:
    state = {k: v.clone() for k, v in context.encoder.state_dict().items()}
    importance = built(cls).rank(context)
    again = built(cls).rank(EncoderContext(context.encoder, TEXTS, "weights"))
    for w, s, t in zip(matrices(context.encoder), importance.scores, again.scores, strict=True):
        assert s.shape == w.shape
        assert s.dtype == np.float32
        assert np.isfinite(s).all()
        np.testing.assert_array_equal(s, t)
    same = cut_weights(duplicate(context.encoder), built(cls), importance, Cut(0.0), context)
    assert all(torch.equal(v, state[k]) for k, v in same.state_dict().items())
    cut_weights(duplicate(context.encoder), built(cls), importance, Cut(0.5), context)
    assert all(torch.equal(v, state[k]) for k, v in context.encoder.state_dict().items()), "the shared one changed"
    assert not any(p.grad is not None for p in context.encoder.parameters())
    assert built(cls).card.kind == "zeros"
    assert "Zeros only" in cls.card.limits


@pytest.mark.parametrize("cls", SEEDED, ids=lambda m: m.card.name)
def test_another_seed_is_another_draw(context: EncoderContext, cls: type[weights.WeightMethod]) -> None:
    one, other = (built(cls, seed=s).rank(context).scores for s in (1, 2))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_files_hold_zeros_and_no_masks(folders: Mapping[str, Path], tmp_path: Path, architecture: str) -> None:
    from sentence_transformers import SentenceTransformer

    context = EncoderContext(load(folders[architecture]), TEXTS, "weights")
    names = set(context.encoder.state_dict())
    cut_ones = tuple(f"{name}.weight" for name, _ in context.view.linears())
    untouched = {n for n in names if not n.endswith(cut_ones)}
    for cls in METHODS:
        method = built(cls, pattern="2:4") if cls is weights.SecondOrder else built(cls)
        cut = cut_weights(duplicate(context.encoder), method, method.rank(context), Cut(0.5), context)
        assert set(cut.state_dict()) == names
        before = context.encoder.state_dict()
        assert all(torch.equal(v, before[k]) for k, v in cut.state_dict().items() if k in untouched)
        for w in matrices(cut):
            assert (w == 0).sum() == w.size // 2
            assert not (np.signbit(w) & (w == 0)).any()
        folder = tmp_path / cls.__name__
        cut.save(str(folder), create_model_card=False)
        with safe_open(folder / "model.safetensors", "np") as file:
            assert not [k for k in file.keys() if "_orig" in k or "_mask" in k]  # noqa: SIM118
        np.testing.assert_array_equal(vectors(SentenceTransformer(str(folder), device="cpu")), vectors(cut))


# ---- the criteria by their definitions ------------------------------------------------------------------------


def inputs(context: EncoderContext) -> dict[str, np.ndarray]:
    """What each linear layer reads for every real token, one text at a time: no padding anywhere."""
    found: dict[str, list[np.ndarray]] = {}
    handles = [
        m.register_forward_pre_hook(lambda _, x, n=n: found.setdefault(n, []).append(x[0][0].detach().numpy()))
        for n, m in context.view.linears()
    ]
    with torch.no_grad():
        for b in batches(context.encoder, TEXTS, 1):
            sentence_vectors(context.encoder, b)
    for h in handles:
        h.remove()
    return {n: np.concatenate(x).astype(np.float64) for n, x in found.items()}


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_statistics_by_their_definitions(folders: Mapping[str, Path], architecture: str) -> None:
    context = EncoderContext(load(folders[architecture]), TEXTS, "weights")
    read, linears = inputs(context), context.view.linears()
    wanda, moments, shares = weights.Activation().rank(context).scores, context.moments, weights.shares(context)
    second = weights.SecondOrder().rank(context).scores
    for i, (name, module) in enumerate(linears):
        x, w = read[name], np.abs(module.weight.detach().numpy().astype(np.float64))
        np.testing.assert_allclose(wanda[i], w * np.linalg.norm(x, axis=0), rtol=1e-4)
        h = x.T @ x
        np.testing.assert_allclose(moments[name], h, rtol=1e-3, atol=1e-3 * h.max())
        h += weights.DAMP * h.diagonal().mean() * np.eye(len(h))
        np.testing.assert_allclose(second[i], w**2 / np.linalg.inv(h).diagonal(), rtol=1e-2)
        part = np.abs(x)[:, None, :] * w
        np.testing.assert_allclose(shares[i], (part / part.sum(2, keepdims=True)).mean(0), rtol=1e-3)


def test_taylor_estimates_the_summed_squared_gradients(context: EncoderContext) -> None:
    """Over many seeds the estimate is w^2 sum_b |de_b/dw|^2 / texts, taken here one output at a time."""
    few = EncoderContext(context.encoder, TEXTS[:3], "weights")
    copy, trained = weights._trainable(context.encoder)
    exact = [np.zeros(w.shape) for w in trained]
    for batch in batches(copy, TEXTS[:3], 1):
        for value in sentence_vectors(copy, batch)[0]:
            for total, g in zip(exact, torch.autograd.grad(value, trained, retain_graph=True), strict=True):
                total += g.numpy() ** 2
    draws = [weights.Taylor(seed=s).rank(few).scores for s in range(60)]
    for i, w in enumerate(trained):
        wanted = w.detach().numpy() ** 2 * exact[i] / 3
        found = np.mean([d[i] for d in draws], axis=0)
        assert found.sum() == pytest.approx(wanted.sum(), rel=0.2)
        assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.9


def test_l1_training_shrinks_and_ranks_by_what_is_left(context: EncoderContext) -> None:
    importance = weights.L1(steps=20, strength=5.0).rank(context)
    assert int(importance.notes[0].split("%")[0]) > 50
    gentle = weights.L1(steps=1, strength=0.01).rank(context)
    for w, s in zip(matrices(context.encoder), gentle.scores, strict=True):
        np.testing.assert_allclose(s, np.abs(w), atol=0.03 * np.abs(w).mean())


def test_importance_sampling_draws_more_often_what_carries_more(context: EncoderContext) -> None:
    share = weights.shares(context)[0]
    kept = np.zeros(share.shape)
    for seed in range(40):
        scores = weights.ImportanceSampling(seed=seed).rank(context).scores
        kept += mask(scores[:1], Cut(0.5), rows=True)[0]
    heavy = share > np.quantile(share, 0.8)
    assert kept[heavy].mean() > 28 > 16 > kept[share < np.quantile(share, 0.2)].mean() > 0


def test_no_texts_is_said(context: EncoderContext) -> None:
    with pytest.raises(InputError, match="no calibration texts"):
        weights.Activation().rank(EncoderContext(context.encoder, (), "weights"))
    weights.Magnitude().rank(EncoderContext(context.encoder, (), "weights"))


# ---- the refit ----------------------------------------------------------------------------------


def correlated(tokens: int = 2000, p: int = 150) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(tokens, 20)) @ rng.normal(size=(20, p)) + 0.3 * rng.normal(size=(tokens, p))
    return x, rng.normal(size=(40, p)).astype(np.float32)


def refitted(w: np.ndarray, kept: np.ndarray, second: np.ndarray) -> np.ndarray:
    out = refit(torch.from_numpy(w), torch.from_numpy(kept), torch.from_numpy(second.astype(np.float32)))
    return np.asarray(out.numpy())


def test_second_order_moves_a_layers_output_least() -> None:
    x, w = correlated()
    h = x.T @ x
    obs = w**2 / np.diagonal(weights.inverse(h))
    for ratio in (0.3, 0.5, 0.8):
        (big,), (best,) = mask([np.abs(w)], Cut(ratio)), mask([obs], Cut(ratio))
        new = refitted(w, best, h)
        assert (new[~best] == 0).all()
        assert np.linalg.norm(x @ (w - new).T) < np.linalg.norm(x @ (w - w * big).T) / 4


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
def test_the_refit_is_least_squares_row_by_row(ratio: float) -> None:
    x, w = correlated(600, 60)
    h = x.T @ x
    (kept,) = mask([np.random.default_rng(1).random(w.shape)], Cut(ratio))
    damped = np.linalg.inv(weights.inverse(h))
    exact = np.zeros(w.shape)
    for i, stays in enumerate(kept):
        exact[i, stays] = np.linalg.solve(damped[np.ix_(stays, stays)], damped[stays] @ w[i])
    found, scale = refitted(w, kept, h), np.linalg.norm(x @ (w - w * kept).T)
    assert np.linalg.norm(x @ (found - exact).T) < 0.01 * scale
    np.testing.assert_array_equal(refitted(w, np.ones(w.shape, bool), h), w)


def test_a_refit_needs_its_texts_and_helps_every_criterion(context: EncoderContext) -> None:
    for cls in (weights.SecondOrder, weights.Random):
        method = cls(reconstruct="least-squares")
        importance = method.rank(context)
        with pytest.raises(InputError, match="needs the calibration texts"):
            cut_weights(duplicate(context.encoder), method, importance, Cut(0.5))
        with_, without = (
            cut_weights(duplicate(context.encoder), cls(reconstruct=r), importance, Cut(0.5), context)
            for r in ("least-squares", "none")
        )
        dense = vectors(context.encoder)
        assert np.square(vectors(with_) - dense).sum() < np.square(vectors(without) - dense).sum()


# ---- speed, and the real model --------------------------------------------------------------------------------


def test_speed_says_what_there_is(context: EncoderContext) -> None:
    method = weights.Magnitude(pattern="2:4")
    cut = cut_weights(duplicate(context.encoder), method, method.rank(context), Cut(0.5))
    linear, x = Anatomy(cut, "weights").linears()[0][1], torch.rand(64, 32)
    found = sparse_speed(linear, x, repeats=3)
    assert found["csr"]["speedup"] > 0
    assert found["csr"]["difference"] < 1e-5
    if not torch.cuda.is_available():
        assert found["semi-structured"]["speedup"] is None
        assert "GPU" in found["semi-structured"]["reason"]
    dense = Anatomy(context.encoder, "weights").linears()[0][1]
    assert "not 2:4" in sparse_speed(dense, x, repeats=1)["semi-structured"]["reason"]


def test_minilm_keeps_its_meaning_at_half(tmp_path: Path) -> None:
    encoder = load(open_model("minilm").path)
    texts = (
        "Aspirin lowers the risk of heart attacks.", "The cat sleeps on a warm window sill.",
        "Interest rates rose for the third time this year.", "Bread dough rises slowly in a cold kitchen.",
        "Vitamin D deficiency is common in northern countries.", "The train to Hamburg leaves at noon.",
    )  # fmt: skip
    context = EncoderContext(encoder, texts, "weights")
    full = encoder.encode(list(texts))
    cosine = {}
    for method in (weights.Random(), weights.Magnitude(), weights.Activation()):
        cut = cut_weights(duplicate(encoder), method, method.rank(context), Cut(0.5))
        assert all((w == 0).mean() == 0.5 for w in matrices(cut))
        cosine[method.card.criterion] = float((cut.encode(list(texts)) * full).sum(1).mean())
    assert cosine["random"] < cosine["magnitude"] < cosine["activation"]
    assert cosine["activation"] > 0.8


def test_importance_must_fit_the_encoder(context: EncoderContext) -> None:
    with pytest.raises(InputError, match="scores for 1 matrices"):
        cut_weights(duplicate(context.encoder), weights.Magnitude(), Importance("x", (np.ones((2, 2)),)), Cut(0.5))
