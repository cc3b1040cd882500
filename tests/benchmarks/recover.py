"""Recovery of MiniLM after a cut: quality kept on SciFact test and STS-B dev, before and after each training.

Trained on SciFact documents, their titles and sentences, and STS-B train sentences, without labels. Options were
chosen on SciFact's train queries and STS-B train pairs.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from core import registry
from core.anatomy import shape_of
from core.bench import Bench, prepare, rebased
from core.compare import Retention
from core.derive import derive
from core.judging import compare, measure
from core.plan import parse

TWICE = "layers/subset keep=4 | neurons/obs ratio=0.375"
HALF = "layers/subset keep=3"
DISTILL = "recover/distill steps=1200"
PLANS = (
    TWICE,
    f"{TWICE} | {DISTILL}",
    f"{TWICE} | {DISTILL} | recover/finetune steps=200",
    f"{TWICE} | {DISTILL} | train/qat steps=200",
    HALF,
    f"{HALF} | {DISTILL}",
)


def run(data: Path, plans: tuple[str, ...] = PLANS) -> None:
    corpus, pairs = data / "scifact", data / "stsb"
    if not corpus.exists() or not pairs.exists():
        print(f"skipped, no {corpus} or {pairs}")
        return
    names = [str(corpus), str(pairs / "sts-dev.tsv")]
    bench = prepare("minilm", names, fit_on=[str(corpus), str(pairs / "sts-train.tsv")])
    print(
        "Kept of the unpruned model with 95 % intervals; trained: seconds of the last step, its held-out evaluations "
        f"included, on {torch.get_num_threads()} threads; all: seconds from the first cut to the written folder\n"
    )
    print("| plan | MACs | nDCG@10 | STS-B | held-out loss | steps | trained s | all s |\n" + "|---" * 8 + "|")
    for sentence in plans:
        row(bench, sentence)


def row(bench: Bench, sentence: str) -> None:
    start = time.perf_counter()
    steps = registry.parts(registry.resolve(parse(sentence), 0)).encoder
    derived = derive(bench.model, steps, bench.fit)
    seconds = time.perf_counter() - start
    share = derived.shape.flops_per_token(128) / shape_of(bench.model).flops_per_token(128)
    trained = derived.facts.get("training", [])
    said = "| | | " if not trained else ""
    if trained:
        last = trained[-1]
        said = f"| {last['start']:.4f} to {last['best']:.4f} | {last['steps']} | {last['seconds']:.0f} "
    after = rebased(bench, derived.info, fit=False)
    kept = {}
    for one, two in zip(bench.judges, after.judges, strict=True):
        figures = [measure(j, j.documents.vectors, j.queries.vectors, j.documents.metric) for j in (one, two)]
        kept[one.name] = _words(compare(one, *figures)[one.main])
    plan = sentence.replace("|", r"\|")
    print(
        f"| `{plan}` | {100 * share:.0f} % | {kept['scifact']} | {kept['sts-dev']} {said}| {seconds:.0f} |", flush=True
    )


def _words(found: Retention) -> str:
    return f"{100 * found.ratio:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"
