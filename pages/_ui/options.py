"""The pickers: model, texts, what judges, the wish and the floor, the method, the ratio. Each returns a plain value."""

from __future__ import annotations

import streamlit as st

from core import registry
from core.bench import Bench
from core.encoders import VECTORS
from core.plan import Step
from core.verdict import MEASURE_HELP, MEASURE_NAMES, Study
from pages._ui import fields, session, steps
from pages._ui.session import kept

FIRST = ("dimensions/svd", "dimensions/distilled", "dimensions/redundancy", "dimensions/magnitude", "dimensions/random")


def sources(bench: Bench) -> int:
    """Model, texts and judge on top; returns the index of the data set that judges."""
    one, two, three = st.columns([1, 1, 1])
    with one:
        known = session.models()
        alone = bench.model.architecture == VECTORS
        st.selectbox(
            "Model",
            list(known),
            format_func=lambda m: "none: vectors" if alone else known.get(m, m),
            help="The unpruned model. Bring your own under *Data & model*."
            + (" These vectors need none." if alone else ""),
            disabled=alone,
            key="model",
            persist_state="session",
        )
    with two:
        found = session.datasets()
        st.selectbox(
            "Texts",
            list(found),
            format_func=lambda d: found.get(d, d),
            help="The corpus that is searched, and that methods learn from. Bring your own under *Data & model*.",
            key="data",
            persist_state="session",
        )
    with three:
        names = [_judge_words(bench, i) for i in range(len(bench.judges))]
        if st.session_state.get("judge", 0) >= len(names):
            st.session_state["judge"] = 0
        return int(
            st.selectbox(
                "Judged by",
                range(len(names)),
                format_func=lambda i: names[i],
                key="judge",
                persist_state="session",
                help="What measures the loss. Judgements never reach a method.",
            )
        )


def _judge_words(bench: Bench, index: int) -> str:
    judge = bench.judges[index]
    count = len(judge.task) if judge.task is not None else len(judge.dataset.queries)
    kind = {"retrieval": "queries", "pairs": "sentence pairs", "labels": "labelled texts"}[judge.dataset.kind]
    return f"{count:,} {kind}, {judge.dataset.truth}"


def wish(bench: Bench, judge: int) -> tuple[str, float, str]:
    """What the person wants, how much must stay, of which measure."""
    one, two, three = st.columns([2.2, 1, 1], vertical_alignment="bottom")
    alone = bench.model.architecture == VECTORS
    with one:
        goal = st.segmented_control(
            "I want",
            list(session.WISHES),
            format_func=session.WISHES.get,
            default="index",
            required=True,
            disabled=alone,
            help=(
                "Chooses what is cut. A smaller index: fewer dimensions. A smaller "
                "model and faster encoding cut the encoder itself."
            ),
            **({"key": "only_wish"} if alone else kept("wish")),  # with a model again, the last wish stands again
        )
        if alone:
            st.caption(f"{steps.NO_ENCODER} Only the index gets smaller.")
    with two:
        floor = st.number_input(
            "and must keep, %",
            50.0,
            100.0,
            98.0,
            0.5,
            help=(
                "The share of the unpruned model's quality that has to stay. The mark "
                "on the slider is the largest cut that keeps it."
            ),
            **kept("floor"),
        )
    with three:
        names = measures(bench, judge)
        measure = st.selectbox(
            "of",
            names,
            format_func=lambda m: MEASURE_NAMES.get(m, m),
            help=MEASURE_HELP.get(st.session_state.get("measure", names[0]), ""),
            **kept("measure"),
        )
    return str(goal), float(floor) / 100, measure if measure in names else names[0]


def measures(bench: Bench, judge: int) -> list[str]:
    kind, task = bench.judges[judge].dataset.kind, bench.judges[judge].task
    if task is not None and task.hidden is not None:
        return ["ndcg@10", "hit_rate@10", "recall@10", "recall@100", "mrr@10", "map@100"]
    return {"pairs": ["spearman"], "labels": ["accuracy", "knn@10"]}.get(
        kind, ["ndcg@10", "recall@10", "recall@100", "mrr@10", "map@100"]
    )


def judged_by(bench: Bench) -> tuple[int, str]:
    """What the Prune page's pickers say on the pages without them: the data set that judges, and the measure."""
    judge = min(int(st.session_state.get("judge", 0)), len(bench.judges) - 1)
    offered = measures(bench, judge)
    measure = st.session_state.get("measure", offered[0])
    return judge, measure if measure in offered else offered[0]


def method(bench: Bench, goal: str) -> Step:
    """The target, its method and the method's options; five methods stand first, the rest behind *all methods*."""
    target = steps.target(bench, goal)
    key = "method" if target == "dimensions" else f"method_{target}"
    known = registry.names(target)
    first = list(FIRST) if target == "dimensions" else known[:5]
    every = st.session_state.get("all_methods", False) or st.session_state.get(key) not in (None, *first)
    name = st.selectbox("Method", known if every else first, format_func=lambda n: registry.card(n).label, **kept(key))
    st.caption(registry.card(name).idea)
    with st.expander("Options and all methods"):
        st.checkbox("Show all methods", **kept("all_methods"))
        shown = fields.split(name, ("bytes",) if target == "quantize" else ())[1]  # bytes have a slider of their own
        found = fields.options(name, only=shown) if shown else ()
        if not shown:
            st.caption("This method has no options.")
    return Step(name, found)


def ratio(found: Study, measure: str, floor: float, key: str = "ratio", about: str = "") -> int:
    """The pruning-ratio slider in percent; it starts at the mark. Returns the index into the study's ratios.

    about   what stands beside the slider, where the literature's band does not hold
    """
    mark = found.percent(found.recommended(measure, floor))
    state, last = st.session_state, f"last_mark_{key}"
    if key not in state or state[key] == state.get(last):
        state[key] = mark  # a slider that stands on the mark stays on it
    state[last] = mark
    value = st.slider(
        "Pruning ratio",
        0,
        found.percent(-1),
        step=found.percent(1),
        format="%d %%",
        help=f"The fraction of {found.name} removed. "
        + (about or "The literature's conservative band is 30 to 50 %; the mark is measured here."),
        **kept(key),
    )
    where = "outside the fit" if found.careful.outside else "on this data"
    here = st.container(horizontal=True, vertical_alignment="center")
    here.caption(f"▲ **{mark} %** is the largest cut that keeps {100 * floor:g} %, judged {where}.")
    if value != mark:
        here.button("Go to ▲", key=f"to_mark_{key}" if key != "ratio" else "to_mark", on_click=_set, args=(key, mark))
    if about:
        st.caption(f":material/warning: {about}")
    return found.at(value)


def millions() -> float:
    """How many vectors the person has, for the memory figures."""
    return 1e6 * float(
        st.number_input(
            "Vectors in your index, millions", 0.001, 1e6, 10.0, 1.0, format="%g",
            help="How many vectors you keep, for the memory figures.", **kept("millions"),
        )
    )  # fmt: skip


def _set(key: str, value: int) -> None:
    st.session_state[key] = value
