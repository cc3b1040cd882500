"""The Prune page for plans that cut the encoder: the honest meter, one job, the result of exactly these settings."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import encoder_verdict, jobs, meter, plots, registry, store
from core.bench import Bench
from core.encoders import ModelInfo
from core.errors import PlanError
from core.plan import Cut, Plan, Step, parse
from core.types import digest
from core.verdict import gigabytes
from pages._ui import combine, measured, sensitivity, steps, takeaway, views
from pages._ui import jobs as running
from pages._ui.session import Choice

RUN = "Cut, judge & verify"
DRAWS = 2  # random prunings beside a cut without training; with training core makes one
FORMS = {
    "sentence-transformers": "Plain",
    "sentence-transformers-fp16": "Plain, fp16",
    "onnx": "ONNX",
    "onnx-int8": "ONNX int8",
    "vectors": "Vectors",
}


def controls(bench: Bench, choice: Choice, step: Step, floor: float) -> tuple[Step, Plan | None]:
    """The left column: how much, what that leaves, what it is combined with. None where the plan cannot be."""
    step = steps.cut(bench.model, step)
    place = st.container()
    plan = combine.steps_of(bench, step)
    try:
        plan = registry.resolve(plan, choice.seed)
        will = meter.leaves(bench.model, plan)
    except PlanError as e:
        place.error(views.plain(str(e)))
        return step, None
    with place:
        st.caption(meter.caption(bench.model, plan))
        form = form_of(meter.forms(bench.model, plan, will.why), will.why)
        if step.cut is not None:
            sensitivity.mark(bench, choice, step, floor)
        if not bench.inside:
            st.warning(
                f"Calibrated on {views.plain(', '.join(bench.fit_names))}, which is not what is embedded: "
                "calibrate on what will be embedded (*Data & model*, *Methods learn from*).",
                icon=":material/warning:",
            )
        _meter(bench, plan, report_of(command(bench, choice, plan)), form)
    return step, plan


def form_of(offered: tuple[str, ...], why: str) -> str:
    """The format of the download, where there is a choice; what it means stands below."""
    form = _chosen(offered)
    if len(offered) > 1:
        st.session_state["form"] = form
        st.segmented_control("Download as", offered, format_func=FORMS.get, required=True, key="form",
                             on_change=_choose, help="The download is judged and timed as what it is.")  # fmt: skip
    st.caption(meter.reload_words(form, why))
    return form


def _choose() -> None:
    st.session_state["wanted_form"] = st.session_state["form"]


def _chosen(offered: tuple[str, ...]) -> str:
    """The format the person chose last, where the plan can have it, else the plainest."""
    wanted = st.session_state.get("wanted_form")
    return wanted if wanted in offered else offered[0]


def preset(model: ModelInfo) -> None:
    """One click to a small and fast model: steps and format are filled in, nothing runs yet."""
    plan = meter.small(model)
    if not all(t.target in combine.possible(model) for t in plan.flat) or model.layers < 2:
        return
    size = gigabytes(meter.file_bytes(model, meter.leaves(model, plan), "onnx-int8"))
    st.button(f"Small and fast: about {size}", icon=":material/bolt:", key="preset", on_click=_fill, args=(plan,),
              help=f"Fills in these steps and the format ONNX int8; nothing runs yet. `{plan}`")  # fmt: skip


def _fill(plan: Plan) -> None:
    st.session_state["wanted_form"] = "onnx-int8"
    combine.fill(plan)


def _meter(bench: Bench, plan: Plan, report: dict[str, Any] | None, form: str) -> None:
    rows = meter.rows(bench.model, plan, report, form)
    st.markdown("**Honest meter**", help="What is left of each cost, beside the unpruned model: by arithmetic until "
                "it is measured, and never hoped.")  # fmt: skip
    alt = "; ".join(f"{label}: {words}" for label, words, _ in rows)
    st.plotly_chart(plots.meter(rows), key="meter", config={"displayModeBar": False}, alt=alt)


def command(bench: Bench, choice: Choice, plan: Plan) -> list[str]:
    """The run that cuts, judges and exports a resolved plan."""
    form = _chosen(meter.forms(bench.model, plan, meter.leaves(bench.model, plan).why))
    place = store.home() / "exports" / f"{plan.slug}-{digest(bench.fingerprint, form)[:8]}"
    return takeaway.command(choice, plan, str(place), form, draws=DRAWS)


def report_of(argv: list[str]) -> dict[str, Any] | None:
    status = running.look(argv)
    return jobs.result(status.id) if status is not None and status.state == "done" else None


def verdict(bench: Bench, choice: Choice, step: Step, plan: Plan | None, data: str, measure: str, floor: float) -> None:
    """Two lines, always of what is set now: the measured verdict, or what is planned and an estimate."""
    if plan is None:
        st.markdown("#### These steps do not make a plan yet\nThe reason stands beside the controls.")
        return
    report = report_of(command(bench, choice, plan))
    if report is None:
        answer = sensitivity.answer(bench, choice, step) if step.cut is not None else None
        words = encoder_verdict.estimate_words(answer, step.cut or Cut(ratio=0.0))
        first, second = encoder_verdict.planned(bench.model, plan), words
    else:
        first, second = encoder_verdict.sentence(bench.model, report, data, measure, floor)
    st.markdown(f"#### {views.plain(first)}\n{views.plain(second)}")


def result(bench: Bench, choice: Choice, plan: Plan | None, data: str, measure: str) -> None:
    """The right column: run it, and the measured result, or the last one under the name of its own plan."""
    last = st.session_state.get("measured")
    last = last if last is not None and last["choice"] == choice else None
    if plan is not None:
        argv = command(bench, choice, plan)
        report = report_of(argv)
        with st.container(border=True):
            st.markdown("**Plan**", help="The whole cut as one sentence; the command line takes it as it is.")
            st.code(registry.brief(plan), language=None, wrap_lines=True)
            if report is None:
                run(plan, argv, stale=last is not None)
        if report is not None:
            st.session_state["measured"] = {"argv": argv, "choice": choice}
            measured.show(choice, report, argv, data, measure)
            return
    if last is not None:
        _stale(bench, last["argv"], data, measure)


def _stale(bench: Bench, argv: list[str], data: str, measure: str) -> None:
    """What was measured last stays in sight, under its own plan's name and without downloads."""
    report = report_of(argv)
    if report is None:
        return
    with st.container(border=True):
        own = registry.brief(parse(report["resolved_plan"]))
        st.markdown(f"**Last measured, of another plan than the one above:** `{own}`")
        first, second = encoder_verdict.sentence(bench.model, report, data, measure)
        st.markdown(f"{views.plain(first)} {views.plain(second)}")
        measured.cards(report, data, measure)


def run(plan: Plan, argv: list[str], stale: bool) -> None:
    """The one button, or how its run stands."""
    status = running.look(argv)
    if status is not None and status.state == "running":
        running.follow(status)
        return
    label, trains = f"{RUN}: {registry.brief(plan)}", any(registry.card(s.name).kind == "training" for s in plan.flat)
    if status is not None and status.state != "done":
        words = "Training goes on from its last checkpoint, a schedule from its last complete round." if trains else ""
        running.ended(status, RUN, "run_encoder", words, label)
        return
    if stale:
        st.warning("**Out of date - run again**: a setting moved since the last measured result.",
                   icon=":material/history:")  # fmt: skip
    nothing = all(isinstance(s, Step) and s.cut is not None and s.cut.ratio == 0 for s in plan.steps)
    st.button(
        RUN,
        type="primary",
        icon=":material/verified:",
        key="run_encoder",
        disabled=nothing,
        on_click=running.start,
        args=(argv, label),
        help="Cuts a copy, embeds everything again, judges it beside random pruning, writes the model, reopens it in "
        "a fresh process, compares the vectors and times both. Some minutes; you can go on working.",
    )
    if nothing:
        st.caption("Nothing is cut: move the ratio.")
    elif registry.parts(plan).encoder:
        again = "The cut and its training are repeated once" if trains else f"The cut is repeated {DRAWS} times"
        st.caption(f"{again} with random units, to compare with: each takes about as long again.")
