"""Recovery: training that gives a cut encoder its quality back, from the unpruned model or from the corpus itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from core.methods.base import Card, TrainingMethod, choice, option

_STOP = "Ends early when held-out texts gain nothing more; a stop keeps the best so far."


@dataclass(frozen=True)
class Recovery(TrainingMethod):
    """What all recoveries share: how long, how fast, and when to end."""

    steps: int = option(600, "optimizer steps", 0, 1_000_000)
    batch: int = option(32, "texts in a step", 2, 4096)
    rate: float = option(3e-4, "the highest learning rate", 1e-7, 0.1)
    patience: int = option(5, "evaluations without a gain after which it ends; 0 never", 0, 1000)
    every: int = option(100, "steps between two evaluations", 1, 100_000)
    precision: str = choice("auto", ("auto", "bf16", "float32"), "auto: what a pilot step says is faster here")
    seed: int = option(0, "draws the batches", 0, 2**31 - 1)

    def schedule(self) -> dict[str, Any]:
        """These options as the training loop takes them."""
        return {f.name: getattr(self, f.name) for f in fields(Recovery)}


@dataclass(frozen=True)
class Distill(Recovery):
    """The unpruned model teaches the cut one on unlabelled texts."""

    card: ClassVar[Card] = Card(
        name="recover/distill",
        criterion="distillation",
        label="Distil",
        idea="train the cut encoder until its vectors are the unpruned model's again, on texts without labels.",
        cost="minutes: every step reads a batch forwards and back; the teacher's vectors are computed once.",
        benefits="Needs no labels and no titles; new vectors stay comparable with the unpruned model's.",
        limits=f"Learns what the texts given to it hold. {_STOP}",
        reference="Vectors as targets: LEAF, 2025; similarities: Tung and Mori, ICCV 2019.",
        kind="training",
        learns_from="calibration texts",
        seeded=True,
        slow=True,
        cuts=False,
    )
    similarity: float = option(
        1.0, "weight of the similarities within a batch beside the vectors' own cosine", 0.0, 1e3
    )


@dataclass(frozen=True)
class Finetune(Recovery):
    """The corpus teaches: a title must find its own text."""

    card: ClassVar[Card] = Card(
        name="recover/finetune",
        criterion="contrast",
        label="Fine-tune",
        idea="train the encoder so that a title finds its own text among others, the hardest of the corpus included.",
        cost="minutes: two texts and their hard negatives an example.",
        benefits="Learns the corpus's own notion of what belongs together, which no teacher has to know.",
        limits=f"Needs texts with titles. Without anchor= it forgets what it knew elsewhere. {_STOP}",
        reference="InfoNCE, van den Oord et al., 2018; hard negatives with a margin: NV-Retriever, 2024.",
        kind="training",
        learns_from="title-body pairs",
        seeded=True,
        slow=True,
        cuts=False,
    )
    rate: float = option(1e-4, "the highest learning rate", 1e-7, 0.1)
    negatives: int = option(1, "hard negatives of each title, mined from the corpus by the unpruned model", 0, 32)
    anchor: float = option(10.0, "weight of staying near the unpruned model's vectors", 0.0, 1e4)


@dataclass(frozen=True)
class Qat(Recovery):
    """Distillation through the rounding that comes later."""

    card: ClassVar[Card] = Card(
        name="train/qat",
        criterion="quantization-aware training",
        label="Quantization-aware training",
        idea="distil while weights, activations or vectors are rounded, so that the encoder learns to bear it.",
        cost="minutes: a step of distillation with the rounding of every weight and input on top.",
        benefits="Made for what is rounded later: the int8 export, or vectors of few bits.",
        limits=f"The rounding trained for must be the one that is used: put it last. {_STOP}",
        reference="Jacob et al., CVPR 2018; straight-through: Bengio et al., arXiv 1308.3432.",
        kind="training",
        learns_from="calibration texts",
        seeded=True,
        slow=True,
        cuts=False,
    )
    rate: float = option(1e-4, "the highest learning rate", 1e-7, 0.1)
    weights: str = choice("int8", ("int8", "float"), "rounding of weights and activations: as the int8 export does it")
    vectors: str = choice("float", ("float", "int8", "int4", "binary"), "how the vectors will be stored")
    similarity: float = option(
        1.0, "weight of the similarities within a batch beside the vectors' own cosine", 0.0, 1e3
    )


L1_TARGETS = ("neurons", "heads", "dimensions", "weights", "tokens")


@dataclass(frozen=True)
class L1(Recovery):
    """Distillation with an L1 penalty on gates, which are then folded into the weights for the next cut to see."""

    card: ClassVar[Card] = Card(
        name="train/l1",
        criterion="l1",
        label="L1 regularisation",
        idea="before a cut: train towards the unpruned model's vectors while a penalty pulls gates on units to zero.",
        cost="a step costs what a step of distillation costs.",
        benefits="The model moves what it knows out of the units that are about to go; the cut behind it, by magnitude "
        "or any other criterion, finds them at zero.",
        limits="Changes the weights before anything is cut; too much strength costs quality, too little induces no "
        "zeros, and gradients of gates can vanish (both are said).",
        reference="Liu et al., Network Slimming, ICCV 2017; proximal step in Adam's metric: Yun et al., ProxGen, "
        "NeurIPS 2021.",
        kind="training",
        learns_from="calibration texts",
        seeded=True,
        slow=True,
        cuts=False,
    )
    target: str = choice("neurons", L1_TARGETS, "what the penalty is on: name the target of the cut behind it")
    strength: float = option(
        0.5, "what all gates together cost, in units of 1 - cosine to the unpruned model", 0.0, 10.0
    )
    decay: float = option(0.01, "weight decay beside it, without which weights grow as their gates shrink", 0.0, 1.0)
    steps: int = option(200, "optimizer steps", 0, 1_000_000)
    rate: float = option(1e-4, "the highest learning rate; gates learn a hundred times as fast", 1e-7, 0.1)
    patience: int = option(0, "evaluations without a gain after which it ends; 0 never", 0, 1000)
    every: int = option(50, "steps between two evaluations", 1, 100_000)


RECOVERIES = (Distill, Finetune, Qat, L1)
