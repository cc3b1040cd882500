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
from core.bench import Bench
from core.data.vector_files import VectorFile, open_writer
from core.errors import InputError
from core.export.vectors import project
from core.plan import Plan, parse
from core.rows import as_shares
from core.store import check_place, sweep_partials, write_atomic
from core.types import Progress, Rows
from core.vector_bench import open_bench, read_source
from core.vector_sidecars import REPORT, beside

JUDGED = 100_000  # rows that are fitted and judged on, where the source is larger than
ASKED = 100  # queries of a comparison, where none are given
LARGE = 1 << 30  # bytes as float32


def prune(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Apply a plan to vectors, judge it, write what stays. A large source is judged on a sample, and streamed."""
    start = time.perf_counter()
    sweep_partials()
    resolved = registry.resolve(parse(args.plan), args.seed)
    parts = registry.parts(resolved)
    _check(args, parts)
    source = vector_export.opened(args.source, args.column)
    if args.out:
        vector_export.check_out(args.source, args.out, resolved)
    queries = Path(args.queries) if args.queries else None
    limit = args.limit
    if 4 * source.rows * source.dimension > LARGE:
        if parts.vectors:
            vector_export.check_memory(source)
        else:
            limit = limit or JUDGED
    bench = open_bench(
        [args.source, *args.judge], queries=queries, metric=args.metric, limit=limit, seed=args.seed,
        progress=progress, column=args.column,
    )  # fmt: skip
    plan, said = _on_sample(resolved, source.rows, len(bench.judges[0].documents))
    cut = pipeline.judge_cut(bench, plan, rescore=args.rescore, seed=args.seed, progress=progress)
    answer = report.plain(report.pruning(bench, cut, args.seed))
    answer |= {"plan": str(parse(args.plan)), "resolved_plan": str(resolved)}
    answer["notes"] += said
    if args.out:
        rows = vector_export.all_rows(
            args.source, source, bench, cut, parts.vectors, queries=queries, column=args.column, progress=progress
        )
        _write(args, source, rows, bench, cut, answer, progress)
    answer["seconds"] = time.perf_counter() - start
    return dict(report.plain(answer))


def _check(args: argparse.Namespace, parts: registry.Parts) -> None:
    """Refuse, before any work, what no source can have."""
    if parts.encoder:
        raise InputError(
            f"--plan {args.plan}: vectors have no encoder. Use dimensions/..., vectors/... and quantize/..."
        )
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit {args.limit} keeps nothing: give 1 or more, or leave it out for all rows")
    if args.rescore < 0:
        raise InputError(f"--rescore {args.rescore} is negative: give the length of the shortlist, e.g. 100")
    if parts.codes and args.dtype != "float32":
        raise InputError(f"--dtype {args.dtype}: {parts.codes.name} says how vectors are stored. Leave --dtype out")


def _on_sample(plan: Plan, rows: int, judged: int) -> tuple[Plan, list[str]]:
    """The plan as a sample is judged by it: a count of rows to keep becomes the share of the source that it is."""
    steps = registry.parts(plan).vectors
    if judged == rows or not steps:
        return plan, []
    shares = iter(as_shares(steps, rows))
    fitting = [next(shares) if step in steps else step for step in plan.steps]
    note = (f"judged on {judged:,} of {rows:,} rows: rows are ranked anew on all of them for the file, where they lie "
            f"{rows / judged:.3g} times as dense, and more of them are alike")  # fmt: skip
    return Plan(tuple(fitting)), [note]


def _write(
    args: argparse.Namespace, source: vector_export.Source, rows: Rows, bench: Bench, cut: pipeline.Cutting,
    answer: dict[str, Any], progress: Progress,
) -> None:  # fmt: skip
    """Write what stays and put what it is into the answer, and the answer beside the file."""
    answer["export"] = vector_export.write(
        args.source, source, rows, bench, cut, args.out, alias=args.alias, dtype=args.dtype, progress=progress
    )
    answer["notes"] += answer["export"].pop("notes", [])
    if not stores.is_milvus(args.out):
        file = beside(Path(args.out).expanduser(), REPORT)
        write_atomic(file, json.dumps(answer, indent=1).encode())


def copy(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """The same vectors in another format, to the bit of float32, or out of a Milvus collection into a file."""
    source = vector_export.opened(args.source, args.column)
    if stores.is_milvus(args.out):
        raise InputError(f"--out {args.out}: copies go into files. Use `vectors prune` to write a collection")
    path = Path(args.out).expanduser()
    if path.exists() and not args.overwrite:
        raise InputError(f"--out {args.out} is there already: choose another name, or say --overwrite")
    check_place(path)
    like = source if isinstance(source, VectorFile) else None
    rows = 0
    with open_writer(path, dimension=source.dimension, id_type=source.id_type, like=like) as writer:
        for batch in source.batches(progress=progress):
            writer.add(batch.ids, batch.vectors, vector_export.columns(source, batch.more))
            rows += len(batch.ids)
    about = {"path": str(path), "rows": rows, "dimension": source.dimension, "bytes": path.stat().st_size}
    rounded = source.notes if isinstance(source, VectorFile) else ()
    return dict(report.plain(about | {"notes": [*rounded, *writer.notes]}))


def collections(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """The collections of a Milvus file or server: rows, vector fields, metric, aliases."""
    found = stores.collections(args.source, progress)
    return dict(report.plain({"uri": args.source, "collections": [asdict(c) for c in found]}))


def compare(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Two collections searched side by side: milliseconds, recall of the full collection's own top k, bytes."""
    from core.milvus_search import search_compare

    old, new = stores.open_source(args.source), stores.open_source(args.pruned)
    asked = read_source(args.queries or args.source, old.metric, ASKED, args.seed, progress)
    if asked.vectors.shape[1] != old.dimension:
        raise InputError(f"--queries have {asked.vectors.shape[1]} dimensions, {old.location} has {old.dimension}")
    arrays = _loaded(args.projection)
    small = asked.vectors if arrays is None else project(arrays, asked.vectors, "query")
    stands = _stands(args.groups)
    indexes = tuple(w for w in args.index.split(",") if w)
    table = search_compare(
        old, new, asked.vectors, small, k=args.k, shortlist=args.rescore, indexes=indexes, stands_for=stands,
        progress=progress,
    )  # fmt: skip
    own = [] if args.queries else [f"{len(small)} rows of {old.location.collection} ask, and find themselves first"]
    return dict(report.plain({"searches": table, "queries": len(small), "notes": [*asked.notes, *own]}))


def _loaded(path: str | None) -> dict[str, Any] | None:
    """The arrays of a projection.npz."""
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = dict(arrays)
        found["matrix"].shape[1], found["normalize"]
    except Exception as e:  # not there, no archive, or of something else: the cure is the same
        raise InputError(f"--projection {path} cannot be read. Give the projection.npz of the pruned collection") from e
    return found


def _stands(path: str | None) -> dict[str, str]:
    """Folded id -> the survivor that stands for it, from a groups.json."""
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return {str(gone): str(survivor) for survivor, rest in found.items() for gone in rest}
    except (OSError, ValueError, AttributeError, TypeError) as e:
        raise InputError(f"--groups {path} cannot be read. Give the groups.json of the pruned collection") from e


def recommend(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Factorise interactions, then remove dimensions round by round; the table that validation chose is written."""
    from core.recommend_loop import run

    out = Path(args.out).expanduser() if args.out else None
    if bool(args.users) != bool(args.items):
        raise InputError("--users and --items go together: give the vectors of both, or of neither")
    given = (Path(args.users).expanduser(), Path(args.items).expanduser()) if args.users else None
    source = Path(args.source).expanduser()
    return run(source, dimensions=args.dimensions, seed=args.seed, out=out, given=given, progress=progress)


COMMANDS = {"prune": prune, "copy": copy, "compare": compare, "recommend": recommend, "collections": collections}
