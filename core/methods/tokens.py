"""Token rows: score every row of the token table by what it does for the texts at hand.

One array over the vocabulary. What cannot go (specials, single characters, BPE parts) and what no text can
produce is not decided here but in surgery/vocabulary.py. Counts are of tokens that the encoder reads, behind its
truncation. Rows that no text used still need an order: half a count and less, falling with the id, because every
tokenizer trainer numbers frequent tokens first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from core.anatomy import Anatomy, duplicate, features
from core.calibration import EncoderContext, Importance, batches, hooked, sentence_vectors, valid
from core.methods.base import Card, EncoderMethod, option

SAMPLE = 128  # texts that gradients are taken on; counts are of all
_CHUNK = 256  # texts tokenized at a time
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Random(EncoderMethod):
    """Keep rows drawn by chance: the baseline every other method must beat.  O(vocabulary)."""

    card: ClassVar[Card] = Card(
        name="tokens/random",
        criterion="random",
        label="Random",
        idea="Keep token rows drawn by chance; words whose row went are spelled with shorter pieces.",
        cost="Nothing to compute.",
        benefits="The honest floor: what a cut of this size costs when nothing is known of the texts.",
        limits="Frequent words lose their rows like rare ones: most texts are spelled differently and longer.",
        reference="Baseline.",
        kind="rows",
        learns_from="nothing",
        seeded=True,
    )
    seed: int = option(0, "which draw", 0)

    def rank(self, context: EncoderContext) -> Importance:
        return Importance(self.card.name, (np.random.default_rng(self.seed).random(_rows(context)),))


@dataclass(frozen=True)
class Frequency(EncoderMethod):
    """Score of row v: how often token v is read in the calibration texts.  One tokenizer pass."""

    card: ClassVar[Card] = Card(
        name="tokens/frequency",
        criterion="frequency",
        label="Corpus frequency",
        idea="Keep the rows of the tokens that the texts use most.",
        cost="One pass of the tokenizer over all texts, no model: seconds.",
        benefits="What the corpus uses stays as it is, bit for bit; most tables are half unused on any one corpus.",
        limits="Texts of another domain or language are spelled in shorter pieces. Rows take no time to look up, so "
        "the model gets smaller, not faster.",
        reference="Abdaoui et al., Load What You Need, SustaiNLP 2020; Ushio et al., Vocabulary Trimming, EMNLP 2023.",
        kind="rows",
        learns_from="calibration texts",
    )

    def rank(self, context: EncoderContext) -> Importance:
        counts = _counts(context)
        return Importance(self.card.name, (counts + _prior(len(counts)),), (_used(counts, context),))


@dataclass(frozen=True)
class Magnitude(EncoderMethod):
    """Score of row v: the length of the row.  O(vocabulary x width)."""

    card: ClassVar[Card] = Card(
        name="tokens/magnitude",
        criterion="magnitude",
        label="Magnitude (row length)",
        idea="Short rows add little to a sentence: drop them.",
        cost="One look at the table; needs no texts.",
        benefits="Needs no corpus. In MiniLM the rows of rare tokens are shorter: a little above random.",
        limits="Below random where SIF weighting made the rows of frequent words short, as in static "
        "models: there it drops what every text uses.",
        reference="Magnitude pruning: Han et al., NeurIPS 2015, applied to rows.",
        kind="rows",
        learns_from="nothing",
    )

    def rank(self, context: EncoderContext) -> Importance:
        table = _view(context).tokens.weight.detach().double().norm(dim=1)
        return Importance(self.card.name, (table.numpy(),))


@dataclass(frozen=True)
class Taylor(EncoderMethod):
    """Score of row v: sum over its occurrences of (d(u.e)/d row . row)^2, u a random tangent vector.  One backward.

    Gauss-Newton, because the gradient of self-distillation is zero at the dense model. The mean over occurrences
    is taken on a sample and multiplied with the count in all texts; tokens that the sample lacks get the mean of
    all tokens (which counts as one occurrence for those it has).
    """

    card: ClassVar[Card] = Card(
        name="tokens/taylor",
        criterion="taylor",
        label="Taylor (effect on the sentence vector)",
        idea="Keep the rows whose removal would turn the sentence vectors most, over all their occurrences.",
        cost=f"A forward and a backward pass over a seeded sample of {SAMPLE} texts; counts are of all texts.",
        benefits="A frequent comma weighs less than a frequent word that says something.",
        limits="First order and for removal, while in truth a row is replaced by shorter pieces. An estimate where a "
        "token is rare in the sample.",
        reference="Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, eq. 8.",
        kind="rows",
        learns_from="calibration texts",
        slow=True,
        seeded=True,
    )
    seed: int = option(0, "which sample of texts, which tangent vectors", 0)

    def rank(self, context: EncoderContext) -> Importance:
        counts = _counts(context)
        scores = (counts + _prior(len(counts))) * _effect(context, self.seed)
        return Importance(self.card.name, (scores,), (_used(counts, context), _sampled(context)))


@dataclass(frozen=True)
class ImportanceSampling(EncoderMethod):
    """Sample rows without replacement, with probability by count x effect on the sentence vector.  One backward.

    The effect is the root of Taylor's mean square; keys weight / E with E ~ Exp(1) make one nested order whose
    every prefix is a sample without replacement (an exponential race).
    """

    card: ClassVar[Card] = Card(
        name="tokens/importance-sampling",
        criterion="importance-sampling",
        label="Importance sampling (count x effect)",
        idea="Draw rows by chance, those that matter more often: rare words keep a share that a sort would starve.",
        cost=f"A forward and a backward pass over a seeded sample of {SAMPLE} texts; counts are of all texts.",
        benefits="Its spread over seeds says how much the choice among rare tokens matters.",
        limits="A draw: at times a used token loses its row to an unused one, so more texts change than by frequency.",
        reference="Efraimidis & Spirakis, Weighted random sampling with a reservoir, IPL 2006.",
        kind="rows",
        learns_from="calibration texts",
        slow=True,
        seeded=True,
    )
    seed: int = option(0, "which draw", 0)

    def rank(self, context: EncoderContext) -> Importance:
        counts = _counts(context)
        weight = (counts + _prior(len(counts))) * np.sqrt(_effect(context, self.seed))
        race = np.random.default_rng(self.seed).exponential(size=len(counts))
        return Importance(self.card.name, (weight / race,), (_used(counts, context), _sampled(context)))


def _view(context: EncoderContext) -> Anatomy:
    return Anatomy(context.encoder, "tokens")


def _rows(context: EncoderContext) -> int:
    return int(_view(context).tokens.weight.shape[0])


def _prior(rows: int) -> Scores:
    """What a token counts without having been seen: below one half, falling with its id."""
    return np.asarray(0.5 * (1.0 - np.arange(rows) / rows))


def _ids(batch: Mapping[str, Any]) -> Any:
    """The ids of real tokens, flat."""
    ids = batch["input_ids"]
    return ids[valid(batch)] if "attention_mask" in batch else ids


def _counts(context: EncoderContext) -> Scores:
    """How often each row is read in all calibration texts."""
    found = np.zeros(_rows(context))
    for start in range(0, len(context.texts), _CHUNK):
        context.progress("counting tokens", start, len(context.texts))
        ids = _ids(features(context.encoder, context.texts[start : start + _CHUNK])).numpy()
        found += np.bincount(ids, minlength=len(found))
    return found


def _used(counts: Scores, context: EncoderContext) -> str:
    return f"{int((counts > 0).sum()):,} of {len(counts):,} token rows are used in {len(context.texts):,} texts"


def _sampled(context: EncoderContext) -> str:
    return f"effects are estimated on {min(SAMPLE, len(context.texts)):,} of the texts"


def _effect(context: EncoderContext, seed: int) -> Scores:
    """E (d(u.e)/d row . row)^2 per occurrence of each token, shrunk towards the mean of all tokens."""
    import torch

    encoder = duplicate(context.encoder)  # its table is hooked, which a shared model must not be
    chosen = np.sort(np.random.default_rng(seed).permutation(len(context.texts))[:SAMPLE])
    dice = torch.Generator().manual_seed(seed)
    total, seen = np.zeros(_rows(context)), np.zeros(_rows(context))
    parts = batches(encoder, [context.texts[i] for i in chosen])
    for done, batch in enumerate(parts):
        context.progress("effects of tokens", done, len(parts))
        ids = _ids(batch).numpy()
        total += np.bincount(ids, _squares(encoder, batch, dice), minlength=len(total))
        seen += np.bincount(ids, minlength=len(total))
    mean = total.sum() / max(seen.sum(), 1.0) or 1.0
    return np.asarray((total + mean) / (seen + 1.0))


def _squares(encoder: Any, batch: Mapping[str, Any], dice: Any) -> Scores:
    """(d(u.e)/d row . row)^2 of every real token of the batch, flat; u is tangent to each sentence vector e."""
    import torch

    with torch.enable_grad(), _looked_up(encoder) as found:
        e = sentence_vectors(encoder, batch)
        fixed, u = e.detach(), torch.randn(e.shape, generator=dice)
        u -= (u * fixed).sum(1, keepdim=True) * fixed / (fixed**2).sum(1, keepdim=True).clamp_min(1e-12)
        (gradient,) = torch.autograd.grad((u * e).sum(), found)
    squares = (gradient * found[0].detach()).sum(-1) ** 2
    return np.asarray(squares[valid(batch)] if "attention_mask" in batch else squares, np.float64)


@contextmanager
def _looked_up(encoder: Any) -> Iterator[list[Any]]:
    """The rows that a forward pass looks up, one for each occurrence, as the leaf that gradients end at."""
    import torch

    found: list[Any] = []

    def hook(table: Any, inputs: tuple[Any, ...], out: Any) -> Any:
        if not isinstance(table, torch.nn.EmbeddingBag):
            found[:] = [out.detach().requires_grad_()]
            return found[0]
        ids, offsets = inputs
        found[:] = [table.weight.detach()[ids].requires_grad_()]
        return torch.nn.functional.embedding_bag(torch.arange(len(ids)), found[0], offsets, mode=table.mode)

    with hooked([(Anatomy(encoder, "tokens").tokens, hook, False)]):
        yield found
