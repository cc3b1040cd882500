"""Layers: which whole transformer layers the encoder can do without."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from core import units
from core.calibration import EncoderContext, Importance
from core.methods.base import Card, EncoderMethod, choice, option

_MOST_SUBSETS = 300
_GAIN = "Parameters, file and time all shrink in step: half of the layers is close to twice as fast."
_LIMIT = "Coarse: a six-layer encoder has six steps."


@dataclass(frozen=True)
class Layers(EncoderMethod):
    """What all criteria for layers share: what is done about the loss."""

    output_map: bool = choice(
        True, (True, False), "a linear map from the shorter encoder's embedding to the unpruned one's (ridge)"
    )
    reconstruct: str = choice(
        "least-squares",
        ("none", "least-squares"),
        "refit the remaining layers' outputs to the unpruned residual stream",
    )
    calibration: int = option(30_000, "calibration tokens, of a seeded sample of the corpus", 100, 10_000_000)

    def rank(self, context: EncoderContext) -> Importance:
        """One score per layer in one row, higher = keep; ModernBERT's first layer cannot go (it has no norm)."""
        scores = np.asarray(self.scores(context), np.float64)
        if context.view.kind == "modernbert":
            scores[0] = np.inf
        return Importance(self.card.name, (scores,))

    def scores(self, context: EncoderContext) -> NDArray[Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class Influence(Layers):
    """Keep the layers that change the hidden states most.  One pass."""

    card: ClassVar[Card] = Card(
        name="layers/influence",
        criterion="influence",
        label="Block influence",
        idea="Keep the layers that change the hidden states most (1 - cosine of a layer's input and output).",
        cost="One pass over the calibration texts.",
        benefits=f"Cheap and widely used. {_GAIN}",
        limits=f"A layer that changes little may still matter. {_LIMIT}",
        reference="ShortGPT, Men et al., arXiv 2403.03853, eq. 1.",
        kind="structure",
        learns_from="calibration texts",
        slow=True,
    )

    def scores(self, context: EncoderContext) -> NDArray[Any]:
        return units.block_influence(context)[0]


@dataclass(frozen=True)
class Taylor(Layers):
    """Keep the layers whose blending-out would move the embedding most, to first order.  One backward pass."""

    card: ClassVar[Card] = Card(
        name="layers/taylor",
        criterion="taylor",
        label="Taylor (Gauss-Newton)",
        idea="Keep the layers whose removal would move the sentence embedding most, to first order.",
        cost="A forward and a backward pass over up to 256 texts.",
        benefits=f"Looks at the embedding and not only at the layer. {_GAIN}",
        limits=f"Removing a whole layer is far from first order. {_LIMIT}",
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
class LeaveOneOut(Layers):
    """Keep the layers without which the embedding suffers most, each removed alone.  L passes over a sample."""

    card: ClassVar[Card] = Card(
        name="layers/leave-one-out",
        criterion="leave-one-out",
        label="Leave one out",
        idea="Remove each layer alone and look how far the sentence embeddings move; keep the ones that are missed.",
        cost="One pass over 64 texts for each layer.",
        benefits=f"Measures what is wanted: the loss without the layer. {_GAIN}",
        limits=f"Two layers can be spared alone and not together. {_LIMIT}",
        reference="Sajjad et al., On the Effect of Dropping Layers, arXiv 2004.03844.",
        kind="structure",
        learns_from="calibration texts",
        slow=True,
    )

    def scores(self, context: EncoderContext) -> NDArray[Any]:
        return units.damage(context, [[i] for i in range(len(context.view.layers))])


@dataclass(frozen=True)
class Subset(Layers):
    """Try every set of layers of the wanted size and keep the best; greedy where there are more than 300.

    C(L, k) passes over 64 texts: 20 for half of six layers.
    """

    card: ClassVar[Card] = Card(
        name="layers/subset",
        criterion="subset",
        label="Best subset",
        idea="Try every set of layers of the wanted size and keep the set whose embeddings stay nearest.",
        cost="One pass over 64 texts for each set: 20 for half of six layers; greedy beyond 300 sets.",
        benefits=f"Finds layers that can be spared together. {_GAIN}",
        limits=f"Judged by the cosine to the unpruned embedding. {_LIMIT}",
        reference="Exhaustive search; on sets of layers see Sajjad et al., arXiv 2004.03844.",
        kind="structure",
        learns_from="calibration texts",
        refits=True,
        slow=True,
    )

    def scores(self, context: EncoderContext) -> NDArray[Any]:
        count, first = len(context.view.layers), context.view.kind == "modernbert"
        keep = context.keep or max(1, count // 2)
        free = [i for i in range(count) if not (first and i == 0)]
        gone = min(count - keep, len(free))
        if comb(len(free), gone) <= _MOST_SUBSETS:
            sets = [list(s) for s in combinations(free, gone)]
            best = sets[int(units.damage(context, sets).argmin())]
        else:
            best = _greedy(context, free, gone)
        scores = units.damage(context, [[i] for i in range(count)])
        scores[best] -= 10.0  # below every layer of the winning set; the rest ordered by their own damage
        return scores


def _greedy(context: EncoderContext, free: list[int], gone: int) -> list[int]:
    """Remove the layer that is missed least, given those already removed."""
    best: list[int] = []
    while len(best) < gone:
        sets = [[*best, i] for i in free if i not in best]
        best = sets[int(units.damage(context, sets).argmin())]
    return best


@dataclass(frozen=True)
class Random(Layers):
    """Keep layers drawn by chance."""

    card: ClassVar[Card] = Card(
        name="layers/random",
        criterion="random",
        label="Random",
        idea="Keep layers drawn by chance, in their order.",
        cost="Nothing to run.",
        benefits=f"The honest floor every criterion must beat. {_GAIN}",
        limits="Every criterion worth its name does better.",
        reference="Baseline.",
        kind="structure",
        learns_from="nothing",
        seeded=True,
    )
    seed: int = option(0, "which random draw", 0)

    def scores(self, context: EncoderContext) -> NDArray[Any]:
        return np.random.default_rng(self.seed).permutation(len(context.view.layers)).astype(np.float64)


LAYERS = (Subset, LeaveOneOut, Influence, Taylor, Random)
