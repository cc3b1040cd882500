"""An export opens in a virtual environment that has only sentence-transformers, and gives the same vectors."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from core.__main__ import main
from core.bench import prepare
from core.embedding import embed
from core.encoders import open_model
from core.select import apply

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
np.save(sys.argv[3], model.encode(json.load(open(sys.argv[2]))))
"""


def test_the_export_needs_nothing_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Downloads sentence-transformers from the package registry; takes minutes. At most 1e-5 apart in any number."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    for what in ("torch==2.13.0", "sentence-transformers>=6.2"):
        done = subprocess.run([python, "-m", "pip", "install", "-q", what], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no package registry here: {done.stderr.strip().splitlines()[-1][:120]}")
    out = tmp_path / "pruned"
    assert main(["prune", "--data", "sample", "--plan", "dimensions/svd keep=128", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["export"]["reloaded_in_fresh_process"] is True
    bench = prepare("minilm", ["sample"])
    texts = list(bench.judges[0].dataset.documents.full[:64])
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    subprocess.run(
        [python, "-c", SCRIPT, out, tmp_path / "texts.json", tmp_path / "got.npy"],
        check=True, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    got = np.load(tmp_path / "got.npy")
    from core.judging import reduce
    from core.plan import Step

    wanted = apply(
        reduce(bench, Step("dimensions/svd", (("keep", 128),)))[1], embed(open_model("minilm"), texts).vectors
    )
    assert got.shape == (64, 128)
    assert np.abs(got - wanted).max() <= 1e-5
    assert sys.prefix not in str(environment)


def test_an_onnx_folder_needs_onnxruntime_and_tokenizers_alone(tmp_path: Path) -> None:
    """The embed.py of an int8 and an fp32 folder in an environment without torch: the vectors that were judged."""
    from core.embedding import load
    from core.export.int8 import write_int8
    from core.export.onnx_folder import write_onnx
    from core.onnx_encoder import OnnxEncoder

    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    wanted = [f"{name}=={metadata.version(name)}" for name in ("onnxruntime", "tokenizers", "numpy")]
    done = subprocess.run([python, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no package registry here: {done.stderr.strip().splitlines()[-1][:120]}")
    bench = prepare("minilm", ["sample"])
    texts = [" ".join(t.split()) for t in bench.judges[0].dataset.documents.full[:128]]
    write_onnx(load(bench.model.path), tmp_path / "fp32")
    write_int8(load(bench.model.path), tmp_path / "int8", texts)
    for name in ("fp32", "int8"):
        done = subprocess.run(
            [python, tmp_path / name / "embed.py", *texts[:16]], capture_output=True, text=True, check=True,
            cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        )  # fmt: skip
        got = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
        assert got.shape == (16, 384)
        assert np.abs(got - OnnxEncoder(tmp_path / name).encode(texts[:16])).max() <= 1e-5
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "torch" not in listed
