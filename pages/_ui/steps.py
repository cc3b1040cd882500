"""What is cut and how much: targets by the wish, the cut's own control, and the list of steps it is combined with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from core import meter, registry
from core.anatomy import check_target, targets
from core.bench import Bench
from core.encoders import ModelInfo
from core.errors import InputError
from core.plan import Plan, Step
from pages._ui.session import kept

LABELS = {
    "dimensions": "Dimensions of the vectors",
    "layers": "Layers",
    "neurons": "Feed-forward neurons",
    "heads": "Attention heads",
    "width": "Hidden width",
    "tokens": "Vocabulary (token rows)",
    "weights": "Single weights",
}
BY_WISH = {
    "index": ("dimensions",),
    "model": ("tokens", "layers", "neurons", "width"),
    "speed": ("layers", "neurons", "heads", "width"),
}
ABOUT = {
    "dimensions": "A unit is one number of the vector. The index shrinks and search speeds up; the encoder stays. "
    "The literature's conservative band is 30 to 50 %.",
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
}
_START = 30  # percent: where the literature's conservative bands begin


def target(bench: Bench, goal: str) -> str:
    """What is cut: the targets that serve the wish, all of them behind a toggle; what cannot be stands there too."""
    place = st.container()
    every = st.toggle("All targets", help="Offer everything that can be cut, not only what serves the wish.",
                      **kept("all_targets"))  # fmt: skip
    wanted = tuple(LABELS) if every else BY_WISH[goal]
    possible = targets(bench.model.architecture)
    offered = [t for t in wanted if t in possible] or ["dimensions"]
    if st.session_state.get("target") not in offered:
        st.session_state["target"] = offered[0]
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


def _reason(model: ModelInfo, name: str) -> str:
    try:
        check_target(model.architecture, name)
    except InputError as e:
        return str(e)
    return ""


def cut(model: ModelInfo, step: Step, prefix: str = "") -> Step:
    """The step with its cut: layers by how many stay, everything else by the pruning ratio."""
    name = step.target
    if name == "layers":
        return step.with_cut(keep=_layers_kept(model, f"{prefix}keep_layers", kept))
    top = (0, 96, 1) if name == "dimensions" else (0, 90, 5)
    value = st.slider(
        "Pruning ratio",
        top[0],
        top[1],
        50 if name == "dimensions" else _START,
        top[2],
        format="%d %%",
        help=f"The fraction removed. {ABOUT[name]}",
        **kept(ratio_key(name, prefix)),
    )
    return step.with_cut(ratio=value / 100)


def _layers_kept(model: ModelInfo, key: str, settings: Callable[..., dict[str, Any]]) -> int:
    """How many layers stay; a number that was set for a deeper model becomes what this one has."""
    count = max(model.layers, 2)
    if st.session_state.get(key, 1) > count:
        st.session_state[key] = count
    return int(st.slider("Layers kept", 1, count, count - 1, help=ABOUT["layers"], **settings(key)))


def ratio_key(name: str, prefix: str = "") -> str:
    """The slider of a target; the dimensions' own is the page's `ratio`."""
    return f"{prefix}ratio" if name == "dimensions" else f"{prefix}ratio_{name}"


def rows() -> list[int]:
    """The ids of the added steps, in the order in which they stand; 0 is the cut that the controls edit."""
    found: list[int] = st.session_state.setdefault("steps", [0])
    return found


def _key(row: int, what: str) -> str:
    return f"step{row}_{what}"


def _target(row: int, this: str) -> str:
    return this if row == 0 else str(st.session_state.get(_key(row, "target"), "neurons"))


def _ordered(this: str) -> list[int]:
    """The rows as the plan has them: encoder steps before dimensions, else as they were put."""
    return sorted(rows(), key=lambda r: registry.STAGES[_target(r, this)])


def composed(this: str) -> bool:
    """Whether the plan is more than one cut of the vectors: an encoder cut, or an added step that is switched on."""
    on = [r for r in rows() if r == 0 or st.session_state.get(_key(r, "on"), True)]
    return len(on) > 1 or registry.STAGES[this] == 0


def combine(bench: Bench, step: Step) -> Plan:
    """The list of steps that this cut is combined with, and the plan that they make together."""
    order = _ordered(step.target)
    if len(order) == 1 and targets(bench.model.architecture) == ("dimensions",):
        return Plan((step,))
    found: list[Step] = []
    with st.expander("Combine with …", expanded=len(order) > 1, key="combine"):
        for place, row in enumerate(order):
            made = _row(bench, row, place, order, step) if len(order) > 1 else step
            found += [made] if made is not None else []
        st.button("Add a step", icon=":material/add:", key="add_step", on_click=_add, args=(bench, step.target))
    return Plan(tuple(found))


def _row(bench: Bench, row: int, place: int, order: list[int], this: Step) -> Step | None:
    """One step of the list; None where it is switched off."""
    with st.container(border=True):
        head = st.container(horizontal=True, vertical_alignment="center")
        if row == 0:
            head.markdown(f"**{place + 1}. This cut**: {LABELS[this.target]}")
            _move(head, place, order, this.target)
            st.caption("Edited by the controls above.")
            return this
        on = head.toggle(f"{place + 1}.", True, key=_key(row, "on"), persist_state="session", help="Use this step.")
        _move(head, place, order, this.target)
        head.button("", icon=":material/delete:", key=_key(row, "gone"), on_click=_remove, args=(row,),
                    help="Remove this step.")  # fmt: skip
        possible = [t for t in LABELS if t in targets(bench.model.architecture)]
        if st.session_state.get(_key(row, "target")) not in possible:  # another model since
            st.session_state[_key(row, "target")] = possible[0]
        name = st.selectbox("Cut also", possible, format_func=LABELS.get, key=_key(row, "target"),
                            persist_state="session")  # fmt: skip
        known = registry.names(name)
        method = st.selectbox("by", known, format_func=lambda n: registry.card(n).label, key=_key(row, f"by_{name}"),
                              persist_state="session")  # fmt: skip
        made = _small_cut(bench.model, Step(method), row)
    return made if on else None


def _small_cut(model: ModelInfo, step: Step, row: int) -> Step:
    """The cut of an added step; it keeps its value across pages but does not go into the link."""
    if step.target == "layers":
        return step.with_cut(keep=_layers_kept(model, _key(row, "keep"), _stays))
    value = st.slider("Pruning ratio", 0, 90, _START, 5, format="%d %%", **_stays(_key(row, "ratio")))
    return step.with_cut(ratio=value / 100)


def _stays(key: str) -> dict[str, Any]:
    """Arguments of a widget whose value survives page switches and does not stand in the URL."""
    return {"key": key, "persist_state": "session"}


def _move(head: Any, place: int, order: list[int], this: str) -> None:
    """Up and down, within the stage: an encoder step cannot follow the dimensions."""
    for way, icon in ((-1, "arrow_upward"), (1, "arrow_downward")):
        other = place + way
        stages = [registry.STAGES[_target(r, this)] for r in order]
        possible = 0 <= other < len(order) and stages[other] == stages[place]
        head.button("", icon=f":material/{icon}:", key=_key(order[place], icon), disabled=not possible,
                    on_click=_swap, args=(order, place, other),
                    help="Earlier in the plan." if way < 0 else "Later in the plan.")  # fmt: skip


def _swap(order: list[int], one: int, two: int) -> None:
    order = list(order)
    order[one], order[two] = order[two], order[one]
    st.session_state["steps"] = order


def _add(bench: Bench, this: str) -> None:
    used = {_target(r, this) for r in rows()}
    possible = targets(bench.model.architecture)
    wanted = ("neurons", "layers", "heads", "tokens", "dimensions")
    new = next((t for t in wanted if t in possible and t not in used), possible[0])
    row = st.session_state["last_step"] = st.session_state.get("last_step", 0) + 1
    st.session_state[_key(row, "target")] = new
    st.session_state["steps"] = [*rows(), row]


def _remove(row: int) -> None:
    st.session_state["steps"] = [r for r in rows() if r != row]
