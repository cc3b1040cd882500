"""Vectors that live in Milvus: what is there, and a collection's rows streamed in batches.

A source or target is written `FILE.db#collection` or `http://host:19530#collection`, with `/field` behind it where
the collection holds several vector fields. Pages are cut by primary key, so that memory is bounded and every row
comes exactly once. `core.milvus_push` writes a collection, `core.milvus_search` compares two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from core import milvus_client as mc
from core.errors import Fault, InputError
from core.types import Floats, Metric, Progress, quiet

METRICS: Mapping[str, Metric] = {"COSINE": "cosine", "IP": "dot", "L2": "l2"}
READABLE = ("FLOAT_VECTOR", "FLOAT16_VECTOR", "BFLOAT16_VECTOR")
IdType = Literal["string", "integer"]


@dataclass(frozen=True)
class Location:
    """A collection: where it is, its name, and its vector field ("" = the only one)."""

    uri: str
    collection: str
    field: str = ""

    def __str__(self) -> str:
        return f"{self.uri}#{self.collection}" + (f"/{self.field}" if self.field else "")


@dataclass(frozen=True)
class VectorField:
    """A vector field with its Milvus type, its dimension, its metric (None without an index) and its index's type."""

    name: str
    kind: str
    dimension: int
    metric: Metric | None = None
    index: str = ""

    @property
    def readable(self) -> bool:
        return self.kind in READABLE


@dataclass(frozen=True)
class CollectionInfo:
    """One collection of a database; `rows` is the server's own estimate, exact in a local file."""

    name: str
    rows: int
    vectors: tuple[VectorField, ...]
    id_field: str
    id_type: IdType
    aliases: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows: their ids as text, their vectors (n, d), and a mapping of the other fields for each row."""

    ids: tuple[str, ...]
    vectors: Floats
    more: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Source:
    """A collection that was found and can be read.

    fields     the other scalar fields, in the schema's order; `left_out` those that a copy cannot keep
    metric     that of the index; cosine, Milvus's own default, where `index` is ""
    raw        the schema as the server describes it
    """

    location: Location
    rows: int
    dimension: int
    metric: Metric
    id_type: IdType
    id_field: str
    kind: str
    index: str
    fields: tuple[str, ...]
    left_out: tuple[str, ...]
    dynamic: bool
    raw: Mapping[str, Any]

    @property
    def kinds(self) -> dict[str, str]:
        """Each field's type, as Milvus names it."""
        return {f["name"]: getattr(f["type"], "name", str(f["type"])) for f in self.raw["fields"]}

    def batches(self, size: int = 8192, progress: Progress = quiet) -> Iterator[Batch]:
        """Every row exactly once, in the order of the primary keys, `size` rows at most at a time.

        InputError where the collection gains or loses rows meanwhile.
        """
        name, done = self.location.collection, 0
        size = max(1, min(size, mc.LARGEST_PAGE, mc.PAGE_BYTES // (4 * self.dimension)))
        with mc.connect(self.location.uri) as client, mc.loaded(client, self.location.uri, name):
            for rows in self._pages(client, size):
                done += len(rows)
                progress(f"reading {name}", done, max(done, self.rows))
                yield self._batch(rows)
        if done != self.rows:
            raise InputError(
                f"{self.location} held {self.rows:,} rows and {done:,} were read: "
                "it changed meanwhile; stop what writes to it and try again."
            )

    def _pages(self, client: Any, size: int) -> Iterator[list[dict[str, Any]]]:
        wanted = [self.id_field, self.location.field, *self.fields, *(["$meta"] if self.dynamic else [])]
        last: Any = None
        while True:  # the library's own iterator fails on keys with quotes and on the empty one
            rows = list(
                client.query(
                    self.location.collection,
                    filter="" if last is None else f"{self.id_field} > {mc.literal(last)}",
                    output_fields=wanted,
                    limit=size,
                    iterator="True",  # pages in the order of the primary keys
                    reduce_stop_for_best="True",
                    consistency_level="Strong",
                    timeout=mc.CALL_SECONDS,
                )
            )
            if not rows:
                return
            keys = [*([] if last is None else [last]), *(row[self.id_field] for row in rows)]
            if any(b <= a for a, b in pairwise(keys)):
                raise Fault(f"{self.location} handed out its rows out of order; no row can be trusted to come once.")
            yield rows
            last = keys[-1]

    def _batch(self, rows: list[dict[str, Any]]) -> Batch:
        vectors = [row.pop(self.location.field) for row in rows]
        if any(v is None for v in vectors):
            key = rows[next(i for i, v in enumerate(vectors) if v is None)][self.id_field]
            raise InputError(f"{self.location}: row {key!r} has no vector; remove such rows or fill them.")
        ids = tuple(str(row.pop(self.id_field)) for row in rows)
        more = [{k: list(v) if _repeated(v) else v for k, v in row.items()} for row in rows]
        return Batch(ids, mc.as_vectors(vectors, self.kind), more)


def _repeated(value: Any) -> bool:
    return not isinstance(value, str | bytes | dict | list) and hasattr(value, "__iter__")


def is_milvus(spec: str) -> bool:
    """Whether a source or target names Milvus: a server, or a `.db` file with or without its collection."""
    return not mc.is_local(spec) or spec.endswith(".db") or ".db#" in spec


def parse(spec: str) -> Location:
    """`FILE.db#collection[/field]` or `http://host:port#collection[/field]`; InputError says what is missing."""
    if not mc.is_local(spec) and (problem := mc.address_problem(spec.rpartition("#")[0] or spec)):
        raise InputError(problem)
    if not mc.is_local(spec) and "@" in spec:
        raise InputError(mc.address_problem("@"))
    uri, _, rest = spec.rpartition("#")
    name, _, field = rest.partition("/")
    if not uri or not name:
        raise InputError(f"{spec} names no collection; write {spec.rstrip('#')}#COLLECTION.")
    if mc.is_local(uri) and not uri.endswith(".db"):
        raise InputError(f"{uri} is neither a .db file nor an http:// address; write FILE.db#{rest}.")
    if "/" in field:
        raise InputError(f"{rest} names more than a collection and a field; write {name}/FIELD.")
    return Location(uri, name, field)


def collections(uri: str, progress: Progress = quiet) -> list[CollectionInfo]:
    """What a local file or a server holds, by name; nothing is loaded."""
    if not mc.is_local(uri) and (problem := mc.address_problem(uri)):
        raise InputError(problem)
    with mc.connect(uri) as client:
        names = sorted(client.list_collections(timeout=mc.CONNECT_SECONDS))
        out = []
        for i, name in enumerate(names):
            progress("listing collections", i, len(names))
            out.append(_info(client, name))
    progress("listing collections", len(names), len(names))
    return out


def _info(client: Any, name: str) -> CollectionInfo:
    raw = client.describe_collection(name, timeout=mc.CONNECT_SECONDS)
    rows = int(client.get_collection_stats(name, timeout=mc.CONNECT_SECONDS)["row_count"])
    key = _key(raw, name)
    aliases = client.list_aliases(name, timeout=mc.CONNECT_SECONDS)["aliases"]
    return CollectionInfo(name, rows, _vectors(client, raw), key["name"], _id_type(key), tuple(sorted(aliases)))


def _key(raw: Mapping[str, Any], where: object) -> Mapping[str, Any]:
    for field in raw["fields"]:
        if field.get("is_primary"):
            return dict(field)
    raise InputError(f"{where} has no primary key, so its rows cannot be told apart; copy it into one that has.")


def _id_type(key: Mapping[str, Any]) -> IdType:
    return "string" if key["type"].name == "VARCHAR" else "integer"


def _is_vector(field: Mapping[str, Any]) -> bool:
    return "VECTOR" in field["type"].name


def _vectors(client: Any, raw: Mapping[str, Any]) -> tuple[VectorField, ...]:
    name = raw["collection_name"]
    indexes = {}
    for index in client.list_indexes(name, timeout=mc.CONNECT_SECONDS):
        about = client.describe_index(name, index, timeout=mc.CONNECT_SECONDS) or {}
        indexes[about.get("field_name", "")] = about
    out = []
    for field in filter(_is_vector, raw["fields"]):
        index = indexes.get(field["name"], {})
        metric, kind = METRICS.get(index.get("metric_type", "")), field["type"].name
        out.append(
            VectorField(field["name"], kind, int(field["params"].get("dim", 0)), metric, index.get("index_type", ""))
        )
    return tuple(out)


def open_source(spec: str | Location) -> Source:
    """The collection with its rows counted (strongly consistent). An alias is followed to its collection.

    InputError where there is no such collection or field, or its vectors are not float ones.
    """
    where = parse(spec) if isinstance(spec, str) else spec
    with mc.connect(where.uri) as client:
        if not client.has_collection(where.collection, timeout=mc.CONNECT_SECONDS):
            there = sorted(client.list_collections(timeout=mc.CONNECT_SECONDS))
            raise InputError(
                f"there is no collection {where.collection} in {where.uri}; it holds {', '.join(there) or 'none'}."
            )
        raw = client.describe_collection(where.collection, timeout=mc.CONNECT_SECONDS)
        where = replace(where, collection=raw["collection_name"])
        vector = _choose(_vectors(client, raw), where)
        with mc.loaded(client, where.uri, where.collection):
            rows = mc.count(client, where.collection)
    if not rows:
        raise InputError(f"{where} holds no rows; name a collection with vectors in it.")
    key = _key(raw, where)
    others = [f for f in raw["fields"] if f["name"] not in (key["name"], vector.name)]
    left = [f["name"] for f in others if _is_vector(f)] + [f["name"] for f in raw.get("struct_array_fields") or []]
    return Source(
        location=replace(where, field=vector.name),
        rows=rows,
        dimension=vector.dimension,
        metric=vector.metric or "cosine",
        id_type=_id_type(key),
        id_field=key["name"],
        kind=vector.kind,
        index=vector.index,
        fields=tuple(f["name"] for f in others if not _is_vector(f)),
        left_out=tuple(left),
        dynamic=bool(raw.get("enable_dynamic_field")),
        raw=raw,
    )


def _choose(found: tuple[VectorField, ...], where: Location) -> VectorField:
    readable = [v for v in found if v.readable]
    there = ", ".join(f"{v.name} ({v.kind.lower()}, {v.dimension})" for v in found) or "none"
    named = [v for v in found if v.name == where.field] if where.field else readable
    if where.field and not named:
        raise InputError(f"{where.collection} has no vector field {where.field}; it has {there}.")
    if not named or not named[0].readable:
        raise InputError(f"{where} holds no float vectors, only {there}; name a field of float, float16 or bfloat16.")
    if len(named) > 1:
        raise InputError(f"{where} has several vector fields: {there}; write {where}/FIELD.")
    return named[0]
