"""Recommenders against plain definitions: masks, measures, floors, factors, and the loop that finds the rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from numpy.typing import NDArray

from core import judging
from core.__main__ import main
from core.bench import prepare, sampled
from core.compare import retention
from core.data.interactions import PARTS, Interactions, Split, read_interactions, split
from core.data.vector_files import open_writer, read_vectors
from core.errors import Cancelled, DataError, InputError
from core.judging import measured, rank_rows
from core.pipeline import bench_notes, judge_cut
from core.plan import Step, parse
from core.recommend import Tables, bench, bench_of, factorise, judge, kept_tables, read_tables, training_matrix
from core.recommend_loop import (
    MAIN,
    chance,
    figures,
    magnitudes,
    popularity,
    prune_loop,
    quality,
    rotated,
    run,
    weak_items,
)
from core.registry import card
from core.rows import select_rows
from tests.interactions_like import drawn, write_movielens


def made(seed: int = 0, users: int = 600, items: int = 400, rank: int = 16, **more: float) -> Split:
    user, item = drawn(users, items, rank, seed=seed, **more)
    order = np.lexsort((item, user))
    names = tuple(f"{i:04}" for i in range(items))
    whole = Interactions("made", tuple(f"u{i:04}" for i in range(users)), names, user[order], item[order])
    return split(whole, seed)


def random_tables(parts: Split, dimension: int = 8, seed: int = 0) -> Tables:
    rng, mine = np.random.default_rng(seed), parts.interactions
    return Tables(*(rng.normal(size=(len(ids), dimension)).astype(np.float32) for ids in (mine.users, mine.items)))


def asked(parts: Split, tables: Tables, part: str) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.float64]]]:
    """Each user who has something in this part: name, relevant items, and scores with what came before masked."""
    mine, number = parts.interactions, PARTS.index(part)
    scores = tables.users.astype(np.float64) @ tables.items.astype(np.float64).T
    for u, name in enumerate(mine.users):
        own = mine.user == u
        relevant = mine.item[own & (parts.part == number)]
        if len(relevant):
            row = scores[u].copy()
            row[mine.item[own & (parts.part < number)]] = -np.inf
            yield name, relevant, row


# ---- masks and measures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["valid", "test"])
def test_measures_equal_a_plain_search_with_masked_scores(part: str) -> None:
    parts = made(1, 80, 60, 4, each=25)
    tables = random_tables(parts)
    found = measured(judge(parts, tables, part))
    wanted: dict[str, list[float]] = {"hit_rate@10": [], "recall@10": [], MAIN: []}
    for _, relevant, row in asked(parts, tables, part):
        gains = np.isin(np.argsort(-row, kind="stable")[:10], relevant) / np.log2(np.arange(2, 12))
        wanted["hit_rate@10"].append(float(gains.any()))
        wanted["recall@10"].append((gains > 0).sum() / len(relevant))
        wanted[MAIN].append(gains.sum() / (1 / np.log2(np.arange(2, 12)))[: len(relevant)].sum())
    for name, values in wanted.items():
        assert np.allclose(found.values[name], values), name
    assert 0 < found.means[MAIN] < 1


def test_measures_equal_those_of_trec_eval() -> None:
    parts = made(2, 80, 60, 4, each=25)
    tables = random_tables(parts, seed=1)
    names, items = parts.interactions.users, parts.interactions.items
    qrels, ranked = {}, {}
    for name, relevant, row in asked(parts, tables, "test"):
        qrels[name] = {items[i]: 1 for i in relevant}
        ranked[name] = {items[i]: float(row[i]) for i in np.flatnonzero(np.isfinite(row))}
    oracle = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10,100", "success.10", "map_cut.100"})
    official = oracle.evaluate(ranked)
    found = measured(judge(parts, tables))
    ours = {"ndcg_cut_10": MAIN, "recall_10": "recall@10", "success_10": "hit_rate@10", "map_cut_100": "map@100"}
    for theirs, name in ours.items():
        wanted = [official[u][theirs] for u in names if u in official]
        assert np.allclose(found.values[name], wanted, atol=1e-6), name


def test_nothing_that_trained_is_recommended_or_judged() -> None:
    parts = made(3, 60, 50, 4, each=20)
    for part, before in (("valid", ["train"]), ("test", ["train", "valid"])):
        one = judge(parts, random_tables(parts), part)
        task, mine = one.task, parts.interactions
        assert task is not None
        rows = parts.rows(*before)
        known = {(mine.users[u], mine.items[i]) for u, i in zip(mine.user[rows], mine.item[rows], strict=True)}
        named = [
            {(one.dataset.queries.ids[q], mine.items[task.columns[c]]) for q, c in found}
            for found in (task.hidden if task.hidden is not None else [], zip(task.owner, task.judged, strict=True))
        ]
        asking = set(one.dataset.queries.ids)
        assert named[0] == {(u, i) for u, i in known if u in asking}
        assert not named[1] & known


def test_popularity_by_hand() -> None:
    """Two users of 5 and one of 2; popularity orders a, b, c, d, e, f by training counts, and masks what is known."""
    user, item = np.repeat([0, 1, 2], [5, 5, 2]), np.array([0, 1, 2, 3, 4, 0, 1, 2, 4, 5, 0, 5])
    time = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0.0])
    parts = split(Interactions("hand", tuple("xyz"), tuple("abcdef"), user, item, None, time))
    assert parts.counts().tolist() == [3, 2, 2, 0, 0, 1]
    found = popularity(parts)
    # x trains a b c, validates d: f before e, so e stands second. y trains a b c, validates e: f is first
    assert np.allclose(found.values[MAIN], [1 / np.log2(3), 1.0])
    assert found.values["mrr@10"].tolist() == [0.5, 1.0]


def test_popularity_lies_between_chance_and_the_factors() -> None:
    parts = made(0)
    figures_ = [figures(m)[MAIN] for m in (chance(parts), popularity(parts), quality(parts, factorise(parts, 16)))]
    assert figures_[0] < 0.6 * figures_[1] < 0.6 * 0.6 * figures_[2]


def test_dot_products_are_wanted_where_popularity_counts() -> None:
    parts = made(0)
    tables = factorise(parts, 16)
    dot, cosine = (quality(parts, tables, metric=m).values[MAIN] for m in ("dot", "cosine"))
    assert retention(dot, cosine).high < 0.9


def test_a_part_that_judges_nothing_is_refused() -> None:
    parts = made(0, 20, 30, 2, each=8)
    with pytest.raises(InputError, match="part 'train' is none of valid, test"):
        judge(parts, random_tables(parts), "train")


# ---- factors --------------------------------------------------------------------------------------------------


def test_at_alpha_one_the_factors_are_the_soft_thresholded_svd() -> None:
    parts = made(0, 120, 90, 6, each=20)
    tables = factorise(parts, 6, regularization=1.0, iterations=200)
    left, values, right = np.linalg.svd(training_matrix(parts).toarray().astype(np.float64))
    wanted = left[:, :6] * (values[:6] - 1.0) @ right[:6]
    assert np.allclose(tables.users @ tables.items.T, wanted, atol=0.01)
    assert np.allclose(magnitudes(rotated(tables)), values[:6] - 1.0, rtol=0.01)


def test_the_same_seed_gives_the_same_tables_quietly_on_any_threads() -> None:
    code = (
        "from tests.test_recommend import made; from core.recommend import factorise\n"
        "print(factorise(made(0, 120, 90, 6), 12).fingerprint, factorise(made(0, 120, 90, 6), 12, seed=1).fingerprint)"
    )
    outs = set()
    for threads in ("1", "2"):
        env = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"} | {"OMP_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        outs.add(done.stdout)
    assert len(outs) == 1
    one, two = outs.pop().split()
    assert one != two


def test_more_dimensions_than_items_are_clamped_and_said() -> None:
    parts = made(0, 30, 20, 2, each=8)
    for tables in (factorise(parts, 64), kept_tables(parts, 64), kept_tables(parts, 64)):
        assert tables.dimension == 20
        assert tables.notes == ("64 dimensions clamped to 20: there are no more users or items",)


def test_one_user_is_enough() -> None:
    whole = Interactions("one", ("a",), tuple("bcdefgh"), np.zeros(7, np.int64), np.arange(7))
    parts = split(whole)
    loop = prune_loop(parts, factorise(parts, 1), floor=1)
    assert np.isfinite(list(figures(loop.test).values())).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dimensions": 0}, "dimensions 0"),
        ({"iterations": 0}, "iterations 0"),
        ({"alpha": 0.0}, "alpha 0"),
        ({"alpha": float("nan")}, "alpha nan"),
        ({"regularization": -1.0}, "regularization -1"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        factorise(made(0, 20, 30, 2, each=8), **options)  # type: ignore[arg-type]


def test_factorising_and_pruning_can_be_cancelled_at_any_report() -> None:
    parts = made(0, 60, 50, 4, each=15)
    tables, said = factorise(parts, 8), []

    def stop(what: str, done: int, total: int) -> None:
        assert 1 <= done <= total
        said.append(what)
        if len(said) == 3:
            raise Cancelled(what)

    with pytest.raises(Cancelled, match="factorising into 8 dimensions"):
        factorise(parts, 8, progress=stop)
    said.clear()
    with pytest.raises(Cancelled, match="pruning to 7 dimensions"):
        prune_loop(parts, tables, progress=stop)


# ---- the loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_loop_ends_near_the_true_rank_and_is_better_for_it(seed: int) -> None:
    parts = made(seed)
    loop = prune_loop(parts, factorise(parts, 64))
    assert 12 <= loop.tables.dimension <= 24
    assert loop.retained().low > 1.2
    assert loop.test.means[MAIN] > 1.5 * popularity(parts).means[MAIN]


def test_the_loop_sees_another_rank() -> None:
    parts = made(0, rank=8)
    assert 6 <= prune_loop(parts, factorise(parts, 64)).tables.dimension <= 12


def test_the_choice_is_the_smallest_within_a_standard_error_and_never_sees_test() -> None:
    parts = made(0, 200, 150, 6, each=30)
    tables = factorise(parts, 20)
    loop = prune_loop(parts, tables, floor=3)
    best = max(loop.rounds, key=lambda r: r.valid.means[MAIN])
    assert best is loop.rounds[loop.best]
    within = []
    for one in loop.rounds:
        gap = best.valid.values[MAIN] - one.valid.values[MAIN]
        within.append(gap.mean() <= gap.std(ddof=1) / len(gap) ** 0.5)
    assert loop.chosen == max(np.flatnonzero(within))
    assert np.array_equal(loop.test.values[MAIN], quality(parts, loop.tables).values[MAIN])

    mine = parts.interactions
    keep = np.sort(np.r_[parts.rows("train", "valid"), parts.rows("test")[::7]])
    less = Split(replace(mine, user=mine.user[keep], item=mine.item[keep]), parts.part[keep], ())
    other = prune_loop(less, tables, floor=3)
    assert other.chosen == loop.chosen
    assert other.tables.fingerprint == loop.tables.fingerprint


def test_rotation_keeps_every_score_and_orders_by_singular_value() -> None:
    tables = random_tables(made(0, 60, 50, 4, each=15), 7)
    turned, scores = rotated(tables), tables.users @ tables.items.T
    assert np.allclose(turned.users @ turned.items.T, scores, atol=1e-4)
    assert np.allclose(magnitudes(turned), np.linalg.svd(scores.astype(np.float64), compute_uv=False)[:7], rtol=1e-4)


def test_arbitrary_axes_have_no_magnitude_to_prune_by() -> None:
    parts = made(0, 300, 200, 8)
    tables = factorise(parts, 32)
    options = {"floor": 8, "step": 0.75, "refit": 0}
    axes, turned = (prune_loop(parts, tables, rotate=r, **options) for r in (False, True))  # type: ignore[arg-type]
    assert [r.dimensions for r in axes.rounds] == [r.dimensions for r in turned.rounds] == [32, 8]
    assert axes.rounds[1].valid.means[MAIN] < 0.7 * turned.rounds[1].valid.means[MAIN]


@pytest.mark.parametrize("options", [{"floor": 0}, {"floor": 9}, {"step": 0.0}, {"step": 1.0}, {"step": float("nan")}])
def test_a_loop_that_cannot_run_is_refused(options: dict[str, float]) -> None:
    parts = made(0, 20, 30, 2, each=8)
    with pytest.raises(InputError, match="is not between"):
        prune_loop(parts, random_tables(parts), **options)  # type: ignore[arg-type]


# ---- rows, benches, files -------------------------------------------------------------------------------------


def test_weak_items_are_the_rare_ones_with_short_vectors() -> None:
    parts = made(0, 150, 300, 6, each=15)
    tables = factorise(parts, 8)
    weak, counts, norms = weak_items(parts, tables), parts.counts(), np.linalg.norm(tables.items, axis=1)
    wanted = {f"{i:04}" for i in range(300) if counts[i] < 5 and norms[i] < np.median(norms)}
    assert set(weak.ids) == wanted != set()
    assert np.all(np.diff([norms[int(i)] for i in weak.ids]) >= 0)
    assert weak.share == len(wanted) / 300
    tested = parts.interactions.item[parts.rows("test")]
    assert weak.held == pytest.approx(np.mean([f"{i:04}" in wanted for i in tested]))


def test_dropping_short_items_equals_a_plain_search_without_them() -> None:
    parts = made(4, 80, 60, 4, each=25)
    tables = random_tables(parts)
    one = bench_of(parts, tables, "made")
    assert one.model.metric == one.fit_vectors.metric == "dot"
    index = judge(parts, tables)
    ranking = rank_rows(one.index(index, card("vectors/norm")), Step("vectors/norm", (("ratio", 0.25),)))
    rows = select_rows(ranking, 45)
    assert set(rows.kept) == set(np.argsort(-np.linalg.norm(tables.items, axis=1), kind="stable")[:45])
    found = measured(index.without(rows, index.documents.vectors))
    gone = np.setdiff1d(np.arange(60), rows.kept)
    wanted = []
    for _, relevant, row in asked(parts, tables, "test"):
        row[gone] = -np.inf
        hits = np.isin(np.argsort(-row, kind="stable")[:10], np.setdiff1d(relevant, gone))
        wanted.append(hits.sum() / len(relevant))
    assert np.allclose(found.values["recall@10"], wanted)


def test_a_bench_opens_at_once_the_second_time(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    write_movielens(path, *drawn(60, 50, 4, each=15))
    said: list[str] = []
    first, again = (bench(path, dimensions=6, progress=lambda what, *_: said.append(what)) for _ in range(2))
    assert sum(what.startswith("factorising") for what in said) == 15
    assert first.fingerprint == again.fingerprint
    assert first.model.fingerprint != bench(path, dimensions=5).model.fingerprint
    assert first.model.dimension == 6
    assert first.judges[0].dataset.kind == "retrieval"
    assert np.array_equal(first.fit_vectors.vectors, again.judges[0].documents.vectors)


def test_a_run_answers_in_plain_values_and_writes_the_chosen_tables(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    write_movielens(path, *drawn(150, 100, 4, each=20))
    answer = run(path, dimensions=12, out=tmp_path / "out")
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert [r["dimensions"] for r in answer["rounds"]][:2] == [12, 10]
    items = read_vectors(tmp_path / "out" / "items.parquet")
    assert items.vectors.shape == (answer["data"]["items"], answer["chosen"])
    assert {"before", "after", "popularity", "random", "by cosine", "retained"} == set(answer["test"])
    assert run(path, dimensions=12) == {k: v for k, v in answer.items() if k != "files"}


def test_own_tables_are_matched_by_id(tmp_path: Path) -> None:
    parts = made(0, 30, 20, 2, each=8)
    tables, mine = random_tables(parts), parts.interactions
    users, items = tmp_path / "users.parquet", tmp_path / "items.parquet"
    for path, ids, table in ((users, mine.users, tables.users), (items, mine.items[3:], tables.items[3:])):
        with open_writer(path, dimension=8) as out:
            out.add(ids[::-1], table[::-1])
    found = read_tables(parts, users, items)
    assert np.array_equal(found.users, tables.users)
    assert np.array_equal(found.items[3:], tables.items[3:])
    assert not found.items[:3].any()
    assert found.notes[0] == "items without a vector in items.parquet (zeros): 3"
    with pytest.raises(DataError, match=r"users.parquet: lacks 20 of 20 items"):
        read_tables(parts, users, users)
    items = tmp_path / "narrow.parquet"
    with open_writer(items, dimension=4) as out:
        out.add(mine.items, tables.items[:, :4])
    with pytest.raises(DataError, match=r"narrow.parquet: 4 dimensions where users.parquet has 8"):
        read_tables(parts, users, items)


def test_the_command_takes_the_users_own_tables_and_says_the_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_movielens(tmp_path / "u.data", *drawn(users=150, items=120))
    argv = ["vectors", "recommend", "--in", str(tmp_path / "u.data"), "--json"]
    assert main([*argv, "--dimensions", "24", "--out", str(tmp_path / "made")]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["chosen"] <= 24
    own = ["--users", str(tmp_path / "made" / "users.parquet"), "--items", str(tmp_path / "made" / "items.parquet")]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "items.parquet").write_text("mine")
    assert main([*argv, "--out", str(tmp_path / "theirs")]) == 2
    assert "no export of ours" in capsys.readouterr().err
    assert (tmp_path / "theirs" / "items.parquet").read_text() == "mine"
    assert main([*argv, "--dimensions", "24", "--out", str(tmp_path / "made")]) == 0  # its own are made anew
    capsys.readouterr()
    assert main([*argv, *own]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["test"]["before"]["ndcg@10"] == pytest.approx(first["test"]["after"]["ndcg@10"], abs=1e-6)
    assert main([*argv, *own[:2]]) == 2
    assert "--items" in capsys.readouterr().err
    assert main([*argv, "--dimensions", "5000"]) == 0
    clamped = json.loads(capsys.readouterr().out)
    assert clamped["test"]["before"]["dimensions"] == 120
    assert any("120" in n and "5,000" in n for n in clamped["notes"])
    made = prepare("", [str(tmp_path / "u.data")])
    floor = judging.popularity(made.judges[0])
    assert floor is not None
    wanted = popularity(split(read_interactions(tmp_path / "u.data"), 0))
    assert floor.means == wanted.means
    assert any("popularity alone" in n for n in bench_notes(made))
    with pytest.raises(InputError, match="interactions"):
        prepare("", [str(tmp_path / "u.data")], metric="cosine")


def test_rows_dimensions_and_bits_of_an_item_table_are_judged_by_its_users(tmp_path: Path) -> None:
    write_movielens(tmp_path / "u.data", *drawn(users=150, items=120))
    own = prepare("", [str(tmp_path / "u.data")])
    cut = judge_cut(own, parse("dimensions/svd keep=48 | vectors/norm ratio=0.2 | quantize/int8"), draws=1)
    left = cut.left[0]
    assert left.task is not None
    assert left.task.hidden is not None
    assert 0.4 < cut.retention[own.judges[0].name]["hit_rate@10"].ratio <= 1.3
    small = sampled(own.judges[0], queries=40, documents=60)
    assert small.task is not None
    assert small.task.hidden is not None
    ids = small.dataset.documents.ids
    for q, name in enumerate(small.query_texts.ids):
        shown = {ids[int(small.task.columns[c])] for c in small.task.never(q)}
        there = own.judges[0]
        assert there.task is not None
        row = there.query_texts.ids.index(name)
        full = {there.dataset.documents.ids[int(there.task.columns[c])] for c in there.task.never(row)}
        assert shown == full & set(ids)
