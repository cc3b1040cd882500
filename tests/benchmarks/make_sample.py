"""Developer's script: embed the built-in corpus anew and ship the vectors under assets/embeddings.

    python -m tests.benchmarks.make_sample

Run it after a change to assets/sample. It writes the same chunks that the cache holds, so that the first
screen needs no torch.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.environ["ESPALIER_HOME"] = name
        from core import commands, embedding

        shutil.rmtree(embedding.SHIPPED, ignore_errors=True)
        everything = argparse.Namespace(
            model="minilm", data=["sample"], fit_on=[], queries=None, split="test", limit=None, seed=0
        )
        commands.embed(everything, lambda what, done, total: print(f"{what}: {done} of {total}"))
        shutil.copytree(Path(name) / "embeddings", embedding.SHIPPED)
    size = sum(f.stat().st_size for f in embedding.SHIPPED.rglob("*.safetensors"))
    print(f"{embedding.SHIPPED}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
