"""Look at an encoder through a small, seeded sample of a data set: what a change keeps of quality and of vectors.

    probe = Probe.start(encoder, judge, model, size=128, seed=0)      the unpruned encoder on the sample
    probe.look(vectors)                                               Look(quality, cosine, overlap)
    with hooked(...): probe.look(probe.resumed(walker))               a change at or behind layer `walker.at`

A quality on a few dozen queries is noisy; the mean cosine to the unpruned embeddings is far less so. Both are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from core.bench import Judge, task
from core.calibration import batches, sentence_vectors
from core.embedding import prompt_of
from core.encoders import ModelInfo
from core.errors import InputError
from core.evaluate import drift
from core.evaluate.judgements import Judgements
from core.judging import measure
from core.surgery.walk import Walker
from core.types import Dataset, Embeddings, Floats, Ints, Texts, unit

SIZE = 128  # documents; MiniLM reads such a sample in about two seconds of one core
LEAST = 8
WORDS = 48  # of a text that are read
_ASKED = 5 / 16  # queries for a document: 40 for 128


@dataclass(frozen=True)
class Look:
    """What is kept, as shares: of the judge's main measure, of the direction of vectors, of the ten nearest."""

    quality: float
    cosine: float
    overlap: float


@dataclass(frozen=True, eq=False)
class Probe:
    """A sample, embedded by the unpruned encoder. Vectors have documents first, then queries: (documents + asked, d).

    texts   with the model's prompts, sorted by length; `order` is where each stands among documents and queries
    """

    judge: Judge
    texts: tuple[str, ...]
    order: Ints
    dense: Floats
    base: float
    near: Judgements
    tokens: int
    words: str

    @classmethod
    def start(cls, encoder: Any, judge: Judge, model: ModelInfo, size: int = SIZE, seed: int = 0) -> Probe:
        """Draw the sample and embed it once. Raises InputError where no query has a relevant document."""
        data = draw(judge, size, seed)
        found = [*_prompted(model, data.documents, data, "document"), *_prompted(model, data.queries, data, "query")]
        order = np.array(sorted(range(len(found)), key=lambda i: len(found[i])), np.int64)
        texts = tuple(found[i] for i in order)
        rows = batches(encoder, texts)
        dense, metric, n = _forward(encoder, rows)[np.argsort(order)], judge.documents.metric, len(data.documents)
        pair = Embeddings(dense[:n], metric), Embeddings(dense[n:], metric)
        small = Judge(data, *pair, task(data, *pair) if data.kind == "retrieval" else None)
        near = drift.neighbours(dense[:n], np.arange(n), metric)
        tokens = sum(int(b["attention_mask"].sum() if "attention_mask" in b else len(b["input_ids"])) for b in rows)
        return cls(small, texts, order, dense, _quality(small, dense), near, tokens, _words(judge, data, seed))

    @property
    def measure(self) -> str:
        return self.judge.main

    @property
    def documents(self) -> int:
        return len(self.judge.dataset.documents)

    def batches(self, encoder: Any) -> tuple[Mapping[str, Any], ...]:
        """The sample as this encoder's tokenizer reads it."""
        return batches(encoder, self.texts)

    def vectors(self, encoder: Any) -> Floats:
        """The sample embedded by an encoder."""
        return _forward(encoder, self.batches(encoder))[np.argsort(self.order)]

    def resumed(self, walker: Walker) -> Floats:
        """The sample embedded by the walker's encoder, which goes on from where the walker stands."""
        return _resumed(walker)[np.argsort(self.order)]

    def look(self, vectors: Floats) -> Look:
        """Hold vectors of the sample against those of the unpruned encoder."""
        quality = _quality(self.judge, vectors) / self.base if self.base > 0 else float("nan")
        cosine = float(np.einsum("ij,ij->i", unit(vectors), unit(self.dense)).mean())
        documents, metric = vectors[: self.documents], self.judge.documents.metric
        overlap = drift.overlap(self.near, documents, documents, [documents.shape[1]], metric)
        return Look(quality, cosine, float(overlap.mean()))


def draw(judge: Judge, size: int, seed: int = 0) -> Dataset:
    """A seeded part of a data set, texts cut to WORDS words.

    Retrieval: queries whose relevant documents fit, all of these documents, and documents drawn at random;
    agreement is then with the unpruned encoder on the sample. Pairs and labelled texts: drawn at random.
    """
    data, rng = judge.dataset, np.random.default_rng(seed)
    if data.kind == "retrieval":
        rows, asked = _search(judge, size, rng)
    else:
        rows = np.sort(rng.permutation(len(data.documents))[:size])
        asked = rows if data.kind == "pairs" else np.sort(rng.permutation(len(data.queries))[: max(1, size // 2)])
    scores = None if data.scores is None else data.scores[rows]
    documents, queries = _shortened(data.documents.take(rows)), _shortened(data.queries.take(asked))
    return replace(data, documents=documents, queries=queries, scores=scores)


def _search(judge: Judge, size: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Rows of documents and of queries."""
    judged = judge.task
    if judged is None or not len(judged):
        raise InputError(f"{judge.name}: no query has a relevant document, so there is nothing to judge by")
    count = len(judge.dataset.documents)
    wanted: set[int] = set()
    asked: list[int] = []
    for i in rng.permutation(len(judged)):
        if len(asked) >= max(1, round(_ASKED * size)):
            break
        mine = judged.columns[judged.judged[judged.pointer[i] : judged.pointer[i + 1]]].tolist()
        needed = wanted.union(mine) if judge.dataset.qrels is not None else wanted
        if len(needed) <= size // 2 or not asked:
            wanted = needed
            asked.append(int(judged.query_rows[i]))
    for row in rng.permutation(count).tolist():  # by chance: the unpruned encoder's near misses would favour any other
        if len(wanted) >= size:
            break
        wanted.add(row)
    return np.array(sorted(wanted), np.int64), np.array(sorted(asked), np.int64)


def _shortened(texts: Texts) -> Texts:
    return Texts(texts.ids, tuple(" ".join(t.split()[:WORDS]) for t in texts.full), (), texts.labels)


def _prompted(model: ModelInfo, texts: Texts, data: Dataset, role: Any) -> list[str]:
    prompt = prompt_of(model, role if data.kind == "retrieval" else "sentence")
    return [prompt + t for t in texts.texts]


def _words(judge: Judge, data: Dataset, seed: int) -> str:
    """The sentence that states the sample."""
    whole = judge.dataset
    ends = f"{judge.name}, each cut to {WORDS} words, seed {seed}"
    if data.kind == "pairs":
        return f"{len(data.documents):,} of {len(whole.documents):,} sentence pairs of {ends}"
    parts = f"{len(data.documents):,} of {len(whole.documents):,} {{}} and {len(data.queries):,} of "
    if data.kind == "labels":
        return parts.format("training texts") + f"{len(whole.queries):,} test texts of {ends}"
    judged = len(judge.task) if judge.task is not None else 0
    how = "all that are relevant, others at random" if data.qrels else "at random"
    return parts.format(f"documents ({how})") + f"{judged:,} queries of {ends}"


def _quality(judge: Judge, vectors: Floats) -> float:
    n = len(judge.dataset.documents)
    found = measure(judge, vectors[:n], vectors[n:], judge.documents.metric).means
    return found.get(judge.main, float("nan"))


def _forward(encoder: Any, rows: Sequence[Mapping[str, Any]]) -> Floats:
    import torch

    with torch.no_grad():
        return np.concatenate([sentence_vectors(encoder, b).numpy() for b in rows])


def _resumed(walker: Walker) -> Floats:
    """Sentence vectors of the walker's batches; layers before `walker.at` hand on what is known to pass there."""
    import torch

    view, blocks = walker.view, list(walker.view.layers)[: walker.at]
    known: list[Any] = [None]

    def answer(*_: Any, **__: Any) -> Any:
        return (known[0],) if view.parts.tuples else known[0]

    out = []
    try:
        for block in blocks:
            block.forward = answer
        with torch.no_grad():
            for known[0], batch in zip(walker.hidden, walker.batches, strict=True):
                out.append(sentence_vectors(view.encoder, batch).numpy())
    finally:
        for block in blocks:
            del block.forward
    return np.concatenate(out)
