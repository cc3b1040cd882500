"""Proof before a download is offered: reopen in a fresh process, compare vectors, measure time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.bench import Bench
from core.embedding import Role, embed, prompt_of
from core.encoders import ModelInfo
from core.errors import Fault
from core.select import apply
from core.types import Embeddings, Floats, Reduction, Texts

TOLERANCE = 1e-5
_PROBES = 48
_FRESH = Path(__file__).with_name("fresh.py")


@dataclass(frozen=True)
class Proof:
    """What the fresh process saw. `max_difference` compares the same batches through both models, fp32 with fp32;
    `on_screen` compares with the vectors the figures were made of (another batching, so about 1e-7 apart)."""

    max_difference: float
    on_screen: float
    timing: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)


def run_fresh(request: dict[str, Any], folder: Path, script: Path = _FRESH) -> dict[str, Any]:
    """Run fresh.py (or another) on a request; its one JSON line. Raises Fault with its last words where it failed."""
    path = folder / "request.json"
    path.write_text(json.dumps(request), encoding="utf-8")
    keep = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SYSTEMROOT", "TMPDIR")
    env = {k: v for k, v in os.environ.items() if k in keep}
    done = subprocess.run(
        [sys.executable, str(script), str(path)], capture_output=True, text=True, cwd=folder, env=env, check=False
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise Fault(f"the fresh process could not open the model: {said}")
    noise = [line for line in done.stderr.splitlines() if "MISSING" in line or "newly initialized" in line]
    if noise:
        raise Fault(f"the fresh process found weights missing: {noise[0]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def verify_codes(folder: Path, wanted: Floats) -> None:
    """Read a folder's codes.npy with its own reader.py in a fresh process. Raises Fault where vectors differ."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "vectors.npy"
        run_fresh({"folder": str(folder), "out": str(out)}, Path(name), _FRESH.with_name("fresh_codes.py"))
        got = np.load(out, allow_pickle=False)
    difference = float(np.abs(got - wanted).max(initial=0.0)) if got.shape == wanted.shape else float("nan")
    if not difference <= TOLERANCE:
        raise Fault(f"the codes read again differ from what was judged by {difference:.1e}: they are not handed out")


def probe_groups(bench: Bench) -> list[tuple[Role, list[str], Floats]]:
    """(role, texts, their on-screen vectors before the cut): documents and queries, evenly spread over the data.

    Where another engine embedded the data, the probes are embedded by torch in fp32: exports are held against that.
    """
    judge = bench.judges[0]
    role: Role = "document" if judge.dataset.kind == "retrieval" else "sentence"
    other: Role = "query" if judge.dataset.kind == "retrieval" else "sentence"
    sides: tuple[tuple[Role, Texts, Embeddings], ...] = (
        (role, judge.dataset.documents, judge.documents),
        (other, judge.dataset.queries, judge.queries),
    )
    out = []
    for name, texts, vectors in sides:
        rows = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), _PROBES)).astype(int))
        some, exact = [texts.full[i] for i in rows], vectors.vectors[rows]
        if bench.model.engine:
            exact = embed(replace(bench.model, engine=""), some, name).vectors
        out.append((name, some, exact))
    return out


def time_model(model: ModelInfo, texts: Sequence[str], rounds: int = 5) -> dict[str, Any]:
    """Encoding speed and peak memory of one model in a process of its own."""
    answer = _timed({"source": model.path}, prompt_of(model, "document"), texts, rounds)
    return dict(answer["models"]["source"]) | {k: answer[k] for k in ("peak_bytes", "mean_tokens")}


def time_pair(dense: ModelInfo, pruned: Path, texts: Sequence[str], rounds: int = 7) -> dict[str, Any]:
    """Speed of two model folders in one fresh process, in alternation: the median of the paired ratios.

    An ONNX folder runs in onnxruntime, the other in torch.
    """
    return _timed({"dense": dense.path, "pruned": pruned}, prompt_of(dense, "document"), texts, rounds)


def _timed(models: Mapping[str, Path], prompt: str, texts: Sequence[str], rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        request = {
            "models": {k: str(folder.resolve()) for k, folder in models.items()},
            "groups": [{"texts": _spread(texts), "prompt": prompt}],
            "out": {},
            "rounds": rounds,
        }
        return run_fresh(request, Path(name))


def _spread(texts: Sequence[str], most: int = 64) -> list[str]:
    rows = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), most)).astype(int))
    return [texts[i] for i in rows]


def verify(
    bench: Bench, reduction: Reduction, pruned: Path, dense: ModelInfo, rounds: int = 7, tolerance: float | None = None
) -> Proof:
    """Load the bench's encoder and the exported folder side by side in a fresh process and compare their vectors.

    `dense` is the unpruned model, against which the folder is timed. Raises Fault where vectors differ: at ratio 0
    the difference must be exactly 0, else at most 1e-5 in any number; `tolerance` is that of a format that rounds.
    """
    groups = probe_groups(bench)
    model = bench.model
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = {"source": str(folder / "source.npy"), "pruned": str(folder / "pruned.npy")}
        request = {
            "models": {"source": str(model.path), "pruned": str(pruned), "dense": str(dense.path)},
            "groups": [{"texts": t, "prompt": prompt_of(model, r)} for r, t, _ in groups],
            "out": out,
            "rounds": rounds,
            "timed": ["dense", "pruned"],
        }
        answer = run_fresh(request, folder)
        source, got = (np.load(out[k], allow_pickle=False) for k in ("source", "pruned"))
    if not np.isfinite(got).all() or got.shape[1] != reduction.size:
        raise Fault(
            f"the reopened model gives {got.shape[1]} numbers a text, not {reduction.size}, or they are not finite"
        )
    wanted = source if reduction.identity else apply(reduction, scaled(source, model))
    given = scaled(got, model) if reduction.identity else got
    difference, screen = float(np.abs(got - wanted).max()), float(np.abs(given - shown(groups, reduction)).max())
    allowed = (0.0 if reduction.identity else TOLERANCE, TOLERANCE) if tolerance is None else (tolerance, tolerance)
    if difference > allowed[0] or screen > allowed[1]:
        raise Fault(
            f"the reopened model differs from what was shown by {max(difference, screen):.1e}: it is not handed out"
        )
    return Proof(difference, screen, answer)


def shown(groups: Sequence[tuple[str, list[str], Floats]], reduction: Reduction) -> Floats:
    """The vectors of the probes that the figures were made of."""
    return apply(reduction, np.concatenate([v for _, _, v in groups]))


def scaled(x: Floats, model: ModelInfo) -> Floats:
    """The source's vectors as Espalier works on them: length one where the model compares by cosine."""
    from core.types import unit

    return x if model.metric == "dot" or model.normalized else unit(x)
