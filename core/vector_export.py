"""Pruned vectors written back: to a file of any vector format or to a Milvus collection, a batch at a time.

write(spec, bench, cut, out)     the rows that stay, behind the dimension cut, under their own ids; then read again
sidecars beside a file           NAME.projection.npz, NAME.groups.json, NAME.codebook.npz, NAME.reader.py
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import registry, stores
from core.bench import Bench
from core.data.vector_files import SUFFIXES, Batch, VectorFile, open_vectors, open_writer
from core.errors import Fault, InputError
from core.export import vectors as forms
from core.milvus_client import is_local
from core.pipeline import Cutting
from core.plan import Step
from core.rows import everything, folded
from core.select import apply
from core.store import check_place, home, sha256, write_atomic
from core.thinning import cut_judges
from core.types import Floats, Progress, Reduction, Rows, digest, quiet
from core.vector_bench import open_bench, scaled
from core.vector_sidecars import begin, beside, check_ours, listed, write_sidecars

_SAMPLE = 256  # rows that are read again and compared
_CODED = (".npy", ".parquet")
Source = VectorFile | stores.Source


def opened(spec: str, column: str | None = None) -> Source:
    """The source as a stream: its header only. Raises InputError or DataError."""
    return stores.open_source(spec) if stores.is_milvus(spec) else open_vectors(Path(spec).expanduser(), column)


def check_out(spec: str, out: str, plan: Any) -> None:
    """Refuse, before any work, what cannot be written."""
    coded = registry.parts(plan).codes
    if stores.is_milvus(out):
        if coded:
            raise InputError(f"{coded.name}: Milvus is given float vectors. Leave the step out, or write a file")
        if is_local(uri := stores.parse(out).uri):
            check_place(Path(uri))
        return
    path = Path(out).expanduser()
    allowed = _CODED if coded else None
    if allowed and path.suffix.lower() not in allowed:
        raise InputError(f"--out {path.name}: codes are written as {' or '.join(allowed)}. Choose one of them")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {path.name} has no suffix of a vector file: give one of {', '.join(SUFFIXES)}")
    if not stores.is_milvus(spec) and path.exists() and path.samefile(Path(spec).expanduser()):
        raise InputError(f"--out {out} is the file that is read: choose another one")
    check_ours(path)


def all_rows(
    spec: str, source: Source, bench: Bench, cut: Cutting, steps: Sequence[Step], *, queries: Path | None = None,
    column: str | None = None, progress: Progress = quiet,
) -> Rows:  # fmt: skip
    """Which rows of the whole source stay. Where only a sample was judged, the plan's vector steps are done on all."""
    if not steps:
        return everything(source.rows)
    if len(bench.judges[0].documents) == source.rows:
        return cut.rows[0]
    check_memory(source)
    whole = open_bench(
        [spec], queries=queries, metric=bench.model.metric, seed=bench.seed, column=column, progress=progress
    )
    return cut_judges(whole, cut.reduction, steps, progress)[0][0]


def check_memory(source: Source) -> None:
    """Raise InputError where the rows, which are ranked in memory, do not fit into it."""
    needed = 3 * 4 * source.rows * source.dimension
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        there = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return
    if needed > there:
        raise InputError(
            f"ranking {source.rows:,} vectors of {source.dimension} dimensions takes {needed / 1e9:.1f} GB, "
            f"{there / 1e9:.1f} GB are free: cut dimensions into a file first, then its rows"
        )


@dataclass(eq=False)
class _Stream:
    """The rows that stay, batch by batch as they are to be written; a seeded few are kept to be compared."""

    source: Source
    rows: Rows
    cut: Cutting
    metric: Any
    ids: tuple[str, ...]
    progress: Progress

    def __post_init__(self) -> None:
        taken = np.random.default_rng(0).permutation(len(self.rows))[:_SAMPLE]
        self.wanted, self.sample = np.sort(taken), dict[str, Floats]()

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], Floats, Any]]:
        stays = np.zeros(len(self.rows.stands), bool)
        stays[self.rows.kept] = True
        start = done = 0
        for batch in self.source.batches(progress=self.progress):
            if len(self.ids) == len(stays) and self.ids[start : start + len(batch.ids)] != batch.ids:
                raise InputError("the source has changed since it was judged: stop what writes to it and try again")
            mine = np.flatnonzero(stays[start : start + len(batch.ids)])
            start += len(batch.ids)
            if not len(mine):
                continue
            x = batch.vectors[mine]
            if self.rows.vectors is not None:
                x = self.rows.vectors[done : done + len(mine)]
            small = pruned(self.cut.reduction, x, self.metric)
            ids = tuple(batch.ids[i] for i in mine)
            for place in self.wanted[(self.wanted >= done) & (self.wanted < done + len(mine))] - done:
                self.sample[ids[place]] = small[place].copy()
            done += len(mine)
            yield ids, small, _some(batch, mine)


def pruned(reduction: Reduction, x: Floats, metric: Any) -> Floats:
    """A source's own vectors behind a dimension cut; as they are, to the bit, where none is made."""
    return x if reduction.identity else apply(reduction, scaled(x, metric))


def _some(batch: Batch | stores.Batch, rows: NDArray[np.int64]) -> Any:
    """The other columns of some rows, in the form in which they came."""
    if batch.more is None:
        return None
    return [batch.more[i] for i in rows] if isinstance(batch.more, list) else batch.more.take(_arrow(rows))


def _arrow(rows: NDArray[np.int64]) -> Any:
    import pyarrow as pa

    return pa.array(rows)


def write(
    spec: str, source: Source, rows: Rows, bench: Bench, cut: Cutting, out: str, *, alias: str | None = None,
    dtype: Any = "float32", progress: Progress = quiet,
) -> dict[str, Any]:  # fmt: skip
    """Write what stays, read it again and compare. Raises Fault where it differs: no file of that name then stays."""
    ids = bench.judges[0].dataset.documents.ids
    stream = _Stream(source, rows, cut, bench.model.metric, ids, progress)
    every = ids if len(ids) == source.rows or not len(folded(rows)) else _ids(source)
    if stores.is_milvus(out):
        done = _to_milvus(spec, stream, bench, cut, out, alias, progress)
        return done | write_sidecars(_place(out, str(done["collection"])), cut, rows, every)
    path = Path(out).expanduser()
    done = _codes(stream, cut, path) if cut.codes else _vectors(stream, cut, path, dtype, progress)
    files = write_sidecars(path, cut, rows, every)
    return done | {
        "path": str(path), "format": path.suffix.lower().lstrip("."), "rows": len(rows), "bytes": path.stat().st_size,
        "sha256": sha256(path), **files, "beside": listed(path),
    }  # fmt: skip


def _place(out: str, collection: str) -> Path:
    """Where the files beside a collection go: next to a local database, else into Espalier's own folder."""
    uri = stores.parse(out).uri
    folder = Path(uri).parent if is_local(uri) else home() / "exports"
    return folder / f"{collection}.milvus"


def _ids(source: Source) -> tuple[str, ...]:
    return tuple(name for batch in source.batches() for name in batch.ids)


def _vectors(stream: _Stream, cut: Cutting, path: Path, dtype: Any, progress: Progress) -> dict[str, Any]:
    source = stream.source
    like = source if isinstance(source, VectorFile) else None
    size, begun = cut.reduction.size, partial(begin, path)
    with open_writer(path, dimension=size, id_type=source.id_type, dtype=dtype, like=like, begun=begun) as writer:
        for ids, small, more in stream:
            writer.add(ids, small, columns(source, more))
        said = writer.notes
    found, worst, left = 0, 0.0, dict(stream.sample)
    for batch in open_vectors(path).batches(progress=progress):
        found += len(batch.ids)
        for i, name in enumerate(batch.ids):
            if name in left:
                wanted = left.pop(name).astype(dtype).astype(np.float32)
                worst = max(worst, float(np.abs(batch.vectors[i] - wanted).max()))
    if found != len(stream.rows) or left or worst:
        path.unlink()
        raise Fault(f"{path.name} read again held {found:,} of {len(stream.rows):,} rows, differing by {worst:.1e}")
    half = ("figures are of 32-bit floats; the file holds 16-bit ones",) if dtype == "float16" else ()
    return {"read_again": len(stream.sample), "max_difference": worst, "notes": [*said, *half]}


def columns(source: Source, more: Any) -> Any:
    """Other fields as Arrow columns: a file's own as they came, a collection's by the types of its schema."""
    if not isinstance(source, stores.Source):
        return more
    import pyarrow as pa

    kinds = {"VARCHAR": pa.string(), "BOOL": pa.bool_(), "INT8": pa.int64(), "INT16": pa.int64(), "INT32": pa.int64(),
             "INT64": pa.int64(), "FLOAT": pa.float64(), "DOUBLE": pa.float64()}  # fmt: skip
    out = {n: _column([row.get(n) for row in more], kinds.get(source.kinds[n])) for n in source.fields}
    if source.dynamic:
        out["$meta"] = _column([{k: v for k, v in row.items() if k not in source.fields} for row in more], None)
    return pa.table(out)


def _column(values: list[Any], kind: Any) -> Any:
    """Arrow cells of a type; what has none stands as JSON."""
    import pyarrow as pa

    if kind is not None:
        return pa.array(values, kind)
    texts = [None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values]
    return pa.array(texts, pa.string())


def _codes(stream: _Stream, cut: Cutting, path: Path) -> dict[str, Any]:
    """Codes are small: they are gathered, then written at once with their ids; other columns go into a Parquet."""
    assert cut.codes is not None
    ids: list[str] = []
    parts, payload = [], []
    for names, small, more in stream:
        ids += names
        parts.append(cut.codes.encode(small))
        payload.append(columns(stream.source, more))
    stored, (others, said) = np.concatenate(parts), _beside_codes(payload, path)
    data = forms.npy(stored) if path.suffix.lower() == ".npy" else forms.coded_parquet(ids, stored, others)
    write_atomic(path, data, partial(begin, path))
    if path.suffix.lower() == ".npy":
        write_atomic(beside(path, "ids.json"), json.dumps(ids).encode())
    place = {name: i for i, name in enumerate(ids)}
    rows = np.array([place[n] for n in stream.sample], np.int64)
    wanted = cut.codes.decode(cut.codes.encode(np.stack(list(stream.sample.values()))))
    worst = float(np.abs(cut.codes.decode(stored[rows]) - wanted).max(initial=0.0))
    return {"read_again": len(rows), "max_difference": worst, "notes": said}


def _beside_codes(payload: list[Any], path: Path) -> tuple[Any, list[str]]:
    """The other columns as one Arrow table, or None, and what of them the file has no place for."""
    import pyarrow as pa

    if not payload or payload[0] is None:
        return None, []
    table = pa.concat_tables([t if isinstance(t, pa.Table) else pa.Table.from_batches([t]) for t in payload])
    out = [n for n in table.schema.names if path.suffix.lower() == ".npy" or n in forms.CODED]
    said = [f"columns left out, for there is no place beside the codes: {', '.join(out)}"] if out else []
    return table.drop_columns(out), said


def _to_milvus(
    spec: str, stream: _Stream, bench: Bench, cut: Cutting, out: str, alias: str | None, progress: Progress
) -> dict[str, Any]:
    from core.milvus_push import push

    source = stream.source
    fingerprint = digest(spec, str(cut.resolved), str(cut.reduction.metric), stream.rows.stands, _content(stream))
    target = stores.parse(out)
    index = "FLAT" if is_local(target.uri) else "AUTOINDEX"  # a local file is built nine times as fast so
    batches = (stores.Batch(ids, small, _payload(more, len(ids))) for ids, small, more in stream)
    done = push(
        target, batches, dimension=cut.reduction.size, metric=cut.reduction.metric,
        id_type="string" if source.id_type == "row" else source.id_type,
        source=source if isinstance(source, stores.Source) else None, rows=len(stream.rows), fingerprint=fingerprint,
        alias=alias, index=index, progress=progress,
    )  # fmt: skip
    size = 4 * done.rows * cut.reduction.size
    said = {k: v for k, v in done.__dict__.items() if k != "checked"}
    about = {"path": target.uri, "format": "milvus", "bytes": size, "max_difference": 0.0, "read_again": done.checked}
    return about | said


def _content(stream: _Stream) -> str:
    """One pass over the rows as they will be pushed: another id, number or field, another collection."""
    found = hashlib.sha256()
    for ids, small, more in stream:
        fields = json.dumps(_payload(more, len(ids)), sort_keys=True, default=str)
        found.update(digest(json.dumps(ids), small, fields).encode())
    return found.hexdigest()


def _payload(more: Any, count: int) -> list[dict[str, Any]]:
    """Other columns as Milvus's dynamic fields; what JSON has not stands as text, NaN as nothing."""
    if more is None:
        return [{} for _ in range(count)]
    return (
        list(more) if isinstance(more, list) else [{k: _plain(v) for k, v in row.items()} for row in more.to_pylist()]
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
