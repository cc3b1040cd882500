"""A fitted codebook: encode float vectors to bytes, decode bytes to what a float query is compared with.

Three kinds share one reader (reader.py, which exports carry along): fp16 numbers; a stream of bits, some for each
axis of a basis; and the largest components of each vector with their positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.codes import compiled, reader, trellis
from core.codes.tables import START
from core.types import Floats, Ints, Metric, frozen, unit

_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Book:
    """What all codebooks are: `book` holds a reader's arrays, `forward` (d, m) the way in where it is not basis.T."""

    method: str
    dimension: int
    metric: Metric
    bytes: int
    book: Mapping[str, NDArray[Any]]
    forward: Floats | None = None
    notes: tuple[str, ...] = ()

    def encode(self, vectors: Floats) -> NDArray[np.uint8]:
        """(n, d) -> (n, bytes). Vectors are brought to length one first where the metric is cosine."""
        out = np.empty((len(vectors), self.bytes), np.uint8)
        for start in range(0, len(vectors), _BLOCK):
            x = np.asarray(vectors[start : start + _BLOCK], np.float32)
            out[start : start + _BLOCK] = self.pack(self.turned(unit(x) if self.metric == "cosine" else x))
        return out

    def turned(self, x: Floats) -> Floats:
        """(n, d) -> (n, m): on the axes that are stored."""
        x = x - self.book["mean"] if "mean" in self.book else x
        if self.forward is not None:
            return np.asarray(x @ self.forward)
        return np.asarray(x @ self.book["basis"].T) if "basis" in self.book else x

    def pack(self, z: Floats) -> NDArray[np.uint8]:
        """The bytes of numbers (n, m)."""
        raise NotImplementedError

    def decode(self, codes: NDArray[np.uint8]) -> Floats:
        """(n, bytes) -> (n, d): what a float query is compared with; of length one where the metric is cosine."""
        return np.asarray(reader.decode(codes, self.book, compiled.numbers))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, for a file: what the reader needs, and what encodes new vectors."""
        more = {"bytes": np.array(self.bytes)} | ({} if self.forward is None else {"forward": self.forward})
        return dict(self.book) | more

    @property
    def codebook_bytes(self) -> int:
        """Bytes that are stored once for all vectors."""
        return int(sum(a.nbytes for a in self.arrays().values()))


def opened(arrays: Mapping[str, NDArray[Any]], method: str = "") -> Book:
    """The codebook of a file: opened(np.load("codebook.npz")).encode(vectors) codes new documents."""
    book = {k: arrays[k] for k in arrays if k not in ("bytes", "forward")}
    coded = Drawn if "seed" in book else Largest if "keep" in book else Bits if "table" in book else Half
    metric: Metric = "cosine" if book["normalize"] else "l2" if "distance" in book else "dot"
    forward = arrays.get("forward")
    return coded(method, int(book["dimension"]), metric, int(arrays["bytes"]), book, forward)


def shared(dimension: int, metric: Metric, **more: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
    """The arrays that every codebook has, and those of `more` that are there, read-only."""
    out = {"dimension": np.array(dimension), "normalize": np.array(metric == "cosine")}
    out |= {"distance": np.array(True)} if metric == "l2" else {}
    return out | {k: frozen(v, v.dtype).reshape(v.shape) for k, v in more.items() if v is not None}


class Half(Book):
    """Two bytes a number, as IEEE half precision."""

    def pack(self, z: Floats) -> NDArray[np.uint8]:
        top = np.finfo(np.float16).max
        return np.ascontiguousarray(np.clip(z, -top, top).astype("<f2")).view(np.uint8)


class Bits(Book):
    """A stream of bits, `which[i]` of them for number i. Book: table (9, 256), which (m,), ends (m,), start ()."""

    @cached_property
    def follows(self) -> bool:
        """Whether a number's level depends on the bits before it (a trellis), so that a path must be found."""
        table, bits = self.book["table"], self.book["which"]
        return any(len(np.unique(table[b])) > 1 << int(b) for b in np.unique(bits))

    def pack(self, z: Floats) -> NDArray[np.uint8]:
        bits = self.book["which"].astype(np.int64)
        if self.follows:
            chosen = trellis.choose(z, bits, self.book["table"])
        else:
            chosen = np.empty(z.shape, np.uint8)
            for b in np.unique(bits):
                level = self.book["table"][b, : 1 << int(b)]
                chosen[:, bits == b] = np.searchsorted((level[1:] + level[:-1]) / 2, z[:, bits == b])
        return packed(chosen, bits, self.bytes)


def packed(chosen: NDArray[np.uint8], bits: Ints, width: int) -> NDArray[np.uint8]:
    """Small integers (n, m) as one stream of bits, `bits[i]` for column i, the highest first: (n, width) bytes."""
    if (bits == 8).all() and len(bits) == width:
        return chosen
    owner = np.repeat(np.arange(len(bits)), bits)
    shift = (np.repeat(np.cumsum(bits), bits) - np.arange(len(owner)) - 1).astype(np.uint8)
    stream = np.zeros((len(chosen), 8 * width), np.uint8)
    stream[:, : len(owner)] = chosen[:, owner] >> shift & 1
    return np.packbits(stream, axis=1)


def bit_stream(
    method: str, metric: Metric, bits: Ints, table: Floats, *, dimension: int, bytes: int | None = None,
    basis: Floats | None = None, mean: Floats | None = None, forward: Floats | None = None,
    notes: tuple[str, ...] = (),
) -> Bits:  # fmt: skip
    """A codebook of `bits` (m,) for the numbers on `basis`; as many bytes as they fill unless more are wanted."""
    used = -(-int(bits.sum()) // 8)
    parts = shared(
        dimension, metric, table=table, which=bits.astype(np.uint8), ends=np.cumsum(bits).astype(np.uint32),
        start=np.array(START, np.uint8), basis=basis, mean=mean,
    )  # fmt: skip
    return Bits(method, dimension, metric, used if bytes is None else bytes, parts, forward, notes)


class Largest(Book):
    """The `keep` largest numbers of each vector: positions (a bit map or uint16, what is smaller), then values.

    Book: keep, width (), and step () where values are int8 instead of fp16.
    """

    def pack(self, z: Floats) -> NDArray[np.uint8]:
        keep, width = int(self.book["keep"]), z.shape[1]
        place = np.sort(np.argsort(self._rank(z), axis=1, kind="stable")[:, :keep], axis=1)
        value = np.take_along_axis(z, place, axis=1)
        if "step" in self.book:
            own: NDArray[Any] = np.clip(np.rint(value / self.book["step"]), -127, 127).astype(np.int8)
        else:
            own = value.astype("<f2")
        if indexed(keep, width):
            where = np.ascontiguousarray(place.astype("<u2")).view(np.uint8)
        else:
            mask = np.zeros((len(z), width), np.uint8)
            np.put_along_axis(mask, place, 1, axis=1)
            where = np.packbits(mask, axis=1)
        return np.concatenate([where, np.ascontiguousarray(own).view(np.uint8)], axis=1)

    def _rank(self, z: Floats) -> NDArray[Any]:
        """(n, m): the lowest are kept."""
        return -np.abs(z)


class Drawn(Largest):
    """The same with positions by chance, from each vector's own bits: the order of vectors does not matter."""

    def _rank(self, z: Floats) -> NDArray[Any]:
        """A number that looks random for every component, mixed from the vector's coarse content and the seed."""
        coarse: NDArray[np.uint64] = np.rint(16 * z).astype(np.int64).view(np.uint64)
        place = np.arange(1, z.shape[1] + 1, dtype=np.uint64)
        row = (coarse * _mixed(place)).sum(axis=1, dtype=np.uint64) + np.uint64(int(self.book["seed"]))
        return _mixed(_mixed(row)[:, None] + place[None, :])


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea & Flood, 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ x >> np.uint64(shift)) * np.uint64(factor)
    return x ^ x >> np.uint64(31)


def indexed(keep: int, width: int) -> bool:
    """Whether positions are stored as uint16: smaller than a bit map only where few stay."""
    return 2 * keep < -(-width // 8)
