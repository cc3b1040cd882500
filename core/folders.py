"""A cut encoder's folder: written, checked and read again, with what later steps must know of what was cut.

A shape that no stock config can declare is stored padded with units that add nothing, and trimmed when it is loaded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.anatomy import Anatomy, Shape
from core.calibration import CalibrationTexts
from core.cuts import Origin, Work
from core.embedding import DERIVED, SHAPES, encode, load
from core.encoders import ModelInfo, describe
from core.errors import Fault
from core.gate import check_config, check_weights
from core.recover.distill import Teacher
from core.store import check_manifest, drop_arrays, new_folder
from core.surgery.slicing import pad
from core.surgery.tokens import cut_tokens, read_tokenizer
from core.surgery.vocabulary import ids_of
from core.types import Progress, quiet

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


def complete(folder: Path) -> bool:
    """Whether a folder was written to the end and is as it was written."""
    try:
        check_manifest(folder)
    except Fault:
        return False
    return True


def about(folder: Path) -> dict[str, Any]:
    """What stands beside the weights: shape, what was rounded, notes, facts, and what of the source is left."""
    return dict(json.loads((folder / DERIVED).read_text(encoding="utf-8")))


def write(folder: Path, work: Work, source: Path) -> None:
    """Save the encoder, and load it again: the vectors must be those of the encoder in memory, which may be padded.

    Raises Fault where they differ; the folder only gets its name when all is well.
    """
    probes = work.texts.probes()
    wanted = encode(work.encoder, probes)
    shape = Anatomy(work.encoder, "tokens").shape
    said = {
        "kind": shape.kind, "vocabulary": shape.vocabulary, "width": shape.width, "head_size": shape.head_size,
        "heads": list(shape.heads), "inner": list(shape.inner), "gated": shape.gated, "parameters": shape.parameters,
        "rounded": work.rounded, "notes": work.notes, "facts": work.facts, "left": _left(work),
    }  # fmt: skip
    with new_folder(folder) as into:
        work.progress("writing the encoder", 0, 1)
        if shape.heads and not shape.even:
            pad(Anatomy(work.encoder, "tokens"))
        work.encoder.save(str(into), create_model_card=False)
        (into / "README.md").unlink(missing_ok=True)
        _settings(source, into, work.encoder.max_seq_length)
        if shape.heads and not shape.even:
            (into / SHAPES).write_text(json.dumps(shape.as_json()), encoding="utf-8")
        (into / DERIVED).write_text(json.dumps(said), encoding="utf-8")
        check_config(into)
        for file in sorted(into.rglob("*.safetensors")):
            check_weights(file, zeros=True)  # pruning may empty a matrix
        again = load.__wrapped__(into)  # not kept in memory: the folder is about to get its name
        difference = float(np.abs(encode(again, probes) - wanted).max())
        if not difference <= _TOLERANCE:
            raise Fault(f"the saved encoder differs from the one that was cut by {difference:.1e}: it is not used")
    for key in work.trained:
        drop_arrays(key)
    work.trained.clear()


def read(folder: Path, model: ModelInfo) -> Derived:
    """The folder's record; `model` is what was cut."""
    said = about(folder)
    shape = _shape(said)
    info = replace(describe(folder, model.name, model.source), parameters=shape.parameters)
    return Derived(info, shape, tuple(said["rounded"]), tuple(said["notes"]), said["facts"])


def resume(
    folder: Path, source: Any, texts: CalibrationTexts, seed: int = 0, progress: Progress = quiet,
    dense: Teacher | None = None,
) -> Work:  # fmt: skip
    """The work as it stood when the folder was written: the next steps go on as if nothing had come between."""
    work, said = Work.start(source, texts, seed, progress, dense), about(folder)
    left = said["left"]
    work.encoder = load.__wrapped__(folder)
    for module in list(work.encoder)[len(work.encoder) - left["maps"] :]:
        module.espalier_map = True
    ids = ids_of(read_tokenizer(work.teacher))
    kept = sorted(ids[token] for token in ids_of(read_tokenizer(work.encoder)))
    if len(kept) < len(ids):
        cut_tokens(work.teacher, kept)
    work.layers = list(left["layers"])
    work.heads, work.neurons = ([np.array(row, np.int64) for row in left[k]] for k in ("heads", "neurons"))
    work.channels = None if left["channels"] is None else np.array(left["channels"], np.int64)
    work.rounded, work.notes, work.facts = said["rounded"], said["notes"], said["facts"]
    if left["origin"] is not None:
        start = left["origin"]
        work.origin = Origin(_shape(start["shape"]), *(tuple(start[k]) for k in ("layers", "rounded", "notes")))
    return work


def _left(work: Work) -> dict[str, Any]:
    """Which of the source's units the encoder still has, as JSON."""
    return {
        "layers": work.layers, "heads": [h.tolist() for h in work.heads],
        "neurons": [n.tolist() for n in work.neurons],
        "channels": None if work.channels is None else work.channels.tolist(),
        "maps": sum(getattr(module, "espalier_map", False) for module in work.encoder),
        "origin": None if work.origin is None else asdict(work.origin),
    }  # fmt: skip


def _shape(said: dict[str, Any]) -> Shape:
    return Shape(
        said["kind"], said["vocabulary"], said["width"], said["head_size"], tuple(said["heads"]),
        tuple(said["inner"]), said["gated"], said["parameters"],
    )  # fmt: skip


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
