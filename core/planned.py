"""What a cut will leave, from arithmetic alone: counts, snapping, parameters, bytes, FLOPs. Nothing is loaded.

after(shape, step)           -> (shape, what was rounded)
planned(model, steps)        -> the shape a whole plan leaves, for the meter and before any work
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from core.anatomy import Shape, shape_of
from core.encoders import ModelInfo
from core.errors import PlanError
from core.layouts import axes, times
from core.plan import Cut, Group, Plan, Step

MULTIPLE = 8  # neurons are kept in multiples of this: sizes that matrix kernels like


def neurons(cut: Cut, present: int) -> int:
    """Neurons kept of a layer's: a ratio snaps up to a multiple of 8, an explicit keep never snaps."""
    wanted = cut.count(present)
    return wanted if cut.keep is not None else min(present, -(-wanted // MULTIPLE) * MULTIPLE)


def width(cut: Cut, shape: Shape, taken: int = 0) -> int:
    """Channels kept: whole heads. Raises PlanError for an explicit keep that is none.

    taken   a width that the architecture cannot have (ELECTRA drops its projection where the two sizes are equal)
    """
    wanted, size = cut.count(shape.width), shape.head_size
    if cut.keep is not None and wanted % size:
        low = max(size, wanted // size * size)
        raise PlanError(
            f"width keep={wanted}: heads of {size} channels tie it to multiples of {size}: write keep={low}"
        )
    keep = min(shape.width, max(size, -(-wanted // size) * size))
    if keep != taken or keep == shape.width:
        return keep
    if cut.keep is not None:
        raise PlanError(
            f"width keep={wanted}: as wide as the token table, which only others can be: write {keep + size}"
        )
    return keep + size


def after(shape: Shape, step: Step, taken: int = 0) -> tuple[Shape, tuple[str, ...]]:
    """The shape behind one step, where layers stay even (a global scope only keeps the total); parameters are not.

    Raises PlanError where the step leaves nothing to cut or asks for more than there is.
    """
    cut = step.cut
    if cut is None or cut.ratio == 0:
        return shape, ()
    if step.target == "neurons":
        keep = tuple(neurons(cut, n) for n in shape.inner)
        wanted = cut.count(shape.inner[0])
        said = () if keep[0] == wanted else (f"neurons: {wanted} -> {keep[0]} (multiple of {MULTIPLE})",)
        return replace(shape, inner=keep), said
    if step.target == "heads":
        return replace(shape, heads=tuple(cut.count(h) for h in shape.heads)), ()
    if step.target == "layers":
        keep_layers = cut.count(len(shape.heads))
        return replace(shape, heads=shape.heads[:keep_layers], inner=shape.inner[:keep_layers]), ()
    if step.target == "width":
        keep_width, wanted = width(cut, shape, taken), cut.count(shape.width)
        said = (f"width: {wanted} -> {keep_width} (multiple of the head size {shape.head_size})",)
        heads = tuple(min(h, keep_width // shape.head_size) for h in shape.heads)
        return replace(shape, width=keep_width, heads=heads), said if keep_width != wanted else ()
    if step.target == "tokens":
        return replace(shape, vocabulary=cut.count(shape.vocabulary)), ()
    return shape, ()


def planned(model: ModelInfo, steps: Sequence[Step | Group]) -> tuple[Shape, tuple[str, ...]]:
    """The shape that these encoder steps leave, with its parameters, and what was rounded."""
    shape = shape_of(model)
    if not steps:
        return shape, ()
    rounded: list[str] = []
    for step in Plan(tuple(steps)).flat:
        shape, said = after(shape, step, embedding_size(model))
        rounded += said
    return replace(shape, parameters=model.parameters + counted(model, shape) - counted(model, shape_of(model))), tuple(
        rounded
    )


def embedding_size(model: ModelInfo) -> int:
    """ELECTRA's own width of the token table where it is projected, else 0."""
    if model.architecture != "electra":
        return 0
    size = int(_config(model).get("embedding_size") or 128)
    return 0 if size == model.width else size


def uneven(steps: Sequence[Step | Group], shape: Shape) -> str:
    """Why no stock config can declare what these steps leave, or "" where one can."""
    if any(s.get("scope") == "global" and s.target in ("neurons", "heads") and s.cut and s.cut.ratio != 0
           for s in Plan(tuple(steps)).flat):  # fmt: skip
        return "layers that keep different numbers of neurons or heads (scope=global)"
    if shape.heads and not shape.even:
        return f"{shape.heads[0]} heads of {shape.head_size} in a width of {shape.width} ({shape.kind} ties the two)"
    return ""


def counted(model: ModelInfo, shape: Shape) -> int:
    """Parameters of the transformer (or static table) at a shape, from the architecture's table."""
    if shape.kind == "static":
        return shape.vocabulary * shape.width
    config = _config(model)
    total = 0
    fixed = {
        "positions": int(config.get("max_position_embeddings") or 0), "types": int(config.get("type_vocab_size") or 2),
        "buckets": int(config.get("relative_attention_num_buckets") or 32), "vocab": shape.vocabulary,
        "hidden": shape.width, "embed": embedding_size(model) or shape.width,
    }  # fmt: skip
    pooled = any(part == "pooler" for part, _ in model.parts)
    named = axes(shape.kind, {**config, "hidden_size": shape.width}, len(shape.heads))
    for name, words in named.items():
        if name.startswith("?") and not pooled:
            continue
        layer = next((int(p) for p in name.split(".") if p.isdigit()), 0)
        own = {"heads": shape.heads[layer], "inner": shape.inner[layer],
               "attend": shape.heads[layer] * shape.head_size}  # fmt: skip
        product = 1
        for word in words:
            product *= times(word) * (fixed | own)[word.lstrip("23")]
        total += product
    return total


def _config(model: ModelInfo) -> dict[str, Any]:
    modules = json.loads((model.path / "modules.json").read_text(encoding="utf-8"))
    path = model.path / modules[0].get("path", "") / "config.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
