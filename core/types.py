"""The frozen records that flow through Espalier, and the few array helpers that every room needs.

    Dataset -> Embeddings -> FitContext -> Ranking -> Reduction -> Measurement

No record points forward. Records with arrays use `eq=False` (arrays break `==`) and carry a content
`fingerprint`; arrays are set read-only, so that a cached record cannot be changed by whoever reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Metric = Literal["cosine", "dot", "l2"]
Progress = Callable[[str, int, int], None]  # what, done, total; may raise Cancelled


def quiet(what: str, done: int, total: int) -> None:
    """The progress callback that says nothing."""


def digest(*parts: str | bytes | NDArray[Any]) -> str:
    """SHA-256 over the parts, each with its length, shape and type, as 32 hex digits."""
    h = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            h.update(f"{part.dtype}{part.shape}".encode())
            h.update(np.ascontiguousarray(part).tobytes())
        else:
            raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            h.update(f"{len(raw)}:".encode())
            h.update(raw)
    return h.hexdigest()[:32]


def frozen(array: NDArray[Any], dtype: Any = np.float32) -> NDArray[Any]:
    """The same values, contiguous, of `dtype`, not writeable (copied only where that is needed)."""
    out = np.ascontiguousarray(array, dtype=dtype)
    if out.flags.writeable:
        out = out.view()
        out.flags.writeable = False
    return out


def unit(x: NDArray[Any]) -> NDArray[Any]:
    """Rows (n, d) of length one; a zero row stays zero (its cosine with anything is 0)."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, norms, out=np.zeros_like(x), where=norms > 0))


def centred(queries: Floats, documents: Floats) -> tuple[Floats, Floats]:
    """Both seen from the documents' mean: distances stay, and a large common offset eats no digits of them."""
    middle = documents.mean(axis=0, dtype=np.float64).astype(np.float32) if len(documents) else np.float32(0)
    return np.asarray(queries - middle, np.float32), np.asarray(documents - middle, np.float32)


@dataclass(frozen=True, eq=False)
class Texts:
    """Ids and texts in the same order; titles and labels are empty tuples where there are none."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    titles: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bare(self) -> bool:
        """Whether an id is all there is to read: vectors without texts."""
        return self.texts == self.ids

    @property
    def full(self) -> tuple[str, ...]:
        """What is embedded: title + " " + text where there is a title."""
        if not self.titles:
            return self.texts
        return tuple(f"{a} {b}" if a else b for a, b in zip(self.titles, self.texts, strict=True))

    @cached_property
    def fingerprint(self) -> str:
        return digest("\x1f".join(self.ids), "\x1f".join(self.full), "\x1f".join(self.labels))

    def take(self, rows: Any) -> Texts:
        """The given rows, in the given order."""

        def pick(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[int(i)] for i in rows) if values else ()

        return Texts(pick(self.ids), pick(self.texts), pick(self.titles), pick(self.labels))


@dataclass(frozen=True, eq=False)
class Dataset:
    """One thing to be judged on (and, its texts only, to fit on).

    kind="retrieval"  documents, queries, and qrels {query id: {document id: grade}}. qrels None means
                      truth is *agreement*: the unpruned model's own top 10.
    kind="pairs"      documents and queries are the left and right sentences, row by row; `scores` the targets.
    kind="labels"     documents are the training texts, queries the test texts, both with labels.
    `notes` says what was skipped, cut or clamped while reading, with counts.
    """

    name: str
    kind: Literal["retrieval", "pairs", "labels"]
    documents: Texts
    queries: Texts
    qrels: Mapping[str, Mapping[str, int]] | None = None
    scores: NDArray[np.float64] | None = None
    split: str = "test"
    notes: tuple[str, ...] = ()

    @property
    def truth(self) -> str:
        return {"pairs": "scored", "labels": "labelled"}.get(self.kind, "agreement" if self.qrels is None else "judged")

    @cached_property
    def fingerprint(self) -> str:
        judged = "" if self.qrels is None else repr(sorted((q, sorted(d.items())) for q, d in self.qrels.items()))
        scores = np.zeros(0) if self.scores is None else self.scores
        return digest(self.kind, self.documents.fingerprint, self.queries.fingerprint, judged, scores)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors (n, d) float32 with the metric that compares them; rows are in the order of their texts."""

    vectors: Floats
    metric: Metric = "cosine"

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", frozen(self.vectors))

    @cached_property
    def fingerprint(self) -> str:
        return digest(self.vectors, self.metric)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])


@dataclass(frozen=True, eq=False)
class Prior:
    """Second moments of a model over general text: what a small corpus is shrunk towards. (d, d) and (d,)."""

    second_moment: Floats
    mean: Floats
    texts: int
    source: str = ""


@dataclass(frozen=True, eq=False)
class FitContext:
    """All that a method may learn from. There are no judgements in it: no method can see what it is judged by.

    documents       (n, d) embeddings of the texts to fit on
    pseudo_queries  (m, d) embeddings of titles and single sentences of those texts: they stand in for queries
    owners          (m,) the row of `documents` each pseudo-query was taken from (it never retrieves itself)
    pairs           (p, d) titles and (p, d) the bodies without them, or None where the texts have no titles
    pair_owners     (p,) the row of `documents` each pair was taken from
    aside           of an index: the rows that are themselves what it is judged by, and so may not stand for queries
    """

    documents: Floats
    pseudo_queries: Floats
    owners: Ints
    pairs: tuple[Floats, Floats] | None = None
    metric: Metric = "cosine"
    prior: Prior | None = None
    progress: Progress = quiet
    pair_owners: Ints | None = None
    aside: Ints | None = None

    @cached_property
    def fingerprint(self) -> str:
        prior = np.zeros(0) if self.prior is None else self.prior.second_moment
        more = (*(self.pairs or ()), *(() if self.aside is None else (self.aside,)))
        return digest(self.documents, self.pseudo_queries, self.owners, *more, prior, self.metric)

    @property
    def dimension(self) -> int:
        return int(self.documents.shape[1])


@dataclass(frozen=True, eq=False)
class Ranking:
    """One score per unit (higher = keep); a rotated basis where the units are not the original axes.

    Of whole vectors a unit is a row: `into` and `levels` stand where a row that goes is folded into another one.

    scores       (m,)
    basis        (d, m) or None: column j is the axis that unit j stands for (documents' side)
    query_basis  (d, m) or None: the queries' side where it differs (then scores are plain dot products)
    mean         (d,) or None: taken off before rotating
    into         (m,) or None: the row that takes a row in when it goes; that row goes later, or never
    levels       (m,) or None: how similar the two are, never rising as rows go: a threshold cut reads these
    """

    method: str
    scores: Floats
    basis: Floats | None = None
    query_basis: Floats | None = None
    mean: Floats | None = None
    notes: tuple[str, ...] = ()
    into: Ints | None = None
    levels: Floats | None = None

    @property
    def units(self) -> int:
        return len(self.scores)

    @cached_property
    def order(self) -> Ints:
        """Units from most to least important; ties go to the lowest index."""
        return np.argsort(-self.scores.astype(np.float64), kind="stable")


@dataclass(frozen=True, eq=False)
class Reduction:
    """A cut that can be applied: x -> normalise((x - mean) @ basis). `kept` are the units that stay, in order.

    An identity (ratio 0) returns its input bit for bit. Exactly the arrays that an export needs are here.
    """

    method: str
    dimension: int
    kept: Ints
    basis: Floats | None = None  # (d, k); None = axis selection by `kept`
    query_basis: Floats | None = None
    mean: Floats | None = None
    metric: Metric = "cosine"
    identity: bool = False

    @property
    def size(self) -> int:
        return len(self.kept)

    @cached_property
    def matrix(self) -> Floats:
        """(d, k): what a document vector is multiplied with (a 0/1 matrix where axes are selected)."""
        if self.basis is not None:
            return self.basis
        out = np.zeros((self.dimension, self.size), np.float32)
        out[self.kept, np.arange(self.size)] = 1.0
        return out


@dataclass(frozen=True, eq=False)
class Rows:
    """Which vectors of an index stay.

    kept      (k,) rows that stay, ascending
    stands    (n,) the row that stands for each row: itself where it stays, its survivor where it was folded into
              one (a hit on that survivor expands to it), -1 where it is gone
    vectors   (k, d) or None: what the survivors became, where a group is merged into its mean
    """

    method: str
    kept: Ints
    stands: Ints
    vectors: Floats | None = None

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def served(self) -> Ints:
        """Rows that a search can still bring up, by themselves or through their survivor, ascending."""
        return np.flatnonzero(self.stands >= 0)

    def standing(self, x: Floats) -> Floats:
        """(n, d) -> (served, d): the vectors that stand for the served rows."""
        if self.vectors is None:
            return np.asarray(x[self.stands[self.served]])
        place = np.searchsorted(self.kept, self.stands[self.served])
        return np.asarray(self.vectors[place])


class Codes(Protocol):
    """A fitted codebook: how a vector is stored in fewer bytes, and read again."""

    @property
    def method(self) -> str:
        """The name of the method that fitted it."""

    @property
    def bytes(self) -> int:
        """Bytes a vector takes, all told."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its figures must know."""

    @property
    def codebook_bytes(self) -> int:
        """Bytes that are stored once for all vectors."""

    def encode(self, vectors: Floats) -> NDArray[np.uint8]:
        """(n, d) -> (n, bytes)."""

    def decode(self, codes: NDArray[np.uint8]) -> Floats:
        """(n, bytes) -> (n, d): what a float query is dotted with, in the metric's own score."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that a reader needs, for a file."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """Per-query values of every measure; the means are derived. NaN marks a query that is not judged."""

    name: str
    values: Mapping[str, NDArray[np.float64]]
    truth: str = "judged"
    notes: tuple[str, ...] = ()
    extra: Mapping[str, float] = field(default_factory=dict)  # measures that are no mean over queries

    @property
    def means(self) -> dict[str, float]:
        out = {k: (float(np.nanmean(v)) if np.isfinite(v).any() else float("nan")) for k, v in self.values.items()}
        return out | dict(self.extra)
