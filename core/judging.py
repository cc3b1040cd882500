"""Rank a step (kept on disk) and measure vectors on a data set; compare two measurements, paired."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import registry
from core.bench import Bench, Judge
from core.compare import Retention, retention, retention_of_spearman
from core.evaluate import ranking as engine
from core.evaluate import retrieval, similarity
from core.methods.base import DimensionMethod, Method, VectorMethod
from core.plan import CUT, Cut, Step
from core.select import apply, select
from core.store import get_arrays, put_arrays
from core.types import FitContext, Floats, Measurement, Metric, Progress, Ranking, Reduction, digest, quiet


def rank(context: FitContext, step: Step, keep: int | None = None) -> Ranking:
    """The step's ranking, kept on disk under what it was made from. `keep` counts only for methods that refit."""
    method = registry.build(step)
    assert isinstance(method, DimensionMethod)
    keep = keep if method.card.refits else None
    return _kept(context, step, method, str(keep), lambda: method.rank(context, keep))


def rank_rows(context: FitContext, step: Step) -> Ranking:
    """The same for whole vectors: the context's documents are the index."""
    method = registry.build(step)
    assert isinstance(method, VectorMethod)
    return _kept(context, step, method, "rows", lambda: method.rank(context))


def _kept(context: FitContext, step: Step, method: Method, about: str, make: Callable[[], Ranking]) -> Ranking:
    options = sorted((k, v) for k, v in step.options if k not in CUT)
    full = {f: getattr(method, f) for f in method.__dataclass_fields__}
    key = digest("ranking", step.name, repr(sorted(full.items()) or options), about, context.fingerprint)
    stored = get_arrays(key)
    if stored is not None:
        return _thaw(step.name, stored)
    ranking = make()
    arrays: dict[str, NDArray[Any]] = {
        "scores": ranking.scores,
        "notes": np.frombuffer(json.dumps(ranking.notes).encode(), np.uint8),
    }
    arrays |= {k: getattr(ranking, k) for k in _PARTS if getattr(ranking, k) is not None}
    put_arrays(key, arrays)
    return ranking


_PARTS = ("basis", "query_basis", "mean", "into", "levels")


def _thaw(name: str, stored: dict[str, NDArray[Any]]) -> Ranking:
    notes = tuple(json.loads(stored["notes"].tobytes()))
    return Ranking(name, stored["scores"], notes=notes, **{k: stored[k] for k in _PARTS if k in stored})


def reduce(bench: Bench, step: Step | None, progress: Progress = quiet) -> tuple[Ranking | None, Reduction]:
    """Rank and select one dimension step; methods that refit are fitted for this size. No step: the identity."""
    dimension = bench.model.dimension
    if step is None:
        return None, Reduction("none", dimension, np.arange(dimension), metric=bench.model.metric, identity=True)
    cut = step.cut or Cut(ratio=0.0)
    keep = cut.count(dimension)
    context = bench.context(registry.card(step.name), progress)
    ranking = rank(context, step, keep)
    return ranking, select(ranking, Cut(keep=keep), bench.model.metric)


def measure(judge: Judge, documents: Floats, queries: Floats, metric: Metric) -> Measurement:
    """Quality of these vectors on a data set: per query, per test text, or one Spearman over pairs."""
    data = judge.dataset
    if judge.task is not None:
        found = engine.ranks(judge.task, queries, documents, [documents.shape[1]], metric)[0]
        return Measurement(data.name, retrieval.per_query(judge.task, found), data.truth)
    if data.kind == "pairs":
        assert data.scores is not None
        scores = similarity.pair_scores(documents, queries, metric)
        return Measurement(
            data.name, {"score": scores}, data.truth, extra={"spearman": similarity.spearman(scores, data.scores)}
        )
    hits = similarity.label_hits(documents, data.documents.labels, queries, data.queries.labels)
    return Measurement(data.name, hits, data.truth)


def measured(judge: Judge) -> Measurement:
    """A data set's quality with its vectors as they are."""
    return measure(judge, judge.documents.vectors, judge.queries.vectors, judge.documents.metric)


def popularity(judge: Judge) -> Measurement | None:
    """The floor of a recommender: the same items for everybody, by how often they were had in training; else None."""
    if judge.had is None:
        return None
    asked = np.ones((len(judge.queries), 1), np.float32)
    return measure(judge, judge.had[:, None].astype(np.float32), asked, "dot")


def figures(m: Measurement) -> dict[str, float]:
    """The measures a person reads (a pair's raw score is none)."""
    return {k: v for k, v in m.means.items() if k != "score"}


def reduced(judge: Judge, reduction: Reduction) -> tuple[Floats, Floats]:
    """The judge's documents and queries after the cut; two maps meet in every score but a classifier's."""
    side = "document" if judge.dataset.kind == "labels" else "query"
    return apply(reduction, judge.documents.vectors), apply(reduction, judge.queries.vectors, side)  # type: ignore[arg-type]


def compare(judge: Judge, before: Measurement, after: Measurement, seed: int = 0) -> dict[str, Retention]:
    """Retention of every measure of a data set, paired."""
    if judge.dataset.kind != "pairs":
        return {k: retention(before.values[k], after.values[k], seed) for k in before.values}
    wanted, one, two = judge.dataset.scores, before.values["score"], after.values["score"]
    assert wanted is not None
    return {"spearman": retention_of_spearman(one, two, wanted, seed)}
