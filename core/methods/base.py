"""What every method is made of: a card, options with ranges, and `rank(context) -> Ranking`.

A method scores units; it never decides how many stay (select.py does) and never sees a judgement
(FitContext holds none). Adding one means writing a dataclass and naming it in registry.py.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from core.calibration import EncoderContext, Importance
from core.errors import PlanError
from core.plan import Cut
from core.types import Codes, FitContext, Floats, Ranking, unit

TEN = 10  # documents per dimension below which a fitted basis overfits (measured: README, "Small corpora")
_PRIOR_WEIGHT = 0.1  # the prior counts as this many documents per dimension (tests/benchmarks/prior_weight.py)


@dataclass(frozen=True)
class Card:
    """A method's documentation: tooltip, Methods page and README table are made from it."""

    name: str
    criterion: str
    label: str
    idea: str
    cost: str
    benefits: str
    limits: str
    reference: str
    kind: str  # dimensions: "selection" or "rotation"; encoder: "structure" (tensors shrink), "rows" or "zeros";
    # "codes" (fewer bytes a vector), "training", "schedule"; vectors: "rows", "groups" (rows folded into survivors)
    learns_from: str = "documents"  # or "pseudo-queries", "title-body pairs", "calibration texts", "nothing"
    refits: bool = False  # the cut that is shipped is fitted anew for its own size
    seeded: bool = False  # another seed, another answer: shown with its spread
    two_maps: bool = False  # queries and documents are mapped differently: no single model can hold it
    slow: bool = False  # takes more than two seconds on a few thousand documents
    cuts: bool = True  # takes ratio= or keep=
    thresholds: bool = False  # also takes threshold=: a similarity from which on rows are folded together
    merges: bool = False  # survivors become the mean of their group
    exempt: tuple[str, ...] = ()  # battery properties that do not hold, each with its reason after a colon

    @property
    def target(self) -> str:
        return self.name.split("/")[0]


def option(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field that is an option of a method: what it does, and the range it may take."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


def choice(default: Any, choices: tuple[Any, ...], help: str) -> Any:
    """An option that is one of a few words, or true and false."""
    return field(default=default, metadata={"help": help, "low": None, "high": None, "choices": choices})


@dataclass(frozen=True)
class Method:
    """Base of all methods; subclasses set `card`, add options as fields, and write `rank`."""

    card: ClassVar[Card]

    def __post_init__(self) -> None:
        for f in fields(self):
            _check(self.card.name, f, getattr(self, f.name))


@dataclass(frozen=True)
class DimensionMethod(Method):
    """Ranks the dimensions of embeddings."""

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        """One score per unit, higher = keep. `keep` is the size that will be cut to, for methods that refit."""
        raise NotImplementedError


@dataclass(frozen=True)
class VectorMethod(Method):
    """Ranks the rows of an index: whole vectors. `context.documents` (n, d) are the index itself."""

    def rank(self, context: FitContext) -> Ranking:
        """One score per row, higher = keep; `into` and `levels` too where a row that goes is folded into another."""
        raise NotImplementedError


@dataclass(frozen=True)
class EncoderMethod(Method):
    """Ranks units inside an encoder: neurons, heads, layers, channels, token rows, single weights."""

    def rank(self, context: EncoderContext) -> Importance:
        """One score per unit, higher = keep; comparable within a layer, and across layers where the card says so."""
        raise NotImplementedError


@dataclass(frozen=True)
class TrainingMethod(Method):
    """Trains the encoder as it stands; its fields say how long and towards what, core.recover does the work."""


@dataclass(frozen=True)
class CodeMethod(Method):
    """Stores vectors in fewer bytes: fits a codebook to documents. `cut` is the step's, where its card takes one."""

    def fit(self, context: FitContext, cut: Cut | None = None) -> Codes:
        """The fitted codebook: encodes (n, d) vectors, decodes to what a float query is dotted with."""
        raise NotImplementedError

    def size(self, dimension: int, cut: Cut | None = None) -> int:
        """Bytes of a vector of so many dimensions, known before anything is fitted."""
        raise NotImplementedError


def _check(name: str, f: Field[Any], value: Any) -> None:
    default = f.default
    assert default is not MISSING
    kind = type(default)
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and kind is not bool):
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a word")
        raise PlanError(f"{name}: {f.name}={value!r} should be {wanted}, e.g. {f.name}={default}")
    choices = f.metadata.get("choices")
    if choices and value not in choices:
        raise PlanError(f"{name}: {f.name}={value} is none of {', '.join(choices)}; the default is {default}")
    low, high = f.metadata.get("low"), f.metadata.get("high")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise PlanError(f"{name}: {f.name}={value!r} is outside {low}..{high}; the default is {default}")


def moments(context: FitContext) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
    """Second moment D^T D / n (d, d) and mean (d,) of the documents; few documents are shrunk to the prior.

    With n < 10 d documents and a prior C0: (n C + k C0) / (n + k) with k = d / 10: it fills the directions that
    the corpus leaves empty and hardly moves the others (a heavier one costs quality). Without a prior the
    statistics stay as they are, and a note says that they overfit.
    """
    x = context.documents.astype(np.float64)
    n, d = x.shape
    second, mean = x.T @ x / max(n, 1), x.mean(axis=0)
    if n >= TEN * d:
        return second, mean, ()
    if context.prior is None or len(context.prior.mean) != d:
        return (
            second,
            mean,
            (f"no prior over general text for this model: the basis is of {n:,} documents alone and may overfit",),
        )
    k = _PRIOR_WEIGHT * d
    second = (n * second + k * context.prior.second_moment) / (n + k)
    mean = (n * mean + k * context.prior.mean) / (n + k)
    note = f"{n:,} documents for {d} dimensions: shrunk towards general text, which counts as {k:,.0f} documents"
    return second, mean, (note,)


def principal_axes(second: NDArray[np.float64]) -> tuple[NDArray[np.float64], Floats]:
    """Eigenvalues (descending) and eigenvectors (d, d) of a symmetric matrix, signs fixed, float32 axes."""
    values, axes = np.linalg.eigh(second)
    values, axes = values[::-1], axes[:, ::-1]
    sign = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return np.maximum(values, 0.0), np.ascontiguousarray(axes * np.where(sign == 0, 1.0, sign), dtype=np.float32)


def listwise_sample(context: FitContext, seed: int, queries: int, documents: int) -> tuple[Floats, Floats, Any]:
    """Seeded pseudo-queries (m, d) and documents (n, d), unit rows, and a mask (m, n) of each query's own text."""
    rng = np.random.default_rng(seed)
    q = np.sort(rng.permutation(len(context.pseudo_queries))[:queries])
    d = np.sort(rng.permutation(len(context.documents))[:documents])
    own = context.owners[q][:, None] == d[None, :]
    return unit(context.pseudo_queries[q]), unit(context.documents[d]), own


def softmax(x: NDArray[Any]) -> NDArray[Any]:
    """Row-wise softmax, in place of its argument's copy."""
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(x / x.sum(axis=1, keepdims=True))
