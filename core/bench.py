"""From names to arrays: open the model, read the data, embed, and keep what fits apart from what judges.

    prepare("minilm", ["sample"])   -> Bench: the model, the judges (data sets, embedded), the fit context

A `Judge` knows the judgements; a `FitContext` never does. By default methods learn from the corpus texts
of the data; `fit_on` names other texts instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from core import data
from core.asking import PSEUDO, ROWS, chosen, pseudo_queries, title_body_pairs, titled
from core.embedding import Role, embed
from core.embedding import missing as count_missing
from core.encoders import VECTORS, ModelInfo, open_model
from core.errors import InputError
from core.evaluate.judgements import Judgements, from_neighbours, from_qrels
from core.methods.base import TEN, Card
from core.types import Dataset, Embeddings, FitContext, Floats, Ints, Prior, Progress, Rows, Texts, digest, quiet

PRIORS = Path(__file__).parents[1] / "assets" / "priors"


@dataclass(frozen=True, eq=False)
class Judge:
    """A data set, embedded: what a cut is judged by. `task` stands where there is retrieval to judge.

    sides   of pairs of words: the two rows of the index that each pair is
    had     of items that are recommended: how often each was had in training, by anybody
    """

    dataset: Dataset
    documents: Embeddings
    queries: Embeddings
    task: Judgements | None = None
    sides: tuple[Ints, Ints] | None = None
    had: Ints | None = None

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def main(self) -> str:
        """The measure that stands for this data set."""
        return {"retrieval": "ndcg@10", "pairs": "spearman", "labels": "accuracy"}[self.dataset.kind]

    def without(self, rows: Rows, index: Floats) -> Judge:
        """The same questions where these rows of the index (n, d) are left: what is relevant and gone is missed.

        Pairs of words lose those of which a word is gone; sentence pairs have no index and stay.
        """
        data = self.dataset
        if data.kind == "pairs" and self.sides is None:
            return self
        if self.sides is not None:
            stays, vectors = self.covered(rows), np.zeros_like(index)
            vectors[rows.served] = rows.standing(index)
            one, two = (s[stays] for s in self.sides)
            assert data.scores is not None
            texts = (data.documents.take(stays), data.queries.take(stays))
            part = replace(data, documents=texts[0], queries=texts[1], scores=data.scores[stays])
            metric = self.documents.metric
            return Judge(part, Embeddings(vectors[one], metric), Embeddings(vectors[two], metric), None, (one, two))
        left = self.held(rows)
        own = index[left] if rows.vectors is None else rows.vectors
        vectors = own if data.kind == "labels" else rows.standing(index)
        part = replace(data, documents=data.documents.take(left))
        task = None if self.task is None else self.task.left(left)
        return replace(self, dataset=part, documents=Embeddings(vectors, self.documents.metric), task=task)

    def held(self, rows: Rows) -> Ints:
        """The rows that still count: those that a search brings up; of labelled texts what is folded trains nothing."""
        return rows.kept if self.dataset.kind == "labels" else rows.served

    def covered(self, rows: Rows) -> Ints:
        """The pairs of words of which both are still served."""
        assert self.sides is not None
        return np.flatnonzero((rows.stands[self.sides[0]] >= 0) & (rows.stands[self.sides[1]] >= 0))

    @cached_property
    def query_texts(self) -> Texts:
        """The queries that are judged, in the order of the per-query values."""
        return self.dataset.queries if self.task is None else self.dataset.queries.take(self.task.query_rows)


@dataclass(frozen=True, eq=False)
class Bench:
    """Everything a session works on. `fit` are the texts methods learn from; `inside` says they are judged too."""

    model: ModelInfo
    judges: tuple[Judge, ...]
    fit: Texts
    fit_vectors: Embeddings
    fit_names: tuple[str, ...]
    inside: bool
    prior: Prior | None
    seed: int = 0

    @property
    def small(self) -> bool:
        """Whether a fitted basis may overfit: fewer than 10 documents per dimension."""
        return len(self.fit) < TEN * self.model.dimension

    @cached_property
    def fingerprint(self) -> str:
        judged = (f.fingerprint for j in self.judges for f in (j.dataset, j.documents, j.queries))
        return digest(self.model.fingerprint, self.fit_vectors.fingerprint, *judged)

    def context(self, card: Card, progress: Progress = quiet) -> FitContext:
        """What a method of this card may learn from; texts it needs beyond the documents are embedded now."""
        if not len(self.fit):
            raise InputError("no text is left to learn from: give at least two texts, or name others with --fit-on")
        empty = np.zeros((0, self.model.dimension), np.float32)
        context = FitContext(
            self.fit_vectors.vectors, empty, np.zeros(0, np.int64), None, self.fit_vectors.metric, self.prior, progress
        )
        if card.learns_from in ("pseudo-queries", "title-body pairs"):
            asked, owners = self._asked(self.fit, self.fit_vectors.vectors, progress)
            context = replace(context, pseudo_queries=asked, owners=owners)
        if self.model.architecture != VECTORS and card.learns_from == "title-body pairs":
            rows = np.asarray(titled(self.fit), np.int64)
            context = replace(context, pairs=self._pairs(progress), pair_owners=rows)
        return context

    def index(self, judge: Judge, card: Card, progress: Progress = quiet) -> FitContext:
        """What a method that ranks whole vectors learns from: a judge's own index, but not the texts that ask there."""
        documents, texts = judge.documents.vectors, judge.dataset.documents
        asking = set(judge.dataset.queries.ids) if judge.dataset.truth == "agreement" else set()
        aside = np.array([i for i, name in enumerate(texts.ids) if name in asking], np.int64)
        context = FitContext(
            documents, np.zeros((0, documents.shape[1]), np.float32), np.zeros(0, np.int64),
            metric=judge.documents.metric, progress=progress, aside=aside,
        )  # fmt: skip
        if card.learns_from != "pseudo-queries":
            return context
        lend = np.setdiff1d(np.arange(len(texts)), aside)
        asked, owners = self._asked(texts.take(lend), documents[lend], progress, ROWS)
        return replace(context, pseudo_queries=asked, owners=lend[owners])

    def _asked(self, texts: Texts, vectors: Floats, progress: Progress, most: int = PSEUDO) -> tuple[Floats, Ints]:
        """Pseudo-queries (m, d) and the row each was taken from; without a model vectors stand in for queries."""
        if self.model.architecture == VECTORS:
            rows = np.asarray(chosen(texts, 2 * PSEUDO), np.int64)
            return vectors[rows], rows
        asked, owners = pseudo_queries(texts, most)
        return embed(self.model, asked, "query", progress).vectors, owners

    def _pairs(self, progress: Progress) -> tuple[Floats, Floats] | None:
        titles, bodies = title_body_pairs(self.fit)
        if len(titles) < 50:
            return None
        return (
            embed(self.model, titles, "query", progress).vectors,
            embed(self.model, bodies, "document", progress).vectors,
        )


def judge(model: ModelInfo, dataset: Dataset, progress: Progress = quiet) -> Judge:
    """Embed a data set and turn its judgements into index arrays."""
    if dataset.kind == "retrieval":
        documents = embed(model, dataset.documents.full, "document", progress)
        queries = embed(model, dataset.queries.full, "query", progress)
        return Judge(dataset, documents, queries, task(dataset, documents, queries))
    left = embed(model, dataset.documents.full, "sentence", progress)
    return Judge(dataset, left, embed(model, dataset.queries.full, "sentence", progress))


def rebased(bench: Bench, info: ModelInfo, progress: Progress = quiet, *, fit: bool = True) -> Bench:
    """The same data embedded by another encoder (a cut one); what is relevant stays what it was.

    `fit` says whether a method will be fitted on the new vectors, so that they are wanted.
    """

    def again(j: Judge) -> Judge:
        roles: tuple[Role, Role] = ("document", "query") if j.dataset.kind == "retrieval" else ("sentence", "sentence")
        parts = (j.dataset.documents.full, j.dataset.queries.full)
        documents, queries = (embed(info, t, r, progress) for t, r in zip(parts, roles, strict=True))
        return Judge(j.dataset, documents, queries, j.task)

    vectors = embed(info, bench.fit.full, "document", progress) if fit else bench.fit_vectors
    judges = tuple(again(j) for j in bench.judges)
    return replace(bench, model=info, judges=judges, fit_vectors=vectors, prior=load_prior(info))


def sampled(judge: Judge, seed: int = 0, queries: int = 100, documents: int = 500) -> Judge:
    """A seeded sample of a data set: queries with all their relevant documents, and others up to `documents`.

    For what is judged many times (random draws, sensitivity). Data sets that are small enough stay whole.
    """
    data, rng = judge.dataset, np.random.default_rng(seed)

    def some(count: int, most: int) -> Ints:
        return np.sort(rng.permutation(count)[:most])

    if judge.task is None:
        if data.kind == "pairs":
            rows = some(len(data.documents), documents)
            scores = None if data.scores is None else data.scores[rows]
            part = replace(data, documents=data.documents.take(rows), queries=data.queries.take(rows), scores=scores)
            return Judge(part, _rows(judge.documents, rows), _rows(judge.queries, rows))
        one, two = some(len(data.documents), 4 * documents), some(len(data.queries), documents)
        part = replace(data, documents=data.documents.take(one), queries=data.queries.take(two))
        return Judge(part, _rows(judge.documents, one), _rows(judge.queries, two))
    asked = judge.task.query_rows[some(len(judge.task), queries)]
    ids, asking = data.documents.ids, data.queries.ids
    if data.qrels is None:
        wanted: set[str] = set()
    else:
        wanted = {d for q in asked for d in data.qrels.get(asking[int(q)], {})}
    relevant = np.array([i for i, d in enumerate(ids) if d in wanted], np.int64)
    others = np.setdiff1d(np.arange(len(ids)), relevant)
    more = rng.permutation(others)[: max(documents - len(relevant), 20)]
    rows = np.sort(np.concatenate([relevant, more]))
    part = replace(data, documents=data.documents.take(rows), queries=data.queries.take(asked))
    vectors = (_rows(judge.documents, rows), _rows(judge.queries, asked))
    if judge.task.hidden is None:
        return Judge(part, *vectors, task(part, *vectors))
    small = judge.task.only(np.flatnonzero(np.isin(judge.task.query_rows, asked))).left(rows)
    return Judge(part, *vectors, replace(small, query_rows=np.arange(len(asked))))


def _rows(vectors: Embeddings, rows: Ints) -> Embeddings:
    return Embeddings(vectors.vectors[rows], vectors.metric)


def task(dataset: Dataset, documents: Embeddings, queries: Embeddings) -> Judgements:
    """Judgements as arrays: the given ones, or the unpruned model's own top 10 (agreement)."""
    ids = dataset.documents.ids
    if dataset.qrels is not None:
        return from_qrels(dataset.queries.ids, ids, dataset.qrels)
    row = {d: i for i, d in enumerate(ids)}
    own = np.array([row.get(q, -1) for q in dataset.queries.ids], np.int64)
    return from_neighbours(queries.vectors, documents.vectors, ids, own, k=10, metric=documents.metric)


def fit_texts(datasets: Sequence[Dataset]) -> Texts:
    """The texts methods may learn from, each once: documents, or both sentences of pairs, or training texts.

    Documents that ask (agreement without a query log) are held out.
    """
    rows: dict[str, tuple[str, str, str]] = {}
    for dataset in datasets:
        asking = set(dataset.queries.ids) if dataset.kind == "retrieval" and dataset.qrels is None else set()
        parts = [dataset.documents, dataset.queries] if dataset.kind == "pairs" else [dataset.documents]
        for part in parts:
            titles = part.titles or ("",) * len(part)
            for key, title, text, full in zip(part.ids, titles, part.texts, part.full, strict=True):
                if key not in asking:
                    rows.setdefault(full, (key, title, text))
    found = list(rows.values())
    return Texts(tuple(r[0] for r in found), tuple(r[2] for r in found), tuple(r[1] for r in found))


def load_prior(model: ModelInfo) -> Prior | None:
    """The second moments over general text that are shipped for this model, or None."""
    path = PRIORS / f"{model.fingerprint}.safetensors"
    if not path.is_file():
        return None
    from safetensors.numpy import load_file

    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    arrays = load_file(path)
    return Prior(arrays["second_moment"], arrays["mean"], int(about["texts"]), str(about["source"]))


def missing(model: ModelInfo, datasets: Sequence[Dataset], fits: Sequence[Dataset] = ()) -> int:
    """How many texts must be embedded before these data sets can be judged, fitted on `fits`; 0 means at once."""
    roles: dict[str, tuple[Role, Role]] = {"retrieval": ("document", "query")}
    count = count_missing(model, fit_texts(fits).full, "document") if fits else 0
    for d in datasets:
        one, two = roles.get(d.kind, ("sentence", "sentence"))
        count += count_missing(model, d.documents.full, one) + count_missing(model, d.queries.full, two)
    return count


def lacking(bench: Bench, card: Card) -> int:
    """How many texts a method of this card still needs embedded beyond the documents."""
    if card.learns_from not in ("pseudo-queries", "title-body pairs"):
        return 0
    count = count_missing(bench.model, pseudo_queries(bench.fit)[0], "query")
    if card.learns_from == "title-body pairs":
        titles, bodies = title_body_pairs(bench.fit)
        count += count_missing(bench.model, titles, "query") + count_missing(bench.model, bodies, "document")
    return count


def prepare(
    model: str | ModelInfo,
    names: Sequence[str],
    *,
    fit_on: Sequence[str] = (),
    queries: Path | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = quiet,
    equip: Callable[[ModelInfo, Sequence[str]], ModelInfo] | None = None,
    metric: str | None = None,
) -> Bench:
    """Open, read, embed. Raises InputError (a model refused, a data file that cannot be read) before any work.

    `equip` may give the model another engine (pilot.equipped), chosen on the first data set's documents. Where the
    first name is a source of vectors no model is needed; `metric` then says how they are compared.
    """
    from core import vector_bench

    if vector_bench.is_source(names[0]):
        return vector_bench.open_bench(
            names, fit_on=fit_on, queries=queries, metric=metric, limit=limit, seed=seed, progress=progress
        )
    if metric is not None:
        raise InputError(f"--metric {metric}: texts are compared by their model's own metric. Leave --metric out")
    info = open_model(model, progress) if isinstance(model, str) else model
    read = partial(data.load, limit=limit, seed=seed, progress=progress)
    datasets = data.told_apart([d for name in names for d in read(name, split=split, queries=queries)])
    fits = [d for name in fit_on for d in read(name, split=None)] if fit_on else datasets
    info = equip(info, datasets[0].documents.full) if equip else info
    judges = tuple(judge(info, d, progress) for d in datasets)
    retrieval = [d for d in fits if d.kind != "pairs"] or fits
    learned_from = fits if fit_on else retrieval
    fit = fit_texts(learned_from)
    fitted = embed(info, fit.full, "document", progress)
    return Bench(info, judges, fit, fitted, tuple(d.name for d in learned_from), not fit_on, load_prior(info), seed)
