"""Whole vectors: seconds and peak memory of every method at 100,000 x 384, each in a process of its own.

Rows as sentence encoders give them (tests/synthetic.py), 10,000 pseudo-queries near some of them.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from core import registry
from core.methods.base import VectorMethod
from core.types import FitContext
from tests.synthetic import documents_like_text, near

ROWS, DIMENSION, QUERIES = 100_000, 384, 10_000


def run(data: Path) -> None:
    print(f"{ROWS:,} x {DIMENSION}, {QUERIES:,} pseudo-queries; memory with the vectors themselves\n")
    print("| method | seconds | of the CPU, all cores | peak GB | neighbours |\n|---|---|---|---|---|")
    for name in registry.names("vectors"):
        command = [sys.executable, "-m", "tests.benchmarks.rows", name]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


def one(name: str) -> None:
    """One row of the table."""
    method = registry.find(name)()
    assert isinstance(method, VectorMethod)
    x = documents_like_text(ROWS, DIMENSION)
    owners = np.sort(np.random.default_rng(0).choice(ROWS, QUERIES, replace=False))
    context = FitContext(x, near(x[owners], 0.7, 1), owners)
    start, busy = time.perf_counter(), time.process_time()
    ranking = method.rank(context)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| `{name}` | {seconds:.1f} | {busy:.1f} | {peak:.2f} | {'; '.join(ranking.notes) or 'none, or exact'} |")


if __name__ == "__main__":
    one(sys.argv[1])
