"""How few dimensions a recommender needs: remove the lowest-magnitude ones, refit, validate, again.

    loop = prune_loop(parts, tables)       every round, the chosen tables and why; chosen on validation only
    run(path)                              the whole way from a file, as the command line answers it

Magnitude of a dimension: the product of its column norms in both tables. A factorisation may be turned freely (U V' =
U Q Q' V'), so its own axes mean nothing; on the principal axes of U V' the magnitude is the singular value. Beside
every figure stand popularity and chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import judging, report
from core.compare import Retention, retention
from core.data.interactions import LEAST, Split, read_interactions, split
from core.data.vector_files import open_writer
from core.errors import InputError
from core.judging import measure, measured
from core.recommend import DIMENSIONS, Tables, factorise, judge, kept_tables, read_tables
from core.types import Floats, Measurement, Metric, Progress, quiet
from core.vector_sidecars import begin, check_ours

TABLES = ("users.parquet", "items.parquet")
MEASURES = ("hit_rate@10", "recall@10", "ndcg@10")
MAIN = "ndcg@10"
FLOOR, STEP, REFIT = 2, 0.125, 3
DOUBT = 2.0  # standard errors below the best round: beyond doubt, the loop ends


# ---- floors ---------------------------------------------------------------------------------------------------


def popularity(parts: Split, part: str = "test") -> Measurement:
    """The floor: the same items for everybody, by how often they were had in training; masked alike."""
    mine = parts.interactions
    users, items = (np.ones((len(ids), 1), np.float32) for ids in (mine.users, mine.items))
    found = judging.popularity(judge(parts, Tables(users, items), part))
    assert found is not None
    return found


def chance(parts: Split, part: str = "test", seed: int = 0) -> Measurement:
    """Items in a seeded order of their own for every user; masked alike."""
    rng, mine = np.random.default_rng(seed), parts.interactions
    users, items = (rng.normal(size=(len(ids), 32)).astype(np.float32) for ids in (mine.users, mine.items))
    return measured(judge(parts, Tables(users, items), part))


def quality(parts: Split, tables: Tables, part: str = "test", metric: Metric = "dot") -> Measurement:
    """Tables as they are, by the dot product or another metric."""
    asked = judge(parts, tables, part)
    return measure(asked, asked.documents.vectors, asked.queries.vectors, metric)


def figures(one: Measurement) -> dict[str, float]:
    """The means that a recommender is read by."""
    return {m: one.means[m] for m in MEASURES}


# ---- rows -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Weak:
    """Rarely used items with short vectors: the first candidates when rows go.

    ids    shortest vector first
    share  of the items; held: share of the test interactions that are theirs, what removing them costs at most
    """

    ids: tuple[str, ...]
    share: float
    held: float

    @property
    def note(self) -> str:
        return (
            f"items had fewer than {LEAST} times in training, with vectors shorter than the median: {len(self.ids):,} "
            f"({self.share:.1%} of the items, {self.held:.1%} of what is tested)"
        )


def weak_items(parts: Split, tables: Tables) -> Weak:
    """Items had fewer than 5 times in training whose vector is shorter than the median one.  O(i d).

    vectors/norm removes short vectors; its ratio up to `share` takes such items first.
    """
    norms, mine = np.linalg.norm(tables.items, axis=1), parts.interactions
    weak = (parts.counts() < LEAST) & (norms < np.median(norms))
    rows = np.flatnonzero(weak)
    rows = rows[np.argsort(norms[rows], kind="stable")]
    held = float(weak[mine.item[parts.rows("test")]].mean())
    return Weak(tuple(mine.items[i] for i in rows), len(rows) / len(mine.items), held)


# ---- the loop -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Round:
    """Tables of one size, and their quality on the validation part."""

    tables: Tables
    valid: Measurement

    @property
    def dimensions(self) -> int:
        return self.tables.dimension

    def below(self, best: Round) -> tuple[float, float]:
        """How far the mean nDCG@10 lies below another round's, and the standard error of that, paired by user."""
        gap = best.valid.values[MAIN] - self.valid.values[MAIN]
        error = float(gap.std(ddof=1)) / math.sqrt(len(gap)) if len(gap) > 1 else 0.0
        return float(gap.mean()), error


@dataclass(frozen=True, eq=False)
class Loop:
    """Every round, largest first; `chosen` is an index. Test figures are of the chosen and of the first tables."""

    rounds: tuple[Round, ...]
    best: int
    chosen: int
    test: Measurement
    before: Measurement
    why: str

    @property
    def tables(self) -> Tables:
        return self.rounds[self.chosen].tables

    def retained(self, seed: int = 0) -> Retention:
        """nDCG@10 on test, chosen over first: above 1 where fewer dimensions are better."""
        return retention(self.before.values[MAIN], self.test.values[MAIN], seed)


def magnitudes(tables: Tables) -> NDArray[np.float64]:
    """(d,) the product of each dimension's norms over users and over items."""
    u, v = (np.linalg.norm(t.astype(np.float64), axis=0) for t in (tables.users, tables.items))
    return np.asarray(u * v)


def rotated(tables: Tables) -> Tables:
    """The same scores on the principal axes of U V', strongest first; magnitudes become its singular values.

    Two QR and one (d, d) SVD: O((u + i) d^2).
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):  # small matrices: more threads wait for each other
        (qu, ru), (qv, rv) = (np.linalg.qr(t.astype(np.float64)) for t in (tables.users, tables.items))
        left, values, right = np.linalg.svd(ru @ rv.T, full_matrices=False)
    root = np.sqrt(values)
    return Tables(_single(qu @ left * root), _single(qv @ right.T * root), tables.notes)


def _single(x: NDArray[np.float64]) -> Floats:
    return x.astype(np.float32)


def prune_loop(
    parts: Split, tables: Tables, *, floor: int = FLOOR, step: float = STEP, refit: int = REFIT, rotate: bool = True,
    progress: Progress = quiet,
) -> Loop:  # fmt: skip
    """Remove the weakest dimensions, refit, validate, until the loss is beyond doubt or the floor is reached.

    floor   dimensions below which nothing is tried
    step    share of the dimensions that goes each round (one at least)
    refit   rounds of alternating least squares after each removal, from where the tables stand; 0 for none
    rotate  to the principal axes first; without it the magnitudes are those of arbitrary axes

    The smallest tables whose validation nDCG@10 lies within one standard error of the best round's, paired by user,
    are chosen (the one-standard-error rule: Breiman et al., CART, 1984); test is looked at once, afterwards. The loop
    ends early at 2 standard errors below the best so far. Memory: the tables of every round, about 1 / step of the
    first. Raises InputError for a floor or step out of range, Cancelled from `progress`.
    """
    if not 1 <= floor <= tables.dimension:
        raise InputError(f"floor {floor} is not between 1 and the tables' {tables.dimension} dimensions")
    if not 0 < step < 1:
        raise InputError(f"step {step:g} is not between 0 and 1: give the share of dimensions that goes each round")
    sizes = _sizes(tables.dimension, floor, step)
    rounds = [_round(parts, tables)]
    for done, size in enumerate(sizes, 1):
        said = (f"pruning to {size} dimensions", done, len(sizes))
        progress(*said)
        tables = _cut(rotated(tables) if rotate else tables, size)
        if refit:
            tables = factorise(
                parts, size, iterations=refit, start=tables, progress=lambda *_, said=said: progress(*said)
            )
        rounds.append(_round(parts, tables))
        below, error = rounds[-1].below(_best(rounds))
        if below > DOUBT * error:
            break
    return _chosen(parts, rounds)


def _sizes(dimension: int, floor: int, step: float) -> list[int]:
    out = [dimension]
    while out[-1] > floor:
        out.append(max(floor, min(out[-1] - 1, int(out[-1] * (1 - step)))))
    return out[1:]


def _cut(tables: Tables, size: int) -> Tables:
    """The `size` dimensions of the highest magnitude, in their order."""
    keep = np.sort(np.argsort(-magnitudes(tables), kind="stable")[:size])
    return Tables(tables.users[:, keep], tables.items[:, keep], tables.notes)


def _round(parts: Split, tables: Tables) -> Round:
    return Round(tables, quality(parts, tables, "valid"))


def _best(rounds: Sequence[Round]) -> Round:
    return max(rounds, key=lambda r: r.valid.means[MAIN])


def _chosen(parts: Split, rounds: Sequence[Round]) -> Loop:
    best = _best(rounds)
    chosen = max(i for i, r in enumerate(rounds) if (gap := r.below(best))[0] <= gap[1])
    one = rounds[chosen]
    why = f"{one.dimensions} dimensions: the fewest within one standard error of the best on validation"
    why += f" (nDCG@10 {one.valid.means[MAIN]:.4f}; best {best.valid.means[MAIN]:.4f} at {best.dimensions})"
    return Loop(
        tuple(rounds), rounds.index(best), chosen, quality(parts, one.tables), quality(parts, rounds[0].tables), why
    )


# ---- from a file ----------------------------------------------------------------------------------------------


def run(
    path: Path, *, dimensions: int = DIMENSIONS, seed: int = 0, out: Path | None = None,
    given: tuple[Path, Path] | None = None, progress: Progress = quiet,
) -> dict[str, Any]:  # fmt: skip
    """Read, split, factorise, prune; the answer as plain values. `out` gets users.parquet and items.parquet.

    given   vector files of users and items, under their ids, to begin with instead of a factorisation

    Raises DataError for a file that cannot be read, InputError for options out of range or a folder not writeable.
    """
    if out is not None:
        for name in TABLES:
            check_ours(out / name)
    parts = split(read_interactions(path, progress=progress), seed)
    if given is not None:
        tables = read_tables(parts, *given)
    else:
        tables = kept_tables(parts, dimensions, seed=seed, progress=progress)
    loop = prune_loop(parts, tables, floor=min(FLOOR, tables.dimension), progress=progress)
    mine, kept = parts.interactions, loop.retained(seed)
    weak = weak_items(parts, loop.tables)
    answer = {
        "data": {"name": mine.name, "users": len(mine.users), "items": len(mine.items), "interactions": len(mine)},
        "rounds": [_row(r, loop.rounds[loop.best]) for r in loop.rounds],
        "best": loop.rounds[loop.best].dimensions,
        "chosen": loop.tables.dimension,
        "why": loop.why,
        "test": {
            "before": {"dimensions": tables.dimension, **figures(loop.before)},
            "after": {"dimensions": loop.tables.dimension, **figures(loop.test)},
            "retained": kept.as_json(),
            "by cosine": figures(quality(parts, loop.tables, metric="cosine")),
            "popularity": figures(popularity(parts)),
            "random": figures(chance(parts, seed=seed)),
        },
        "weak": {"ids": list(weak.ids), "share": weak.share, "held": weak.held},
        "notes": [*parts.notes, *tables.notes, weak.note],
    }
    if out is not None:
        answer["files"] = _write(parts, loop.tables, out)
    return dict(report.plain(answer))  # a change is not defined where nothing was right before


def _row(one: Round, best: Round) -> dict[str, Any]:
    below, error = one.below(best)
    return {"dimensions": one.dimensions, **figures(one.valid), "below_best": below, "standard_error": error}


def _write(parts: Split, tables: Tables, out: Path) -> list[str]:
    mine, files = parts.interactions, [out / name for name in TABLES]
    for file, ids, table in zip(files, (mine.users, mine.items), (tables.users, tables.items), strict=True):
        with open_writer(file, dimension=tables.dimension, begun=partial(begin, file)) as writer:
            writer.add(ids, table)
    return [str(file) for file in files]
