"""What was measured before the product was shipped: the sensitivity of the built-in model on the built-in corpus.

So that the first look at an encoder cut is an estimate and not an empty page. `python -m
tests.benchmarks.make_sensitivity` writes the files of assets/sensitivity/ anew.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from core.bench import Bench
from core.types import digest

SENSITIVITY = Path(__file__).parents[1] / "assets" / "sensitivity"


def place(bench: Bench, target: str, criterion: str) -> Path:
    """Where the answer for this model, these texts, this seed, target and criterion stands, if it was measured."""
    texts = (j.dataset.fingerprint for j in bench.judges)
    key = digest(bench.model.fingerprint, *texts, bench.fit.fingerprint, str(bench.seed), target, criterion)
    return SENSITIVITY / f"{key}.json.gz"


def sensitivity(bench: Bench, target: str, criterion: str) -> dict[str, Any] | None:
    """The answer of the command `sensitivity`, or None where nobody measured it beforehand."""
    path = place(bench, target, criterion)
    return dict(json.loads(gzip.decompress(path.read_bytes()))) if path.is_file() else None
