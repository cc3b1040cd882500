"""ONNX folders: the same vectors as torch for every architecture and shape, in batches and alone, without torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.anatomy import Anatomy, duplicate
from core.embedding import encode, load
from core.encoders import open_model
from core.errors import Fault, InputError, ModelRefused
from core.export import onnx_folder
from core.export.onnx_folder import time_onnx, verify_onnx, write_onnx
from core.onnx_encoder import GRAPH, SETTINGS, OnnxEncoder
from core.surgery.slicing import cut_heads, cut_layers, cut_neurons, cut_width
from tests.tiny_models import ARCHITECTURES, POSITIONS, WIDTH, tiny_model

LONG = "the red bird flew over the river " * 40
TEXTS = [
    "cat", "", "the cat sat on the mat", "a dog ran under the red tree", "zebra! q w e r t y", "   ", LONG,
    "é 漢字 \ud800 \x00", "The CAT sat.",
]  # fmt: skip
ROOT = Path(__file__).parents[1]
FRESH = ROOT / "core" / "export" / "fresh_onnx.py"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A tiny encoder that the test may change."""
    root = tmp_path_factory.mktemp("models")

    def get(architecture: str, extras: bool = False) -> Any:
        folder = root / f"{architecture}-{extras}"
        if not folder.exists():
            tiny_model(architecture, folder, extras=extras)
        return duplicate(load(folder))

    return get


def exported(encoder: Any, folder: Path) -> Path:
    write_onnx(encoder, folder)
    return folder


def run_script(folder: Path, texts: Sequence[str], cwd: Path) -> Any:
    """What the folder's embed.py prints, in a process that would fail to import torch or anything of ours."""
    (cwd / "torch.py").write_text("raise ImportError('no torch here')")
    (cwd / "core.py").write_text("raise ImportError('nothing of Espalier here')")
    done = subprocess.run(
        [sys.executable, folder / "embed.py", *texts],
        cwd=cwd, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(cwd)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return np.array([line.split() for line in done.stdout.splitlines()], np.float32)


# ---- the same vectors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_as_it_is(architecture: str, models: Callable[..., Any], tmp_path: Path) -> None:
    encoder = models(architecture)
    folder = exported(encoder, tmp_path)
    assert verify_onnx(encoder, folder, TEXTS) <= 1e-6
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names >= {GRAPH, SETTINGS, "tokenizer.json", "tokenizer_config.json", "config.json", "embed.py"}
    assert [p for p in names if p.startswith("onnx/")] == [GRAPH]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_uneven(architecture: str, models: Callable[..., Any], tmp_path: Path) -> None:
    """Heads alone, and in every layer another number of neurons: no stock config can say it, the graph can."""
    encoder = models(architecture)
    view = Anatomy(encoder)
    cut_heads(view, None if view.shared_heads else 0, [1, 3])
    cut_neurons(view, 0, range(24))
    cut_neurons(view, 1, range(5, 45))
    assert not view.shape.even
    assert view.shape.inner == (24, 40)
    folder = exported(encoder, tmp_path)
    assert verify_onnx(encoder, folder, TEXTS) <= 1e-6
    dense = encode(models(architecture), TEXTS)
    assert np.abs(OnnxEncoder(folder).encode(TEXTS) - dense).max() > 1e-3, "the cut is not in the graph"


def test_extras_prompts_width_and_layers(models: Callable[..., Any], tmp_path: Path) -> None:
    encoder = models("bert", extras=True)
    cut_layers(Anatomy(encoder), [1])
    folder = exported(encoder, tmp_path / "layers")
    assert verify_onnx(encoder, folder, TEXTS, prompt="the ") <= 1e-6
    settings = json.loads((folder / SETTINGS).read_text())
    assert settings["prompts"] == {"query": "the ", "document": ""}
    assert (settings["dimension"], settings["metric"], settings["precision"]) == (16, "cosine", "fp32")
    opened = OnnxEncoder(folder)
    assert opened.session.get_outputs()[0].shape == ["batch", 16]
    assert np.abs(opened.encode(["cat"], "the ") - opened.encode(["the cat"])).max() == 0
    assert np.abs(opened.encode(["cat"], "the ") - opened.encode(["cat"])).max() > 1e-4
    narrow = models("bert")
    cut_heads(Anatomy(narrow), None, [0, 1])
    cut_width(Anatomy(narrow), range(16))
    assert verify_onnx(narrow, exported(narrow, tmp_path / "width"), TEXTS) <= 1e-6


MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def test_every_pooling_then_dense_with_residual_and_tanh(models: Callable[..., Any], tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from torch import manual_seed

    manual_seed(3)
    first = models("distilbert")[0]
    pooling = modules.Pooling(WIDTH, MODES)
    wide = len(MODES) * WIDTH
    dense = modules.Dense(wide, 24, use_residual=True)
    encoder = SentenceTransformer(modules=[first, pooling, dense], device="cpu", similarity_fn_name="dot").eval()
    folder = exported(encoder, tmp_path)
    assert verify_onnx(encoder, folder, TEXTS) <= 1e-6
    assert json.loads((folder / SETTINGS).read_text())["metric"] == "dot"


def test_a_truncated_vector_and_a_default_prompt(models: Callable[..., Any], tmp_path: Path) -> None:
    encoder = models("bert")
    encoder.truncate_dim = 12
    encoder.prompts, encoder.default_prompt_name = {"passage": 'the "red"\n '}, "passage"
    folder = exported(encoder, tmp_path / "model")
    assert OnnxEncoder(folder).dimension == 12
    assert verify_onnx(encoder, folder, TEXTS) <= 1e-6
    assert np.abs(run_script(folder, ["cat"], tmp_path) - encoder.encode(["cat"])).max() <= 1e-6


def test_left_padding_and_a_sliding_window(models: Callable[..., Any], tmp_path: Path) -> None:
    """Padding stands where the tokenizer puts it; a window longer than what is traced still cuts texts."""
    left = models("bert")
    left.tokenizer.padding_side = "left"
    assert verify_onnx(left, exported(left, tmp_path / "left"), TEXTS) <= 1e-6
    window = models("modernbert")
    whole = encode(window, [LONG])
    window[0].auto_model.config.local_attention = 16  # 8 to each side; two sentences of 6 tokens are traced
    assert np.abs(encode(window, [LONG]) - whole).max() > 2e-5, "no window"
    assert verify_onnx(window, exported(window, tmp_path / "window"), TEXTS) <= 1e-6


# ---- the folder -----------------------------------------------------------------------------------------------


def test_texts_are_cut_at_the_models_length(models: Callable[..., Any], tmp_path: Path) -> None:
    encoder = models("bert")
    encoder.max_seq_length = 10
    opened = OnnxEncoder(exported(encoder, tmp_path))
    assert opened.settings["max_seq_length"] == 10 < POSITIONS
    assert np.abs(opened.encode([LONG]) - encode(encoder, [LONG])).max() <= 1e-6
    assert np.array_equal(opened.encode([LONG]), opened.encode([LONG + "cat cat cat"]))
    assert opened.encode([]).shape == (0, WIDTH)
    assert np.isfinite(opened.encode([""])).all()


def test_order_and_batch_size_do_not_matter(models: Callable[..., Any], tmp_path: Path) -> None:
    opened = OnnxEncoder(exported(models("roberta"), tmp_path))
    whole = opened.encode(TEXTS)
    for size in (1, 2, 4):
        assert np.abs(opened.encode(TEXTS[::-1], batch_size=size)[::-1] - whole).max() <= 1e-6


def test_the_same_bytes_twice_without_paths_and_the_encoder_stays(models: Callable[..., Any], tmp_path: Path) -> None:
    encoder = models("modernbert")
    before = encode(encoder, TEXTS)
    first, second = exported(encoder, tmp_path / "a"), exported(encoder, tmp_path / "b")
    files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    for file in files:
        data = (first / file).read_bytes()
        assert data == (second / file).read_bytes(), file
        assert not any(path.encode() in data for path in (str(ROOT), str(tmp_path), sys.prefix)), file
    assert np.array_equal(encode(encoder, TEXTS), before)
    assert not any(m.training for m in encoder.modules())


def test_weights_too_large_for_one_file_stand_beside_it(
    models: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_folder, "ONE_FILE", 1000)
    encoder = models("bert")
    folder = exported(encoder, tmp_path)
    assert sorted(p.name for p in (folder / "onnx").iterdir()) == ["model.onnx", "model.onnx.data"]
    assert verify_onnx(encoder, folder, TEXTS) <= 1e-6


def test_another_models_folder_is_a_fault(models: Callable[..., Any], tmp_path: Path) -> None:
    folder = exported(models("bert"), tmp_path)
    encoder = models("bert")
    cut_neurons(Anatomy(encoder), 1, range(32))
    with pytest.raises(Fault, match=r"differs from torch by .* on text \d"):
        verify_onnx(encoder, folder, TEXTS)


def test_what_is_refused(models: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="static model"):
        write_onnx(models("static"), tmp_path / "a")
    encoder = models("bert", extras=True)
    encoder[1].include_prompt = False
    with pytest.raises(InputError, match="leaves the prompt's tokens out"):
        write_onnx(encoder, tmp_path / "b")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelRefused, match="export it again"):
        OnnxEncoder(tmp_path)


# ---- without torch --------------------------------------------------------------------------------------------


def test_embed_py_runs_without_torch(models: Callable[..., Any], tmp_path: Path) -> None:
    encoder = models("xlm-roberta", extras=True)
    texts = [t for t in TEXTS if "\x00" not in t]
    folder = exported(encoder, tmp_path / "model")
    code = [line for line in (folder / "embed.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 18
    assert np.abs(run_script(folder, texts, tmp_path) - encode(encoder, texts)).max() <= 1e-6


def test_timing_dense_against_pruned_in_one_process(models: Callable[..., Any], tmp_path: Path) -> None:
    encoder = models("bert")
    dense = exported(encoder, tmp_path / "dense")
    cut_layers(Anatomy(encoder), [0])
    pruned = exported(encoder, tmp_path / "pruned")
    texts = [t for t in TEXTS if "\ud800" not in t]
    out = {name: str(tmp_path / f"{name}.npy") for name in ("dense", "pruned")}
    answer = time_onnx(dense, pruned, texts, rounds=3, out=out)
    assert set(answer["models"]) == {"dense", "pruned"}
    assert all(v > 0 for m in answer["models"].values() for v in m.values())
    assert answer["speedup"] > 0 < answer["speedup_batch1"]
    assert 2e7 < answer["peak_bytes"] < 3e8, "without torch, and not the memory of the process that started it"
    assert not list(tmp_path.rglob("__pycache__")), "the folders stay as they were"
    assert answer["mean_tokens"] == pytest.approx(
        np.mean([len(encoder.tokenizer(t, truncation=True)["input_ids"]) for t in texts])
    )
    assert np.abs(np.load(out["pruned"]) - encode(encoder, texts)).max() <= 1e-6
    assert np.abs(np.load(out["dense"]) - np.load(out["pruned"])).max() > 1e-4


def test_the_fresh_process_imports_nothing_else() -> None:
    tree = ast.parse(FRESH.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {n.split(".")[0] for n in names} <= {"numpy"} | set(sys.stdlib_module_names)


# ---- the real model -------------------------------------------------------------------------------------------


def test_minilm_uneven(tmp_path: Path) -> None:
    """All-MiniLM-L6-v2 with heads cut in one layer and another number of neurons in each, on real sentences."""
    encoder = duplicate(load(open_model("minilm").path))
    view = Anatomy(encoder)
    cut_heads(view, 2, range(0, 12, 2))
    for layer in range(6):
        cut_neurons(view, layer, range(1536 - 200 * layer))
    folder = exported(encoder, tmp_path)
    texts = ["Vaccines train the immune system.", "", "A man is playing a guitar.", "protein " * 600]
    assert verify_onnx(encoder, folder, texts) <= 2e-6
    assert (folder / GRAPH).stat().st_size < 4 * sum(p.numel() for p in encoder.parameters()) + 200_000
