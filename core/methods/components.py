"""Zero most components of each vector after a rotation: each vector keeps its own few, with their positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from core.codes import Drawn, Largest, indexed, shared
from core.methods.base import Card, CodeMethod, choice, moments, option, principal_axes
from core.plan import Cut
from core.types import FitContext, Floats

_COST = "One eigendecomposition, one sort of each vector."
_LIMITS = "Positions cost bytes (a bit map, or two bytes each, what is smaller): quantize/waterfill keeps more."


@dataclass(frozen=True)
class Components(CodeMethod):
    """What both share: rotate to the principal axes, store some components of each vector."""

    values: str = choice("int8", ("int8", "fp16"), "how a kept component is stored")

    def size(self, dimension: int, cut: Cut | None = None) -> int:
        """Raises PlanError for more components than there are."""
        keep = _kept(cut, dimension)
        positions = 2 * keep if indexed(keep, dimension) else -(-dimension // 8)
        return positions + keep * (1 if self.values == "int8" else 2)

    def fitted(self, kind: type[Largest], context: FitContext, cut: Cut | None, **more: NDArray[Any]) -> Largest:
        """The codebook of this kind: principal axes, and the step where values are int8."""
        d = context.dimension
        second, mean, notes = moments(context)
        _, axes = principal_axes(second - np.outer(mean, mean))
        basis: Floats = np.ascontiguousarray(axes.T)
        if self.values == "int8":
            most = np.abs((context.documents - mean.astype(np.float32)) @ axes).max(initial=0.0)
            more["step"] = np.array(max(float(most) / 127, 1e-30), np.float32)
        keep, width = np.array(_kept(cut, d)), np.array(d)
        book = shared(
            d, context.metric, basis=basis, mean=mean.astype(np.float32), keep=keep, width=width, **more
        )  # fmt: skip
        return kind(self.card.name, d, context.metric, self.size(d, cut), book, notes=notes)


@dataclass(frozen=True)
class Magnitude(Components):
    """Keep the largest components of each vector, by absolute value, on the principal axes.  O(n d^2)."""

    card: ClassVar[Card] = Card(
        name="components/magnitude",
        criterion="magnitude",
        label="Largest components",
        idea="Rotate, keep only the largest components of each vector, with their positions.",
        cost=_COST,
        benefits="Every vector spends its numbers where it is unusual; sparse stores can search it.",
        limits=_LIMITS,
        reference="Best k-term approximation: Mallat, A Wavelet Tour of Signal Processing, 2009, chapter 9.",
        kind="codes",
    )

    def fit(self, context: FitContext, cut: Cut | None = None) -> Largest:
        return self.fitted(Largest, context, cut)


@dataclass(frozen=True)
class Random(Components):
    """The floor: components of each vector by chance."""

    card: ClassVar[Card] = Card(
        name="components/random",
        criterion="random",
        label="Random components",
        idea="Keep components of each vector by chance.",
        cost=_COST,
        benefits="The floor that any choice must beat.",
        limits="A draw.",
        reference="None needed.",
        kind="codes",
        seeded=True,
    )
    seed: int = option(0, "which draw", 0)

    def fit(self, context: FitContext, cut: Cut | None = None) -> Largest:
        return self.fitted(Drawn, context, cut, seed=np.array(self.seed))


def _kept(cut: Cut | None, dimension: int) -> int:
    """How many components of a vector stay; half where no cut is named."""
    return (cut or Cut(ratio=0.5)).count(dimension)


COMPONENTS = (Magnitude, Random)
