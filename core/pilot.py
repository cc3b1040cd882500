"""Choose the fastest engine whose vectors stay near enough to torch fp32, by a pilot batch on this machine.

    fast(model, texts, "fp32")      Engine: .name, .encode(texts, prompt), .why, .tried
    equipped(model, texts, "fast")  the same choice, kept on disk, as a ModelInfo whose `embed` uses it

Speed is the median of paired ratios, reference and candidate in alternation on the same texts. A choice is kept for
the model, the tolerance, this processor and these library versions: a later session takes it without a pilot.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from core.asking import pseudo_queries
from core.derive import calibration_texts
from core.embedding import load
from core.encoders import ONNX, ModelInfo
from core.engines import CHOICE, NAMES, REFERENCE, Encode, Engine, Tried, chosen, folder_of, runner, unavailable
from core.errors import InputError
from core.export.int8 import CALIBRATION, LEAST, MEAN, fidelity, write_int8
from core.export.onnx_folder import write_onnx
from core.onnx_encoder import GRAPH, threads
from core.store import new_folder, sha256
from core.types import Progress, Texts, digest, quiet

Tolerance = Literal["fp32", "bf16", "int8"]
KINDS: dict[str, Tolerance] = {"fast": "fp32", "bf16": "bf16", "int8": "int8"}  # and "exact", torch in fp32
_LONG, _SHORT = 24, 8  # texts of the pilot: from the shortest to the longest, and single sentences
_GUARD = 4
_TOO_SLOW = 3.0  # a candidate this many times slower than torch on a few short texts is dropped at once
_ROUNDS = 3
_VERSION = "engine 1"


@dataclass(frozen=True)
class Bound:
    """The cosines to torch fp32 that a tolerance allows, in words, and the engines it lets compete."""

    least: float
    mean: float
    words: str
    precisions: tuple[str, ...]


BOUNDS = {
    "fp32": Bound(0.999999, 0.999999, "cosine of 0.999999 or more to torch fp32", ("fp32",)),
    "bf16": Bound(0.9999, 0.9999, "cosine of 0.9999 or more to torch fp32", ("fp32", "bf16")),
    "int8": Bound(LEAST, MEAN, f"cosine of {MEAN} or more on average, {LEAST} at least", ("fp32", "bf16", "int8")),
}


def fast(model: ModelInfo, texts: Sequence[str], tolerance: Tolerance = "fp32", progress: Progress = quiet) -> Engine:
    """Pilot every engine of this machine on texts like those to come; the fastest within the tolerance.

    Cost: the model traced to ONNX, calibrated on about 16,000 tokens for int8, and a few passes over 32 texts an
    engine: half a minute for MiniLM. Raises InputError without texts, or for an ONNX folder, which has its engine.
    """
    with tempfile.TemporaryDirectory() as name:
        return _choose(model, texts, tolerance, Path(name), progress)[0]


def _choose(
    model: ModelInfo, texts: Sequence[str], tolerance: Tolerance, folder: Path, progress: Progress
) -> tuple[Engine, Path | None]:
    """The engine and the ONNX folder that it reads (below `folder`), if any."""
    if model.architecture == ONNX:
        raise InputError(f"{model.name} is an ONNX folder, which runs in onnxruntime: leave --engine out")
    if not len(texts):
        raise InputError("no texts to pilot engines on (0, at least 1 is wanted): give a corpus")
    pilot, bound = _pilot(texts), BOUNDS[tolerance]
    names = [n for n in NAMES if n.split("-")[1] in bound.precisions]
    graphs, why = _graphs(model, texts, bound, folder, progress)
    reference = runner(REFERENCE, model.path)
    tried, runs = [], {REFERENCE: reference}
    for n, name in enumerate(names[1:]):
        progress(f"trying {name}", n, len(names))
        precision = "int8" if name.endswith("int8") else "fp32"
        missing = unavailable(name) or (not name.startswith("torch") and why.get(precision, "")) or ""
        one = Tried(name, why=missing)
        if not missing:
            runs[name] = runner(name, model.path, graphs.get(precision))
            one = _try(name, runs[name], reference, pilot, bound)
        if one.why:
            runs.pop(name, None)
        tried.append(one)
    speeds = _race(runs, pilot, progress)
    tried = [replace(t, speed=speeds.get(t.name, t.speed)) for t in tried]
    name = max(speeds, key=lambda k: speeds[k])
    said = f"{name}, {speeds[name]:.2f}x as fast as torch fp32 on {len(pilot)} pilot texts; allowed: {bound.words}"
    used = None if name.startswith("torch") else graphs["int8" if name.endswith("int8") else "fp32"]
    return Engine(name, runs[name], said, (Tried(REFERENCE, 1.0, 1.0, 1.0), *tried)), used


def _pilot(texts: Sequence[str]) -> list[str]:
    """Texts of all lengths and single sentences."""
    ordered = sorted(set(texts), key=lambda t: (len(t), t))
    rows = np.unique(np.linspace(0, len(ordered) - 1, min(_LONG, len(ordered))).astype(int))
    spread = [ordered[int(i)] for i in rows]
    return [*spread, *pseudo_queries(_as_texts(spread))[0][:_SHORT]]


def _as_texts(texts: Sequence[str]) -> Texts:
    return Texts(tuple(str(i) for i in range(len(texts))), tuple(texts))


def _graphs(
    model: ModelInfo, texts: Sequence[str], bound: Bound, folder: Path, progress: Progress
) -> tuple[dict[str, Path], dict[str, str]]:
    """The model as ONNX folders by precision, or why it cannot be one."""
    graphs: dict[str, Path] = {}
    why: dict[str, str] = {}
    for precision in ("fp32", "int8"):
        if precision not in bound.precisions:
            continue
        try:
            if precision == "fp32":
                write_onnx(load(model.path), folder / precision)
            else:
                calibration = calibration_texts(model, _as_texts(texts)).mixed(CALIBRATION)
                write_int8(load(model.path), folder / precision, calibration, progress)
            graphs[precision] = folder / precision
        except InputError as e:
            why[precision] = str(e)
    return graphs, why


def _try(name: str, run: Encode, reference: Encode, pilot: Sequence[str], bound: Bound) -> Tried:
    """A few short texts first, then the cosines on the whole pilot."""
    few = sorted(pilot, key=len)[:_GUARD]
    taken = [_least_seconds(one, few) for one in (reference, run)]
    if taken[1] > _TOO_SLOW * taken[0]:
        speed = taken[0] / taken[1]
        return Tried(name, speed, why=f"{1 / speed:.0f} times slower than torch fp32 on {len(few)} short texts")
    found = fidelity(reference(pilot, ""), run(pilot, ""))
    far = "" if found.least >= bound.least and found.mean >= bound.mean else f"outside the tolerance: {bound.words}"
    return Tried(name, None, found.least, found.mean, far)


def _least_seconds(run: Encode, texts: Sequence[str]) -> float:
    """The best of three calls, after one that compiles: what others do on this machine must not drop a candidate."""
    run(texts, "")
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        run(texts, "")
        taken.append(time.perf_counter() - start)
    return min(taken)


def _race(runs: dict[str, Encode], pilot: Sequence[str], progress: Progress) -> dict[str, float]:
    """Median over rounds of the reference's seconds by the candidate's, all of them once a round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_ROUNDS):
        progress("timing engines", turn, _ROUNDS)
        for name, run in runs.items():
            start = time.perf_counter()
            run(pilot, "")
            seconds[name].append(time.perf_counter() - start)
    return {
        name: statistics.median(a / b for a, b in zip(seconds[REFERENCE], taken, strict=True))
        for name, taken in seconds.items()
    }


# ---- kept choices ---------------------------------------------------------------------------------------------


def equipped(model: ModelInfo, texts: Sequence[str], kind: str, progress: Progress = quiet) -> ModelInfo:
    """The model with its engine: "exact" is torch in fp32, "fast" computes in fp32 too, "bf16" and "int8" may round.

    The choice is kept with its graph; vectors are cached under the engine's name and the graph's hash.
    """
    if kind == "exact":
        return model
    if kind not in KINDS:
        raise InputError(f"--engine {kind!r} is none of exact, {', '.join(KINDS)}")
    tolerance = KINDS[kind]
    key = digest(_VERSION, model.fingerprint, tolerance, *_machine())
    if chosen(key) is None:
        _keep(key, model, texts, tolerance, progress)
    found = chosen(key)
    assert found is not None
    return replace(model, engine=f"{found['name']}/{key}/{found['graph']}")


def _keep(key: str, model: ModelInfo, texts: Sequence[str], tolerance: Tolerance, progress: Progress) -> None:
    with tempfile.TemporaryDirectory() as name, new_folder(folder_of(key)) as into:
        engine, graph = _choose(model, texts, tolerance, Path(name), progress)
        if graph is not None:
            shutil.copytree(graph, into, dirs_exist_ok=True)
        hashed = sha256(into / GRAPH)[:16] if graph is not None else ""
        (into / CHOICE).write_text(json.dumps(engine.as_json() | {"graph": hashed}, indent=1), encoding="utf-8")


def _machine() -> list[str]:
    """What decides an engine's speed and its last digits: processor, threads, library versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next(line for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor()
    versions = []
    for library in ("torch", "onnxruntime", "openvino"):
        try:
            versions.append(f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {library}")
    return [platform.machine(), processor, str(os.cpu_count()), str(threads()), *versions]
