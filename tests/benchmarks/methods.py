"""Every dimension method on SciFact test at 192, 128, 96 and 64 of 384, fitted on its documents without labels."""

from __future__ import annotations

import time
from pathlib import Path

from core import judging, registry
from core.bench import prepare
from core.compare import retention
from core.plan import Cut, Step
from core.select import select

SIZES = (192, 128, 96, 64)


def run(data: Path, corpus: str = "scifact") -> None:
    source = corpus if corpus in ("sample", "python-docs") else str(data / corpus)
    if "/" in source and not Path(source).exists():
        print(f"{corpus}: skipped, no {source}")
        return
    bench = prepare("minilm", [source])
    judge = bench.judges[0]
    base = judging.measure(judge, judge.documents.vectors, judge.queries.vectors, judge.documents.metric)
    print(
        f"nDCG@10 kept on {judge.name} ({len(judge.task)} queries), with 95 % intervals; CPU seconds to fit all four\n"
    )
    print("| method | " + " | ".join(map(str, SIZES)) + " | CPU s |\n|---|" + "---|" * (len(SIZES) + 1))
    for name in registry.names("dimensions"):
        context = bench.context(registry.card(name))
        seeds = range(5) if registry.card(name).seeded else [0]
        cells, start = [], time.process_time()
        for size in SIZES:
            kept = []
            for seed in seeds:
                options = (("seed", seed),) if "seed" in registry.find(name).__dataclass_fields__ else ()
                method = registry.build(Step(name, options))
                ranking = method.rank(context, size if method.card.refits else None)
                cut = select(ranking, Cut(keep=size), bench.model.metric)
                after = judging.measure(judge, *judging.reduced(judge, cut), cut.metric)
                kept.append(retention(base.values["ndcg@10"], after.values["ndcg@10"]))
            ratios = [k.ratio for k in kept]
            mean = sum(ratios) / len(ratios)
            if len(ratios) > 1:
                spread = (sum((r - mean) ** 2 for r in ratios) / (len(ratios) - 1)) ** 0.5
                cells.append(f"{100 * mean:.1f} ± {100 * spread:.1f} (5 seeds)")
            else:
                cells.append(f"{100 * mean:.1f} ({100 * kept[0].low:.1f} to {100 * kept[0].high:.1f})")
        print(f"| {name} | " + " | ".join(cells) + f" | {time.process_time() - start:.0f} |", flush=True)
