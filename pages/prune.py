"""Prune: goal and floor, method, ratio, verdict, curve, what hurt most, take it away; vectors or the encoder itself."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import registry
from core.plan import Step
from pages._ui import (
    cache,
    codes,
    combine,
    encoder,
    jobs,
    options,
    rows,
    sensitivity,
    session,
    takeaway,
    to_milvus,
    views,
)

session.arrive()
bench, choice = cache.settle()
judge = options.sources(bench)
goal, floor, measure = options.wish(bench, judge)
st.divider()


def awaited(wanted: session.Choice) -> None:
    """Embed what was chosen, once; until it is ready, or when that failed or was cancelled, the last choice stays."""
    argv = ["embed", *wanted.arguments]
    label = views.plain(f"Embedding {session.datasets()[wanted.data]}")
    status = jobs.look(argv)
    shown = f"{session.datasets().get(choice.data)} with {session.models().get(choice.model)}"
    with st.container(border=True):
        if status is None or status.state == "running":
            st.markdown(f"**{label}**")
            jobs.follow(jobs.start(argv, label))
        else:
            jobs.ended(status, label, "embed_again")
        st.info(f"Shown until it is ready: {views.plain(shown)}.")


def pending(step: Step) -> bool:
    """Start (or find) the run that a slow method needs; True while it is under way."""
    if cache.at_once(bench, step, judge):
        return False
    argv = cache.study_command(choice, step)
    status = jobs.look(argv)
    if status is None:
        status = jobs.start(argv, registry.card(step.name).label)
    if status.state == "done":
        return False
    if status.state == "running":
        jobs.follow(status)
    else:
        jobs.ended(status, registry.card(step.name).label, "study_again")
    return True


@st.fragment
def workbench() -> None:
    top = st.container()
    left, right = st.columns([1, 2], gap="large")
    with left:
        if goal != "index":
            encoder.preset(bench.model)
        step = options.method(bench, goal)
    if combine.composed(step.target):
        encoder_cut(step, top, left, right)
    elif step.target == "vectors":
        rows.cut(bench, choice, step, judge, measure, floor, top, left, right)
    elif step.target == "quantize":
        codes.cut(bench, choice, step, judge, measure, floor, top, left, right)
    else:
        dimension_cut(step, top, left, right)


def encoder_cut(step: Step, top: DeltaGenerator, left: DeltaGenerator, right: DeltaGenerator) -> None:
    """Plans that cut the encoder: nothing runs until it is asked for, and then in a job."""
    data = bench.judges[judge].name
    with left:
        step, plan = encoder.controls(bench, choice, step, floor)
    with top:
        encoder.verdict(bench, choice, step, plan, data, measure, floor)
        views.notes(cache.notes(bench))
    with right:
        encoder.result(bench, choice, plan, data, measure)
        if step.cut is not None:
            sensitivity.panel(bench, choice, step, floor)


def dimension_cut(step: Step, top: DeltaGenerator, left: DeltaGenerator, right: DeltaGenerator) -> None:
    """One cut of the vectors: every ratio is known, so that the slider answers at once."""
    with left:
        waits = pending(step)
        shown = cache.study(bench, session.fallback_step() if waits else step, judge)
        index = options.ratio(shown, measure, floor)
        vectors = options.millions()
        views.meter(bench, shown, index, vectors)
        combine.steps_of(bench, step)
        more = st.expander("Cost and two-stage search", key="more_cost", on_change="rerun")
        if more.open:
            with more:
                views.money(vectors, shown.units, shown.plain.kept[index])
                views.two_stage(bench, shown, index, judge, measure)
    with top:
        if waits:
            st.caption("Shown until it is ready: SVD.")
        views.verdict(shown, index, measure, vectors)
        views.notes(cache.notes(bench))
    with right:
        names = registry.names("dimensions")
        found = [n for n in names if n != "dimensions/random" and cache.at_once(bench, Step(n), judge)]
        others = {n: cache.study(bench, Step(n), judge) for n in found}
        views.curve(shown, others, {n: registry.card(n).label for n in names}, measure, index, floor)
        views.cards(shown, index, [measure, *[m for m in options.measures(bench, judge) if m != measure]])
        with st.container(border=True):
            st.markdown("**Hurt most**", help="Queries that lost most, worst first; the worst slice beside the mean.")
            views.hurt(shown, index, measure)
            st.page_link(
                "pages/explore.py",
                label="See the results and the map, before and after",
                icon=":material/travel_explore:",
                query_params={"explore_tab": "Queries"},
            )
        with st.container(border=True):
            st.markdown("**Take it away**")
            takeaway.panel(bench, choice, shown.plan(index))
        to_milvus.panel(choice, shown.plan(index))


if choice != session.wanted():
    awaited(session.wanted())
workbench()
