"""The command `vectors`: what needs no model, from a file or a Milvus collection to another one."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from core import pipeline, registry, report, stores, vector_export
from core.data.vector_files import VectorFile, open_writer
from core.errors import InputError
from core.export.vectors import project
from core.plan import parse
from core.store import sweep_partials, write_atomic
from core.types import Progress
from core.vector_bench import open_bench, read_source

JUDGED = 100_000  # rows that are fitted and judged on, where the source is larger than
ASKED = 100  # queries of a comparison, where none are given
LARGE = 1 << 30  # bytes as float32


def prune(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Apply a plan to vectors, judge it, write what stays. A large source is judged on a sample, and streamed."""
    start = time.perf_counter()
    sweep_partials()
    plan = parse(args.plan)
    resolved = registry.resolve(plan, args.seed)
    if registry.parts(resolved).encoder:
        raise InputError(f"--plan {plan}: vectors have no encoder. Use dimensions/..., vectors/... and quantize/...")
    source = vector_export.opened(args.source, args.column)
    if args.out:
        vector_export.check_out(args.source, args.out, resolved)
    large = 4 * source.rows * source.dimension > LARGE
    limit = args.limit or (JUDGED if large else None)
    queries = Path(args.queries) if args.queries else None
    bench = open_bench(
        [args.source, *args.judge], queries=queries, metric=args.metric, limit=limit, seed=args.seed,
        progress=progress, column=args.column,
    )  # fmt: skip
    cut = pipeline.judge_cut(bench, plan, rescore=args.rescore, seed=args.seed, progress=progress)
    answer = report.plain(report.pruning(bench, cut, args.seed))
    if args.out:
        rows = vector_export.all_rows(source, bench, cut, progress)
        answer["export"] = vector_export.write(
            args.source, source, rows, bench, cut, args.out, alias=args.alias, dtype=args.dtype, progress=progress
        )
        answer["notes"] += answer["export"].pop("notes", [])
        if not stores.is_milvus(args.out):
            path = vector_export.beside(Path(args.out).expanduser(), "report.json")
            write_atomic(path, json.dumps(answer, indent=1).encode())
    answer["seconds"] = time.perf_counter() - start
    return dict(report.plain(answer))


def copy(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """The same vectors in another format, bit for bit, or out of a Milvus collection into a file."""
    source = vector_export.opened(args.source, args.column)
    if stores.is_milvus(args.out):
        raise InputError(f"--out {args.out}: copies go into files. Use `vectors prune` to write a collection")
    path = Path(args.out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    like = source if isinstance(source, VectorFile) else None
    rows = 0
    with open_writer(path, dimension=source.dimension, id_type=source.id_type, like=like) as writer:
        for batch in source.batches(progress=progress):
            writer.add(batch.ids, batch.vectors, None if isinstance(batch.more, list) else batch.more)
            rows += len(batch.ids)
    about = {"path": str(path), "rows": rows, "dimension": source.dimension, "bytes": path.stat().st_size}
    return dict(report.plain(about | {"notes": list(writer.notes)}))


def collections(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """The collections of a Milvus file or server: rows, vector fields, metric, aliases."""
    found = stores.collections(args.source, progress)
    return dict(report.plain({"uri": args.source, "collections": [asdict(c) for c in found]}))


def compare(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Two collections searched side by side: milliseconds, recall of the full collection's own top k, bytes."""
    from core.milvus_search import search_compare

    old, new = stores.open_source(args.source), stores.open_source(args.pruned)
    asked = read_source(args.queries or args.source, old.metric, ASKED, args.seed, progress)
    arrays = _loaded(args.projection)
    small = asked.vectors if arrays is None else project(arrays, asked.vectors, "query")
    stands: dict[str, str] = {}
    if args.groups:
        found = json.loads(Path(args.groups).read_text(encoding="utf-8"))
        stands = {gone: survivor for survivor, rest in found.items() for gone in rest}
    indexes = tuple(w for w in args.index.split(",") if w)
    table = search_compare(
        old, new, asked.vectors, small, k=args.k, shortlist=args.rescore, indexes=indexes, stands_for=stands,
        progress=progress,
    )  # fmt: skip
    own = [] if args.queries else [f"{len(small)} rows of {old.location.collection} ask, and find themselves first"]
    return dict(report.plain({"searches": table, "queries": len(small), "notes": [*asked.notes, *own]}))


def _loaded(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError) as e:
        raise InputError(f"--projection {path} cannot be read. Give the projection.npz of the pruned collection") from e


def recommend(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Factorise interactions, then remove dimensions round by round; the table that validation chose is written."""
    from core.recommend_loop import run

    out = Path(args.out).expanduser() if args.out else None
    return run(Path(args.source).expanduser(), dimensions=args.dimensions, seed=args.seed, out=out, progress=progress)


COMMANDS = {"prune": prune, "copy": copy, "compare": compare, "recommend": recommend, "collections": collections}
