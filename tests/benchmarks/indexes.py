"""Whole vectors and vectors without a model: what a quarter of SciFact's rows costs, planted copies, GloVe.

Options were chosen on SciFact's train claims; the figures are those of test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from core import pipeline, registry
from core.bench import Bench, prepare
from core.evaluate.judgements import from_qrels
from core.pipeline import Cutting
from core.plan import parse
from core.thinning import Ceiling, ceiling
from core.types import Embeddings, unit
from core.vector_bench import open_bench

COPIES = 0.25  # of the documents, so that 20 % of the index are copies
NOISE = 0.15  # their distance: a cosine of about 0.99
GLOVE = (
    "dimensions/pca keep=25 | vectors/duplicates ratio=0.2", "dimensions/svd keep=25 | vectors/duplicates ratio=0.2",
    "dimensions/pca keep=25 | vectors/norm ratio=0.2", "dimensions/pca keep=25", "vectors/duplicates ratio=0.2",
    "quantize/waterfill bytes=25 | vectors/duplicates ratio=0.2",
)  # fmt: skip


def run(data: Path) -> None:
    scifact, glove = data / "scifact", data / "glove50-10k"
    if scifact.exists():
        bench = prepare("minilm", [str(scifact)])
        print("SciFact test\n")
        _rows(bench, (0.1, 0.25, 0.5))
        _planted(bench)
    else:
        print(f"scifact: skipped, no {scifact}")
    for name in ("sample", "python-docs"):
        print(f"\n{name}: every document is asked for alike\n")
        _rows(prepare("minilm", [name]), (0.25,))
    if glove.exists():
        _glove(glove)
    else:
        print(f"glove: skipped, no {glove}")


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _rows(bench: Bench, ratios: Sequence[float]) -> None:
    print("nDCG@10 kept in % (95 % interval); where rows are folded, a hit stands for its group\n")
    print("| method | removed | kept | survivors alone | judged documents left | queries without any | random |")
    print("|---|---|---|---|---|---|---|")
    name = bench.judges[0].name
    for method in registry.names("vectors"):
        for ratio in ratios:
            cut = pipeline.judge_cut(bench, parse(f"{method} ratio={ratio}"))
            r, chance = cut.retention[name]["ndcg@10"], cut.random[name]["ndcg@10"]
            alone = cut.alone.get(name, {}).get("ndcg@10")
            top = _ceiling(cut)
            print(f"| `{method}` | {_share(ratio)} | **{_share(r.ratio)}** ({_share(r.low)} to {_share(r.high)}) | "
                  f"{'' if alone is None else _share(alone)} | {_share(top.judged)} | {top.lost} | "
                  f"{_share(chance[0])} ± {_share(chance[1])} |", flush=True)  # fmt: skip


def _ceiling(cut: Cutting) -> Ceiling:
    found = ceiling(cut.pruned.judges[0], cut.rows[0])
    assert found is not None
    return found


def _planted(bench: Bench) -> None:
    """Near-copies of a quarter of the documents, as relevant as their originals: duplicates must take them back."""
    judge, rng = bench.judges[0], np.random.default_rng(0)
    x = judge.documents.vectors
    source = np.sort(rng.choice(len(x), int(COPIES * len(x)), replace=False))
    noise = rng.normal(size=(len(source), x.shape[1])) / np.sqrt(x.shape[1])
    copies = unit((x[source] + NOISE * noise).astype(np.float32))
    ids = judge.dataset.documents.ids
    names = (*ids, *(f"copy of {ids[i]}" for i in source))
    qrels = {q: dict(d) for q, d in (judge.dataset.qrels or {}).items()}
    for found in qrels.values():
        found |= {f"copy of {d}": g for d, g in found.items() if d in {ids[i] for i in source}}
    texts = judge.dataset.documents
    both = replace(texts, ids=names, texts=(*texts.texts, *(texts.texts[i] for i in source)),
                   titles=(*texts.titles, *(texts.titles[i] for i in source)) if texts.titles else ())  # fmt: skip
    dataset = replace(judge.dataset, documents=both, qrels=qrels)
    task = from_qrels(dataset.queries.ids, names, qrels)
    planted = replace(judge, dataset=dataset, documents=Embeddings(np.concatenate([x, copies])), task=task)
    share = len(source) / len(names)
    cosine = np.einsum("ij,ij->i", x[source], copies)
    cut = pipeline.judge_cut(replace(bench, judges=(planted,)), parse(f"vectors/duplicates keep={len(x)}"))
    rows = cut.rows[0]
    gone = np.setdiff1d(np.arange(len(names)), rows.kept)
    pairs = {frozenset((len(x) + i, int(s))) for i, s in enumerate(source)}
    right = sum(frozenset((int(g), int(rows.stands[g]))) in pairs for g in gone)
    r = cut.retention[judge.name]["ndcg@10"]
    print(f"\nPlanted: {len(source):,} near-copies ({_share(share)} % of {len(names):,}; cosine {cosine.min():.3f} at "
          f"least). duplicates to {len(x):,} rows: {right:,} of {len(gone):,} folded are a copy with its original; "
          f"nDCG@10 {r.before:.4f} -> {r.after:.4f}, {_share(r.ratio)} % ({_share(r.low)} to {_share(r.high)}) kept; "
          f"random {_share(cut.random[judge.name]['ndcg@10'][0])} %")  # fmt: skip


def _glove(folder: Path) -> None:
    sets = ["EN-WS-353-ALL", "EN-SIMLEX-999", "EN-MEN-TR-3k"]
    bench = open_bench([str(folder / "vectors.npy"), *(str(folder / f"{s}.txt") for s in sets)])
    print("\nGloVe, 10,000 x 50: Spearman x 100 before -> after, on the pairs whose words are left\n")
    print(f"| plan | vectors | bytes | {' | '.join(sets)} | neighbours (nDCG@10 of the whole index's top 10) |")
    print("|---|---|---|---|---|---|---|")
    for text in GLOVE:
        plan = parse(text)
        steps = sorted(plan.steps, key=lambda s: registry.STAGES[s.name.split("/")[0]])
        cut = pipeline.judge_cut(bench, parse(" | ".join(map(str, steps))), spread=False)
        rows = cut.rows[0] if cut.rows else None
        count = 10_000 if rows is None else len(rows)
        each = 4 * cut.reduction.size if cut.codes is None else cut.codes.bytes
        cells = []
        for name in sets:
            r, pairs = cut.retention[name]["spearman"], len(cut.left[1 + sets.index(name)].documents)
            cells.append(f"{100 * r.before:.1f} -> {100 * r.after:.1f} ({pairs:,} pairs)")
        kept = _share(cut.retention["vectors"]["ndcg@10"].ratio)
        print(f"| `{cut.plan}` | {count:,} | {count * each / 1e6:.2f} of 2.00 MB | {' | '.join(cells)} | {kept} |",
              flush=True)  # fmt: skip
