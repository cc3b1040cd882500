"""A bench without a model: vectors from a file, a Milvus collection or a recommender, judged as a corpus is.

    prepare("minilm", ["index.parquet"])            the index's own top 10 for held-out rows is the truth
    prepare("minilm", ["glove.txt", "WS-353.txt"])  word-similarity sets judge beside it

Dimension, vector and quantization methods work on it as on any corpus; there is no encoder to cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from core import stores
from core.bench import Bench, Judge, task
from core.data import sampling, told_apart
from core.data.interactions import looks_like_interactions
from core.data.vector_files import CAP, looks_like_vectors, read_vectors
from core.data.word_pairs import read_word_pairs
from core.encoders import VECTORS, ModelInfo
from core.errors import DataError, InputError
from core.store import home
from core.types import Dataset, Embeddings, Floats, Metric, Progress, Texts, digest, quiet, unit

ASK = 500  # at most so many rows ask
SMALL = 0.01  # length of vectors whose dot products are too small to be ranked
CLOSE = 1e-3  # one minus the mean cosine, below which the rounding of scores begins to show
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True, eq=False)
class Source:
    """Vectors (n, d) float32 with their ids and the metric that compares them."""

    name: str
    spec: str
    ids: tuple[str, ...]
    vectors: Floats
    metric: Metric
    notes: tuple[str, ...] = ()

    @property
    def texts(self) -> Texts:
        """The rows as documents: an id is all there is to read."""
        return Texts(self.ids, self.ids)


def is_source(spec: str) -> bool:
    """Whether `spec` names vectors instead of texts."""
    if stores.is_milvus(spec):
        return True
    path = Path(spec).expanduser()
    try:
        return path.is_file() and (looks_like_vectors(path) or looks_like_interactions(path))
    except (OSError, ValueError):
        return False


def read_source(
    spec: str, metric: str | None = None, limit: int | None = None, seed: int = 0, progress: Progress = quiet,
    column: str | None = None,
) -> Source:  # fmt: skip
    """Read vectors, all of them or a seeded sample. The metric is the source's own, else cosine.

    Raises InputError for a metric there is not, DataError for a file that cannot be read.
    """
    if metric is not None and metric not in METRICS:
        raise InputError(f"--metric {metric!r} is none of {', '.join(METRICS)}: choose how the vectors are compared")
    sampling.check_limit(limit)
    if stores.is_milvus(spec):
        collection = stores.open_source(spec)
        ids, vectors, notes = _streamed(collection, limit, seed, progress)
        own, name = collection.metric, collection.location.collection
    else:
        path = Path(spec).expanduser()
        cap = CAP if path.resolve().is_relative_to(home() / "uploads") else None
        read = read_vectors(path, limit=limit, seed=seed, column=column, progress=progress, cap=cap)
        ids, vectors, notes, own, name = read.ids, read.vectors, read.notes, "cosine", path.stem
    chosen: Metric = metric or own
    zero = int((~vectors.any(axis=1)).sum())
    if zero and chosen == "cosine":
        notes = (*notes, f"vectors that are all zeros: {zero:,} (their cosine with anything is 0)")
    _check_size(name, vectors, chosen)
    vectors = scaled(vectors, chosen)
    if chosen == "cosine" and (apart := 1 - float((vectors.mean(axis=0, dtype=np.float64) ** 2).sum())) < CLOSE:
        notes = (*notes, f"all vectors point nearly the same way (mean cosine 1 - {apart:.0e}): cosine tells few of "
                         "them apart. Subtract their mean, or compare them by l2")  # fmt: skip
    return Source(name, spec, ids, vectors, chosen, notes)


def _check_size(name: str, vectors: Floats, metric: Metric) -> None:
    """Scores are ranked to a millionth: dot products and distances that are smaller would all tie."""
    size = float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64).mean())) if len(vectors) else 1.0
    if metric != "cosine" and 0 < size < SMALL:
        raise InputError(
            f"{name}: vectors of a length of {size:.1e} have {metric} scores below what is told apart (1e-6). "
            f"Multiply all of them, and the queries, by {10 ** -round(np.log10(size)):,}: the order stays the same"
        )


def _streamed(
    collection: stores.Source, limit: int | None, seed: int, progress: Progress
) -> tuple[tuple[str, ...], Floats, tuple[str, ...]]:
    """All rows of a collection, or a seeded sample in its order."""
    taken = sampling.rows(collection.rows, limit or collection.rows, seed)
    ids: list[str] = []
    parts, start = [], 0
    for batch in collection.batches(progress=progress):
        mine = taken[(taken >= start) & (taken < start + len(batch.ids))] - start
        ids += [batch.ids[i] for i in mine]
        parts.append(batch.vectors[mine])
        start += len(batch.ids)
    if not ids:
        raise InputError(f"{collection.location} holds no rows: choose a collection with vectors in it")
    sampled = limit is not None and limit < start
    notes = (sampling.said(len(ids), start, "vectors", seed),) if sampled else ()
    return tuple(ids), np.concatenate(parts), notes


def scaled(vectors: Floats, metric: Metric) -> Floats:
    """Rows of length one where cosine compares them, to the bit where they have it already."""
    if metric != "cosine" or bool(np.all(np.abs(np.einsum("ij,ij->i", vectors, vectors) - 1.0) < 1e-4)):
        return vectors
    return unit(vectors)


def open_bench(
    names: Sequence[str], *, fit_on: Sequence[str] = (), queries: Path | None = None, metric: str | None = None,
    limit: int | None = None, seed: int = 0, progress: Progress = quiet, column: str | None = None,
) -> Bench:  # fmt: skip
    """The first name is the index, the others are word-similarity sets about it; `queries` is a file of vectors.

    Interactions are factorised first: items are the index, users ask, and their held-out items are the truth.
    """
    if not stores.is_milvus(names[0]) and looks_like_interactions(Path(names[0]).expanduser()):
        return _recommender(names, (fit_on, queries, metric, limit, column), seed, progress)
    source = read_source(names[0], metric, limit, seed, progress, column)
    log = None if queries is None else read_source(str(queries), source.metric, limit, seed, progress)
    index = judge(source, log, seed)
    named = [index, *(_word_pairs(source, Path(n).expanduser()) for n in names[1:])]
    apart = told_apart([j.dataset for j in named])
    judges = tuple(replace(j, dataset=d) for j, d in zip(named, apart, strict=True))
    learned = [read_source(n, source.metric, limit, seed, progress) for n in fit_on] or [source]
    for other in (*learned, *([log] if log else [])):
        _same_width(source, other)
    asking = {} if fit_on or log else set(index.dataset.queries.ids)
    rows = [np.array([i for i, name in enumerate(s.ids) if name not in asking], np.int64) for s in learned]
    rows = [r if len(r) > 1 else np.arange(len(s.ids)) for r, s in zip(rows, learned, strict=True)]
    fit = Embeddings(np.concatenate([s.vectors[r] for s, r in zip(learned, rows, strict=True)]), source.metric)
    ids = tuple(s.ids[int(i)] for s, r in zip(learned, rows, strict=True) for i in r)
    names_of = tuple(s.name for s in learned)
    return Bench(described(source), judges, Texts(ids, ids), fit, names_of, not fit_on, None, seed)


def _recommender(names: Sequence[str], others: Sequence[object], seed: int, progress: Progress) -> Bench:
    from core import recommend

    if any(others) or len(names) > 1:
        raise InputError(
            f"{Path(names[0]).name} holds interactions: users ask, by dot product. Leave --fit-on, --queries, "
            "--metric, --limit and other data out"
        )
    return recommend.bench(Path(names[0]).expanduser(), seed=seed, progress=progress)


def judge(source: Source, log: Source | None = None, seed: int = 0) -> Judge:
    """The index as a retrieval task: its own top 10 for the log's vectors, or for a seeded fifth of its rows."""
    documents, notes = source.texts, source.notes
    vectors = Embeddings(source.vectors, source.metric)
    if log is None:
        rows = sampling.rows(len(documents), min(ASK, max(1, len(documents) // 5)), seed)
        asked, asking = documents.take(rows), Embeddings(source.vectors[rows], source.metric)
        notes = (*notes, f"no query vectors: {len(rows):,} of {len(documents):,} rows ask, seed {seed}")
    else:
        _same_width(source, log)
        mark = "query-"
        while any(i.startswith(mark) for i in documents.ids):  # an id of a row would mean "the same vector"
            mark = f"_{mark}"
        names = tuple(f"{mark}{i}" for i in log.ids)
        asked, asking = Texts(names, log.ids), Embeddings(log.vectors, source.metric)
        notes = (*notes, *log.notes)
    dataset = Dataset(source.name, "retrieval", documents, asked, None, notes=notes)
    return Judge(dataset, vectors, asking, task(dataset, vectors, asking))


def described(source: Source) -> ModelInfo:
    """What stands where a model's description does: there is no encoder, only its vectors."""
    d, path = int(source.vectors.shape[1]), Path(source.spec.split("#")[0])
    fingerprint = digest(VECTORS, source.metric, source.vectors)
    return ModelInfo(
        source.name, source.spec, path, VECTORS, d, 0, 0, 0, 0, 0, 0, source.metric, False, 0, (), 0,
        int(source.vectors.nbytes), fingerprint,
    )  # fmt: skip


def _same_width(one: Source, two: Source) -> None:
    if one.vectors.shape[1] != two.vectors.shape[1]:
        raise InputError(
            f"{two.name} has {two.vectors.shape[1]} dimensions, {one.name} has {one.vectors.shape[1]}: "
            "give vectors of the same model"
        )


def _word_pairs(source: Source, path: Path) -> Judge:
    """A word-similarity set about the vectors' own words; a word is looked up as it stands, then in lower case."""
    pairs = read_word_pairs(path)
    row = {word: i for i, word in enumerate(source.ids)}
    found = [(row.get(a, row.get(a.lower(), -1)), row.get(b, row.get(b.lower(), -1)), s) for a, b, s in pairs]
    there = [(a, b, s) for a, b, s in found if a >= 0 and b >= 0]
    if not there:
        raise DataError(f"none of its {len(pairs):,} pairs has both words in {source.name}", file=path.name)
    one, two = (np.array(side, np.int64) for side in list(zip(*there, strict=True))[:2])
    left, right = (source.texts.take(side) for side in (one, two))
    scores = np.array([s for _, _, s in there], np.float64)
    note = f"pairs with both words among the vectors: {len(there):,} of {len(pairs):,}"
    dataset = Dataset(path.stem, "pairs", left, right, scores=scores, notes=(note,))
    vectors = [Embeddings(source.vectors[side], source.metric) for side in (one, two)]
    return Judge(dataset, vectors[0], vectors[1], sides=(one, two))
