"""Width: which hidden channels of the residual stream can go, everywhere at once; heads go with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from core import units
from core.calibration import EncoderContext, Importance
from core.methods.base import Card, EncoderMethod, choice, option

_GAIN = "Every matrix and the token table shrink: size and time both fall, and a stock config can say it."
_LIMIT = "The roughest cut: every layer loses inputs and outputs at once, so reconstruction matters most here."


@dataclass(frozen=True)
class Width(EncoderMethod):
    """What all criteria for width share: what is done about the loss."""

    reconstruct: str = choice(
        "least-squares", ("none", "least-squares"), "refit every matrix and norm to the unpruned encoder's values"
    )
    output_map: bool = choice(
        True, (True, False), "a linear map from the narrower embedding back to the unpruned one's (ridge)"
    )
    calibration: int = option(30_000, "calibration tokens, of a seeded sample of the corpus", 100, 10_000_000)

    def rank(self, context: EncoderContext) -> Importance:
        """One score per hidden channel in one row, higher = keep."""
        return Importance(self.card.name, (np.asarray(self.scores(context), np.float64),))

    def scores(self, context: EncoderContext) -> NDArray[Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class Variance(Width):
    """Keep the channels that vary most over tokens, summed over layers.  One pass."""

    card: ClassVar[Card] = Card(
        name="width/variance",
        criterion="variance",
        label="Variance",
        idea="Keep the hidden channels that vary most over the calibration tokens, summed over layers.",
        cost="One pass over the calibration texts.",
        benefits=f"Keeps what the layers can read. {_GAIN}",
        limits=_LIMIT,
        reference="Low-variance channel removal; Hu et al., Network Trimming, arXiv 1607.03250.",
        kind="structure",
        learns_from="calibration texts",
        slow=True,
    )

    def scores(self, context: EncoderContext) -> NDArray[Any]:
        return units.channel_variance(context)[0]


@dataclass(frozen=True)
class Magnitude(Width):
    """Keep the channels whose weights are largest over all matrices and the token table.  No text."""

    card: ClassVar[Card] = Card(
        name="width/magnitude",
        criterion="magnitude",
        label="Magnitude",
        idea="Keep the hidden channels that carry the largest weights, over all matrices and the token table.",
        cost="Nothing to run for the ranking; the refit runs the calibration texts.",
        benefits=f"Needs no text to rank. {_GAIN}",
        limits=_LIMIT,
        reference="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017.",
        kind="structure",
        learns_from="nothing",
    )

    def scores(self, context: EncoderContext) -> NDArray[Any]:
        return units.magnitude(context.view, "width")[0]


@dataclass(frozen=True)
class Taylor(Width):
    """Keep the channels whose removal would move the embedding most, to first order.  One backward pass."""

    card: ClassVar[Card] = Card(
        name="width/taylor",
        criterion="taylor",
        label="Taylor (Gauss-Newton)",
        idea="Keep the hidden channels whose removal would move the sentence embedding most, to first order.",
        cost="A forward and a backward pass over up to 256 texts.",
        benefits=f"Looks at the embedding through all layers. {_GAIN}",
        limits=_LIMIT,
        reference="Molchanov et al., arXiv 1906.10771; Gauss-Newton form.",
        kind="structure",
        learns_from="calibration texts",
        seeded=True,
        slow=True,
    )
    seed: int = option(0, "which random directions", 0)

    def scores(self, context: EncoderContext) -> NDArray[Any]:
        return units.gauss_newton(context, self.seed)[0]


@dataclass(frozen=True)
class Random(Width):
    """Keep channels drawn by chance."""

    card: ClassVar[Card] = Card(
        name="width/random",
        criterion="random",
        label="Random",
        idea="Keep hidden channels drawn by chance.",
        cost="Nothing to run for the ranking.",
        benefits=f"The honest floor every criterion must beat. {_GAIN}",
        limits="Every criterion worth its name does better.",
        reference="Baseline.",
        kind="structure",
        learns_from="nothing",
        seeded=True,
    )
    seed: int = option(0, "which random draw", 0)

    def scores(self, context: EncoderContext) -> NDArray[Any]:
        return np.random.default_rng(self.seed).permutation(context.view.shape.width).astype(np.float64)


WIDTH = (Variance, Taylor, Magnitude, Random)
