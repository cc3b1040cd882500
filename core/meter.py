"""The honest meter of an encoder cut: what a plan will leave of each cost, before it runs and once it is measured.

leaves(model, plan)              Leaves: the shape, dimension, parameters and bytes that stay, and what was rounded
words(model, plan)               "768 of 1,536 neurons in each layer", a phrase for every step
rows(model, plan, report)        rows for plots.meter; without a report nothing is claimed to be measured
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core import registry
from core.anatomy import Shape, shape_of
from core.encoders import ModelInfo
from core.evaluate.cost import LENGTH, vector_bytes
from core.plan import Plan, Step
from core.planned import after, embedding_size, planned, uneven
from core.verdict import gigabytes

UNITS = {
    "layers": "layers", "neurons": "neurons in each layer", "heads": "heads in each layer",
    "width": "hidden channels", "tokens": "token rows", "dimensions": "dimensions",
}  # fmt: skip
ZEROS = "zeros only: same size, same speed"
LATER = "not measured yet"


@dataclass(frozen=True)
class Leaves:
    """What a plan leaves, from arithmetic alone. `why` names what no stock config can declare, or is ""."""

    shape: Shape
    dimension: int
    parameters: int
    bytes: int
    speedup: float
    rounded: tuple[str, ...]
    why: str


def leaves(model: ModelInfo, plan: Plan) -> Leaves:
    """Sizes and the ideal speed-up (FLOPs of a text of 64 tokens). Raises PlanError for cuts that cannot be."""
    parts = registry.parts(plan)
    steps, last = parts.encoder, parts.dimensions
    shape, rounded = planned(model, steps)
    mapped = any(_mapped(s) for s in Plan(steps).flat)
    narrow = shape.width != model.width and model.dimension == model.width and not mapped
    dimension = shape.width if narrow else model.dimension
    parameters = shape.parameters + (shape.width * dimension + dimension if mapped else 0)
    if last is not None and last.cut is not None:
        kept = last.cut.count(dimension)
        parameters += dimension * kept if kept != dimension else 0
        dimension = kept
    size = round(model.bytes * parameters / model.parameters) if model.parameters else model.bytes
    one, two = shape_of(model).flops_per_token(LENGTH), shape.flops_per_token(LENGTH)
    return Leaves(shape, dimension, parameters, size, one / two if two else 1.0, rounded, uneven(steps, shape))


def _mapped(step: Step) -> bool:
    """Whether a step appends an output map (a Dense layer behind the encoder)."""
    default = getattr(registry.build(step), "output_map", False)
    return bool(step.get("output_map", default)) and (step.cut is not None and step.cut.ratio != 0)


def words(model: ModelInfo, plan: Plan) -> list[str]:
    """One phrase for each step that cuts: how many units stay, of how many."""
    shape, dimension, said = shape_of(model), model.dimension, []
    for step in (s for s in plan.flat if s.cut is not None and s.target in UNITS | {"weights": ""}):
        small, _ = after(shape, step, embedding_size(model))
        if step.target == "weights":
            said.append(f"{100 * (step.cut.ratio or 0.0):.0f} % of the weights set to zero")  # type: ignore[union-attr]
            continue
        if step.target == "dimensions":
            before, kept = dimension, leaves(model, plan).dimension
        else:
            before, kept = _count(shape, step.target), _count(small, step.target)
            dimension = small.width if dimension == shape.width and not _mapped(step) else dimension
        said.append(f"{kept:,} of {before:,} {UNITS[step.target]}")
        shape = small
    return said


def _count(shape: Shape, target: str) -> int:
    return {
        "layers": len(shape.heads), "neurons": shape.inner[0] if shape.inner else 0,
        "heads": shape.heads[0] if shape.heads else 0, "width": shape.width, "tokens": shape.vocabulary,
    }[target]  # fmt: skip


def caption(model: ModelInfo, plan: Plan) -> str:
    """The counts of a plan as they will be, with what was rounded."""
    snapped = leaves(model, plan).rounded
    return "; ".join(words(model, plan)) + (f" (snapped: {', '.join(snapped)})" if snapped else "") + "."


def form(plan: Plan, why: str) -> str:
    """The export format that can hold a plan; `why` is what no stock config can declare."""
    if any(registry.card(s.name).two_maps for s in plan.flat):
        return "vectors"
    return "onnx" if why else "sentence-transformers"


def reload_words(plan: Plan, why: str) -> str:
    """How the download will load: plainly, as ONNX and why, or as vectors where one model cannot hold the plan."""
    if form(plan, why) == "vectors":
        return "Download as vectors and two matrices: queries and documents are mapped differently."
    if not why:
        return "Reloads plainly: `SentenceTransformer(path)`."
    return f"Download as ONNX, which carries any shape: plain sentence-transformers cannot declare {why}."


def only_zeros(plan: Plan) -> bool:
    """Whether a plan cuts nothing but single weights, which gains neither size nor speed."""
    return bool(plan.steps) and all(s.target == "weights" for s in plan.flat)


def rows(model: ModelInfo, plan: Plan, report: Mapping[str, Any] | None = None) -> list[tuple[str, str, float]]:
    """Label, words, share left of the unpruned model's: vectors, parameters, file, zipped file, encoding time.

    report: the answer of `prune` for exactly this plan; its figures then stand in place of the planned ones.
    """
    will = leaves(model, plan)
    found = (report or {}).get("after", {}).get("model", {})
    parameters, size = found.get("parameters", will.parameters), found.get("bytes", will.bytes)
    same = f", {ZEROS}" if only_zeros(plan) else ""
    return [
        ("vector", f"{vector_bytes(model.dimension):,} → {vector_bytes(will.dimension):,} B",
         will.dimension / model.dimension),
        ("parameters", f"{_millions(model.parameters)} → {_millions(parameters)}", parameters / model.parameters),
        ("model file" if found else "model file, planned",
         f"{gigabytes(model.bytes)} → {gigabytes(size)}{same}", size / model.bytes),
        _zipped(report),
        _speed(will.speedup, report),
    ]  # fmt: skip


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e5 else f"{parameters:,}"


def _zipped(report: Mapping[str, Any] | None) -> tuple[str, str, float]:
    before, small = ((report or {}).get(side, {}).get("model", {}).get("zipped_bytes") for side in ("before", "after"))
    if not before or not small:
        return "zipped", LATER, 0.0
    return "zipped", f"{gigabytes(before)} → {gigabytes(small)}", small / before


def _speed(ideal: float, report: Mapping[str, Any] | None) -> tuple[str, str, float]:
    found = (report or {}).get("speedup", {})
    if not found.get("measured"):
        return "encoding time", f"ideal {ideal:.2f}x as fast, {LATER}", 1 / ideal
    return (
        "encoding time",
        f"measured {found['measured']:.2f}x as fast (ideal {found['ideal']:.2f}x)",
        1 / found["measured"],
    )
