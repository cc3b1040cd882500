"""The formats of the command line: what each can hold, refused before any work, and the export itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core import export, pipeline, registry
from core.bench import Bench
from core.encoders import VECTORS, ModelInfo
from core.errors import InputError
from core.plan import Plan
from core.planned import planned, uneven
from core.types import Progress

FORMATS = ("sentence-transformers", "sentence-transformers-fp16", "onnx", "onnx-int8", "vectors")
_WEIGHTS = ("*.safetensors", "*.onnx", "*.onnx.data")


def check_format(info: ModelInfo, plan: Plan, form: str) -> None:
    """Refuse, before any work, what the format cannot hold."""
    if info.architecture == VECTORS and form != "vectors":
        raise InputError(f"--format {form}: {info.name} holds vectors and no model. Use --format vectors")
    steps = registry.parts(plan).encoder
    for step in plan.flat:
        if form != "vectors" and registry.card(step.name).two_maps:
            raise InputError(
                f"{step.name} maps queries and documents differently, which one model cannot hold: use --format vectors"
            )
    why = uneven(steps, planned(info, steps)[0]) if steps else ""
    if why and form.startswith("sentence-transformers"):
        raise InputError(f"plain sentence-transformers cannot reload {why}: use --format onnx, which carries any shape")


def check_out(out: Path, model: str, info: ModelInfo) -> None:
    """Refuse a destination before any work: neither the folder that was named nor the clean copy is written over."""
    for source in (Path(model).expanduser(), info.path):
        if source.exists():
            export.check_destination(out, source, info.folder_bytes)


def write(
    bench: Bench,
    cut: pipeline.Cutting,
    answer: dict[str, Any],
    request: dict[str, Any],
    out: Path,
    as_zip: bool,
    progress: Progress,
) -> None:
    """Write the export and put what it is into the answer."""
    form = request["format"]
    done: dict[str, Any] = {"path": str(out), "format": form}
    if form == "vectors":
        export.export_vectors(cut, answer, request, out)
        done |= {"reloaded_in_fresh_process": True} if cut.codes else {}
    else:
        writes = {"onnx": export.export_onnx, "onnx-int8": export.export_int8}.get(form, export.export_model)
        proof = writes(bench, cut, answer, request, out, progress)
        done |= {
            "reloaded_in_fresh_process": True,
            "max_difference": proof.max_difference,
            "max_difference_on_screen": proof.on_screen,
            **proof.facts,
        }
    done["bytes"] = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    done["sha256"] = export.folder_hash(out)
    if as_zip:
        archive = export.zipped(out)
        done |= {"zip": str(archive), "zip_bytes": archive.stat().st_size}
    answer["export"] = done
    answer["after"]["model"]["folder_bytes"] = done["bytes"]
    if form != "vectors":
        answer["after"]["model"]["bytes"] = sum(f.stat().st_size for kind in _WEIGHTS for f in out.rglob(kind))
