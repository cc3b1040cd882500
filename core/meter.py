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
from core.encoders import VECTORS, ModelInfo
from core.evaluate.cost import LENGTH, index_bytes, vector_bytes
from core.plan import Group, Plan, Step, parse
from core.planned import after, embedding_size, planned, uneven
from core.rounds import at, shares
from core.storing import planned_bytes
from core.verdict import gigabytes

UNITS = {
    "layers": "layers", "neurons": "neurons in each layer", "heads": "heads in each layer",
    "width": "hidden channels", "tokens": "token rows", "dimensions": "dimensions",
}  # fmt: skip
ZEROS = "zeros only: same size, same speed"
LATER = "not measured yet"
_WIDTH = {"onnx-int8": 1, "sentence-transformers-fp16": 2}  # bytes a parameter, where that is not the model's own


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
    for step in registry.parts(plan).vectors:
        cut = step.cut
        assert cut is not None
        ratio = None if cut.ratio is None else f"{100 * (1 - cut.ratio):.0f} % of the vectors"
        said.append(ratio or (f"{cut.keep:,} vectors" if cut.keep else f"groups from a similarity of {cut.threshold}"))
    codes = registry.parts(plan).codes
    if codes is not None:
        size = planned_bytes(codes, leaves(model, plan).dimension)
        said.append(f"{size:,} of {vector_bytes(model.dimension):,} bytes a vector")
    return said


def trained(plan: Plan, report: Mapping[str, Any] | None = None) -> str:
    """The training of a plan in words, "" where there is none; with its report the steps that were really done."""
    found = (report or {}).get("encoder") or {}
    done: dict[str, int] = {}
    for row in found.get("training", []):
        done[row["step"]] = done.get(row["step"], 0) + int(row["steps"])
    said = []
    for part in plan.steps:
        steps = part.steps if isinstance(part, Group) else (part,)
        taught = [s for s in steps if registry.card(s.name).kind == "training"]
        counts = [done.get(s.name, int(getattr(registry.build(s), "steps", 0))) for s in taught]
        inner = [f"{n:,} steps of {registry.card(s.name).criterion}" for n, s in zip(counts, taught, strict=True)]
        if isinstance(part, Group):
            count, number = dict(part.options)["rounds"], found.get("round_given")
            rounds = f"{count} rounds" if number is None else f"round {number} of {count}"
            inner = [f"{rounds} {'with' if done else 'of'} {' and '.join(inner)}" if inner else rounds]
        said += inner
    stopped = ", stopped early" if found.get("stopped") else ""
    return f", after {' and '.join(said)}{stopped}" if said else ""


def given(model: ModelInfo, plan: Plan, report: Mapping[str, Any]) -> Plan:
    """The cuts that a run really made: where a schedule gave one of its rounds, what that round had cut to."""
    number = (report.get("encoder") or {}).get("round_given")
    if number is None:
        return plan
    out: list[Step | Group] = []
    for step in plan.steps:
        if isinstance(step, Group):
            options = dict(step.options)
            shape, _ = planned(model, [s for s in out if isinstance(s, Step) and registry.STAGES[s.target] == 0])
            share = shares(int(options["rounds"]), str(options["schedule"]))[number - 1] if number else 0.0
            out += [at(s, share, number, shape, shape) for s in step.steps]
        else:
            out.append(step)
    return Plan(tuple(out))


def _count(shape: Shape, target: str) -> int:
    return {
        "layers": len(shape.heads), "neurons": shape.inner[0] if shape.inner else 0,
        "heads": shape.heads[0] if shape.heads else 0, "width": shape.width, "tokens": shape.vocabulary,
    }[target]  # fmt: skip


def caption(model: ModelInfo, plan: Plan) -> str:
    """The counts of a plan as they will be, with what was rounded."""
    snapped = leaves(model, plan).rounded
    return "; ".join(words(model, plan)) + (f" (snapped: {', '.join(snapped)})" if snapped else "") + "."


def forms(model: ModelInfo, plan: Plan, why: str) -> tuple[str, ...]:
    """The export formats that can hold a plan, the plainest first; `why` is what no stock config can declare."""
    if any(registry.card(s.name).two_maps for s in plan.flat):
        return ("vectors",)
    if model.architecture == VECTORS:
        return ("vectors",)
    graphs = ("onnx", "onnx-int8") if model.architecture != "static" else ()
    plain = () if why else ("sentence-transformers", "sentence-transformers-fp16")
    if registry.parts(plan).encoder:
        return (*plain, *graphs)
    stored = registry.parts(plan).codes or registry.parts(plan).vectors
    return ("vectors", *plain) if stored else (*plain, *graphs, "vectors")


def reload_words(form: str, why: str) -> str:
    """How the download will load, and where it cannot be plain, why."""
    if form == "vectors":
        return "Download as vectors, with the matrix or codebook that reads them."
    if form == "onnx-int8":
        return "Download as ONNX in int8: a byte a weight, run by onnxruntime; quality is measured on that graph."
    if form.startswith("sentence-transformers"):
        half = " The file holds 16-bit floats, it computes in 32 bits." if form.endswith("fp16") else ""
        return f"Reloads plainly: `SentenceTransformer(path)`.{half}"
    cannot = f": plain sentence-transformers cannot declare {why}" if why else ""
    return f"Download as ONNX, which carries any shape{cannot}."


def only_zeros(plan: Plan) -> bool:
    """Whether a plan cuts nothing but single weights, which gains neither size nor speed."""
    return bool(plan.steps) and all(s.target == "weights" for s in plan.flat)


def small(model: ModelInfo) -> Plan:
    """Small and fast in one go: two thirds of the layers, five eighths of the neurons, half the vocabulary, taught."""
    layers = max(1, round(model.layers * 2 / 3))
    return parse(
        f"layers/subset keep={layers} | neurons/obs ratio=0.375 | tokens/frequency ratio=0.5 | recover/distill"
    )


def file_bytes(model: ModelInfo, will: Leaves, form: str) -> int:
    """Bytes of the weight file in a format: int8 graphs hold a byte a parameter, fp16 files two."""
    return will.parameters * _WIDTH[form] if form in _WIDTH else will.bytes


def rows(
    model: ModelInfo, plan: Plan, report: Mapping[str, Any] | None = None, form: str = ""
) -> list[tuple[str, str, float]]:
    """Label, words, share left of the unpruned model's: vectors, parameters, file, zipped file, encoding time.

    report: the answer of `prune` for exactly this plan; its figures then stand in place of the planned ones.
    """
    will = leaves(model, plan)
    if model.architecture == VECTORS:
        return [_vector(model, plan, will, report), *_index(plan, report)]
    found = (report or {}).get("after", {}).get("model", {})
    parameters, size = found.get("parameters", will.parameters), found.get("bytes", file_bytes(model, will, form))
    same = f", {ZEROS}" if only_zeros(plan) else ""
    return [
        _vector(model, plan, will, report), *_index(plan, report),
        ("parameters", f"{_millions(model.parameters)} → {_millions(parameters)}", parameters / model.parameters),
        ("model file" if found else "model file, planned",
         f"{gigabytes(model.bytes)} → {gigabytes(size)}{same}", size / model.bytes),
        _zipped(report),
        _speed(will.speedup, report),
    ]  # fmt: skip


def _index(plan: Plan, report: Mapping[str, Any] | None) -> list[tuple[str, str, float]]:
    """How many vectors stay, where whole vectors are cut: planned, or as the first index was."""
    steps = registry.parts(plan).vectors
    if not steps:
        return []
    found = next(iter((report or {}).get("vectors", {}).values()), None)
    if found:
        return [("vectors", f"{found['before']:,} → {found['after']:,}", found["after"] / found["before"])]
    ratios = [s.cut.ratio for s in steps if s.cut is not None]
    if any(r is None for r in ratios):
        return [("vectors", LATER, 1.0)]
    share = 1.0
    for r in ratios:
        share *= 1 - float(r or 0.0)
    return [("vectors", f"{100 * share:.1f} % stay", share)]


def _vector(model: ModelInfo, plan: Plan, will: Leaves, report: Mapping[str, Any] | None) -> tuple[str, str, float]:
    """Bytes per vector after dimensions and codes; what the codebook takes once is said beside it."""
    cost = (report or {}).get("after", {}).get("cost", {})
    full, planned_size = vector_bytes(model.dimension), planned_bytes(registry.parts(plan).codes, will.dimension)
    size = cost.get("vector_bytes", planned_size)
    book = f", codebook {gigabytes(cost['codebook_bytes'])} once" if cost.get("codebook_bytes") else ""
    return "vector", f"{full:,} → {size:,} B{book}", size / full


def dimension_rows(model: ModelInfo, full: int, kept: int, vectors: float) -> list[tuple[str, str, float]]:
    """The rows of a dimension cut: vector and index shrink; the model carries the matrix that cuts."""
    share = kept / full
    extra = 0 if kept == full else 4 * full * kept
    size = " → ".join(gigabytes(index_bytes(int(vectors), d)) for d in (full, kept))
    out = [("vector", f"{4 * full:,} → {4 * kept:,} B", share), ("index", size, share)]
    if model.architecture == VECTORS:
        return out
    words = f"{model.bytes / 1e6:.1f} → {(model.bytes + extra) / 1e6:.1f} MB"
    return [*out, ("model file", words, (model.bytes + extra) / model.bytes), *encoder_rows(model)[1:]]


def code_rows(model: ModelInfo, full: int, kept: int, vectors: float) -> list[tuple[str, str, float]]:
    """The rows of a code: the vector and the index shrink, the encoder and its speed stay."""
    size = f"{gigabytes(vectors * full)} → {gigabytes(vectors * kept)}"
    return [("vector", f"{full:,} → {kept:,} B", kept / full), ("index", size, kept / full), *encoder_rows(model)]


def row_rows(model: ModelInfo, rows: int, kept: int, vectors: float) -> list[tuple[str, str, float]]:
    """The rows of a cut of whole vectors: there are fewer of them, each as large as before."""
    share, full = kept / rows, vector_bytes(model.dimension)
    size = f"{gigabytes(vectors * full)} → {gigabytes(vectors * share * full)}"
    return [
        ("vectors", f"{rows:,} → {kept:,}", share), ("index", size, share), ("vector", f"{full:,} B, as it was", 1.0),
        *encoder_rows(model),
    ]  # fmt: skip


def encoder_rows(model: ModelInfo) -> list[tuple[str, str, float]]:
    """The encoder that a cut of vectors leaves as it was; nothing where there is none."""
    if model.architecture == VECTORS:
        return []
    return [("model file", f"{gigabytes(model.bytes)}, as it was", 1.0), ("encoding time", "1.00x (ideal 1.00x)", 1.0)]


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
