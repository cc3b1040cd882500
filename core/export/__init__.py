"""Hand out what was shown: write crash-safely, reopen in a fresh process, compare, and only then offer it.

export_model(bench, cut, report, request, out)   stock sentence-transformers folder, verified
export_onnx(...)                                 ONNX folder of any shape, compared with torch
export_int8(...)                                 the same in int8, judged as it is served
export_vectors(...)                              projection and pruned vectors
zipped(folder)                                   the same as one zip, its hash in the name
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from core.anatomy import Shape, shape_of
from core.bench import Bench
from core.derive import calibration_texts
from core.embedding import DERIVED, SHAPES, encode, load, prompt_of
from core.encoders import ModelInfo
from core.errors import Fault, InputError
from core.export import card, vectors
from core.export.int8 import CALIBRATION, fidelity, write_int8
from core.export.model_folder import halve, write_model
from core.export.onnx_folder import time_onnx, verify_onnx, write_onnx
from core.export.proof import TOLERANCE, Proof, probe_groups, scaled, shown, time_pair, verify, verify_codes
from core.export.served import as_report, as_served
from core.onnx_encoder import OnnxEncoder
from core.pipeline import Cutting
from core.report import add_timing
from core.select import apply
from core.store import MANIFEST, check_place, new_folder, sha256, unfinished
from core.types import Floats, Progress, Reduction, quiet

__all__ = [
    "Proof",
    "card",
    "check_destination",
    "content_name",
    "export_int8",
    "export_model",
    "export_onnx",
    "export_vectors",
    "folder_hash",
    "measure_speed",
    "vectors",
    "what_stays",
    "zipped",
]

HALF = 2e-3  # largest difference that fp16 weights may make in a number of a vector of length one; 5e-4 was seen


def check_destination(out: Path, source: Path, needed: int) -> None:
    """Before any work: the destination is not the source, can be written, and has room for `needed` bytes."""
    target = out.expanduser().resolve()
    if target == source.resolve() or source.resolve() in target.parents or target in source.resolve().parents:
        raise InputError(f"--out {out} is the loaded model's own folder or holds it: choose another folder")
    check_place(target)
    try:
        parent = next(p for p in (target, *target.parents) if p.exists())
        if not parent.is_dir():
            raise InputError(f"--out {out}: {parent} is a file: choose a folder")
        foreign = _foreign(target) if parent == target else ""
        free = shutil.disk_usage(parent).free
    except OSError as e:
        raise InputError(f"--out {str(out)[:200]} cannot be used: {e.strerror}. Choose another folder.") from e
    if foreign:
        raise InputError(
            f"--out {out} is a folder with other files in it ({foreign}): choose a new one, nothing is overwritten"
        )
    if free < 2 * needed:
        raise InputError(
            f"--out {out}: {free / 1e6:,.0f} MB free, about {2 * needed / 1e6:,.0f} MB needed. "
            "Free space or choose another disk."
        )


def _foreign(folder: Path) -> str:
    """The first file that no export of ours lists, or "": an older export may be replaced, nothing else."""
    try:
        ours = {MANIFEST, *json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    found = (p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if not p.is_dir())
    return next((name for name in found if name not in ours), "")


def export_model(
    bench: Bench,
    cut: Cutting,
    report: dict[str, Any],
    request: dict[str, Any],
    out: Path,
    progress: Progress = quiet,
) -> Proof:
    """Write the pruned model to `out`; it gets its name only after a fresh process gave the same vectors.

    What that process measured (speed, memory) is added to the report before the report is written.
    """
    reduction, shapes = cut.reduction, _shapes(bench, cut)
    with new_folder(out) as folder:
        progress("writing the model", 0, 3)
        _begin(folder)
        write_model(cut.pruned.model, reduction, folder)
        if half := request["format"].endswith("fp16"):
            halve(folder)
        progress("reopening in a fresh process", 1, 3)
        proof = verify(cut.pruned, reduction, folder, bench.model, tolerance=HALF if half else None)
        progress("writing the card", 2, 3)
        add_timing(report, shapes, proof.timing)
        _papers(report, request, folder, cut)
        if not reduction.identity:
            (folder / "projection.npz").write_bytes(vectors.projection(reduction))
    return proof


def export_onnx(
    bench: Bench,
    cut: Cutting,
    report: dict[str, Any],
    request: dict[str, Any],
    out: Path,
    progress: Progress = quiet,
) -> Proof:
    """Write the pruned model as ONNX, which carries any shape; its vectors are compared with torch's text by text.

    Speed is measured against the unpruned model in the same engine.
    """
    groups = probe_groups(cut.pruned)
    texts = [t for _, some, _ in groups for t in some]
    with new_folder(out) as folder:
        progress("writing the ONNX graph", 0, 3)
        _begin(folder)
        encoder = whole_encoder(cut.pruned.model, cut.reduction)
        write_onnx(encoder, folder)
        progress("comparing with torch", 1, 3)
        difference = verify_onnx(encoder, folder, texts)
        runs = OnnxEncoder(folder)
        got = [runs.encode(some, prompt_of(bench.model, role)) for role, some, _ in groups]
        given = scaled(np.concatenate(got), cut.pruned.model) if cut.reduction.identity else np.concatenate(got)
        screen = float(np.abs(given - shown(groups, cut.reduction)).max())
        if not screen <= TOLERANCE:
            raise Fault(f"the ONNX model differs from what was shown by {screen:.1e}: it is not handed out")
        progress("timing against the unpruned model", 2, 3)
        timing = time_as_onnx(bench.model, folder, texts)
        add_timing(report, _shapes(bench, cut), timing)
        _papers(report, request, folder, cut)
    return Proof(difference, screen, timing)


def export_int8(
    bench: Bench,
    cut: Cutting,
    report: dict[str, Any],
    request: dict[str, Any],
    out: Path,
    progress: Progress = quiet,
) -> Proof:
    """Write the pruned model as int8 ONNX, calibrated on the texts methods may learn from, judged as it is served.

    Figures "after" become the graph's own; the speed stands against the unpruned model in the same engine and, for
    what a user gains in all, against torch in fp32.
    """
    groups = probe_groups(cut.pruned)
    texts = [t for _, some, _ in groups for t in some]
    with new_folder(out) as folder:
        _begin(folder)
        encoder = whole_encoder(cut.pruned.model, cut.reduction)
        calibration = calibration_texts(bench.model, bench.fit, report["seed"]).mixed(CALIBRATION)
        write_int8(encoder, folder, calibration, progress)
        runs = OnnxEncoder(folder)
        asked = [(some, prompt_of(bench.model, role)) for role, some, _ in groups]
        wanted = np.concatenate([encode(encoder, some, prompt) for some, prompt in asked])
        found = fidelity(wanted, np.concatenate([runs.encode(some, prompt) for some, prompt in asked]))
        if not found.good:
            raise Fault(f"the int8 model turns vectors of the data too far (cosine {found.mean:.4f}, {found.least:.4f} "
                        "at least): it is not handed out. Use --format onnx.")  # fmt: skip
        as_report(
            bench, as_served(bench, cut, runs.encode, report["seed"], request.get("rescore", 0), progress), report
        )
        progress("timing against the unpruned model", 2, 3)
        timing = time_as_onnx(bench.model, folder, texts)
        add_timing(report, _shapes(bench, cut), timing)
        whole = time_pair(bench.model, folder, texts)
        report["speedup"]["against_torch"] = {
            "measured": whole["speedup"], "measured_batch1": whole["speedup_batch1"],
            "engine": "onnxruntime int8 against unpruned torch fp32",
        }  # fmt: skip
        report["int8"] = found.as_json()
        _papers(report, request, folder, cut)
    return Proof(found.difference, found.difference, timing, found.as_json())


def whole_encoder(model: ModelInfo, reduction: Reduction) -> Any:
    """The encoder in memory at its real shape, with a dimension cut's layers behind it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(model, reduction, folder)
        for own in (DERIVED, SHAPES):
            if (model.path / own).is_file():
                shutil.copyfile(model.path / own, folder / own)
        return load.__wrapped__(folder)


def time_as_onnx(dense: ModelInfo, pruned: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Dense against a pruned ONNX folder, in one process with one engine."""
    with tempfile.TemporaryDirectory() as name:
        write_onnx(load(dense.path), Path(name))
        return time_onnx(Path(name), pruned, texts) | {"engine": "onnxruntime"}


def measure_speed(bench: Bench, cut: Cutting) -> dict[str, Any]:
    """The cut encoder's speed against the unpruned one where nothing is exported: torch, or ONNX for uneven shapes."""
    texts = [t for _, some, _ in probe_groups(bench) for t in some]
    if cut.derived is None or cut.derived.plain:
        return time_pair(bench.model, cut.pruned.model.path, texts)
    with tempfile.TemporaryDirectory() as name:
        write_onnx(load(cut.pruned.model.path), Path(name))
        return time_as_onnx(bench.model, Path(name), texts)


def _shapes(bench: Bench, cut: Cutting) -> tuple[Shape, Shape]:
    dense = shape_of(bench.model)
    return dense, cut.derived.shape if cut.derived else dense


def export_vectors(cut: Cutting, report: dict[str, Any], request: dict[str, Any], out: Path) -> None:
    """Write projection.npz and the pruned documents of the first data set, as they are stored.

    Codes are read again by their own reader in a fresh process, and must give what was judged.
    """
    reduction = cut.reduction
    with new_folder(out) as folder:
        _begin(folder)
        ids, whole = what_stays(cut)
        small = apply(reduction, whole)
        if cut.codes is None:
            vectors.write_vectors(reduction, ids, small, folder)
        else:
            vectors.write_codes(cut.codes, ids, small, folder)
            if not reduction.identity:
                (folder / "projection.npz").write_bytes(vectors.projection(reduction))
        _papers(report, request, folder, cut)
        if cut.codes is not None:
            verify_codes(folder, cut.codes.decode(cut.codes.encode(small)))


def what_stays(cut: Cutting) -> tuple[tuple[str, ...], Floats]:
    """The ids and vectors of the first index's rows that are kept, before any dimension is cut."""
    judge = cut.pruned.judges[0]
    ids, vectors = judge.dataset.documents.ids, judge.documents.vectors
    if not cut.rows:
        return ids, vectors
    rows = cut.rows[0]
    return tuple(ids[i] for i in rows.kept), vectors[rows.kept] if rows.vectors is None else rows.vectors


def _begin(folder: Path) -> None:
    """An empty manifest comes first: should we be killed, what is left is refused and not taken for another model."""
    (folder / MANIFEST).write_text("{}", encoding="utf-8")


def _papers(report: dict[str, Any], request: dict[str, Any], folder: Path, cut: Cutting) -> None:
    """Card, recipe and report, and the codebook with its reader where vectors are to be stored as codes."""
    if cut.codes is not None:
        vectors.write_codebook(cut.codes, folder)
    if cut.rows:
        vectors.write_groups(cut.rows[0], cut.pruned.judges[0].dataset.documents.ids, folder)
        if request["format"] != "vectors":
            ids, own = what_stays(cut)
            (folder / "documents.parquet").write_bytes(vectors.parquet(ids, apply(cut.reduction, own)))
    (folder / "README.md").write_text(card.model_card(report, request["format"]), encoding="utf-8")
    text = yaml.safe_dump(card.recipe(report, request), sort_keys=False, allow_unicode=True)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    (folder / "espalier-report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


def folder_hash(folder: Path) -> str:
    """One SHA-256 for a finished folder: of its manifest, which names every file's."""
    return sha256(folder / MANIFEST)


def zipped(folder: Path) -> Path:
    """The folder as a zip beside it, named by its content, always the same bytes for the same files."""
    name = f"{folder.name}-{folder_hash(folder)[:12]}.zip"
    target = folder.parent / name
    temporary = unfinished(target, "tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                info = zipfile.ZipInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}", (1980, 1, 1, 0, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o644 << 16
                with archive.open(info, "w") as out, file.open("rb") as source:
                    shutil.copyfileobj(source, out, 1 << 20)
        temporary.replace(target)
    except OSError as e:
        raise InputError(f"cannot write {target}: {e.strerror}. Free space or choose another folder.") from e
    finally:
        temporary.unlink(missing_ok=True)
    return target


def content_name(stem: str, data: bytes, suffix: str) -> str:
    """A download name that differs whenever the bytes do."""
    return f"{stem}-{hashlib.sha256(data).hexdigest()[:8]}{suffix}"
