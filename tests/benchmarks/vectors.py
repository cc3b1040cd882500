"""Vectors below four bytes a number: what every code keeps, beside faiss's and sentence-transformers' at equal bytes.

Queries pooled over SciFact (test), the built-in sample and python-docs, nDCG@10 against float32. Every codebook, also
faiss's, is fitted on the documents it then encodes. Options of ours were chosen on SciFact's train queries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.bench import Bench, prepare
from core.codes import compiled, reader
from core.compare import retention
from core.evaluate import cost, retrieval
from core.evaluate.ranking import ranks
from core.plan import Step, parse
from core.storing import fitted
from core.types import Floats, Reduction

OURS = {
    768: ("quantize/fp16",),
    384: ("quantize/int8", "quantize/waterfill bytes=384"),
    192: ("quantize/int4", "quantize/waterfill bytes=192", "quantize/waterfill bytes=192 coder=scalar"),
    144: ("components/magnitude keep=96", "components/random keep=96", "quantize/waterfill bytes=144"),
    128: ("quantize/waterfill bytes=128", "quantize/waterfill bytes=128 coder=scalar"),
    116: ("quantize/waterfill bytes=116",),
    96: ("quantize/waterfill bytes=96", "quantize/waterfill bytes=96 coder=scalar"),
    76: ("quantize/waterfill bytes=76", "quantize/waterfill bytes=76 coder=scalar"),
    56: ("quantize/waterfill bytes=56",),
    48: ("quantize/binary", "quantize/waterfill bytes=48", "quantize/waterfill bytes=48 coder=scalar"),
}
# np: without the polysemous reordering, which only renumbers centroids and takes minutes
FAISS = {
    384: ("SQ8",),
    192: ("SQ4", "PQ192np"),
    128: ("PQ128np",),
    116: ("RR384,RaBitQ2",),
    96: ("PQ96np", "OPQ96,PQ96np"),
    76: ("OPQ76_304,PQ76np",),
    56: ("RR384,RaBitQ",),
    48: ("PQ48np", "OPQ48,PQ48np"),
}
OPQ_ROUNDS = 10  # of faiss's 50, which take minutes


@dataclass(frozen=True, eq=False)
class Row:
    """A scheme at some bytes: nDCG@10 per query of every corpus, and the seconds it took on the first."""

    name: str
    bytes: int
    values: tuple[NDArray[np.float64], ...]
    fit: float = float("nan")
    encode: float = float("nan")

    @property
    def pooled(self) -> NDArray[np.float64]:
        return np.concatenate(self.values)


def run(data: Path) -> None:
    if not (data / "scifact").exists():
        print(f"skipped, no {data / 'scifact'}")
        return
    benches = [prepare("minilm", [name]) for name in (str(data / "scifact"), "sample", "python-docs")]
    dense = tuple(_ndcg(b, b.judges[0].documents.vectors) for b in benches)
    floats = Row("float32", 1536, dense)
    print("Kept of float32's nDCG@10, pooled with 95 % intervals (paired bootstrap); mean of "
          f"{' / '.join(f'{len(v):,}' for v in dense)} queries\n")  # fmt: skip
    head = ("bytes", "smaller", "scheme", *(b.judges[0].name for b in benches), "pooled", "fit s", "encode vectors/s")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    best: list[tuple[Row, Row]] = []
    for size in sorted({*OURS, *FAISS}, reverse=True):
        ours = [_ours(benches, s) for s in OURS.get(size, ())]
        theirs = [_faiss(benches, s) for s in FAISS.get(size, ())]
        for row in (*ours, *theirs):
            _print(row, floats, len(benches[0].fit))
        if theirs:
            mine = next(r for r in ours if r.name == f"`quantize/waterfill bytes={size}`")
            best.append((mine, max(theirs, key=lambda r: r.pooled.mean())))
    for name in ("int8", "binary"):
        _print(_sentence_transformers(benches, name), floats, len(benches[0].fit))
    _against(best, floats)
    _speed(benches[0])


def _ndcg(bench: Bench, documents: Floats, queries: Floats | None = None, metric: str = "cosine") -> Any:
    judge = bench.judges[0]
    assert judge.task is not None
    asked = judge.queries.vectors if queries is None else queries
    found = ranks(judge.task, asked, documents, [documents.shape[1]], metric)[0]  # type: ignore[arg-type]
    return retrieval.per_query(judge.task, found)["ndcg@10"]


def _codes(bench: Bench, sentence: str) -> Any:
    step, d = parse(sentence).steps[0], bench.model.dimension
    assert isinstance(step, Step)
    return fitted(bench, Reduction("none", d, np.arange(d), metric="cosine", identity=True), step)


def _ours(benches: Sequence[Bench], sentence: str) -> Row:
    values, seconds, size = [], [], 0
    for bench in benches:
        start = time.perf_counter()
        codes = _codes(bench, sentence)
        middle = time.perf_counter()
        stored = codes.encode(bench.judges[0].documents.vectors)
        seconds.append((middle - start, time.perf_counter() - middle))
        values.append(_ndcg(bench, codes.decode(stored)))
        size = codes.bytes
    return Row(f"`{sentence}`", size, tuple(values), *seconds[0])


def _faiss(benches: Sequence[Bench], spec: str) -> Row:
    import faiss

    values, seconds, size = [], [], 0
    for bench in benches:
        x = np.array(bench.judges[0].documents.vectors)
        index: Any = faiss.index_factory(x.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
        if spec.startswith("OPQ"):
            setattr(faiss.downcast_VectorTransform(index.chain.at(0)), "niter", OPQ_ROUNDS)  # noqa: B010
        start = time.perf_counter()
        index.train(x)
        middle = time.perf_counter()
        index.add(x)
        seconds.append((middle - start, time.perf_counter() - middle))
        values.append(_searched(bench, index))
        size = index.sa_code_size()
    return Row(f"faiss {spec}", size, tuple(values), *seconds[0])


def _searched(bench: Bench, index: Any) -> Any:
    """nDCG@10 by faiss's own scores of all documents, as the rank of a judged document is one plus what beats it."""
    judge = bench.judges[0]
    assert judge.task is not None
    task = judge.task
    scores, rows = index.search(np.array(judge.queries.vectors), index.ntotal)
    every = np.full((len(scores), index.ntotal), -np.inf, np.float32)
    np.put_along_axis(every, np.where(rows < 0, 0, rows), scores, axis=1)
    every = every[task.query_rows][:, task.columns]
    own = np.flatnonzero(task.own >= 0)
    every[own, task.own[own]] = -np.inf
    mine = every[task.owner, task.judged]
    place = np.arange(every.shape[1])[None, :] < task.judged[:, None]
    found = 1 + (every[task.owner] > mine[:, None]).sum(1) + ((every[task.owner] == mine[:, None]) & place).sum(1)
    return retrieval.per_query(task, found)["ndcg@10"]


def _sentence_transformers(benches: Sequence[Bench], precision: str) -> Row:
    """`quantize_embeddings` as documented: queries and documents quantized alike, the codes themselves compared."""
    from sentence_transformers.quantization import quantize_embeddings

    values, size = [], 0
    for bench in benches:
        judge = bench.judges[0]
        x, q = np.array(judge.documents.vectors), np.array(judge.queries.vectors)
        if precision == "int8":
            a, b = (quantize_embeddings(v, precision="int8", calibration_embeddings=x) for v in (x, q))
            size = a.shape[1]
            values.append(_ndcg(bench, a.astype(np.float32), b.astype(np.float32), "dot"))
        else:  # Hamming distance of signs is a dot product of -1 and 1
            a, b = (quantize_embeddings(v, precision="ubinary") for v in (x, q))
            size = a.shape[1]
            signs = [np.unpackbits(v, axis=1).astype(np.float32) * 2 - 1 for v in (a, b)]
            values.append(_ndcg(bench, signs[0], signs[1], "dot"))
    return Row(f"sentence-transformers {precision}", size, tuple(values))


def _print(row: Row, floats: Row, documents: int) -> None:
    each = [100 * a.mean() / b.mean() for a, b in zip(row.values, floats.values, strict=True)]
    kept = retention(floats.pooled, row.pooled)
    rate = "" if np.isnan(row.encode) else f"{documents / row.encode:,.0f}"
    fit = "" if np.isnan(row.fit) else f"{row.fit:.1f}"
    print(
        f"| {row.bytes} | {1536 / row.bytes:.1f}x | {row.name} | {' | '.join(f'{v:.1f}' for v in each)} | "
        f"{100 * kept.ratio:.1f} ({100 * kept.low:.1f} to {100 * kept.high:.1f}) | {fit} | {rate} |", flush=True,
    )  # fmt: skip


def _against(pairs: Sequence[tuple[Row, Row]], floats: Row) -> None:
    print("\nOurs minus the best of faiss at equal bytes, in points of nDCG@10 kept, pooled, paired bootstrap:\n")
    print("| bytes | ours | best of faiss | difference |\n|---|---|---|---|")
    base = floats.pooled.mean()
    for one, two in pairs:
        change = (one.pooled - two.pooled) / base
        drawn = np.random.default_rng(0).integers(0, len(change), (2000, len(change)))
        low, high = np.quantile(change[drawn].mean(axis=1), [0.025, 0.975])
        print(f"| {two.bytes} | {one.name} | {two.name} | {100 * change.mean():+.1f} "
              f"({100 * low:+.1f} to {100 * high:+.1f}) |")  # fmt: skip


def _speed(bench: Bench) -> None:
    judge = bench.judges[0]
    x, q = np.array(judge.documents.vectors), np.array(judge.queries.vectors)
    print(f"\nExact search over {len(x):,} documents, codes against float32 in numpy, time as a ratio; below 1 is "
          "faster; `reader` is the exported file, numpy alone:\n\n| codes | batch of 64 | one query | reader, batch | "
          "reader, one |\n|---|---|---|---|---|")  # fmt: skip
    sentences = ("quantize/fp16", "quantize/int8", "quantize/int4", "quantize/waterfill bytes=96",
                 "quantize/waterfill bytes=48", "quantize/binary")  # fmt: skip
    for sentence in sentences:
        codes = _codes(bench, sentence)
        book, kept = codes.arrays(), codes.encode(x)
        norms = reader.lengths(kept, book)
        found = []
        for read in (compiled.numbers, reader.numbers):
            for asked in (q[:64], q[:1]):
                one = partial(reader.search, kept, book, asked, 10, norms, read)
                one()
                found.append(_paired(one, partial(_float, asked, x)))
        print(f"| `{sentence}` | {' | '.join(f'{v:.2f}' for v in found)} |", flush=True)


def _float(queries: Floats, documents: Floats) -> None:
    np.argpartition(-(queries @ documents.T), 9, axis=1)[:, :10]


def _paired(one: Callable[[], object], two: Callable[[], object], rounds: int = 9) -> float:
    """Median of the paired ratios of two times, in alternation."""
    return float(np.median([cost.timed_ms(one, 1, 1) / cost.timed_ms(two, 1, 1) for _ in range(rounds)]))
