"""The loaders: one test per rule, bad inputs with the words their message must hold, and the real data."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import data as data_module
from core.__main__ import main
from core.data import docstrings, load, parquet, python_docs
from core.data.vector_files import open_vectors
from core.errors import DataError, InputError
from core.types import Dataset
from tests.tiny_models import tiny_model

REAL = Path(__file__).parents[2] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real data (../shared/data) is not on this machine")
HEAD = "query-id\tcorpus-id\tscore\n"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "home"))


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return str(path)


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def beir(folder: Path, documents: int = 40, asking: int = 10, **files: str | bytes) -> str:
    """A BEIR folder; query i has document i as its answer. `files` replaces corpus, queries or qrels."""
    corpus = [{"_id": f"d{i}", "title": f"T{i}", "text": f"text {i}", "metadata": {"topic": f"t{i % 3}"}}
              for i in range(documents)]  # fmt: skip
    asked = [{"_id": f"q{i}", "text": f"question {i}"} for i in range(asking)]
    judged = HEAD + "".join(f"q{i}\td{i}\t1\n" for i in range(asking))
    write(folder / "corpus.jsonl", files.get("corpus", jsonl(corpus)))
    write(folder / "queries.jsonl", files.get("queries", jsonl(asked)))
    write(folder / "qrels" / "test.tsv", files.get("qrels", judged))
    return str(folder)


def one(spec: str, **options: Any) -> Dataset:
    found = load(spec, **options)
    assert len(found) == 1
    return found[0]


def noted(data: Dataset, *words: str) -> bool:
    return any(all(word in note for word in words) for note in data.notes)


# Real data


@needs_real
def test_scifact_has_its_published_sizes() -> None:
    data = one(str(REAL / "scifact"))
    assert (data.name, len(data.documents), len(data.queries), data.truth) == ("scifact", 5183, 300, "judged")
    assert data.qrels is not None
    assert sum(len(grades) for grades in data.qrels.values()) == 339
    raw = [json.loads(line) for line in (REAL / "scifact" / "corpus.jsonl").read_text("utf-8").split("\n") if line]
    assert data.documents.full == tuple(f"{row['title']} {row['text']}" for row in raw)
    assert len(one(str(REAL / "scifact"), split="train").queries) == 809


@needs_real
def test_stsb_is_read_unquoted() -> None:
    data = one(str(REAL / "stsb" / "sts-dev.tsv"))
    assert (data.name, data.kind, len(data.documents), len(data.queries)) == ("sts-dev", "pairs", 1500, 1500)
    assert data.scores is not None
    assert data.scores.min() >= 0
    assert data.scores.max() == 5


@needs_real
@pytest.mark.parametrize("spec", ["banking77/train.csv", "banking77/test.csv", "banking77"])
def test_banking77_trains_on_one_file_and_tests_on_the_other(spec: str) -> None:
    data = one(str(REAL / spec))
    assert (data.truth, len(data.documents), len(data.queries)) == ("labelled", 10003, 3080)
    assert len(set(data.documents.labels)) == len(set(data.queries.labels)) == 77


@needs_real
def test_limit_on_scifact_keeps_relevant_documents_and_says_so() -> None:
    data = one(str(REAL / "scifact"), limit=1000)
    assert noted(data, "sample of 1,000 of 5,183 documents, seed 0")
    there = set(data.documents.ids)
    full = one(str(REAL / "scifact")).qrels
    assert full is not None
    assert all(d in there for q in data.queries.ids for d, grade in full[q].items() if grade > 0)


@needs_real
def test_word_pairs_without_a_header() -> None:
    assert len(one(str(REAL / "glove50-10k" / "EN-WS-353-ALL.txt")).documents) == 353


# What can be named


@pytest.mark.parametrize("spec", ["nowhere", "", "x\0y", "a" * 5000])
def test_unknown_spec_lists_what_can_be_given(spec: str) -> None:
    with pytest.raises(InputError, match="sample, python-docs, a folder"):
        load(spec)


def test_unknown_suffix_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"notes\.docx.*\.parquet"):
        load(write(tmp_path / "notes.docx", "x"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no corpus\.jsonl"):
        load(str(tmp_path / "empty"))


def test_sample_gives_documents_and_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beir(tmp_path / "assets")
    write(tmp_path / "assets" / "pairs.tsv", "score\tsentence1\tsentence2\n1.5\ta\tb\n")
    monkeypatch.setattr(data_module, "SAMPLE", tmp_path / "assets")
    first, second = load("sample")
    assert (first.name, first.truth, second.name, second.truth) == ("sample", "judged", "sample-pairs", "scored")
    assert set(first.documents.labels) == {"t0", "t1", "t2"}


def test_a_zip_of_a_folder_is_unpacked_under_our_home(tmp_path: Path) -> None:
    folder = Path(beir(tmp_path / "inner"))
    archive = tmp_path / "corpus-v1.zip"
    with zipfile.ZipFile(archive, "w") as z:
        for p in sorted(folder.rglob("*")):
            if p.is_file():
                z.write(p, p.relative_to(tmp_path))
    for _ in range(2):  # the second time it is there already
        data = one(str(archive))
        assert (data.name, len(data.documents)) == ("corpus-v1", 40)
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["uploads"]


def test_a_zip_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as z:
        z.writestr("../corpus.jsonl", "{}")
    with pytest.raises(InputError, match=r"bad\.zip"):
        load(str(tmp_path / "bad.zip"))


@pytest.mark.parametrize("log", ["nofile", "nofile.csv", ".", "a" * 5000])
def test_a_query_log_that_is_not_there_is_said_before_anything_is_read(log: str, tmp_path: Path) -> None:
    for spec in (write(tmp_path / "t.csv", "text\na\nb\n"), beir(tmp_path / "b"), beir(tmp_path / "c", corpus="{")):
        with pytest.raises(InputError, match=r"no file at .*--queries.*\.csv"):
            load(spec, queries=tmp_path / log)


@pytest.mark.parametrize("name", ["nofile", ".", "a" * 5000])
def test_a_vector_file_that_is_not_there_is_not_called_unreadable(name: str) -> None:
    with pytest.raises(InputError, match=r"no file at .*\.npy"):
        open_vectors(Path(name))


# Names


def test_every_data_set_has_a_name_of_its_own(tmp_path: Path) -> None:
    names = ["same", "other", "same", "same-2", "same"]
    specs = [write(tmp_path / str(i) / f"{name}.csv", f"text\na {i}\nb\n") for i, name in enumerate(names)]
    given = [one(spec) for spec in specs]
    found = data_module.told_apart(given)
    assert [d.name for d in found] == ["same", "other", "same-3", "same-2", "same-4"]
    assert [d.documents for d in found] == [d.documents for d in given]
    assert [noted(d, "called same", f"under {d.name}") for d in found] == [False, False, True, False, True]
    assert data_module.told_apart(given[:2]) == given[:2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("static", tmp_path_factory.mktemp("static"))


def answer(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> dict[str, Any]:
    assert main([*map(str, argv), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_data_of_the_same_stem_are_both_in_the_answer(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    specs = [beir(tmp_path / "a" / "plain"), beir(tmp_path / "b" / "plain", asking=20)]
    pairs = write(tmp_path / "plain.tsv", "score\tsentence1\tsentence2\n1\ta cat\ta dog\n2\tthe bird\ta bird\n")
    many = [word for spec in (*specs, pairs) for word in ("--data", spec)]
    got = answer(capsys, "prune", "--model", tiny, *many, "--plan", "dimensions/svd keep=16")
    assert [(d["name"], d["queries"]) for d in got["data"]] == [("plain", 10), ("plain-2", 20), ("plain-3", 2)]
    wanted = {"plain", "plain-2", "plain-3"}
    assert set(got["before"]["quality"]) == set(got["retention"]) == set(got["random_baseline"]) == wanted
    assert "plain-2: called plain as one before it: its figures stand under plain-2" in got["notes"]
    alone = answer(capsys, "prune", "--model", tiny, "--data", specs[1], "--plan", "dimensions/svd keep=16")
    assert got["before"]["quality"]["plain-2"] == alone["before"]["quality"]["plain"]


def test_vectors_and_their_word_pairs_may_share_a_stem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"w{i} {i % 5}.5 {i % 7} 1 {i % 3}" for i in range(40)]
    index = write(tmp_path / "words.txt", "\n".join(words) + "\n")
    pairs = write(tmp_path / "sets" / "words.txt", "".join(f"w{i}\tw{i + 1}\t{i % 4}\n" for i in range(20)))
    got = answer(capsys, "evaluate", "--data", index, "--data", pairs)
    assert [d["name"] for d in got["data"]] == ["words", "words-2"]
    assert set(got["quality"]["words-2"]) == {"spearman"}
    assert "ndcg@10" in got["quality"]["words"]


def test_fit_on_a_folder_reads_its_corpus_and_no_judgements(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged, other = beir(tmp_path / "judged"), Path(beir(tmp_path / "other", documents=50))
    cut = ("prune", "--model", tiny, "--data", judged, "--plan", "dimensions/svd keep=16", "--fit-on", other)
    with_judgements = answer(capsys, *cut)
    (other / "qrels" / "test.tsv").unlink()
    (other / "queries.jsonl").unlink()
    without = answer(capsys, *cut)
    assert (without["fit_on"], without["fit_documents"]) == (["other"], 50)
    assert without["after"]["quality"] == with_judgements["after"]["quality"]


# BEIR


def test_beir_keeps_judged_queries_in_file_order_with_titles_and_topics(tmp_path: Path) -> None:
    data = one(beir(tmp_path / "b", qrels=HEAD + "q7\td1\t2\nq3\td2\t1\nq3\td4\t0\n"))
    assert data.queries.ids == ("q3", "q7")
    assert data.qrels == {"q3": {"d2": 1, "d4": 0}, "q7": {"d1": 2}}
    assert data.documents.full[1] == "T1 text 1"
    assert data.documents.labels[:4] == ("t0", "t1", "t2", "t0")
    assert noted(data, "queries without judgements", "8")


def test_topic_may_stand_beside_the_text(tmp_path: Path) -> None:
    corpus = jsonl([{"_id": "d0", "text": "a", "topic": "x"}, {"_id": "d1", "text": "b", "label": "y"}])
    data = one(beir(tmp_path / "b", corpus=corpus, qrels=HEAD + "q0\td0\t1\n"))
    assert (data.documents.labels, data.documents.titles) == (("x", "y"), ())


def test_missing_split_names_those_that_exist(tmp_path: Path) -> None:
    spec = beir(tmp_path / "b")
    write(tmp_path / "b" / "qrels" / "train.tsv", HEAD + "q0\td0\t1\n")
    with pytest.raises(DataError, match=r"no split 'dev'.*test, train.*--split"):
        load(spec, split="dev")
    with pytest.raises(DataError, match="no split"):
        load(spec, split="../qrels/test")


def test_a_single_qrels_file_is_the_test_split(tmp_path: Path) -> None:
    spec = beir(tmp_path / "b")
    (tmp_path / "b" / "qrels" / "test.tsv").rename(tmp_path / "b" / "qrels.tsv")
    assert len(one(spec).queries) == 10
    (tmp_path / "b" / "qrels.tsv").unlink()
    with pytest.raises(DataError, match=r"there are none: add qrels/test\.tsv.*--queries") as caught:
        load(spec)
    assert "--split" not in str(caught.value), "there is none to choose"


def test_qrels_without_a_header_or_with_columns_in_another_order(tmp_path: Path) -> None:
    assert one(beir(tmp_path / "a", qrels="q1\td1\t1\n")).qrels == {"q1": {"d1": 1}}
    assert one(beir(tmp_path / "b", qrels="score\tcorpus-id\tquery-id\n1\td1\tq1\n")).qrels == {"q1": {"d1": 1}}


def test_unknown_ids_in_judgements_are_dropped_and_counted(tmp_path: Path) -> None:
    lines = "q0\td0\t1\nq1\td1\t1\nq2\tnone\t1\nzz\td3\t1\n"
    data = one(beir(tmp_path / "b", qrels=HEAD + lines))
    assert data.queries.ids == ("q0", "q1")
    assert noted(data, "unknown queries", ": 1")
    assert noted(data, "unknown documents", ": 1")
    with pytest.raises(DataError, match="3 of 5 judgements name unknown ids"):
        load(beir(tmp_path / "c", qrels=HEAD + lines + "zz\tzz\t1\n"))


def test_judgements_of_blank_texts_are_counted_apart_from_unknown_ones(tmp_path: Path) -> None:
    corpus = jsonl([{"_id": f"{i}", "text": "" if i in (3, 5) else f"text {i}"} for i in range(10)])
    queries = jsonl([{"_id": f"{i}", "text": " " if i == 4 else f"question {i}"} for i in range(6)])
    files: dict[str, str | bytes] = {"corpus": corpus, "queries": queries}
    lines = "0\t0\t1\n1\t1\t1\n2\t2\t1\n5\t4\t1\n0\tnone\t1\n"  # document 4 has text, query 4 has none
    data = one(beir(tmp_path / "b", qrels=HEAD + lines + "2\t3\t1\n4\t0\t1\n4\t5\t1\n", **files))
    assert data.queries.ids == ("0", "1", "2", "5")
    assert noted(data, "judgements of blank queries or documents (dropped): 3")
    assert noted(data, "judgements of unknown documents (dropped): 1")
    assert not noted(data, "unknown queries")
    with pytest.raises(DataError, match=r"2 of 3 .*\(0 documents, 1 queries\) or blank texts \(1\)"):
        load(beir(tmp_path / "c", qrels=HEAD + "0\t0\t1\n0\t5\t1\nzz\t0\t1\n", **files))


def test_queries_whose_judgements_are_all_zero_are_left_out(tmp_path: Path) -> None:
    data = one(beir(tmp_path / "b", qrels=HEAD + "q0\td0\t0\nq1\td1\t1\n"))
    assert data.queries.ids == ("q1",)
    assert noted(data, "all zero", ": 1")
    assert noted(data, "without judgements", ": 8")
    with pytest.raises(DataError, match="every score is 0"):
        load(beir(tmp_path / "c", qrels=HEAD + "q0\td0\t0\n"))


@pytest.mark.parametrize("case", ["dev", "no qrels", "no queries", "all zero", "damaged"])
def test_without_a_split_the_corpus_alone_is_read(case: str, tmp_path: Path) -> None:
    judged = {"all zero": HEAD + "q0\td0\t0\n", "damaged": "no judgements"}.get(case)
    spec = beir(tmp_path / "b", **({} if judged is None else {"qrels": judged}))
    qrels = tmp_path / "b" / "qrels" / "test.tsv"
    if case == "dev":
        qrels.rename(qrels.with_name("dev.tsv"))
    if case in ("no qrels", "no queries"):
        qrels.unlink()
    if case == "no queries":
        (tmp_path / "b" / "queries.jsonl").unlink()
    with pytest.raises(DataError):
        load(spec)
    data = one(spec, split=None)
    assert (data.name, len(data.documents), len(data.queries), data.qrels) == ("b", 40, 0, None)
    assert data.documents.full[1] == "T1 text 1"


def test_a_limit_on_what_is_fitted_on_does_not_look_at_judgements(tmp_path: Path) -> None:
    rows = [HEAD + "q0\td0\t1\nq0\td1\t1\n", HEAD + "".join(f"q1\td{i}\t1\n" for i in range(30, 40))]
    one_, two = (one(beir(tmp_path / str(i) / "b", qrels=r), split=None, limit=9) for i, r in enumerate(rows))
    assert one_.documents.ids == two.documents.ids
    assert len(one_.documents) == 9


D0 = {"_id": "d0", "text": "a"}
BAD_BEIR: dict[str, tuple[dict[str, str | bytes], str]] = {
    "duplicate id": ({"corpus": jsonl([D0, {"_id": "x", "text": "b"}, D0])},
                     r"corpus\.jsonl, line 3: duplicate id 'd0', first on line 1"),
    "duplicate query id": ({"queries": jsonl([{"_id": "q0", "text": "a"}] * 2)}, r"queries\.jsonl, line 2: dup"),
    "duplicate key": ({"corpus": '{"_id": "a", "text": "b", "text": "c"}\n'}, r"line 1: .*duplicate key 'text'"),
    "number": ({"corpus": jsonl([D0, {"_id": "x", "text": 3.5}])}, r"line 2: 'text' is a number.*quotes"),
    "null": ({"corpus": jsonl([D0, {"_id": "x", "text": None}])}, r"line 2: 'text' is missing or null"),
    "no text": ({"corpus": jsonl([D0, {"_id": "x"}])}, r"line 2: 'text' is missing"),
    "list": ({"corpus": jsonl([D0, {"_id": "x", "text": ["a"]}])}, r"line 2: 'text' is a list"),
    "no id": ({"corpus": jsonl([D0, {"text": "a"}])}, r"line 2: no \"_id\""),
    "cut off": ({"corpus": '{"_id": "a", "text": "b"}\n{"_id": "c", "te'}, r"line 2: not valid JSON.*one complete"),
    "array": ({"corpus": "[1]\n"}, "line 1: not an object"),
    "deep": ({"corpus": "[" * 100_000 + "\n"}, "line 1: not valid JSON"),
    "empty": ({"corpus": ""}, r"corpus\.jsonl: no rows"),
    "all blank": ({"corpus": jsonl([{"_id": "d0", "text": " "}])}, "no rows left: every text is blank"),
    "nul": ({"corpus": b'{"_id": "a", "text": "bcdefghijkl"}\n{"_id": "\0"}\n'}, r"line 2: NUL byte at byte offset 45"),
    "nul escape": ({"corpus": '{"_id": "a", "text": "\\u0000"}\n'}, "line 1: a NUL character"),
    "utf-16": ({"corpus": jsonl([D0]).encode("utf-16")}, r"byte offset 0.*UTF-16.*iconv"),
    "utf-16 without mark": ({"corpus": jsonl([D0]).encode("utf-16-le")}, r"byte offset 0.*UTF-16.*iconv"),
    "latin": ({"corpus": jsonl([D0]).encode() + b'{"_id": "caf\xe9"}'}, r"line 2: byte offset 39 \(0xe9\).*1252"),
    "lfs": ({"corpus": "version https://git-lfs.github.com/spec/v1\n"}, "Git-LFS pointer"),
    "score": ({"qrels": HEAD + "q0\td0\tnan\n"}, r"qrels/test\.tsv, line 2: score 'nan' is no finite number"),
    "fraction": ({"qrels": HEAD + "q0\td0\t0.5\n"}, r"line 2: score '0\.5' is no whole number"),
    "ragged": ({"qrels": HEAD + "q0\td0\t1\nq1\td1\n"}, r"line 3: ragged row: 2 cells where.*3"),
    "header only": ({"qrels": HEAD}, r"qrels/test\.tsv: no rows"),
    "columns": ({"qrels": "a\tb\n1\t2\n"}, r"line 1: columns .*query-id, corpus-id, score"),
    "two grades": ({"qrels": HEAD + "q0\td0\t1\nq0\td0\t2\n"}, r"line 3: .*grade 2 here and 1 before"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BEIR)
def test_bad_beir_files_name_file_line_and_remedy(case: str, tmp_path: Path) -> None:
    files, words = BAD_BEIR[case]
    with pytest.raises(DataError, match=words):
        load(beir(tmp_path / "b", **files))


def test_integer_ids_keep_every_digit(tmp_path: Path) -> None:
    big = 12345678901234567890123
    corpus = f'{{"_id": {big}, "text": "a"}}\n{{"_id": "007", "text": "b"}}\n{{"_id": "7", "text": "c"}}\n'
    data = one(beir(tmp_path / "b", corpus=corpus, qrels=HEAD + f"q0\t{big}\t1\nq1\t007\t1\n"))
    assert data.documents.ids == (str(big), "007", "7")


def test_blank_long_and_broken_texts_are_counted(tmp_path: Path) -> None:
    texts = ["fine", " \u200b\n", "x" * 100_001, "lone \ud800 here", "pair \ud83d\ude00"]
    corpus = jsonl([{"_id": f"d{i}", "text": t} for i, t in enumerate(texts)])
    data = one(beir(tmp_path / "b", corpus=corpus, qrels=HEAD + "q0\td0\t1\n"))
    assert data.documents.ids == ("d0", "d2", "d3", "d4")
    assert len(data.documents.texts[1]) == 100_000
    assert data.documents.texts[2:] == ("lone \ufffd here", "pair \U0001f600")
    assert noted(data, "blank texts skipped: 1")
    assert noted(data, "over 100,000 characters", ": 1")
    assert noted(data, "lone surrogates", ": 1")


def test_byte_order_mark_survives(tmp_path: Path) -> None:
    assert one(write(tmp_path / "t.csv", b"\xef\xbb\xbftext\r\na\r\nb\r\n")).documents.texts == ("a", "b")
    assert one(beir(tmp_path / "b", corpus=b"\xef\xbb\xbf" + jsonl([D0]).encode(), qrels=HEAD + "q0\td0\t1\n"))


@pytest.mark.parametrize("limit", [1, 2, 5, 20, 39])
def test_limit_is_exact_seeded_and_whole(limit: int, tmp_path: Path) -> None:
    spec = beir(tmp_path / "b")
    data, again, other = one(spec, limit=limit), one(spec, limit=limit), one(spec, limit=limit, seed=1)
    assert len(data.documents) == limit
    assert data.fingerprint == again.fingerprint
    assert data.fingerprint != other.fingerprint
    assert data.qrels is not None
    assert all(f"d{q[1:]}" in data.documents.ids for q in data.queries.ids)
    assert list(data.documents.ids) == sorted(data.documents.ids, key=lambda i: int(i[1:]))
    assert noted(data, f"sample of {limit} of 40 documents, seed 0")


def test_negative_seed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed -1 is below 0"):
        load(beir(tmp_path / "b"), seed=-1)


def test_limit_that_keeps_nothing(tmp_path: Path) -> None:
    spec = beir(tmp_path / "b", qrels=HEAD + "q0\td0\t1\nq0\td1\t1\n")
    with pytest.raises(InputError, match="limit 0 keeps nothing"):
        load(spec, limit=0)
    with pytest.raises(InputError, match=r"limit 1 is below 2.*raise --limit to 2"):
        load(spec, limit=1)
    assert not noted(one(spec, limit=40), "sample")


# Pairs


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.tsv", 'score\tsentence1\tsentence2\n1.5\ta "b\tc\n'),
        ("p.tsv", 'genre\tSentence2\tsentence1\tscore\nx\tc\ta "b\t1.5\n'),
        ("p.csv", 'score,sentence1,sentence2\n1.5,"a ""b",c\n'),
        ("p.csv", 'sentence1\tsentence2\tscore\na "b\tc\t1.5\n'),
        ("p.tsv", 'score,sentence1,sentence2\n1.5,"a ""b",c\n'),
        ("p.tsv", 'a "b\tc\t1.5\n'),
        ("p.csv", '1.5,"a ""b",c\n'),
    ],
)
def test_pairs_in_every_accepted_shape(name: str, content: str, tmp_path: Path) -> None:
    data = one(write(tmp_path / name, content))
    assert (data.name, data.truth, data.documents.texts, data.queries.texts) == ("p", "scored", ('a "b',), ("c",))
    assert data.scores is not None
    assert data.scores.tolist() == [1.5]


def test_pairs_with_a_blank_sentence_are_skipped_and_limit_samples_rows(tmp_path: Path) -> None:
    rows = "".join(f"{i}\tleft {i}\tright {i}\n" for i in range(30))
    spec = write(tmp_path / "p.tsv", "score\tsentence1\tsentence2\n" + rows + "3\t \tb\n")
    assert noted(one(spec), "blank sentence", ": 1")
    data = one(spec, limit=7)
    assert noted(data, "sample of 7 of 30 pairs, seed 0")
    assert data.scores is not None
    assert [f"left {int(s)}" for s in data.scores] == list(data.documents.texts)
    assert [f"right {int(s)}" for s in data.scores] == list(data.queries.texts)


BAD_PAIRS = {
    "word": ("score\tsentence1\tsentence2\n1\ta\tb\nhigh\tc\td\n", r"p\.tsv, line 3: score 'high' is no finite number"),
    "inf": ("score\tsentence1\tsentence2\ninf\ta\tb\n", "line 2: score 'inf'"),
    "comma": ("score\tsentence1\tsentence2\n3,5\ta\tb\n", "line 2: score '3,5'.*decimal point"),
    "missing": ("score\tsentence1\n1\ta\n", "line 1: no column sentence2 among score, sentence1"),
    "ragged": ("score\tsentence1\tsentence2\n1\ta\tb\tc\n", "line 2: ragged row: 4 cells where.*3.*tab"),
    "twice": ("score\tsentence1\tsentence1\n1\ta\tb\n", "line 1: duplicate header 'sentence1'"),
    "bare": ("a\tb\t1\nc\td\tx\n", "line 2: score 'x'"),
    "bare ragged": ("a\tb\t1\nc\td\n", "line 2: ragged row: 2 cells"),
    "bare, two numbers": ("1\t2\tb\n3\t4\td\n", "2 of 3 columns are numbers: add a header"),
    "header only": ("score\tsentence1\tsentence2\n", "no rows"),
    "blank": ("score\tsentence1\tsentence2\n1\t \tb\n", "no rows left"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_pairs(case: str, tmp_path: Path) -> None:
    content, words = BAD_PAIRS[case]
    with pytest.raises(DataError, match=words):
        load(write(tmp_path / "p.tsv", content))


# Labels


@pytest.mark.parametrize("column", ["label", "Category", "class", "intent", "target"])
def test_labels_are_split_by_label_and_seed(column: str, tmp_path: Path) -> None:
    rows = "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40)) + "lonely,c\n,a\nno label,\n"
    spec = write(tmp_path / "intents.csv", f"text,{column}\n{rows}")
    data = one(spec)
    assert (data.truth, len(data.documents), len(data.queries)) == ("labelled", 29, 12)
    assert Counter(data.queries.labels) == {"a": 6, "b": 6}
    assert not set(data.documents.ids) & set(data.queries.ids)
    assert noted(data, "blank texts skipped: 1")
    assert noted(data, "without a label", ": 1")
    assert noted(data, "70/30", "seed 0")
    assert one(spec).fingerprint == data.fingerprint != one(spec, seed=1).fingerprint


def test_siblings_train_and_test(tmp_path: Path) -> None:
    write(tmp_path / "d" / "train.csv", "text,label\na,x\nb,y\n")
    spec = write(tmp_path / "d" / "test.csv", "label,text\nx,c\nz,d\n")
    data = one(spec)
    assert (data.name, data.documents.texts, data.queries.texts) == ("test", ("a", "b"), ("c", "d"))
    assert noted(data, "trained on train.csv, tested on test.csv")
    assert noted(data, "training file lacks", ": 1")
    assert one(str(tmp_path / "d")).name == "d"


def test_limit_on_labels_keeps_every_label(tmp_path: Path) -> None:
    rows = "".join(f"text {i},{'abcde'[i % 5] if i > 50 else 'a'}\n" for i in range(200))
    data = one(write(tmp_path / "l.csv", "text,label\n" + rows), limit=50)
    assert len(data.documents) + len(data.queries) == 50
    assert set(data.documents.labels) == set(data.queries.labels) == set("abcde")
    assert noted(data, "sample of 50 of 200 texts, seed 0")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,label\na,x\nb,x\n", "only one label"),
        ("text,label\na,x\nb,y\n", "nothing is left to test on"),
        ("text,label\na,\n", "no text has a 'label'"),
        ("one,two,label\na,b,c\n", "cannot tell which column.*one, two, label"),
    ],
)
def test_bad_labels(content: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        load(write(tmp_path / "l.csv", content))


# Texts without judgements


def as_csv(path: Path, rows: list[dict[str, str]]) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return write(path.with_suffix(".csv"), out.getvalue())


def as_jsonl(path: Path, rows: list[dict[str, str]]) -> str:
    return write(path.with_suffix(".jsonl"), jsonl(rows))


def as_parquet(path: Path, rows: list[dict[str, str]]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
    return str(path.with_suffix(".parquet"))


WRITERS = pytest.mark.parametrize("writer", [as_csv, as_jsonl, as_parquet])
Writer = Callable[[Path, list[dict[str, str]]], str]


@WRITERS
def test_texts_keep_ids_titles_and_topics_as_strings(writer: Writer, tmp_path: Path) -> None:
    rows = [
        {"id": "007", "title": "NA", "text": "null", "topic": "1"},
        {"id": "7", "title": "", "text": "NA", "topic": "2"},
        {"id": "12345678901234567890", "title": "<b>", "text": "=cmd()", "topic": "1"},
        {"id": "", "title": "", "text": "no id", "topic": ""},
    ]
    data = one(writer(tmp_path / "t", rows))
    assert data.documents.ids == ("007", "7", "12345678901234567890", "row-4")
    assert data.documents.texts == ("null", "NA", "=cmd()", "no id")
    assert data.documents.titles == ("NA", "", "<b>", "")
    assert data.documents.labels == ("1", "2", "1", "")
    assert noted(data, "without an id", ": 1")


@WRITERS
def test_documents_ask_under_their_own_ids(writer: Writer, tmp_path: Path) -> None:
    data = one(writer(tmp_path / "t", [{"body": f"text {i}"} for i in range(50)]))
    assert (data.truth, data.qrels, len(data.queries)) == ("agreement", None, 10)
    texts = dict(zip(data.documents.ids, data.documents.texts, strict=True))
    assert all(texts[i] == t for i, t in zip(data.queries.ids, data.queries.texts, strict=True))
    assert noted(data, "10 of 50 documents ask, seed 0")
    assert noted(data, "'body'")


@pytest.mark.parametrize(("rows", "asking"), [(1, 1), (9, 1), (3000, 500)])
def test_a_fifth_asks_but_500_at_most(rows: int, asking: int, tmp_path: Path) -> None:
    data = one(as_jsonl(tmp_path / "t", [{"text": f"text {i}"} for i in range(rows)]))
    assert len(data.queries) == asking


@pytest.mark.parametrize("log", ["log.txt", "log.csv", "log.jsonl", "log.parquet"])
def test_a_query_log_asks_each_query_once(log: str, tmp_path: Path) -> None:
    spec = as_csv(tmp_path / "t", [{"id": "q1", "text": "a"}, {"id": "q2", "text": "b"}])
    asked = ["how?", "why?", "how?", ""]
    path = tmp_path / log
    if log.endswith("txt"):
        write(path, "\n".join(asked) + "\n\n")
    else:
        rows = [{"query": q, "when": "2024"} for q in asked]
        {"log.csv": as_csv, "log.jsonl": as_jsonl, "log.parquet": as_parquet}[log](path, rows)
    data = one(spec, queries=path)
    assert (data.truth, data.queries.texts) == ("agreement", ("how?", "why?"))
    assert not set(data.queries.ids) & set(data.documents.ids)  # an equal id would mean the same text
    assert noted(data, "merged", ": 1")
    assert noted(data, "blank texts skipped")


def test_a_log_makes_labels_topics_and_is_not_used_where_there_is_truth(tmp_path: Path) -> None:
    log = Path(write(tmp_path / "log.txt", "how?\n"))
    data = one(write(tmp_path / "t.csv", "text,label\na,x\nb,y\n"), queries=log)
    assert (data.truth, data.documents.labels) == ("agreement", ("x", "y"))
    assert noted(one(beir(tmp_path / "b"), queries=log), "query log was not used")
    (tmp_path / "b" / "qrels" / "test.tsv").unlink()
    data = one(str(tmp_path / "b"), queries=log)
    assert (data.truth, len(data.documents)) == ("agreement", 40)


def test_limit_on_texts_and_their_log(tmp_path: Path) -> None:
    spec = as_jsonl(tmp_path / "t", [{"text": f"text {i}"} for i in range(50)])
    data = one(spec, limit=20)
    assert (len(data.documents), len(data.queries)) == (20, 4)
    assert data.documents.ids != tuple(str(i + 1) for i in range(20))
    assert set(data.queries.ids) <= set(data.documents.ids)
    log = Path(write(tmp_path / "log.txt", "".join(f"q {i}\n" for i in range(30))))
    data = one(spec, limit=20, queries=log)
    assert noted(data, "sample of 20 of 50 documents, seed 0")
    assert noted(data, "sample of 20 of 30 queries, seed 0")


BAD_CSV: dict[str, tuple[str | bytes, str]] = {
    "open quote": ('text,x\na,1\n"b,2\nc,3\n', r"t\.csv, line 3: a quote is opened and never closed"),
    "quote inside": ('text,x\n"a" b,2\n', "line 2: not valid CSV.*twice"),
    "ragged": ("text,x\na,1\nb\n", "line 3: ragged row: 1 cells where.*2.*comma"),
    "header twice": ("text,Text\na,b\n", "line 1: duplicate header 'text'"),
    "id twice": ("id,text\n1,a\n2,b\n1,c\n", "line 4: duplicate id '1', first on line 2"),
    "id twice after a long row": ('id,text\n1,"a\n\nb"\n1,c\n', "line 5: duplicate id '1'"),
    "empty": ("", "no rows"),
    "only a mark": (b"\xef\xbb\xbf", "no rows"),
    "only blanks": ("\n\n \n", "no rows"),
    "header only": ("text,x\n", "no rows"),
    "all blank": ("text\n\n\n", "no rows left"),
    "nul": (b"text\naaaaaaaa\nb\0c\n", "line 3: NUL byte at byte offset 15"),
    "utf-16": ("text\na\n".encode("utf-16"), "byte offset 0.*UTF-16"),
    "latin": (b"text\ncaf\xe9\n", r"line 2: byte offset 8 \(0xe9\) is not UTF-8.*iconv"),
    "semicolons": ("id;text\n1;a\n", "line 1: one column, 'id;text'.*commas"),
    "two texts": ("one,two\na,b\n", "cannot tell which column.*one, two.*'text'"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv(case: str, tmp_path: Path) -> None:
    content, words = BAD_CSV[case]
    with pytest.raises(DataError, match=words):
        load(write(tmp_path / "t.csv", content))


def test_only_string_column_among_numbers(tmp_path: Path) -> None:
    data = one(write(tmp_path / "t.csv", "year,price,body\n2020,1.5,hello\n2021,2,world\n"))
    assert data.documents.texts == ("hello", "world")


def test_long_cells_and_odd_line_ends_are_read(tmp_path: Path) -> None:
    spec = write(tmp_path / "t.csv", f'text,x\r\n"a\r\nb\u2028c",1\r\n{"y" * 200_000},2\r\n')
    data = one(spec)
    assert data.documents.texts[0] == "a\r\nb\u2028c"
    assert noted(data, "over 100,000 characters", ": 1")
    assert one(as_jsonl(tmp_path / "u", [{"text": "a\u2028b"}])).documents.texts == ("a\u2028b",)


def test_bad_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="not a readable Parquet file"):
        load(write(tmp_path / "t.parquet", b"PAR1 no"))
    with pytest.raises(DataError, match="no rows"):
        load(_empty_parquet(tmp_path / "e.parquet"))
    with pytest.raises(DataError, match="row 2: 'text' is missing or null"):
        load(as_parquet(tmp_path / "n", [{"text": "a"}, {"text": None}]))  # type: ignore[dict-item]
    with pytest.raises(DataError, match="row 2: duplicate id 'x', first on row 1"):
        load(as_parquet(tmp_path / "d", [{"id": "x", "text": "a"}, {"id": "x", "text": "b"}]))
    with pytest.raises(DataError, match="no text column among n"):
        load(as_parquet(tmp_path / "i", [{"n": 1}]))  # type: ignore[dict-item]
    monkeypatch.setattr(parquet, "CAP", 10_000_000)
    bomb = as_parquet(tmp_path / "b", [{"text": "x" * 50_000}] * 500)
    assert Path(bomb).stat().st_size < 100_000
    with pytest.raises(DataError, match=r"decodes to more than 10,000,000 bytes.*split the file"):
        load(bomb)


def _empty_parquet(path: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    return str(path)


SAFE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).filter(
    lambda t: not data_module.tables.blank(t)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(SAFE, min_size=1, max_size=6))
def test_csv_round_trip(texts: list[str], tmp_path: Path) -> None:
    rows = [{"id": f"i{i}", "text": t} for i, t in enumerate(texts)]
    assert one(as_csv(tmp_path / "t", rows)).documents.texts == tuple(texts)


# python-docs


def test_docstring_becomes_summary_and_prose() -> None:
    found = docstrings.split("""Return the ``Widget`` that is nearest to a given point.

    The search walks the tree from the root and keeps the best leaf that it has seen so far, which is
    fast where the tree is balanced, see :func:`pkg.balance`, and slow where it is one long chain of nodes.

    Parameters
    ----------
    point : tuple
        Where to begin looking.

    Examples
    --------
    >>> nearest((0, 0))
    'w'

    Notes
    -----
    Distances are compared squared.
    """)
    assert found is not None
    summary, prose = found
    assert summary == "Return the Widget that is nearest to a given point."
    assert prose.startswith("The search walks")
    assert prose.endswith(
        "see pkg.balance, and slow where it is one long chain of nodes. Distances are compared squared."
    )
    assert docstrings.split("Short one.\n\nToo little body.") is None
    assert docstrings.split("Only a summary of quite enough words here.") is None


def fake_package(root: Path) -> None:
    words = [
        "red",
        "green",
        "blue",
        "amber",
        "violet",
        "indigo",
        "copper",
        "silver",
        "golden",
        "ivory",
        "teal",
        "olive",
    ]
    words += ["navy", "plum", "coral", "crimson"]
    functions = []
    for i, w in enumerate(words):
        body = f"{w} " + " ".join(f"{w}{a}" for a in words) + f" and {w} " * 8
        functions.append(
            f'def paint_{w}(x):\n    """Paint the {w} wall of house number {i} again.\n\n    {body}\n    """\n'
        )
    functions += [
        f'def g{i}():\n    """Auto generated wrapper of the same call.\n\n    {f"w{i} " * 40}\n    """\n'
        for i in range(3)
    ]
    write(root / "paint.py", "raise RuntimeError('never imported')\n" + "\n".join(functions) + "\n" + functions[0])
    write(root / "tests" / "test_x.py", functions[0].replace("paint_red", "in_tests"))
    write(root / "broken.py", "def (")


def test_python_docs_are_parsed_deduplicated_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path / "src")
    monkeypatch.setattr(python_docs, "installed", lambda: {"house": (tmp_path / "src", "1.0")})
    monkeypatch.setattr(python_docs, "DOCUMENTS", 12)
    monkeypatch.setattr(python_docs, "QUERIES", 5)
    told: list[str] = []
    data = one("python-docs", progress=lambda what, done, total: told.append(what))
    assert (data.name, data.truth, len(data.documents), len(data.queries)) == ("python-docs", "judged", 12, 5)
    assert set(data.documents.labels) == {"house"}
    assert not any("Auto generated" in t for t in data.queries.texts)
    assert all(q not in t for q in data.queries.texts for t in data.documents.texts)
    assert any("documentation of house" in what for what in told)
    monkeypatch.setattr(python_docs, "read_package", None)  # the second time nothing is read again
    assert one("python-docs").fingerprint == data.fingerprint


def test_a_damaged_python_docs_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path / "src")
    monkeypatch.setattr(python_docs, "installed", lambda: {"house": (tmp_path / "src", "1.0")})
    before = one("python-docs")
    folder = next((tmp_path / "home" / "data").iterdir())
    write(folder / "corpus.jsonl", "{}")
    assert one("python-docs").fingerprint == before.fingerprint


def test_the_standard_library_gives_hundreds_of_documents() -> None:
    root, _ = python_docs.installed()[python_docs.STDLIB]
    docs = python_docs.distinct(list(python_docs.read_package("python", root / "asyncio")))
    docs += python_docs.distinct(list(python_docs.read_package("python", root / "concurrent")))
    assert len(docs) > 20
    assert all(len(d.body.split()) <= 150 and 5 <= len(d.summary.split()) <= 40 for d in docs)
