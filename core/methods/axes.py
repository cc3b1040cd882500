"""Axis selection: keep some of the original columns. An existing index is cut by dropping the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from core.methods.base import Card, DimensionMethod, listwise_sample, moments, option, softmax
from core.types import FitContext, Ranking


@dataclass(frozen=True)
class Random(DimensionMethod):
    """Keep a random set of axes: the baseline every other method must beat.  O(d)."""

    card: ClassVar[Card] = Card(
        name="dimensions/random",
        criterion="random",
        label="Random",
        idea="Keep axes drawn by chance.",
        cost="Nothing to compute.",
        benefits="The honest floor: what any cut of this size costs. Removing half often costs under 10 %.",
        limits="Every method worth its name does better.",
        reference="Baseline; see arXiv 2508.17744 for how little random removal costs.",
        kind="selection",
        learns_from="nothing",
        seeded=True,
        exempt=("permutation: the draw is by position",),
    )
    seed: int = option(0, "which draw", 0)

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        order = np.random.default_rng(self.seed).permutation(context.dimension)
        scores = np.empty(len(order), np.float32)
        scores[order] = np.arange(len(order), 0, -1)
        return Ranking(self.card.name, scores)


@dataclass(frozen=True)
class Leading(DimensionMethod):
    """Keep the first axes. Exact for models trained with a Matryoshka loss.  O(1)."""

    card: ClassVar[Card] = Card(
        name="dimensions/leading",
        criterion="position",
        label="Leading (Matryoshka prefix)",
        idea="Keep the first k axes, as Matryoshka-trained models are meant to be cut.",
        cost="Nothing to compute; most vector databases can do it by themselves.",
        benefits="Right for models trained with a Matryoshka loss; needs no data at all.",
        limits="No better than random for every other model.",
        reference="Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022.",
        kind="selection",
        learns_from="nothing",
        exempt=("permutation: position is the criterion",),
    )

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        return Ranking(self.card.name, np.arange(context.dimension, 0, -1, dtype=np.float32))


@dataclass(frozen=True)
class Magnitude(DimensionMethod):
    """Score of axis j: mean |x_j| over the documents (low activation goes first).  O(n d)."""

    card: ClassVar[Card] = Card(
        name="dimensions/magnitude",
        criterion="magnitude",
        label="Magnitude (low activation)",
        idea="Axes whose values are small in every document contribute little to a dot product: drop them.",
        cost="One pass over the documents.",
        benefits="The field's first thing to try: instant and easy to explain.",
        limits="An axis can be large and constant, telling no two documents apart.",
        reference="Magnitude pruning: Han et al., NeurIPS 2015, applied to activations.",
        kind="selection",
    )

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        return Ranking(self.card.name, np.abs(context.documents).mean(axis=0, dtype=np.float64).astype(np.float32))


@dataclass(frozen=True)
class Variance(DimensionMethod):
    """Score of axis j: variance of x_j over the documents.  O(n d)."""

    card: ClassVar[Card] = Card(
        name="dimensions/variance",
        criterion="variance",
        label="Variance",
        idea="Axes that hardly vary between documents cannot tell them apart: drop them.",
        cost="One pass over the documents.",
        benefits="Instant; ignores large but constant axes, which magnitude keeps.",
        limits="Looks at one axis at a time, so two copies of one axis both stay.",
        reference="Low-variance filter, e.g. scikit-learn VarianceThreshold.",
        kind="selection",
    )

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        second, mean, _ = moments(context)
        return Ranking(self.card.name, (np.diag(second) - mean**2).astype(np.float32))


@dataclass(frozen=True)
class Redundancy(DimensionMethod):
    """Remove, one at a time, the axis that the remaining ones predict best.  O(n d^2 + d^3).

    With H the inverse of the regularised second moment of the axes still there, 1 / H_jj is the residual
    of axis j given the others; the smallest goes, and H is updated by one step of Gaussian elimination.
    """

    card: ClassVar[Card] = Card(
        name="dimensions/redundancy",
        criterion="redundancy",
        label="Redundancy (correlated axes)",
        idea="Drop the axis that the remaining axes predict best, again and again.",
        cost="One d x d inverse: a second or less.",
        benefits="The best reconstruction that dropping columns can give: correlated axes do not both stay.",
        limits="Still axis selection: clearly weaker than a rotation on models not trained for it.",
        reference="Backward column subset selection with the OBS update (Hassibi & Stork, NIPS 1992, eq. 5).",
        kind="selection",
    )
    ridge: float = option(0.01, "added to the diagonal, in units of the mean diagonal", 1e-6, 10.0)

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        second, _, notes = moments(context)
        d = len(second)
        inverse = np.linalg.inv(second + max(self.ridge * np.trace(second) / d, 1e-12) * np.eye(d))
        scores = np.zeros(d, np.float32)
        alive = np.ones(d, bool)
        for step in range(d):
            residual = np.where(alive, 1.0 / np.where(alive, np.diag(inverse), 1.0), np.inf)
            equal = residual <= residual.min() * (1 + 1e-9)  # of equals the last goes: ties keep the lowest index
            worst = int(np.flatnonzero(equal)[-1])
            scores[worst] = step
            alive[worst] = False
            inverse -= np.outer(inverse[:, worst], inverse[worst]) / inverse[worst, worst]
        return Ranking(self.card.name, scores, notes=notes)


@dataclass(frozen=True)
class Taylor(DimensionMethod):
    """First-order effect on a ranking loss of setting axis j to zero: -(dL/dg_j) at gate g_j = 1.  O(m n d).

    L = -log softmax(cos(g q, g d) / tau) of the full model's best document for each pseudo-query (its own text is
    masked). A loss against the full model's whole distribution would have a zero gradient here.
    ds/dg_j = 2 q_j d_j - s (q_j^2 + d_j^2) for unit q, d.
    """

    card: ClassVar[Card] = Card(
        name="dimensions/taylor",
        criterion="taylor",
        label="Taylor (gradient x activation)",
        idea="Estimate from one gradient how much a ranking loss rises when an axis is set to zero.",
        cost="One pass over 512 pseudo-queries x 2,048 documents: about a second.",
        benefits="Looks at what search does, not at variance; one pass for all axes.",
        limits="First order: good for small cuts, blind to what axes do together.",
        reference="Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, eq. 8.",
        kind="selection",
        learns_from="pseudo-queries",
        exempt=("rows: it samples documents by position",),
    )
    tau: float = option(0.05, "temperature of the ranking loss", 0.005, 1.0)
    seed: int = option(0, "which sample", 0)

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        q, d, own = listwise_sample(context, self.seed, 512, 2048)
        s = np.where(own, -1e4, q @ d.T)
        weight = softmax(s / self.tau)
        weight[np.arange(len(s)), s.argmax(axis=1)] -= 1.0  # softmax minus one-hot: dL/ds, up to 1 / tau
        s, weight = np.where(own, 0.0, s), np.where(own, 0.0, weight)
        pulled = weight * s
        gradient = 2 * np.einsum("ij,ij->j", q, weight @ d)
        gradient -= (q**2).T @ pulled.sum(axis=1) + (d**2).T @ pulled.sum(axis=0)
        return Ranking(self.card.name, (-gradient / self.tau / len(q)).astype(np.float32))


@dataclass(frozen=True)
class Sensitivity(DimensionMethod):
    """Exact leave-one-out effect of every axis on a ranking loss.  O(m n d) exponentials.

    For each axis the scores without it are recomputed, renormalised, and compared with the full model's by
    KL(softmax(full / tau) || softmax(without / tau)), averaged over pseudo-queries.
    """

    card: ClassVar[Card] = Card(
        name="dimensions/sensitivity",
        criterion="leave-one-out",
        label="Sensitivity (leave one out)",
        idea="Take each axis away in turn and measure how far the ranking moves.",
        cost="One re-ranking per axis on 128 pseudo-queries x 512 documents: a few seconds.",
        benefits="Exact for the first axis removed; no gradient needed.",
        limits="Axes that back each other up all look dispensable.",
        reference="Leave-one-out importance; cf. Mozer & Smolensky, Skeletonization, NIPS 1988.",
        kind="selection",
        learns_from="pseudo-queries",
        slow=True,
        exempt=("rows: it samples documents by position",),
    )
    tau: float = option(0.05, "temperature of the ranking loss", 0.005, 1.0)
    seed: int = option(0, "which sample", 0)

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        q, d, own = listwise_sample(context, self.seed, 128, 512)
        full = q @ d.T
        teacher = softmax(np.where(own, -1e4, full / self.tau))
        scores = np.empty(context.dimension, np.float32)
        for j in range(context.dimension):
            if j % 32 == 0:
                context.progress("leaving out axes", j, context.dimension)
            left = np.sqrt(np.maximum(1 - q[:, j : j + 1] ** 2, 1e-9)) * np.sqrt(np.maximum(1 - d[:, j] ** 2, 1e-9))
            z = np.where(own, -1e4, (full - np.outer(q[:, j], d[:, j])) / left / self.tau)
            top = z.max(axis=1, keepdims=True)
            log_sum = top[:, 0] + np.log(np.exp(z - top).sum(axis=1))
            scores[j] = float((log_sum - (teacher * z).sum(axis=1)).mean())  # KL up to the teacher's entropy
        return Ranking(self.card.name, scores - scores.min())


@dataclass(frozen=True)
class ImportanceSampling(DimensionMethod):
    """Sample axes without replacement, with probability by ridge leverage score.  O(n d^2 + d^3).

    l_j = [C (C + lambda I)^-1]_jj with lambda the mean eigenvalue; keys l_j / E_j with E_j ~ Exp(1) make one
    nested order whose every prefix is a sample without replacement (an exponential race).
    """

    card: ClassVar[Card] = Card(
        name="dimensions/importance-sampling",
        criterion="importance-sampling",
        label="Importance sampling (leverage scores)",
        idea="Draw axes by chance, the important ones more often: chance keeps what a sort would starve.",
        cost="One d x d inverse, then a draw.",
        benefits="Spreads the choice over correlated axes; its spread over seeds says how much the choice matters.",
        limits="A draw: read it with its spread. The kept axes are not reweighted, so an index can drop columns.",
        reference="Ridge leverage scores: Alaoui & Mahoney, NeurIPS 2015, definition 1.",
        kind="selection",
        seeded=True,
        exempt=("permutation: the draw is by position",),
    )
    seed: int = option(0, "which draw", 0)

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        second, _, notes = moments(context)
        d = len(second)
        level = max(np.trace(second) / d, 1e-12)
        leverage = np.diag(np.linalg.solve(second + level * np.eye(d), second))
        race = np.random.default_rng(self.seed).exponential(size=d)
        return Ranking(self.card.name, (np.maximum(leverage, 1e-12) / race).astype(np.float32), notes=notes)
