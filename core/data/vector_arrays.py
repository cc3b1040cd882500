"""Vectors in npy, npz and safetensors files; headers are checked against the bytes that are there.

npy          ids stand beside it: `<stem>.ids.txt` (one a line; a line that starts with a double quote is a JSON
             string), else `words.json` or `ids.json` (a JSON list)
npz          `vectors`, or the only 2-D array of floats; `ids`, strings or integers
safetensors  `vectors`, or the only 2-D tensor of floats; `ids` (integers), or `ids_json` (uint8: a JSON list as UTF-8)
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data.readers import lines, shown
from core.data.vector_record import FLOATS, IdType, Part, VectorFile, check_cap, check_shape, check_type
from core.errors import DataError, InputError, ModelRefused

LISTS = ("words.json", "ids.json")
_ENTRIES = 2_000


@dataclass(frozen=True)
class _Header:
    """What the header of a npy says, and how many bytes that makes, header included."""

    shape: tuple[int, ...]
    columns_first: bool
    dtype: np.dtype[Any]
    size: int


def _header(stream: Any, path: Path) -> _Header:
    """DataError where it is no npy, of a structured or pickled type, or promises other bytes than are there."""
    versions: Mapping[Any, Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, columns_first, dtype = versions[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError) as e:
        message = f"not a readable npy array ({str(e)[:120]}); write it with numpy.save."
        raise DataError(message, file=shown(path)) from e
    return _Header(shape, columns_first, dtype, stream.tell() + math.prod(shape) * dtype.itemsize)


def _check_size(path: Path, header: _Header, there: int) -> None:
    if header.size != there:
        message = f"the header promises {header.size:,} bytes, there are {there:,}: truncated, or damaged; "
        raise DataError(message + "download or write it again.", file=shown(path))


# ---- ids ------------------------------------------------------------------------------------------------------


def ids_beside(path: Path) -> Path:
    """Where the ids of an npy stand."""
    return path.with_suffix(".ids.txt")


def _line(path: Path, number: int, line: str) -> str:
    if line and not line.startswith('"'):
        return line
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, str):
        message = 'blank, or not a JSON string; an id that starts with a double quote stands as one, e.g. "\\"".'
        raise DataError(message, file=shown(path), line=number)
    return value


def _names(path: Path, raw: str | bytes, what: str) -> tuple[list[str], IdType]:
    """A JSON list of strings, or of integers."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as e:
        raise DataError(f"{what} is not valid JSON ({str(e)[:120]}); write a list of ids.", file=shown(path)) from e
    kinds = {type(name) for name in found} if isinstance(found, list) else set()
    if kinds not in ({str}, {int}):
        raise DataError(f"{what} is no list of strings or of integers; write the ids as one.", file=shown(path))
    return [str(name) for name in found], "string" if kinds == {str} else "integer"


def _counted(path: Path, ids: Sequence[str], rows: int, what: str) -> None:
    if len(ids) != rows:
        message = f"{len(ids):,} ids in {what} for {rows:,} vectors; give one for each, in the same order."
        raise DataError(message, file=shown(path))


def _beside(path: Path, rows: int) -> tuple[Sequence[str] | None, IdType]:
    found = next((p for p in (ids_beside(path), *map(path.with_name, LISTS)) if p.is_file()), None)
    if found is None:
        return None, "row"
    if found.suffix == ".json":
        ids, kind = _names(found, found.read_bytes(), "it")
        if len(ids) != rows and len(list(path.parent.glob("*.npy"))) > 1:
            return None, "row"  # those of another .npy in this folder
    else:
        ids, kind = [_line(found, number, line) for number, line in enumerate(lines(found), 1)], "string"
    _counted(path, ids, rows, found.name)
    return ids, kind


def _ids(path: Path, array: NDArray[Any], rows: int) -> tuple[Sequence[str], IdType]:
    """The array `ids` of an npz or safetensors file."""
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        message = f"the ids are {array.dtype} of shape {array.shape}; save them as one row of strings or integers."
        raise DataError(message, file=shown(path))
    ids = list(map(str, array.tolist()))
    _counted(path, ids, rows, "the array `ids`")
    return ids, "string" if array.dtype.kind == "U" else "integer"


# ---- files ----------------------------------------------------------------------------------------------------


def _sliced(load: Callable[[int, int], NDArray[Any]], rows: int, ids: Sequence[str] | None) -> Any:
    """The parts of a file whose rows can be loaded by number."""

    def parts(size: int) -> Iterator[Part]:
        for start in range(0, rows, size):
            stop = min(start + size, rows)
            yield None if ids is None else ids[start:stop], load(start, stop), None

    return parts


def open_npy(path: Path, column: str | None, cap: int | None) -> VectorFile:
    """Mapped anew for each part, so that memory stays that of one part."""
    with path.open("rb") as stream:
        header = _header(stream, path)
    check_type(path, header.dtype.name)
    check_shape(path, header.shape)
    _check_size(path, header, path.stat().st_size)
    rows, dimension = header.shape
    ids, kind = _beside(path, rows)

    def load(start: int, stop: int) -> NDArray[Any]:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[start:stop])

    return VectorFile(path, "npy", rows, dimension, header.dtype.name, kind, _sliced(load, rows, ids), cap=cap)


def _chosen(path: Path, matrices: Sequence[str], column: str | None, what: str) -> str:
    """Which array holds the vectors."""
    if column is not None and column not in matrices:
        raise InputError(f"{shown(path)} has no 2-D {what} {column!r}; give one of {', '.join(matrices) or 'none'}.")
    name = column or ("vectors" if "vectors" in matrices else "")
    if name:
        return name
    if not matrices:
        raise DataError(f"no 2-D {what} of floats; save the vectors under the name `vectors`.", file=shown(path))
    if len(matrices) > 1:
        message = f"{shown(path)} holds {len(matrices)} 2-D {what}s: {', '.join(matrices)}; choose one by its name."
        raise InputError(message)
    return matrices[0]


def open_npz(path: Path, column: str | None, cap: int | None) -> VectorFile:
    """Decoded as a stream: a zip that promises more than it holds, or more than the cap, is refused."""
    with zipfile.ZipFile(path) as archive:
        entries = {e.filename.removesuffix(".npy"): e for e in archive.infolist() if e.filename.endswith(".npy")}
        if len(entries) > _ENTRIES:
            raise DataError(f"{len(entries):,} arrays; the limit is {_ENTRIES:,}. Save fewer.", file=shown(path))
        headers: dict[str, _Header] = {}
        for name, entry in entries.items():
            with archive.open(entry) as stream:
                headers[name] = _header(stream, path)
        matrices = [n for n, h in headers.items() if len(h.shape) == 2 and h.dtype.name in FLOATS]
        if not matrices and "vectors" in headers:
            check_type(path, headers["vectors"].dtype.name)
            check_shape(path, headers["vectors"].shape)
        name = _chosen(path, matrices, column, "array")
        header = headers[name]
        check_shape(path, header.shape)
        if "ids" in headers and headers["ids"].dtype.hasobject:
            message = "the ids are pickled objects, which are never opened; save them as np.array(ids, dtype=str)."
            raise DataError(message, file=shown(path))
        wanted = {n: headers[n] for n in (name, "ids") if n in headers}
        for n, h in wanted.items():
            _check_size(path, h, entries[n].file_size)
        check_cap(path, sum(h.size for h in wanted.values()), cap)
        rows, dimension = header.shape
        ids: Sequence[str] | None = None
        kind: IdType = "row"
        if "ids" in headers:
            with archive.open(entries["ids"]) as stream:
                ids, kind = _ids(path, np.lib.format.read_array(stream, allow_pickle=False), rows)

    def parts(size: int) -> Iterator[Part]:
        with zipfile.ZipFile(path) as archive, archive.open(entries[name]) as stream:
            _header(stream, path)
            size = rows if header.columns_first else size
            for start in range(0, rows, size):
                count = min(size, rows - start)
                raw = np.frombuffer(stream.read(count * dimension * header.dtype.itemsize), header.dtype)
                values = raw.reshape((count, dimension), order="F" if header.columns_first else "C")
                yield None if ids is None else ids[start : start + count], values, None

    return VectorFile(path, "npz", rows, dimension, header.dtype.name, kind, parts, cap=cap)


_SAFE_TYPES = {"F16": "float16", "F32": "float32", "F64": "float64"}


def open_safetensors(path: Path, column: str | None, cap: int | None) -> VectorFile:
    """Every byte of the file is accounted for by its header before a tensor is read."""
    from safetensors import safe_open

    from core.weights import read_header

    try:
        tensors = read_header(path)
    except ModelRefused as e:
        raise DataError(str(e)) from e
    matrices = [name for name, t in tensors.items() if len(t.shape) == 2 and t.dtype in _SAFE_TYPES]
    if not matrices and "vectors" in tensors:
        check_type(path, _SAFE_TYPES.get(tensors["vectors"].dtype, _spelled(tensors["vectors"].dtype)))
        check_shape(path, tensors["vectors"].shape)
    name = _chosen(path, matrices, column, "tensor")
    check_shape(path, tensors[name].shape)
    rows, dimension = tensors[name].shape
    ids: Sequence[str] | None = None
    kind: IdType = "row"
    with safe_open(path, "np") as file:
        if "ids" in tensors:
            ids, kind = _ids(path, file.get_tensor("ids"), rows)
        elif "ids_json" in tensors:
            ids, kind = _names(path, file.get_tensor("ids_json").tobytes(), "the tensor `ids_json`")
            _counted(path, ids, rows, "the tensor `ids_json`")

    def load(start: int, stop: int) -> NDArray[Any]:
        with safe_open(path, "np") as file:
            return np.asarray(file.get_slice(name)[start:stop])

    dtype = _SAFE_TYPES[tensors[name].dtype]
    return VectorFile(path, "safetensors", rows, dimension, dtype, kind, _sliced(load, rows, ids), cap=cap)


def _spelled(dtype: str) -> str:
    """A type that is not taken, as numpy would call it where it has a name for it."""
    return {"I": "int", "U": "uint"}[dtype[0]] + dtype[1:] if dtype[1:].isdigit() and dtype[0] in "IU" else dtype
