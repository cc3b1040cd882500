"""A pruned model as a plain sentence-transformers folder: the encoder's own files, then Dense and Normalize.

Stock modules only, so that `SentenceTransformer(path)` of version 6 or newer opens it without custom code.
The transformer's files are copied byte for byte; a dimension cut adds a Dense layer (identity activation,
bias = -mean @ basis where the method centres) and, for cosine models, a Normalize behind it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from core.embedding import DERIVED, SHAPES
from core.encoders import ModelInfo, describe
from core.errors import InputError
from core.types import Reduction

_DENSE = "sentence_transformers.models.Dense"
_NORMALIZE = "sentence_transformers.models.Normalize"
_LEFT_OUT = {"README.md", ".gitattributes", "data_config.json", "espalier-manifest.json", "espalier-gate.json",
             "recipe.yaml", "espalier-report.json", DERIVED, SHAPES}  # fmt: skip


def write_model(model: ModelInfo, reduction: Reduction, into: Path) -> None:
    """Write the folder's model files. Raises InputError for cuts that no single stock model can hold."""
    if reduction.query_basis is not None:
        raise InputError(
            f"{reduction.method} maps queries and documents differently, which one model cannot hold: "
            "use --format vectors, which exports both matrices"
        )
    for file in sorted(p for p in model.path.rglob("*") if p.is_file() and p.name not in _LEFT_OUT):
        target = into / file.relative_to(model.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    if reduction.identity:
        return
    modules: list[dict[str, Any]] = json.loads((into / "modules.json").read_text(encoding="utf-8"))
    whole = _untruncated(into, model.dimension)
    if whole:  # the source cut its vectors behind the last module: the same as a layer, then ours
        first = Reduction("truncation", whole, np.arange(model.dimension), metric=model.metric)
        _dense(into / _append(modules, into, _DENSE), first)
    if model.metric == "cosine" and (whole or not model.normalized):
        _append(modules, into, _NORMALIZE)
    _dense(into / _append(modules, into, _DENSE), reduction)
    if reduction.metric == "cosine":
        _append(modules, into, _NORMALIZE)
    _write(into / "modules.json", modules)


def halve(folder: Path) -> None:
    """Store every fp32 tensor in fp16; configs say float32, so that what is loaded computes in fp32 as before.

    Raises InputError for weights that fp16 cannot hold (above 65,504).
    """
    from safetensors.numpy import load, save

    for file in sorted(folder.rglob("*.safetensors")):
        tensors = load(file.read_bytes())
        small = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in tensors.items()}
        if not all(np.isfinite(v).all() for v in small.values()):
            raise InputError("the model has weights above 65,504, which fp16 cannot hold: store it in fp32")
        file.write_bytes(save(small, metadata={"format": "pt"}))
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        if "model_type" in config:
            _write(file, {k: v for k, v in config.items() if k != "torch_dtype"} | {"dtype": "float32"})


def _untruncated(into: Path, dimension: int) -> int:
    """Take a `truncate_dim` out of the settings; the width it was applied to, or 0 where there was none."""
    path = into / "config_sentence_transformers.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if settings.pop("truncate_dim", None) is None:
        return 0
    _write(path, settings)
    whole = describe(into, "", "").dimension
    return whole if whole > dimension else 0


def _append(modules: list[dict[str, Any]], into: Path, kind: str) -> str:
    n = len(modules)
    name = f"{n}_{kind.rsplit('.', 1)[1]}"
    modules.append({"idx": n, "name": str(n), "path": name, "type": kind})
    (into / name).mkdir()
    return name


def _dense(folder: Path, reduction: Reduction) -> None:
    from safetensors.numpy import save

    weights = {"linear.weight": np.ascontiguousarray(reduction.matrix.T, np.float32)}
    if reduction.mean is not None:
        weights["linear.bias"] = -(reduction.mean.astype(np.float64) @ reduction.matrix).astype(np.float32)
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    _write(folder / "config.json", {
        "in_features": reduction.dimension,
        "out_features": reduction.size,
        "bias": reduction.mean is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    })  # fmt: skip


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
