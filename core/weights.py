"""Weight files, read without any model library: safetensors headers, values that are not finite, differences by name.

A library fills a missing tensor with random numbers and only logs it; here it is refused by name. The header
reader is bounded and accounts for every byte of the file; the scan holds 4 M values at a time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import ModelRefused

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_HEADER_LIMIT = 100_000_000
_CHUNK = 1 << 22
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1} | {
    f"{sign}{bits}": bits // 8 for sign in "IU" for bits in (8, 16, 32, 64)
}
# float types as unsigned integers, with the bits of the exponent: all set means NaN or infinity
_FLOATS: dict[str, tuple[Any, int]] = {
    "F64": (np.uint64, 0x7FF << 52),
    "F32": (np.uint32, 0xFF << 23),
    "F16": (np.uint16, 0x1F << 10),
    "BF16": (np.uint16, 0xFF << 7),
}
_CAUSES = (
    (rb"version https://git-lfs", "a Git-LFS pointer, not the weights: run `git lfs pull`"),
    (rb"\s*<(!doctype|html|\?xml)", "a web page, not the weights: download the file itself"),
    (rb"PK\x03\x04", "a zip or torch pickle under another name: save it as safetensors"),
    (rb"\x80[\x02-\x05](?!.{6}\{)", "a Python pickle under another name: save it as safetensors"),
    (rb"GGUF|\x89HDF|\x93NUMPY|\x1f\x8b", "GGUF, HDF5, npy or gzip data under another name: save it as safetensors"),
)
_MAY_BE_ZERO = re.compile(r"(^|\.)(token_type_embeddings|pooler|cls|lm_head)\.")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file: bytes [start, end) of it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def strict_json(data: bytes, name: str) -> Any:
    """JSON with no double keys, NaN or infinity. Raises ModelRefused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("a key stands twice")
        return out

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is no finite number")
        return value

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as e:
        cause = next((text for pattern, text in _CAUSES if re.match(pattern, data, re.I | re.S)), "write it again")
        raise ModelRefused(f"{name} is not readable JSON ({e}): {cause}.") from e


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file whose top is an object. Raises ModelRefused, also where it is missing."""
    if not path.is_file():
        raise ModelRefused(f"{path.parent.name}/{path.name} is missing. Add it, or save the model again.")
    value = strict_json(path.read_bytes(), path.name)
    if not isinstance(value, dict):
        raise ModelRefused(
            f"{path.name} holds a {type(value).__name__} where an object {{...}} is wanted. Save it again."
        )
    return value


def read_header(path: Path) -> dict[str, Tensor]:
    """Names, types, shapes and places of a safetensors file's tensors; every byte of the file is accounted for.

    Raises ModelRefused naming the likely cause where the file is something else or cut short.
    """
    if not path.is_file():
        raise ModelRefused(f"{path.name} is not there. Add it, or save the model again.")
    size = path.stat().st_size
    with path.open("rb") as f:
        head = f.read(512)
        for pattern, cause in _CAUSES:
            if re.match(pattern, head, re.I | re.S):
                raise ModelRefused(f"{path.name} ({size:,} bytes) is {cause}.")
        length = int.from_bytes(head[:8], "little")
        if size < 10 or head[8:9] != b"{" or length > min(_HEADER_LIMIT, size - 8):
            raise ModelRefused(
                f"{path.name} ({size:,} bytes) declares a header of {length:,} bytes (limit {_HEADER_LIMIT:,}): "
                "truncated, or no safetensors file. Download or save it again."
            )
        f.seek(8)
        table = strict_json(f.read(length), f"the header of {path.name}")
    table.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in table.items()}
    place = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != place:
            raise ModelRefused(f"{path.name}: {name} starts at byte {tensor.start:,}, not {place:,}. Save it again.")
        place = tensor.end
    if place != size:
        short = "truncated: download it again" if place > size else "followed by foreign bytes: save it again"
        raise ModelRefused(f"{path.name} is {size:,} bytes, its header accounts for {place:,}: {short}.")
    return tensors


def _tensor(path: Path, name: str, entry: Any, base: int) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]} if dtype in _BYTES:
            whole = all(type(n) is int and n >= 0 for n in shape)
            if whole and start >= 0 and end - start == math.prod(shape) * _BYTES[dtype]:
                return Tensor(dtype, tuple(shape), base + start, base + end)
    raise ModelRefused(
        f"{path.name}: the header entry of {name[:80]!r} makes no sense ({str(entry)[:120]}). Save it again."
    )


def shard_names(folder: Path) -> dict[str, str]:
    """tensor -> file of a sharded model; every file a bare name in `folder`."""
    found = read_object(folder / INDEX).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ModelRefused(f"{INDEX} has no weight_map. Save the model again.")
    for name, file in found.items():
        if not isinstance(file, str) or not re.fullmatch(r"\w[\w.-]*\.safetensors", file, re.ASCII):
            raise ModelRefused(f"{INDEX} puts {name!r} into {file!r}: only bare .safetensors names are taken.")
        if not (folder / file).is_file():
            raise ModelRefused(f"{INDEX} names {file}, which is not there. Add it and try again.")
    return found


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a module's folder, whole or sharded."""
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise ModelRefused(f"{folder.name} has no {WEIGHTS}. Save the model with safetensors and try again.")
    where = shard_names(folder)
    out: dict[str, Tensor] = {}
    for file in sorted(set(where.values())):
        header = read_header(folder / file)
        if wrong := sorted(header.keys() ^ {name for name, place in where.items() if place == file}):
            raise ModelRefused(f"{INDEX} and {file} disagree about {_some(wrong)}. Save the model again.")
        out |= header
    return out


def check_weights(path: Path, *, zeros: bool = False) -> None:
    """Every float of a file is finite and, unless `zeros`, no matrix is all zero. Memory: 4 M values at a time."""
    for name, tensor in read_header(path).items():
        if tensor.dtype in _FLOATS and tensor.end > tensor.start:
            alive = _scan(path, name, tensor)
            if not alive and not zeros and len(tensor.shape) > 1 and not _MAY_BE_ZERO.search(name):
                shape = " x ".join(map(str, tensor.shape))
                raise ModelRefused(
                    f"{path.name}: {name} ({shape}) is all zero from row 0 on. Use weights that were trained."
                )


def _scan(path: Path, name: str, tensor: Tensor) -> bool:
    """Whether any value is not zero. Raises ModelRefused with the first row that is not finite."""
    kind, exponent = _FLOATS[tensor.dtype]
    count, alive = math.prod(tensor.shape), False
    with path.open("rb") as f:
        f.seek(tensor.start)
        for done in range(0, count, _CHUNK):
            bits = np.fromfile(f, dtype=kind, count=min(_CHUNK, count - done))
            bad = (bits & kind(exponent)) == kind(exponent)
            if bad.any():
                rows = tensor.shape[0] if tensor.shape else 1
                row = (done + int(bad.argmax())) // (count // rows)
                raise ModelRefused(
                    f"{path.name}: {name}, row {row} of {rows:,} holds NaN or infinity. Download or train it again."
                )
            alive = alive or bool((bits << kind(1)).any())  # the sign bit falls out
    return alive


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(n[:80] for n in names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def compare(where: str, found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], spare: Any = None) -> None:
    """Refuse missing, unexpected, misshapen or quantised tensors. `spare(name)` tells which may be there besides."""
    missing = [n for n in wanted if n not in found and not n.startswith("?")]
    shapes = {n.removeprefix("?"): s for n, s in wanted.items()}
    extra = [n for n in found if n not in shapes and not (spare and spare(n))]
    wrong = [
        f"{n} {list(found[n].shape)}, not {list(s)}" for n, s in shapes.items() if n in found and found[n].shape != s
    ]
    coded = [f"{n} ({found[n].dtype})" for n in shapes if n in found and found[n].dtype not in _FLOATS]
    faults = {"missing": missing, "not declared": extra, "of another shape": wrong, "not F64/F32/F16/BF16": coded}
    said = [f"{what}: {_some(names)}" for what, names in faults.items() if names]
    if said:
        raise ModelRefused(
            f"{where}: config and weights disagree; {'; '.join(said)}. Save the model and its config again."
        )
