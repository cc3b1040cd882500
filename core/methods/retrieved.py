"""Whole vectors by what they do in a search: cover the pseudo-queries, or be among the nearest of other rows."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.methods.base import Card, VectorMethod, choice, option
from core.neighbours import distinct, hashed
from core.types import FitContext, Floats, Ints, Ranking, centred, unit

_BLOCK = 2**25  # numbers held at a time
_ASKING = 10_000  # rows that ask, of a large index: a sample by content


@dataclass(frozen=True, eq=False)
class _Lists:
    """What every pseudo-query retrieves from the u distinct rows, best first.

    rows     (m, k)
    margins  (m, k) score less that of the k-th, so 0 at the end: what is not listed counts as nothing
    reach    (u,) the best such margin a row has with any query, below 0 where it is in no list
    place    (n,) which distinct row each row of the index equals
    first    (u,) its lowest index
    """

    rows: Ints
    margins: Floats
    reach: Floats
    place: Ints
    first: Ints


def _lists(context: FitContext, k: int, own: bool, name: str) -> _Lists:
    """Exact lists in blocks, O(m n d); a query does not see the row it was taken from unless `own`."""
    cosine = context.metric == "cosine"
    x, asked = (unit(v) if cosine else v for v in (context.documents, context.pseudo_queries))
    told = asked.any(axis=1) | (context.metric == "l2")  # a query of zeros asks for nothing
    asked, owners = asked[told], context.owners[told]
    if context.metric == "l2":
        asked, x = centred(asked, x)
    if not len(asked):
        raise InputError(f"{name}: there is no query to learn from; give queries, or texts to take them from")
    first, place = distinct(x)
    x = x[first]
    half = (x**2).sum(axis=1) / 2 if context.metric == "l2" else np.zeros(len(x), np.float32)
    k = min(k, len(x))
    rows, margins = np.empty((len(asked), k), np.int64), np.empty((len(asked), k), np.float32)
    reach, step = np.full(len(x), -np.inf, np.float32), max(1, _BLOCK // len(x))
    for i in range(0, len(asked), step):
        scores = asked[i : i + step] @ x.T - half
        hidden = np.flatnonzero(owners[i : i + step] >= 0) if not own else np.zeros(0, np.int64)
        scores[hidden, place[owners[i : i + step][hidden]]] = scores.min(axis=1)[hidden]
        found = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores -= np.take_along_axis(scores, found, 1).min(axis=1, keepdims=True)
        reach = np.maximum(reach, scores.max(axis=0))
        best = np.take_along_axis(scores, found, 1)
        order = np.lexsort((found, -best))
        rows[i : i + step], margins[i : i + step] = (np.take_along_axis(v, order, 1) for v in (found, best))
        context.progress("asking", min(i + step, len(asked)), len(asked))
    return _Lists(rows, margins, reach, place, first)


@dataclass(frozen=True)
class Coverage(VectorMethod):
    """Keep the rows that together answer the pseudo-queries best: facility location, lazy greedy.  O(m n d).

    Each step adds the row with the largest gain in F(S) = sum over q of max over d in S of s(q, d), where s counts
    from the k-th best row on; F is at least 1 - 1/e of the best there is. Gains only fall, so a stale one is a bound.
    When every query has its best row, the rest starts again from an empty S, and so on; rows in no list follow by
    how close they came to one; copies, which add nothing to their first, go before all others.
    """

    card: ClassVar[Card] = Card(
        name="vectors/coverage",
        criterion="coverage",
        label="Coverage (facility location)",
        idea="Keep the rows that together answer all pseudo-queries best, adding one at a time.",
        cost="Every pseudo-query against every row, then a lazy greedy pass: under a minute for 100,000 rows.",
        benefits="Looks at the set, not at rows: of two rows that answer the same, one is enough. Provably near best.",
        limits="As good as the pseudo-queries: a row that none of them asks for goes early, whoever may need it.",
        reference="Nemhauser, Wolsey & Fisher, 1978; lazy evaluation: Minoux, 1978.",
        kind="rows",
        learns_from="pseudo-queries",
        slow=True,
    )
    k: int = option(100, "rows per pseudo-query that count; the others count as nothing", 2, 1000)
    own: bool = choice(
        True, (True, False), "whether a text answers the pseudo-queries taken from it, where every text lent one"
    )

    def rank(self, context: FitContext) -> Ranking:
        if len(context.documents) == 1 or not context.documents.any():  # there is nothing to tell apart
            return Ranking(self.card.name, np.zeros(len(context.documents), np.float32))
        own, notes = self._own(context)
        lists = _lists(context, self.k, own, self.card.name)
        chosen = _greedy(lists, context)
        rest = np.setdiff1d(np.arange(len(lists.first)), chosen)
        order = np.concatenate([chosen, rest[np.argsort(-lists.reach[rest], kind="stable")]])
        copies = np.setdiff1d(np.arange(len(lists.place)), lists.first)
        scores = np.empty(len(lists.place), np.float32)
        scores[np.concatenate([lists.first[order], copies])] = np.arange(len(scores), 0, -1)
        return Ranking(self.card.name, scores, notes=notes)

    def _own(self, context: FitContext) -> tuple[bool, tuple[str, ...]]:
        """Own pseudo-queries count only where every row lent one: else those that did would be kept for it alone."""
        lent, n = len(np.unique(context.owners[context.owners >= 0])), len(context.documents)
        if not self.own or lent == n:
            return self.own, ()
        return False, (f"coverage: {lent:,} of {n:,} rows lent a query, so no row is counted for its own",)


def _greedy(lists: _Lists, context: FitContext) -> Ints:
    """Rows that are in a list with a margin, in the order of choice."""
    m, k = lists.rows.shape
    by_row = np.argsort(lists.rows, axis=None, kind="stable")
    query, margin = by_row // k, lists.margins.ravel()[by_row].astype(np.float64)
    bounds = np.searchsorted(lists.rows.ravel()[by_row], np.arange(len(lists.first) + 1))
    parts = [slice(a, b) for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    left = np.flatnonzero(np.bincount(lists.rows.ravel(), lists.margins.ravel(), len(parts)) > 0).tolist()
    total, chosen = len(left), []
    while left:
        heap = [(-float(margin[parts[i]].sum()), i) for i in left]
        heapq.heapify(heap)
        covered, passed = np.zeros(m), []
        while heap:
            _, i = heapq.heappop(heap)
            asking, worth = query[parts[i]], margin[parts[i]]
            gain = float(np.maximum(worth - covered[asking], 0).sum())
            if gain == 0:
                passed.append(i)
            elif heap and (-gain, i) > heap[0]:
                heapq.heappush(heap, (-gain, i))
            else:
                chosen.append(i)
                covered[asking] = np.maximum(covered[asking], worth)
                if len(chosen) % 1000 == 0:
                    context.progress("choosing rows", len(chosen), total)
        left = sorted(passed)
    return np.asarray(chosen, np.int64)


@dataclass(frozen=True)
class Unretrieved(VectorMethod):
    """Rows that are in no other row's top k go first: anti-hubs.  O(m n d), m rows asking, 10,000 at most.

    Score: how many rows have the row among their k nearest, each counted 1 / log2(1 + rank); then by the best margin
    to a k-th row that it ever reached, so that anti-hubs are in order too. A row does not see itself.
    """

    card: ClassVar[Card] = Card(
        name="vectors/unretrieved",
        criterion="reverse-neighbours",
        label="Unretrieved (anti-hubs)",
        idea="Drop the rows that are among nobody's nearest: a search for any other row never brings them up.",
        cost="10,000 rows against every row: half a minute for 100,000 rows.",
        benefits="In high dimensions many rows are never found by anyone; they cost memory and time only.",
        limits="Rare topics live there: where every row is asked for alike it is no better than chance, deep k worse.",
        reference="Radovanovic, Nanopoulos & Ivanovic, Hubs in Space, JMLR 11, 2010.",
        kind="rows",
        slow=True,
    )
    k: int = option(30, "how deep a search looks", 1, 1000)

    def rank(self, context: FitContext) -> Ranking:
        free = _without(context)
        asking = np.sort(free[np.argsort(hashed(context.documents[free], 0), kind="stable")[:_ASKING]])
        asked = replace(context, pseudo_queries=context.documents[asking], owners=asking)
        if not context.documents.any() and context.metric != "l2":
            return Ranking(self.card.name, np.zeros(len(context.documents), np.float32))
        lists = _lists(asked, self.k, False, self.card.name)
        weight = np.broadcast_to(1 / np.log2(np.arange(2, lists.rows.shape[1] + 2)), lists.rows.shape)
        counts = np.bincount(lists.rows.ravel(), weight.ravel(), len(lists.first))
        return Ranking(self.card.name, _in_turn(counts.astype(np.float64), lists.reach)[lists.place])


def _without(context: FitContext) -> Ints:
    """The rows that may ask; all of them where none would be left."""
    rows = np.arange(len(context.documents))
    free = np.setdiff1d(rows, context.aside) if context.aside is not None else rows
    return free if len(free) else rows


def _in_turn(first: NDArray[np.float64], then: Floats) -> Floats:
    """Scores by the first key, equal ones by the second, equal where both are."""
    order = np.lexsort((then, first))
    steps = (np.diff(first[order]) > 0) | (np.diff(then[order]) > 0)
    scores = np.empty(len(order), np.float32)
    scores[order] = np.concatenate([[0], np.cumsum(steps)])
    return scores
