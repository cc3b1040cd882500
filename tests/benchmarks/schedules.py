"""Schedules of MiniLM: rounds against one cut with as much training, and L1 before a cut against the cut alone.

Judged on a sample of SciFact test (300 queries, all their documents and others up to 600) and on STS-B dev; calibrated
and trained on SciFact documents and STS-B train sentences without labels. Short trainings, so that the part stays
under a quarter of an hour: what is compared is fair, not what is reached.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from core import registry
from core.bench import Bench, prepare, sampled
from core.compare import Retention
from core.derive import derive
from core.pipeline import Cutting, judge_cut
from core.plan import parse

STEPS, ROUNDS, BATCH = 90, 3, 16
CUTS = ("neurons/magnitude ratio=0.75", "layers/subset keep=3", "weights/magnitude ratio=0.8")
STRENGTHS = (0.1, 0.5, 2.0)
HALF = "neurons/magnitude ratio=0.5"
_SAME = f"batch={BATCH} every={STEPS} patience=0"


def run(data: Path) -> None:
    corpus, pairs = data / "scifact", data / "stsb"
    if not corpus.exists() or not pairs.exists():
        print(f"skipped, no {corpus} or {pairs}")
        return
    names = [str(corpus), str(pairs / "sts-dev.tsv")]
    bench = prepare("minilm", names, fit_on=[str(corpus), str(pairs / "sts-train.tsv")])
    small = replace(bench, judges=tuple(sampled(j, queries=300, documents=600) for j in bench.judges))
    schedules(small)
    regularised(small)


def schedules(bench: Bench) -> None:
    print(
        f"Kept of the unpruned model with 95 % intervals, after {STEPS} steps of distillation in all ({BATCH} texts "
        f"each); one-shot: all of them after one cut; cubic: {ROUNDS} rounds of a cut and its share of the "
        "steps. Known-item: held-out titles and sentences find their document, what a floor looks at\n"
    )
    table("cut", "schedule", "nDCG@10", "STS-B", "cosine", "known-item, round by round", "seconds")
    for cut in CUTS:
        for name, rounds in (("one-shot", 1), ("cubic", ROUNDS)):
            steps = f"recover/distill steps={STEPS // rounds} {_SAME}"
            found, seconds = judged(bench, f"iterate({cut} | {steps}) rounds={rounds}")
            row(f"`{cut}`", name, *kept(found), known(found), f"{seconds:.0f}")


def regularised(bench: Bench) -> None:
    print("\nWhat strength induces (held-out texts: 1 - cosine to the unpruned model once trained, before the cut)\n")
    table("strength", "gates at zero", "below 0.001", "1 - cosine", "gates' gradient, first and last")
    for strength in STRENGTHS:
        step = f"train/l1 strength={strength} steps={STEPS} batch={BATCH} every={STEPS // 3}"
        derived = derive(bench.model, steps_of(step), bench.fit)
        curve = derived.facts["training"][0]["curve"]
        first, last = (curve[i].get("gate_gradient", float("nan")) for i in (1, -1))
        shares = (f"{100 * curve[-1][k]:.1f} %" for k in ("zeros", "small"))
        row(f"{strength}", *shares, f"{curve[-1]['distance']:.4f}", f"{first:.1e}, {last:.1e}")
    print("\nL1 before the cut, beside the cut alone and beside as many steps of distillation behind it\n")
    table("plan", "nDCG@10", "STS-B", "cosine", "seconds")
    l1, distil = f"train/l1 steps={STEPS} batch={BATCH} every={STEPS // 3}", f"recover/distill steps={STEPS} {_SAME}"
    for plan in (HALF, f"{l1} | {HALF}", f"{HALF} | {distil}", f"{l1} | {HALF} | {distil}"):
        found, seconds = judged(bench, plan)
        row(f"`{plan}`", *kept(found), f"{seconds:.0f}")


def steps_of(sentence: str) -> Any:
    return registry.parts(registry.resolve(parse(sentence), 0)).encoder


def judged(bench: Bench, sentence: str) -> tuple[Cutting, float]:
    """The cut judged, and the seconds that it took to make."""
    start = time.perf_counter()
    derive(bench.model, steps_of(sentence), bench.fit)
    seconds = time.perf_counter() - start
    return judge_cut(bench, parse(sentence), draws=0), seconds


def kept(cut: Cutting) -> tuple[str, str, str]:
    return _kept(cut, "scifact", "ndcg@10"), _kept(cut, "sts-dev", "spearman"), f"{cut.drift.summary['cosine']:.3f}"


def _kept(cut: Cutting, data: str, measure: str) -> str:
    found: Retention = cut.retention[data][measure]
    return f"{100 * found.ratio:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def known(cut: Cutting) -> str:
    assert cut.derived is not None
    return ", ".join(f"{100 * r['quality']:.1f}" for r in cut.derived.facts["rounds"])


def table(*head: str) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))


def row(*cells: str) -> None:
    print("| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |", flush=True)
