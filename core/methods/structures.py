"""Neurons and heads: seven criteria, each for both targets. A cut takes whole units out of the tensors.

The criteria are the same computation on another unit, so their cards are written once, with the unit's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from core import units
from core.calibration import EncoderContext, Importance
from core.methods.base import Card, EncoderMethod, choice, option

_RECONSTRUCT = ("none", "bias", "least-squares")
_GAINS = {
    "neurons": "The layer's two matrices really shrink, any stock loader reads them, and encoding gets faster: at "
    "most 1.5x for half of the neurons, as attention stays.",
    "heads": "Query, key, value and output matrices really shrink and attention gets cheaper.",
}
_LIMITS = {
    "neurons": "The token table is untouched, so the file shrinks less than the encoder.",
    "heads": "BERT-like configs cannot declare fewer heads alone: carried by ONNX, or cut with the width.",
}


@dataclass(frozen=True)
class Structural(EncoderMethod):
    """What all criteria for neurons and heads share: where units compete, and what is done about the loss."""

    scope: str = choice("local", ("local", "global"), "local: the same share in every layer; global: layers compete")
    reconstruct: str = choice(
        "none", _RECONSTRUCT, "after the cut: none, bias compensation, or least squares on the calibration texts"
    )
    output_map: bool = choice(
        False, (False, True), "a linear map from the cut encoder's embedding to the unpruned one's (ridge)"
    )
    calibration: int = option(30_000, "calibration tokens, of a seeded sample of the corpus", 100, 10_000_000)


def _rank_random(m: Any, context: EncoderContext) -> units.Rows:
    rng = np.random.default_rng(m.seed)
    return tuple(rng.permutation(n).astype(np.float64) for n in units.counts(context.view, context.target))


def _rank_magnitude(m: Any, context: EncoderContext) -> units.Rows:
    return units.magnitude(context.view, context.target)


def _rank_activation(m: Any, context: EncoderContext) -> units.Rows:
    return units.contributions(context)[0]


def _rank_taylor(m: Any, context: EncoderContext) -> units.Rows:
    return units.gauss_newton(context, m.seed)


def _rank_l1(m: Any, context: EncoderContext) -> units.Rows:
    return units.trained_gates(context, m.steps, m.strength, m.seed)


def _rank_sampling(m: Any, context: EncoderContext) -> units.Rows:
    """Exponential race keys: cutting by s_j / E_j draws without replacement, nested across ratios."""
    rng = np.random.default_rng(m.seed)
    return tuple(s / rng.exponential(size=len(s)) for s in units.contributions(context)[1])


def _rank_obs(m: Any, context: EncoderContext) -> units.Rows:
    return units.obs_order(context)


@dataclass(frozen=True)
class _Criterion:
    """One criterion's words and function; {unit} and {units} are filled in."""

    key: str
    label: str
    rank: Callable[[Any, EncoderContext], units.Rows]
    idea: str
    cost: str
    benefits: str
    limits: str
    reference: str
    learns_from: str = "calibration texts"
    options: tuple[tuple[str, Any], ...] = ()
    seeded: bool = False
    refits: bool = False
    slow: bool = True


_SEED = ("seed", option(0, "which random draw", 0))
CRITERIA = (
    _Criterion(
        "obs", "OBS, then least squares", _rank_obs,
        "Remove the {unit} whose loss the others can make up for best, one after another, in the network that is "
        "already pruned; then refit the output matrix by least squares.",
        "One pass over the calibration texts and one matrix elimination a layer: under three minutes for MiniLM.",
        "The best quality without training: what the removed {units} did is handed to those that stay.",
        "Learns the calibration texts: calibrate on what will be embedded, or retrieval pays for it.",
        "Hassibi and Stork 1993; for structures as in ZipLM, arXiv 2302.04089.",
        refits=True,
    ),
    _Criterion(
        "taylor", "Taylor (Gauss-Newton)", _rank_taylor,
        "Keep the {units} whose removal would move the sentence embedding most, to first order.",
        "A forward and a backward pass over up to 256 texts.",
        "Sees the whole network, so scores can be compared across layers (scope=global).",
        "First order: blind to {units} that replace each other.",
        "Molchanov et al., arXiv 1906.10771; Gauss-Newton form, since the distillation gradient is zero.",
        options=(_SEED,), seeded=True,
    ),
    _Criterion(
        "activation", "Activation x weight", _rank_activation,
        "Keep the {units} that add most to their layer's output on the calibration texts.",
        "One pass over the calibration texts.", "Cheap and steady; knows which {units} the corpus uses.",
        "Blind to what later layers do with it.", "Wanda-sp: Sun et al., arXiv 2306.11695; FLAP, arXiv 2312.11983.",
    ),
    _Criterion(
        "magnitude", "Magnitude", _rank_magnitude,
        "Keep the {units} with the largest incoming times outgoing weights.", "Nothing to run.",
        "Needs no text at all, answers at once.", "Blind to the data; falls off early.",
        "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017.", learns_from="nothing", slow=False,
    ),
    _Criterion(
        "l1", "L1 gates", _rank_l1,
        "Train a gate on every {unit} with an L1 penalty, embeddings held to the unpruned ones; keep the largest.",
        "`steps` small training steps on up to 256 texts.", "Learns which {units} the model can do without together.",
        "The strength matters, and few steps rank only roughly.", "Liu et al., Network Slimming, ICCV 2017.",
        options=(
            ("steps", option(60, "training steps", 1, 10_000)),
            ("strength", option(0.3, "weight of the L1 penalty", 0.0, 100.0)), _SEED,
        ),
        seeded=True,
    ),
    _Criterion(
        "importance-sampling", "Importance sampling", _rank_sampling,
        "Draw the {units} that stay with a chance equal to their share of the layer's output.",
        "One pass over the calibration texts.", "Chance keeps what a sort would starve; nested across ratios.",
        "Another seed, another model: look at its spread.",
        "Sensitivity sampling: Baykal, Liebenwein et al., arXiv 1804.05345.", options=(_SEED,), seeded=True,
    ),
    _Criterion(
        "random", "Random", _rank_random, "Keep {units} drawn by chance.", "Nothing to run.",
        "The honest floor every criterion must beat.", "Every criterion worth its name does better.",
        "Baseline.", learns_from="nothing", options=(_SEED,), seeded=True, slow=False,
    ),
)  # fmt: skip


def _method(target: str, c: _Criterion) -> type[Structural]:
    """The method class of a criterion for a target: its card, its options as dataclass fields, its ranking."""
    unit = target.removesuffix("s")

    def words(text: str) -> str:
        return text.format(unit=unit, units=target)

    card = Card(
        name=f"{target}/{c.key}", criterion=c.key, label=c.label, idea=words(c.idea), cost=c.cost,
        benefits=f"{words(c.benefits)} {_GAINS[target]}", limits=f"{words(c.limits)} {_LIMITS[target]}",
        reference=c.reference, kind="structure", learns_from=c.learns_from, refits=c.refits, seeded=c.seeded,
        slow=c.slow,
    )  # fmt: skip

    def rank(self: Structural, context: EncoderContext) -> Importance:
        """One score per unit and layer, higher = keep."""
        return Importance(card.name, c.rank(self, context))

    namespace: dict[str, Any] = {"card": card, "rank": rank, "__doc__": card.idea, "__module__": __name__}
    notes: dict[str, Any] = {"card": ClassVar[Card]}
    for name, default in c.options:
        namespace[name] = field(default=default.default, metadata=default.metadata)
        notes[name] = type(default.default)
    if c.refits:
        base = Structural.__dataclass_fields__["reconstruct"].metadata
        namespace["reconstruct"] = field(default="least-squares", metadata=base)
        notes["reconstruct"] = str
        namespace["output_map"] = field(default=True, metadata=Structural.__dataclass_fields__["output_map"].metadata)
        notes["output_map"] = bool
    namespace["__annotations__"] = notes
    made = type(f"{target.title()}{c.key.title().replace('-', '')}", (Structural,), namespace)
    return dataclass(frozen=True)(made)


NEURONS = tuple(_method("neurons", c) for c in CRITERIA)
HEADS = tuple(_method("heads", c) for c in CRITERIA)
