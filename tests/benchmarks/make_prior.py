"""Make the prior that small corpora are shrunk towards: a model's second moments over general English text.

    python tests/benchmarks/make_prior.py wordnet.txt fortunes.txt packages.txt [--keep-vectors DIR]

Each file holds one text per line. Every file counts the same, however many texts it has, so that short and
long texts both speak. Texts are cut at 128 tokens and embedded to unit length. What is written under
assets/priors/, by the model's fingerprint, are the moments only: second_moment (d, d), mean (d,), and a
.json that names the files with their counts and SHA-256. The texts themselves are never committed.

The shipped one was made from three Debian 12 packages (all texts seeded samples, at least three words):
wordnet-base 1:3.0-37 (8,000 glosses as "lemma: definition" and 4,000 example sentences), fortunes
1:1.99.1-7.3 (10,000 sayings), and 9,000 package descriptions of the archive's Translation-en.

Cost: about ten minutes on one core. Errors: a file that cannot be read or holds no text stops the script.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from core.bench import PRIORS  # noqa: E402
from core.encoders import EMBEDDED, ModelInfo, open_model  # noqa: E402
from core.store import sha256, write_atomic  # noqa: E402
from core.types import unit  # noqa: E402

TOKENS = 128


def read(path: Path) -> list[str]:
    """The file's lines that are not blank."""
    texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not texts:
        raise SystemExit(f"{path.name} holds no text: one text per line is wanted")
    return texts


def embed(model: ModelInfo, texts: list[str]) -> NDArray[np.float32]:
    """(n, d) unit vectors of the texts, each cut at 128 tokens."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model.path), device="cpu", local_files_only=True)
    encoder.max_seq_length = TOKENS
    found = encoder.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    return unit(np.asarray(found, np.float32))


def vectors(model: ModelInfo, path: Path, folder: Path | None) -> NDArray[np.float32]:
    """The vectors of a file; with `folder` they are kept there, by content, so that adding a file is cheap."""
    kept = None if folder is None else folder / f"{path.stem}-{sha256(path)[:16]}-{model.fingerprint[:16]}.npy"
    if kept is not None and kept.is_file():
        return np.asarray(np.load(kept))
    found = embed(model, read(path))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, found)
    return found


def moments(parts: list[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Second moment (d, d) and mean (d,), averaged over the parts with equal weight."""
    wide = [x.astype(np.float64) for x in parts]
    return np.mean([x.T @ x / len(x) for x in wide], axis=0), np.mean([x.mean(axis=0) for x in wide], axis=0)


def write(model: ModelInfo, paths: list[Path], parts: list[NDArray[np.float32]], folder: Path) -> Path:
    """The two files of the prior; returns the first."""
    from safetensors.numpy import save

    second, mean = moments(parts)
    arrays = {"second_moment": second.astype(np.float32), "mean": mean.astype(np.float32)}
    files: list[dict[str, Any]] = [
        {"name": p.name, "texts": len(x), "sha256": sha256(p)} for p, x in zip(paths, parts, strict=True)
    ]
    data = save(arrays)
    about = {
        "model": model.name,
        "texts": sum(len(x) for x in parts),
        "source": "general English: " + ", ".join(f"{p.stem} {len(x):,}" for p, x in zip(paths, parts, strict=True)),
        "made_by": "tests/benchmarks/make_prior.py " + " ".join(p.name for p in paths),
        "tokens": TOKENS,
        "files": files,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    target = folder / f"{model.fingerprint}.safetensors"
    write_atomic(target, data)
    write_atomic(target.with_suffix(".json"), (json.dumps(about, indent=1) + "\n").encode())
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="second moments of a model over general text")
    parser.add_argument("texts", nargs="+", type=Path, help="files with one text per line")
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--out", type=Path, default=PRIORS)
    parser.add_argument("--keep-vectors", type=Path, help="a folder for the vectors, to be reused")
    options = parser.parse_args()
    model = open_model(options.model)
    parts = []
    for path in options.texts:
        parts.append(vectors(model, path, options.keep_vectors))
        print(f"{path.name}: {len(parts[-1]):,} texts", flush=True)
    print(write(model, options.texts, parts, options.out).name)


if __name__ == "__main__":
    main()
