"""The list of steps that a cut is combined with: other cuts, training before and after them, how vectors are stored."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import registry
from core.anatomy import targets
from core.bench import Bench
from core.encoders import ModelInfo
from core.errors import PlanError
from core.plan import Group, Plan, Step, Value, parse
from pages._ui import fields, session, steps, views
from pages._ui.steps import LABELS

KINDS = {
    **LABELS,
    "train": "Train first",
    "recover": "Recover (training)",
    "components": "Components of each vector",
}
_PLACE = {
    "train": 0,
    "weights": 2,
    "recover": 3,
    "dimensions": 4,
    "vectors": 5,
    "components": 6,
    "quantize": 6,
}  # other cuts: 1
_MAIN = ("steps", "bytes", "target", "strength", "vectors")  # options in sight; the others open on demand
Rounds = tuple[tuple[str, Value], ...] | None


def rows() -> list[int]:
    """The ids of the added steps, in the order in which they stand; 0 is the cut that the controls edit."""
    if "steps" not in st.session_state:
        st.session_state["steps"] = [0]
        try:
            _follow()
        except PlanError as e:
            st.warning(f"The steps of this link cannot be read: {views.plain(str(e))}", icon=":material/link_off:")
    found: list[int] = st.session_state["steps"]
    return found


def _follow() -> None:
    """Put the steps that a link names before and after this cut into the list."""
    sides = [parse(t).steps if (t := st.session_state.get(f"steps_{side}")) else () for side in session.STEPS]
    for one in (s for steps_ in sides for s in steps_):
        step = one.steps[0] if isinstance(one, Group) else one
        registry.build(step)
        registry.build(Step(one.name, one.options) if isinstance(one, Group) else step)
        if step.target not in KINDS or (step.cut is not None and not 0 <= (step.cut.ratio or 0) <= 0.9):
            raise PlanError(f"{step} is no step of this list")
    before, after = ([_row_of(one) for one in side] for side in sides)
    st.session_state["steps"] = [*before, 0, *after]


def _row_of(one: Step | Group) -> int:
    """A new row with these settings; its number."""
    step, state = one.steps[0] if isinstance(one, Group) else one, st.session_state
    row = state["last_step"] = int(state.get("last_step", 0)) + 1
    state[key(row, "target")], state[key(row, f"by_{step.target}")] = step.target, step.name
    _set(step, key(row, ""))
    if isinstance(one, Group):
        state[key(row, "group")] = True
        _set(Step(one.name, one.options), key(row, ""))
    return row


def _share(order: list[int], made: dict[int, Step | Group]) -> None:
    """Write the added steps into the link, as sentences of what stands before this cut and after it."""
    here = order.index(0)
    for side, found in zip(session.STEPS, (order[:here], order[here + 1 :]), strict=True):
        words = str(Plan(tuple(made[r] for r in found if r in made)))
        st.session_state[f"steps_{side}"] = words
        session.put(side, words)


def key(row: int, what: str) -> str:
    return f"step{row}_{what}"


def _target(row: int, this: str) -> str:
    return this if row == 0 else str(st.session_state.get(key(row, "target"), "neurons"))


def _ordered(this: str) -> list[int]:
    """The rows as the plan has them: encoder steps before dimensions before codes, else as they were put."""
    return sorted(rows(), key=lambda r: registry.STAGES[_target(r, this)])


def composed(this: str) -> bool:
    """Whether the plan is more than one cut of the vectors: an encoder cut, or an added step that is switched on."""
    on = [r for r in rows() if r == 0 or st.session_state.get(key(r, "on"), True)]
    return len(on) > 1 or registry.STAGES[this] == 0


def steps_of(bench: Bench, step: Step) -> Plan:
    """The list of steps that this cut is combined with, and the plan that they make together."""
    order = _ordered(step.target)
    if len(order) == 1 and len(possible(bench.model)) == 1:
        return Plan((step,))
    found: list[Step | Group] = []
    own: dict[int, Step | Group] = {}
    with st.expander("Combine with …", expanded=len(order) > 1, key=f"combine-{len(order) > 1}"):
        for place, row in enumerate(order):
            made, rounds = _row(bench, row, place, order, step) if len(order) > 1 else (step, None)
            if made is not None:
                own[row] = made if rounds is None else Group((made,), rounds)
            if made is not None and rounds is not None and found and isinstance(found[-1], Step):
                found[-1] = Group((found[-1], made), rounds)
            elif made is not None:
                found.append(made)
        st.button("Add a step", icon=":material/add:", key="add_step", on_click=_add, args=(bench.model, step.target))
    _share(order, own)
    return Plan(tuple(found))


def possible(model: ModelInfo) -> list[str]:
    """What a step may be with this model: its cuts, and what is registered of training and codes."""
    cuts = targets(model.architecture)
    found = [t for t in KINDS if t in cuts or (t not in LABELS and registry.names(t))]
    found += ["vectors", "quantize"]
    return [t for t in found if len(cuts) > 2 or t not in ("train", "recover")]  # a transformer can be trained


def _row(bench: Bench, row: int, place: int, order: list[int], this: Step) -> tuple[Step | None, Rounds]:
    """One step of the list, None where it is switched off; and the schedule it makes with the cut before it."""
    with st.container(border=True):
        head = st.container(horizontal=True, vertical_alignment="center")
        if row == 0:
            head.markdown(f"**{place + 1}. This cut**: {LABELS[this.target]}")
            _move(head, place, order, this.target)
            st.caption("Edited by the controls above.")
            return this, None
        on = head.toggle(f"{place + 1}.", True, key=key(row, "on"), persist_state="session", help="Use this step.")
        _move(head, place, order, this.target)
        head.button("", icon=":material/delete:", key=key(row, "gone"), on_click=_remove, args=(row,),
                    help="Remove this step.")  # fmt: skip
        offered = possible(bench.model)
        if st.session_state.get(key(row, "target")) not in offered:  # another model since
            st.session_state[key(row, "target")] = offered[0]
        name = st.selectbox("Step", offered, format_func=KINDS.get, key=key(row, "target"), persist_state="session",
                            on_change=_put, args=(row, this.target), label_visibility="collapsed")  # fmt: skip
        known = registry.names(name)
        method = st.selectbox("by", known, format_func=lambda n: registry.card(n).label, key=key(row, f"by_{name}"),
                              persist_state="session", label_visibility="collapsed")  # fmt: skip
        st.caption(registry.card(str(method)).idea.capitalize())
        made = _small(bench.model, str(method), row)
        after_cut = place > 0 and _PLACE.get(_target(order[place - 1], this.target), 1) in (1, 2)
        rounds = _schedule(row) if name == "recover" and after_cut else None
    return (made if on else None), rounds


def _small(model: ModelInfo, name: str, row: int) -> Step:
    """An added step: its cut, its main options in sight, the others behind a button."""
    step = Step(name)
    if registry.card(name).cuts:
        step = _cut(model, step, row)
    shown, hidden = fields.split(name, _MAIN)
    options: list[tuple[str, Value]] = []
    if "bytes" in shown and step.target == "quantize":
        options += fields.budget(step, model.dimension, key(row, "bytes"))
        shown = tuple(n for n in shown if n != "bytes")
    if shown:
        options += fields.options(name, f"{key(row, '')}", shown)
    if hidden:
        with st.popover("Options", icon=":material/tune:", type="tertiary"):
            options += fields.options(name, f"{key(row, '')}", hidden)
    return Step(name, (*step.options, *options))


def _cut(model: ModelInfo, step: Step, row: int) -> Step:
    """The cut of an added step; it keeps its value across pages but does not go into the link."""
    if step.target == "layers":
        return step.with_cut(keep=steps.layers_kept(model, key(row, "keep"), _stays))
    value = st.slider("Pruning ratio", 0.0, 90.0, float(steps.START), 2.5, format="%g %%", **_stays(key(row, "ratio")))
    return step.with_cut(ratio=value / 100)


def _schedule(row: int) -> tuple[tuple[str, Value], ...] | None:
    """The toggle that repeats the cut before this recovery, and the recovery itself, in rounds; None while off."""
    about = "Prune a little, recover, evaluate, and again, with the cut before this step: the ratio grows to its own."
    if not st.toggle("Iterative schedule", help=about, **_stays(key(row, "group"))):
        return None
    one, two = st.columns(2)
    with one:
        grown = fields.options("iterate", key(row, ""), ("rounds", "schedule"))
    with two:
        return grown + fields.options("iterate", key(row, ""), ("floor", "take"))


def take_round(number: int) -> None:
    """Set every schedule in the list to give this round."""
    for row in rows():
        if st.session_state.get(key(row, "group")):
            st.session_state[f"{key(row, '')}iterate:take"] = number


def _move(head: Any, place: int, order: list[int], this: str) -> None:
    """Up and down, within the stage: an encoder step cannot follow the dimensions."""
    for way, icon in ((-1, "arrow_upward"), (1, "arrow_downward")):
        other = place + way
        stages = [registry.STAGES[_target(r, this)] for r in order]
        free = 0 <= other < len(order) and stages[other] == stages[place]
        head.button("", icon=f":material/{icon}:", key=key(order[place], icon), disabled=not free,
                    on_click=_swap, args=(order, place, other),
                    help="Earlier in the plan." if way < 0 else "Later in the plan.")  # fmt: skip


def _swap(order: list[int], one: int, two: int) -> None:
    order = list(order)
    order[one], order[two] = order[two], order[one]
    st.session_state["steps"] = order


def _add(model: ModelInfo, this: str) -> None:
    used = {_target(r, this) for r in rows()}
    offered = possible(model)
    wanted = ("neurons", "layers", "heads", "tokens", "dimensions")
    new = next((t for t in wanted if t in offered and t not in used), offered[0])
    add(new, this)


def add(target: str, this: str) -> int:
    """A new row where its kind belongs; its number."""
    row = st.session_state["last_step"] = int(st.session_state.get("last_step", 0)) + 1
    st.session_state[key(row, "target")] = target
    _put(row, this)
    return row


def fill(plan: Plan) -> None:
    """Put a plan's steps into the controls: its first step is this cut, the others stand in the list."""
    first, *others = plan.flat
    state = st.session_state
    state["steps"], state["target"], state[f"method_{first.target}"] = [0], first.target, first.name
    _set(first, "")
    for step in others:
        row = add(step.target, first.target)
        state[key(row, f"by_{step.target}")] = step.name
        _set(step, key(row, ""))


def _set(step: Step, prefix: str) -> None:
    """Move the widgets of a step's cut and options to where the plan says."""
    written = dict(step.options)
    for name in fields.split(step.name, ())[1]:
        default = registry.find(step.name).__dataclass_fields__[name].default
        value = written.get(name, default)
        st.session_state[f"{prefix}{step.name}:{name}"] = float(value) if isinstance(default, float) else value
    if prefix and "bytes" in written:
        st.session_state[f"{prefix}bytes"] = written["bytes"]
    if step.cut is not None and step.cut.keep is not None:
        st.session_state[f"{prefix}keep" if prefix else f"keep_{step.target}"] = step.cut.keep
    elif step.cut is not None and step.cut.ratio is not None:
        place = f"{prefix}ratio" if prefix else steps.ratio_key(step.target)
        st.session_state[place] = 100.0 * step.cut.ratio if prefix else round(100 * step.cut.ratio)


def _put(row: int, this: str) -> None:
    """Where a step belongs: training before the cuts, recovery right behind them, then dimensions, then codes."""
    rest = [r for r in rows() if r != row]
    rank = _PLACE.get(_target(row, this), 1)
    place = next((i for i, r in enumerate(rest) if _PLACE.get(_target(r, this), 1) > rank), len(rest))
    st.session_state["steps"] = [*rest[:place], row, *rest[place:]]


def _remove(row: int) -> None:
    st.session_state["steps"] = [r for r in rows() if r != row]


def _stays(name: str) -> dict[str, Any]:
    """Arguments of a widget whose value survives page switches and does not stand in the URL."""
    return {"key": name, "persist_state": "session"}
