"""The property battery, over every method in the registry, then what each one is said to compute.

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
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.decomposition import PCA, TruncatedSVD

from core import judging, registry, sweeps
from core.errors import PlanError
from core.evaluate.judgements import similarity
from core.methods import axes, base, learned, rotations
from core.methods.base import Method, moments
from core.plan import Cut, Step
from core.select import apply, ordered, select, served
from core.types import FitContext, Prior, Ranking, Reduction
from tests.synthetic import context, documents_like_text, near

Cls = type[Method]
DIMENSIONS = [registry.find(n) for n in registry.names("dimensions")]
METHODS = [pytest.param(m, id=m.card.name) for m in DIMENSIONS]
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
def shrunk() -> FitContext:
    """Eight documents and a prior from other texts, far from these: what a small corpus is shrunk towards."""
    rng = np.random.default_rng(8)
    mean = rng.normal(size=D)
    texts = rng.normal(size=(400, D)) * np.exp(rng.normal(size=D)) + mean
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    prior = Prior((texts.T @ texts / 400).astype(np.float32), texts.mean(axis=0).astype(np.float32), 400)
    return replace(context(n=8, d=D), prior=prior)


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
    return [k for k in range(1, len(scores)) if scores[k - 1] - scores[k] > 1e-4 * np.abs(scores[k - 1 : k + 1]).max()]


def same_answer(one: Ranking, two: Ranking, move: Callable[[NDArray[Any]], NDArray[Any]] = lambda m: m) -> None:
    """Assert that two rankings keep the same at every clear cut; `move` takes the first one's M to the second's."""
    assert one.units == two.units
    scale = float(np.abs(one.scores).max()) or 1.0
    assert np.sort(two.scores) == pytest.approx(np.sort(one.scores), rel=2e-3, abs=1e-4 * scale)
    cuts = clear_cuts(one)
    assert len(cuts) >= one.units / 2, "too few cuts to compare"
    for k in cuts:
        wanted, found = move(product(one, k)), product(two, k)
        assert np.abs(found - wanted).max() <= 2e-3 * np.abs(wanted).max(), f"{k} units"


# ---- properties that a card may be exempt from ----------------------------------------------------------------


def idempotent(cls: Cls, on: FitContext, **options: Any) -> None:
    """Reduced, taken back by the same matrix, and reduced again: nothing changes any more."""
    for keep in (1, on.dimension // 2, on.dimension - 1):
        r = select(rank(cls, on, keep, **options), Cut(keep=keep), "dot")
        once = apply(r, on.documents)
        back = once @ r.matrix.T + (0 if r.mean is None else r.mean)
        assert np.abs(apply(r, back.astype(np.float32)) - once).max() < 1e-5


def rows(cls: Cls, on: FitContext, **options: Any) -> None:
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
    same_answer(rank(cls, on, **options), rank(cls, moved, **options))


def permutation(cls: Cls, on: FitContext, **options: Any) -> None:
    """Axes in another order: the answer in that order."""
    p = np.random.default_rng(4).permutation(on.dimension)
    assert on.pairs is not None
    prior = on.prior and Prior(on.prior.second_moment[np.ix_(p, p)], on.prior.mean[p], on.prior.texts)
    moved = replace(
        on, documents=on.documents[:, p], pseudo_queries=on.pseudo_queries[:, p], prior=prior,
        pairs=(on.pairs[0][:, p], on.pairs[1][:, p]),
    )  # fmt: skip
    same_answer(rank(cls, on, **options), rank(cls, moved, **options), lambda m: m[np.ix_(p, p)])


def gram(cls: Cls, on: FitContext, **options: Any) -> None:
    """||X X^T - X M X^T||_F, nothing normalised, never falls as the ratio rises."""
    ranking = rank(cls, on, **options)
    x = on.documents.astype(np.float64)
    offset = 0.0 if ranking.mean is None else ranking.mean.astype(np.float64)
    full = x @ x.T
    errors = [
        np.linalg.norm(full - (x - offset) @ product(ranking, k) @ (x - offset).T)
        for k in range(ranking.units - 1, 0, -1)
    ]
    assert (np.diff(errors) >= -5e-5 * np.linalg.norm(full)).all()


PROPERTIES = {"idempotent": idempotent, "rows": rows, "permutation": permutation, "gram": gram}
CONTEXTS = [usual, shrunk, many]
HARD = {"steps": 400, "own": 0.0, "tau": 1.0}  # trained until it shows


def hard(cls: Cls) -> dict[str, Any]:
    return {k: v for k, v in HARD.items() if k in cls.__dataclass_fields__}


def exemptions(cls: Cls) -> dict[str, str]:
    return dict(entry.split(": ", 1) for entry in cls.card.exempt)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("cls", "name"),
    [pytest.param(m, n, id=f"{m.card.name}:{n}") for m in DIMENSIONS for n in PROPERTIES if n not in exemptions(m)],
)
def test_property(cls: Cls, name: str) -> None:
    for on in CONTEXTS:
        PROPERTIES[name](cls, on())


def holds(cls: Cls, name: str, on: FitContext, **options: Any) -> bool:
    try:
        PROPERTIES[name](cls, on, **options)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("cls", "name"), [pytest.param(m, n, id=f"{m.card.name}:{n}") for m in DIMENSIONS for n in exemptions(m)]
)
def test_an_exemption_is_known_explained_and_needed(cls: Cls, name: str) -> None:
    assert name in PROPERTIES, f"{name!r} is no property of the battery"
    assert len(exemptions(cls)[name].split()) >= 3, "say why"
    found = (holds(cls, name, on(), **options) for on in CONTEXTS for options in ({}, hard(cls)))
    assert not all(found), f"{cls.card.name} passes {name!r}: take the exemption off its card"


# ---- properties without exemption -----------------------------------------------------------------------------


@every_method
def test_ratio_zero_is_bit_identical(cls: Cls) -> None:
    on = usual()
    ranking = rank(cls, on, D)
    for cut in (Cut(ratio=0.0), Cut(keep=D)):
        reduction = select(ranking, cut)
        for side in ("document", "query"):
            assert apply(reduction, on.documents, side).tobytes() == on.documents.tobytes()  # type: ignore[arg-type]
        assert reduction.identity
        assert reduction.size == D


@every_method
def test_cuts_are_nested(cls: Cls) -> None:
    on = usual()
    whole = rank(cls, on)
    for keep in range(1, D):
        less, more = (select(whole, Cut(keep=k)) for k in (keep, keep + 1))
        assert set(less.kept.tolist()) < set(more.kept.tolist())
        if less.basis is not None and not more.identity:
            assert (more.matrix[:, :keep] == less.matrix).all()
    if cls.card.refits:
        assert product(rank(cls, on, 5), 5).shape == (D, D)
        trained = HARD | {"steps": 80}
        assert np.abs(product(rank(cls, on, 5, **trained), 5) - product(rank(cls, on, **trained), 5)).max() > 1e-3
    else:  # one ranking serves all cuts, whatever cut it was made for
        for keep in (1, 5):
            assert rank(cls, on, keep).scores.tobytes() == whole.scores.tobytes()


def parts(ranking: Ranking) -> list[bytes]:
    found = (ranking.scores, ranking.basis, ranking.query_basis, ranking.mean)
    return [b"" if a is None else a.tobytes() for a in found]


@every_method
@pytest.mark.parametrize("keep", [None, 5])
def test_the_same_seed_gives_the_same_answer(cls: Cls, keep: int | None) -> None:
    options = {"seed": 3} if "seed" in cls.__dataclass_fields__ else {}
    assert parts(rank(cls, usual(), keep, **options)) == parts(rank(cls, usual(), keep, **options))


@every_method
def test_another_seed_gives_another_answer_where_the_card_says_so(cls: Cls) -> None:
    if not cls.card.seeded:
        return
    kept = {tuple(sorted(rank(cls, usual(), seed=s).order[: D // 2].tolist())) for s in range(5)}
    assert len(kept) == 5


@every_method
def test_inputs_are_never_changed(cls: Cls) -> None:
    """The shared contexts are read-only, so a write would raise; here they are writeable, and stay the same."""
    on = usual()
    assert on.pairs is not None
    mine = replace(
        on, documents=on.documents.copy(), pseudo_queries=on.pseudo_queries.copy(), owners=on.owners.copy(),
        pairs=(on.pairs[0].copy(), on.pairs[1].copy()),
    )  # fmt: skip
    ranking = rank(cls, mine)
    before = parts(ranking)
    reduction = select(ranking, Cut(keep=5))
    small = apply(reduction, mine.documents), apply(reduction, mine.pseudo_queries, "query")
    in_order = ordered(ranking, mine.documents)
    for array in (ranking.scores, *small, in_order):
        if array.flags.writeable:
            array *= 2
    assert mine.fingerprint == on.fingerprint
    assert before[1:] == parts(ranking)[1:]


@every_method
def test_a_method_learns_from_what_its_card_says(cls: Cls) -> None:
    """Other pseudo-queries, other pairs or other documents change the answer where the card names them, only there."""
    on, says = usual(), cls.card.learns_from
    assert on.pairs is not None
    other = {
        "pseudo-queries": replace(on, pseudo_queries=near(on.documents[on.owners], 3.0, 9)),
        "title-body pairs": replace(on, pairs=(near(on.pairs[0], 3.0, 8), on.pairs[1])),
        "nothing": replace(on, documents=near(on.documents, 3.0, 7)),
    }
    mine = {k: v for k, v in (HARD | {"steps": 80}).items() if k in cls.__dataclass_fields__}
    before = parts(rank(cls, on, 5, **mine))
    changed = {k for k, v in other.items() if parts(rank(cls, v, 5, **mine)) != before}
    wanted = {"nothing": set(), "documents": {"nothing"}}.get(says, {"nothing", says})
    assert changed == wanted


def test_a_context_holds_nothing_to_be_judged_by() -> None:
    held = {f.name for f in fields(FitContext)}
    assert held == {
        "documents", "pseudo_queries", "owners", "pairs", "pair_owners", "metric", "prior", "progress",
        "aside",  # which rows ask, never what is relevant to them
    }  # fmt: skip


@every_method
def test_a_kept_ranking_is_the_ranking(cls: Cls) -> None:
    step = Step(cls.card.name, (("steps", 20),) if "steps" in cls.__dataclass_fields__ else ())
    on = usual()
    first, second = judging.rank(on, step, 5), judging.rank(on, step, 5)
    assert parts(first) == parts(second) == parts(rank(cls, on, 5))
    assert first.notes == second.notes


@every_method
def test_the_curve_cuts_what_the_cut_cuts(cls: Cls) -> None:
    """The first k columns of `ordered`, normalised, are the vectors of the cut at k, up to an order of axes."""
    on = usual()
    ranking = rank(cls, on)
    reduction = select(ranking, Cut(keep=6), "cosine")
    assert reduction.metric == served(ranking, "cosine")
    q, d = (ordered(ranking, v, s)[:, :6] for v, s in ((on.pseudo_queries, "query"), (on.documents, "document")))  # type: ignore[arg-type]
    one = similarity(q, d, reduction.metric)
    small = apply(reduction, on.pseudo_queries, "query"), apply(reduction, on.documents)
    assert np.abs(one - small[0] @ small[1].T).max() < 1e-5


# ---- small and odd shapes -------------------------------------------------------------------------------------


@st.composite
def odd(draw: st.DrawFn) -> FitContext:
    """Few documents, fewer than dimensions, constant columns, identical rows, zero vectors, one or two documents."""
    n, d = draw(st.integers(1, 9)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    x = rng.normal(size=(n, d)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    flags = draw(st.sets(st.sampled_from(["constant", "identical", "zero row", "zero column", "zero"])))
    if "constant" in flags:
        x[:, rng.integers(d)] = 0.5
    if "identical" in flags:
        x[:] = x[0]
    if "zero row" in flags:
        x[rng.integers(n)] = 0
    if "zero column" in flags:
        x[:, rng.integers(d)] = 0
    if "zero" in flags:
        x[:] = 0
    owners = np.repeat(np.arange(n), draw(st.integers(1, 6)))
    asked = near(x[owners], 0.3, 1) if draw(st.booleans()) else x[owners]
    for array in (x, asked, owners):
        array.flags.writeable = False
    return FitContext(x, asked, owners, (x, x), pair_owners=np.arange(n))


def check_odd(cls: Cls, on: FitContext, keep: int | None) -> None:
    d = on.dimension
    ranking = rank(cls, on, keep)
    fitted = ranking.basis is not None and ranking.basis.shape == (d, keep)
    assert ranking.units == (keep if fitted else d)
    for part in (ranking.scores, ranking.basis, ranking.query_basis, ranking.mean):
        assert part is None or np.isfinite(part).all()
    assert sorted(ranking.order.tolist()) == list(range(ranking.units))
    for k in range(1, ranking.units + 1) if keep is None else [keep]:
        reduction: Reduction = select(ranking, Cut(keep=k))
        assert reduction.size == k
        small = apply(reduction, on.documents)
        assert small.shape == (len(on.documents), k)
        assert np.isfinite(small).all()
        assert apply(reduction, on.pseudo_queries, "query").shape == (len(on.owners), k)


@every_method
def test_odd_shapes(cls: Cls) -> None:
    @given(odd(), st.data())
    @settings(max_examples=12 if cls.card.slow else 40)
    def check(on: FitContext, data: st.DataObject) -> None:
        keep = data.draw(st.none() | st.integers(1, on.dimension)) if cls.card.refits else None
        check_odd(cls, on, keep)

    check()


# ---- cards ----------------------------------------------------------------------------------------------------


@every_method
def test_a_card_is_complete(cls: Cls) -> None:
    card = cls.card
    for name in ("name", "criterion", "label", "idea", "cost", "benefits", "limits", "reference"):
        text = getattr(card, name)
        assert text.strip() == text != "", name
    for name in ("idea", "cost", "benefits", "limits"):
        assert getattr(card, name).endswith("."), name
        assert len(getattr(card, name)) <= 140, name
    assert card.kind in ("selection", "rotation")
    assert card.learns_from in ("nothing", "documents", "pseudo-queries", "title-body pairs")
    assert card.target == "dimensions" == card.name.split("/")[0]
    assert not card.seeded or "seed" in cls.__dataclass_fields__
    assert all(": " in entry for entry in card.exempt)
    assert cls.__doc__ is not None
    assert "O(" in cls.__doc__.splitlines()[0], "the first line says what it costs"


@every_method
def test_a_rotation_has_a_basis_and_a_selection_has_none(cls: Cls) -> None:
    assert (rank(cls, usual()).basis is not None) == (cls.card.kind == "rotation")


@every_method
def test_options_have_help_and_a_range_that_holds_the_default(cls: Cls) -> None:
    found = registry.options(cls)
    assert [o["name"] for o in found[:2]] == ["ratio", "keep"]
    for o in found[2:]:
        assert o["help"]
        assert o["low"] is not None
        assert o["low"] <= o["default"]
        assert o["high"] is None or o["default"] <= o["high"]
        with pytest.raises(PlanError, match=f"{o['name']}=.*outside"):
            cls(**{o["name"]: type(o["default"])(o["low"] - 1)})


def test_the_registry_holds_the_names_that_scripts_rely_on() -> None:
    wanted = (
        "random leading magnitude variance redundancy svd pca bilinear l1 taylor sensitivity importance-sampling "
        "distilled contrastive"
    )
    assert sorted(registry.names("dimensions")) == sorted(f"dimensions/{n}" for n in wanted.split())
    labels = [m.card.label for m in DIMENSIONS]
    assert len(set(labels)) == len(labels)


@every_method
def test_as_json_holds_the_contracts_keys(cls: Cls) -> None:
    wanted = {"name", "target", "criterion", "label", "idea", "cost", "benefits", "limits", "options", "reference"}
    assert wanted <= set(registry.as_json(cls))


# ---- what each method is said to compute ----------------------------------------------------------------------


def span(x: NDArray[Any]) -> NDArray[np.float64]:
    """The projector onto the columns of x."""
    q = np.linalg.qr(x.astype(np.float64))[0]
    return np.asarray(q @ q.T)


def test_svd_is_scikit_learns() -> None:
    x = usual().documents
    ranking = rank(rotations.Svd, usual())
    official = TruncatedSVD(7, algorithm="arpack").fit(x)
    assert np.abs(product(ranking, 7) - span(official.components_.T)).max() < 1e-4
    assert ranking.scores[:7] == pytest.approx(np.sort(official.singular_values_**2 / len(x))[::-1], rel=1e-4)
    assert ranking.basis is not None
    assert ranking.basis.T @ ranking.basis == pytest.approx(np.eye(D), abs=1e-5)


def test_pca_is_scikit_learns() -> None:
    x = usual().documents
    ranking = rank(rotations.Pca, usual())
    official = PCA(7).fit(x)
    assert np.abs(product(ranking, 7) - span(official.components_.T)).max() < 1e-4
    assert ranking.mean == pytest.approx(official.mean_, abs=1e-6)
    reduced = apply(select(ranking, Cut(keep=7), "dot"), x)
    assert np.abs(reduced) == pytest.approx(np.abs(official.transform(x)), abs=1e-4)


def test_variance_and_magnitude_are_what_they_say() -> None:
    x = usual().documents
    assert rank(axes.Variance, usual()).scores == pytest.approx(x.var(axis=0), rel=1e-4)
    assert rank(axes.Magnitude, usual()).scores == pytest.approx(np.abs(x).mean(axis=0), rel=1e-5)
    assert rank(axes.Leading, usual()).order.tolist() == list(range(D))


def test_bilinear_keeps_the_dot_product_better_than_any_other_map_of_its_size() -> None:
    on = replace(usual(), pseudo_queries=near(usual().documents[usual().owners], 3.0, 5))
    q, d = on.pseudo_queries.astype(np.float64), on.documents.astype(np.float64)
    scores = q @ d.T

    def error(ranking: Ranking, size: int = 5) -> float:
        return float(((scores - q @ product(ranking, size).T @ d.T) ** 2).mean())

    best = error(rank(rotations.Bilinear, on, mix=1.0))
    assert best <= min(error(rank(cls, on)) for cls in (rotations.Svd, axes.Redundancy, axes.Random))
    low_rank = np.linalg.svd(scores)[1]
    assert best == pytest.approx((low_rank[5:] ** 2).sum() / scores.size, rel=1e-2)  # Eckart-Young on Q D^T itself


def test_redundancy_drops_one_of_two_copies_first() -> None:
    x = documents_like_text(300, 10).copy()
    x[:, 7] = x[:, 2]
    ranking = rank(axes.Redundancy, FitContext(x, x[:0], np.zeros(0, np.int64)))
    assert ranking.order[-1] == 7  # the copies tie: the lowest index stays
    assert rank(axes.Variance, FitContext(x, x[:0], np.zeros(0, np.int64))).order[-1] != 7


def test_redundancy_removes_what_the_rest_predicts_best() -> None:
    """Its first step, by regressing every axis on the others."""
    x = usual().documents.astype(np.float64)
    ridge = 0.01 * (x**2).sum() / len(x) / D * len(x)

    def residual(j: int) -> float:
        rest, y = np.delete(x, j, axis=1), x[:, j]
        w = np.linalg.solve(rest.T @ rest + ridge * np.eye(D - 1), rest.T @ y)
        return float(((y - rest @ w) ** 2).sum() + ridge * (w**2).sum())

    assert rank(axes.Redundancy, usual()).order[-1] == np.argmin([residual(j) for j in range(D)])


def test_taylor_is_the_gradient_of_its_loss() -> None:
    on, tau = usual(), 0.05
    q, d = (torch.tensor(v, dtype=torch.float64) for v in (on.pseudo_queries, on.documents))
    own = torch.tensor(on.owners[:, None] == np.arange(len(on.documents)))
    gates = torch.ones(D, dtype=torch.float64, requires_grad=True)
    s = cosine(q * gates, d * gates).masked_fill(own, -1e4)
    torch.nn.functional.cross_entropy(s / tau, s.detach().argmax(1)).backward()
    assert gates.grad is not None
    assert rank(axes.Taylor, on, tau=tau).scores == pytest.approx(-gates.grad.numpy(), abs=1e-4)


def cosine(q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize
    return unit(q, dim=1) @ unit(d, dim=1).T


def test_sensitivity_is_leaving_one_out() -> None:
    on, tau = context(n=60, d=8), 0.05
    q, d = (torch.tensor(v, dtype=torch.float64) for v in (on.pseudo_queries, on.documents))
    own = torch.tensor(on.owners[:, None] == np.arange(len(on.documents)))
    teacher = (cosine(q, d) / tau).masked_fill(own, -1e4).log_softmax(1)
    wanted = []
    for j in range(8):
        left = [i for i in range(8) if i != j]
        student = (cosine(q[:, left], d[:, left]) / tau).masked_fill(own, -1e4).log_softmax(1)
        kl = torch.nn.functional.kl_div(student, teacher, log_target=True, reduction="batchmean")
        wanted.append(float(kl))
    assert rank(axes.Sensitivity, on, tau=tau).scores == pytest.approx(np.array(wanted) - min(wanted), abs=1e-4)


def test_importance_sampling_draws_by_leverage() -> None:
    """Over many seeds, an axis comes first in proportion to its ridge leverage score."""
    x = usual().documents * np.float32(0.6) ** np.arange(D)  # so that leverage differs from axis to axis
    on = replace(usual(), documents=x.astype(np.float32))
    x = x.astype(np.float64)
    c = x.T @ x / len(x)
    leverage = np.diag(c @ np.linalg.inv(c + np.trace(c) / D * np.eye(D)))
    first = [int(rank(axes.ImportanceSampling, on, seed=s).order[0]) for s in range(2000)]
    share = np.bincount(first, minlength=D) / len(first)
    assert np.abs(share - leverage / leverage.sum()).max() < 4 * np.sqrt(share.max() / len(first))


def test_random_draws_every_axis_alike() -> None:
    kept = np.array([rank(axes.Random, usual(), seed=s).order[: D // 4] for s in range(800)])
    share = np.bincount(kept.ravel(), minlength=D) / kept.size
    assert np.abs(share * D - 1).max() < 0.25


DEAD = [axes.Magnitude, axes.Variance, axes.Redundancy, axes.Sensitivity, axes.ImportanceSampling, learned.L1]


@pytest.mark.parametrize("cls", [pytest.param(m, id=m.card.name) for m in DEAD])
def test_axes_that_hold_nothing_go_first(cls: Cls) -> None:
    on = usual()
    p = np.random.default_rng(0).permutation(D + 5)

    def wide(x: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([x, np.zeros((len(x), 5), np.float32)], axis=1)[:, p]

    ranking = rank(cls, replace(on, documents=wide(on.documents), pseudo_queries=wide(on.pseudo_queries), pairs=None))
    assert (p[ranking.order[D:]] >= D).all()


def test_l1_is_decided_by_the_data_and_not_by_rounding() -> None:
    """Its loss has no gradient at the start; what breaks the tie must be the penalty, not the last bit of a sum."""
    on = usual()
    rng = np.random.default_rng(1)
    jitter = replace(on, documents=on.documents + (1e-7 * rng.normal(size=on.documents.shape)).astype(np.float32))
    same_answer(rank(learned.L1, on, steps=100), rank(learned.L1, jitter, steps=100))


@pytest.mark.parametrize("cls", [learned.Distilled, learned.Contrastive])
def test_training_lowers_the_held_out_loss(cls: Cls) -> None:
    on = context(n=400, d=32, seed=3)
    losses = [float(rank(cls, on, 4, steps=s).notes[-1].split()[2]) for s in (1, 150)]
    assert losses[1] < losses[0]
    assert "at step" in rank(cls, on, 4, steps=1).notes[-1]


def test_contrastive_needs_titles() -> None:
    with pytest.raises(PlanError, match=r"titles .*dimensions/distilled"):
        rank(learned.Contrastive, replace(usual(), pairs=None))


def test_too_few_texts_to_train_on_give_the_svd() -> None:
    on = context(n=4, d=6)
    ranking = rank(learned.Distilled, on)
    assert "this is the SVD" in ranking.notes[-1]
    assert parts(ranking)[1] == parts(rank(rotations.Svd, on))[1]


# ---- small corpora --------------------------------------------------------------------------------------------


def test_few_documents_are_shrunk_towards_the_prior() -> None:
    on = shrunk()
    assert on.prior is not None
    second, mean, notes = moments(on)
    x, n, k = on.documents.astype(np.float64), 8, base._PRIOR_WEIGHT * D
    assert second == pytest.approx((x.T @ x + k * on.prior.second_moment) / (n + k), rel=1e-5)
    assert mean == pytest.approx((x.sum(axis=0) + k * on.prior.mean) / (n + k), rel=1e-5)
    assert "8 documents for 16 dimensions" in notes[0]
    assert f"{k:,.0f} documents" in notes[0]


def test_enough_documents_speak_for_themselves() -> None:
    on = replace(context(n=160, d=D), prior=shrunk().prior)
    second, mean, notes = moments(on)
    x = on.documents.astype(np.float64)
    assert second == pytest.approx(x.T @ x / 160)
    assert mean == pytest.approx(x.mean(axis=0))
    assert notes == ()


def test_without_a_prior_a_note_says_that_it_may_overfit() -> None:
    assert "may overfit" in moments(usual())[2][0]
    other = Prior(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 9)  # of another model
    assert "may overfit" in moments(replace(usual(), prior=other))[2][0]


def test_a_context_without_some_documents_holds_nothing_taken_from_them() -> None:
    on = usual()
    assert on.pairs is not None
    gone = np.array([0, 5, 119])
    left = sweeps._without(on, gone)
    assert left.pairs is not None
    assert left.pair_owners is not None
    stays = np.setdiff1d(np.arange(120), gone)
    assert (left.documents == on.documents[stays]).all()
    asked = np.isin(on.owners, stays)
    assert (left.pseudo_queries == on.pseudo_queries[asked]).all()
    assert (stays[left.owners] == on.owners[asked]).all()
    for one, two in zip(left.pairs, on.pairs, strict=True):
        assert (one == two[stays]).all()
    assert (stays[left.pair_owners] == stays).all()
    assert left.fingerprint != on.fingerprint
    with pytest.raises(PlanError, match="--fit-on"):
        sweeps._without(on, np.arange(119))
