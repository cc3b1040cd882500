"""Single weights: score every connection of the linear layers inside the encoder's layers. Cuts leave zeros.

Scores are one array (out, in) per matrix, in the order of `Anatomy.linears()`. Embeddings, norms, biases and the
pooler are left alone. What a cut does with the scores is decided in surgery/masks.py by `scope` and `pattern`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from core.anatomy import Anatomy, duplicate
from core.calibration import EncoderContext, Importance, batches, each_input, sentence_vectors
from core.errors import PlanError
from core.methods.base import Card, EncoderMethod, choice, option

ZEROS = "Zeros only: the file stays as large (smaller zipped), and a processor computes as long as before."
DAMP = 0.01  # added to the diagonal of X^T X, as a share of its mean
_FEW = 4  # texts in a batch where gradients are taken: many small batches say more than a few large ones


@dataclass(frozen=True)
class WeightMethod(EncoderMethod):
    """Options that all share. `rows`: within a local scope, weights compete inside their own output row."""

    rows: ClassVar[bool] = False
    scope: str = choice("local", ("local", "global"), "compare weights within each matrix, or across all of them")
    pattern: str = choice("none", ("none", "2:4"), "2:4: of 4 neighbouring inputs the best 2 stay (ratio=0.5 only)")
    reconstruct: str = choice("none", ("none", "least-squares"), "refit the weights that stay to the layer's output")

    def check(self, ratio: float | None) -> None:
        """Raise PlanError where the cut cannot be made: 2:4 is half, and a number of weights needs one group."""
        if self.pattern == "2:4" and ratio != 0.5:
            given = "keep=" if ratio is None else f"ratio={ratio:g}"
            raise PlanError(f"{self.card.name}: pattern=2:4 removes exactly half, not {given}; write ratio=0.5")
        if ratio is None and self.scope == "local":
            raise PlanError(f"{self.card.name}: keep= counts all weights together; add scope=global, or write ratio=")


@dataclass(frozen=True)
class Random(WeightMethod):
    """Keep weights drawn by chance: the baseline every other method must beat.  O(weights)."""

    card: ClassVar[Card] = Card(
        name="weights/random",
        criterion="random",
        label="Random",
        idea="Zero connections drawn by chance.",
        cost="Nothing to compute.",
        benefits="The honest floor: what a cut of this size costs when nothing is known.",
        limits=f"Every method worth its name does better. {ZEROS}",
        reference="Baseline; see Blalock et al., What is the State of Neural Network Pruning?, MLSys 2020.",
        kind="zeros",
        learns_from="nothing",
        seeded=True,
    )
    seed: int = option(0, "which draw", 0)

    def rank(self, context: EncoderContext) -> Importance:
        rng = np.random.default_rng(self.seed)
        shapes = [m.weight.shape for _, m in context.view.linears()]
        return Importance(self.card.name, tuple(rng.random(s, np.float32) for s in shapes))


@dataclass(frozen=True)
class Magnitude(WeightMethod):
    """Score |w|.  O(weights)."""

    card: ClassVar[Card] = Card(
        name="weights/magnitude",
        criterion="magnitude",
        label="Magnitude",
        idea="Small weights add little: zero them.",
        cost="Nothing to compute.",
        benefits="Instant, needs no texts; the field's reference.",
        limits=f"Blind to what a weight is multiplied with. {ZEROS}",
        reference="Han et al., Learning both Weights and Connections, NeurIPS 2015.",
        kind="zeros",
        learns_from="nothing",
    )

    def rank(self, context: EncoderContext) -> Importance:
        return Importance(self.card.name, tuple(np.abs(w) for w in _weights(context.view)))


@dataclass(frozen=True)
class Activation(WeightMethod):
    """Wanda: |w_ij| times the length of input j over the calibration tokens.  One forward pass.

    With local scope the weights of one output compete with each other, as in the paper.
    """

    card: ClassVar[Card] = Card(
        name="weights/activation",
        criterion="activation",
        label="Activation-aware (Wanda)",
        idea="A weight matters as much as what flows through it: weight times the size of its input.",
        cost="One pass over about 20,000 tokens: seconds.",
        benefits="Sees inputs that are always large or always near zero, which magnitude cannot.",
        limits=f"Each weight by itself; the others are not adjusted. {ZEROS}",
        reference="Sun et al., A Simple and Effective Pruning Approach (Wanda), ICLR 2024, eq. 1.",
        kind="zeros",
        learns_from="calibration texts",
    )
    rows: ClassVar[bool] = True

    def rank(self, context: EncoderContext) -> Importance:
        squares: dict[str, Any] = {}

        def add(name: str, x: Any) -> None:
            squares[name] = x.double().square().sum(0) + squares.get(name, 0.0)

        linears = context.view.linears()
        each_input(context, linears, add)
        lengths = (squares[name].sqrt().numpy().astype(np.float32) for name, _ in linears)
        scores = tuple(np.abs(w) * x for w, x in zip(_weights(context.view), lengths, strict=True))
        return Importance(self.card.name, scores)


@dataclass(frozen=True)
class Taylor(WeightMethod):
    """Second-order effect of zeroing a weight on the embedding: w^2 E|de/dw|^2 (diagonal Gauss-Newton).

    The gradient of a distance to the dense model is zero at the dense model, so the diagonal is estimated from
    random signs instead: for v in {-1, 1}, E (d sum_b v_b.e_b / dw)^2 = sum_b |de_b/dw|^2.  One forward and one
    backward pass over the sample, in batches of 4 texts, one draw of signs each.
    """

    card: ClassVar[Card] = Card(
        name="weights/taylor",
        criterion="taylor",
        label="Taylor (Gauss-Newton)",
        idea="Estimate from gradients how far sentence vectors move when a weight is set to zero.",
        cost="One forward and backward pass over about 20,000 tokens: a minute or less.",
        benefits="Looks at the sentence vector, not at the output of one layer.",
        limits="Blind to what weights do together: sorted over a whole matrix or model it empties rows that matter, "
        f"so keep scope=local, where each output sorts its own. {ZEROS}",
        reference="LeCun et al., Optimal Brain Damage, NIPS 1989; Hutchinson's estimator, 1990.",
        kind="zeros",
        learns_from="calibration texts",
        seeded=True,
        slow=True,
    )
    rows: ClassVar[bool] = True  # MiniLM at 0.5: 99.3 % of STS-B; 52.8 % when sorted over each matrix
    seed: int = option(0, "which random signs", 0)

    def rank(self, context: EncoderContext) -> Importance:
        import torch

        copy, weights = _trainable(context.encoder)
        rows = batches(copy, context.sample, _FEW)
        signs = torch.Generator().manual_seed(self.seed)
        sums = [torch.zeros_like(w) for w in weights]
        for done, batch in enumerate(rows):
            context.progress("estimating effects of weights", done, len(rows))
            e = sentence_vectors(copy, batch)
            v = torch.randint(0, 2, e.shape, generator=signs) * 2.0 - 1.0
            for total, g in zip(sums, torch.autograd.grad((v * e).sum(), weights), strict=True):
                total.addcmul_(g, g)
        texts = len(context.sample)
        found = (w.detach().square() * s / texts for w, s in zip(weights, sums, strict=True))
        return Importance(self.card.name, tuple(f.numpy() for f in found))


@dataclass(frozen=True)
class L1(WeightMethod):
    """Train a copy to give the dense model's vectors while an L1 penalty pulls every weight to zero; then |w|.

    min 1 - cos(e, e_dense) + penalty |w|_1 by Adam and soft-thresholding. Over all steps the penalty pulls each
    weight by `strength` times its matrix's mean |w|, and the learning rate lets the loss pull back as far. Weights
    at zero are ordered by what they were. O(steps) forward and backward passes of 4 texts.
    """

    card: ClassVar[Card] = Card(
        name="weights/l1",
        criterion="l1",
        label="L1-regularised training",
        idea="Let all weights shrink while a copy learns to give the same sentence vectors; what resists stays.",
        cost="60 small steps: a minute.",
        benefits="Weights are chosen together: one may grow while its neighbour dies.",
        limits="The trained copy only ranks: the weights that stay keep their original values, so that no training "
        f"is shipped unseen. {ZEROS}",
        reference="Tibshirani, Lasso, 1996; proximal step: Parikh & Boyd, Proximal Algorithms, 2014, section 6.5.2.",
        kind="zeros",
        learns_from="calibration texts",
        seeded=True,
        slow=True,
    )
    steps: int = option(60, "training steps of 4 texts", 1, 5000)
    strength: float = option(0.5, "how far the penalty pulls in all, in units of a matrix's mean |w|", 0.01, 10.0)
    seed: int = option(0, "order of the batches", 0)

    def rank(self, context: EncoderContext) -> Importance:
        import torch
        from torch.nn import functional

        student, weights = _trainable(context.encoder)
        before = [np.abs(w) for w in _weights(context.view)]
        pulls = [self.strength * float(w.mean()) / self.steps for w in before]
        optimiser = torch.optim.Adam([{"params": [w], "lr": p} for w, p in zip(weights, pulls, strict=True)])
        rows = batches(student, context.sample, _FEW)
        targets: dict[int, Any] = {}
        for step, i in zip(range(self.steps), _endless(len(rows), self.seed), strict=False):
            context.progress("training under an L1 penalty", step, self.steps)
            if i not in targets:
                with torch.no_grad():
                    targets[i] = sentence_vectors(context.encoder, rows[i])
            loss = 1.0 - functional.cosine_similarity(sentence_vectors(student, rows[i]), targets[i]).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            with torch.no_grad():
                for w, pull in zip(weights, pulls, strict=True):
                    w.copy_(functional.softshrink(w, pull))
        after = [np.abs(w.detach().numpy()) for w in weights]
        dead = sum(int((w == 0).sum()) for w in after) / sum(w.size for w in after)
        scores = tuple(np.asarray(a + 1e-6 * b, np.float32) for a, b in zip(after, before, strict=True))
        return Importance(self.card.name, scores, (f"{dead:.0%} of the weights reached zero",))


@dataclass(frozen=True)
class SecondOrder(WeightMethod):
    """Optimal Brain Surgeon: w_ij^2 / [H^-1]_jj with H = X^T X + damping; the cut then refits the weights that stay.

    The score is what zeroing one weight costs once the others make up for it. Statistics are taken once, in the
    dense model; surgery/masks.py refits all at once by least squares. O(tokens p^2 + p^3) a matrix.
    """

    card: ClassVar[Card] = Card(
        name="weights/second-order",
        criterion="second-order",
        label="Second-order (OBS)",
        idea="Zero the weights that the others can stand in for, and let the others do so.",
        cost="One pass over about 20,000 tokens and one inverse per matrix: half a minute for MiniLM.",
        benefits="The weights that stay are refitted, so that the outputs of layers move least.",
        limits="Statistics come from the dense model, in one pass; each layer is judged by its own output. "
        f"Needs texts like those to be embedded. {ZEROS}",
        reference="Frantar & Alistarh, SparseGPT, ICML 2023; Hassibi & Stork, Optimal Brain Surgeon, NIPS 1992.",
        kind="zeros",
        learns_from="calibration texts",
        slow=True,
    )

    reconstruct: str = choice("least-squares", ("none", "least-squares"), "refit the weights that stay, or not")

    def rank(self, context: EncoderContext) -> Importance:
        scores = []
        for name, module in context.view.linears():
            diagonal = np.diagonal(inverse(context.moments[name].numpy()))
            scores.append((np.square(module.weight.detach().numpy()) / diagonal).astype(np.float32))
        return Importance(self.card.name, tuple(scores))


@dataclass(frozen=True)
class ImportanceSampling(WeightMethod):
    """Sample weights by their mean share of their output, E |x_j w_ij| / sum_k |x_k w_ik|.  Two products a layer.

    Exponential race keys s / E with E ~ Exp(1) make one order whose every prefix is a sample without replacement.
    """

    card: ClassVar[Card] = Card(
        name="weights/importance-sampling",
        criterion="importance-sampling",
        label="Importance sampling",
        idea="Draw weights by chance, those that carry more of their output more often.",
        cost="One pass over about 20,000 tokens: seconds.",
        benefits="Keeps something of every part of the input; its spread over seeds says how much the choice matters.",
        limits="A draw: read it with its spread, beside activation, which sorts nearly the same scores. Kept weights "
        "are not scaled by 1 / chance (unbiased, yet outputs moved a quarter further); reconstruct=least-squares "
        f"refits them instead. {ZEROS}",
        reference="Baykal et al., Data-Dependent Coresets for Compressing Neural Networks, ICLR 2019.",
        kind="zeros",
        learns_from="calibration texts",
        seeded=True,
    )
    rows: ClassVar[bool] = True
    seed: int = option(0, "which draw", 0)

    def rank(self, context: EncoderContext) -> Importance:
        rng = np.random.default_rng(self.seed)
        race = (s / np.maximum(rng.standard_exponential(s.shape, np.float32), 1e-30) for s in shares(context))
        return Importance(self.card.name, tuple(race))


def shares(context: EncoderContext) -> list[NDArray[np.float32]]:
    """Mean over tokens of |x_j w_ij| / sum_k |x_k w_ik|, (out, in) per matrix; a row of weights sums to one."""
    linears = context.view.linears()
    size = {name: module.weight.detach().abs() for name, module in linears}
    sums: dict[str, Any] = {}

    def add(name: str, x: Any) -> None:
        x = x.abs()
        whole = x @ size[name].T
        sums[name] = whole.clamp_min(1e-30).reciprocal().T @ x + sums.get(name, 0.0)

    each_input(context, linears, add)
    found = {name: size[name] * total for name, total in sums.items()}
    return [np.asarray((f / f.sum(1, keepdim=True).clamp_min(1e-30)).numpy(), np.float32) for f in found.values()]


def inverse(second: NDArray[Any]) -> NDArray[np.float64]:
    """(X^T X + damping)^-1 (p, p); the damping is DAMP times the mean diagonal."""
    h = second.astype(np.float64)
    return np.asarray(np.linalg.inv(h + (DAMP * np.trace(h) / len(h) + 1e-12) * np.eye(len(h))))


def _weights(view: Anatomy) -> list[NDArray[np.float32]]:
    return [module.weight.detach().numpy() for _, module in view.linears()]


def _trainable(encoder: Any) -> tuple[Any, list[Any]]:
    """A copy of the encoder, and its prunable weights: nothing else in it takes a gradient."""
    copy = duplicate(encoder).requires_grad_(False)
    weights = [module.weight.requires_grad_(True) for _, module in Anatomy(copy, "weights").linears()]
    return copy, weights


def _endless(count: int, seed: int) -> Iterator[int]:
    """0..count-1 in a new random order each time round, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield from (int(i) for i in rng.permutation(count))
