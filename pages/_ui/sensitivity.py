"""Sensitivity on the Prune page: measure it, see the map, take the ratio it recommends."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from core import encoder_verdict, jobs, sensitivity_plots
from core.bench import Bench
from core.plan import Step
from core.verdict import MEASURE_NAMES
from pages._ui import cache, steps, views
from pages._ui import jobs as running
from pages._ui.session import Choice


def _command(choice: Choice, step: Step) -> list[str]:
    target, criterion = step.name.split("/")
    return ["sensitivity", *choice.arguments, "--target", target, "--criterion", criterion]


def answer(bench: Bench, choice: Choice, step: Step) -> dict[str, Any] | None:
    """What was measured for this target and criterion, here or beforehand."""
    status = running.look(_command(choice, step))
    if status is not None and status.state == "done":
        return jobs.result(status.id)
    return cache.shipped_sensitivity(bench, *step.name.split("/"))


def mark(bench: Bench, choice: Choice, step: Step, floor: float) -> None:
    """One line under the slider: the largest cut that keeps the floor on the sample, where that is known."""
    found = answer(bench, choice, step)
    if found is not None:
        best = encoder_verdict.budgeted(found, floor)["recommended"]
        here = st.container(horizontal=True, vertical_alignment="center")
        here.caption(f"▲ {_size(step, best)} keeps {100 * floor:g} % on the sample (estimate).")


def _size(step: Step, best: dict[str, Any]) -> str:
    if step.target == "layers":
        return f"**{best['kept']} layers**"
    return f"**{encoder_verdict.in_steps(best['ratio'])} %**"


def panel(bench: Bench, choice: Choice, step: Step, floor: float) -> None:
    """The map, the curves and the ratio they recommend; or the button that measures them."""
    with st.expander(
        "Sensitivity map: which parts are missed", expanded=True, icon=":material/grid_on:", key="sensitivity"
    ):
        found = answer(bench, choice, step)
        if found is None:
            _measure(choice, step)
        else:
            _show(encoder_verdict.budgeted(found, floor), step)


def _measure(choice: Choice, step: Step) -> None:
    argv = _command(choice, step)
    status = running.look(argv)
    if status is not None and status.state == "running":
        running.follow(status)
        return
    label = f"Sensitivity of {steps.LABELS[step.target].lower()}"
    if status is not None:
        running.ended(status, label, "run_sensitivity")
        return
    st.caption(
        "How important every unit is, what each layer loses when it is cut alone, and the whole cut at three ratios: "
        "measured on a seeded sample, one to some minutes."
    )
    st.button(
        "Measure sensitivity",
        icon=":material/query_stats:",
        key="run_sensitivity",
        on_click=running.start,
        args=(argv, label),
    )


def _show(found: dict[str, Any], step: Step) -> None:
    best, name = found["recommended"], MEASURE_NAMES.get(found["measure"], found["measure"])
    st.markdown(f"Recommended: {views.plain(best['why'])}.")
    words = f"keeps {100 * best['keep_quality']:g} % of {name} on the sample"
    if best["ratio"] > 0:
        key, value = _setting(step, best)
        st.button(f"Use {_size(step, best).strip('*')}: {words}", key="use_recommended", icon=":material/check:",
                  on_click=_set, args=(key, value))  # fmt: skip
    units, layers = (pd.DataFrame(found[k]) for k in ("units", "layers"))
    figure = sensitivity_plots.sensitivity_map(found)
    views.chart(figure, _title(figure), "sensitivity_map", units.dropna(axis=1, how="all").round(5))
    figure = sensitivity_plots.sensitivity_layers(found)
    views.chart(figure, _title(figure), "sensitivity_layers", layers.round(4), on_select=lambda: _clicked(found, step))
    st.caption("Click a point of the curves to cut there.")
    st.caption(f"Measured on {views.plain(found['sample']['words'])}.")
    for note in found["notes"]:
        st.caption(f":material/info: {views.plain(note)}")


def _title(figure: Any) -> str:
    return str(figure.layout.title.text).replace("<br>", " ")


def _setting(step: Step, best: dict[str, Any]) -> tuple[str, int]:
    if step.target == "layers":
        return "keep_layers", int(best["kept"])
    return steps.ratio_key(step.target), encoder_verdict.in_steps(best["ratio"])


def _clicked(found: dict[str, Any], step: Step) -> None:
    """A click on a point of the curves moves the cut there."""
    points = st.session_state["sensitivity_layers"]["selection"]["points"]
    if points:
        ratio = float(points[0]["x"]) / 100
        kept = max(1, round(found["whole"] * (1 - ratio)))
        _set(*_setting(step, {"ratio": ratio, "kept": kept}))


def _set(key: str, value: int) -> None:
    st.session_state[key] = value
