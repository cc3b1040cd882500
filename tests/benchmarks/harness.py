"""The harness check: the embedded model's published figures, from our own evaluator."""

from __future__ import annotations

from pathlib import Path

from core import judging
from core.bench import prepare


def run(data: Path) -> None:
    wanted = [("scifact", data / "scifact"), ("sts-dev", data / "stsb" / "sts-dev.tsv")]
    found = [str(p) for _, p in wanted if p.exists()]
    for name, path in wanted:
        if not path.exists():
            print(f"{name}: skipped, no {path}")
    bench = prepare("minilm", [*found, "sample"])
    print("| data | measure | all-MiniLM-L6-v2 |\n|---|---|---|")
    for judge in bench.judges:
        m = judging.measure(judge, judge.documents.vectors, judge.queries.vectors, judge.documents.metric)
        for k, v in judging.figures(m).items():
            print(f"| {judge.name} | {k} | {100 * v:.2f} |")
