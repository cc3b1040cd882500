"""The fast engine and int8: speed, fidelity and SciFact quality of every engine, and what was tried without success.

Speed: paired ratios against SentenceTransformer.encode, in alternation in one process, on a seeded sample of SciFact
abstracts. int8 is calibrated on SciFact documents and their titles and sentences, no query and no judgement.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import judging
from core.bench import Judge, prepare
from core.derive import calibration_texts
from core.embedding import encode, load
from core.engines import NAMES, REFERENCE, runner, unavailable
from core.export.int8 import CALIBRATION, fidelity, write_int8
from core.export.onnx_folder import write_onnx
from core.export.quantized_graph import ALPHAS, choose, linear_sites, observe, rewrite
from core.onnx_encoder import GRAPH, OnnxEncoder

SAMPLE, ROUNDS = 64, 3


def run(data: Path) -> None:
    corpus = data / "scifact"
    if not corpus.exists():
        print(f"skipped, no {corpus}")
        return
    bench = prepare("minilm", [str(corpus)])
    judge, model = bench.judges[0], bench.model
    encoder = load(model.path)
    texts = calibration_texts(model, bench.fit).mixed(CALIBRATION)
    rows = np.random.default_rng(0).permutation(len(judge.dataset.documents))[:SAMPLE]
    sample = [judge.dataset.documents.full[i] for i in rows]
    with tempfile.TemporaryDirectory() as name:
        folders = {p: Path(name) / p for p in ("fp32", "int8")}
        write_onnx(encoder, folders["fp32"])
        write_int8(encoder, folders["int8"], texts)
        runs = {}
        for engine in NAMES:
            if why := unavailable(engine):
                print(f"{engine}: {why}")
                continue
            runs[engine] = runner(engine, model.path, folders["int8" if engine.endswith("int8") else "fp32"])
        _table(judge, runs, _speeds(runs, sample))
        _batches(encoder, folders["fp32"], OnnxEncoder(folders["int8"]).encode, Path(name), sample)
        _tried(encoder, folders["fp32"], texts, sample)


def _speeds(runs: dict[str, Any], sample: Sequence[str]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 1):  # the first warms up
        for name, encode_ in runs.items():
            start = time.perf_counter()
            encode_(sample, "")
            if turn:
                seconds[name].append(time.perf_counter() - start)
    first = seconds[REFERENCE]
    return {n: statistics.median(a / b for a, b in zip(first, taken, strict=True)) for n, taken in seconds.items()}


def _table(judge: Judge, runs: dict[str, Any], speeds: dict[str, float]) -> None:
    """All of SciFact by the fastest engine of each tolerance, by the others 200 documents."""
    exact, metric = (judge.documents.vectors, judge.queries.vectors), judge.documents.metric
    base = judging.figures(judging.measure(judge, *exact, metric))["ndcg@10"]
    whole = {max((n for n in runs if n.endswith(p)), key=lambda n: speeds[n]) for p in ("fp32", "bf16", "int8")} - {
        REFERENCE
    }
    print("| engine | speed | cosine mean | min | SciFact nDCG@10 | difference, points |\n|" + "---|" * 6)
    print(f"| {REFERENCE} | 1.00x | 1 | 1 | {100 * base:.2f} | |", flush=True)
    for name, encode_ in runs.items():
        if name == REFERENCE:
            continue
        documents = encode_(judge.dataset.documents.full[: None if name in whole else 200], "")
        found, said = fidelity(exact[0][: len(documents)], documents), " | "
        if name in whole:
            queries = encode_(judge.dataset.queries.full, "")
            value = judging.figures(judging.measure(judge, documents, queries, metric))["ndcg@10"]
            said = f"{100 * value:.2f} | {100 * (value - base):+.2f}"
        print(f"| {name} | {speeds[name]:.2f}x | {found.mean:.5f} | {found.least:.5f} | {said} |", flush=True)


def _batches(encoder: Any, fp32: Path, static: Callable[..., Any], folder: Path, sample: Sequence[str]) -> None:
    """How far vectors move with their batch: alone against among 32 others."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    write_onnx(encoder, folder / "dynamic")
    quantize_dynamic(fp32 / GRAPH, folder / "dynamic" / GRAPH, per_channel=True, weight_type=QuantType.QInt8)
    wanted = encode(encoder, sample)
    print("\nA text alone against in a batch of 32 (largest difference in a number, smallest cosine):")
    for name, run_ in (("static int8 (ours)", static), ("dynamic int8", OnnxEncoder(folder / "dynamic").encode)):
        together = run_(sample)
        moved = fidelity(run_(sample, batch_size=1), together)
        near = fidelity(wanted, together)
        print(
            f"{name}: {moved.difference:.1e}, {moved.least:.6f}; cosine to torch {near.mean:.5f}, min {near.least:.5f}",
            flush=True,
        )


def _tried(encoder: Any, fp32: Path, texts: Sequence[str], sample: Sequence[str]) -> None:
    """One change at a time: what the choices in the int8 export bring, on texts that calibration did not see."""
    import onnx
    import onnxruntime

    wanted = encode(encoder, sample)
    data, opened = (fp32 / GRAPH).read_bytes(), OnnxEncoder(fp32)
    sites = linear_sites(onnx.load_from_string(data))
    order = sorted(texts, key=len)
    feeds = [opened.feed(order[i : i + 8]) for i in range(0, len(order), 8)]
    seen = observe(onnx.load_from_string(data), feeds, sites)
    print("\nint8 variants (cosine to torch, mean and min):")
    variants: list[tuple[str, tuple[float | None, ...], bool]] = [
        ("no smoothing", (None,), True),
        ("alpha 0.5 everywhere", (0.5,), True),
        ("alpha 0.7 everywhere", (0.7,), True),
        ("chosen layer by layer (ours)", ALPHAS, True),
        ("the same, biases left as they were", ALPHAS, False),
        ("chosen from 0.5 to 1", (0.5, 0.6, 0.7, 0.8, 0.9, 1.0), True),
    ]
    for name, alphas, shift in variants:
        choices = [choose(s, seen[s.source], alphas) for s in sites]
        if not shift:
            for c in choices:
                for s in c.shifts:
                    s[:] = 0
        model = onnx.load_from_string(data)
        rewrite(model, choices)
        opened.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found = fidelity(wanted, opened.encode(sample))
        print(f"{name}: {found.mean:.5f}, {found.least:.5f}", flush=True)
