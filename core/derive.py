"""Cut the encoder itself: the encoder steps of a plan make a smaller model folder, kept on disk and checked.

    derived = derive(model, steps, fit, seed=0)      Derived: .info (a ModelInfo like any other), .shape, .rounded

The source is never changed: a copy is cut in memory, written, gated and loaded again, and its vectors must be the
ones of the copy. Everything after that (embedding, judging, dimension cuts, export) works on the folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core import registry
from core.anatomy import Anatomy, Shape, check_target
from core.bench import pseudo_queries
from core.calibration import CalibrationTexts
from core.cuts import Work, perform
from core.embedding import DERIVED, SHAPES, encode, load, prompt_of
from core.encoders import ModelInfo, describe
from core.errors import Fault, InputError
from core.evaluate.cost import peak_bytes
from core.gate import check_config, check_weights
from core.methods.weights import WeightMethod
from core.plan import Group, Plan, Step
from core.planned import planned
from core.store import check_manifest, home, new_folder
from core.surgery.slicing import pad
from core.types import Progress, Texts, digest, quiet

_VERSION = "derived 4"  # raise it when a cut's computation changes, so that old folders are not found again
_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Derived:
    """A pruned encoder. `plain` says whether stock sentence-transformers can load it at its real shape, else `why`.

    The folder always loads: a shape that no stock config can declare is stored padded with units that add nothing.
    """

    info: ModelInfo
    shape: Shape
    rounded: tuple[str, ...]
    notes: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def plain(self) -> bool:
        return self.shape.kind == "static" or self.shape.even

    @property
    def why(self) -> str:
        if self.plain:
            return ""
        whole = self.shape.width // self.shape.head_size
        if any(h != whole for h in self.shape.heads):
            return f"a {self.shape.kind} config cannot declare {min(self.shape.heads)} heads of {whole} alone"
        return f"a {self.shape.kind} config cannot declare a feed-forward width that differs from layer to layer"


def check(model: ModelInfo, steps: Sequence[Step | Group]) -> None:
    """Raise InputError or PlanError before any work where the architecture or a method cannot make these cuts."""
    for step in Plan(tuple(steps)).flat:
        check_target(model.architecture, step.target if step.cut else "neurons")
        method = registry.build(step)
        if isinstance(method, WeightMethod) and step.cut is not None:
            method.check(step.cut.ratio)
    planned(model, steps)


def derive(
    model: ModelInfo, steps: Sequence[Step | Group], fit: Texts, seed: int = 0, progress: Progress = quiet
) -> Derived:
    """Cut a copy of the encoder by these steps, or find the folder where that was done before.

    Methods learn from unlabelled `fit` texts. Memory: the model up to three times, and the hidden states of the
    calibration texts. Raises InputError for what the architecture cannot do, Fault where the saved model differs.
    """
    check(model, steps)
    if not len(fit):
        raise InputError("no texts to calibrate on (0, at least 1 is wanted): give a corpus with --data or --fit-on")
    key = digest(_VERSION, model.fingerprint, fit.fingerprint, str(Plan(tuple(steps))), str(seed))
    folder = home() / "derived" / key
    try:
        check_manifest(folder)
    except Fault:
        _make(folder, model, steps, fit, seed, progress)
    return _read(folder, model)


def _make(
    folder: Path, model: ModelInfo, steps: Sequence[Step | Group], fit: Texts, seed: int, progress: Progress
) -> None:
    start = time.perf_counter()
    progress("loading the encoder", 0, 1)
    source = load(model.path)
    texts = calibration_texts(model, fit, seed)
    work = Work.start(source, texts, seed, progress)
    for step in steps:
        assert isinstance(step, Step)
        perform(work, step)
    work.facts |= {"seconds": time.perf_counter() - start, "peak_memory_bytes": peak_bytes()}
    probes = texts.probes()
    wanted = encode(work.encoder, probes)
    shape = Anatomy(work.encoder, "tokens").shape
    about = {
        "kind": shape.kind, "vocabulary": shape.vocabulary, "width": shape.width, "head_size": shape.head_size,
        "heads": list(shape.heads), "inner": list(shape.inner), "gated": shape.gated, "parameters": shape.parameters,
        "rounded": work.rounded, "notes": work.notes, "facts": work.facts,
    }  # fmt: skip
    with new_folder(folder) as into:
        progress("writing the encoder", 0, 1)
        if shape.heads and not shape.even:
            pad(Anatomy(work.encoder, "tokens"))
        work.encoder.save(str(into), create_model_card=False)
        (into / "README.md").unlink(missing_ok=True)
        _settings(model.path, into, work.encoder.max_seq_length)
        if shape.heads and not shape.even:
            (into / SHAPES).write_text(json.dumps(shape.as_json()), encoding="utf-8")
        (into / DERIVED).write_text(json.dumps(about), encoding="utf-8")
        check_config(into)
        for file in sorted(into.rglob("*.safetensors")):
            check_weights(file)
        again = load.__wrapped__(into)  # not kept in memory: the folder is about to get its name
        difference = float(np.abs(encode(again, probes) - wanted).max())
        if not difference <= _TOLERANCE:
            raise Fault(f"the saved encoder differs from the one that was cut by {difference:.1e}: it is not used")


def _settings(source: Path, into: Path, length: int) -> None:
    """Write what sentence-transformers 6.2 leaves out when it saves: do_lower_case, and the longest length."""
    name = "sentence_bert_config.json"
    for new in into.rglob(name):
        old = source / new.relative_to(into)
        before = json.loads(old.read_text(encoding="utf-8")) if old.is_file() else {}
        settings = json.loads(new.read_text(encoding="utf-8")) | {"max_seq_length": length}
        if before.get("do_lower_case"):
            settings["do_lower_case"] = True
        new.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def calibration_texts(model: ModelInfo, fit: Texts, seed: int = 0) -> CalibrationTexts:
    """Documents, and titles and sentences that stand in for queries, each with the prompt it would be embedded with."""
    rng = np.random.default_rng(seed)
    documents, (short, _) = list(fit.full), pseudo_queries(fit)
    before = (prompt_of(model, "document"), prompt_of(model, "query"))
    parts = [
        tuple(prompt + texts[i] for i in rng.permutation(len(texts)))
        for prompt, texts in zip(before, (documents, short), strict=True)
    ]
    return CalibrationTexts(*parts)


def _read(folder: Path, model: ModelInfo) -> Derived:
    about = json.loads((folder / DERIVED).read_text(encoding="utf-8"))
    shape = Shape(
        about["kind"], about["vocabulary"], about["width"], about["head_size"], tuple(about["heads"]),
        tuple(about["inner"]), about["gated"], about["parameters"],
    )  # fmt: skip
    info = replace(describe(folder, model.name, model.source), parameters=shape.parameters)
    return Derived(info, shape, tuple(about["rounded"]), tuple(about["notes"]), about["facts"])
