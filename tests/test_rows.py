"""Whole vectors: which rows stay, what stands for the others, and the ranks in the index that is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import registry
from core.bench import Bench, Judge
from core.errors import PlanError
from core.evaluate import retrieval
from core.evaluate.judgements import MISSING, Judgements, from_neighbours, from_qrels
from core.evaluate.ranking import ranks
from core.evaluate.thinned import ranks_left
from core.judging import measured, reduce
from core.methods.groups import Centroid, Duplicates
from core.plan import Cut, parse
from core.rows import behind, count, everything, folded, merged, select_rows
from core.thinning import ceiling, survivors_alone
from core.types import Ints, Metric, Ranking, Rows, unit
from core.vector_bench import Source, described
from tests.synthetic import Case, context, exact_scores, judge, near, random_case, rounded, too_close


def task_of(case: Case) -> Judgements:
    return from_qrels(case.query_ids, case.document_ids, case.qrels)


def by_sorting(case: Case, task: Judgements, left: Ints, metric: Metric) -> list[int | None]:
    """The rank of each judged document among the rows that are left, by sorting; None where it cannot be told."""
    found: list[int | None] = []
    scores = exact_scores(case.queries, case.documents, metric)
    size = 1.0 if metric == "cosine" else float(np.abs(scores).max(initial=1.0))
    stays = set(left.tolist())
    for i, row in enumerate(task.query_rows):
        for column in task.judged[task.pointer[i] : task.pointer[i + 1]]:
            d = int(task.columns[column])
            if d not in stays:
                found.append(MISSING)
                continue
            own = scores[row]
            if too_close(own[left], int(np.searchsorted(left, d)), size):
                found.append(None)
                continue
            keys = rounded(own)
            better = [r for r in left if keys[r] > keys[d]]
            ties = [r for r in left if keys[r] == keys[d] and case.document_ids[r] > case.document_ids[d]]
            found.append(1 + len(better) + len(ties))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_a_smaller_index_is_ranked_as_if_it_had_always_been_that_small(seed: int) -> None:
    case = random_case(seed, metric="cosine" if seed % 2 else "dot")
    task, rng = task_of(case), np.random.default_rng(seed)
    left = np.sort(rng.permutation(len(case.document_ids))[: max(1, len(case.document_ids) // 2)])
    got = ranks(task.left(left), case.queries, case.documents[left], [case.documents.shape[1]], case.metric)[0]
    for mine, wanted in zip(got, by_sorting(case, task, left, case.metric), strict=True):
        assert wanted is None or mine == wanted


@pytest.mark.parametrize("seed", range(8))
def test_every_cut_in_one_pass_is_every_cut_alone(seed: int) -> None:
    case = random_case(seed)
    task, n = task_of(case), len(case.document_ids)
    order = np.random.default_rng(seed).permutation(n)
    places = np.empty(n, np.int64)
    places[order] = np.arange(n)
    cuts = sorted({1, max(1, n // 3), max(1, n // 2), n}, reverse=True)
    got = ranks_left(task, case.queries, case.documents, places, cuts, case.metric)
    for i, k in enumerate(cuts):
        left = np.sort(order[:k])
        alone = ranks(task.left(left), case.queries, case.documents[left], [case.documents.shape[1]], case.metric)[0]
        assert (got[i] == alone).all()


def test_hidden_documents_are_as_if_they_were_not_there_for_that_query_alone() -> None:
    case = random_case(3, n=60, queries=30, metric="dot")
    task, rng = task_of(case), np.random.default_rng(0)
    pairs = np.stack([rng.integers(0, len(task), 80), rng.integers(0, 60, 80)], axis=1)
    own = {(int(task.owner[p]), int(c)) for p, c in enumerate(task.judged)}
    pairs = np.unique(np.array([p for p in pairs.tolist() if tuple(p) not in own]), axis=0)
    hidden = replace(task, hidden=pairs)
    d = case.documents.shape[1]
    got = ranks(hidden, case.queries, case.documents, [d // 2, d], "dot")
    for k, axes in ((0, d // 2), (1, d)):
        for q in range(len(task)):
            rows = np.setdiff1d(np.arange(60), task.columns[hidden.never(q)])
            one = task.only(np.array([q])).left(rows)
            wanted = ranks(one, case.queries[:, :axes], case.documents[rows][:, :axes], [axes], "dot")[0]
            assert (got[k, task.pointer[q] : task.pointer[q + 1]] == wanted).all()
    half = hidden.only(np.arange(0, len(task), 2))
    every_other = got[1][np.isin(task.owner, np.arange(0, len(task), 2))]
    assert (ranks(half, case.queries, case.documents, [d], "dot")[0] == every_other).all()
    assert set(retrieval.per_query(hidden, got[1])) == {"hit_rate@10", *retrieval.MEASURES}
    assert set(retrieval.per_query(task, got[1])) == set(retrieval.MEASURES)


@pytest.mark.parametrize("seed", range(4))
def test_l2_ranks_by_distance(seed: int) -> None:
    """Wherever the origin lies: what all rows have in common eats no digits of their distances."""
    rng = np.random.default_rng(seed)
    documents = (rng.normal(size=(80, 6)) * rng.uniform(0.5, 30) + 1000).astype(np.float32)
    queries = (documents[:20] + rng.normal(size=(20, 6))).astype(np.float32)
    ids = [f"d{i}" for i in range(80)]
    task = from_qrels([f"q{i}" for i in range(20)], ids, {f"q{i}": {f"d{i}": 1, f"d{i + 20}": 1} for i in range(20)})
    distance = ((queries[:, None, :].astype(np.float64) - documents[None]) ** 2).sum(axis=2)
    place = np.argsort(np.argsort(distance, axis=1), axis=1) + 1
    got = ranks(task, queries, documents, [3, 6], "l2")
    wanted = place[task.owner, task.columns[task.judged]]
    assert (got[1] == wanted).all()
    three = ((queries[:, None, :3].astype(np.float64) - documents[None, :, :3]) ** 2).sum(axis=2)
    assert (got[0] == (np.argsort(np.argsort(three, axis=1), axis=1) + 1)[task.owner, task.columns[task.judged]]).all()
    assert (ranks_left(task, queries, documents, np.arange(80), [80], "l2")[0] == wanted).all()
    near = from_neighbours(queries, documents, ids, np.full(20, -1), metric="l2")
    assert (ranks(near, queries, documents, [6], "l2")[0] <= 10).all()


# ---- which rows stay ------------------------------------------------------------------------------------------


@st.composite
def rankings(draw: st.DrawFn) -> Ranking:
    """A ranking in which every row is folded into one that goes later."""
    n = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    order = rng.permutation(n)  # the most important first
    into = np.empty(n, np.int64)
    for place, row in enumerate(order):
        into[row] = row if place == 0 else order[rng.integers(0, place)]
    scores = np.empty(n, np.float32)
    scores[order] = np.arange(n, 0, -1)
    levels = np.empty(n, np.float32)
    levels[order] = np.sort(rng.uniform(0, 1, n)).astype(np.float32)
    levels[order[0]] = -np.inf
    return Ranking("x", scores, into=into, levels=levels)


@given(rankings(), st.data())
def test_every_row_that_is_folded_stands_behind_a_row_that_stays(ranking: Ranking, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, ranking.units))
    rows = select_rows(ranking, keep)
    assert set(rows.kept) == set(ranking.order[:keep])
    assert set(rows.stands) <= set(rows.kept)
    assert (rows.stands[rows.kept] == rows.kept).all()
    assert len(folded(rows)) == ranking.units - keep
    gone = select_rows(replace(ranking, into=None), keep)
    assert (gone.stands == np.where(np.isin(np.arange(ranking.units), rows.kept), np.arange(ranking.units), -1)).all()


@given(rankings(), st.data())
def test_two_cuts_one_behind_the_other_are_one_cut(ranking: Ranking, data: st.DataObject) -> None:
    first = select_rows(ranking, data.draw(st.integers(1, ranking.units)))
    assert behind(everything(ranking.units), first).stands.tolist() == first.stands.tolist()
    keep = data.draw(st.integers(1, len(first)))
    second = select_rows(Ranking("y", np.arange(len(first), dtype=np.float32)), keep)
    both = behind(first, second)
    assert both.kept.tolist() == first.kept[len(first) - keep :].tolist()
    for row, stand in enumerate(first.stands):
        assert both.stands[row] == (stand if stand in both.kept else -1)


@given(rankings())
def test_a_threshold_keeps_what_is_less_alike(ranking: Ranking) -> None:
    assert ranking.levels is not None
    for threshold in (0.0, 0.5, 1.0):
        keep = count(ranking, Cut(threshold=threshold))
        assert keep == max(1, int((ranking.levels < threshold).sum()))
    assert count(ranking, Cut(ratio=0.0)) == ranking.units


def test_a_group_becomes_its_mean_and_a_row_alone_stays_as_it_is() -> None:
    x = unit(np.random.default_rng(0).normal(size=(6, 4))).astype(np.float32)
    rows = Rows("x", np.array([0, 3, 5]), np.array([0, 0, 3, 3, 0, 5]))
    found = merged(rows, 2 * x, "cosine").vectors
    assert found is not None
    assert np.allclose(found[0], unit(x[[0, 1, 4]].mean(axis=0, keepdims=True))[0], atol=1e-6)
    assert (found[2] == 2 * x[5]).all()
    plain = merged(rows, x, "dot")
    assert np.allclose(plain.vectors[1], x[[2, 3]].mean(axis=0), atol=1e-6)  # type: ignore[index]
    assert np.allclose(plain.standing(x)[2], x[[2, 3]].mean(axis=0), atol=1e-6)


def planted(copies: int = 60, seed: int = 0) -> tuple[Judge, Ints]:
    """A judge with near-copies of some documents at its end; a copy is as relevant as its original."""
    own = judge(n=240, d=24, queries=80, seed=seed)
    source = np.random.default_rng(seed + 5).choice(240, copies, replace=False)
    noisy = near(own.documents.vectors[source], 0.02, seed + 6)
    vectors = np.concatenate([own.documents.vectors, noisy])
    ids = (*own.dataset.documents.ids, *(f"copy-{i}" for i in range(copies)))
    qrels: dict[str, dict[str, int]] = {q: dict(d) for q, d in (own.dataset.qrels or {}).items()}
    for q in qrels.values():
        q |= {f"copy-{i}": q[f"d{s}"] for i, s in enumerate(source) if f"d{s}" in q}
    texts = replace(own.dataset.documents, ids=ids, texts=ids)
    data = replace(own.dataset, documents=texts, qrels=qrels)
    task = from_qrels(data.queries.ids, ids, qrels)
    return replace(own, dataset=data, documents=replace(own.documents, vectors=vectors), task=task), source


@pytest.mark.parametrize("method", [Duplicates(), Centroid()])
def test_planted_near_copies_go_and_nothing_is_lost(method: Duplicates) -> None:
    own, source = planted()
    about = replace(context(n=300, d=24), documents=own.documents.vectors)
    ranking = method.rank(about)
    rows = select_rows(ranking, 240)
    pairs = {frozenset((240 + i, int(s))) for i, s in enumerate(source)}
    assert {frozenset(map(int, p)) for p in folded(rows)} == pairs
    if method.card.merges:
        rows = merged(rows, own.documents.vectors, "cosine")
    before, after = measured(own), measured(own.without(rows, own.documents.vectors))
    assert after.means["ndcg@10"] >= 0.99 * before.means["ndcg@10"]
    top = ceiling(own, rows)
    assert top is not None
    assert (top.judged, top.lost) == (1.0, 0)
    assert top.alone < 1.0
    assert count(ranking, Cut(threshold=0.98)) == 240


def test_the_ceiling_counts_what_no_search_can_bring_back() -> None:
    own = judge(n=120, d=16, queries=40)
    kept = np.sort(np.random.default_rng(1).permutation(120)[:70])
    rows = Rows("x", kept, np.where(np.isin(np.arange(120), kept), np.arange(120), -1))
    stays = {f"d{i}" for i in kept}
    shares = [len(stays & set(d)) / len(d) for d in (own.dataset.qrels or {}).values()]
    top = ceiling(own, rows)
    assert top is not None
    assert np.isclose(top.queries, np.mean(shares))
    assert top.lost == sum(s == 0 for s in shares)
    left = measured(own.without(rows, own.documents.vectors))
    assert (left.values["recall@100"] <= np.array(shares) + 1e-12).all()


def test_all_rows_left_changes_no_figure() -> None:
    own = judge()
    again = own.without(everything(240), own.documents.vectors)
    assert {m: v.tolist() for m, v in measured(own).values.items()} == {
        m: v.tolist() for m, v in measured(again).values.items()
    }


def test_a_threshold_is_a_cut_only_where_a_card_says_so() -> None:
    text = "vectors/duplicates threshold=0.98"
    assert str(parse(text)) == text
    registry.resolve(parse(text))
    for bad in ("vectors/norm threshold=0.9", "vectors/duplicates threshold=0.9 ratio=0.1", "vectors/random"):
        with pytest.raises(PlanError):
            registry.resolve(parse(bad))
    with pytest.raises(PlanError, match="order"):
        registry.resolve(parse("vectors/norm ratio=0.1 | dimensions/svd keep=4"))
    two = registry.parts(registry.resolve(parse("vectors/duplicates threshold=0.98 | vectors/coverage ratio=0.2")))
    assert [s.name for s in two.vectors] == ["vectors/duplicates", "vectors/coverage"]


def test_survivors_alone_are_told_beside_the_groups() -> None:
    own, _ = planted()
    source = Source("made", "made", own.dataset.documents.ids, own.documents.vectors, "cosine")
    bench = Bench(described(source), (own,), own.dataset.documents, own.documents, ("made",), True, None)
    ranking = Duplicates().rank(replace(context(n=300, d=24), documents=own.documents.vectors))
    rows = (select_rows(ranking, 240),)
    _, whole = reduce(bench, None)
    alone = survivors_alone(bench, rows, whole, None, [measured(own)])
    assert alone[own.name]["ndcg@10"] < 0.99
    assert survivors_alone(bench, (everything(300),), whole, None, [measured(own)]) == {}
