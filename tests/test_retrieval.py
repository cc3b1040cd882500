"""Measures from ranks equal trec_eval's, query by query; the official library (pytrec_eval) is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.evaluate.judgements import Judgements, from_neighbours, from_qrels
from core.evaluate.ranking import ranks
from core.evaluate.retrieval import MEASURES, MISSING, per_query, two_stage_ranks
from tests.synthetic import Case, Qrels, exact_scores, judge, random_case, rounded, too_close

Scores = dict[str, dict[str, float]]


def official(qrels: Qrels, run: Scores) -> dict[str, dict[str, float]]:
    """query -> measure -> value, by pytrec_eval. trec_eval has no cut for MRR: beyond rank 10 it is 0 here."""
    wanted = {"ndcg_cut.10", "recall.10,100", "recip_rank", "map_cut.100"}
    judged = {q: {d: int(g) for d, g in found.items()} for q, found in qrels.items()}
    out = {}
    for q, v in pytrec_eval.RelevanceEvaluator(judged, wanted).evaluate(run).items():
        mrr = v["recip_rank"] if v["recip_rank"] > 1 / 10.5 else 0.0
        out[q] = {"ndcg@10": v["ndcg_cut_10"], "recall@10": v["recall_10"], "recall@100": v["recall_100"],
                  "mrr@10": mrr, "map@100": v["map_cut_100"]}  # fmt: skip
    return out


def run_of(case: Case, scores: NDArray[np.float64]) -> Scores:
    """Scores rounded to 1e-6, then by order only, so that trec_eval's own rounding to float32 changes nothing."""
    keys = rounded(scores)
    return {
        q: {d: float(place) for d, place in zip(case.document_ids, np.unique(row, return_inverse=True)[1], strict=True)}
        for q, row in zip(case.query_ids, keys, strict=True)
    }


def check_official(case: Case, cut: int) -> tuple[int, int]:
    """Compare every measure of every query at this cut; returns (queries compared, left out as too close)."""
    task = from_qrels(case.query_ids, case.document_ids, case.qrels)
    found = ranks(task, case.queries, case.documents, [cut], case.metric)[0]
    values = per_query(task, found)
    scores = exact_scores(case.queries[:, :cut], case.documents[:, :cut], case.metric)
    size = 1.0 if case.metric == "cosine" else float(np.abs(case.queries).max() * np.abs(case.documents).max() * cut)
    oracle = official(case.qrels, run_of(case, scores))
    compared = left = 0
    for i, row in enumerate(task.query_rows):
        judged = task.columns[task.judged[task.pointer[i] : task.pointer[i + 1]]]
        if any(too_close(scores[row], int(d), size) for d in judged):
            left += 1
            continue
        compared += 1
        for m in MEASURES:
            assert values[m][i] == pytest.approx(oracle[case.query_ids[row]][m], abs=1e-9), (case.query_ids[row], m)
    return compared, left


@pytest.mark.parametrize("seed", range(100, 140))
def test_measures_are_trec_evals(seed: int) -> None:
    case = random_case(seed)
    d = case.documents.shape[1]
    found = [check_official(case, cut) for cut in (max(2, d // 2), d)]
    assert sum(c for c, _ in found) >= 5 * sum(left for _, left in found)


def test_measures_are_trec_evals_where_most_documents_are_identical() -> None:
    case = random_case(0, n=400, d=12, queries=60, metric="cosine")
    assert len(np.unique(case.documents, axis=0)) <= 101
    compared, left = check_official(case, 12)
    assert compared >= 50 > 10 * left


@st.composite
def ranked(draw: st.DrawFn) -> tuple[list[str], Qrels, dict[str, list[str]]]:
    """Ids, graded judgements, and for each query the documents in an order of their own."""
    ids = [f"d{i:03d}" for i in range(draw(st.integers(1, 130)))]
    names = [f"q{i}" for i in range(draw(st.integers(1, 4)))]
    grades = st.dictionaries(st.sampled_from(ids), st.integers(0, 4), max_size=min(14, len(ids)))
    qrels = {q: draw(grades) for q in names}
    return ids, qrels, {q: draw(st.permutations(ids)) for q in names}


@given(ranked())
@settings(max_examples=60)
def test_measures_from_any_ranks_are_trec_evals(drawn: tuple[list[str], Qrels, dict[str, list[str]]]) -> None:
    ids, qrels, orders = drawn
    task = from_qrels(list(qrels), ids, qrels)
    names = [list(qrels)[row] for row in task.query_rows]
    place = {q: {d: i for i, d in enumerate(order, start=1)} for q, order in orders.items()}
    given_ranks = [place[names[o]][ids[task.columns[c]]] for o, c in zip(task.owner, task.judged, strict=True)]
    values = per_query(task, np.array(given_ranks, np.int64))
    oracle = official(qrels, {q: {d: -float(p) for d, p in place[q].items()} for q in qrels})
    for m in MEASURES:
        assert values[m].tolist() == pytest.approx([oracle[q][m] for q in names], abs=1e-9)


def test_by_hand() -> None:
    """Grades 3 and 1 at ranks 2 and 11, and a third relevant document that was not retrieved."""
    task = from_qrels(["q"], ["c", "b", "a"], {"q": {"c": 3, "b": 1, "a": 1}})
    values = per_query(task, np.array([2, 11, MISSING]))
    gain, best = 3 / np.log2(3), 3 + 1 / np.log2(3) + 1 / 2
    assert values["ndcg@10"].tolist() == pytest.approx([gain / best])
    assert values["recall@10"].tolist() == pytest.approx([1 / 3])
    assert values["recall@100"].tolist() == pytest.approx([2 / 3])
    assert values["mrr@10"].tolist() == pytest.approx([1 / 2])
    assert values["map@100"].tolist() == pytest.approx([(1 / 2 + 2 / 11) / 3])


def test_nothing_judged_gives_nothing() -> None:
    task = from_qrels(["q"], ["a"], {})
    assert {m: v.tolist() for m, v in per_query(task, np.zeros(0, np.int64)).items()} == {m: [] for m in MEASURES}


def test_the_best_order_scores_one() -> None:
    qrels = {"q": {f"d{i:02d}": 1 + i % 3 for i in range(12)}, "r": {"d00": 1}}
    ids = [f"d{i:02d}" for i in range(30)]
    task = from_qrels(list(qrels), ids, qrels)
    best = np.argsort(np.lexsort((-task.grades, task.owner))) - task.pointer[:-1][task.owner] + 1
    values = per_query(task, best)
    assert values["ndcg@10"].tolist() == pytest.approx([1, 1])
    assert values["map@100"].tolist() == pytest.approx([1, 1])
    assert values["mrr@10"].tolist() == [1, 1]
    assert values["recall@10"].tolist() == pytest.approx([10 / 12, 1])


def test_only_and_per_query_agree() -> None:
    j = judge(queries=40)
    assert j.task is not None
    found = ranks(j.task, j.queries.vectors, j.documents.vectors, [8])[0]
    every = per_query(j.task, found)
    chosen = np.array([7, 3, 31])
    part = j.task.only(chosen)
    some = per_query(part, ranks(part, j.queries.vectors, j.documents.vectors, [8])[0])
    for m in MEASURES:
        assert some[m].tolist() == every[m][chosen].tolist()


# ---- two stages: a shortlist on the pruned vectors, rescored by the full ones ---------------------------------


def both(case: Case, size: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    return (case.queries[:, :size], case.documents[:, :size]), (case.queries, case.documents)


@pytest.mark.parametrize("seed", range(200, 212))
@pytest.mark.parametrize("extra", [0, 5])
def test_a_shortlist_of_everything_is_the_full_ranking(seed: int, extra: int) -> None:
    """`extra`: a shortlist longer than the corpus is one of everything."""
    case = random_case(seed, queries=140 if seed == 200 else 20)
    task = from_qrels(case.query_ids, case.document_ids, case.qrels)
    n, d = case.documents.shape
    small, full = both(case, max(1, d // 4))
    found = two_stage_ranks(task, small, full, n + extra, (case.metric, case.metric))
    assert (found == ranks(task, case.queries, case.documents, [d], case.metric)[0]).mean() > 0.99


@pytest.mark.parametrize("seed", range(220, 226))
def test_a_shortlist_of_everything_without_the_document_that_asks(seed: int) -> None:
    case = random_case(seed, n=50)
    own = np.arange(12)
    asked = case.documents[own]
    task = from_neighbours(asked, case.documents, case.document_ids, own, k=6, metric=case.metric)
    small, full = (asked[:, :3], case.documents[:, :3]), (asked, case.documents)
    for shortlist in (49, 50):
        found = two_stage_ranks(task, small, full, shortlist, (case.metric, case.metric))
        assert (found.reshape(12, 6) == np.arange(1, 7)).all()


def plain_two_stage(case: Case, task: Judgements, size: int, shortlist: int) -> NDArray[np.int64]:
    """The definition, by sorting twice."""
    (sq, sd), (fq, fd) = both(case, size)
    coarse, fine = (rounded(exact_scores(q, d, case.metric))[:, task.columns] for q, d in ((sq, sd), (fq, fd)))
    out = []
    for o, c in zip(task.owner, task.judged, strict=True):
        row = task.query_rows[o]
        short = sorted(range(len(task.columns)), key=lambda i, r=row: (-coarse[r, i], i))[:shortlist]
        place = {i: p for p, i in enumerate(sorted(short, key=lambda i, r=row: (-fine[r, i], i)), start=1)}
        out.append(place.get(int(c), MISSING))
    return np.array(out, np.int64)


@pytest.mark.parametrize("seed", range(240, 248))
def test_two_stages_are_two_sorts(seed: int) -> None:
    case = random_case(seed, n=80, queries=20)
    task = from_qrels(case.query_ids, case.document_ids, case.qrels)
    small, full = both(case, 3)
    found = two_stage_ranks(task, small, full, 15, (case.metric, case.metric))
    wanted = plain_two_stage(case, task, 3, 15)
    assert (found == wanted).mean() > 0.97  # two scores within a millionth may change places
    assert (found == MISSING).any()
    assert found[found != MISSING].max() <= 15


def test_rescoring_finds_what_the_cut_lost() -> None:
    j = judge()
    assert j.task is not None
    small = j.queries.vectors[:, :4], j.documents.vectors[:, :4]
    full = j.queries.vectors, j.documents.vectors
    cut = per_query(j.task, ranks(j.task, *small, [4])[0])["ndcg@10"].mean()
    rescored = [per_query(j.task, two_stage_ranks(j.task, small, full, n))["ndcg@10"].mean() for n in (10, 40, 240)]
    whole = per_query(j.task, ranks(j.task, *full, [24])[0])["ndcg@10"].mean()
    assert cut < rescored[0] < rescored[1] < rescored[2] == pytest.approx(whole)
