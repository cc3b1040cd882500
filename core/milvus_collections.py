"""What stands around the rows of a push: the new collection, the marks that say whose it is, its index, its alias."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import milvus_client as mc
from core.errors import InputError
from core.stores import METRICS, IdType, Location, Source
from core.types import Metric

FINGERPRINT, ROWS, COMPLETE = "espalier.fingerprint", "espalier.rows", "espalier.complete"
LONGEST = 65535  # characters of a text field, Milvus's own limit
BUILD = {"HNSW": {"M": 16, "efConstruction": 200}, "IVF": {"nlist": 128}}  # what a local file builds, whatever is asked


@dataclass(frozen=True)
class Shape:
    """The new collection: its name, its two fields, and what it is to hold."""

    name: str
    key: str
    field: str
    dimension: int
    metric: Metric
    id_type: IdType
    rows: int
    fingerprint: str

    def id(self, text: str) -> int | str:
        """The id as Milvus keeps it; `007` is no integer, since it would come back as `7`."""
        if self.id_type == "string":
            return text
        if not re.fullmatch(r"0|-?[1-9][0-9]{0,18}", text) or not -(1 << 63) <= int(text) < 1 << 63:
            raise InputError(f"id {text!r} is no integer of 64 bits, as ids of {self.name} are; push with text ids.")
        return int(text)


def shape_of(
    target: Location, dimension: int, metric: Metric, id_type: IdType, source: Source | None, rows: int, mark: str
) -> Shape:
    """What a push asks for; InputError where it can be no collection."""
    if not re.fullmatch(r"[0-9a-f]{8,}", mark):
        raise InputError(f"fingerprint {mark!r} is not at least 8 hex digits; use the digest of source and plan.")
    if rows < 1 or dimension < 1:
        raise InputError(f"nothing to push: {rows} rows of {dimension} dimensions; keep at least one of each.")
    return Shape(
        name=f"{target.collection}_{mark[:8]}",
        key=source.id_field if source else "id",
        field=target.field or (source.location.field if source else "vector"),
        dimension=dimension,
        metric=metric,
        id_type=id_type,
        rows=rows,
        fingerprint=mark,
    )


def exists(client: Any, name: str) -> bool:
    """Whether a collection, not only an alias, has the name."""
    return name in client.list_collections(timeout=mc.CONNECT_SECONDS)


def prepare(client: Any, uri: str, shape: Shape, source: Source | None) -> bool:
    """Find this push's collection or create it; True where an earlier push finished it.

    InputError where a collection of that name is not this push's.
    """
    if exists(client, shape.name):
        return _found(client, shape)
    folder = Path(uri) / "collections" / shape.name
    if mc.is_local(uri) and folder.is_dir():  # a local file was killed while it created the collection
        shutil.rmtree(folder)
    _create(client, shape, source)
    return False


def _found(client: Any, shape: Shape) -> bool:
    raw = client.describe_collection(shape.name, timeout=mc.CONNECT_SECONDS)
    held = raw.get("properties", {})
    fields = {f["name"]: (f["type"].name, f["params"].get("dim"), bool(f.get("is_primary"))) for f in raw["fields"]}
    ours = (
        (held.get(FINGERPRINT), held.get(ROWS)) == (shape.fingerprint, str(shape.rows))
        and fields.get(shape.field) == ("FLOAT_VECTOR", shape.dimension, False)
        and fields.get(shape.key) in (("VARCHAR" if shape.id_type == "string" else "INT64", None, True),)
    )
    if not ours:
        raise InputError(
            f"a collection {shape.name} is there already and is not of this push; it is left alone: "
            "rename or drop it, or push to another name."
        )
    return bool(held.get(COMPLETE) == str(shape.rows))


def _create(client: Any, shape: Shape, source: Source | None) -> None:
    from pymilvus import CollectionSchema, DataType, FieldSchema

    raw = {f["name"]: f for f in source.raw["fields"]} if source else {}
    key: dict[str, Any] = {"dtype": DataType.INT64}
    if shape.id_type == "string":
        old = raw[shape.key]["params"] if source and source.id_type == "string" else {}
        key = {"dtype": DataType.VARCHAR, "max_length": int(old.get("max_length", LONGEST))}
    fields = [
        FieldSchema(shape.key, is_primary=True, auto_id=False, **key),
        FieldSchema(shape.field, DataType.FLOAT_VECTOR, dim=shape.dimension),
        *(FieldSchema.construct_from_dict(_whole(raw[name])) for name in (source.fields if source else ())),
    ]
    client.create_collection(
        shape.name,
        schema=CollectionSchema(fields, enable_dynamic_field=source is None or source.dynamic),
        properties={FINGERPRINT: shape.fingerprint, ROWS: str(shape.rows)},
        consistency_level=source.raw["consistency_level"] if source else "Bounded",
        timeout=mc.CALL_SECONDS,
    )


def _whole(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A field's description with what a local file forgets of it and a server demands."""
    texts = raw["type"].name == "ARRAY" and getattr(raw.get("element_type"), "name", "") == "VARCHAR"
    return {**raw, "params": {**({"max_length": LONGEST} if texts else {}), **raw["params"]}}


def finish(client: Any, shape: Shape) -> None:
    """The mark without which a collection is never taken for a finished one."""
    client.alter_collection_properties(shape.name, {COMPLETE: str(shape.rows)}, timeout=mc.CALL_SECONDS)


def build_index(client: Any, name: str, field: str, metric: Metric, index: str, *, keep: bool = False) -> str:
    """Index the field and load the collection; its index's type.

    keep: leave an index that loads. One that a killed push left behind may be torn, and is built again.
    """
    from pymilvus import MilvusException

    if keep:
        try:
            client.load_collection(name, timeout=mc.CALL_SECONDS)
            return str(client.describe_index(name, field, timeout=mc.CONNECT_SECONDS)["index_type"])
        except (MilvusException, TypeError):
            pass  # torn or gone
    if client.list_indexes(name, field_name=field, timeout=mc.CONNECT_SECONDS):
        client.release_collection(name, timeout=mc.CALL_SECONDS)
        client.drop_index(name, field, timeout=mc.CALL_SECONDS)
    params = client.prepare_index_params()
    theirs = next(theirs for theirs, ours in METRICS.items() if ours == metric)
    built = {"params": BUILD[index.split("_")[0]]} if index.split("_")[0] in BUILD else {}
    params.add_index(field, index_type=index, index_name=field, metric_type=theirs, **built)
    client.create_index(name, params, timeout=mc.CALL_SECONDS)
    client.load_collection(name, timeout=mc.CALL_SECONDS)
    return index


def point(client: Any, alias: str, name: str) -> str:
    """Let the alias name the collection; what it named before, or ""."""
    from pymilvus import MilvusException

    try:
        before = str(client.describe_alias(alias, timeout=mc.CONNECT_SECONDS)["collection_name"])
    except MilvusException:
        client.create_alias(name, alias, timeout=mc.CONNECT_SECONDS)
        return ""
    if before != name:
        client.alter_alias(name, alias, timeout=mc.CONNECT_SECONDS)
    return before


def generations(client: Any, base: str, name: str) -> tuple[str, ...]:
    """Collections of other pushes to the same name; they stay until the user drops them."""
    mine = re.compile(rf"{re.escape(base)}_[0-9a-f]{{8}}")
    there = [n for n in client.list_collections(timeout=mc.CONNECT_SECONDS) if mine.fullmatch(n) and n != name]
    marks = {n: client.describe_collection(n, timeout=mc.CONNECT_SECONDS).get("properties", {}) for n in there}
    return tuple(sorted(n for n, held in marks.items() if FINGERPRINT in held))
