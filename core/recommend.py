"""Recommenders: factor tables of users and items, judged as a search for what a user has next.

    parts = split(read_interactions(path))
    tables = factorise(parts)              users (u, d), items (i, d): a dot product is a preference
    measured(judge(parts, tables))         hit rate, recall, nDCG at 10; what a user had before is masked

Items are the documents, users the queries, so that every method for vectors works on an item table. The metric is the
dot product: an item's length is how sure the table is of it, and cosine throws that away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.bench import Bench, Judge
from core.data.interactions import PARTS, Split, read_interactions, split
from core.data.vector_files import read_vectors
from core.encoders import VECTORS
from core.errors import DataError, InputError
from core.evaluate.judgements import from_qrels
from core.store import get_arrays, put_arrays
from core.types import Dataset, Embeddings, Floats, Progress, Texts, digest, frozen, quiet
from core.vector_bench import Source, described

DIMENSIONS = 64
# of the least-squares problem |R - U V'|^2 + r (|U|^2 + |V|^2), every cell of R weighing the same
REGULARIZATION, ALPHA, ITERATIONS = 1.0, 1.0, 15


@dataclass(frozen=True, eq=False)
class Tables:
    """Factors of users (u, d) and items (i, d) in the order of the interactions' ids: score = user . item."""

    users: Floats
    items: Floats
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "users", frozen(self.users))
        object.__setattr__(self, "items", frozen(self.items))

    @property
    def dimension(self) -> int:
        return int(self.items.shape[1])

    @property
    def fingerprint(self) -> str:
        return digest(self.users, self.items)


# ---- tables ---------------------------------------------------------------------------------------------------


def factorise(
    parts: Split, dimensions: int = DIMENSIONS, *, seed: int = 0, regularization: float = REGULARIZATION,
    alpha: float = ALPHA, iterations: int = ITERATIONS, start: Tables | None = None, progress: Progress = quiet,
) -> Tables:  # fmt: skip
    """Implicit alternating least squares over the training part (library `implicit`): seeded, the same on any cores.

    regularization  pulls factors towards zero
    alpha           weight of an interaction beside 1 for a cell without one; at 1 this is a ridge-regularised SVD
    start           tables to go on from, of their own size, instead of seeded small values

    Sizes above the users or items there are get clamped, and said. Cost O(iterations (n d + (u + i) d^2)). Raises
    InputError for an option out of range, Cancelled between two rounds of solving.
    Source: Hu, Koren & Volinsky, ICDM 2008; solver Takács, Pilászy & Tikk, RecSys 2011.
    """
    for name, value, least in (("dimensions", dimensions, 1), ("iterations", iterations, 1), ("alpha", alpha, 1e-6)):
        if not least <= value < float("inf"):
            raise InputError(f"{name} {value:g} is below {least:g} or no number: give {least:g} or more")
    if not 0 <= regularization < float("inf"):
        raise InputError(f"regularization {regularization:g} is below 0 or no number: give 0 or more")
    from implicit.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    d, notes = (start.dimension, start.notes) if start else _clamped(parts, dimensions)
    with threadpool_limits(1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=d, regularization=regularization, alpha=alpha, iterations=iterations, random_state=seed
        )
        if start is not None:
            model.user_factors, model.item_factors = np.array(start.users), np.array(start.items)
        model.fit(
            training_matrix(parts),
            show_progress=False,
            callback=lambda i, _seconds, _loss: progress(f"factorising into {d} dimensions", i + 1, iterations),
        )
    return Tables(model.user_factors, model.item_factors, notes)


def _clamped(parts: Split, dimensions: int) -> tuple[int, tuple[str, ...]]:
    most = min(len(parts.interactions.users), len(parts.interactions.items))
    if dimensions <= most:
        return dimensions, ()
    return most, (f"{dimensions:,} dimensions clamped to {most:,}: there are no more users or items",)


def training_matrix(parts: Split) -> Any:
    """The training part as a sparse matrix (users, items) of ones (scipy CSR, float32)."""
    from scipy.sparse import csr_matrix

    mine, rows = parts.interactions, parts.rows("train")
    shape = (len(mine.users), len(mine.items))
    return csr_matrix((np.ones(len(rows), np.float32), (mine.user[rows], mine.item[rows])), shape=shape)


def kept_tables(parts: Split, dimensions: int = DIMENSIONS, *, seed: int = 0, progress: Progress = quiet) -> Tables:
    """`factorise`, kept on disk under the training part and the options."""
    options = repr((dimensions, seed, REGULARIZATION, ALPHA, ITERATIONS))
    key = digest("recommender", parts.fingerprint, options)
    stored = get_arrays(key)
    if stored is None:
        tables = factorise(parts, dimensions, seed=seed, progress=progress)
        put_arrays(key, {"users": tables.users, "items": tables.items})
        return tables
    return Tables(stored["users"], stored["items"], _clamped(parts, dimensions)[1])


def read_tables(parts: Split, users: Path, items: Path, progress: Progress = quiet) -> Tables:
    """The user's own tables from two vector files with ids; an id that is missing gets zeros, and is counted.

    Raises DataError where the files differ in dimension, or one lacks over half of the ids.
    """
    tables, notes = [], []
    mine = parts.interactions
    for path, ids, what in ((users, mine.users, "users"), (items, mine.items, "items")):
        found = read_vectors(path, progress=progress)
        place = {name: i for i, name in enumerate(found.ids)}
        rows = np.array([place.get(name, -1) for name in ids], np.int64)
        absent = int((rows < 0).sum())
        if 2 * absent > len(ids):
            raise DataError(f"lacks {absent:,} of {len(ids):,} {what}; give a table with their ids.", file=path.name)
        if absent:
            notes.append(f"{what} without a vector in {path.name} (zeros): {absent:,}")
        table = np.zeros((len(ids), found.vectors.shape[1]), np.float32)
        table[rows >= 0] = found.vectors[rows[rows >= 0]]
        tables.append(table)
    if tables[0].shape[1] != tables[1].shape[1]:
        widths = f"{tables[1].shape[1]} dimensions where {users.name} has {tables[0].shape[1]}"
        raise DataError(f"{widths}; give tables of the same model.", file=items.name)
    return Tables(tables[0], tables[1], (*notes, "the tables may have been trained on what is held out here"))


# ---- judging --------------------------------------------------------------------------------------------------


def judge(parts: Split, tables: Tables, part: str = "test") -> Judge:
    """Users who have items in this part ask for them; what they had in the parts before it is masked."""
    if part not in PARTS[1:]:
        raise InputError(f"part {part!r} is none of {', '.join(PARTS[1:])}: choose which one judges")
    mine, rows = parts.interactions, parts.rows(part)
    asking = np.unique(mine.user[rows])
    qrels: dict[str, dict[str, int]] = {mine.users[u]: {} for u in asking}
    for u, i in zip(mine.user[rows], mine.item[rows], strict=True):
        qrels[mine.users[u]][mine.items[i]] = 1
    names = tuple(mine.users[u] for u in asking)
    dataset = Dataset(
        mine.name, "retrieval", Texts(mine.items, mine.items), Texts(names, names), qrels, split=part,
        notes=(*parts.notes, *tables.notes),
    )  # fmt: skip
    task = from_qrels(names, mine.items, qrels)
    known = parts.rows(*PARTS[: PARTS.index(part)])
    column, query = np.argsort(task.columns), np.full(len(mine.users), -1, np.int64)
    query[asking] = np.arange(len(asking))
    pairs = np.stack([query[mine.user[known]], column[mine.item[known]]], axis=1)
    pairs = pairs[pairs[:, 0] >= 0]
    task = replace(task, hidden=pairs[np.argsort(pairs[:, 0], kind="stable")])
    items, users = Embeddings(tables.items, "dot"), Embeddings(tables.users[asking], "dot")
    return Judge(dataset, items, users, task, had=parts.counts())


# ---- a bench --------------------------------------------------------------------------------------------------


def bench(path: Path, *, dimensions: int = DIMENSIONS, seed: int = 0, progress: Progress = quiet) -> Bench:
    """Interactions as a data set: items are searched by the vectors of users, factorised once and kept on disk.

    Methods learn from the item table. Raises DataError and InputError as reading, splitting and factorising do.
    """
    parts = split(read_interactions(path, progress=progress), seed)
    tables = kept_tables(parts, dimensions, seed=seed, progress=progress)
    return bench_of(parts, tables, str(path), seed)


def bench_of(parts: Split, tables: Tables, spec: str, seed: int = 0) -> Bench:
    """The same from tables that are there already."""
    mine = parts.interactions
    model = described(Source(mine.name, spec, mine.items, tables.items, "dot"))
    model = replace(model, fingerprint=digest(VECTORS, tables.fingerprint))
    judges = (judge(parts, tables),)
    texts, vectors = judges[0].dataset.documents, judges[0].documents
    return Bench(model, judges, texts, vectors, (mine.name,), True, None, seed)
