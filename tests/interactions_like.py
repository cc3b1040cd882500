"""Made-up interactions of users with items whose expectation has a known rank, and files shaped like MovieLens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.types import Ints


def drawn(
    users: int = 600, items: int = 400, rank: int = 16, *, each: float = 60.0, noise: float = 0.1, seed: int = 0
) -> tuple[Ints, Ints]:
    """Seeded (user, item) pairs, each once. P(item | user) is a mixture of `rank` tastes: a matrix of that rank.

    A taste spreads over the items by a popularity that falls as Zipf's law, a user over a few tastes; `noise` is the
    share drawn by popularity alone. A user has about `each` items, log-normally spread.
    """
    rng = np.random.default_rng(seed)
    popularity = 1.0 / (np.arange(items) + 10.0) ** 0.5
    tastes = rng.dirichlet(np.full(items, 0.1), rank) * popularity
    tastes /= tastes.sum(axis=1, keepdims=True)
    tastes = (1 - noise) * tastes + noise * popularity / popularity.sum()
    chance = rng.dirichlet(np.full(rank, 0.15), users) @ tastes
    sizes = np.clip(rng.lognormal(np.log(each), 0.4, users).astype(int), 5, items // 3)
    race = rng.exponential(size=chance.shape) / chance  # the first k to arrive: a draw without replacement
    order = np.argsort(race, axis=1)
    return np.repeat(np.arange(users), sizes), np.concatenate([o[:k] for o, k in zip(order, sizes, strict=True)])


def write_movielens(path: Path, user: Ints, item: Ints, seed: int = 0) -> NDArray[np.int64]:
    """The pairs as a `u.data`: user, item, rating and time, parted by tabs, no header, in a shuffled order."""
    rng = np.random.default_rng(seed)
    rows = np.stack([user + 1, item + 1, rng.integers(1, 6, len(user)), 874724710 + rng.permutation(len(user))], axis=1)
    rows = rows[rng.permutation(len(rows))]
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return np.asarray(rows, np.int64)
