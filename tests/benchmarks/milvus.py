"""Milvus: seconds of a push, twenty kills of one, and both collections searched side by side.

    python -m tests.benchmarks.milvus [push] [kill] [search] [case]

Everything runs on a Milvus Lite file in a temporary folder. The vectors are generated: clusters with a decaying
spectrum, so that the first 96 dimensions are what an SVD cut keeps.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core.milvus_client import connect
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


def case(folder: Path) -> None:
    """50,000 × 384 to 96 dimensions and 80 % of the rows by the command line; its push killed at random moments."""
    n, file = 50_000, str(folder / "case.db")
    write(Location(file, "source"), np.arange(n), clustered(n, 384), alias="docs", index="FLAT")
    plan = "dimensions/svd keep=96 | vectors/duplicates ratio=0.2"
    argv = ["vectors", "prune", "--in", f"{file}#docs", "--plan", plan, "--out", f"{file}#small"]
    start = time.monotonic()
    done, began = _command(folder, argv)
    lasts = time.monotonic() - start - began
    made = json.loads(done.stdout)["export"]
    wanted = _content(f"{file}#{made['collection']}")
    print(f"{n:,} × 384 -> {made['rows']:,} × 96 in {began + lasts:.0f} s, of which the push {lasts:.1f} s", flush=True)
    assert len(wanted) == made["rows"] == n * 4 // 5
    moments, died = np.random.default_rng(3).random(KILLS) * lasts, 0
    for moment in moments:
        _drop(file, made["collection"], made["alias"])
        killed_now, _ = _command(folder, argv, kill_after=float(moment))
        died += killed_now.returncode == -signal.SIGKILL
        again_, _ = _command(folder, argv)
        got = json.loads(again_.stdout)["export"]
        assert (got["collection"], got["rows"]) == (made["collection"], made["rows"])
        assert _content(f"{file}#{made['alias']}") == wanted
        print(f"killed {moment:.1f} s into the push: after a re-run all {got['rows']:,} rows once", flush=True)
    print(f"{died} of {KILLS} runs died in their push; every row exactly once, bit for bit, after each re-run")
    answer, _ = _command(folder, ["vectors", "compare", "--in", f"{file}#docs", "--with", f"{file}#{made['alias']}",
                                  "--projection", made["projection"], "--groups", made["groups"], "--rescore", "100",
                                  "--index", "FLAT,HNSW"])  # fmt: skip
    for r in json.loads(answer.stdout)["searches"]:
        print(f"| {r['index']} | {r['search']} | {r['recall@10']:.3f} | {r['ms']:.1f} ms | {r['bytes'] / 1e6:.1f} MB |")


def _command(folder: Path, argv: list[str], kill_after: float = -1.0) -> tuple[subprocess.CompletedProcess[str], float]:
    """One command, and the seconds until its push began; killed so many seconds later where that is asked for."""
    job, start = folder / "job", time.monotonic()
    shutil.rmtree(job, ignore_errors=True)
    job.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-m", "core", *argv, "--json", "--job", str(job)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "ESPALIER_HOME": str(folder / "home")},
    )  # fmt: skip
    while child.poll() is None and '"what": "writing small' not in _text(job / "progress.json"):
        time.sleep(0.02)
    began = time.monotonic() - start
    if kill_after >= 0:
        time.sleep(kill_after)
        child.kill()
    out, _ = child.communicate()
    assert kill_after >= 0 or child.returncode == 0
    return subprocess.CompletedProcess(argv, child.returncode, out), began


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _content(spec: str) -> dict[str, bytes]:
    """Id -> the bytes of its vector; an id that stands twice is a fault."""
    found: dict[str, bytes] = {}
    for batch in open_source(spec).batches():
        for name, vector in zip(batch.ids, batch.vectors, strict=True):
            assert name not in found
            found[name] = vector.tobytes()
    return found


def _drop(file: str, collection: str, alias: str) -> None:
    with connect(file) as client:
        client.drop_alias(alias)
        client.drop_collection(collection)


PARTS = {"push": pushes, "kill": kills, "search": searches, "case": case}


def run(data: Path | None = None) -> None:
    for name in sys.argv[1:] or PARTS:
        if name in PARTS:
            with tempfile.TemporaryDirectory() as folder:
                PARTS[name](Path(folder))


if __name__ == "__main__":
    run()
