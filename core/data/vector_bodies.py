"""Vector files whose beginning needs the count of their rows: spooled beside the target, then put together.

npy, npz and safetensors keep the ids apart from the vectors (core/data/vector_arrays.py says where); word2vec and
GloVe keep them in the row.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from core.data.vector_arrays import LISTS, ids_beside
from core.data.vector_record import IdType
from core.errors import InputError
from core.store import unfinished

TEXT = (".txt", ".vec", ".bin")
_PLAIN = re.compile('[^"\x00-\x1f\ufeff\ud800-\udfff][^\x00-\x1f\ud800-\udfff]*')  # what an ids file holds as it is

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,19}")


@dataclass(frozen=True)
class Target:
    """What is to be written, and where: `path` decides the format, `made` is the hidden file that will be renamed."""

    path: Path
    made: Path
    dimension: int
    id_type: IdType
    dtype: str

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()


@dataclass(frozen=True, eq=False)
class _Made:
    """What was written into a body: its rows, and their ids where the body does not hold them."""

    body: Path
    rows: int
    dimension: int
    dtype: str
    ids: list[str] | NDArray[np.int64]

    @property
    def numbered(self) -> bool:
        """Whether the ids are the row numbers that a file without ids has anyway."""
        if isinstance(self.ids, list):
            return all(name == str(row) for row, name in enumerate(self.ids))
        return bool((self.ids == np.arange(self.rows)).all())

    def copy(self, out: Any) -> None:
        with self.body.open("rb") as f:
            shutil.copyfileobj(f, out, 1 << 20)

    def npy_header(self, out: Any) -> None:
        kind = np.lib.format.dtype_to_descr(np.dtype(self.dtype))
        shape = (self.rows, self.dimension)
        np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": shape})


def _npy(made: _Made, out: BinaryIO) -> None:
    made.npy_header(out)
    made.copy(out)


def _npz(made: _Made, out: BinaryIO) -> None:
    from zipfile import ZipFile, ZipInfo

    with ZipFile(out, "w") as archive:
        with archive.open(ZipInfo("vectors.npy"), "w", force_zip64=True) as f:
            made.npy_header(f)
            made.copy(f)
        if not made.numbered:
            with archive.open(ZipInfo("ids.npy"), "w", force_zip64=True) as f:
                np.lib.format.write_array(f, np.asarray(made.ids), allow_pickle=False)


def _safetensors(made: _Made, out: BinaryIO) -> None:
    """By hand, for the library wants all in memory. Integer ids stand first, where they are aligned."""
    width = np.dtype(made.dtype).itemsize
    parts: list[tuple[str, str, list[int], int]] = []
    vectors = ("vectors", f"F{8 * width}", [made.rows, made.dimension], made.rows * made.dimension * width)
    first, last = b"", b""
    if isinstance(made.ids, list):
        last = json.dumps(made.ids).encode()
        parts = [vectors, ("ids_json", "U8", [len(last)], len(last))]
    elif made.numbered:
        parts = [vectors]
    else:
        first = made.ids.astype("<i8").tobytes()
        parts = [("ids", "I64", [made.rows], len(first)), vectors]
    header: dict[str, Any] = {}
    at = 0
    for name, dtype, shape, size in parts:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text + first)
    made.copy(out)
    out.write(last)


def _headed(made: _Made, out: BinaryIO) -> None:
    out.write(f"{made.rows} {made.dimension}\n".encode())
    made.copy(out)


def _glove(made: _Made, out: BinaryIO) -> None:
    if made.dimension == 1:  # "7 3" as a first row would be taken for a header
        return _headed(made, out)
    made.copy(out)


ASSEMBLE: dict[str, Callable[[_Made, BinaryIO], None]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".txt": _glove,
    ".vec": _headed,
    ".bin": _headed,
}


class Body:
    """Rows as they will stand in the file, without what comes before and after them, which needs their count."""

    def __init__(self, target: Target) -> None:
        self.target, self.rows = target, 0
        self.body = unfinished(target.path, "tmp")
        self.file = self.body.open("wb")
        self.names: list[str] = []
        self.numbers: list[NDArray[np.int64]] = []

    def write(self, ids: Sequence[str], values: NDArray[Any], more: Any) -> None:
        suffix = self.target.suffix
        self.rows += len(ids)
        if suffix not in TEXT:
            self.file.write(values.tobytes())
            if self.target.id_type == "string":
                self.names.extend(ids)
            else:
                self.numbers.append(integers(ids))
            return
        words = [name.encode("utf-8") for name in ids]
        if suffix == ".bin":
            self.file.writelines(w + b" " + v.tobytes() + b"\n" for w, v in zip(words, values, strict=True))
        else:
            form = b" %.9g" * values.shape[1] + b"\n"  # nine digits give every float32 back
            self.file.writelines(w + form % tuple(v) for w, v in zip(words, values.tolist(), strict=True))

    def finish(self) -> None:
        self.file.close()
        target = self.target
        ids = np.concatenate(self.numbers) if self.numbers else self.names
        self.assembled = _Made(self.body, self.rows, target.dimension, target.dtype, ids)
        with target.made.open("wb") as out:
            ASSEMBLE[target.suffix](self.assembled, out)

    def place(self) -> None:
        """What stands beside the file takes its name before the file does."""
        if self.target.suffix == ".npy":
            _place_ids(self.assembled, self.target.path)

    def discard(self) -> None:
        try:
            self.file.close()
        finally:
            self.body.unlink(missing_ok=True)


def _place_ids(made: _Made, path: Path) -> None:
    """The ids file of an npy comes or goes; the old npy goes first, so that it never stands beside foreign ids."""
    target = ids_beside(path)
    listed = any(path.with_name(name).is_file() for name in LISTS)
    if made.numbered and not listed and not target.exists():
        return
    temporary = unfinished(target, "tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as f:
            f.writelines((name if _PLAIN.fullmatch(name) else json.dumps(name)) + "\n" for name in map(str, made.ids))
            f.flush()
            os.fsync(f.fileno())
        path.unlink(missing_ok=True)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    if made.numbered and not listed:
        target.unlink()


def integers(ids: Sequence[str], unsigned: bool = False) -> NDArray[Any]:
    """Ids as int64 or uint64; InputError for one that is not its own decimal number, or does not fit."""
    limits = np.iinfo(np.uint64 if unsigned else np.int64)
    for name in ids:
        if not _WHOLE.fullmatch(name) or not limits.min <= int(name) <= limits.max:
            raise InputError(f"the id {name[:60]!r} is no whole number that fits; write the ids as strings.")
    return np.array([int(name) for name in ids], limits.dtype)
