"""What is cut and how much: targets by the wish, the cut's own control, and the list of steps it is combined with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from core import meter, row_study
from core.anatomy import check_target, targets
from core.bench import Bench
from core.encoders import VECTORS, ModelInfo
from core.errors import InputError
from core.plan import Step
from pages._ui import fields
from pages._ui.session import kept

LABELS = {
    "dimensions": "Dimensions of the vectors",
    "vectors": "Whole vectors",
    "layers": "Layers",
    "neurons": "Feed-forward neurons",
    "heads": "Attention heads",
    "width": "Hidden width",
    "tokens": "Vocabulary (token rows)",
    "weights": "Single weights",
    "quantize": "Bits per number",
}
BY_WISH = {
    "index": ("dimensions", "vectors", "quantize"),
    "model": ("tokens", "layers", "neurons", "width"),
    "speed": ("layers", "neurons", "heads", "width"),
}
ABOUT = {
    "dimensions": "A unit is one number of the vector. The index shrinks and search speeds up; the encoder stays. "
    "The literature's conservative band is 30 to 50 %.",
    "vectors": "A unit is one row of the index: a document that is not searched any more. " + row_study.WARNING,
    "layers": "A unit is one whole transformer layer. Faster and smaller at once, always reloads plainly. "
    "Conservative: one layer of six, two of twelve (15 to 25 %).",
    "neurons": "A unit is one neuron of a feed-forward block, in every layer alike and in multiples of 8. "
    "Conservative: 25 to 50 %.",
    "heads": "A unit is one attention head of a layer. Most configs cannot declare fewer heads alone: the download is "
    "then ONNX. Conservative: 20 to 40 %.",
    "width": "A unit is one channel of the hidden state, through the whole encoder; whole heads go with it. "
    "The largest saving and the largest loss. Conservative: 10 to 25 %.",
    "tokens": "A unit is one row of the token table. Smaller file, same speed; words whose row goes are spelled with "
    "shorter pieces. Conservative: 30 to 50 % on texts of one language.",
    "weights": "A unit is one number of a matrix, set to zero. " + meter.ZEROS.capitalize() + "; the zip shrinks. "
    "Conservative: 30 to 50 %.",
    "quantize": "Every number of a vector is stored in fewer bits; queries stay floats. The index shrinks, the encoder "
    "stays. Below four bytes a number nothing is lost at first: 8 times smaller is nearly free.",
}
NO_ENCODER = "These are vectors without a model: there is no encoder to cut."
START = 30  # percent: where the literature's conservative bands begin


def target(bench: Bench, goal: str) -> str:
    """What is cut: the targets that serve the wish, all of them behind a toggle; what cannot be stands there too."""
    place = st.container()
    every = st.toggle("All targets", help="Offer everything that can be cut, not only what serves the wish.",
                      **kept("all_targets"))  # fmt: skip
    wanted = tuple(LABELS) if every else BY_WISH[goal]
    possible = offered_targets(bench.model)
    offered = [t for t in wanted if t in possible] or ["dimensions"]
    state = st.session_state
    serving = [t for t in BY_WISH[goal] if t in offered]
    if state.get("target") not in (serving if serving and state.get("last_wish", goal) != goal else offered):
        state["target"] = (serving or offered)[0]
    state["last_wish"] = goal
    picked = str(
        place.selectbox(
            "Cut", offered, format_func=LABELS.get, help=ABOUT[st.session_state["target"]], **kept("target")
        )
    )
    lacking = [t for t in wanted if t not in possible]
    if lacking:
        names = ", ".join(LABELS[t] for t in lacking)
        place.caption(f":gray[Not possible here: {names}.] {_reason(bench.model, lacking[0])}")
    if picked == "weights":
        place.caption(
            f":material/info: {meter.ZEROS.capitalize()}. It shows what a network can spare; the zip shrinks."
        )
    return picked


def offered_targets(model: ModelInfo) -> tuple[str, ...]:
    """What can be cut of this model as a step of its own: units of the encoder, and how its vectors are stored."""
    return (*targets(model.architecture), "vectors", "quantize")


def _reason(model: ModelInfo, name: str) -> str:
    if model.architecture == VECTORS:
        return NO_ENCODER
    try:
        check_target(model.architecture, name)
    except InputError as e:
        return str(e)
    return ""


def cut(model: ModelInfo, step: Step, prefix: str = "") -> Step:
    """The step with its cut: layers by how many stay, everything else by the pruning ratio."""
    name = step.target
    if name == "quantize":
        return Step(step.name, (*fields.budget(step, model.dimension, f"{prefix}bytes"), *step.options))
    if name == "layers":
        return step.with_cut(keep=layers_kept(model, f"{prefix}keep_layers", kept))
    top = (0, 96, 1) if name == "dimensions" else (0, 90, 5)
    value = st.slider(
        "Pruning ratio",
        top[0],
        top[1],
        50 if name == "dimensions" else START,
        top[2],
        format="%d %%",
        help=f"The fraction removed. {ABOUT[name]}",
        **kept(ratio_key(name, prefix)),
    )
    return step.with_cut(ratio=value / 100)


def layers_kept(model: ModelInfo, key: str, settings: Callable[..., dict[str, Any]]) -> int:
    """How many layers stay; a number that was set for a deeper model becomes what this one has."""
    count = max(model.layers, 2)
    if st.session_state.get(key, 1) > count:
        st.session_state[key] = count
    return int(st.slider("Layers kept", 1, count, count - 1, help=ABOUT["layers"], **settings(key)))


def ratio_key(name: str, prefix: str = "") -> str:
    """The slider of a target; the dimensions' own is the page's `ratio`."""
    return f"{prefix}ratio" if name == "dimensions" else f"{prefix}ratio_{name}"
