"""Embed each text once: vectors are kept on disk by the content of model and text; a cancel keeps what is done.

The model is loaded as sentence-transformers loads it, without remote code, network or pickles, when the first
text is embedded and not before.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.encoders import DERIVED as DERIVED
from core.encoders import ONNX, ModelInfo
from core.errors import InputError, ModelRefused
from core.onnx_encoder import OnnxEncoder
from core.store import home, write_atomic
from core.types import Embeddings, Floats, Progress, digest, quiet, unit

Role = Literal["document", "query", "sentence"]
SHIPPED = Path(__file__).parents[1] / "assets" / "embeddings"
SHAPES = "espalier-shape.json"  # in a folder of ours: which heads and neurons are real, the rest being padding
_CHUNK = 256  # texts embedded between two writes to the cache and two looks at the cancel button
_PROMPTS: dict[Role, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
    "sentence": (),
}


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
    if (path / SHAPES).is_file():
        from core.anatomy import Anatomy
        from core.surgery.slicing import trim

        real = json.loads((path / SHAPES).read_text(encoding="utf-8"))
        trim(Anatomy(model), real["heads"], real["inner"])
    if not (path / DERIVED).is_file():  # those are ours, and were compared with what was cut
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
    """The text put before a text, as `encode_query`, `encode_document` and, for sentences, `encode` put it.

    A `passage` or `corpus` prompt counts for documents, though sentence-transformers 6 finds its own empty `document`
    first: whoever saved the model named it for them.
    """
    if role == "sentence":
        return model.default_prompt
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
        name = digest(model.fingerprint, prompt, *([model.engine] if model.engine else []))
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
        run = runner(model)
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            vectors = run([t for _, t in chunk], prompt)
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


def runner(model: ModelInfo) -> Callable[[Sequence[str], str], Floats]:
    """What embeds texts with a prompt: torch in fp32, the engine chosen for the model, or onnxruntime for a graph."""
    if model.engine:
        from core.engines import opened

        return opened(model).encode
    if model.architecture == ONNX:
        return OnnxEncoder(model.path).encode
    encoder = load(model.path)
    return lambda texts, prompt: encode(encoder, texts, prompt)


def _unit_length(x: Floats) -> bool:
    return bool(np.all(np.abs(np.einsum("ij,ij->i", x, x) - 1.0) < 1e-4))


def encode(encoder: Any, texts: Sequence[str], prompt: str = "", batch_size: int = 32) -> Floats:
    """Raw vectors of the texts by a loaded model, no cache; lone surrogates, which no tokenizer takes, are replaced."""
    readable = [t.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for t in texts]
    out = encoder.encode(readable, prompt=prompt, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(out, np.float32)
