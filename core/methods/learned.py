"""Learned projections and gates: gradient descent on a ranking loss over pseudo-queries. Nothing is labelled.

Titles and single sentences of the documents stand in for queries; the full model's own ranking is the
teacher. A share of the pseudo-queries is held out and decides which step is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from core.errors import PlanError
from core.methods.base import Card, DimensionMethod, listwise_sample, moments, option, principal_axes
from core.types import FitContext, Floats, Ints, Ranking

_DOCUMENTS = 8192  # all documents are ranked in a training step up to here, a sample of so many above
_HELD_OUT = 512
_EVERY = 25  # steps between two looks at the held-out loss


@dataclass(frozen=True)
class L1(DimensionMethod):
    """One gate per axis, trained to keep the ranking while an L1 penalty pulls all gates to zero.  O(steps m n d).

    min_g KL(softmax(Q D^T / tau) || softmax((g Q) (g D)^T / tau)) + lambda sum g, lambda growing over the steps.
    Dot products, not cosine: a cosine would let all gates shrink together for nothing, and chance decide which die
    first. Score: the step at which a gate reached zero, then its size before.
    """

    card: ClassVar[Card] = Card(
        name="dimensions/l1",
        criterion="l1",
        label="L1 gates",
        idea="Train a gate per axis under a growing L1 penalty; the axes whose gates die last stay.",
        cost="300 small steps: a few seconds.",
        benefits="Chooses axes together, not one by one.",
        limits="Still axis selection, so a rotation keeps more; depends on the penalty's schedule.",
        reference="Liu et al., Network Slimming, ICCV 2017, eq. 1; Tibshirani, Lasso, 1996.",
        kind="selection",
        learns_from="pseudo-queries",
        slow=True,
        exempt=("rows: it samples documents by position",),
    )
    steps: int = option(300, "gradient steps over the whole penalty path", 10, 5000)
    strength: float = option(40.0, "penalty at the end of the path, in units of 1 / dimensions", 0.01, 10000.0)
    tau: float = option(0.05, "temperature of the ranking loss", 0.005, 1.0)
    seed: int = option(0, "which sample", 0)

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        import torch

        q, d, own = (torch.from_numpy(np.array(v)) for v in listwise_sample(context, self.seed, 384, 1024))
        teacher = ((q @ d.T) / self.tau).masked_fill(own, -1e4).log_softmax(1)
        gates = torch.ones(context.dimension, requires_grad=True)
        scores = np.zeros(context.dimension)
        penalties = np.geomspace(self.strength / 1000, self.strength, self.steps) / context.dimension
        optimiser = torch.optim.Adam([gates], lr=3.0 / self.steps)  # far enough for every gate to reach zero
        for step, penalty in enumerate(penalties):
            if step % _EVERY == 0:
                context.progress("training gates", step, self.steps)
            before, alive = gates.detach().numpy().copy(), scores == 0
            loss = _listwise(q * gates, d * gates, teacher, own, self.tau) + float(penalty) * gates.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():  # a gate that died stays dead: cuts are nested
                gates.clamp_(min=0.0).mul_(torch.from_numpy(alive))
            dies = alive & (gates.detach().numpy() == 0)
            scores[dies] = 1 + step + (before / (1 + before.max()))[dies]
            if (scores > 0).all():
                break
        left = gates.detach().numpy()
        scores = np.where(scores > 0, scores, 1 + self.steps + left / (1 + left.max()))
        note = f"{int((left == 0).sum())} of {len(left)} gates reached zero at strength {self.strength:g}"
        return Ranking(self.card.name, scores.astype(np.float32), notes=(note,))


def _listwise(q: Any, d: Any, teacher: Any, own: Any, tau: float) -> Any:
    """KL(teacher || softmax(q d / tau)), mean over queries; a query's own text does not count."""
    from torch.nn import functional

    student = (q @ d.T / tau).masked_fill(own, -1e4).log_softmax(1)
    return functional.kl_div(student, teacher, log_target=True, reduction="batchmean")


@dataclass(frozen=True)
class Distilled(DimensionMethod):
    """A projection trained so that ranking by it agrees with the full model's ranking.  O(steps m n (d + k)).

    min_W (1 - a) KL(softmax(Q D^T / tau) || softmax(cos(Q W, D W) / tau)) - a log p(own document | pseudo-query),
    W from the SVD, Adam with cosine decay, the step with the lowest held-out loss kept. Without a size, one basis
    whose prefixes are all trained serves the curve; a cut that is shipped is fitted for its own size.
    """

    card: ClassVar[Card] = Card(
        name="dimensions/distilled",
        criterion="distillation",
        label="Distilled projection",
        idea="Train a projection so that titles and sentences of the corpus still find what the full model finds.",
        cost="600 small steps: about ten seconds, plus embedding up to 6,000 short texts once.",
        benefits="Among the best at cuts of 4x and more: 2 to 4 points of nDCG@10 above SVD on SciFact, no labels.",
        limits="Little to gain below 3x. Fitted on the corpus; one learned matrix, no axis can be dropped alone.",
        reference="Listwise distillation: Cao et al., Learning to Rank (ListNet), ICML 2007, applied to a projection.",
        kind="rotation",
        learns_from="pseudo-queries",
        refits=True,
        slow=True,
        exempt=(
            "gram: the projection is not orthogonal",
            "idempotent: the projection is not orthogonal",
            "rows: it samples pseudo-queries by position",
        ),
    )
    steps: int = option(600, "gradient steps; too many overfit, the held-out loss decides", 1, 20000)
    tau: float = option(0.07, "temperature of the ranking loss", 0.005, 1.0)
    own: float = option(0.3, "weight of finding the own document again", 0.0, 1.0)
    seed: int = option(0, "order of the batches and the held-out share", 0)

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        if len(context.pseudo_queries) < 10:
            return _svd_instead(self.card.name, context, "too few texts to train on")
        train = _Training(context, context.pseudo_queries, context.documents, context.owners, self.seed)
        return train.fit(self.card.name, keep, self.steps, self.tau, self.own)


@dataclass(frozen=True)
class Contrastive(DimensionMethod):
    """The same training on in-domain pairs: a title must find its text, given without it.  O(steps m p (d + k)).

    Loss as in `distilled`, over titles (queries) and bodies (documents); `own` weighs the pairs against the
    full model's ranking.
    """

    card: ClassVar[Card] = Card(
        name="dimensions/contrastive",
        criterion="contrastive",
        label="Contrastive projection (title to body)",
        idea="Train a projection so that each title finds its own text among all others.",
        cost="600 small steps: about ten seconds, plus embedding up to 2,000 titles and bodies once.",
        benefits="Learns what belongs together in this domain, beyond what the model knew.",
        limits="Needs texts with titles that say what they are about; pulls away from the full model's ranking.",
        reference="InfoNCE: van den Oord et al., 2018, eq. 4, on title-body pairs of the corpus.",
        kind="rotation",
        learns_from="title-body pairs",
        refits=True,
        slow=True,
        exempt=Distilled.card.exempt,
    )
    steps: int = option(600, "gradient steps; the held-out loss decides which is kept", 1, 20000)
    tau: float = option(0.07, "temperature of the ranking loss", 0.005, 1.0)
    own: float = option(0.5, "weight of the pairs; the rest is the full model's ranking", 0.0, 1.0)
    seed: int = option(0, "order of the batches and the held-out share", 0)

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        if context.pairs is None:
            raise PlanError("dimensions/contrastive needs texts with titles (at least 50); use dimensions/distilled")
        titles, bodies = context.pairs
        train = _Training(context, titles, bodies, np.arange(len(titles)), self.seed)
        return train.fit(self.card.name, keep, self.steps, self.tau, self.own)


def _svd_instead(name: str, context: FitContext, why: str) -> Ranking:
    second, _, notes = moments(context)
    values, axes = principal_axes(second)
    return Ranking(name, values.astype(np.float32), basis=axes, notes=(*notes, f"{why}: this is the SVD"))


class _Training:
    """One run of gradient descent on a projection; holds the tensors, so that the steps stay short."""

    def __init__(self, context: FitContext, queries: Floats, documents: Floats, owners: Ints, seed: int) -> None:
        import torch

        self.context = context
        self.generator = torch.Generator().manual_seed(seed)
        self.queries, self.documents, self.owners = (
            torch.from_numpy(np.array(v)) for v in (queries, documents, owners)
        )
        # hold out whole documents, with all that was taken from them
        held = torch.randperm(len(documents), generator=self.generator)[: max(2, len(documents) // 10)]
        is_held = torch.isin(self.owners, held)
        self.held, self.train = torch.nonzero(is_held).ravel()[:_HELD_OUT], torch.nonzero(~is_held).ravel()

    def loss(self, rows: Any, w: Any, sizes: Sequence[int], tau: float, own: float) -> Any:
        """Mean over `sizes` (prefixes of w) of the loss for some queries against (a sample of) all documents."""
        import torch
        from torch.nn import functional

        q, d, mine = self._batch(rows)
        at = torch.arange(len(rows))
        teacher = q @ d.T / tau
        teacher[at, mine] = -1e4  # what else is found besides the own text, as the full model sees it
        target = teacher.softmax(1)
        entropy = torch.special.entr(target).sum(1).mean()
        total = 0.0
        qw, dw = q @ w, d @ w
        for k in sizes:
            s = functional.normalize(qw[:, :k], dim=1) @ functional.normalize(dw[:, :k], dim=1).T / tau
            found = functional.cross_entropy(s, mine)
            others = s.index_put((at, mine), torch.tensor(-1e4))
            agree = -(target * others.log_softmax(1)).sum(1).mean() - entropy
            total = total + (1 - own) * agree + own * found
        return total / len(sizes)

    def _batch(self, rows: Any) -> tuple[Any, Any, Any]:
        """Queries, documents, and each query's own document's place among them."""
        import torch

        if len(self.documents) <= _DOCUMENTS:
            return self.queries[rows], self.documents, self.owners[rows]
        drawn = torch.randint(len(self.documents), (_DOCUMENTS,), generator=self.generator)
        chosen = torch.unique(torch.cat([drawn, self.owners[rows]]))
        return self.queries[rows], self.documents[chosen], torch.searchsorted(chosen, self.owners[rows])

    def fit(self, name: str, keep: int | None, steps: int, tau: float, own: float) -> Ranking:
        """Train from the SVD's axes; `keep` columns, or all with a loss over prefixes. The best held-out step stays."""
        import torch

        if not len(self.train) or not len(self.held):
            return _svd_instead(name, self.context, "too few texts to train on")
        second, _, notes = moments(self.context)
        axes = torch.from_numpy(principal_axes(second)[1])
        d = axes.shape[0]
        w = axes[:, : keep or d].clone().requires_grad_(True)
        every = [k for k in (d // 12, d // 8, d // 6, d // 4, d // 3, d // 2) if k >= 1] or [d]
        every = every if keep is None else [keep]
        optimiser = torch.optim.Adam([w], lr=1.5e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        best, kept, at = float("inf"), w.detach().clone(), 0
        for step in range(steps + 1):
            if step % _EVERY == 0 or step == steps:
                self.context.progress("training the projection", step, steps)
                with torch.no_grad():
                    held = float(self.loss(self.held, w, every, tau, own))
                if held < best:
                    best, kept, at = held, w.detach().clone(), step
            rows = self.train[torch.randint(len(self.train), (128,), generator=self.generator)]
            pick = torch.randperm(len(every), generator=self.generator)[:2].tolist()
            optimiser.zero_grad()
            self.loss(rows, w, [every[i] for i in pick], tau, own).backward()
            optimiser.step()
            schedule.step()
        note = f"held-out loss {best:.4f} at step {at} of {steps}, {len(self.held)} pseudo-queries held out"
        basis = kept.numpy()
        return Ranking(name, np.arange(basis.shape[1], 0, -1, dtype=np.float32), basis=basis, notes=(*notes, note))
