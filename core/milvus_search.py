"""Two collections searched side by side: how much faster the pruned one answers, and what of the full answer it finds.

Truth is the exact top k of the full vectors, by the collection's own metric. Queries go one by one, in turn to every
side, so that what slows the machine slows all of them. Two-stage search takes a shortlist from the pruned collection
and orders it by the full vectors, fetched by id or searched within by a filter: it needs both collections, and
gives back most of what pruning lost.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core import milvus_client as mc
from core.errors import InputError
from core.milvus_collections import build_index
from core.milvus_push import push
from core.stores import Batch, Location, Source, open_source
from core.types import Floats, Metric, Progress, quiet, unit

LOCAL_INDEXES = ("FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8", "AUTOINDEX")
SERVER_INDEXES = (*LOCAL_INDEXES, "IVF_PQ", "HNSW_PQ", "SCANN", "DISKANN")
WARM_UP = 3  # queries that are not timed

Found = tuple[str, ...]


def index_types(uri: str) -> tuple[str, ...]:
    """The index types for float vectors that a local file, or a server, builds."""
    return LOCAL_INDEXES if mc.is_local(uri) else SERVER_INDEXES


def search_compare(
    old: Source,
    new: Source,
    old_queries: Floats,
    new_queries: Floats,
    *,
    k: int = 10,
    shortlist: int = 0,
    indexes: Sequence[str] = (),
    stands_for: Mapping[str, str] | None = None,
    progress: Progress = quiet,
) -> list[dict[str, Any]]:
    """Latency, recall@k and bytes of the full collection, the pruned one and, with a shortlist, of two stages.

    old_queries  (q, d) and new_queries (q, k): the same queries, as each collection is asked
    indexes      () searches both as they are indexed; types are tried on copies that are dropped again
    stands_for   id that was folded away -> id that stands for it: its hit counts as a hit on both

    One row a side and index: search, collection, index, parameters, rows, dimension, bytes (rows · dimension · 4),
    recall@k, ms (median), ms_p95, ratio (median of the full collection's time over this one's, query by query).
    """
    _checked(old, new, old_queries, new_queries, k, shortlist, indexes)
    truth = exact(old, old_queries, k, progress)
    ask = _Ask(old_queries, new_queries, truth, k, shortlist, dict(stands_for or {}), progress)
    if not indexes:
        return _measure(old, new, ask)
    out = []
    with _copies(old, new, progress) as (a, b):
        for index in indexes:
            out += _measure(_indexed(a, index), _indexed(b, index), ask)
    names = {a.location.collection: old.location.collection, b.location.collection: new.location.collection}
    return [row | {"collection": names[row["collection"]]} for row in out]


@dataclass(frozen=True, eq=False)
class _Ask:
    """What is asked of every pair of collections."""

    old_queries: Floats
    new_queries: Floats
    truth: list[Found]
    k: int
    shortlist: int
    stands_for: Mapping[str, str]
    progress: Progress

    def recall(self, found: list[Found], folded: bool) -> float:
        """Mean share of the true ids that came up, by themselves or through what stands for them."""
        shares = []
        for wanted, hits in zip(self.truth, found, strict=True):
            up = set(hits)
            reached = (self.stands_for.get(i, i) in up if folded else i in up for i in wanted)
            shares.append(sum(reached) / len(wanted))
        return float(np.mean(shares))


def _checked(old: Source, new: Source, a: Floats, b: Floats, k: int, shortlist: int, indexes: Sequence[str]) -> None:
    for queries, source in ((a, old), (b, new)):
        if queries.ndim != 2 or queries.shape[1] != source.dimension:
            raise InputError(
                f"queries of shape {queries.shape} do not fit {source.location}: give (q, {source.dimension})."
            )
    if len(a) != len(b) or not len(a):
        raise InputError(f"{len(a)} and {len(b)} queries: give the same ones, at least one, for both collections.")
    if k < 1 or (shortlist and shortlist < k):
        raise InputError(f"k = {k}, shortlist = {shortlist}: k is at least 1 and a shortlist at least k.")
    for source in (old, new):
        for index in indexes:
            if index not in (offered := index_types(source.location.uri)):
                raise InputError(f"{source.location.uri} builds no {index}; choose among {', '.join(offered)}.")


# ---- truth --------------------------------------------------------------------------------------------------------


def exact(source: Source, queries: Floats, k: int, progress: Progress = quiet) -> list[Found]:
    """The ids of the k best rows for each query, streamed: memory is one batch and q · k scores."""
    ids: np.ndarray[Any, Any] = np.zeros((len(queries), 0), object)
    best = np.zeros((len(queries), 0), np.float32)
    for batch in source.batches(progress=progress):
        found = _scores(queries, batch.vectors, source.metric)
        best = np.hstack([best, found])
        ids = np.hstack([ids, np.broadcast_to(np.asarray(batch.ids, object), found.shape)])
        keep = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, ids = np.take_along_axis(best, keep, 1), np.take_along_axis(ids, keep, 1)
    return [tuple(row) for row in ids]


def _scores(queries: Floats, vectors: Floats, metric: Metric) -> Floats:
    """(q, n) scores: more is nearer."""
    if metric == "cosine":
        return np.asarray(unit(queries) @ unit(vectors).T)
    if metric == "dot":
        return np.asarray(queries @ vectors.T)
    x, y = queries.astype(np.float64), vectors.astype(np.float64)  # large common offsets cancel
    return np.asarray(2 * x @ y.T - (x**2).sum(1)[:, None] - (y**2).sum(1), np.float32)


# ---- sides --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Side:
    """A collection that is open and loaded."""

    client: Any
    source: Source

    def parameters(self, limit: int) -> dict[str, int]:
        """Of a search for `limit` rows; what is not named here is the server's own choice."""
        kind = self.source.index
        return {"ef": max(128, limit)} if kind.startswith("HNSW") else {"nprobe": 16} if kind.startswith("IVF") else {}

    def search(self, query: Floats, limit: int, among: Sequence[str] = ()) -> Found:
        key = self.source.id_field
        found = self.client.search(
            self.source.location.collection,
            [query.tolist()],
            anns_field=self.source.location.field,
            limit=limit,
            filter=mc.among(key, self._keys(among)) if among else "",
            search_params={"params": self.parameters(limit)},
            output_fields=[key],
            timeout=mc.CALL_SECONDS,
        )[0]
        return tuple(str(hit[key]) for hit in found)

    def rescored(self, query: Floats, ids: Sequence[str], k: int) -> Found:
        """The k best of these ids by their vectors, which are fetched."""
        key, field = self.source.id_field, self.source.location.field
        rows = self.client.query(
            self.source.location.collection,
            filter=mc.among(key, self._keys(ids)),
            output_fields=[key, field],
            timeout=mc.CALL_SECONDS,
        )
        vectors = mc.as_vectors([row[field] for row in rows], self.source.kind)
        order = np.argsort(-_scores(query[None], vectors, self.source.metric)[0], kind="stable")[:k]
        return tuple(str(rows[int(i)][key]) for i in order)

    def _keys(self, ids: Sequence[str]) -> list[str | int]:
        return [int(i) for i in ids] if self.source.id_type == "integer" else list(ids)


def _measure(old: Source, new: Source, ask: _Ask) -> list[dict[str, Any]]:
    """Every way of searching, query by query in alternation."""
    with ExitStack() as stack:
        sides = []
        for source in (old, new):
            client = stack.enter_context(mc.connect(source.location.uri))
            stack.enter_context(mc.loaded(client, source.location.uri, source.location.collection))
            mc.count(client, source.location.collection)  # what was just written is seen from here on
            sides.append(_Side(client, source))
        full, pruned = sides
        members: dict[str, list[str]] = {}
        for gone, kept in ask.stands_for.items():
            members.setdefault(kept, []).append(gone)

        def short(i: int) -> list[str]:
            found = pruned.search(ask.new_queries[i], ask.shortlist)
            return [m for hit in found for m in (hit, *members.get(hit, ()))]

        ways: dict[str, Callable[[int], Found]] = {
            "full": lambda i: full.search(ask.old_queries[i], ask.k),
            "pruned": lambda i: pruned.search(ask.new_queries[i], ask.k),
        }
        if ask.shortlist:
            ways["two-stage, fetched"] = lambda i: full.rescored(ask.old_queries[i], short(i), ask.k)
            ways["two-stage, filtered"] = lambda i: full.search(ask.old_queries[i], ask.k, short(i))
        found, times = _timed(ways, len(ask.old_queries), ask.progress)
    return [_row(way, full, pruned, found[way], times, ask) for way in ways]


def _timed(
    ways: Mapping[str, Callable[[int], Found]], queries: int, progress: Progress
) -> tuple[dict[str, list[Found]], dict[str, Floats]]:
    found: dict[str, list[Found]] = {way: [] for way in ways}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(min(WARM_UP, queries)):
        for run in ways.values():
            run(i)
    for i in range(queries):
        turn = list(ways) if i % 2 == 0 else list(ways)[::-1]
        for way in turn:
            start = time.perf_counter()
            found[way].append(ways[way](i))
            times[way].append(1000 * (time.perf_counter() - start))
        progress("searching", i + 1, queries)
    return found, {way: np.asarray(values, np.float32) for way, values in times.items()}


def _row(
    way: str, full: _Side, pruned: _Side, found: list[Found], times: Mapping[str, Floats], ask: _Ask
) -> dict[str, Any]:
    side = full if way == "full" else pruned
    held = [full.source, pruned.source] if way.startswith("two-stage") else [side.source]
    row = {
        "search": way,
        "collection": side.source.location.collection,
        "index": side.source.index or "none",
        "parameters": side.parameters(ask.shortlist if way.startswith("two-stage") else ask.k),
        "rows": side.source.rows,
        "dimension": side.source.dimension,
        "bytes": sum(4 * s.rows * s.dimension for s in held),
        f"recall@{ask.k}": ask.recall(found, folded=way == "pruned"),
        "ms": float(np.median(times[way])),
        "ms_p95": float(np.quantile(times[way], 0.95)),
        "ratio": float(np.median(times["full"] / times[way])),
    }
    return row | {"shortlist": ask.shortlist} if way.startswith("two-stage") else row


# ---- copies on which index types are tried ------------------------------------------------------------------------


@contextmanager
def _copies(old: Source, new: Source, progress: Progress) -> Iterator[tuple[Source, Source]]:
    """Ids and vectors of both in collections of their own: beside them on a server, else in a temporary file.

    They are dropped again; a comparison that is killed leaves collections `espalier_trial_…` on a server.
    """
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        copies = []
        for name, source in (("full", old), ("pruned", new)):
            local = mc.is_local(source.location.uri)
            uri = str(Path(folder) / "trial.db") if local else source.location.uri
            target = Location(uri, f"espalier_trial_{name}")
            stack.callback(_drop, uri, f"{target.collection}_{mark[:8]}")
            copies.append(_copy(source, target, mark, progress))
        yield copies[0], copies[1]


def _copy(source: Source, target: Location, mark: str, progress: Progress) -> Source:
    pushed = push(
        target,
        (Batch(b.ids, b.vectors, []) for b in source.batches(progress=progress)),
        dimension=source.dimension,
        metric=source.metric,
        id_type=source.id_type,
        source=None,
        rows=source.rows,
        fingerprint=mark,
        alias="",
        index="FLAT",
        progress=progress,
    )
    return open_source(Location(target.uri, pushed.collection))


def _drop(uri: str, collection: str) -> None:
    with mc.connect(uri, create=True) as client:
        client.drop_collection(collection, timeout=mc.CALL_SECONDS)


def _indexed(copy: Source, index: str) -> Source:
    where = copy.location
    with mc.connect(where.uri) as client:
        build_index(client, where.collection, where.field, copy.metric, index)
    return replace(copy, index=index)
