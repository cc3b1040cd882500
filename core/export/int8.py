"""An encoder as an ONNX folder of one byte a weight, calibrated on texts and held against torch text by text.

    write_int8(encoder, folder, texts)       the layout of onnx_folder, precision "int8"; Fidelity on held-out texts
    fidelity(wanted, got)                     cosine to torch, mean and smallest, and the largest difference

Ranges are static, so a vector does not depend on what else is in its batch, as it does with dynamic int8.
Where the vectors of held-out texts turn too far, the worst layers' inputs stay fp32 (their weights stay int8).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.embedding import encode
from core.errors import InputError
from core.export.onnx_folder import write_onnx
from core.export.quantized_graph import Choice, choose, linear_sites, observe, rewrite
from core.onnx_encoder import GRAPH, SETTINGS, OnnxEncoder
from core.types import Floats, Progress, quiet

MEAN, LEAST = 0.99, 0.97  # cosine to torch that held-out texts must keep, on average and each
CALIBRATION = 16_000  # tokens that ranges are found on
HELD = 32  # texts that only judge
_BATCH = 8


@dataclass(frozen=True)
class Fidelity:
    """How near vectors are to torch's in fp32: cosine text by text, and the largest difference in any number."""

    mean: float
    least: float
    difference: float
    texts: int
    floating: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return self.mean >= MEAN and self.least >= LEAST

    def as_json(self) -> dict[str, Any]:
        return {"cosine_mean": self.mean, "cosine_min": self.least, "max_difference": self.difference,
                "texts": self.texts, "fp32_inputs": list(self.floating)}  # fmt: skip


def fidelity(wanted: Floats, got: Floats, floating: Sequence[str] = ()) -> Fidelity:
    """Rows of one text each; vectors longer than one are measured against their length."""
    norms = np.maximum(np.linalg.norm(wanted, axis=1), 1e-12)
    cosines = (wanted * got).sum(axis=1) / (norms * np.maximum(np.linalg.norm(got, axis=1), 1e-12))
    apart = np.abs(got - wanted).max(axis=1) / np.maximum(norms, 1.0)
    return Fidelity(float(cosines.mean()), float(cosines.min()), float(apart.max()), len(wanted), tuple(floating))


def write_int8(encoder: Any, folder: Path, texts: Sequence[str], progress: Progress = quiet) -> Fidelity:
    """Write a loaded SentenceTransformer, which is not changed, as an int8 ONNX folder of the same layout as fp32's.

    texts    unlabelled, with prompts before them, like those to be embedded; some, drawn, only judge
    Cost: one pass over the texts and their layer inputs in memory (about 100 MB), seconds for MiniLM. Raises
    InputError where ONNX cannot hold the model, and where even int8 weights alone turn vectors too far.
    """
    import onnx

    if len(texts) < 2:
        raise InputError(f"format onnx-int8 calibrates on texts: {len(texts)} given, at least 2 are wanted")
    drawn = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
    held = min(HELD, len(texts) // 2)
    learn, judge = drawn[:-held], drawn[-held:]
    progress("writing the ONNX graph", 0, 3)
    write_onnx(encoder, folder)
    path, opened = folder / GRAPH, OnnxEncoder(folder)
    if len(list(path.parent.iterdir())) > 1:
        raise InputError("format onnx-int8 takes models of up to 2 GB: use --format onnx")
    progress("calibrating int8", 1, 3)
    fp32 = path.read_bytes()
    sites = linear_sites(onnx.load_from_string(fp32))
    order = sorted(learn, key=len)
    feeds = (opened.feed(order[i : i + _BATCH]) for i in range(0, len(order), _BATCH))
    seen = observe(onnx.load_from_string(fp32), feeds, sites)
    choices = [choose(site, seen[site.source]) for site in sites]
    progress("comparing with torch", 2, 3)
    wanted = encode(encoder, judge)
    found = _settle(choices, lambda floating: _judged(folder, fp32, choices, floating, judge, wanted))
    about = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    about |= {"precision": "int8", "calibration_texts": len(learn), "fp32_inputs": list(found.floating)}
    (folder / SETTINGS).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return found


def _settle(choices: Sequence[Choice], judged: Callable[[Sequence[str]], Fidelity]) -> Fidelity:
    """Leave the inputs with the largest errors in fp32, twice as many each time, until the vectors are near enough."""
    worst = [c.site.source for c in sorted(choices, key=lambda c: -c.error)]
    count = 0
    while not (found := judged(worst[:count])).good:
        if count >= len(worst):
            raise InputError(
                f"format onnx-int8: with int8 weights alone the cosine to the fp32 vectors is {found.mean:.4f} "
                f"({found.least:.4f} at least), {MEAN} is wanted: use --format onnx"
            )
        count = min(max(1, 2 * count), len(worst))
    return found


def _judged(
    folder: Path, fp32: bytes, choices: Sequence[Choice], floating: Sequence[str], texts: Sequence[str], wanted: Floats
) -> Fidelity:
    """Write the graph with these inputs left in fp32 and look at the held-out texts."""
    import onnx

    model = onnx.load_from_string(fp32)
    length = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["max_seq_length"]
    rewrite(model, choices, floating, length)
    (folder / GRAPH).write_bytes(model.SerializeToString(deterministic=True))
    return fidelity(wanted, OnnxEncoder(folder).encode(texts), floating)
