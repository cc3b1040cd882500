"""The headless contract: keys, exit codes, and what stands on which stream. Scripts rely on every line here."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from core import commands, export, registry, vector_commands
from core.__main__ import main
from core.encoders import open_model
from core.errors import Cancelled, Fault
from core.export import folder_hash, proof
from core.store import check_manifest
from tests.tiny_models import WORDS, tiny_model

ROOT = Path(__file__).parents[1]
RETRIEVAL = {"ndcg@10", "recall@10", "recall@100", "mrr@10", "map@100"}
NAMED = (
    "random", "leading", "magnitude", "variance", "redundancy", "svd", "pca", "bilinear", "l1", "taylor",
    "sensitivity", "importance-sampling", "distilled", "contrastive",
)  # fmt: skip
TEXTS = [f"the {a} {b} on {WORDS[-1 - i]}" for i, a in enumerate(WORDS) for b in WORDS[3:7]]


# ---- running commands -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        """The one JSON object on standard output; NaN and infinities are refused."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1, "exactly one line"

        def refuse(word: str) -> None:
            pytest.fail(f"{word} in the answer")

        found = json.loads(self.out, parse_constant=refuse)
        assert isinstance(found, dict)
        return found


def here(*argv: str) -> Done:
    """A command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return Done(code, out.getvalue(), err.getvalue())


def apart(*argv: str) -> Done:
    """`python -m core ...` as a script would run it."""
    done = subprocess.run([sys.executable, "-m", "core", *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def refused(done: Done, *words: str) -> None:
    """Bad input: exit code 2, one line on standard error that names what is wrong, nothing on standard output."""
    assert (done.code, done.out) == (2, ""), done
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert done.err.endswith("\n")
    for word in words:
        assert word in done.err


# ---- tiny data ------------------------------------------------------------------------------------------------


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def beir(folder: Path, judged: str = "", split: str = "test") -> str:
    """60 documents with titles and 12 queries; query i asks for document i."""
    rows = [{"_id": f"d{i}", "title": f"{WORDS[i % 15]} {WORDS[i % 7]}", "text": t} for i, t in enumerate(TEXTS)]
    asked = [{"_id": f"q{i}", "text": " ".join(TEXTS[i].split()[1:3])} for i in range(0, 60, 5)]
    write(folder / "corpus.jsonl", lines(rows))
    write(folder / "queries.jsonl", lines(asked))
    judged = judged or "".join(f"q{i}\td{i}\t1\n" for i in range(0, 60, 5))
    write(folder / "qrels" / f"{split}.tsv", "query-id\tcorpus-id\tscore\n" + judged)
    return str(folder)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny static model of 32 dimensions (`model`) and one data set of every kind."""
    root = tmp_path_factory.mktemp("shop")
    tiny_model("static", root / "model")
    beir(root / "corpus")
    rows = [f"{i % 6}\t{a}\t{b}" for i, (a, b) in enumerate(zip(TEXTS, TEXTS[7:], strict=False))]
    write(root / "pairs.tsv", "score\tsentence1\tsentence2\n" + "\n".join(rows) + "\n")
    write(root / "labels.csv", "text,label\n" + "".join(f"{t},{'ab'['cat' in t]}\n" for t in TEXTS))
    write(root / "texts.csv", "id,text\n" + "".join(f"t{i},{t}\n" for i, t in enumerate(TEXTS)))
    write(root / "log.csv", "query\nred cat\nthe bird flew\nred cat\n")
    return root


Tiny = Callable[..., Done]


@pytest.fixture(scope="session")
def tiny(shop: Path) -> Tiny:
    """A command on the tiny model: `tiny("prune", "corpus", ...)`; data are names in the shop."""

    def call(command: str, data: str, *argv: str) -> Done:
        named = [word for name in data.split() for word in ("--data", str(shop / name))]
        return here(command, "--model", str(shop / "model"), *named, *argv, "--json")

    return call


SVD = ("--plan", "dimensions/svd keep=8")


# ---- the built-in model and sample ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sample_cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """MiniLM cut to 128 of 384 dimensions, judged on the sample, exported and proven: made once for all tests."""
    out = tmp_path_factory.mktemp("sample") / "cut"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "verify", functools.partial(export.verify, rounds=2))  # of 7, and 16 texts
        patch.setattr(proof, "_PROBES", 8)  # of 96: as real a proof in a third of the time
        done = here(
            "prune", "--data", "sample", "--plan", "dimensions/svd keep=128", "--rescore", "50", "--out", str(out),
            "--zip", "--json",
        )  # fmt: skip
    return out, done.answer


@pytest.fixture(scope="session")
def cut(sample_cut: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return sample_cut[1]


def test_prune_has_every_key_of_the_contract(cut: dict[str, Any]) -> None:
    assert {"plan", "resolved_plan", "seed", "before", "after", "retention", "random_baseline", "drift", "speedup",
            "rounded", "export", "data"} <= set(cut)  # fmt: skip
    assert (cut["plan"], cut["seed"], cut["rounded"]) == ("dimensions/svd keep=128", 0, [])
    for side in ("before", "after"):
        assert {"model", "quality", "cost"} <= set(cut[side])
        assert {"name", "architecture", "dimension", "parameters", "bytes", "fingerprint"} <= set(cut[side]["model"])
        assert {"vector_bytes", "encode_ms_batch1", "encode_texts_per_second", "flops_per_token"} <= set(
            cut[side]["cost"]
        )
        assert set(cut[side]["quality"]["sample"]) == RETRIEVAL
        assert set(cut[side]["quality"]["sample-pairs"]) == {"spearman"}
        assert all(v > 0 for v in cut[side]["cost"].values())
    assert set(cut["drift"]) >= {"neighbour_overlap@10", "cosine", "cka"}
    assert all(0 < v <= 1 for v in cut["drift"].values())
    assert {"measured", "ideal", "flops_ratio"} <= set(cut["speedup"])
    assert cut["speedup"]["measured"] > 0
    assert cut["speedup"]["ideal"] == cut["speedup"]["flops_ratio"] == 1.0, "a dimension cut saves no encoding"


def test_the_embedded_model_is_told_to_the_byte(cut: dict[str, Any]) -> None:
    before, after = cut["before"]["model"], cut["after"]["model"]
    assert (before["architecture"], before["dimension"]) == ("bert", 384)
    assert (before["parameters"], before["bytes"]) == (22_713_216, 90_868_376)
    assert before["fingerprint"] == open_model("minilm").fingerprint
    assert after["dimension"] == 128
    assert after["parameters"] == before["parameters"] + 384 * 128
    assert (cut["before"]["cost"]["vector_bytes"], cut["after"]["cost"]["vector_bytes"]) == (1536, 512)


def test_the_sample_is_described(cut: dict[str, Any]) -> None:
    retrieval, pairs = cut["data"]
    assert (retrieval["name"], retrieval["split"], retrieval["truth"]) == ("sample", "test", "judged")
    counted = [sum(1 for line in (ROOT / "assets/sample" / f).open() if line.strip())
               for f in ("corpus.jsonl", "queries.jsonl", "pairs.tsv")]  # fmt: skip
    assert [retrieval["documents"], retrieval["queries"], pairs["queries"] + 1] == counted
    assert (pairs["name"], pairs["truth"]) == ("sample-pairs", "scored")


def test_retention_is_a_ratio_with_its_bracket(cut: dict[str, Any]) -> None:
    for data in cut["data"]:
        measures = cut["retention"][data["name"]]
        assert set(measures) == set(cut["after"]["quality"][data["name"]])
        for measure, r in measures.items():
            assert {"ratio", "low", "high", "p_value", "queries"} <= set(r)
            assert r["low"] <= r["ratio"] <= r["high"]
            assert 0 < r["p_value"] <= 1
            assert r["queries"] == data["queries"]
            assert r["before"] == pytest.approx(cut["before"]["quality"][data["name"]][measure])
            assert r["after"] == pytest.approx(cut["after"]["quality"][data["name"]][measure])
            assert r["ratio"] == pytest.approx(r["after"] / r["before"])
            if data["kind"] == "retrieval":
                assert r["wins"] + r["ties"] + r["losses"] == r["queries"]


def test_random_pruning_of_the_same_size_stands_beside_it(cut: dict[str, Any]) -> None:
    assert {d: set(m) for d, m in cut["random_baseline"].items()} == {d: set(m) for d, m in cut["retention"].items()}
    for measures in cut["random_baseline"].values():
        for chance in measures.values():
            assert set(chance) == {"ratio", "std", "draws"}
            assert chance["draws"] == 5
            assert chance["std"] >= 0
    kept, chance = cut["retention"]["sample"]["ndcg@10"], cut["random_baseline"]["sample"]["ndcg@10"]
    assert kept["low"] > chance["ratio"] + chance["std"], "svd must beat chance at a third of the dimensions"
    assert kept["ratio"] > 0.94


def test_a_small_corpus_is_told_and_judged_outside_the_fit(cut: dict[str, Any]) -> None:
    assert any("fewer than 10 each" in note for note in cut["notes"])
    outside, inside = cut["outside_fit"]["sample"]["ndcg@10"], cut["retention"]["sample"]["ndcg@10"]
    assert (outside["before"], outside["queries"]) == (inside["before"], inside["queries"])
    assert outside["after"] != inside["after"]
    assert outside["low"] <= outside["ratio"] <= outside["high"]
    assert set(cut["outside_fit"]) == {"sample"}, "pairs are not retrieved"


def test_the_export_block_is_true(sample_cut: tuple[Path, dict[str, Any]]) -> None:
    out, answer = sample_cut
    told = answer["export"]
    assert {"path", "format", "bytes", "sha256", "reloaded_in_fresh_process", "max_difference"} <= set(told)
    assert (told["path"], told["format"]) == (str(out), "sentence-transformers")
    assert told["reloaded_in_fresh_process"] is True
    assert 0 <= told["max_difference"] <= 1e-5
    assert told["bytes"] == sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    assert told["sha256"] == folder_hash(out)
    check_manifest(out)
    again = open_model(str(out))
    assert (again.dimension, again.parameters) == (128, answer["after"]["model"]["parameters"])
    assert again.bytes == answer["after"]["model"]["bytes"]


def test_rescoring_the_sample_wins_back_what_the_cut_lost(cut: dict[str, Any]) -> None:
    two_stage, before = cut["two_stage"]["sample"], cut["before"]["quality"]["sample"]
    assert set(two_stage) == RETRIEVAL
    assert two_stage["ndcg@10"] == pytest.approx(before["ndcg@10"], abs=0.01)
    assert two_stage["ndcg@10"] > cut["after"]["quality"]["sample"]["ndcg@10"]


def test_the_recipe_replays_to_identical_figures(sample_cut: tuple[Path, dict[str, Any]]) -> None:
    out, answer = sample_cut
    again = here("run", str(out / "recipe.yaml"), "--json").answer
    for key in ("resolved_plan", "retention", "random_baseline", "outside_fit", "two_stage", "drift", "data", "notes"):
        assert again[key] == answer[key], key
    assert again["export"] is None


def test_nothing_removed_is_nothing_lost() -> None:
    answer = here("prune", "--data", "sample", "--plan", "dimensions/svd ratio=0", "--json").answer
    assert answer["after"]["quality"] == answer["before"]["quality"]
    assert answer["after"]["model"] == answer["before"]["model"]
    for measures in (*answer["retention"].values(), *answer["outside_fit"].values()):
        for r in measures.values():
            assert (r["ratio"], r["low"], r["high"], r["p_value"]) == (1.0, 1.0, 1.0, 1.0)
    for measures in answer["random_baseline"].values():
        assert all(chance["ratio"] == 1.0 for chance in measures.values())
    assert answer["drift"]["neighbour_overlap@10"] == 1.0
    assert answer["drift"]["cosine"] == pytest.approx(1.0, abs=1e-6)


def test_sweep_has_every_key_and_agrees_with_prune(cut: dict[str, Any]) -> None:
    answer = here("sweep", "--data", "sample", "--method", "dimensions/svd", "--json").answer
    assert set(answer["seconds"]) >= {"rank", "curve"}
    assert len(answer["points"]) == 24
    for i, point in enumerate(answer["points"]):
        assert {"ratio", "kept", "quality", "random", "drift", "vector_bytes"} <= set(point)
        assert point["ratio"] == pytest.approx(i / 24)
        assert point["kept"] == 384 - 16 * i
        assert point["vector_bytes"] == 4 * point["kept"]
        assert set(point["quality"]["sample"]) == set(point["random"]["sample"]) == RETRIEVAL
    first, at128 = answer["points"][0], answer["points"][16]
    for name, measures in cut["before"]["quality"].items():
        assert first["quality"][name] == pytest.approx(measures, abs=1e-9)
        assert first["random"][name] == pytest.approx(measures, abs=1e-9)
    for name, measures in cut["after"]["quality"].items():
        assert at128["quality"][name] == pytest.approx(measures, abs=2e-3)
        for m, chance in cut["random_baseline"][name].items():
            wanted = chance["ratio"] * cut["before"]["quality"][name][m]
            assert at128["random"][name][m] == pytest.approx(wanted, abs=2e-3)
    overlap = [p["drift"]["neighbour_overlap@10"] for p in answer["points"]]
    assert overlap[0] == 1.0
    assert overlap[16] == pytest.approx(cut["drift"]["neighbour_overlap@10"], abs=2e-3)
    assert answer["points"][16]["outside_fit"]["sample"]["ndcg@10"] == pytest.approx(
        cut["outside_fit"]["sample"]["ndcg@10"]["after"], abs=2e-3
    )


def test_a_cut_outside_what_there_is_is_refused_by_a_script() -> None:
    """After the model and the data were read, the message still stands alone on standard error."""
    refused(apart("prune", "--data", "sample", "--plan", "dimensions/svd keep=385", "--json"), "385", "384")


# ---- methods, evaluate, words ---------------------------------------------------------------------------------


def test_methods_lists_every_card() -> None:
    cards = apart("methods", "--json").answer["methods"]
    for card in cards:
        assert {"name", "target", "criterion", "label", "idea", "cost", "benefits", "limits", "options",
                "reference"} <= set(card)  # fmt: skip
        assert card["name"].split("/")[0] == card["target"]
        assert ({"ratio", "keep"} <= {o["name"] for o in card["options"]}) == registry.card(card["name"]).cuts
    assert {f"dimensions/{n}" for n in NAMED} <= {card["name"] for card in cards}
    assert len({card["name"] for card in cards}) == len(cards)


def test_methods_answers_at_once() -> None:
    heavy = {"torch", "sentence_transformers", "transformers", "sklearn", "umap", "pandas", "streamlit"}
    code = f"import sys; from core.__main__ import main; main(['methods']); assert not {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_evaluate_has_every_key_of_the_contract(tiny: Tiny, shop: Path) -> None:
    answer = tiny("evaluate", "corpus pairs.tsv labels.csv texts.csv").answer
    assert {"model", "data", "quality", "cost", "seconds"} <= set(answer)
    assert {"name", "architecture", "dimension", "parameters", "bytes", "fingerprint"} <= set(answer["model"])
    assert (answer["model"]["name"], answer["model"]["architecture"], answer["model"]["dimension"]) == (
        "model", "static", 32,
    )  # fmt: skip
    assert {"vector_bytes", "encode_ms_batch1", "encode_texts_per_second", "flops_per_token"} <= set(answer["cost"])
    assert answer["cost"]["vector_bytes"] == 128
    assert answer["cost"]["encode_texts_per_second"] > 0
    assert answer["seconds"] > 0
    assert [(d["name"], d["truth"]) for d in answer["data"]] == [
        ("corpus", "judged"), ("pairs", "scored"), ("labels", "labelled"), ("texts", "agreement"),
    ]  # fmt: skip
    assert {d: set(m) for d, m in answer["quality"].items()} == {
        "corpus": RETRIEVAL, "pairs": {"spearman"}, "labels": {"accuracy", "knn@10"}, "texts": RETRIEVAL,
    }  # fmt: skip
    assert all(set(d) >= {"name", "split", "documents", "queries", "truth"} for d in answer["data"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("prune", *SVD), ("dimensions/svd keep=8: 32 -> 8 dimensions", "ndcg@10", "kept", "random", "note:")),
        (("sweep", "--method", "dimensions/svd", "--ratios", "0,0.5"), ("ratio 0.500", "kept   16", "random")),
    ],
)
def test_without_json_the_answer_is_words(
    shop: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], words: tuple[str, ...]
) -> None:
    command, *rest = argv
    assert main([command, "--model", str(shop / "model"), "--data", str(shop / "corpus"), *rest]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "{" not in said.out
    assert "nan" not in said.out.lower()
    for word in words:
        assert word in said.out


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "core", "methods"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    said = child.stderr.read()
    child.stderr.close()
    assert (child.wait(), said) == (0, b"")


def test_help_explains_itself() -> None:
    done = apart("--help")
    assert done.code == 0
    assert all(word in done.out for word in ("methods", "evaluate", "prune", "sweep", "run"))
    assert "--fit-on" in apart("prune", "--help").out


def test_a_script_gets_json_and_nothing_else(shop: Path, tmp_path: Path) -> None:
    """In a process of its own with an empty cache, so that everything is loaded and embedded anew."""
    done = apart(
        "prune", "--model", str(shop / "model"), "--data", str(shop / "corpus"), *SVD, "--json", "--cache",
        str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.answer["after"]["model"]["dimension"] == 8
    assert "Traceback" not in done.err
    assert {"embeddings", "models", "cache"} <= {p.name for p in (tmp_path / "cache").iterdir()}


# ---- kinds of data --------------------------------------------------------------------------------------------


def test_data_may_stand_several_times(tiny: Tiny) -> None:
    answer = tiny("prune", "corpus pairs.tsv labels.csv texts.csv", *SVD).answer
    for block in (answer["retention"], answer["random_baseline"], answer["before"]["quality"]):
        assert list(block) == ["corpus", "pairs", "labels", "texts"]
    assert set(answer["outside_fit"]) == {"corpus", "texts"}
    alone = tiny("prune", "pairs.tsv", *SVD).answer
    assert alone["before"]["quality"]["pairs"] == answer["before"]["quality"]["pairs"]


def test_pairs_give_spearman(tiny: Tiny) -> None:
    from scipy.stats import spearmanr

    from core.bench import prepare

    answer = tiny("prune", "pairs.tsv", *SVD).answer
    assert answer["data"][0]["truth"] == "scored"
    assert {m for d in answer["retention"].values() for m in d} == {"spearman"}
    shop = Path(answer["before"]["model"]["source"]).parent
    (judge,) = prepare(str(shop / "model"), [str(shop / "pairs.tsv")]).judges
    scores = np.round((judge.documents.vectors * judge.queries.vectors).sum(axis=1, dtype=np.float64), 6)
    wanted = spearmanr(scores, judge.dataset.scores).statistic
    assert answer["before"]["quality"]["pairs"]["spearman"] == pytest.approx(wanted, abs=1e-6)


def test_labels_give_accuracy(tiny: Tiny) -> None:
    answer = tiny("prune", "labels.csv", *SVD).answer
    (data,) = answer["data"]
    assert (data["truth"], data["documents"] + data["queries"]) == ("labelled", len(TEXTS))
    assert 0.5 < answer["before"]["quality"]["labels"]["accuracy"] <= 1
    assert answer["retention"]["labels"]["accuracy"]["queries"] == data["queries"]


def test_agreement_is_never_called_accuracy(tiny: Tiny) -> None:
    done = tiny("prune", "texts.csv", *SVD)
    answer = done.answer
    (data,) = answer["data"]
    assert (data["truth"], data["documents"], data["queries"]) == ("agreement", 60, 12)
    assert answer["before"]["quality"]["texts"] == dict.fromkeys(RETRIEVAL, 1.0), "it agrees with itself"
    assert answer["after"]["quality"]["texts"]["ndcg@10"] < 1
    assert "accuracy" not in done.out
    assert answer["fit_documents"] == 48, "what asks is not learned from"
    assert any("12 of 60 documents ask" in note for note in answer["notes"])


def test_a_query_log_asks_instead(tiny: Tiny, shop: Path) -> None:
    answer = tiny("prune", "texts.csv", *SVD, "--queries", str(shop / "log.csv")).answer
    (data,) = answer["data"]
    assert (data["truth"], data["documents"], data["queries"]) == ("agreement", 60, 2)
    assert answer["fit_documents"] == 60
    assert any("asked again" in note for note in answer["notes"])


# ---- options --------------------------------------------------------------------------------------------------


def test_fit_on_names_what_is_learned_from(tiny: Tiny, shop: Path) -> None:
    inside = tiny("prune", "corpus", *SVD).answer
    assert (inside["fit_on"], inside["fit_documents"]) == (["corpus"], 60)
    assert inside["outside_fit"]
    others = ("--fit-on", str(shop / "pairs.tsv"), "--fit-on", str(shop / "labels.csv"))
    answer = tiny("prune", "corpus", *SVD, *others).answer
    assert answer["fit_on"] == ["pairs", "labels"]
    assert answer["fit_documents"] == len(set(TEXTS)), "both sentences of pairs, each text once"
    assert answer["outside_fit"] == {}, "nothing that is judged was learned from"
    assert answer["before"]["quality"] == inside["before"]["quality"]
    assert answer["after"]["quality"] != inside["after"]["quality"]


def test_judgements_are_never_learned_from(tiny: Tiny, shop: Path, tmp_path: Path) -> None:
    """Other judgements of the same texts: another quality, the same cut."""
    other = beir(tmp_path / "other", "".join(f"q{i}\td{(i + 1) % 60}\t1\n" for i in range(0, 60, 5)))
    vectors = []
    for name, data in (("one", str(shop / "corpus")), ("two", other)):
        out = tmp_path / name
        argv = ("--model", str(shop / "model"), "--data", data, *SVD, "--format", "vectors", "--out", str(out))
        here("prune", *argv, "--json").answer  # noqa: B018
        vectors.append((out / "documents.npy").read_bytes())
    assert vectors[0] == vectors[1]


def test_a_shortlist_of_everything_is_the_unpruned_ranking(tiny: Tiny) -> None:
    answer = tiny("prune", "corpus texts.csv pairs.tsv", *SVD, "--rescore", "60").answer
    assert set(answer["two_stage"]) == {"corpus", "texts"}, "pairs have no search to rescore"
    for name, figures in answer["two_stage"].items():
        assert figures == pytest.approx(answer["before"]["quality"][name])
    short = tiny("prune", "corpus", *SVD, "--rescore", "1").answer["two_stage"]["corpus"]
    assert short["recall@10"] <= 1.0
    assert short["recall@100"] == short["recall@10"], "what is not on the shortlist is not found"
    assert tiny("prune", "corpus", *SVD).answer["two_stage"] == {}


def test_limit_takes_a_seeded_sample_and_says_so(tiny: Tiny) -> None:
    def limited(seed: int) -> dict[str, Any]:
        return tiny("prune", "corpus", *SVD, "--limit", "30", "--seed", str(seed)).answer

    first, again, other = limited(0), limited(0), limited(1)
    assert first["data"][0]["documents"] == 30
    assert any("sample of 30 of 60 documents, seed 0" in note for note in first["notes"])
    assert first["retention"] == again["retention"]
    assert any("seed 1" in note for note in other["notes"])
    assert other["before"]["quality"] != first["before"]["quality"]
    assert not any("sample of" in note for note in tiny("prune", "corpus", *SVD, "--limit", "999").answer["notes"])


def test_the_seed_fills_in_where_none_is_written(tiny: Tiny) -> None:
    def drawn(seed: str, written: str = "") -> dict[str, Any]:
        return tiny("prune", "corpus", "--plan", f"dimensions/random keep=8{written}", "--seed", seed).answer

    first, again, other, written = drawn("3"), drawn("3"), drawn("4"), drawn("4", " seed=3")
    assert first["seed"] == 3
    assert first["resolved_plan"] == "dimensions/random keep=8 seed=3" == written["resolved_plan"]
    assert first["after"]["quality"] == again["after"]["quality"] == written["after"]["quality"]
    assert first["after"]["quality"] != other["after"]["quality"]
    assert first["random_baseline"] == other["random_baseline"], "the five draws are always the same"
    assert set(first["seed_spread"]) == {"corpus"}


def test_the_resolved_plan_writes_every_option_out(tiny: Tiny) -> None:
    answer = tiny("prune", "corpus", "--plan", "dimensions/redundancy ratio=0.5").answer
    assert answer["plan"] == "dimensions/redundancy ratio=0.5"
    assert answer["resolved_plan"] == "dimensions/redundancy ratio=0.5 ridge=0.01"
    assert answer["after"]["model"]["dimension"] == 16


def test_sweep_takes_ratios_and_options(tiny: Tiny) -> None:
    answer = tiny("sweep", "corpus", "--method", "dimensions/redundancy ridge=1.0", "--ratios", "0.9,0,0.25").answer
    assert [(p["ratio"], p["kept"]) for p in answer["points"]] == [(0.9, 3), (0.0, 32), (0.25, 24)]


def test_another_split_is_judged_on_other_queries(shop: Path, tmp_path: Path) -> None:
    folder = beir(tmp_path / "two", "q0\td0\t1\nq5\td5\t1\n", "dev")
    argv = ("--model", str(shop / "model"), "--data", folder, *SVD, "--split", "dev", "--json")
    (data,) = here("prune", *argv).answer["data"]
    assert (data["split"], data["queries"]) == ("dev", 2)


def test_embed_fills_the_cache(tiny: Tiny) -> None:
    answer = tiny("embed", "corpus").answer
    assert answer["data"][0]["documents"] == 60


# ---- degenerate data: not defined, never NaN ------------------------------------------------------------------


def test_one_text_is_evaluated_as_not_defined_and_not_pruned(tiny: Tiny, shop: Path) -> None:
    write(shop / "one.csv", "text\nthe cat sat\n")
    refused(tiny("prune", "one.csv", *SVD), "two texts", "--fit-on")
    refused(tiny("sweep", "one.csv", "--method", "dimensions/svd"), "two texts", "--fit-on")
    answer = tiny("prune", "one.csv", *SVD, "--fit-on", str(shop / "texts.csv")).answer
    assert set(answer["retention"]["one"]) == RETRIEVAL
    assert all(r["ratio"] is None for r in answer["retention"]["one"].values())
    assert answer["drift"]["neighbour_overlap@10"] is None


@pytest.mark.parametrize("method", ["svd", "pca", "random", "magnitude", "variance", "redundancy", "bilinear"])
@pytest.mark.parametrize(
    "rows", [["the cat sat"] * 30, ["zzz"] * 20 + ["qqq"] * 20, ["cat", "dog"], [f"{w} {w}" for w in WORDS[:8]]]
)
def test_few_or_equal_texts_are_survived(tiny: Tiny, shop: Path, method: str, rows: list[str]) -> None:
    write(shop / "few.csv", "text\n" + "\n".join(rows) + "\n")
    answer = tiny("prune", "few.csv", "--plan", f"dimensions/{method} keep=4").answer
    assert answer["after"]["model"]["dimension"] == 4
    assert "neighbour_overlap@10" in answer["drift"]
    assert tiny("sweep", "few.csv", "--method", f"dimensions/{method}", "--ratios", "0,0.5").answer["points"]


def test_constant_scores_are_not_defined(tiny: Tiny, shop: Path) -> None:
    write(shop / "constant.tsv", "score\tsentence1\tsentence2\n" + "".join(f"3\t{t}\tcat\n" for t in TEXTS[:9]))
    answer = tiny("prune", "constant.tsv", *SVD).answer
    assert answer["before"]["quality"]["constant"] == {"spearman": None}
    assert answer["retention"]["constant"]["spearman"]["ratio"] is None


# ---- bad input ------------------------------------------------------------------------------------------------


PLANS = [
    ("dimensions/nope keep=8", "dimensions/nope", "dimensions/svd"),
    ("nothing/svd keep=8", "nothing/svd", "dimensions/svd"),
    ("dimensions/svd ratio=1", "ratio=1", "[0, 1)"),
    ("dimensions/svd ratio=-0.1", "ratio=-0.1", "[0, 1)"),
    ("dimensions/svd ratio=nan", "ratio=nan", "[0, 1)"),
    ("dimensions/svd ratio=half", "ratio=half", "0.5"),
    ("dimensions/svd keep=0", "keep=0"),
    ("dimensions/svd keep=33", "keep=33", "32"),
    ("dimensions/svd keep=1.5", "keep=1.5"),
    ("dimensions/svd ratio=0.5 keep=8", "both"),
    ("dimensions/svd", "needs a cut", "ratio=0.5"),
    ("dimensions/svd keep=8 colour=red", "colour", "ratio, keep"),
    ("dimensions/redundancy keep=8 ridge=99", "ridge=99", "1e-06..10.0"),
    ("dimensions/redundancy keep=8 ridge=much", "ridge='much'", "a number"),
    ("dimensions/svd keep 8", "'keep'", "key=value"),
    ("dimensions/svd keep=8 keep=9", "twice"),
    ("dimensions/svd keep=8 | dimensions/pca keep=4", "two dimension cuts"),
    ("iterate(dimensions/svd keep=8) rounds=2", "iterate"),
    ("iterate(dimensions/svd keep=8", "parentheses"),
    ("", "empty"),
    ("|", "cannot read"),
    ("dimensions/bilinear keep=8 mix=2", "mix=2"),
    ("dimensions/random keep=8 seed=-1", "seed=-1"),
]


@pytest.mark.parametrize("row", PLANS, ids=[row[0] for row in PLANS])
def test_a_bad_plan_is_refused(tiny: Tiny, row: tuple[str, ...]) -> None:
    plan, *words = row
    refused(tiny("prune", "corpus", "--plan", plan), *words)


FILES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "empty.csv": ("", ("empty.csv", "no rows")),
    "header.csv": ("id,text\n", ("header.csv", "no rows")),
    "quote.csv": ('text\nfine\n"never closed\n', ("quote.csv, line 3", "never closed")),
    "ragged.csv": ("id,text\n1,a\n2,b,c\n", ("ragged.csv, line 3", "3 cells")),
    "double.csv": ("id,text\n1,a\n1,b\n", ("double.csv, line 3", "duplicate id")),
    "latin.csv": ("text\ncaf\xe9\n".encode("latin-1"), ("latin.csv, line 2", "UTF-8")),
    "wide.csv": ("text\nwide\n".encode("utf-16"), ("wide.csv", "UTF-16")),
    "nul.csv": (b"text\na\0b\n", ("nul.csv, line 2", "NUL")),
    "word.tsv": ("score\tsentence1\tsentence2\nhigh\ta\tb\n", ("word.tsv, line 2", "'high'")),
    "number.jsonl": ('{"text": "a"}\n{"text": 5}\n', ("number.jsonl, line 2", "number")),
    "broken.jsonl": ('{"text": "a"}\n{"text": \n', ("broken.jsonl, line 2", "JSON")),
    "some.docx": ("x", ("some.docx", ".csv")),
    "fake.parquet": ("not parquet", ("fake.parquet",)),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_refused_with_its_line(tiny: Tiny, shop: Path, name: str) -> None:
    content, words = FILES[name]
    write(shop / name, content)
    refused(tiny("prune", name, *SVD), *words)
    refused(tiny("evaluate", name), *words)
    refused(tiny("sweep", name, "--method", "dimensions/svd"), *words)


def test_a_bad_folder_is_refused(tiny: Tiny, shop: Path) -> None:
    (shop / "void").mkdir(exist_ok=True)
    refused(tiny("prune", "void", *SVD), "void", "corpus.jsonl")
    refused(tiny("prune", "nowhere", *SVD), "nowhere", "sample")
    beir(shop / "strangers", "".join(f"x{i}\ty{i}\t1\n" for i in range(4)))
    refused(tiny("prune", "strangers", *SVD), "4 of 4 judgements", "belong together")
    beir(shop / "zeros", "q0\td0\t0\n")
    refused(tiny("prune", "zeros", *SVD), "no query has a relevant document")


OPTIONS = [
    (("--limit", "0"), ("0",)),
    (("--limit", "ten"), ("--limit", "'ten'")),
    (("--seed", "-1"), ("-1",)),
    (("--seed", "x"), ("--seed", "'x'")),
    (("--seed", "1.5"), ("--seed", "'1.5' is no whole number")),
    (("--rescore", "-1"), ("-1", "shortlist")),
    (("--rescore", "1.5"), ("--rescore", "'1.5'")),
    (("--split", "train"), ("'train'", "test")),
    (("--fit-on", "nowhere.csv"), ("nowhere.csv",)),
    (("--format", "onnx2"), ("onnx2", "sentence-transformers", "vectors")),
    (("--model", "./nowhere"), ("./nowhere", "minilm")),
    (("--model", "a/b/c"), ("a/b/c", "owner/name")),
    (("--colour", "red"), ("--colour",)),
    (("--zip",), ("--zip", "--out")),
    *(((option, ""), (option, "'' names nothing")) for option in ("--model", "--data", "--out", "--cache")),
    (("--plan", "dimensions/contrastive keep=8", "--data", "FEW", "--fit-on", "FEW"), ("at least 50", "distilled")),
]


@pytest.mark.parametrize(("argv", "words"), OPTIONS, ids=[" ".join(argv) for argv, _ in OPTIONS])
def test_a_bad_option_is_refused(tiny: Tiny, shop: Path, argv: tuple[str, ...], words: tuple[str, ...]) -> None:
    few = write(shop / "few.csv", "text\n" + "\n".join(TEXTS[:9]) + "\n")
    refused(tiny("prune", "corpus", *SVD, *(few if word == "FEW" else word for word in argv)), *words)


NAMES = {
    "long": ("x" * 300, "too long"),
    "long below a folder that is missing": ("missing/" + "x" * 300, "too long"),
    "long in bytes": ("\N{CAT FACE}" * 70, "too long"),
    "deep": ("a/" * 3000, "too long"),
    "of nobody": ("~nobody-here/x", "write the path in full"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_that_no_file_can_have_is_refused(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    name, word = NAMES[kind]
    npy, plan = tmp_path / "v.npy", ("--plan", "dimensions/svd keep=2")
    np.save(npy, np.eye(8, dtype=np.float32))
    for option in ("--model", "--data", "--fit-on", "--queries", "--out", "--cache"):
        refused(tiny("prune", "corpus", *SVD, option, name), option, word)
    for option in ("--in", "--queries", "--judge", "--out"):
        for suffix in (".npy", ".db#c"):
            refused(here("vectors", "prune", "--in", str(npy), *plan, option, name + suffix), option, word)
    refused(here("vectors", "copy", "--in", str(npy), "--out", f"{name}.txt"), "--out", word)
    refused(here("vectors", "collections", "--in", f"{name}.db"), "--in", word)
    refused(here("run", name), "RECIPE", word)


def test_what_stands_beside_the_longest_name_has_room(tmp_path: Path) -> None:
    """A name of 230 bytes is taken, what goes beside it can be written, and what was half written before goes."""
    npy, out = tmp_path / "v.npy", tmp_path / ("y" * 226 + ".npy")
    np.save(npy, np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32))
    argv = ("vectors", "prune", "--in", str(npy), "--plan", "dimensions/svd keep=2", "--json", "--out")
    with subprocess.Popen(["true"]) as gone:  # killed while it wrote
        left = [tmp_path / f".{'y' * 50}.{gone.pid}-{n}0123abc.tmp" for n in range(2)]
    for path in left:
        path.write_bytes(b"half")
    assert here(*argv, str(out)).answer["export"]["projection"] == str(tmp_path / ("y" * 226 + ".projection.npz"))
    assert not [p for p in left if p.exists()]
    refused(here(*argv, str(tmp_path / ("y" * 227 + ".npy"))), "231 bytes, 230 at most")


def test_vectors_that_cannot_be_written_are_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_commands, "open_bench", lambda *_, **__: pytest.fail("the work has begun"))
    npy, plan = tmp_path / "v.npy", ("--plan", "dimensions/svd keep=2")
    np.save(npy, np.eye(8, dtype=np.float32))
    (tmp_path / "folder.npy").mkdir()
    for argv, word in (
        (("/proc/e.npy",), "cannot write"),
        ((str(tmp_path / "folder.npy"),), "no export of ours"),
        ((str(tmp_path / "e.TXT"), "--dtype", "float16"), "--dtype float16: a .TXT cannot hold it"),
    ):
        refused(here("vectors", "prune", "--in", str(npy), *plan, "--out", *argv), word)
    refused(here("vectors", "copy", "--in", str(npy), "--out", "/proc/e.npy"), "cannot write")


def test_a_query_log_that_is_not_there_is_refused(tiny: Tiny) -> None:
    refused(tiny("prune", "texts.csv", *SVD, "--queries", "nolog.csv"), "nolog.csv")


def test_a_model_that_is_none_is_refused(tiny: Tiny, shop: Path) -> None:
    refused(tiny("prune", "corpus", *SVD, "--model", str(shop / "texts.csv")), "texts.csv", "folder")
    refused(tiny("prune", "corpus", *SVD, "--model", str(shop / "corpus")), "corpus", "modules.json")


SWEEPS = [
    (("--method", "dimensions/nope"), ("dimensions/nope",)),
    (("--method", "dimensions/svd keep=8"), ("without a cut",)),
    (("--method", "dimensions/svd | dimensions/pca"), ("one method",)),
    (("--method", "dimensions/svd", "--ratios", "0,1"), ("0,1", "[0, 1)")),
    (("--method", "dimensions/svd", "--ratios", "0,nan"), ("nan", "[0, 1)")),
    (("--method", "dimensions/svd", "--ratios=-0.5,0"), ("-0.5", "[0, 1)")),
    (("--method", "dimensions/svd", "--ratios", "0;0.5"), ("0;0.5", "commas")),
    (("--method", "dimensions/svd", "--ratios", ""), ("--ratios", "commas")),
    ((), ("--method",)),
]


@pytest.mark.parametrize(("argv", "words"), SWEEPS, ids=[" ".join(argv) or "none" for argv, _ in SWEEPS])
def test_a_bad_sweep_is_refused(tiny: Tiny, argv: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(tiny("sweep", "corpus", *argv), *words)


DESTINATIONS = ["model", "model/below", "texts.csv", "texts.csv/below", "corpus", ".", "model/../model", "x" * 300]


@pytest.mark.parametrize("place", DESTINATIONS)
def test_a_bad_destination_is_refused_before_the_work(
    tiny: Tiny, shop: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(commands, "prepare", lambda *_, **__: pytest.fail("the work has begun"))
    before = sorted((p, p.stat().st_mtime_ns) for p in shop.rglob("*") if p.is_file())
    refused(tiny("prune", "corpus", *SVD, "--out", str(shop / place)), "--out")
    assert sorted((p, p.stat().st_mtime_ns) for p in shop.rglob("*") if p.is_file()) == before


def test_two_maps_fit_no_model_and_leave_nothing(tiny: Tiny, shop: Path) -> None:
    done = tiny("prune", "corpus", "--plan", "dimensions/bilinear keep=8", "--out", str(shop / "two-maps"))
    refused(done, "--format vectors")
    assert not [p for p in shop.iterdir() if "two-maps" in p.name]


RECIPES = {
    "not there": (None, ("cannot be read",)),
    "no YAML": ("a: [1,\n", ("no YAML",)),
    "not text": (b"\xff\xfe\x00", ("no YAML",)),
    "a list": ("- 1\n", ("not one of ours",)),
    "not ours": ("plan: dimensions/svd keep=8\n", ("not one of ours",)),
    "another version": ("espalier: 2\nplan: dimensions/svd keep=8\n", ("not one of ours",)),
    "bad plan": ({"plan": "dimensions/nope keep=8"}, ("dimensions/nope",)),
    "bad seed": ({"seed": "x"}, ("seed='x'",)),
    "bad limit": ({"limit": "ten"}, ("limit='ten'",)),
    "bad rescore": ({"rescore": [1]}, ("rescore=[1]",)),
    "bad format": ({"format": "onnx2"}, ("onnx2", "vectors")),
    "bad data": ({"data": ["nowhere"]}, ("nowhere",)),
    "bad model": ({"model": "./nowhere"}, ("./nowhere",)),
    "a model of nobody": ({"model": "~nobody-here/x"}, ("~nobody-here/x", "in full")),
    "a long name": ({"data": ["x" * 300]}, ("300 bytes",)),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe_is_refused(shop: Path, tmp_path: Path, name: str) -> None:
    content, words = RECIPES[name]
    good = {"espalier": 1, "model": str(shop / "model"), "data": [str(shop / "corpus")], "plan": SVD[1], "seed": 0}
    if isinstance(content, dict):
        content = yaml.safe_dump(good | content)
    if content is not None:
        write(tmp_path / "recipe.yaml", content)
    refused(here("run", str(tmp_path / "recipe.yaml"), "--json"), *words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), ("COMMAND",)),
        (("nope",), ("nope", "prune")),
        (("prune",), ("--data", "--plan")),
        (("prune", "--data", "sample"), ("--plan",)),
        (("run",), ("RECIPE",)),
    ],
)
def test_a_bad_command_line_is_refused(argv: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(here(*argv), *words, "--help")


def test_bad_input_in_a_process_of_its_own(tmp_path: Path) -> None:
    refused(apart("prune", "--data", "sample", "--plan", "dimensions/nope keep=8", "--json"), "dimensions/nope")
    refused(apart("prune", "--data", str(tmp_path / "nowhere"), *SVD, "--json"), "nowhere")
    refused(apart("nope"), "nope")


# ---- faults of ours -------------------------------------------------------------------------------------------


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], Done]:
    """`methods`, made to raise."""

    def call(error: BaseException) -> Done:
        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setitem(commands._COMMANDS, "methods", fail)
        return here("methods", "--json")

    return call


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (Fault("the reopened model\ndiffers"), 1, "the reopened model differs"),
        (MemoryError(), 1, "--limit"),
        (KeyboardInterrupt(), 130, "cancelled"),
        (Cancelled(), 2, "cancelled"),
    ],
)
def test_a_fault_of_ours_is_one_line_too(
    breaking: Callable[[BaseException], Done], error: BaseException, code: int, word: str
) -> None:
    done = breaking(error)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert word in done.err


def test_sigterm_clears_away_what_was_begun(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    argv = ("prune", "--model", str(shop / "model"), "--data", str(shop / "corpus"), *SVD, "--out", str(out))
    with subprocess.Popen([sys.executable, "-m", "core", *argv], cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        while child.poll() is None and not list(tmp_path.glob(".e.*/modules.json")):
            time.sleep(0.01)
        child.terminate()
        assert (child.communicate()[1], child.returncode) == ("error: ended by SIGTERM\n", 143)
    assert not list(tmp_path.iterdir())


def test_no_command_leaves_a_partial_behind(tiny: Tiny, shop: Path) -> None:
    tiny("prune", "corpus", *SVD, "--format", "vectors", "--out", str(shop / "tidy")).answer  # noqa: B018
    home = Path(os.environ["ESPALIER_HOME"])
    assert not [p for root in (home, shop) for p in root.rglob(".*") if p.suffix in (".tmp", ".old")]
