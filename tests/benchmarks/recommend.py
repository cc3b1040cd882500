"""Recommender tables: sizes, metrics, and the loop that prunes them, beside popularity and chance.

    python -m tests.benchmarks.recommend [FILE]

Interactions generated with 16 tastes, shaped like MovieLens-100k (943 users, 1,682 items, 107,000 interactions); FILE
(u.data, ratings.csv) is measured in the same way. Sizes are chosen on validation, the figures are those of test.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.bench import Bench
from core.compare import retention
from core.data.interactions import Split, read_interactions, split
from core.judging import measured, rank_rows
from core.plan import Step
from core.recommend import Tables, bench_of, factorise
from core.recommend_loop import MAIN, MEASURES, chance, figures, popularity, prune_loop, quality, weak_items
from core.registry import card
from core.rows import select_rows
from core.types import Measurement
from tests.interactions_like import drawn, write_movielens

SIZES = (8, 12, 16, 24, 32, 64, 128)
SEEDS = (0, 1, 2)


def run(data: Path) -> None:
    """The generated interactions, and MovieLens-100k where it lies among the data."""
    with _generated() as path:
        measure(path)
    ranks()
    given = data / "ml-100k" / "u.data"
    measure(given) if given.exists() else print(f"\nMovieLens: skipped, no {given.name} among the data")


@contextmanager
def _generated(seed: int = 0, rank: int = 16) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generated.data"
        write_movielens(path, *drawn(943, 1682, rank, each=106.0, seed=seed))
        yield path


def measure(path: Path) -> None:
    parts = split(read_interactions(path))
    mine = parts.interactions
    print(f"\n### {mine.name}: {len(mine.users):,} users, {len(mine.items):,} items; {'; '.join(parts.notes)}\n")
    print("| tables | metric | " + " | ".join(MEASURES) + " |\n|" + "---|" * (2 + len(MEASURES)))
    _row("chance", "", chance(parts))
    _row("popularity", "", popularity(parts))
    for d in SIZES:
        tables = factorise(parts, d)
        for metric in ("dot", "cosine"):
            _row(f"{tables.dimension} dimensions", metric, quality(parts, tables, metric=metric))
    start = time.perf_counter()
    tables = factorise(parts, 64)
    print(f"\nfactorise into 64: {time.perf_counter() - start:.1f} s")
    for rotate in (True, False):
        for refit in (3, 0):
            _loop(parts, tables, rotate=rotate, refit=refit)
    rows(parts, factorise(parts, 16))


def _row(name: str, metric: str, one: Measurement) -> None:
    print(f"| {name} | {metric} | " + " | ".join(f"{v:.4f}" for v in figures(one).values()) + " |", flush=True)


def _loop(parts: Split, tables: Tables, *, rotate: bool, refit: int) -> None:
    start = time.perf_counter()
    loop = prune_loop(parts, tables, rotate=rotate, refit=refit)
    kept = loop.retained()
    print(f"\nloop, {'principal axes' if rotate else 'own axes'}, {refit} rounds of refitting, "
          f"{time.perf_counter() - start:.1f} s: {loop.why}")  # fmt: skip
    print("validation: " + ", ".join(f"{r.dimensions}: {r.valid.means[MAIN]:.4f}" for r in loop.rounds))
    print(f"test nDCG@10: {kept.before:.4f} -> {kept.after:.4f}, {kept.ratio:.3f} [{kept.low:.3f}, {kept.high:.3f}]")


def rows(parts: Split, tables: Tables) -> None:
    """What is left of nDCG@10 on test when items with short vectors go, and when as many go by chance."""
    print(f"\n{tables.dimension} dimensions; {weak_items(parts, tables).note}")
    bench = bench_of(parts, tables, "")
    one = bench.judges[0]
    before = measured(one)
    for ratio in (0.1, 0.2, 0.3):
        keep = len(one.documents) - round(ratio * len(one.documents))
        for name in ("vectors/norm", "vectors/random"):
            found = bench_rows(bench, name, keep)
            kept = retention(before.values[MAIN], found.values[MAIN])
            print(f"{name} ratio={ratio}: keeps {kept.ratio:.3f} [{kept.low:.3f}, {kept.high:.3f}] of nDCG@10")


def bench_rows(bench: Bench, name: str, keep: int) -> Measurement:
    one = bench.judges[0]
    ranking = rank_rows(bench.index(one, card(name)), Step(name, (("keep", keep),)))
    return measured(one.without(select_rows(ranking, keep), one.documents.vectors))


def ranks() -> None:
    """Where the loop ends for other ranks and seeds, from 64 dimensions."""
    print("\n| true rank | dimensions chosen, seeds " + ", ".join(map(str, SEEDS)) + " |\n|---|---|")
    for rank in (8, 16, 32):
        ends = []
        for seed in SEEDS:
            with _generated(seed, rank) as path:
                parts = split(read_interactions(path), seed)
            ends.append(prune_loop(parts, factorise(parts, 64)).tables.dimension)
        print(f"| {rank} | {', '.join(map(str, ends))} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(Path(sys.argv[1]))
    else:
        run(Path(__file__).parents[3] / "shared" / "data")
