"""Methods that prune whole vectors: a property battery over all of them, then what each one is said to compute."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from core import neighbours
from core.errors import Cancelled, InputError, PlanError
from core.methods import groups, retrieved, rows
from core.methods.base import VectorMethod
from core.neighbours import distinct, frame, hashed, nearest
from core.types import FitContext, Floats, Ints, Metric, Ranking, unit
from tests.synthetic import documents_like_text, near

Cls = type[VectorMethod]
CLASSES: tuple[Cls, ...] = (
    rows.Random, rows.Norm, rows.ImportanceSampling, rows.Density, groups.Duplicates, groups.Centroid,
    retrieved.Coverage, retrieved.Unretrieved,
)  # fmt: skip
METHODS = [pytest.param(m, id=m.card.name) for m in CLASSES]
GROUPS = [pytest.param(m, id=m.card.name) for m in CLASSES if m.card.kind == "groups"]
METRICS: tuple[Metric, ...] = ("cosine", "dot", "l2")
every_method = pytest.mark.parametrize("cls", METHODS)
every_metric = pytest.mark.parametrize("metric", METRICS)
N = 150


@cache
def index(metric: Metric, n: int = N, d: int = 12) -> FitContext:
    """Rows of different lengths, two pseudo-queries each; all arrays read-only."""
    x = documents_like_text(n, d)
    x = x * np.exp(0.3 * np.random.default_rng(5).normal(size=(n, 1))).astype(np.float32)
    owners = np.repeat(np.arange(n), 2)
    asked = near(x[owners], 0.7, 1)
    for array in (x, asked, owners):
        array.flags.writeable = False
    return FitContext(x, asked, owners, metric=metric)


def parts(ranking: Ranking) -> list[bytes]:
    return [b"" if a is None else a.tobytes() for a in (ranking.scores, ranking.into, ranking.levels)]


def kept(ranking: Ranking, keep: int) -> set[int]:
    return set(ranking.order[:keep].tolist())


def survivors(ranking: Ranking, keep: int) -> Ints:
    """(n,) the kept row that stands for every row."""
    assert ranking.into is not None
    there = np.isin(np.arange(ranking.units), ranking.order[:keep])
    stands = np.arange(ranking.units)
    for _ in range(ranking.units):
        stands = np.where(there[stands], stands, ranking.into[stands])
    assert there[stands].all()
    return np.asarray(stands)


# ---- the battery ----------------------------------------------------------------------------------------------


def row_order(cls: Cls, on: FitContext) -> None:
    """Rows and queries in another order: the same rows go at every cut; the last two may tie."""
    new, asked = (np.random.default_rng(3).permutation(len(v)) for v in (on.documents, on.pseudo_queries))
    where = np.argsort(new)
    moved = replace(
        on, documents=on.documents[new], pseudo_queries=on.pseudo_queries[asked], owners=where[on.owners][asked]
    )
    one, two = cls().rank(on), cls().rank(moved)
    assert one.order[2:].tolist() == new[two.order[2:]].tolist()


def scaling(cls: Cls, on: FitContext) -> None:
    """A cosine index with rows of any length."""
    factors = np.exp(np.random.default_rng(4).normal(size=(len(on.documents), 1))).astype(np.float32)
    one, two = cls().rank(on), cls().rank(replace(on, documents=on.documents * factors))
    assert one.order.tolist() == two.order.tolist()


PROPERTIES = {"row order": row_order, "scaling": scaling}


def exemptions(cls: Cls) -> dict[str, str]:
    return dict(entry.split(": ", 1) for entry in cls.card.exempt)  # type: ignore[misc]


@every_method
@every_metric
def test_the_order_of_rows_does_not_matter(cls: Cls, metric: Metric) -> None:
    row_order(cls, index(metric))


@every_method
def test_lengths_do_not_matter_for_cosine_unless_the_card_says_so(cls: Cls) -> None:
    if "scaling" not in exemptions(cls):
        return scaling(cls, index("cosine"))
    assert len(exemptions(cls)["scaling"].split()) >= 3, "say why"
    with pytest.raises(AssertionError):
        scaling(cls, index("cosine"))


@every_method
def test_exemptions_are_known(cls: Cls) -> None:
    assert set(exemptions(cls)) <= set(PROPERTIES)


@every_method
@every_metric
def test_the_same_seed_gives_the_same_answer_and_nothing_is_changed(cls: Cls, metric: Metric) -> None:
    on = index(metric)
    before = on.fingerprint
    mine = replace(on, documents=on.documents.copy(), pseudo_queries=on.pseudo_queries.copy(), owners=on.owners.copy())
    assert parts(cls().rank(on)) == parts(cls().rank(mine))
    assert mine.fingerprint == before == digest_of(on)


def digest_of(on: FitContext) -> str:
    return replace(on).fingerprint  # computed anew


@every_method
def test_another_seed_gives_another_answer_where_the_card_says_so(cls: Cls) -> None:
    assert cls.card.seeded == ("seed" in cls.__dataclass_fields__)
    if cls.card.seeded:
        found = [frozenset(kept(cls(seed=s).rank(index("cosine")), N // 2)) for s in range(5)]  # type: ignore[call-arg]
        assert len(set(found)) == 5


@every_method
def test_a_method_learns_from_what_its_card_says(cls: Cls) -> None:
    on = index("cosine")
    other = replace(on, pseudo_queries=near(on.documents[on.owners], 3.0, 9))
    changed = parts(cls().rank(on)) != parts(cls().rank(other))
    assert changed == (cls.card.learns_from == "pseudo-queries")


@every_method
@every_metric
def test_equal_rows_tie_and_the_lowest_index_stays(cls: Cls, metric: Metric) -> None:
    one = index(metric)
    x = np.repeat(one.documents[:1], 9, axis=0)
    ranking = cls().rank(replace(one, documents=x, owners=one.owners % 9))
    assert ranking.order.tolist() == list(range(9))
    double = np.concatenate([one.documents[:40]] * 2)
    order = cls().rank(replace(one, documents=double, owners=one.owners % 40)).order.tolist()
    assert all(order.index(i) < order.index(i + 40) for i in range(40)), "a copy stays longer than its original"


@st.composite
def odd(draw: st.DrawFn) -> FitContext:
    """Few rows, constant columns, equal rows, zero rows, one or two rows, zero queries, queries of nobody."""
    n, d = draw(st.integers(1, 9)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    x = rng.normal(size=(n, d)).astype(np.float32)
    flags = draw(st.sets(st.sampled_from(["constant", "equal", "zero row", "zero column", "zero", "-0"])))
    if "constant" in flags:
        x[:, rng.integers(d)] = 0.5
    if "equal" in flags:
        x[:] = x[0]
    if "zero row" in flags:
        x[rng.integers(n)] = 0
    if "zero column" in flags:
        x[:, rng.integers(d)] = 0
    if "zero" in flags:
        x[:] = 0
    if "-0" in flags:
        x[0] = -0.0
    m = draw(st.integers(1, 12))
    asked = rng.normal(size=(m, d)).astype(np.float32)
    asked[1:2] = 0
    owners = rng.integers(-1, n, m)
    for array in (x, asked, owners):
        array.flags.writeable = False
    return FitContext(x, asked, owners, metric=draw(st.sampled_from(METRICS)))


@every_method
def test_odd_shapes(cls: Cls) -> None:
    @given(odd())
    @settings(max_examples=60)
    def check(on: FitContext) -> None:
        n = len(on.documents)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ranking = cls().rank(on)
        assert ranking.scores.dtype == np.float32
        assert np.isfinite(ranking.scores).all()
        assert sorted(ranking.order.tolist()) == list(range(n))
        if cls.card.kind == "groups":
            check_groups(ranking)

    check()


def check_groups(ranking: Ranking) -> None:
    """The contract of `into` and `levels`."""
    into, levels, order = ranking.into, ranking.levels, ranking.order
    assert into is not None
    assert levels is not None
    assert into.dtype == np.int64
    assert levels.dtype == np.float32
    place = np.argsort(order)
    assert into[order[0]] == order[0]
    assert np.isneginf(levels[order[0]])
    assert (place[into[order[1:]]] < place[order[1:]]).all(), "a row is folded into one that goes before it"
    assert (np.diff(levels[order]) >= 0).all(), "levels rise as rows go"
    assert np.isfinite(levels[order[1:]]).all()
    assert (levels <= 1).all()


@pytest.mark.parametrize("cls", GROUPS)
@every_metric
def test_groups_keep_their_contract(cls: Cls, metric: Metric) -> None:
    ranking = cls().rank(index(metric))
    check_groups(ranking)
    assert ranking.levels is not None
    for level in np.quantile(ranking.levels[1:], [0.1, 0.5, 0.9]):
        below = np.flatnonzero(ranking.levels < level)
        assert set(below.tolist()) == kept(ranking, len(below)), "a threshold is a cut"


@every_method
def test_neighbours_beyond_the_rows_are_clamped(cls: Cls) -> None:
    if "k" not in cls.__dataclass_fields__:
        return
    most = cls.__dataclass_fields__["k"].metadata["high"]
    small = index("cosine", n=12)
    assert parts(cls(k=most).rank(small)) == parts(cls(k=12).rank(small))  # type: ignore[call-arg]
    with pytest.raises(PlanError, match="outside"):
        cls(k=most + 1)  # type: ignore[call-arg]


@every_method
def test_cards_say_what_there_is(cls: Cls) -> None:
    card = cls.card
    assert card.target == "vectors"
    assert card.kind in ("rows", "groups")
    for name in ("idea", "cost", "benefits", "limits"):
        assert getattr(card, name).endswith("."), name
        assert len(getattr(card, name)) <= 140, name
    assert card.label
    assert card.reference
    assert "O(" in (cls.__doc__ or "").splitlines()[0]
    assert card.thresholds == (card.kind == "groups")
    ranking = cls().rank(index("cosine"))
    assert (ranking.into is not None) == (ranking.levels is not None) == (card.kind == "groups")
    assert ranking.method == card.name


@pytest.mark.parametrize("cls", [m for m in CLASSES if m.card.slow])
def test_a_slow_method_can_be_cancelled(cls: Cls) -> None:
    def cancel(what: str, done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        cls().rank(replace(index("cosine"), progress=cancel))


# ---- chance and length ----------------------------------------------------------------------------------------


def test_importance_sampling_draws_by_its_shares() -> None:
    """The first row of the order, over many seeds, is row i with probability q(i)."""
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    x[0] *= 6
    first = [rows.ImportanceSampling(s).rank(FitContext(x, x[:0], np.zeros(0, int), metric="l2")).order[0]
             for s in range(3000)]  # fmt: skip
    spread = ((x - x.mean(axis=0)) ** 2).sum(axis=1)
    share = 0.5 / 6 + 0.5 * spread / spread.sum()
    assert np.bincount(first, minlength=6) / 3000 == pytest.approx(share, abs=0.03)


def test_random_keeps_every_row_equally_often() -> None:
    on = index("cosine", n=30)
    often = np.zeros(30)
    for seed in range(600):
        often[rows.Random(seed).rank(on).order[:10]] += 1
    assert often / 600 == pytest.approx(np.full(30, 1 / 3), abs=0.08)


def test_norm_is_the_length_for_dot_and_the_distance_from_the_mean_otherwise() -> None:
    x = np.array([[3, 0], [0, 1], [0, 0], [2, 2]], np.float32)
    on = FitContext(x, x[:0], np.zeros(0, int), metric="dot")
    assert rows.Norm().rank(on).scores == pytest.approx([3, 1, 0, 8**0.5])
    moved = replace(on, documents=x + 10, metric="l2")
    assert rows.Norm().rank(replace(on, metric="l2")).scores == pytest.approx(rows.Norm().rank(moved).scores, rel=1e-5)
    assert rows.Norm().rank(replace(on, metric="cosine")).order[-1] == 2, "a row of zeros goes first"


# ---- density --------------------------------------------------------------------------------------------------


@every_metric
def test_density_removes_the_densest_of_what_is_left(metric: Metric) -> None:
    on, k = index(metric, n=30), 8
    z = frame(on.documents, metric).astype(np.float64)
    similarity = 1 - ((z[:, None] - z[None]) ** 2).sum(axis=2) / 2
    left, gone = list(range(30)), []
    while len(left) > 15:
        density = [np.sort(similarity[i, [j for j in left if j != i]])[-k:].mean() for i in left]
        gone.append(left.pop(int(np.argmax(density))))
    assert rows.Density(k=k).rank(on).order[::-1][:15].tolist() == gone


def test_density_thins_clusters_and_empties_none() -> None:
    rng = np.random.default_rng(0)
    sizes = [200, 50, 10]
    centres = 4 * np.eye(3, 16)
    x = np.concatenate([c + 0.3 * rng.normal(size=(s, 16)) for c, s in zip(centres, sizes, strict=True)])
    order = rows.Density().rank(FitContext(x.astype(np.float32), x[:0], np.zeros(0, int), metric="l2")).order
    cluster = np.repeat([0, 1, 2], sizes)
    left = np.bincount(cluster[order[:130]], minlength=3)
    assert (left > 0).all()
    assert left[0] / 200 < left[1] / 50 <= left[2] / 10, "the larger the crowd, the more of it goes"


# ---- groups ---------------------------------------------------------------------------------------------------


def planted(originals: int, copies: int, seed: int = 0, most: int = 10**9) -> tuple[Floats, Ints]:
    """Rows with near-copies (cosine at least 0.98) of some of them, shuffled, and the original of each."""
    rng = np.random.default_rng(seed)
    x = documents_like_text(originals, 48, seed)
    x = unit(x - x.mean(axis=0))
    of = rng.integers(0, min(originals, most), copies)
    noise = unit(rng.normal(size=(copies, 48)).astype(np.float32))
    rows_ = np.concatenate([x, unit(x[of] + 0.1 * noise)]).astype(np.float32)
    owner = np.concatenate([np.arange(originals), of])
    assert (np.einsum("ij,ij->i", rows_, x[owner]) >= 0.98).all()
    shuffled = rng.permutation(len(rows_))
    return rows_[shuffled], owner[shuffled]


@pytest.mark.parametrize("cls", GROUPS)
@pytest.mark.parametrize(
    ("originals", "copies", "most"), [(800, 200, 10**9), (800, 200, 3), (300, 300, 1), (40, 10, 1)]
)
def test_planted_copies_go_first_into_the_group_of_their_original(
    cls: Cls, originals: int, copies: int, most: int
) -> None:
    x, owner = planted(originals, copies, most=most)
    ranking = cls().rank(FitContext(x, x[:0], np.zeros(0, int)))
    stands = survivors(ranking, originals)
    assert (owner[stands] == owner).all(), "a row is folded into another original's group"
    assert sorted(owner[ranking.order[:originals]].tolist()) == list(range(originals)), "a group is gone"
    assert ranking.levels is not None
    assert (ranking.levels[ranking.order[originals:]] > 0.95).all()
    assert (ranking.levels[ranking.order[:originals]] < 0.95).all()


@every_metric
def test_a_level_is_the_mean_similarity_of_what_goes_to_what_stays(metric: Metric) -> None:
    """Replayed: groups as `into` makes them; a level is never above that mean, and mostly is it."""
    ranking = groups.Duplicates().rank(index(metric))
    assert ranking.into is not None
    assert ranking.levels is not None
    z = frame(index(metric).documents, metric).astype(np.float64)
    similarity = 1 - ((z[:, None] - z[None]) ** 2).sum(axis=2) / 2
    members = {i: [i] for i in range(N)}
    exact = 0
    for i in ranking.order[:0:-1].tolist():
        stays = int(ranking.into[i])
        mean = similarity[members[i], stays].mean()
        assert ranking.levels[i] <= mean + 1e-5
        exact += abs(ranking.levels[i] - mean) < 1e-5
        members[stays] += members.pop(i)
    assert exact > 0.8 * N
    assert len(members) == 1


def test_of_a_merged_group_the_row_most_similar_to_all_of_it_stays() -> None:
    angles = np.deg2rad([0, 3, 5, -90, 180])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ranking = groups.Duplicates().rank(FitContext(x, x[:0], np.zeros(0, int)))
    assert kept(ranking, 3) == {1, 3, 4}
    assert survivors(ranking, 3).tolist() == [1, 1, 1, 3, 4]


def test_chains_of_close_rows_are_not_one_group() -> None:
    """Single linkage would fold this arc of near-copies into one at a cosine of 0.99."""
    angles = np.deg2rad(np.arange(0, 170, 5))
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ranking = groups.Duplicates().rank(FitContext(x, x[:0], np.zeros(0, int)))
    assert ranking.levels is not None
    left = int((ranking.levels < 0.99).sum())
    stands = survivors(ranking, left)
    assert left >= 7
    assert np.einsum("ij,ij->i", x, x[stands]).min() > 0.95


def test_centroid_ranks_as_duplicates_does() -> None:
    one, two = groups.Duplicates().rank(index("cosine")), groups.Centroid().rank(index("cosine"))
    assert parts(one) == parts(two)
    assert groups.Centroid.card.merges
    assert not groups.Duplicates.card.merges


# ---- queries --------------------------------------------------------------------------------------------------


def scores_of(on: FitContext) -> NDArray[np.float64]:
    q, x = on.pseudo_queries.astype(np.float64), on.documents.astype(np.float64)
    if on.metric == "cosine":
        return np.asarray(unit(q) @ unit(x).T)
    return np.asarray(q @ x.T if on.metric == "dot" else 2 * q @ x.T - (x**2).sum(axis=1))


@every_metric
@pytest.mark.parametrize("own", [True, False])
def test_coverage_is_greedy_facility_location(metric: Metric, own: bool) -> None:
    on, k = index(metric, n=40), 10
    s = scores_of(on)
    if not own:
        s[np.arange(len(s)), on.owners] = s.min()
    worth = np.maximum(s - np.sort(s, axis=1)[:, -k, None], 0)
    chosen: list[int] = []
    covered = np.zeros(len(s))
    while True:
        gains = np.maximum(worth - covered[:, None], 0).sum(axis=0)
        best = int(np.argmax(gains))
        if gains[best] < 1e-6:
            break
        chosen.append(best)
        covered = np.maximum(covered, worth[:, best])
    ranking = retrieved.Coverage(k=k, own=own).rank(on)
    assert len(chosen) >= 15
    assert ranking.order[: len(chosen)].tolist() == chosen
    assert covered == pytest.approx(worth.max(axis=1), abs=1e-5), "every query has its best row"


@every_metric
def test_unretrieved_counts_the_lists_that_a_row_is_in(metric: Metric) -> None:
    on, k = index(metric), 5
    asked = replace(on, pseudo_queries=on.documents, owners=np.arange(N))  # rows ask
    s = scores_of(asked)
    np.fill_diagonal(s, -np.inf)
    top = np.argsort(-s, axis=1)[:, :k]
    counts = np.zeros(N)
    for place in range(k):
        np.add.at(counts, top[:, place], 1 / np.log2(place + 2))
    ranking = retrieved.Unretrieved(k=k).rank(on)
    assert np.diff(counts[ranking.order]).max() < 1e-9
    never = set(np.flatnonzero(counts == 0).tolist())
    assert 0 < len(never) < N
    assert set(ranking.order[-len(never) :].tolist()) == never, "rows in no list go first"
    if metric == "l2":  # an oracle that knows nothing of ours
        found = NearestNeighbors(n_neighbors=k + 1).fit(on.documents).kneighbors(on.documents)[1]
        lists = [[j for j in f if j != o][:k] for o, f in enumerate(found)]
        assert set(range(N)) - {j for f in lists for j in f} == never


def test_without_a_query_coverage_has_nothing_to_learn_from() -> None:
    on = index("cosine")
    nobody = replace(on, pseudo_queries=on.pseudo_queries[:0], owners=on.owners[:0])
    blank = replace(on, pseudo_queries=np.zeros_like(on.pseudo_queries))
    for given_ in (nobody, blank):
        with pytest.raises(InputError, match="vectors/coverage: there is no query"):
            retrieved.Coverage().rank(given_)


# ---- neighbours -----------------------------------------------------------------------------------------------


@every_metric
def test_exact_neighbours_are_those_of_sklearn(metric: Metric) -> None:
    z = frame(index(metric).documents, metric)
    found = nearest(z, 7)
    assert found.recall == 1
    assert found.notes == ()
    distances, wanted = NearestNeighbors(n_neighbors=8, algorithm="brute").fit(z.astype(np.float64)).kneighbors()
    wanted, distances = wanted[:, :7], distances[:, :7]
    assert (found.rows == wanted).all()
    assert found.similarities == pytest.approx(1 - distances**2 / 2, abs=1e-6)


@pytest.mark.parametrize("kind", ["text", "clusters", "copies"])
def test_approximate_neighbours_say_their_recall(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 3000
    x = documents_like_text(n, 32)
    if kind == "clusters":
        x = near(x[np.random.default_rng(0).integers(0, 100, n)], 0.5, 1)
    if kind == "copies":
        x = np.repeat(x[:30], 100, axis=0)
    exact = nearest(x, 10)
    monkeypatch.setattr(neighbours, "EXACT", 1000)
    found = nearest(x, 10)
    assert (found.rows != np.arange(n)[:, None]).all()
    hit = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found.rows, exact.rows, strict=True)])
    if kind != "copies":  # of a hundred copies any ten are right
        assert found.recall >= neighbours.RECALL
        assert hit == pytest.approx(found.recall, abs=0.02)
        assert (found.recall < 1) == bool(found.notes)
    assert found.similarities.mean() == pytest.approx(exact.similarities.mean(), abs=2e-3)
    new = np.random.default_rng(1).permutation(n)
    moved = nearest(x[new], 10)
    assert np.sort(moved.similarities, axis=0) == pytest.approx(np.sort(found.similarities, axis=0), abs=1e-6)


def test_neighbours_are_the_same_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss
    from threadpoolctl import threadpool_limits

    monkeypatch.setattr(neighbours, "EXACT", 1000)
    x, before = documents_like_text(3000, 32), faiss.omp_get_max_threads()
    found = []
    try:
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            with threadpool_limits(threads):
                found.append(nearest(x, 10))
    finally:
        faiss.omp_set_num_threads(before)
    assert found[0].rows.tobytes() == found[1].rows.tobytes()
    assert found[0].similarities.tobytes() == found[1].similarities.tobytes()


def test_a_frame_makes_every_metric_one() -> None:
    x = index("cosine").documents
    z = {m: frame(x, m).astype(np.float64) for m in METRICS}
    close = {m: 1 - ((v[:, None] - v[None]) ** 2).sum(axis=2) / 2 for m, v in z.items()}
    assert close["cosine"] == pytest.approx(unit(x) @ unit(x).T, abs=1e-5)
    assert frame(unit(x), "dot") == pytest.approx(unit(x), abs=1e-6), "unit rows by dot product are a cosine index"
    assert frame(x + 3, "l2") == pytest.approx(frame(x, "l2"), abs=1e-4)
    assert frame(5 * x, "l2") == pytest.approx(frame(x, "l2"), abs=1e-5)
    blank = np.array([[0, 0], [1, 0], [0, 0]], np.float32)
    rows_ = frame(blank, "cosine")
    assert nearest(rows_, 2).similarities == pytest.approx(np.array([[1, 0], [0, 0], [1, 0]]))


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 99))
def test_distinct_rows_are_those_of_numpy(n: int, d: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-1, 2, (n, d)).astype(np.float32)
    x *= np.where(np.random.default_rng(seed).random((n, 1)) < 0.5, -1, 1).astype(np.float32)  # some -0
    first, place = distinct(x)
    assert (np.diff(first) > 0).all()
    assert len(first) == len(np.unique(x, axis=0))
    assert (x[first[place]] == x).all()
    assert all((x[:i] != x[i]).any(axis=1).all() for i in first)
    codes = hashed(x, seed)
    assert len(np.unique(codes)) == len(first)
    assert (codes == codes[first[place]]).all()
