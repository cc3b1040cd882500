"""Encoder cuts through the command line, on tiny models: the contract, the formats, what is refused and why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.onnx_encoder import OnnxEncoder
from tests.test_cli import ROOT, TEXTS, Done, beir, here, lines, refused, write
from tests.tiny_models import tiny_model

HALF = "heads/magnitude ratio=0.5 | neurons/magnitude ratio=0.4 | dimensions/svd keep=16"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoder-shop")
    for architecture in ("bert", "mpnet", "static"):
        tiny_model(architecture, root / architecture)
    beir(root / "corpus")
    write(root / "other.jsonl", lines([{"id": f"o{i}", "text": f"red river {t}"} for i, t in enumerate(TEXTS[:40])]))
    return root


def prune(shop: Path, plan: str, *more: str, model: str = "bert") -> Done:
    named = ("--model", str(shop / model), "--data", str(shop / "corpus"))
    return here("prune", *named, "--plan", plan, "--draws", "2", *more, "--json")


@pytest.fixture(scope="module")
def plain(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("plain") / "model"
    return out, prune(shop, "layers/influence keep=1 | neurons/obs ratio=0.4", "--out", str(out)).answer


@pytest.fixture(scope="module")
def graph(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("graph") / "model"
    return out, prune(shop, HALF, "--out", str(out), "--format", "onnx").answer


def test_the_contract_holds_for_an_encoder_cut(plain: tuple[Path, dict[str, Any]]) -> None:
    _, answer = plain
    before, after = answer["before"], answer["after"]
    assert after["model"]["parameters"] < before["model"]["parameters"]
    assert after["model"]["neurons_per_layer"] == [40]  # 38.4 neurons are 38, which snap up to 40
    assert answer["rounded"] == ["neurons: 38 -> 40 (multiple of 8)"]
    assert answer["encoder"]["plain_reload"]
    assert answer["speedup"]["ideal"] == pytest.approx(1 / answer["speedup"]["flops_ratio"])
    assert answer["speedup"]["measured"] > 0
    assert before["cost"]["flops_per_token"] > after["cost"]["flops_per_token"]
    assert 0 < after["model"]["zipped_bytes"] < before["model"]["zipped_bytes"]
    assert answer["random_baseline"]["corpus"]["ndcg@10"]["draws"] == 2
    assert set(answer["drift"]) >= {"neighbour_overlap@10", "cosine", "cka"}
    assert any("calibrated on" in note and "tokens of corpus" in note for note in answer["notes"])


def test_the_plain_folder_is_loaded_by_whoever_has_sentence_transformers(plain: tuple[Path, dict[str, Any]]) -> None:
    out, answer = plain
    assert answer["export"]["reloaded_in_fresh_process"]
    assert answer["export"]["max_difference"] == 0.0
    config = json.loads((out / "config.json").read_text())
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (1, 40)
    assert not list(out.glob("espalier-shape.json")) + list(out.glob("espalier-derived.json"))
    code = (
        "import sys, logging\nfrom transformers import AutoModel\n"
        "_, said = AutoModel.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "assert not any(said[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), said\n"
    )
    subprocess.run([sys.executable, "-c", code, str(out)], check=True, cwd=ROOT, capture_output=True)


def test_onnx_carries_what_no_config_can_say(graph: tuple[Path, dict[str, Any]]) -> None:
    out, answer = graph
    assert not answer["encoder"]["plain_reload"]
    assert "cannot declare 2 heads of 4 alone" in answer["encoder"]["why"]
    assert answer["after"]["model"]["heads_per_layer"] == [2, 2]
    assert answer["export"]["max_difference"] <= 1e-5
    assert answer["speedup"]["engine"] == "onnxruntime"
    assert answer["after"]["model"]["bytes"] == (out / "onnx" / "model.onnx").stat().st_size
    vectors = OnnxEncoder(out).encode(TEXTS[:4])
    assert vectors.shape == (4, 16)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert "onnxruntime" in (out / "README.md").read_text()


def test_the_recipe_makes_the_same_model_again(graph: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, answer = graph
    again = here("run", str(out / "recipe.yaml"), "--out", str(tmp_path / "again"), "--json").answer
    assert again["resolved_plan"] == answer["resolved_plan"]
    assert again["after"]["quality"] == answer["after"]["quality"]
    assert (tmp_path / "again" / "onnx" / "model.onnx").read_bytes() == (out / "onnx" / "model.onnx").read_bytes()


def test_the_folder_is_opened_and_pruned_again(plain: tuple[Path, dict[str, Any]], shop: Path) -> None:
    out, answer = plain
    done = here("evaluate", "--model", str(out), "--data", str(shop / "corpus"), "--json").answer
    assert done["quality"]["corpus"] == pytest.approx(answer["after"]["quality"]["corpus"])


def test_ratio_nought_is_the_unpruned_model(shop: Path, tmp_path: Path) -> None:
    answer = prune(shop, "neurons/obs ratio=0.0", "--out", str(tmp_path / "same")).answer
    assert answer["after"]["quality"] == answer["before"]["quality"]
    assert answer["retention"]["corpus"]["ndcg@10"]["ratio"] == 1.0
    assert answer["export"]["max_difference"] == 0.0


def test_a_vocabulary_cut_tells_its_coverage(shop: Path) -> None:
    answer = prune(shop, "tokens/frequency ratio=0.2", model="static").answer
    told = answer["encoder"]["tokens"]
    assert set(told) >= {"texts_unchanged", "unk_rate", "tokens_per_word"}
    assert answer["after"]["model"]["vocabulary"] < answer["before"]["model"]["vocabulary"]


def test_a_vocabulary_sweep_of_a_static_model(shop: Path) -> None:
    named = ("--model", str(shop / "static"), "--data", str(shop / "corpus"))
    answer = here("sweep", *named, "--method", "tokens/frequency", "--ratios", "0,0.2", "--draws", "1", "--json").answer
    assert [p["ratio"] for p in answer["points"]] == [0.0, 0.2]


def test_a_recipe_knows_its_draws_and_its_data(shop: Path, tmp_path: Path) -> None:
    write(tmp_path / "shop.jsonl", (shop / "other.jsonl").read_text(encoding="utf-8"))
    named = ("--model", str(shop / "static"), "--data", str(tmp_path / "shop.jsonl"))
    plan = ("--plan", "tokens/frequency ratio=0.2", "--draws", "1", "--out", str(tmp_path / "out"), "--json")
    here("prune", *named, *plan)
    write(tmp_path / "shop.jsonl", lines([{"id": f"o{i}", "text": f"blue {t}"} for i, t in enumerate(TEXTS[:40])]))
    again = here("run", str(tmp_path / "out" / "recipe.yaml"), "--json").answer
    assert again["random_baseline"]["shop"]["ndcg@10"]["draws"] == 1
    assert [n for n in again["notes"] if "not those of the recipe: shop" in n]


def test_weights_that_a_penalty_emptied_are_kept(shop: Path) -> None:
    plan = "train/l1 target=neurons steps=40 strength=10 rate=0.1 | neurons/magnitude ratio=0.5"
    assert prune(shop, plan).answer["after"]["model"]["parameters"] > 0


def test_a_global_cut_says_how_many_it_kept(shop: Path) -> None:
    answer = prune(shop, "neurons/magnitude ratio=0.4 scope=global").answer
    kept = answer["after"]["model"]["neurons_per_layer"]
    assert all(n % 8 == 0 for n in kept)
    assert any(f"-> {sum(kept)} in all" in r for r in answer["rounded"]) or sum(kept) == 2 * 40


def test_zeros_are_called_zeros(shop: Path) -> None:
    answer = prune(shop, "weights/magnitude ratio=0.5 pattern=2:4").answer
    assert answer["after"]["model"]["parameters"] == answer["before"]["model"]["parameters"]
    assert answer["speedup"]["ideal"] == 1.0
    assert any("same size on disk, same speed" in note for note in answer["notes"])
    assert answer["after"]["model"]["zipped_bytes"] < answer["before"]["model"]["zipped_bytes"]


def test_other_calibration_texts_are_warned_of(shop: Path) -> None:
    answer = prune(shop, "neurons/obs ratio=0.5", "--fit-on", str(shop / "other.jsonl")).answer
    assert any(note.startswith("calibrated on other texts than corpus") for note in answer["notes"])


def test_sweep_judges_every_ratio_of_an_encoder_method(shop: Path) -> None:
    named = ("--model", str(shop / "bert"), "--data", str(shop / "corpus"))
    answer = here("sweep", *named, "--method", "neurons/taylor", "--ratios", "0,0.5", "--draws", "1", "--json").answer
    whole, half = answer["points"]
    assert (whole["kept"], half["kept"]) == (64, 32)
    assert set(half) >= {"ratio", "kept", "quality", "random", "drift", "vector_bytes"}
    assert whole["retention"]["corpus"]["ndcg@10"]["ratio"] == 1.0
    assert half["random"]["corpus"]["ndcg@10"] >= 0
    assert set(answer["seconds"]) >= {"rank", "curve"}


@pytest.mark.parametrize(
    ("plan", "model", "words"),
    [
        ("heads/obs ratio=0.5", "bert", ("2 heads of 8", "--format onnx")),
        ("neurons/taylor ratio=0.5 scope=global", "bert", ("scope=global", "--format onnx")),
        ("heads/obs keep=9", "bert", ("keep=9", "1..4")),
        ("width/variance keep=15", "bert", ("keep=15", "multiples of 8", "keep=8")),
        ("layers/subset keep=3", "bert", ("keep=3", "1..2")),
        ("neurons/obs ratio=0.5", "static", ("'static'", "tokens, dimensions")),
        ("weights/magnitude ratio=0.4 pattern=2:4", "bert", ("2:4", "ratio=0.5")),
        ("neurons/obs ratio=0.5 reconstruct=maybe", "bert", ("reconstruct=maybe", "least-squares")),
        ("neurons/obs", "bert", ("needs a cut",)),
        ("dimensions/svd keep=8 | neurons/obs ratio=0.5", "bert", ("order", "encoder steps")),
        ("weights/magnitude ratio=0.5 | neurons/obs ratio=0.5", "bert", ("zeros", "weights last")),
        ("neurons/best ratio=0.5", "bert", ("neurons/best", "neurons/obs")),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(
    shop: Path, tmp_path: Path, plan: str, model: str, words: tuple[str, ...]
) -> None:
    refused(prune(shop, plan, "--out", str(tmp_path / "x"), model=model), *words)
    assert not (tmp_path / "x").exists()
