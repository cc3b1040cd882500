"""Semantic maps of the documents, before and after a cut, laid over each other so that they can be compared.

    pca_pair(vectors, reduction, rows)     at once: two principal axes each
    umap_pair(vectors, reduction)          seconds, kept on disk; comes with the noise floor of the method
    cached_umap(vectors, reduction)        what of it is there already; computes nothing that takes time

Positions on a UMAP are not drift: identical vectors laid out twice from scratch move the median point 0.41
layout radii. So the second layout starts from the first, is rotated, scaled and shifted onto it (Procrustes),
and the distance that is left when *nothing* was cut is measured and shown beside the map: the noise floor.
Drift itself is measured in the full space (evaluate/drift.py).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.select import apply
from core.store import get_arrays, put_arrays
from core.types import Floats, Ints, Progress, Reduction, digest, frozen, quiet, unit

MOST = 3000  # documents on a UMAP; a seeded sample where there are more
_NEIGHBOURS = 15
_FEWEST = 5  # different documents that a neighbourhood graph needs
_VERSION = "maps 1"


@dataclass(frozen=True, eq=False)
class MapPair:
    """Two layouts of the same documents, the second laid over the first.

    before, after   (n, 2); `after` is aligned to `before`
    rows            (n,) the documents they stand for
    noise, moved    median distance a point moves, in radii of the layout (root-mean-square distance from its
                    centroid): when nothing is cut, and under this cut. A cut with moved <= noise shows nothing.
    key             names the content, for a caller's cache
    notes           what a reader must know: a sample, a fallback
    """

    before: Floats
    after: Floats
    noise: float
    moved: float
    key: str
    rows: Ints
    kind: Literal["pca", "umap"] = "umap"
    notes: tuple[str, ...] = ()


# ---- laying one over the other --------------------------------------------------------------------------------


def align(moving: NDArray[Any], fixed: NDArray[Any]) -> Floats:
    """`moving` (n, 2) rotated or mirrored, scaled and shifted onto `fixed` (n, 2): least squares, O(n).

    Orthogonal Procrustes, Schoenemann, Psychometrika 1966: R = U V^T and scale = trace(S) / ||A||^2 from the SVD
    U S V^T of A^T B, both centred. A layout without extent becomes the centroid of `fixed`.
    """
    if len(fixed) == 0:
        return frozen(fixed)
    a, b = np.asarray(moving, np.float64), np.asarray(fixed, np.float64)
    centre = b.mean(axis=0)
    a, b = a - a.mean(axis=0), b - centre
    u, s, vt = np.linalg.svd(a.T @ b)
    size = float(np.square(a).sum())
    return frozen((s.sum() / size if size > 0 else 0.0) * (a @ u @ vt) + centre)


def movement(before: Floats, after: Floats) -> float:
    """Median distance between the two places of a point, in radii of `before`; 0 where it has no extent."""
    if len(before) == 0:
        return 0.0
    b, a = before.astype(np.float64), after.astype(np.float64)
    radius = float(np.sqrt(np.square(b - b.mean(axis=0)).sum(axis=1).mean()))
    return float(np.median(np.linalg.norm(a - b, axis=1))) / radius if radius > 0 else 0.0


def sample_rows(n: int, seed: int = 0, most: int = MOST) -> Ints:
    """The documents that are shown: all, or a seeded sample of `most`, ascending."""
    if most < 1 or seed < 0:
        raise InputError(f"a map of {most} documents with seed {seed}: give at least 1 document and a seed from 0")
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


# ---- PCA ------------------------------------------------------------------------------------------------------


def pca_pair(vectors: Floats, reduction: Reduction, rows: Ints) -> MapPair:
    """Both sides on their own two principal axes, `after` laid over `before`. Exact, so its noise is 0.  O(n d^2).

    vectors (n, d) are the documents before the cut; `rows` says which are shown. Fewer than two axes or
    documents are padded with zeros. InputError where a vector is not finite.
    """
    return _pca(_show(vectors, reduction, np.asarray(rows, np.int64)))


def _pca(shown: _Shown, *notes: str) -> MapPair:
    scale = unit if shown.reduction.metric == "cosine" else np.asarray
    before = _principal(scale(shown.before))
    after = align(_principal(scale(shown.after)), before)
    moved = movement(before, after)
    return MapPair(before, after, 0.0, moved, shown.key("pca"), shown.rows, "pca", (*notes, *shown.notes))


def _principal(x: Floats) -> Floats:
    """(n, 2) coordinates on the two strongest axes, each axis's largest entry positive."""
    out = np.zeros((len(x), 2), np.float32)
    if len(x) < 2:
        return frozen(out)
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :2]
    sign = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    out[:, : axes.shape[1]] = centred @ (axes * np.where(sign == 0, 1.0, sign))
    return frozen(out)


# ---- UMAP -----------------------------------------------------------------------------------------------------


def umap_pair(
    vectors: Floats, reduction: Reduction, *, seed: int = 0, most: int = MOST, progress: Progress = quiet
) -> MapPair:
    """UMAP of the documents by cosine, before and after the cut, kept on disk; the noise floor is measured too.

    Three layouts the first time (before, before again for the noise, after), one for every further cut of the same
    vectors, none for a pair once made. About 2 s each for 600 documents and 10 s for 3,000, plus 10 s to load umap;
    one thread, because a seeded UMAP is only the same again with one. A cancel is seen between layouts.

    Where either side has fewer than 5 different documents the answer is the PCA pair, and its notes say so.
    McInnes, Healy & Melville, arXiv 1802.03426.
    """
    shown = _show(vectors, reduction, sample_rows(len(vectors), seed, most))
    found = _lookup(shown, seed)
    if isinstance(found, MapPair):
        return found
    base = found
    total = 3 if base is None else 1
    if base is None:
        progress("UMAP", 0, total)
        before = _layout(shown.before, seed, "spectral")
        progress("UMAP", 1, total)
        again = align(_layout(shown.before, seed + 1, before), before)
        base = {"before": before, "noise": np.array([movement(before, again)])}
        put_arrays(shown.key("umap before", seed), base)
    progress("UMAP", total - 1, total)
    after = align(_layout(shown.after, seed, base["before"]), base["before"])
    put_arrays(shown.key("umap after", seed), {"after": after})
    progress("UMAP", total, total)
    return _umap(shown, base, after, seed)


def cached_umap(vectors: Floats, reduction: Reduction, seed: int = 0, most: int = MOST) -> MapPair | None:
    """What `umap_pair` would answer, where that takes no layout: from disk, or the PCA of too few documents."""
    found = _lookup(_show(vectors, reduction, sample_rows(len(vectors), seed, most)), seed)
    return found if isinstance(found, MapPair) else None


def _lookup(shown: _Shown, seed: int) -> MapPair | dict[str, NDArray[Any]] | None:
    """The finished pair; else the base layout with its noise; else None."""
    few = min(_different(shown.before), _different(shown.after))
    if few < _FEWEST:
        return _pca(shown, f"only {few} different vectors: a UMAP needs {_FEWEST}, so this is a PCA")
    base = get_arrays(shown.key("umap before", seed))
    after = get_arrays(shown.key("umap after", seed)) if base is not None else None
    return base if base is None or after is None else _umap(shown, base, after["after"], seed)


def _umap(shown: _Shown, base: dict[str, NDArray[Any]], after: Floats, seed: int) -> MapPair:
    before, after = frozen(base["before"]), frozen(after)
    noise, moved = float(base["noise"][0]), movement(before, after)
    return MapPair(before, after, noise, moved, shown.key("umap after", seed), shown.rows, "umap", shown.notes)


def _layout(x: Floats, seed: int, init: str | Floats) -> Floats:
    """(n, 2) UMAP of the rows of x by cosine, from a spectral start or from given positions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a graph in several parts is no fault: that is what the map shows
        import umap

        near = min(_NEIGHBOURS, len(x) - 1)
        model = umap.UMAP(n_neighbors=near, metric="cosine", random_state=seed, init=init, n_jobs=1)
        return frozen(model.fit_transform(x))


# ---- what both need -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Shown:
    """The shown documents before (n, d) and after (n, k) the cut; `of` is how many there are in all."""

    before: Floats
    after: Floats
    rows: Ints
    reduction: Reduction
    of: int

    @property
    def notes(self) -> tuple[str, ...]:
        n = len(self.rows)
        return () if n == self.of else (f"{n:,} of {self.of:,} documents are shown: a seeded sample",)

    def key(self, what: str, seed: int = 0) -> str:
        """Names a layout by all that decides it. The method's name does not: the same cut is the same map."""
        if what == "umap before":
            return digest(_VERSION, what, str(seed), self.before)
        r, none = self.reduction, np.zeros(0)
        arrays = (r.kept, none if r.basis is None else r.basis, none if r.mean is None else r.mean)
        return digest(_VERSION, what, str(seed), self.before, f"{r.dimension} {r.metric} {r.identity}", *arrays)


def _show(vectors: Floats, reduction: Reduction, rows: Ints) -> _Shown:
    x = np.asarray(vectors[rows], np.float32)
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        row = int(rows[int(np.argmin(finite))])
        raise InputError(f"vector {row + 1} is not finite: there is no map of it. Leave it out.")
    return _Shown(x, apply(reduction, x), rows, reduction, len(vectors))


def _different(x: Floats) -> int:
    """How many rows differ, counted up to what a UMAP needs."""
    seen: set[bytes] = set()
    for row in x + np.float32(0.0):  # -0.0 and 0.0 are the same place
        seen.add(row.tobytes())
        if len(seen) == _FEWEST:
            break
    return len(seen)
