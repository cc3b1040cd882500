"""Vectors without a model: the bench that they make, and `vectors prune` from file to file."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from core import codes, pipeline, registry, report, row_study, vector_export
from core.__main__ import main
from core.bench import prepare
from core.data import vector_bodies, vector_writers
from core.data.vector_files import open_writer, read_vectors
from core.encoders import VECTORS
from core.errors import InputError, PlanError
from core.evaluate import cost
from core.evaluate.judgements import similarity
from core.export.vectors import SNIPPET
from core.judging import measured
from core.pipeline import judge_cut
from core.plan import Step, parse
from core.types import Metric, unit
from core.vector_bench import is_source, open_bench, read_source
from tests.synthetic import documents_like_text, near

N, D = 400, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same vectors in every format, with ids that are words; queries; a word-similarity set."""
    where = tmp_path_factory.mktemp("vectors")
    x = documents_like_text(N, D, 3) * np.random.default_rng(0).uniform(0.5, 2, (N, 1)).astype(np.float32)
    ids = [f"w{i}" for i in range(N)]
    for suffix in ("npy", "npz", "parquet", "txt", "vec", "bin", "safetensors"):
        with open_writer(where / f"index.{suffix}", dimension=D) as out:
            out.add(ids, x)
    table = pq.read_table(where / "index.parquet").append_column("title", pa.array([f"title {i}" for i in range(N)]))
    pq.write_table(table, where / "payload.parquet")
    with open_writer(where / "asked.npy", dimension=D, id_type="row") as out:
        out.add([str(i) for i in range(30)], near(unit(x[:30]), 0.5, 1))
    words = [f"W{i} w{i + 1} {i % 7}.5" for i in range(0, 100, 2)] + ["w1\tunknown\t3"]
    (where / "pairs.txt").write_text("\n".join(w.replace(" ", "\t") for w in words), encoding="utf-8")
    return where


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path, code: int = 0) -> dict[str, Any]:
    assert main([*map(str, argv), "--json"]) == code
    said = capsys.readouterr()
    if code:
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        return {"error": said.err}
    return dict(json.loads(said.out))


# ---- the bench ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet", "txt", "vec", "bin", "safetensors"])
def test_every_format_makes_the_same_bench(folder: Path, suffix: str) -> None:
    bench, other = prepare("minilm", [str(folder / f"index.{suffix}")]), prepare("", [str(folder / "index.npy")])
    assert bench.model.architecture == VECTORS
    assert bench.fingerprint == other.fingerprint
    assert measured(bench.judges[0]).means["ndcg@10"] == 1.0  # its own top ten
    assert len(bench.judges[0].dataset.queries) == N // 5
    assert not set(bench.judges[0].dataset.queries.ids) & set(bench.fit.ids)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_truth_is_the_whole_index_in_its_own_metric(folder: Path, metric: Metric) -> None:
    bench = prepare("", [str(folder / "index.npy")], queries=folder / "asked.npy", metric=metric)
    own = bench.judges[0]
    assert own.task is not None
    assert len(own.task) == 30
    scores = similarity(own.queries.vectors, own.documents.vectors, metric)
    for q, row in enumerate(scores):
        mine = own.task.columns[own.task.judged[own.task.pointer[q] : own.task.pointer[q + 1]]]
        assert set(mine.tolist()) == set(np.argsort(-row, kind="stable")[:10].tolist())
    step = parse("dimensions/magnitude keep=12").steps[0]
    cut = pipeline.judge_cut(bench, parse(str(step)))
    assert cut.reduction.metric == metric
    assert 0.2 < cut.retention["index"]["ndcg@10"].ratio < 1.0


def test_lengths_count_for_dot_products_and_not_for_cosine(folder: Path) -> None:
    one, two = (prepare("", [str(folder / "index.npy")], metric=m) for m in ("cosine", "dot"))
    assert np.allclose(np.linalg.norm(one.judges[0].documents.vectors, axis=1), 1, atol=1e-5)
    assert (two.judges[0].documents.vectors == read_vectors(folder / "index.npy").vectors).all()


def test_word_pairs_are_judged_and_follow_the_index(folder: Path) -> None:
    bench = open_bench([str(folder / "index.txt"), str(folder / "pairs.txt")])
    pairs = bench.judges[1]
    assert len(pairs.documents) == 50
    assert pairs.dataset.notes == ("pairs with both words among the vectors: 50 of 51",)
    assert pairs.dataset.documents.ids[0] == "w0"  # looked up in lower case
    cut = pipeline.judge_cut(bench, parse("vectors/random ratio=0.4"))
    left = cut.left[1]
    kept = set(cut.left[0].dataset.documents.ids)
    assert 0 < len(left.documents) < 50
    assert all(
        a in kept and b in kept for a, b in zip(left.dataset.documents.ids, left.dataset.queries.ids, strict=True)
    )
    assert cut.retention["pairs"]["spearman"].ratio == pytest.approx(1.0)  # the same vectors, of the same pairs
    assert any("are left" in n for n in cut.notes)


def test_there_is_no_encoder_to_cut(folder: Path) -> None:
    bench = prepare("", [str(folder / "index.npy")])
    with pytest.raises(InputError, match="no encoder"):
        pipeline.judge_cut(bench, parse("layers/subset keep=3"))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_few_rows_are_degraded_and_never_nan(tmp_path: Path, rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "few.npy", np.ones((rows, 4), np.float32))
    answer = run(capsys, "vectors", "prune", "--in", tmp_path / "few.npy", "--plan", "dimensions/svd keep=2")
    assert "NaN" not in json.dumps(answer)
    run(capsys, "vectors", "prune", "--in", tmp_path / "few.npy", "--plan", "vectors/duplicates keep=1")


def test_zero_vectors_are_counted(tmp_path: Path) -> None:
    x = documents_like_text(50, 8)
    x = np.concatenate([x, np.zeros((3, 8), np.float32)])
    np.save(tmp_path / "zeros.npy", x)
    assert any("3" in n and "zeros" in n for n in read_source(str(tmp_path / "zeros.npy")).notes)


def test_texts_are_no_source(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a text\nanother one\n", encoding="utf-8")
    assert not is_source(str(tmp_path / "texts.txt"))
    assert not is_source("sample")
    with pytest.raises(InputError, match="metric"):
        prepare("minilm", ["sample"], metric="dot")


# ---- from file to file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet", "txt", "vec", "bin", "safetensors"])
def test_what_stays_is_written_in_every_format(
    folder: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"small.{suffix}"
    plan = "dimensions/svd keep=12 | vectors/duplicates ratio=0.25"
    answer = run(capsys, "vectors", "prune", "--in", folder / "index.parquet", "--plan", plan, "--out", out)
    done = answer["export"]
    found = read_vectors(out)
    assert found.vectors.shape == (300, 12)
    assert (done["rows"], done["max_difference"]) == (300, 0.0)
    assert answer["vectors"]["index"]["after"] == 300
    source = read_vectors(folder / "index.parquet")
    place = {name: i for i, name in enumerate(source.ids)}
    scope: dict[str, Any] = {}
    exec(SNIPPET.rsplit("small =", 1)[0].replace('"projection.npz"', repr(done["projection"])), scope)
    wanted = scope["prune"](source.vectors[[place[i] for i in found.ids]])
    assert np.abs(found.vectors - wanted).max() < 1e-6
    groups = json.loads(Path(done["groups"]).read_text(encoding="utf-8"))
    folded = [i for rest in groups.values() for i in rest]
    assert sorted([*found.ids, *folded]) == sorted(source.ids)
    assert set(groups) <= set(found.ids)


def test_other_columns_and_integer_ids_go_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = documents_like_text(120, 8)
    table = pa.table({
        "id": pa.array(range(1000, 1120), pa.int64()),
        "title": [f"t{i}" for i in range(120)],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "in.parquet")
    files = ["--in", tmp_path / "in.parquet", "--out", tmp_path / "out.parquet"]
    run(capsys, "vectors", "prune", *files, "--plan", "vectors/norm keep=50", "--metric", "dot")
    got = pq.read_table(tmp_path / "out.parquet")
    assert got.schema.names == table.schema.names
    assert got.schema.field("id").type == pa.int64()
    rows = [i - 1000 for i in got["id"].to_pylist()]
    assert got["title"].to_pylist() == [f"t{i}" for i in rows]
    assert (np.array(got["embedding"].to_pylist(), np.float32) == x[rows]).all()  # no dimension is cut: bit for bit
    norms = np.linalg.norm(x, axis=1)
    assert set(rows) == set(np.argsort(-norms, kind="stable")[:50].tolist())


def test_another_log_of_queries_is_another_bench(folder: Path, tmp_path: Path) -> None:
    """Their ids are the same numbers: only the vectors tell them apart, on disk and in every cache."""
    x = unit(read_vectors(folder / "index.npy").vectors)
    found = []
    for seed in (1, 2):
        np.save(tmp_path / f"{seed}.npy", near(x[seed * 40 : seed * 40 + 30], 0.3, seed))
        bench = prepare("", [str(folder / "index.npy")], queries=tmp_path / f"{seed}.npy")
        curve = row_study.study(bench, bench.judges[0], Step("vectors/random"), (0.0, 0.5)).plain
        cut = judge_cut(bench, parse("vectors/random ratio=0.5"), draws=0)
        assert float(curve.values["ndcg@10"][1].mean()) == pytest.approx(cut.after[0].means["ndcg@10"])
        found.append((bench.fingerprint, curve.values["ndcg@10"][1].tolist()))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


def test_a_row_named_like_a_query_is_found_all_the_same(tmp_path: Path) -> None:
    x = documents_like_text(60, 8)
    with open_writer(tmp_path / "index.npz", dimension=8) as out:
        out.add([f"query-{i}" for i in range(60)], x)
    np.save(tmp_path / "asked.npy", x[:9])
    judge = prepare("", [str(tmp_path / "index.npz")], queries=tmp_path / "asked.npy").judges[0]
    assert judge.task is not None
    assert (judge.task.own == -1).all()
    first = [judge.dataset.documents.ids[judge.task.columns[judge.task.judged[p]]] for p in judge.task.pointer[:-1]]
    assert first == [f"query-{i}" for i in range(9)]


def test_word_pairs_are_compared_as_the_metric_says(folder: Path) -> None:
    bench = prepare("", [str(folder / "index.npy"), str(folder / "pairs.txt")], metric="l2")
    pairs = bench.judges[1]
    apart = np.linalg.norm(pairs.documents.vectors.astype(np.float64) - pairs.queries.vectors, axis=1)
    assert measured(pairs).means["spearman"] == pytest.approx(spearmanr(-apart, pairs.dataset.scores).statistic)


def test_search_is_timed_on_what_is_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[tuple[int, ...]] = []
    monkeypatch.setattr(cost, "search_ms", lambda queries, documents: timed.append(documents.shape) or 1.0)
    bench = prepare("", [str(folder / "index.npy")])
    for method in ("duplicates", "centroid", "norm"):
        report.pruning(bench, judge_cut(bench, parse(f"vectors/{method} ratio=0.75"), draws=0), 0)
    assert set(timed) == {(N, D), (N // 4, D)}


def test_labelled_texts_lose_rows_of_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"sea": ("ship", "sail", "wave", "port"), "wood": ("tree", "leaf", "root", "bark")}
    rows = [f"{' '.join(np.roll(w, i))} {i},{k}" for i in range(30) for k, w in words.items()]
    (tmp_path / "l.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    for method in ("duplicates", "centroid", "random"):
        plan = ["--data", tmp_path / "l.csv", "--plan", f"vectors/{method} ratio=0.3", "--draws", "1"]
        answer = run(capsys, "prune", *plan)
        assert 0 <= answer["after"]["quality"]["l"]["accuracy"] <= 1


def test_more_rows_than_there_are_is_said_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = prepare("", [str(folder / "index.npy")])
    monkeypatch.setattr(pipeline, "reduce", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(PlanError, match="401"):
        judge_cut(bench, parse("dimensions/svd keep=12 | vectors/random keep=401"))


def test_nothing_that_is_not_ours_is_replaced_or_removed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ["--plan", "dimensions/svd keep=8 | vectors/duplicates ratio=0.5"]
    source = ["vectors", "prune", "--in", folder / "index.npy", *plan, "--out"]
    run(capsys, *source, tmp_path / "x.parquet")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert "x.projection.npz" in run(capsys, *source, tmp_path / "x.npy", code=2)["error"]  # the parquet's
    chained = ["vectors", "prune", "--in", tmp_path / "x.parquet", *plan, "--out"]
    run(capsys, *chained, tmp_path / "x.npz", code=2)  # the source's own
    for name in ("mine.groups.json", "mine.reader.py", "mine.report.json", "mine.ids.txt"):
        (tmp_path / name).write_text("{}")
        assert name in run(capsys, *source, tmp_path / "mine.npy", code=2)["error"]
        (tmp_path / name).unlink()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    run(capsys, *source, tmp_path / "x.parquet")  # its own are made anew
    assert {p.name for p in tmp_path.iterdir()} == set(before)


def test_a_run_that_fails_claims_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_writer(tmp_path / "in.npz", dimension=8) as out:
        out.add([f"two words {i}" for i in range(40)], documents_like_text(40, 8))
    argv = ["vectors", "prune", "--in", tmp_path / "in.npz", "--plan", "vectors/norm ratio=0.5", "--metric", "dot"]
    run(capsys, *argv, "--out", tmp_path / "o.txt", code=2)  # no white space in a GloVe file
    (tmp_path / "o.txt").write_text("mine")
    run(capsys, *argv, "--out", tmp_path / "o.txt", code=2)
    assert {p.name for p in tmp_path.iterdir()} == {"in.npz", "o.txt"}
    assert (tmp_path / "o.txt").read_text() == "mine"


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_killed_before_or_behind_the_rename_it_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    out = tmp_path / f"o.{suffix}"
    argv = ["vectors", "prune", "--in", folder / "index.npy", "--out", out, "--plan"]
    run(capsys, *argv, "vectors/norm ratio=0.5")
    with monkeypatch.context() as patch:  # after the report, before the name
        patch.setattr(vector_writers, "sync", lambda path: None)
        patch.setattr(vector_bodies, "_place_ids", lambda *_: (_ for _ in ()).throw(SystemExit(9)))
        patch.setattr(vector_writers._Parquet, "place", lambda _: (_ for _ in ()).throw(SystemExit(9)))
        with pytest.raises(SystemExit):
            main([*map(str, argv), "vectors/random ratio=0.25"])
    run(capsys, *argv, "vectors/random ratio=0.25")
    with monkeypatch.context() as patch:  # after the name, before what stands beside it
        patch.setattr(vector_export, "write_sidecars", lambda *_: (_ for _ in ()).throw(SystemExit(9)))
        with pytest.raises(SystemExit):
            main([*map(str, argv), "dimensions/svd keep=8 | vectors/norm ratio=0.1"])
    run(capsys, *argv, "dimensions/svd keep=8 | vectors/norm ratio=0.1")
    assert len(read_vectors(out).ids) == 0.9 * N


def test_codes_are_written_with_what_reads_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "codes.parquet"
    plan = "dimensions/svd keep=12 | vectors/random ratio=0.5 | quantize/int8"
    done = run(capsys, "vectors", "prune", "--in", folder / "index.npy", "--plan", plan, "--out", out)["export"]
    table = pq.read_table(out)
    book = codes.opened(np.load(done["codebook"]))
    got = book.decode(np.array([list(c) for c in table["code"].to_pylist()], np.uint8))
    source = read_vectors(folder / "index.npy")
    projection = np.load(done["projection"])
    place = {name: i for i, name in enumerate(source.ids)}
    wanted = unit(unit(source.vectors)[[place[i] for i in table["id"].to_pylist()]] @ projection["matrix"])
    assert got.shape == (200, 12)
    assert np.einsum("ij,ij->i", got, wanted).min() > 0.999


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_other_columns_stand_beside_codes_or_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    source = pq.read_table(folder / "payload.parquet")
    pq.write_table(source.append_column("code", pa.array(["theirs"] * N)), tmp_path / "in.parquet")
    out = tmp_path / f"codes.{suffix}"
    plan = "vectors/random ratio=0.5 | quantize/int8"
    answer = run(capsys, "vectors", "prune", "--in", tmp_path / "in.parquet", "--plan", plan, "--out", out)
    left = next(n for n in answer["notes"] if n.startswith("columns left out"))
    if suffix == "npy":
        assert left.endswith(": title, code")
        return
    assert left.endswith(": code")
    got = pq.read_table(out)
    assert got.schema.names == ["id", "code", "title"]
    assert [f"title {name.removeprefix('w')}" for name in got["id"].to_pylist()] == got["title"].to_pylist()


def test_a_sample_is_judged_and_the_whole_file_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = "vectors/norm ratio=0.25"
    for limit, name in ((None, "all.npy"), ("150", "sampled.npy")):
        more = ["--limit", limit] if limit else []
        answer = run(capsys, "vectors", "prune", "--in", folder / "index.npy", "--metric", "dot", "--plan", plan,
                     "--out", tmp_path / name, *more)  # fmt: skip
        assert answer["data"][0]["documents"] == (150 if limit else N)
        assert answer["export"]["rows"] == 300
    one, two = (read_vectors(tmp_path / n) for n in ("all.npy", "sampled.npy"))
    assert one.ids == two.ids
    assert (one.vectors == two.vectors).all()


def test_a_count_of_rows_is_a_share_of_the_sample(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = run(capsys, "vectors", "prune", "--in", folder / "index.npy", "--plan", "vectors/coverage keep=100",
                 "--limit", "200", "--out", tmp_path / "few.npy")  # fmt: skip
    assert answer["vectors"]["index"]["after"] == 50  # a quarter, as of the whole
    assert answer["export"]["rows"] == 100
    assert "vectors/coverage keep=100" in answer["plan"]
    assert any("ranked anew" in n for n in answer["notes"])


def test_a_second_plan_leaves_nothing_of_the_first_beside_its_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--in", folder / "index.npy", "--out", tmp_path / "o.parquet"]
    run(capsys, "vectors", "prune", *files, "--plan", "dimensions/svd keep=8 | vectors/duplicates ratio=0.5")
    assert {p.name for p in tmp_path.iterdir()} == {"o.parquet", "o.projection.npz", "o.groups.json", "o.report.json"}
    run(capsys, "vectors", "prune", *files, "--plan", "vectors/norm ratio=0.5")
    assert {p.name for p in tmp_path.iterdir()} == {"o.parquet", "o.report.json"}
    mine = tmp_path / "o.parquet"
    pq.write_table(pa.table({"a": [1]}), mine)  # somebody else's file by now
    before = mine.read_bytes()
    run(capsys, "vectors", "prune", *files, "--plan", "vectors/norm ratio=0.5", code=2)
    run(capsys, "vectors", "copy", "--in", folder / "index.npy", "--out", mine, code=2)
    assert mine.read_bytes() == before
    run(capsys, "vectors", "copy", "--in", folder / "index.npy", "--out", mine, "--overwrite")
    assert len(read_vectors(mine).ids) == N


def test_half_precision_is_what_was_asked_for(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = 1000 * documents_like_text(60, 8)
    np.save(tmp_path / "large.npy", x)
    answer = run(capsys, "vectors", "prune", "--in", tmp_path / "large.npy", "--metric", "dot", "--dtype", "float16",
                 "--plan", "vectors/norm keep=30", "--out", tmp_path / "half.npy")  # fmt: skip
    got = np.load(tmp_path / "half.npy")
    rows = [int(i) for i in read_vectors(tmp_path / "half.npy").ids]
    assert got.dtype == np.float16
    assert (got == x[rows].astype(np.float16)).all()
    assert any("16-bit" in n for n in answer["notes"])


def test_vectors_too_small_to_be_told_apart_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "small.npy", 1e-4 * documents_like_text(60, 8))
    plan = ["--in", tmp_path / "small.npy", "--plan", "dimensions/svd keep=4"]
    said = run(capsys, "vectors", "prune", *plan, "--metric", "dot", code=2)["error"]
    assert "10,000" in said
    run(capsys, "vectors", "prune", *plan)


def test_vectors_that_cosine_cannot_tell_apart_are_named(tmp_path: Path) -> None:
    x = documents_like_text(200, 8)
    for name, offset, said in (("far.npy", 100, True), ("near.npy", 0, False)):
        np.save(tmp_path / name, x + np.float32(offset))
        assert any("same way" in n for n in read_source(str(tmp_path / name)).notes) == said
        assert not any("same way" in n for n in read_source(str(tmp_path / name), "l2").notes)


EVERY = [(name, "cosine") for name in (*registry.names("dimensions"), *registry.names("quantize"))]
SOME = [(name, m) for name in ("dimensions/svd", "dimensions/pca", "quantize/int8", "quantize/waterfill")
        for m in ("dot", "l2")]  # fmt: skip


@pytest.mark.parametrize(("name", "metric"), [*EVERY, *SOME])
def test_every_method_works_on_vectors_or_says_why_not(folder: Path, name: str, metric: Metric) -> None:
    bench = prepare("", [str(folder / "index.npy")], metric=metric)
    few = " steps=20" if "steps" in registry.find(name).__dataclass_fields__ else ""
    cut = " keep=12" if registry.card(name).cuts else " bytes=12" if name.endswith("waterfill") else ""
    if name == "dimensions/contrastive":
        with pytest.raises(InputError, match="title"):
            pipeline.judge_cut(bench, parse(f"{name}{cut}{few}"), spread=False)
        return
    found = pipeline.judge_cut(bench, parse(f"{name}{cut}{few}"), spread=False)
    ratio = found.retention["index"]["ndcg@10"].ratio
    assert 0.02 < ratio < 1.05


def test_rows_that_do_not_fit_into_memory_are_refused_before_they_are_read(folder: Path) -> None:
    source = vector_export.opened(str(folder / "index.npy"))
    vector_export.check_memory(source)
    with pytest.raises(InputError, match="GB are free"):
        vector_export.check_memory(replace(source, rows=10**12))  # type: ignore[type-var]


def test_nothing_cut_is_the_same_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "vectors", "prune", "--in", folder / "index.npy", "--plan", "dimensions/svd ratio=0",
        "--out", tmp_path / "same.npy")  # fmt: skip
    assert (tmp_path / "same.npy").read_bytes() == (folder / "index.npy").read_bytes()
    run(capsys, "vectors", "copy", "--in", folder / "payload.parquet", "--out", tmp_path / "copy.parquet")
    assert pq.read_table(tmp_path / "copy.parquet").equals(pq.read_table(folder / "payload.parquet"))


def test_other_fields_go_into_milvus_and_out_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = documents_like_text(120, 8)
    when = datetime.datetime(2026, 11, 21, 12, 30)
    table = pa.table({
        "id": [f"w{i}" for i in range(120)], "title": [f"t{i}" for i in range(120)],
        "price": [math.nan if i % 7 == 0 else i / 4 for i in range(120)], "when": [when] * 120,
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "in.parquet")
    target = f"{tmp_path / 'store.db'}#docs"
    plan = "dimensions/svd keep=4 | vectors/duplicates ratio=0.25"
    done = run(capsys, "vectors", "prune", "--in", tmp_path / "in.parquet", "--plan", plan, "--out", target)["export"]
    assert (done["rows"], done["alias"]) == (90, "docs_pruned")
    assert Path(done["projection"]).is_file()
    again = run(capsys, "vectors", "prune", "--in", tmp_path / "in.parquet", "--plan", plan, "--out", target)["export"]
    assert (again["collection"], again["written"]) == (done["collection"], 0)
    other = run(capsys, "vectors", "prune", "--in", tmp_path / "in.parquet", "--plan", plan, "--seed", "1",
                "--out", target)["export"]  # fmt: skip
    assert other["rows"] == 90  # held-out rows ask, so another seed fits another projection: a collection of its own
    assert (other["collection"] == done["collection"]) == (Path(other["projection"]) == Path(done["projection"]))
    listed = run(capsys, "vectors", "collections", "--in", tmp_path / "store.db")["collections"]
    assert {c["rows"] for c in listed} == {90}
    source = f"{tmp_path / 'store.db'}#{done['collection']}"
    run(capsys, "vectors", "copy", "--in", source, "--out", tmp_path / "out.parquet")
    got = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(got) == 90
    for row in got:
        i = int(row["id"][1:])
        more = json.loads(row["$meta"])
        assert more["title"] == f"t{i}"
        assert more["price"] == (None if i % 7 == 0 else i / 4)
        assert more["when"].startswith("2026-11-21")
    groups = json.loads(Path(done["groups"]).read_text(encoding="utf-8"))
    every = [r["id"] for r in got] + [g for rest in groups.values() for g in rest]
    assert sorted(every) == sorted(table["id"].to_pylist())
    found = run(capsys, "vectors", "compare", "--in", source, "--with", source, "--k", "5")["searches"]
    assert [r["recall@5"] for r in found] == [1.0, 1.0]
    for bad in (["--projection", tmp_path / "in.parquet"], ["--groups", tmp_path / "none.json"]):
        run(capsys, "vectors", "compare", "--in", source, "--with", source, *bad, code=2)


def test_the_same_plan_by_both_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = "dimensions/svd keep=12 | vectors/coverage keep=200"
    one = run(capsys, "vectors", "prune", "--in", folder / "index.npy", "--plan", plan)
    two = run(capsys, "prune", "--data", folder / "index.npy", "--plan", plan, "--format", "vectors",
              "--out", tmp_path / "out")  # fmt: skip
    assert one["retention"] == two["retention"]
    assert np.load(tmp_path / "out" / "documents.npy").shape == (200, 12)
    again = run(capsys, "run", tmp_path / "out" / "recipe.yaml")
    assert again["retention"] == two["retention"]


def test_bad_input_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = folder / "index.npy"
    (tmp_path / "there.npy").write_bytes(b"mine")
    np.save(tmp_path / "wide.npy", np.ones((5, 7), np.float32))
    np.save(tmp_path / "nan.npy", np.array([[1, np.nan], [1, 2]], np.float32))
    for argv in (
        ["--in", tmp_path / "nothing.npy", "--plan", "dimensions/svd keep=4"],
        ["--in", index, "--plan", "layers/subset keep=3"],
        ["--in", index, "--plan", "dimensions/svd keep=99"],
        ["--in", index, "--plan", "vectors/duplicates keep=4000"],
        ["--in", index, "--plan", "vectors/duplicates ratio=1"],
        ["--in", index, "--plan", "dimensions/svd keep=4", "--out", index],
        ["--in", index, "--plan", "dimensions/svd keep=4", "--out", tmp_path / "there.npy"],
        ["--in", index, "--plan", "dimensions/svd keep=4", "--out", tmp_path / "x.pkl"],
        ["--in", index, "--plan", "quantize/int8", "--out", tmp_path / "x.txt"],
        ["--in", index, "--plan", "dimensions/svd keep=4", "--queries", tmp_path / "wide.npy"],
        ["--in", tmp_path / "nan.npy", "--plan", "dimensions/svd keep=1"],
        ["--in", index, "--plan", "dimensions/svd keep=4", "--judge", folder / "asked.npy"],
        ["--in", index, "--plan", "vectors/duplicates threshold=1.5"],
        ["--in", index, "--plan", "vectors/norm ratio=0.5", "--limit", "0"],
        ["--in", index, "--plan", "vectors/norm ratio=0.5", "--rescore", "-3"],
        ["--in", index, "--plan", "vectors/norm ratio=0.5", "--seed", "-1"],
        ["--in", index, "--plan", "quantize/int8", "--dtype", "float16", "--out", tmp_path / "x.npy"],
    ):
        run(capsys, "vectors", "prune", *argv, code=2)
    run(capsys, "prune", "--data", index, "--plan", "dimensions/svd keep=4", "--out", tmp_path / "o", code=2)
    assert (tmp_path / "there.npy").read_bytes() == b"mine"


def test_a_sweep_holds_the_ceiling_and_random_rows(capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(capsys, "sweep", "--data", "sample", "--method", "vectors/duplicates", "--ratios", "0,0.25,0.5")
    half = answer["points"][2]
    assert half["kept"] == 322
    assert half["ceiling"]["sample"] == 1.0
    assert half["quality"]["sample"]["ndcg@10"] > half["random"]["sample"]["ndcg@10"]
    assert answer["points"][0]["quality"]["sample"]["ndcg@10"] > half["quality"]["sample"]["ndcg@10"]


@pytest.mark.parametrize("name", registry.names("vectors"))
def test_every_method_is_judged_the_same_at_once_and_alone(name: str) -> None:
    """The study's one pass gives what the pipeline gives at that ratio."""
    bench = prepare("minilm", ["sample"])
    found = row_study.study(bench, bench.judges[0], Step(name), (0.0, 0.25))
    cut = pipeline.judge_cut(bench, parse(f"{name} ratio=0.25"), spread=False)
    for m, r in cut.retention["sample"].items():
        assert r.after == pytest.approx(float(found.plain.means(m)[1]), abs=2e-3)
        assert r.before == pytest.approx(float(found.plain.means(m)[0]), abs=1e-9)
