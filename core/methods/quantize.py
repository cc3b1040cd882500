"""Fewer bits for each number of a vector. Queries stay float; what is compared is query . decoded document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from core.codes import Bits, Half, bit_stream, shared
from core.codes.tables import MOST, WINDOW, allocate, tables
from core.errors import PlanError
from core.methods.base import Card, CodeMethod, choice, moments, option
from core.plan import Cut
from core.types import FitContext, Floats, frozen

_INT4 = 0.335  # step of 16 even levels that code a unit Gaussian best (Max, 1960): they end at 2.5 sigma
_SPAN = 127


@dataclass(frozen=True)
class Fp16(CodeMethod):
    """Round every number to half precision."""

    card: ClassVar[Card] = Card(
        name="quantize/fp16",
        criterion="fp16",
        label="fp16 vectors",
        idea="Store every number in two bytes instead of four.",
        cost="None.",
        benefits="Half the bytes, nothing lost that could be measured; every vector store reads it.",
        limits="Only 2x.",
        reference="IEEE 754 binary16.",
        kind="codes",
        learns_from="nothing",
        cuts=False,
    )

    def fit(self, context: FitContext, cut: Cut | None = None) -> Half:
        d = context.dimension
        return Half(self.card.name, d, context.metric, self.size(d), shared(d, context.metric))

    def size(self, dimension: int, cut: Cut | None = None) -> int:
        return 2 * dimension


@dataclass(frozen=True)
class Int8(CodeMethod):
    """x -> round(x / step), clipped to -127..127, with the one step for all axes that brings x back most closely."""

    card: ClassVar[Card] = Card(
        name="quantize/int8",
        criterion="int8",
        label="int8 vectors",
        idea="Store every number as a whole number from -127 to 127, with one step size for all.",
        cost="One pass over the documents for each of ten step sizes.",
        benefits="4x smaller, nothing lost that could be measured. No rotation, and integer arithmetic can search it.",
        limits="Only 4x. An unusually large number in a new document is clipped.",
        reference="Symmetric uniform quantization, round to nearest; Widrow & Kollar, Quantization Noise, 2008.",
        kind="codes",
        cuts=False,
    )

    def fit(self, context: FitContext, cut: Cut | None = None) -> Bits:
        d = context.dimension
        step = _step(context.documents)
        table = np.zeros((MOST + 1, WINDOW), np.float32)
        table[MOST] = np.maximum(np.arange(WINDOW) - WINDOW // 2, -_SPAN) * step
        return bit_stream(self.card.name, context.metric, np.full(d, MOST), table, dimension=d)

    def size(self, dimension: int, cut: Cut | None = None) -> int:
        return dimension


def _step(x: Floats) -> float:
    """The step, of ten that reach from half of the largest number to all of it, with the least squared error."""
    sample = x[:: max(1, len(x) // 5000)]
    top = max(float(np.abs(x).max(initial=0.0)), 1e-30)
    steps = [float(s) * top / _SPAN for s in np.linspace(1.0, 0.5, 10)]
    errors = [float(((np.clip(np.rint(sample / s), -_SPAN, _SPAN) * s - sample) ** 2).sum()) for s in steps]
    return steps[int(np.argmin(errors))]


@dataclass(frozen=True)
class Int4(CodeMethod):
    """Take the mean off, rotate at random, round to 16 even levels.  O(n d^2).

    The rotation makes every axis a like Gaussian, so that one step suits them all.
    """

    card: ClassVar[Card] = Card(
        name="quantize/int4",
        criterion="int4",
        label="int4 vectors",
        idea="Rotate at random so that all axes are alike, store each number as one of 16 levels.",
        cost="One random rotation: well under a second.",
        benefits="8x smaller, close to nothing lost; two numbers to a byte, and hardly anything is fitted.",
        limits="Needs the rotation at search time. quantize/waterfill keeps more at the same bytes.",
        reference="Uniform quantization of a Gaussian: Max, 1960; random rotation: Gao & Long, RaBitQ, SIGMOD 2024.",
        kind="codes",
        seeded=True,
        cuts=False,
    )
    seed: int = option(0, "which rotation", 0)

    def fit(self, context: FitContext, cut: Cut | None = None) -> Bits:
        level = (np.arange(16) - 7.5) * _INT4
        return _rotated(self.card.name, context, 4, level, self.seed)

    def size(self, dimension: int, cut: Cut | None = None) -> int:
        return -(-dimension // 2)


@dataclass(frozen=True)
class Binary(CodeMethod):
    """Take the mean off, rotate at random, keep the signs.  O(n d^2).

    A sign stands for the mean of its half, sqrt(2 / pi) sigma, so that a float query is compared with a vector.
    """

    card: ClassVar[Card] = Card(
        name="quantize/binary",
        criterion="binary",
        label="Binary vectors",
        idea="Take the mean off, rotate at random, keep one sign for each axis.",
        cost="One random rotation: well under a second.",
        benefits="32x smaller and simple; with --rescore the full vectors put the shortlist right.",
        limits="Loses points alone: quantize/waterfill keeps more at the same bytes. Hamming distance loses far more.",
        reference="Gao & Long, RaBitQ, SIGMOD 2024; no factor for each vector, as the length is known to be one.",
        kind="codes",
        seeded=True,
        cuts=False,
    )
    seed: int = option(0, "which rotation", 0)

    def fit(self, context: FitContext, cut: Cut | None = None) -> Bits:
        level = np.array([-1.0, 1.0]) * np.sqrt(2 / np.pi)
        return _rotated(self.card.name, context, 1, level, self.seed)

    def size(self, dimension: int, cut: Cut | None = None) -> int:
        return -(-dimension // 8)


def _rotated(name: str, context: FitContext, bits: int, level: NDArray[Any], seed: int) -> Bits:
    """Centre, rotate, and code every axis alike; `level` (2^bits,) for a standard deviation of one."""
    d = context.dimension
    second, mean, notes = moments(context)
    sigma = np.sqrt(max(float(np.trace(second) - mean @ mean), 1e-30) / d)
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
    rotation = q * np.sign(np.diag(r))
    table = np.zeros((MOST + 1, WINDOW), np.float32)
    table[bits] = np.tile(level * sigma, WINDOW >> bits)
    return bit_stream(
        name, context.metric, np.full(d, bits), table, dimension=d, basis=rotation.T.astype(np.float32),
        mean=mean.astype(np.float32), notes=notes,
    )  # fmt: skip


@dataclass(frozen=True)
class Waterfill(CodeMethod):
    """Rotate, give every axis the bits it earns, code it with the best levels for so many bits.  O(n d (d + 256)).

    With C the documents' covariance and W the weight of an error in each direction, the axes are eigenvectors of
    W^1/2 C W^1/2 with variances l_i, and bits go one by one to the axis where they lower sum l_i D(b_i) most; D(b) is
    the coder's error on a unit Gaussian. An axis that earns no bits is a pruned dimension. W is the square root of the
    documents' second moment, half way from "any direction may be asked for" to "queries look like documents".
    """

    card: ClassVar[Card] = Card(
        name="quantize/waterfill",
        criterion="waterfill",
        label="Water-filled codes",
        idea="Rotate to principal axes, give each axis the bits it earns; axes that earn none are pruned.",
        cost="One eigendecomposition; encoding takes about a millisecond a vector and core.",
        benefits="The most quality per byte, at any number of bytes from 1 to one per dimension.",
        limits="Fitted on the corpus: needs about 10 documents per dimension. Reading needs the rotation and a table.",
        reference="Reverse water-filling: Cover & Thomas, theorem 10.3.3; levels: Max, 1960; trellis: QTIP, 2024.",
        kind="codes",
        cuts=False,
    )
    bytes: int = option(96, "bytes a vector", 1, 65536)
    coder: str = choice(
        "trellis", ("trellis", "scalar"), "trellis: neighbours share bits, a quarter less error; scalar: Lloyd-Max"
    )

    def fit(self, context: FitContext, cut: Cut | None = None) -> Bits:
        size = self.size(context.dimension)
        second, mean, notes = moments(context)
        variances, forward, back = _axes(second - np.outer(mean, mean), second)
        table, errors = tables(self.coder)
        bits = allocate(variances, errors, 8 * size)
        order = np.flatnonzero(bits)[::-1]  # the least first: a stream's first numbers have the least choice
        deviation = np.sqrt(variances[order])
        return bit_stream(
            self.card.name, context.metric, bits[order], table, dimension=context.dimension, bytes=size,
            basis=(deviation[:, None] * back[order]).astype(np.float32), mean=mean.astype(np.float32),
            forward=frozen(forward[:, order] / deviation), notes=notes,
        )  # fmt: skip

    def size(self, dimension: int, cut: Cut | None = None) -> int:
        """Raises PlanError for more bytes than dimensions: more than eight bits a number gain nothing."""
        if self.bytes > dimension:
            raise PlanError(
                f"quantize/waterfill bytes={self.bytes} is more than one byte for each of {dimension} dimensions: "
                f"write bytes={dimension} or less, or take quantize/fp16"
            )
        return self.bytes


def _axes(
    covariance: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Variances (d,), descending, the way onto the axes (d, d) and back (d, d), in the metric of second^1/2."""
    values, axes = np.linalg.eigh(second)
    root = np.maximum(values, max(1e-6 * values[-1], 1e-30)) ** 0.25
    half, undone = (axes * root) @ axes.T, (axes / root) @ axes.T
    variances, turned = np.linalg.eigh(half @ covariance @ half)
    variances, turned = np.maximum(variances[::-1], 0.0), turned[:, ::-1]
    variances[variances < 1e-9 * max(variances[0], 1e-30)] = 0.0  # nothing but rounding
    return variances, half @ turned, turned.T @ undone


QUANTIZERS = (Waterfill, Int8, Int4, Binary, Fp16)
