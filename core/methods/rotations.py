"""Rotations: new axes, sorted by how much they carry. An existing index is migrated by one matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from core.methods.base import Card, DimensionMethod, moments, option, principal_axes
from core.types import FitContext, Ranking


@dataclass(frozen=True)
class Svd(DimensionMethod):
    """Rotate to the eigenvectors of D^T D / n and keep the strongest; optimal for ||D - D P P^T||_F.  O(n d^2)."""

    card: ClassVar[Card] = Card(
        name="dimensions/svd",
        criterion="energy",
        label="SVD (rotation)",
        idea="Rotate so that the axes are sorted by the energy they carry, keep the strongest.",
        cost="One eigendecomposition: well under a second.",
        benefits="The strong default, and closed form. One matrix migrates an existing index.",
        limits="Fitted on the corpus: needs about 10 documents per dimension. Beyond a 4x cut, distilled does better.",
        reference="Eckart & Young, Psychometrika 1936; uncentred PCA.",
        kind="rotation",
    )

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        second, _, notes = moments(context)
        values, axes = principal_axes(second)
        return Ranking(self.card.name, values.astype(np.float32), basis=axes, notes=notes)


@dataclass(frozen=True)
class Pca(DimensionMethod):
    """Take the mean off, rotate to the covariance's eigenvectors, keep the strongest.  O(n d^2)."""

    card: ClassVar[Card] = Card(
        name="dimensions/pca",
        criterion="variance",
        label="PCA (centred rotation)",
        idea="Like SVD, but the mean of the documents is taken off first.",
        cost="One eigendecomposition: well under a second.",
        benefits="What most toolkits call PCA; right where vectors are compared by distance.",
        limits="With cosine, centring moves the origin and can cost points: on SciFact it does, on the sample the "
        "difference to SVD is inside the noise.",
        reference="Pearson 1901; Jolliffe, Principal Component Analysis, 2002.",
        kind="rotation",
        exempt=("gram: shrunk towards a prior, the mean taken off is not the documents' own",),
    )

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        second, mean, notes = moments(context)
        values, axes = principal_axes(second - np.outer(mean, mean))
        return Ranking(self.card.name, values.astype(np.float32), axes, mean=mean.astype(np.float32), notes=notes)


@dataclass(frozen=True)
class Bilinear(DimensionMethod):
    """Best rank-k approximation of the dot product q.d for these queries and documents.  O((m + n) d^2).

    min over rank-k M of E (q^T (I - M) d)^2 = ||Lq^T (I - M) Ld||_F^2 with C = L L^T: from the SVD U S V^T of
    Lq^T Ld, queries are mapped by Lq^-T U S^1/2 and documents by Ld^-T V S^1/2. `mix` blends the documents'
    moment into the queries': pseudo-queries are not the real ones.
    """

    card: ClassVar[Card] = Card(
        name="dimensions/bilinear",
        criterion="bilinear",
        label="Bilinear (query-aware)",
        idea="Two maps, one for queries and one for documents, that keep their dot product as well as k numbers can.",
        cost="Two Cholesky factors and one SVD of d x d: under a second.",
        benefits="Closed form; uses what queries look like.",
        limits="Not better than SVD on SciFact. Two maps, plain dot products: exports as vectors and matrices only.",
        reference="Weighted low-rank approximation: Srebro & Jaakkola, ICML 2003.",
        kind="rotation",
        learns_from="pseudo-queries",
        two_maps=True,
        exempt=("idempotent: two different maps",),
    )  # fmt: skip
    mix: float = option(0.5, "share of the queries' own moment; the rest is the documents'", 0.0, 1.0)

    def rank(self, context: FitContext, keep: int | None = None) -> Ranking:
        documents, _, notes = moments(context)
        asked = context.pseudo_queries.astype(np.float64)
        queries = self.mix * (asked.T @ asked / max(len(asked), 1)) + (1 - self.mix) * documents
        one = np.eye(len(documents))
        lq = np.linalg.cholesky(queries + max(1e-6 * np.trace(queries), 1e-12) * one)
        ld = np.linalg.cholesky(documents + max(1e-6 * np.trace(documents), 1e-12) * one)
        u, s, vt = np.linalg.svd(lq.T @ ld)
        root = np.sqrt(s)
        return Ranking(
            self.card.name,
            s.astype(np.float32),
            basis=(np.linalg.solve(ld.T, vt.T) * root).astype(np.float32),
            query_basis=(np.linalg.solve(lq.T, u) * root).astype(np.float32),
            notes=notes,
        )
