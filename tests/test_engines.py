"""Engines: all near torch, the fastest within the tolerance is chosen and kept, caches know their vectors apart."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import engines, pilot
from core.__main__ import main
from core.embedding import embed, encode, load, missing
from core.encoders import ModelInfo, open_model
from core.engines import NAMES, REFERENCE, Tried, opened, runner, unavailable
from core.errors import Fault, InputError, ModelRefused
from core.export.int8 import fidelity, write_int8
from core.export.onnx_folder import write_onnx
from core.onnx_encoder import GRAPH
from core.pilot import BOUNDS, equipped, fast
from core.store import MANIFEST, new_folder
from tests.test_int8 import JUDGE, LEARN
from tests.tiny_models import tiny_model

OPENVINO = pytest.mark.skipif(bool(unavailable("openvino-fp32")), reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    return open_model(str(tiny_model("bert", tmp_path_factory.mktemp("m") / "tiny", extras=True, lively=True)))


@pytest.fixture(scope="module")
def graphs(model: ModelInfo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("graphs")
    write_onnx(load(model.path), root / "fp32")
    write_int8(load(model.path), root / "int8", LEARN)
    return {"fp32": root / "fp32", "int8": root / "int8"}


@pytest.mark.parametrize("name", NAMES)
def test_every_engine_is_near_torch(name: str, model: ModelInfo, graphs: dict[str, Path]) -> None:
    if why := unavailable(name):
        pytest.skip(why)
    run = runner(name, model.path, graphs["int8" if name.endswith("int8") else "fp32"])
    wanted = encode(load(model.path), JUDGE, "the ")
    got = run(JUDGE, "the ")
    assert got.dtype == np.float32
    found = fidelity(wanted, got)
    if name.endswith("fp32"):
        assert found.difference <= 2e-5
    else:
        assert found.difference > 1e-5, "computed in fp32 after all"
        assert found.least > 0.998
    assert np.abs(run(JUDGE, "") - got).max() > 1e-3, "the prompt is not read"


def test_the_fastest_within_the_tolerance(model: ModelInfo) -> None:
    chosen = fast(model, LEARN, "int8")
    assert [t.name for t in chosen.tried] == list(NAMES), "every candidate is accounted for"
    left = {t.name: t for t in chosen.tried if not t.why}
    assert chosen.name in left
    assert left[chosen.name].speed == max(t.speed or 0 for t in left.values())
    assert all(t.speed for t in left.values())
    assert chosen.name in chosen.why
    assert "0.99 or more on average" in chosen.why
    assert fidelity(encode(load(model.path), JUDGE), chosen.encode(JUDGE, "")).mean >= BOUNDS["int8"].mean
    assert {t.name.split("-")[1] for t in fast(model, LEARN, "bf16").tried} == {"fp32", "bf16"}
    same = fast(model, LEARN)
    assert {t.name.split("-")[1] for t in same.tried} == {"fp32"}
    assert fidelity(encode(load(model.path), JUDGE), same.encode(JUDGE, "")).difference <= 2e-5


def test_what_drifts_or_crawls_is_dropped(model: ModelInfo) -> None:
    """A candidate that is far slower on four short texts never sees the pilot; one that is far off never races."""
    import time

    reference = runner(REFERENCE, model.path)
    seen: list[int] = []

    def slow(texts: Any, prompt: str) -> Any:
        seen.append(len(texts))
        time.sleep(0.3)
        return reference(texts, prompt)

    found = pilot._try("torch-bf16", slow, reference, LEARN, BOUNDS["bf16"])
    assert "times slower than torch fp32 on 4 short texts" in found.why
    assert set(seen) == {4}
    off = pilot._try("torch-bf16", lambda t, p: reference(t, p) + 0.05, reference, LEARN, BOUNDS["bf16"])
    assert "outside the tolerance: cosine of 0.9999" in off.why
    same = pilot._try("torch-bf16", reference, reference, LEARN, BOUNDS["bf16"])
    assert same.why == ""
    assert same.cosine_min == pytest.approx(1.0, abs=1e-6)


def test_nothing_but_torch_is_left_without_graphs(model: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "unavailable", lambda name: "not here" if name.startswith("o") else "")
    monkeypatch.setattr(pilot, "_try", lambda name, *_: Tried(name, why="outside"))
    chosen = fast(model, LEARN, "int8")
    assert chosen.name == REFERENCE
    assert {t.why for t in chosen.tried[1:]} == {"not here", "outside"}


def test_a_choice_is_kept_and_its_vectors_are_cached_apart(
    model: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path))
    assert equipped(model, LEARN, "exact") is model
    quick = equipped(model, LEARN, "int8")
    monkeypatch.setattr(pilot, "_choose", lambda *_: pytest.fail("chosen twice"))
    again = equipped(model, ["other texts"], "int8")
    assert again.engine == quick.engine
    exact = embed(model, JUDGE).vectors
    assert missing(quick, JUDGE) == len(set(JUDGE)), "vectors of torch are not taken for the engine's"
    found = embed(quick, JUDGE).vectors
    assert missing(quick, JUDGE) == 0 == missing(model, JUDGE)
    assert fidelity(exact, found).mean >= 0.99
    assert np.array_equal(embed(model, JUDGE).vectors, exact)
    assert opened(quick).name == quick.engine.split("/")[0] == quick.as_json()["engine"]
    with pytest.raises(Fault, match="is gone"):
        opened(replace(quick, engine="torch-bf16/nowhere/"))
    with pytest.raises(InputError, match="'fastest' is none of exact, fast, bf16, int8"):
        equipped(model, LEARN, "fastest")


@OPENVINO
def test_openvino_sends_nothing(graphs: dict[str, Path], model: ModelInfo, tmp_path: Path) -> None:
    """Its telemetry asks the network when the package is imported: ours never is, and no file of its own is left."""
    code = f"""
import sys
def watch(event, args):
    if event.startswith("socket.") and event != "socket.__new__":
        print("SENT", event, args); sys.exit(3)
sys.addaudithook(watch)
from pathlib import Path
from core.engines import runner
print(runner("openvino-fp32", None, Path({str(graphs["fp32"])!r}))(["the cat"], "").shape)
print(sys.modules.get("openvino_telemetry"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["(1,", "16)", "None"]
    assert not list(tmp_path.iterdir())


# ---- an ONNX folder as a model, and the command line ----------------------------------------------------------


def exported(model: ModelInfo, folder: Path) -> Path:
    with new_folder(folder) as into:
        write_int8(load(model.path), into, LEARN)
    return folder


def test_an_onnx_folder_is_a_model_that_runs(model: ModelInfo, tmp_path: Path) -> None:
    folder = exported(model, tmp_path / "small")
    info = open_model(str(folder), graphs=True)
    assert (info.architecture, info.dimension, info.metric) == ("onnx", 16, "cosine")
    assert info.parameters == model.parameters
    assert info.bytes == (folder / GRAPH).stat().st_size
    assert dict(info.prompts) == dict(model.prompts)
    assert fidelity(embed(model, JUDGE, "query").vectors, embed(info, JUDGE, "query").vectors).mean > 0.999
    with pytest.raises(ModelRefused, match="small is an ONNX folder: `evaluate` runs it"):
        open_model(str(folder))
    with pytest.raises(InputError, match="is an ONNX folder, which runs in onnxruntime"):
        fast(info, LEARN)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelRefused, match=r"tokenizer\.json does not match its manifest"):
        open_model(str(folder), graphs=True)
    (folder / MANIFEST).unlink()
    with pytest.raises(ModelRefused, match="has no manifest"):
        open_model(str(folder), graphs=True)


def test_the_command_line(
    model: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prune to int8, evaluate what was written: the same figures; --engine int8 embeds and says with what."""
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "home"))
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": t}) for t in sorted(set(LEARN))))
    common = ["--data", str(texts), "--json"]
    out = tmp_path / "small"
    plan = ["--plan", "neurons/magnitude ratio=0.25", "--format", "onnx-int8", "--draws", "0", "--out", str(out)]
    assert main(["prune", "--model", str(model.path), *plan, *common]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["export"]["format"] == "onnx-int8"
    assert answer["export"]["cosine_mean"] > 0.99
    assert answer["after"]["fp32"]["quality"]["texts"].keys() == answer["after"]["quality"]["texts"].keys()
    assert answer["speedup"]["engine"] == "onnxruntime"
    assert answer["speedup"]["against_torch"]["measured"] > 0
    assert answer["after"]["model"]["bytes"] == (out / GRAPH).stat().st_size
    assert "python embed.py" in (out / "embed.py").read_text()
    assert main(["evaluate", "--model", str(out), *common]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["architecture"] == "onnx"
    assert main(["evaluate", "--model", str(model.path), "--engine", "int8", *common]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engine"]["name"] == found["model"]["engine"]
    assert main(["prune", "--model", str(model.path), "--engine", "int8", *plan[:2], *common]) == 2
    assert "encoder cuts are judged in fp32" in capsys.readouterr().err
    assert main(["prune", "--model", str(out), *plan[:2], *common]) == 2
    assert "is an ONNX folder" in capsys.readouterr().err


def test_fp16_storage_loads_plainly(
    model: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half the bytes; what is loaded computes in fp32."""
    import torch
    from sentence_transformers import SentenceTransformer

    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "home"))
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": t}) for t in sorted(set(LEARN))))
    out = tmp_path / "half"
    command = ["prune", "--model", str(model.path), "--data", str(texts), "--plan", "dimensions/svd keep=8"]
    assert main([*command, "--format", "sentence-transformers-fp16", "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert 1e-6 < answer["export"]["max_difference"] <= 2e-3
    assert answer["after"]["model"]["bytes"] < 0.62 * model.bytes, "headers take their share"
    again = SentenceTransformer(str(out), device="cpu")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert again.encode(JUDGE).shape == (len(JUDGE), 8)


def test_unknown_engines_and_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--data", "sample", "--engine", "gpu"]) == 2
    assert "exact" in capsys.readouterr().err
    assert engines.unavailable("torch-fp32") == ""
