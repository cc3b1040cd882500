"""Encoder cuts of MiniLM: quality kept on SciFact test and STS-B dev, against random units, with speed and size.

Calibrated on SciFact documents and STS-B train sentences, no labels, no training. Plans and options were chosen on
SciFact's train queries.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from core import derive, export, registry
from core.anatomy import shape_of
from core.bench import Bench, prepare
from core.compare import Retention
from core.pipeline import Cutting, judge_cut
from core.plan import parse

PLANS = (
    "neurons/obs ratio=0.5",
    "heads/obs ratio=0.5 | neurons/obs ratio=0.5",
    "layers/subset keep=4 | neurons/obs ratio=0.375",
    "layers/subset keep=5",
    "layers/subset keep=4",
    "width/variance ratio=0.25",
    "tokens/frequency ratio=0.5",
)
DRAWS = 2


def run(data: Path, plans: tuple[str, ...] = PLANS) -> None:
    corpus, pairs = data / "scifact", data / "stsb"
    if not corpus.exists() or not pairs.exists():
        print(f"skipped, no {corpus} or {pairs}")
        return
    names = [str(corpus), str(pairs / "sts-dev.tsv")]
    bench = prepare("minilm", names, fit_on=[str(corpus), str(pairs / "sts-train.tsv")])
    print(
        "Kept of the unpruned model with 95 % intervals; random: the same counts, the same reconstruction, units drawn "
        f"by chance (mean of {DRAWS}, on a sample); cosine and neighbours@10 of SciFact documents; speed: batch of 32, "
        "median of paired ratios against the ideal from FLOPs; cut: seconds to rank, cut and refit\n"
    )
    head = ("plan", "MACs", "file MB", "nDCG@10", "random", "STS-B", "random", "cosine", "neighbours", "speed", "ideal",
            "plain reload", "cut s")  # fmt: skip
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for sentence in plans:
        row(bench, sentence)


def row(bench: Bench, sentence: str) -> None:
    start = time.perf_counter()
    steps = registry.parts(registry.resolve(parse(sentence), 0)).encoder
    derived = derive.derive(bench.model, steps, bench.fit)
    seconds = time.perf_counter() - start
    cut = judge_cut(bench, parse(sentence), draws=DRAWS)
    timing = export.measure_speed(bench, cut)
    dense, small = shape_of(bench.model), derived.shape
    length = timing["mean_tokens"]
    share = small.flops_per_token(length) / dense.flops_per_token(length)
    size, bar = 4 * derived.info.parameters / 1e6, r"\|"
    drift = cut.drift.summary
    print(
        f"| `{sentence.replace('|', bar)}` | {100 * share:.0f} % | {size:.1f} | {_kept(cut, 'scifact', 'ndcg@10')} | "
        f"{_chance(cut, 'scifact', 'ndcg@10')} | {_kept(cut, 'sts-dev', 'spearman')} | "
        f"{_chance(cut, 'sts-dev', 'spearman')} | {drift['cosine']:.3f} | {drift['neighbour_overlap@10']:.3f} | "
        f"{timing['speedup']:.2f}x | {1 / share:.2f}x | {'yes' if derived.plain else 'ONNX'} | {seconds:.0f} |",
        flush=True,
    )


def _kept(cut: Cutting, data: str, measure: str) -> str:
    found: Retention = cut.retention[data][measure]
    return f"{100 * found.ratio:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _chance(cut: Cutting, data: str, measure: str) -> str:
    mean: Any = cut.random[data][measure][0]
    return f"{100 * mean:.1f}"
