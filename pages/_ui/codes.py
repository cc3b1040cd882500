"""The Prune page for how vectors are stored: every number of bytes answers at once, then one job writes the files."""

from __future__ import annotations

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import budgets, meter, pareto_plots, registry
from core.bench import Bench
from core.budgets import Budgets
from core.plan import Plan, Step
from core.verdict import MEASURE_NAMES, percent
from pages._ui import cache, combine, encoder, jobs, measured, options, to_milvus, views
from pages._ui.session import Choice


def ready(choice: Choice, bench: Bench, step: Step, judge: int) -> bool:
    """Whether every size is known; else the run that works them out is started, or shown."""
    known = cache.sizes_ready(bench, step, judge)
    return known or jobs.studied(cache.study_command(choice, step), registry.card(step.name).label, "sizes_again")


def controls(bench: Bench, found: Budgets, step: Step, measure: str, floor: float) -> tuple[int, float]:
    """The slider of bytes, the number of vectors, the meter, and what it is combined with."""
    index = _slider(found, measure, floor)
    vectors = options.millions()
    views.bars(meter.code_rows(bench.model, found.units, found.plain.kept[index], vectors))
    combine.steps_of(bench, step)
    return index, vectors


def _slider(found: Budgets, measure: str, floor: float) -> int:
    """Bytes per vector, fewest first as the slider's end; it starts where the floor is met."""
    sizes, mark = list(found.plain.kept[1:]), budgets.recommended(found, measure, floor)
    if len(sizes) == 1:
        st.caption(f"This method has one size: {sizes[0]:,} bytes a vector.")
        return 1
    state = st.session_state
    if state.get("bytes") not in sizes or state["bytes"] == state.get("last_bytes"):
        state["bytes"] = found.plain.kept[mark]  # a slider that stands on the mark stays on it
    state["last_bytes"] = found.plain.kept[mark]
    value = st.select_slider("Bytes per vector", sizes, format_func=lambda b: f"{b:,} B · {found.units / b:.3g}x",
                             help=f"Of {found.units:,} as floats.", key="bytes", persist_state="session")  # fmt: skip
    where = "outside the fit" if found.careful.outside else "on this data"
    st.caption(f"▲ **{found.plain.kept[mark]:,} B** is the fewest here that keep {100 * floor:g} %, judged {where}."
               if found.recommended(measure, floor) else f"No size here keeps {100 * floor:g} %.")  # fmt: skip
    return 1 + sizes.index(value)


def cut(
    bench: Bench, choice: Choice, step: Step, judge: int, measure: str, floor: float,
    top: DeltaGenerator, left: DeltaGenerator, right: DeltaGenerator,
) -> None:  # fmt: skip
    """All of the page for one code."""
    with left:
        if not ready(choice, bench, step, judge):
            with top:
                st.markdown("#### Bits per number: being measured at every size\nIt takes about half a minute, once.")
            return
        found = cache.every_size(bench, step, judge)
        index, vectors = controls(bench, found, step, measure, floor)
        more = st.expander("Cost and two-stage search", key="more_code", on_change="rerun")
        if more.open:
            with more:
                _two_stage(bench, found, index, judge, measure)
    plan = registry.resolve(found.plan(index), choice.seed)
    with top:
        first, second = budgets.sentence(found, index, measure, vectors)
        st.markdown(f"#### {first}\n{second}")
        views.notes(cache.notes(bench))
    with right:
        _curve(bench, found, judge, measure, index, floor)
        views.cards(found, index, [measure, *[m for m in options.measures(bench, judge) if m != measure]])
        with st.container(border=True):
            st.markdown("**Hurt most**", help="Queries that lost most, worst first; the worst slice beside the mean.")
            views.hurt(found, index, measure)
        take_away(bench, choice, plan)


def _curve(bench: Bench, found: Budgets, judge: int, measure: str, index: int, floor: float) -> None:
    names = registry.names("quantize")
    others = {n: cache.every_size(bench, Step(n), judge) for n in names if cache.sizes_ready(bench, Step(n), judge)}
    labels = {n: registry.card(n).label for n in names}
    figure = pareto_plots.sizes(found, others, labels, measure, index, floor)
    b, (chance, _) = found.band(measure), found.random(measure)
    table = pd.DataFrame(
        {"bytes per vector": s.plain.kept[1:], "code": labels[n], "kept": s.ratio(measure)[1:],
         "low": s.band(measure).low[1:], "high": s.band(measure).high[1:], "random": s.random(measure)[0][1:]}
        for n, s in (others | {found.step.name: found}).items()
    )  # fmt: skip
    table = table.explode([c for c in table.columns if c != "code"], ignore_index=True)
    alt = (f"{pareto_plots.size_title(found, measure, floor)}. {found.plain.kept[index]:,} bytes keep "
           f"{percent(float(b.ratio[index]))}, random dimensions {percent(float(chance[index]))}.")  # fmt: skip
    views.chart(figure, alt, "sizes", views.shares(table, "kept", "low", "high", "random"))


def _two_stage(bench: Bench, found: Budgets, index: int, judge: int, measure: str) -> None:
    """A shortlist on the codes, scored again with the float vectors: its quality, and what it reads."""
    if found.judge.task is None:
        st.caption("Two-stage search needs queries.")
        return
    shortlist = st.select_slider("shortlist", [10, 20, 50, 100, 200, 500], 100, key="shortlist",
                                 persist_state="session", help="How many hits are scored again in float.")  # fmt: skip
    step = found.plan(index).steps[0]
    assert isinstance(step, Step)
    kept = cache.code_stages(bench, step, shortlist, judge)
    full = float(found.plain.means(measure)[0])
    rescored, plain = (v / full if full else float("nan") for v in (kept[measure], found.plain.means(measure)[index]))
    st.markdown(
        f"Rescoring {shortlist} of {len(found.judge.dataset.documents):,} hits with the float vectors keeps "
        f"**{percent(rescored)}** of {MEASURE_NAMES[measure]}, the codes alone {percent(float(plain))} (both fitted on "
        f"all documents). It reads {shortlist} × {found.units:,} B = {shortlist * found.units / 1e3:,.0f} kB a query "
        "and keeps the float vectors on disk."
    )


def take_away(bench: Bench, choice: Choice, plan: Plan) -> None:
    """Write what stays: vectors or codes with what reads them, or the model with the codebook beside it."""
    with st.container(border=True):
        st.markdown("**Take it away**")
        encoder.form_of(meter.forms(bench.model, plan, ""), "")
        argv = encoder.command(bench, choice, plan)
        report = encoder.report_of(argv)
        if report is None:
            encoder.run(plan, argv, stale=False)
        else:
            measured.downloads(report, choice, argv)
    to_milvus.panel(choice, plan)
