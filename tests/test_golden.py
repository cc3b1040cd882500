"""Figures of every method on a fixed synthetic bench, guarded against change.

ESPALIER_REGOLD=1 python -m pytest tests/test_golden.py     writes tests/golden/ anew: read the diff
"""

from __future__ import annotations

import json
import math
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import judging, pipeline, registry, sweeps
from core.bench import Judge
from core.evaluate.drift import drift
from core.evaluate.similarity import label_hits, pair_scores, spearman
from core.plan import Cut, Step
from core.select import apply, select
from core.types import FitContext
from tests.synthetic import context, judge, near

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-4
N, D = 240, 24
SIZES = (16, 8, 4)


@cache
def bench() -> tuple[Judge, FitContext]:
    """A judge and what may be learned: the same documents, other queries."""
    return judge(N, D), context(N, D)


def step_of(name: str, keep: int) -> Step:
    few = (("steps", 20),) if "steps" in registry.find(name).__dataclass_fields__ else ()
    return Step(name, (("keep", keep), *few))


def figures_at(name: str, keep: int) -> dict[str, float]:
    """What a person sees of one cut: quality, retention, two-stage quality, drift, pairs and labels."""
    j, on = bench()
    reduction = select(judging.rank(on, step_of(name, keep), keep), Cut(keep=keep))
    documents, queries = judging.reduced(j, reduction)
    before = judging.measure(j, j.documents.vectors, j.queries.vectors, "cosine")
    after = judging.measure(j, documents, queries, reduction.metric)
    kept = judging.compare(j, before, after)["ndcg@10"]
    out = dict(judging.figures(after))
    out |= {f"kept {k}": getattr(kept, k) for k in ("ratio", "low", "high", "p_value")}
    out["rescored ndcg@10"] = pipeline.two_stage(j, reduction, 15)["ndcg@10"]
    asked = apply(reduction, j.documents.vectors, "query")
    out |= drift(j.documents.vectors, documents, asked=asked, metrics=("cosine", reduction.metric)).summary
    noisy = near(j.documents.vectors, 1.0, 5)
    scores = pair_scores(documents, apply(reduction, noisy, "query"), reduction.metric)
    out["spearman"] = spearman(scores, pair_scores(j.documents.vectors, noisy))
    labels = [str(v) for v in j.documents.vectors.argmax(axis=1) % 3]
    hits = label_hits(documents[::2], labels[::2], documents[1::2], labels[1::2])
    return out | {k: float(v.mean()) for k, v in hits.items()}


def curve_of(name: str) -> dict[str, list[float]]:
    """nDCG@10 and neighbour overlap at eight ratios, by the one-pass engine."""
    j, on = bench()
    ranking = judging.rank(on, step_of(name, D))
    ratios = [i / 8 for i in range(8)]
    found = sweeps.curve(j, ranking, ratios)
    return {
        "ndcg@10": found.means("ndcg@10").tolist(),
        "overlap": sweeps.overlap_curve(j, ranking, ratios).tolist(),
    }


def all_figures(name: str) -> dict[str, Any]:
    return {"curve": curve_of(name)} | {str(k): figures_at(name, k) for k in SIZES}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return None if math.isnan(value) else round(float(value), 6)


def differences(wanted: Any, found: Any, where: str = "") -> list[str]:
    """Every figure that is missing, new, or off by more than the tolerance."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        keys = sorted(wanted.keys() | found.keys())
        return [d for k in keys for d in differences(wanted.get(k, "absent"), found.get(k, "absent"), f"{where}/{k}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return [
            d for i, (w, f) in enumerate(zip(wanted, found, strict=True)) for d in differences(w, f, f"{where}[{i}]")
        ]
    if isinstance(wanted, float | int) and isinstance(found, float | int) and abs(wanted - found) <= TOLERANCE:
        return []
    return [] if wanted == found else [f"{where}: {wanted} -> {found}"]


@pytest.mark.parametrize("name", registry.names("dimensions"))
def test_figures_are_the_golden_ones(name: str) -> None:
    path = GOLDEN / (name.replace("/", "-") + ".json")
    found = rounded(all_figures(name))
    if os.environ.get("ESPALIER_REGOLD") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert path.is_file(), f"{path.name} is missing: run with ESPALIER_REGOLD=1"
    changed = differences(json.loads(path.read_text(encoding="utf-8")), found)
    assert not changed, "\n".join(changed)


def test_every_golden_file_belongs_to_a_method() -> None:
    assert {p.stem for p in GOLDEN.glob("*.json")} == {n.replace("/", "-") for n in registry.names("dimensions")}


def test_a_change_is_seen() -> None:
    golden = json.loads((GOLDEN / "dimensions-svd.json").read_text(encoding="utf-8"))
    other = json.loads(json.dumps(golden))
    other["8"]["ndcg@10"] += 2 * TOLERANCE
    other["curve"]["overlap"][3] = None
    del other["4"]["cka"]
    assert [d.split(":")[0] for d in differences(golden, other)] == ["/4/cka", "/8/ndcg@10", "/curve/overlap[3]"]


def test_the_curve_passes_through_the_single_cuts() -> None:
    j, on = bench()
    for name in ("dimensions/svd", "dimensions/variance", "dimensions/bilinear"):
        ranking = judging.rank(on, step_of(name, D))
        values = sweeps.curve(j, ranking, [0.5, 0.75]).means("ndcg@10")
        for value, keep in zip(values, (12, 6), strict=True):
            reduction = select(ranking, Cut(keep=keep))
            after = judging.measure(j, *judging.reduced(j, reduction), reduction.metric)
            assert value == pytest.approx(np.mean(after.values["ndcg@10"]), abs=1e-9)
