"""What encoder methods may learn from: the encoder, read only, and unlabelled calibration texts as token batches.

A batch holds the tokenizer's tensors; `valid` marks real tokens, so that padding never enters a statistic.
Gates are multiplicative factors on neurons, heads or layers, all one at the dense model; their gradients and
their training are what Taylor and L1 criteria rank by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.anatomy import Anatomy, features
from core.errors import InputError
from core.types import Progress, digest, quiet

BATCH = 32
TOKENS = 20_000  # of the sample that statistics of single weights are made from


@dataclass(frozen=True)
class CalibrationTexts:
    """Unlabelled texts with the model's prompts before them, in a seeded order.

    `short` stand in for queries (titles and single sentences): both ends of a search pass the encoder, and a cut
    that has seen only documents forgets what queries look like. `pairs` are titles with their texts, for contrast.
    """

    documents: tuple[str, ...]
    short: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()

    def mixed(self, tokens: int) -> tuple[str, ...]:
        """Documents up to about two thirds of so many tokens, short texts for the rest (a word counts as 1.3)."""
        documents = _first(self.documents, tokens * 2 / 3 if self.short else tokens)
        return (*documents, *_first(self.short, tokens - _tokens(documents)))

    def probes(self, count: int = 16) -> list[str]:
        """A few of both kinds, to compare vectors on."""
        return [*self.documents[:count], *self.short[:count]]


def _tokens(texts: Sequence[str]) -> float:
    return 1.3 * sum(len(t.split()) for t in texts)


def _first(texts: Sequence[str], tokens: float) -> Sequence[str]:
    """The first texts that hold about so many tokens, at least one; texts count up to 256 tokens."""
    total = 0.0
    for n, text in enumerate(texts):
        total += min(256.0, _tokens([text]))
        if total >= tokens:
            return texts[: n + 1]
    return texts


@dataclass(frozen=True, eq=False)
class EncoderContext:
    """All that an encoder method may learn from. `encoder` is a copy nobody else reads: it is hooked while measured.

    texts   calibration texts, in which the corpus's own prompt already stands
    keep    how many units (of a row) will stay, for criteria that depend on it
    """

    encoder: Any
    texts: tuple[str, ...]
    target: str = "neurons"
    seed: int = 0
    keep: int | None = None
    progress: Progress = quiet

    @cached_property
    def view(self) -> Anatomy:
        return Anatomy(self.encoder, self.target)

    @cached_property
    def fingerprint(self) -> str:
        return digest("\x1f".join(self.texts))

    @cached_property
    def batches(self) -> tuple[Mapping[str, Any], ...]:
        """The texts as token batches, sorted by length so that there is little padding."""
        return batches(self.encoder, self.texts)

    @cached_property
    def sample(self) -> tuple[str, ...]:
        """Texts drawn by `seed`, about 20,000 tokens in all: what statistics of single weights are made from."""
        if not self.texts:
            raise InputError("no calibration texts: this criterion learns from some. Give a corpus, or use magnitude.")
        order = np.random.default_rng(self.seed).permutation(len(self.texts))
        chosen: list[str] = []
        tokens = 0
        for start in range(0, len(order), BATCH):
            part = [self.texts[i] for i in order[start : start + BATCH]]
            for text, count in zip(part, valid(features(self.encoder, part)).sum(1).tolist(), strict=True):
                if tokens >= TOKENS:
                    return tuple(chosen)
                chosen.append(text)
                tokens += count
        return tuple(chosen)

    @cached_property
    def moments(self) -> Mapping[str, Any]:
        """Linear layer -> X^T X (p, p) over the sampled tokens X at its input; layers with one input share one.

        float32 on the processor: 67 MB for 6 layers of 384, 540 MB for 12 layers of 768.
        """
        view, sums = self.view, dict[str, Any]()
        first = view.parts.inputs[0]
        source = {n: n for n, _ in view.linears()}
        for i in range(len(view.layers)):
            source |= {f"{view.parts.layers}.{i}.{n}": f"{view.parts.layers}.{i}.{first}" for n in view.parts.inputs}

        def add(name: str, x: Any) -> None:
            sums[name] = x.T @ x + sums.get(name, 0.0)

        distinct = [(n, module) for n, module in view.linears() if source[n] == n]
        each_input(self, distinct, add)
        return {n: sums[s] for n, s in source.items()}


@dataclass(frozen=True, eq=False)
class Importance:
    """One score per unit (higher = keep), one array per layer (one array in all for tokens, width, layers)."""

    method: str
    scores: tuple[NDArray[Any], ...]
    notes: tuple[str, ...] = ()


def batches(encoder: Any, texts: Sequence[str], size: int = BATCH) -> tuple[Mapping[str, Any], ...]:
    """Token batches of the texts, short ones first."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows = [[texts[i] for i in order[s : s + size]] for s in range(0, len(order), size)]
    return tuple(features(encoder, part) for part in rows)


def sentence_vectors(encoder: Any, batch: Mapping[str, Any]) -> Any:
    """(texts, d) sentence embeddings of a token batch, with gradients where torch records them."""
    return encoder.forward(dict(batch))["sentence_embedding"]


def valid(batch: Mapping[str, Any]) -> Any:
    """(texts, tokens) True for real tokens."""
    return batch["attention_mask"].bool()


@contextmanager
def hooked(hooks: Sequence[tuple[Any, Callable[..., Any], bool]]) -> Iterator[None]:
    """Run with hooks (module, function, before the forward or after it), and take them off again."""
    handles = [m.register_forward_pre_hook(f) if before else m.register_forward_hook(f) for m, f, before in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def each_input(context: EncoderContext, modules: Sequence[tuple[str, Any]], see: Callable[[str, Any], None]) -> None:
    """Call see(name, x (tokens, p)) with what each module reads in each sampled batch, padding left out."""
    import torch

    mask: list[Any] = [None]

    def tap(name: str) -> Callable[..., None]:
        return lambda _, inputs: see(name, inputs[0].detach()[mask[0]])

    rows = batches(context.encoder, context.sample)
    with hooked([(module, tap(name), True) for name, module in modules]), torch.no_grad():
        for done, batch in enumerate(rows):
            context.progress("reading what the layers read", done, len(rows))
            mask[0] = valid(batch)
            sentence_vectors(context.encoder, batch)
