"""Seeded samples and splits: never the head of a file, always in file order, always said in a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.types import Dataset, Ints

TEST_SHARE = 0.3


def rows(n: int, count: int, seed: int) -> Ints:
    """`count` of n row numbers, ascending."""
    if count >= n:
        return np.arange(n, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(n, count, replace=False)).astype(np.int64)


def said(kept: int, n: int, what: str, seed: int) -> str:
    return f"sample of {kept:,} of {n:,} {what}, seed {seed}"


def _by_label(labels: Sequence[str], seed: int) -> list[NDArray[np.int64]]:
    """The rows of each label (labels in sorted order), each group shuffled."""
    random = np.random.default_rng(seed)
    groups: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        groups.setdefault(label, []).append(row)
    return [random.permutation(np.asarray(groups[label], np.int64)) for label in sorted(groups)]


def stratified(labels: Sequence[str], count: int, seed: int) -> Ints:
    """`count` rows in which every label has its share (largest remainder; one at least where they fit)."""
    if count >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    groups = _by_label(labels, seed)
    sizes = np.array([len(g) for g in groups], np.float64)
    share = sizes * count / sizes.sum()
    take = np.floor(share).astype(int)
    if count >= len(groups):
        take = np.maximum(take, 1)
    while take.sum() > count:  # the label furthest above its share gives one back
        take[np.argmax(np.where(take > 1, take - share, -np.inf))] -= 1
    for i in np.argsort(-(share - take), kind="stable")[: count - take.sum()]:
        take[i] += 1
    return np.sort(np.concatenate([g[:k] for g, k in zip(groups, take, strict=True)])).astype(np.int64)


def halves(labels: Sequence[str], seed: int) -> tuple[Ints, Ints]:
    """A stratified 70/30 split into training and test rows; a label with a single row trains."""
    train, test = [], []
    for group in _by_label(labels, seed):
        cut = min(max(1, round(TEST_SHARE * len(group))), len(group) - 1)
        test.append(group[:cut])
        train.append(group[cut:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _judged(data: Dataset, limit: int, seed: int) -> Dataset:
    """Whole queries first: a query is kept with every document that is relevant to it, up to half the sample."""
    assert data.qrels is not None
    at = {name: row for row, name in enumerate(data.documents.ids)}
    random = np.random.default_rng(seed)
    kept: set[int] = set()
    queries: list[int] = []
    smallest = len(at)
    for room in (limit // 2, limit):  # a tiny limit may be filled by one query's documents
        for q in random.permutation(len(data.queries)):
            relevant = {at[d] for d, grade in data.qrels[data.queries.ids[q]].items() if grade > 0}
            smallest = min(smallest, len(relevant))
            if len(kept | relevant) <= room:
                kept |= relevant
                queries.append(int(q))
        if queries:
            break
    if not queries:
        message = f"limit {limit} is below {smallest}, the fewest documents that any query of {data.name} needs"
        raise InputError(f"{message}; raise --limit to {smallest} or more.")
    others = np.array([i for i in range(len(at)) if i not in kept], np.int64)
    fill = others[rows(len(others), limit - len(kept), seed)]
    documents = data.documents.take(np.sort(np.concatenate([np.array(sorted(kept), np.int64), fill])))
    asked = data.queries.take(sorted(queries))
    there = set(documents.ids)
    qrels = {q: {d: g for d, g in data.qrels[q].items() if d in there} for q in asked.ids}
    note = said(len(documents), len(at), "documents", seed)
    if len(asked) < len(data.queries):
        note += f", with {len(asked):,} of {len(data.queries):,} queries"
    return replace(data, documents=documents, queries=asked, qrels=qrels, notes=(*data.notes, note))


def _pairs(data: Dataset, limit: int, seed: int) -> Dataset:
    assert data.scores is not None
    keep = rows(len(data.documents), limit, seed)
    note = said(limit, len(data.documents), "pairs", seed)
    left, right = data.documents.take(keep), data.queries.take(keep)
    return replace(data, documents=left, queries=right, scores=data.scores[keep], notes=(*data.notes, note))


def _labelled(data: Dataset, limit: int, seed: int) -> Dataset:
    n = len(data.documents) + len(data.queries)
    if limit < 2:
        raise InputError(f"limit {limit} leaves no text to test {data.name} on; raise --limit to 2 or more.")
    train = min(max(1, round(limit * len(data.documents) / n)), limit - 1)
    documents = data.documents.take(stratified(data.documents.labels, train, seed))
    queries = data.queries.take(stratified(data.queries.labels, limit - train, seed))
    note = said(len(documents) + len(queries), n, "texts", seed) + " (by label)"
    return replace(data, documents=documents, queries=queries, notes=(*data.notes, note))


def limited(data: Dataset, limit: int | None, seed: int) -> Dataset:
    """At most `limit` documents (pairs, labelled texts) of a data set with truth of its own."""
    check_limit(limit)
    size = len(data.documents) + (len(data.queries) if data.kind == "labels" else 0)
    if limit is None or limit >= size:
        return data
    cut: Any = {"retrieval": _judged, "pairs": _pairs, "labels": _labelled}[data.kind]
    out: Dataset = cut(data, limit, seed)
    return out


def check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} keeps nothing; give 1 or more, or leave --limit out for all.")
