"""Milvus: seconds of a push, twenty kills of one, and both collections searched side by side.

    python -m tests.benchmarks.milvus [push] [kill] [search]

Everything runs on a Milvus Lite file in a temporary folder. The vectors are generated: clusters with a decaying
spectrum, so that the first 96 dimensions are what an SVD cut keeps.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core.milvus_push import Pushed, push
from core.milvus_search import search_compare
from core.stores import Batch, Location, collections, open_source, parse
from tests.test_stores import MARK, killed

Array = np.ndarray[Any, Any]
KILLS = 20


def clustered(n: int, d: int, seed: int = 0, *, draws: int = 1) -> Array:
    """(n, d) rows around 500 centres that `seed` fixes; `draws` gives others around the same."""
    spread = np.linspace(1, 0, d, dtype=np.float32) ** 3 + 0.02
    centres = np.random.default_rng(seed).normal(size=(500, d)).astype(np.float32)
    rng = np.random.default_rng([seed, draws])
    x = centres[rng.integers(0, 500, n)] + 0.9 * rng.normal(size=(n, d)).astype(np.float32)
    return np.asarray(x * spread, np.float32)


def batches(ids: Array, x: Array, size: int = 2048) -> Iterator[Batch]:
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        yield Batch(tuple(f"d{i:06}" for i in ids[rows]), x[rows], [])


def write(target: Location, ids: Array, x: Array, *, alias: str, mark: str = MARK, index: str = "AUTOINDEX") -> Pushed:
    return push(
        target, batches(ids, x), dimension=x.shape[1], metric="cosine", id_type="string", source=None, rows=len(x),
        fingerprint=mark, alias=alias, index=index,
    )  # fmt: skip


def pushes(folder: Path) -> None:
    print("| rows | dimensions | index | seconds | seconds again |\n|---|---|---|---|---|")
    for n, d, index in ((50_000, 96, "AUTOINDEX"), (50_000, 96, "FLAT"), (50_000, 384, "FLAT")):
        x, target = clustered(n, d), Location(str(folder / f"{d}{index}.db"), "docs")
        made = write(target, np.arange(n), x, alias="live", index=index)
        again = write(target, np.arange(n), x, alias="live", index=index)
        start = time.monotonic()
        read = sum(len(b) for b in open_source(f"{target.uri}#live").batches())
        assert (made.written, again.written, read) == (n, 0, n)
        print(f"| {n:,} | {d} | {index} | {made.seconds:.1f} | {again.seconds:.1f} |", flush=True)
        print(f"  read in {time.monotonic() - start:.1f} s", flush=True)


def kills(folder: Path) -> None:
    """Source 50,000 × 192 and the push of its first 96 dimensions, killed at random moments, each in a fresh copy."""
    n = 50_000
    x = clustered(n, 192)
    original = folder / "original.db"
    write(Location(str(original), "source"), np.arange(n), x, alias="docs", index="FLAT")
    whole = Path(shutil.copytree(original, folder / "whole.db"))
    start = time.monotonic()
    assert not killed(whole, size=2048, index="FLAT")
    lasts = time.monotonic() - start
    shutil.rmtree(whole)
    print(f"a push of {n:,} × 96 that is left alone lasts {lasts:.1f} s, start of the process included", flush=True)
    moments = (np.arange(KILLS) + np.random.default_rng(7).random(KILLS)) / KILLS * (lasts - 2)
    died = 0
    for moment in moments:
        path = Path(shutil.copytree(original, folder / "killed.db"))
        died += killed(path, seconds=float(moment), size=2048, index="FLAT")
        left = {c.name: (c.rows, c.aliases) for c in collections(str(path)) if c.name.startswith("docs_")}
        made = again(path)
        same(f"{path}#docs_pruned", x[:, :96])
        same(f"{path}#docs", x)
        assert len(collections(str(path))) == 2
        print(f"killed after {moment:5.1f} s: left {left or 'nothing'}; re-run wrote {made.written:,}", flush=True)
        shutil.rmtree(path)
    print(f"{died} of {KILLS} died in the push; after the re-run every row is there once, bit for bit, in all {KILLS}")


def again(path: Path) -> Pushed:
    source = open_source(f"{path}#docs")
    return push(
        Location(str(path), "docs"), (Batch(b.ids, b.vectors[:, :96], b.more) for b in source.batches()), dimension=96,
        metric=source.metric, id_type=source.id_type, source=source, rows=source.rows, fingerprint=MARK,
        index="FLAT",
    )  # fmt: skip


def same(spec: str, x: Array) -> None:
    """Every row once and bit for bit; ids come in order, as they were numbered."""
    done = 0
    for batch in open_source(spec).batches():
        assert list(batch.ids) == [f"d{i:06}" for i in range(done, done + len(batch))]
        assert batch.vectors.tobytes() == np.ascontiguousarray(x[done : done + len(batch)]).tobytes()
        done += len(batch)
    assert done == len(x)


def searches(folder: Path) -> None:
    n, d, k, queries = 50_000, 384, 96, 100
    x, q = clustered(n, d), clustered(queries, d, draws=2)
    stays = np.sort(np.random.default_rng(1).permutation(n)[: n * 4 // 5])
    file = str(folder / "search.db")
    write(Location(file, "full"), np.arange(n), x, alias="all", index="FLAT")
    write(Location(file, "pruned"), stays, x[stays, :k], alias="few", index="FLAT")
    old, new = open_source(parse(f"{file}#all")), open_source(parse(f"{file}#few"))
    rows = search_compare(old, new, q, q[:, :k], shortlist=100, indexes=("FLAT", "HNSW", "IVF_FLAT"))
    print("| index | search | recall@10 | ms | 95 % ms | full / this | MB |\n|---|---|---|---|---|---|---|")
    for r in rows:
        name = f"{r['index']} {r['parameters'] or ''}"
        cells = (name, r["search"], f"{r['recall@10']:.3f}", f"{r['ms']:.1f}", f"{r['ms_p95']:.1f}")
        print("|", " | ".join((*cells, f"{r['ratio']:.2f}", f"{r['bytes'] / 1e6:.1f}")), "|", flush=True)


PARTS = {"push": pushes, "kill": kills, "search": searches}


def run(data: Path | None = None) -> None:
    for name in sys.argv[1:] or PARTS:
        if name in PARTS:
            with tempfile.TemporaryDirectory() as folder:
                PARTS[name](Path(folder))


if __name__ == "__main__":
    run()
