"""The 24-ratio sweep against the usual way, in one process: slice -> normalise -> faiss flat -> pytrec_eval."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from core import judging, sweeps
from core.bench import prepare
from core.evaluate import ranking as engine
from core.evaluate import retrieval
from core.plan import Step
from core.select import ordered

RATIOS = sweeps.RATIOS
NAMES = {"ndcg_cut.10": "ndcg@10", "recall.10": "recall@10", "recall.100": "recall@100", "map_cut.100": "map@100"}


def ours(task: Any, queries: Any, documents: Any, cuts: list[int]) -> np.ndarray:
    found = engine.ranks(task, queries, documents, cuts)
    return np.array([[retrieval.per_query(task, r)[m].mean() for m in NAMES.values()] for r in found])


def usual(task: Any, queries: Any, documents: Any, cuts: list[int]) -> np.ndarray:
    """One cut after another with the field's libraries; ids descend with the column, so ties go the same way."""
    import faiss
    import pytrec_eval

    n = len(documents)
    name = [f"{n - c:08d}" for c in range(n)]
    by_column, asked = documents[task.columns], queries[task.query_rows]
    qrels = {
        str(i): {name[int(task.judged[p])]: int(task.grades[p]) for p in range(task.pointer[i], task.pointer[i + 1])}
        for i in range(len(task))
    }
    judge = pytrec_eval.RelevanceEvaluator(qrels, set(NAMES))
    rows = []
    for k in cuts:
        d, q = np.ascontiguousarray(by_column[:, :k]), np.ascontiguousarray(asked[:, :k])
        faiss.normalize_L2(d)
        faiss.normalize_L2(q)
        index = faiss.IndexFlatIP(k)
        index.add(d)
        scores, hits = index.search(q, 100)
        scores = np.round(scores.astype(np.float64), 6)
        run = {
            str(i): dict(zip((name[h] for h in hits[i].tolist()), scores[i].tolist(), strict=True))
            for i in range(len(q))
        }
        per = judge.evaluate(run).values()
        rows.append([statistics.mean(v[m.replace(".", "_")] for v in per) for m in NAMES])
    return np.array(rows)


def compare(label: str, task: Any, queries: Any, documents: Any, repeats: int) -> None:
    cuts = sorted(sweeps.kept_at(RATIOS, documents.shape[1]))
    ours(task, queries[:], documents[: len(documents)], cuts[:1])  # compile and warm up
    ratios, mine, theirs = [], [], []
    for _ in range(repeats):
        start = time.perf_counter()
        a = ours(task, queries, documents, cuts)
        mid = time.perf_counter()
        b = usual(task, queries, documents, cuts)
        end = time.perf_counter()
        mine.append(mid - start)
        theirs.append(end - mid)
        ratios.append(theirs[-1] / mine[-1])
    print(
        f"| {label} | {statistics.median(mine):.3f} | {statistics.median(theirs):.2f} | "
        f"**{statistics.median(ratios):.1f}x** | {np.abs(a - b).max():.1e} |",
        flush=True,
    )


def run(data: Path) -> None:
    print("24 ratios; seconds, median of the paired runs; largest difference of any mean figure\n")
    print("| corpus | ours | slice, faiss flat, pytrec_eval | ratio | difference |\n|---|---|---|---|---|")
    if (data / "scifact").exists():
        bench = prepare("minilm", [str(data / "scifact")])
        judge = bench.judges[0]
        from core import registry

        ranking = judging.rank(bench.context(registry.card("dimensions/svd")), Step("dimensions/svd"))
        d, q = ordered(ranking, judge.documents.vectors), ordered(ranking, judge.queries.vectors)
        compare("SciFact, 5,183 x 300", judge.task, q, d, 5)
    else:
        print("SciFact: skipped, no data")
    rng = np.random.default_rng(0)
    spectrum = (1.0 / np.sqrt(np.arange(1, 385))).astype(np.float32)
    d = rng.standard_normal((100_000, 384), dtype=np.float32) * spectrum
    asked = rng.permutation(len(d))[:1000]
    q = d[asked] + 0.6 * rng.standard_normal((1000, 384), dtype=np.float32) * spectrum
    ids = [f"{i:08d}" for i in range(len(d))]
    task = engine.from_qrels(
        [str(i) for i in range(1000)], ids, {str(i): {ids[int(a)]: 1} for i, a in enumerate(asked)}
    )
    compare("synthetic, 100,000 x 1,000", task, q, d, 3)
