"""What computes a model's vectors on this machine: torch, onnxruntime or OpenVINO; in fp32, bf16 or int8.

    unavailable("openvino-bf16")             why this machine cannot run it, or ""
    runner("openvino-bf16", path, folder)    a function (texts, prompt) -> (n, d) float32; texts sorted by length
    opened(model)                            the engine that core.pilot chose for a model (model.engine)

All read the same tokenizer and stand for the same model; how near their vectors are to torch fp32 is measured where
one is chosen. The chosen one stands in ModelInfo.engine as name/folder/hash, so that caches know vectors apart.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from core.embedding import encode, load
from core.encoders import ModelInfo
from core.errors import Fault
from core.onnx_encoder import GRAPH, OnnxEncoder, threads
from core.store import check_manifest, home
from core.types import Floats

REFERENCE = "torch-fp32"
NAMES = (REFERENCE, "torch-bf16", "onnxruntime-fp32", "openvino-fp32", "openvino-bf16", "onnxruntime-int8",
         "openvino-int8")  # fmt: skip
CHOICE = "choice.json"
Encode = Callable[[Sequence[str], str], Floats]


@dataclass(frozen=True)
class Tried:
    """One candidate: paired speed ratio against torch fp32, cosines to its vectors, and why it was dropped (or "")."""

    name: str
    speed: float | None = None
    cosine_min: float | None = None
    cosine_mean: float | None = None
    why: str = ""


@dataclass(frozen=True, eq=False)
class Engine:
    """What was chosen, how to call it, why, and all that was tried."""

    name: str
    encode: Encode
    why: str
    tried: tuple[Tried, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "why": self.why, "tried": [asdict(t) for t in self.tried]}


def unavailable(name: str) -> str:
    """Why an engine cannot run here, or ""."""
    if name.startswith("openvino"):
        if importlib.util.find_spec("openvino") is None:
            return "OpenVINO is not installed: pip install openvino"
        if name == "openvino-bf16" and not _has_bf16():
            return "this processor has no bf16 instructions that OpenVINO uses"
    return ""


@cache
def _core() -> Any:
    """OpenVINO's entry point; its telemetry package, which asks the network at import time, is kept from loading."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # then OpenVINO takes its own stub
    import openvino

    return openvino.Core()


def _has_bf16() -> bool:
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _OpenVino:
    """A compiled graph behind the two calls that OnnxEncoder makes of a session."""

    def __init__(self, graph: Path, precision: str) -> None:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        if threads():
            settings["INFERENCE_NUM_THREADS"] = str(threads())
        self.model = _core().compile_model(str(graph), "CPU", settings)
        self.request = self.model.create_infer_request()

    def get_inputs(self) -> list[Any]:
        return [_Named(i.any_name) for i in self.model.inputs]

    def run(self, _: Any, feed: Any) -> list[Floats]:
        return [self.request.infer(feed)[self.model.output(0)].copy()]


@dataclass(frozen=True)
class _Named:
    name: str


def runner(name: str, model: Path, folder: Path | None = None) -> Encode:
    """The engine's encode function; `folder` is the model as an ONNX folder (fp32 or int8) for all but torch's."""
    library, precision = name.split("-")
    if library == "torch":
        encoder = load(model)
        return _autocast(encoder) if precision == "bf16" else lambda texts, prompt: encode(encoder, texts, prompt)
    assert folder is not None
    if library == "onnxruntime":
        return OnnxEncoder(folder).encode
    hint = "bf16" if precision != "fp32" and _has_bf16() else "f32"
    return OnnxEncoder(folder, lambda graph: _OpenVino(graph, hint)).encode


def _autocast(encoder: Any) -> Encode:
    def run(texts: Sequence[str], prompt: str = "") -> Floats:
        import torch

        with torch.autocast("cpu", torch.bfloat16):
            return encode(encoder, texts, prompt)

    return run


def folder_of(key: str) -> Path:
    """Where a choice and its graph are kept."""
    return home() / "engines" / key


def chosen(key: str) -> dict[str, Any] | None:
    """A kept choice, or None where there is none that was written to the end."""
    try:
        check_manifest(folder_of(key))
    except Fault:
        return None
    return dict(json.loads((folder_of(key) / CHOICE).read_text(encoding="utf-8")))


@cache
def _opened(reference: str, model: Path) -> Engine:
    key = reference.split("/")[1]
    found = chosen(key)
    if found is None:
        raise Fault(f"the engine {reference} is gone from {folder_of(key).parent}: choose again")
    tried = tuple(Tried(**t) for t in found["tried"])
    graph = folder_of(key) if (folder_of(key) / GRAPH).is_file() else None
    return Engine(found["name"], runner(found["name"], model, graph), found["why"], tried)


def opened(model: ModelInfo) -> Engine:
    """The engine that a model's own `engine` names."""
    return _opened(model.engine, model.path)
