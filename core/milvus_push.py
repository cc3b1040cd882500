"""Pruned vectors into Milvus: a new collection, counted and read back, and only then an alias that names it.

The collection's name ends in the fingerprint of what is pushed, and its properties hold that fingerprint, the rows
expected and, once everything was checked, `espalier.complete`. Rows are upserted by primary key: the same push, after
a kill or twice, finds the same collection and ends with every row exactly once. An alias cannot bear the name of a
collection, so an application switches by searching the alias (`docs_pruned`) instead of the collection (`docs`);
from then on each push moves the alias, and moving it back undoes a push. Older generations and the source stay.
Fields keep their types; named partitions, scalar indexes and other vector fields are not copied.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from core import milvus_client as mc
from core.errors import InputError
from core.milvus_collections import Shape, build_index, exists, finish, generations, point, prepare, shape_of
from core.stores import Batch, IdType, Location, Source
from core.types import Floats, Metric, Progress, quiet

SAMPLE = 256  # rows read back and compared bit for bit
MAX_ROWS = 2000  # in one request

Sample = dict[int | str, tuple[Floats, dict[str, Any]]]


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    alias        names the collection now; `alias_before` is the collection it named until then, or ""
    written      rows sent; 0 where an earlier push had finished
    older        collections of earlier pushes to this target, which stay until the user drops them
    left_out     fields of the source that the copy does not hold (its other vector fields)
    """

    collection: str
    rows: int
    alias: str
    alias_before: str
    index: str
    seconds: float
    written: int
    checked: int
    older: tuple[str, ...]
    left_out: tuple[str, ...]


def push(
    target: Location,
    batches: Iterable[Batch],
    *,
    dimension: int,
    metric: Metric,
    id_type: IdType,
    source: Source | None,
    rows: int,
    fingerprint: str,
    alias: str | None = None,
    index: str = "AUTOINDEX",
    progress: Progress = quiet,
) -> Pushed:
    """Write `rows` rows to a new collection beside the target's name, check them, and let the alias name it.

    target       FILE.db#NAME or http://…#NAME: the collection becomes NAME_ + 8 hex digits of the fingerprint
    fingerprint  stands for source and plan (hex): the same push finds the same collection
    source       where ids and other fields come from; None makes them dynamic fields
    alias        NAME_pruned where it is not given, "" for none

    InputError where Milvus does not answer or refuses, where ids repeat or vectors do not fit, where the alias is
    the name of a collection, or a collection of that name is not this push's. The alias then is what it was.
    """
    start = time.monotonic()
    shape = shape_of(target, dimension, metric, id_type, source, rows, fingerprint)
    alias = f"{target.collection}_pruned" if alias is None else alias
    with mc.connect(target.uri, create=True) as client:
        if alias and exists(client, alias):
            raise InputError(f"{alias} is a collection, and an alias needs a name of its own; give another alias.")
        complete = prepare(client, target.uri, shape, source)
        sample, written = _write(client, shape, batches, not complete, progress)
        kind = build_index(client, shape.name, shape.field, metric, index, keep=complete)
        _check(client, shape, sample)
        finish(client, shape)
        before = point(client, alias, shape.name) if alias else ""
        older = generations(client, target.collection, shape.name)
    return Pushed(
        collection=shape.name,
        rows=rows,
        alias=alias,
        alias_before=before,
        index=kind,
        seconds=time.monotonic() - start,
        written=written,
        checked=len(sample),
        older=older,
        left_out=source.left_out if source else (),
    )


# ---- the rows ---------------------------------------------------------------------------------------------------


def _write(client: Any, shape: Shape, batches: Iterable[Batch], send: bool, progress: Progress) -> tuple[Sample, int]:
    """Upsert every batch, and keep a seeded sample of the rows; with `send` False only the sample is drawn."""
    seed = int(shape.fingerprint[:8], 16)
    drawn = np.random.default_rng(seed).choice(shape.rows, min(SAMPLE, shape.rows), replace=False)
    wanted = set(drawn.tolist())
    sample: Sample = {}
    done = 0
    for batch in batches:
        _fitting(batch, shape)
        for i in range(len(batch)):
            if done + i in wanted:
                sample[shape.id(batch.ids[i])] = (batch.vectors[i].copy(), batch.more[i] if batch.more else {})
        for rows in _requests(batch, shape) if send else ():
            client.upsert(shape.name, rows, timeout=mc.CALL_SECONDS)
        done += len(batch)
        progress(f"writing {shape.name}" if send else f"checking {shape.name}", done, max(done, shape.rows))
    if done != shape.rows:
        raise InputError(f"{done:,} rows came where {shape.rows:,} were announced; nothing was switched, push again.")
    if send:
        client.flush(shape.name, timeout=mc.CALL_SECONDS)
    return sample, done if send else 0


def _fitting(batch: Batch, shape: Shape) -> None:
    taken = {shape.key, shape.field}.intersection(batch.more[0] if batch.more else ())
    if taken:
        raise InputError(f"a field {min(taken)!r} would overwrite the id or the vector; rename it.")
    if batch.vectors.shape != (len(batch), shape.dimension):
        raise InputError(
            f"vectors of shape {batch.vectors.shape} do not fit {len(batch)} rows of {shape.dimension} dimensions; "
            "push what the plan made."
        )
    bad = np.flatnonzero(~np.isfinite(batch.vectors).all(axis=1))
    if len(bad):
        raise InputError(f"the vector of {batch.ids[int(bad[0])]!r} holds NaN or Inf; mend or remove such rows.")


def _requests(batch: Batch, shape: Shape) -> Iterator[list[dict[str, Any]]]:
    """The rows of a batch in parts that a server accepts in one request."""
    vectors = np.ascontiguousarray(batch.vectors, np.float32)
    part: list[dict[str, Any]] = []
    size = 0
    for i, name in enumerate(batch.ids):
        more = batch.more[i] if batch.more else {}
        part.append({**more, shape.key: shape.id(name), shape.field: vectors[i]})
        size += 4 * shape.dimension + sum(len(str(v)) for v in more.values())
        if len(part) == MAX_ROWS or size > mc.PAGE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _check(client: Any, shape: Shape, sample: Sample) -> None:
    """Count the collection and read the sample back; InputError where rows are missing or differ."""
    found = mc.count(client, shape.name)
    if found != shape.rows:
        why = "ids repeat in what was pushed" if found < shape.rows else "something else writes to it"
        raise InputError(
            f"{shape.name} holds {found:,} rows where {shape.rows:,} were pushed: {why}. "
            "The alias is unchanged; mend that, drop the collection and push again."
        )
    ids = list(sample)
    rows = client.query(
        shape.name,
        filter=mc.among(shape.key, ids),
        output_fields=["*"],
        consistency_level="Strong",
        timeout=mc.CALL_SECONDS,
    )
    back = {row[shape.key]: row for row in rows}
    for name, (vector, more) in sample.items():
        row = back.get(name, {})
        same = np.asarray(row.get(shape.field, ()), np.float32).tobytes() == vector.astype(np.float32).tobytes()
        if not same or any(_plain(row.get(k)) != _plain(v) for k, v in more.items()):
            raise InputError(
                f"row {name!r} of {shape.name} reads back differently from what was pushed: something else writes to "
                "it. The alias is unchanged; drop the collection and push again."
            )


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=lambda v: list(v) if hasattr(v, "__iter__") else str(v))
