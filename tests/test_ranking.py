"""Ranks by counting equal ranks by sorting: random cases, ties, zero vectors, tile edges, all cuts at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.evaluate.judgements import Judgements, column_order, from_neighbours, from_qrels, similarity, top
from core.evaluate.ranking import ranks
from core.types import Floats, Metric, unit
from tests.synthetic import Case, exact_scores, random_case, sorted_ids, too_close

CASES = 40


def judged_ids(task: Judgements, ids: list[str], query: int) -> list[str]:
    """The ids of a query's judged documents, in the order of the task."""
    return [ids[int(task.columns[c])] for c in task.judged[task.pointer[query] : task.pointer[query + 1]]]


def check_ranks(case: Case, task: Judgements, cuts: list[int]) -> tuple[int, int]:
    """Compare every rank at every cut with a sorted list; returns (compared, left out as too close to call)."""
    found = ranks(task, case.queries, case.documents, cuts, case.metric)
    assert found.shape == (len(cuts), len(task.judged))
    compared = left = 0
    for row, cut in zip(found, cuts, strict=True):
        queries, documents = case.queries[task.query_rows, :cut], case.documents[:, :cut]
        scores = exact_scores(queries, documents, case.metric)
        size = float(np.abs(case.queries).max() * np.abs(case.documents).max() * cut)
        size = 1.0 if case.metric == "cosine" else size
        for q in range(len(task)):
            own = int(task.columns[task.own[q]]) if task.own[q] >= 0 else -1
            place = {d: i for i, d in enumerate(sorted_ids(scores[q], case.document_ids, own), start=1)}
            for p, name in zip(range(*task.pointer[q : q + 2]), judged_ids(task, case.document_ids, q), strict=True):
                if too_close(scores[q], case.document_ids.index(name), size):
                    left += 1
                    continue
                compared += 1
                assert row[p] == place[name], f"query {q}, document {name}, {cut} axes"
    return compared, left


@pytest.mark.parametrize("seed", range(CASES))
def test_a_rank_is_the_place_in_the_sorted_list(seed: int) -> None:
    case = random_case(seed)
    task = from_qrels(case.query_ids, case.document_ids, case.qrels)
    d = case.documents.shape[1]
    compared, left = check_ranks(case, task, sorted({max(1, d // 3), max(1, d // 2), d}))
    assert compared > 15 * left


# ---- small exact cases: every value a ratio of small whole numbers, ties everywhere ---------------------------


@st.composite
def lattice(draw: st.DrawFn) -> Case:
    d, n, m = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    row = st.lists(st.integers(-1, 1), min_size=d, max_size=d)
    documents, queries = (draw(st.lists(row, min_size=k, max_size=k)) for k in (n, m))
    ids = draw(st.permutations([f"d{i}" for i in range(n)]))
    names = [f"q{i}" for i in range(m)]
    grades = st.dictionaries(st.sampled_from(ids), st.integers(0, 3), max_size=n)
    qrels = {q: draw(grades) for q in names}
    metric: Metric = draw(st.sampled_from(["cosine", "dot"]))
    return Case(names, ids, qrels, np.array(queries, np.float32), np.array(documents, np.float32), metric)


@given(lattice())
@settings(max_examples=150)
def test_ties_and_zero_vectors_in_small_exact_cases(case: Case) -> None:
    task = from_qrels(case.query_ids, case.document_ids, case.qrels)
    _, left = check_ranks(case, task, list(range(1, case.documents.shape[1] + 1)))
    assert left == 0  # on this lattice scores are equal or far apart


def test_one_document() -> None:
    task = from_qrels(["q"], ["only"], {"q": {"only": 1}})
    assert ranks(task, np.ones((1, 3), np.float32), np.ones((1, 3), np.float32), [1, 2, 3]).tolist() == [[1], [1], [1]]


def test_a_zero_query_ties_with_everything() -> None:
    ids = ["a", "c", "b"]
    task = from_qrels(["q"], ids, {"q": {"a": 1, "b": 1, "c": 1}})
    found = ranks(task, np.zeros((1, 2), np.float32), np.eye(3, 2, dtype=np.float32), [2])[0]
    assert dict(zip(judged_ids(task, ids, 0), found.tolist(), strict=True)) == {"c": 1, "b": 2, "a": 3}


@pytest.mark.parametrize("n", [63, 65, 4095, 4096, 4097, 8193])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_tiles_of_documents_meet_without_a_seam(n: int, metric: Metric) -> None:
    """Judged documents on both sides of every edge, all identical, among others that hold whole numbers."""
    rng = np.random.default_rng(n)
    documents = rng.integers(-3, 4, size=(n, 6)).astype(np.float32)
    queries = rng.integers(-3, 4, size=(5, 6)).astype(np.float32)
    queries[:, 0] += 0.5
    ids = [f"{i:05d}" for i in range(n)]
    at = [i for i in (0, 1, 62, 63, 64, 4094, 4095, 4096, 4097, n - 1) if i < n]  # columns run from the last id
    documents[[n - 1 - i for i in at]] = documents[0]  # identical on both sides of every edge
    qrels = {f"q{q}": {ids[n - 1 - i]: 1 for i in at} for q in range(5)}
    task = from_qrels(list(qrels), ids, qrels)
    case = Case(list(qrels), ids, qrels, queries, documents, metric)
    compared, left = check_ranks(case, task, [3, 6])
    assert compared > 50 * left


def test_more_queries_than_a_block() -> None:
    case = random_case(3, n=150, d=8, queries=131, metric="cosine")
    compared, left = check_ranks(case, from_qrels(case.query_ids, case.document_ids, case.qrels), [4, 8])
    assert compared > 15 * left


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_identical_documents_tie_however_large_the_scores(metric: Metric, size: float) -> None:
    """Single precision gives identical documents scores that differ in the last bits; they tie all the same."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        n, d = int(rng.integers(20, 600)), int(rng.integers(4, 200))
        one = (rng.normal(size=d) * size).astype(np.float32)
        other = (one + size * rng.normal(size=d)).astype(np.float32)
        documents = np.where(rng.random(n)[:, None] < 0.7, one, other)
        asked = (one + 0.2 * size * rng.normal(size=(70, d))).astype(np.float32)  # nearer to `one`, all of them
        ids = [f"{i:04d}" for i in range(n)]
        task = from_qrels([str(q) for q in range(70)], ids, {str(q): dict.fromkeys(ids, 1) for q in range(70)})
        found = ranks(task, asked, documents, [d], metric)[0].reshape(70, n)
        better = (asked @ one > asked @ other) | (metric == "cosine")
        same = (documents == one).all(axis=1)[task.columns]
        wanted = np.argsort(np.argsort(~same, kind="stable"), kind="stable") + 1  # `one`s by id, then the others
        assert (found[better] == wanted).all()


# ---- sweeps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_all_cuts_at_once_equal_slicing_and_normalising_each(metric: Metric) -> None:
    rng = np.random.default_rng(4)
    documents, queries = (rng.normal(size=(k, 48)).astype(np.float32) for k in (700, 90))
    ids = [str(i) for i in range(700)]
    qrels = {str(q): {ids[j]: 1 for j in rng.integers(0, 700, 3)} for q in range(90)}
    task = from_qrels(list(qrels), ids, qrels)
    cuts = [1, 2, 3, 7, 7, 16, 31, 47, 48]
    at_once = ranks(task, queries, documents, cuts, metric)
    for row, cut in zip(at_once, cuts, strict=True):
        q, d = queries[:, :cut], documents[:, :cut]
        if metric == "cosine":
            q, d = unit(q), unit(d)
        alone = ranks(task, q, d, [cut], "dot")[0]
        if cut == 1 and metric == "cosine":  # one axis: every score is 1 or -1, ties decide all
            assert (row == alone).all()
        assert (row != alone).mean() < 0.01  # two scores within a millionth may change places
        assert np.abs(row - alone).max() <= 1


def test_ranks_of_a_cut_are_a_bijection() -> None:
    rng = np.random.default_rng(5)
    documents, queries = rng.normal(size=(90, 5)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    ids = [str(i) for i in range(90)]
    task = from_qrels(["0", "1", "2", "3"], ids, {str(q): dict.fromkeys(ids, 1) for q in range(4)})
    for row in ranks(task, queries, documents, [1, 3, 5]):
        for a, b in pairwise(task.pointer):
            assert sorted(row[a:b]) == list(range(1, 91))


def test_inputs_stay_as_they_are_and_may_be_read_only() -> None:
    case = random_case(6)
    before = case.documents.copy(), case.queries.copy()
    case.documents.flags.writeable = case.queries.flags.writeable = False
    task = from_qrels(case.query_ids, case.document_ids, case.qrels)
    ranks(task, case.queries, case.documents, [case.documents.shape[1]], case.metric)
    assert (case.documents == before[0]).all()
    assert (case.queries == before[1]).all()


# ---- judgements -----------------------------------------------------------------------------------------------


def test_from_qrels_keeps_what_is_relevant_and_there() -> None:
    qrels = {"a": {"x": 2, "z": 1, "gone": 3, "y": 0}, "b": {"y": -1}, "c": {"gone": 1}, "nobody": {"x": 1}}
    task = from_qrels(["c", "a", "b"], ["x", "y", "z"], qrels)
    assert task.query_rows.tolist() == [1]
    assert task.columns.tolist() == [2, 1, 0]  # z, y, x: ids descending
    assert judged_ids(task, ["x", "y", "z"], 0) == ["z", "x"]
    assert task.grades.tolist() == [1.0, 2.0]


def test_columns_are_ids_as_text_descending() -> None:
    ids = ["d9", "d10", "é", "z", "D"]
    assert [ids[i] for i in column_order(ids)] == sorted(ids, reverse=True) == ["é", "z", "d9", "d10", "D"]


@given(st.integers(0, 30), st.lists(st.integers(0, 10**6), max_size=12))
@settings(max_examples=40)
def test_only_is_the_same_as_judging_fewer_queries(seed: int, picks: list[int]) -> None:
    case = random_case(seed, n=25, d=4, queries=9)
    task = from_qrels(case.query_ids, case.document_ids, case.qrels)
    chosen = np.array([p % len(task) for p in picks], np.int64)
    part = task.only(chosen)
    assert len(part) == len(chosen)
    assert part.pointer[0] == 0
    every = ranks(task, case.queries, case.documents, [2, 4], case.metric)
    some = ranks(part, case.queries, case.documents, [2, 4], case.metric)
    wanted = [np.arange(task.pointer[q], task.pointer[q + 1]) for q in chosen]
    rows = np.concatenate(wanted) if wanted else np.zeros(0, np.int64)
    assert (some == every[:, rows]).all()
    assert (part.grades == task.grades[rows]).all()
    assert (part.query_rows == task.query_rows[chosen]).all()


# ---- agreement: the nearest documents as judgements -----------------------------------------------------------


@given(st.integers(0, 200), st.integers(1, 15))
@settings(max_examples=40)
def test_the_nearest_have_the_first_ranks_in_their_own_space(seed: int, k: int) -> None:
    """Half of the seeds give many identical documents: both sides must break ties alike."""
    case = random_case(seed, n=1 + seed % 60, queries=7)
    own = np.full(7, -1, np.int64)
    task = from_neighbours(case.queries, case.documents, case.document_ids, own, k=k, metric=case.metric)
    kept = min(k, len(case.document_ids))
    assert task.pointer.tolist() == [kept * i for i in range(8)]
    found = ranks(task, case.queries, case.documents, [case.documents.shape[1]], case.metric)[0]
    assert (found.reshape(7, kept) == np.arange(1, kept + 1)).all()


@given(st.integers(0, 200))
@settings(max_examples=40)
def test_a_document_that_asks_never_finds_itself(seed: int) -> None:
    case = random_case(seed, n=2 + seed % 40)
    n = len(case.document_ids)
    own = np.random.default_rng(seed).permutation(n)[: min(n, 12)]
    task = from_neighbours(case.documents[own], case.documents, case.document_ids, own, metric=case.metric)
    k = min(10, n - 1)
    assert (task.columns[task.own] == own).all()
    owners = task.owner
    assert (task.judged != task.own[owners]).all()
    found = ranks(task, case.documents[own], case.documents, [case.documents.shape[1]], case.metric)[0]
    assert (found.reshape(len(own), k) == np.arange(1, k + 1)).all()


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_the_nearest_are_those_of_a_sorted_list(metric: Metric) -> None:
    case = random_case(11, n=200, queries=40, metric=metric)
    own = np.where(np.arange(40) % 3 == 0, np.arange(40) * 2, -1)
    task = from_neighbours(case.queries, case.documents, case.document_ids, own, k=10, metric=metric)
    scores = exact_scores(case.queries, case.documents, metric)
    for q in range(40):
        wanted = sorted_ids(scores[q], case.document_ids, int(own[q]))[:10]
        assert judged_ids(task, case.document_ids, q) == wanted


def test_a_lone_document_has_no_neighbours() -> None:
    x = np.ones((1, 3), np.float32)
    task = from_neighbours(x, x, ["a"], np.zeros(1, np.int64))
    assert len(task) == len(task.judged) == 0
    assert ranks(task, x, x, [1, 3]).shape == (2, 0)


# ---- top, unit, similarity ------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(-5, 5).map(lambda v: v / 5), min_size=1, max_size=40), st.integers(-1, 45), st.integers(0, 9)
)
def test_top_is_a_stable_sort(values: list[float], k: int, excluded: int) -> None:
    scores = np.array(values, np.float32)
    scores[: min(excluded, len(scores) - 1)] = -np.inf
    wanted = sorted(range(len(values)), key=lambda i: -scores[i])[: max(k, 0)]
    assert top(scores, k).tolist() == wanted


def test_top_rounds_before_it_compares() -> None:
    assert top(np.array([0.5, 0.5000001, 0.500002, 0.1], np.float32), 3).tolist() == [2, 0, 1]


def length(x: NDArray[np.float32]) -> Floats:
    return np.linalg.norm(x, axis=1)


def test_unit_leaves_zero_rows_and_its_input_alone() -> None:
    x = np.array([[3, 4], [0, 0], [1e-15, 0]], np.float32)
    x.flags.writeable = False
    assert unit(x).tolist() == [pytest.approx([0.6, 0.8]), [0, 0], [1, 0]]
    assert similarity(x[:1], x, "cosine")[0].tolist() == pytest.approx([1.0, 0.0, 0.6])
    assert similarity(x[:1], x[:2], "dot")[0].tolist() == [25.0, 0.0]
    assert length(unit(x)).tolist() == pytest.approx([1, 0, 1])
