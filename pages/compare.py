"""Compare: what is worth its cost, the methods at this ratio, and the cuts prepared so far."""

import pandas as pd
import streamlit as st

from core import pareto, pareto_plots, plots, registry, runs
from core.bench import Bench
from core.plan import Step
from core.verdict import MEASURE_NAMES, Study
from pages._ui import cache, options, session, views

session.share()
bench, choice = cache.settle()
judge, measure = options.judged_by(bench)
measured = MEASURE_NAMES.get(measure, measure)
floor = float(st.session_state.get("floor", 98.0)) / 100
prepared = runs.prunings(measure)


def studied(bench: Bench, judge: int, chosen: Step) -> tuple[dict[str, Study], list[str]]:
    """The studies of the dimension methods that answer at once, and the labels of those that would not."""
    shown, waiting = {}, []
    for name in registry.names("dimensions"):
        step = chosen if name == chosen.name else Step(name)
        if cache.at_once(bench, step, judge):
            shown[name] = cache.study(bench, step, judge)
        else:
            waiting.append(registry.card(name).label)
    return shown, waiting


def worth(found: Study, label: str) -> None:
    """Quality against one cost: the chosen method's sizes and every prepared cut of this model on these texts."""
    name = bench.judges[judge].name
    mine = [r for r in prepared if r["model"] == bench.model.fingerprint and r["data"] == name]
    points = [
        pareto.dense(bench.model.dimension, bench.model.bytes),
        *pareto.of_study(found, label, measure, bench.model.bytes, floor),
        *(p for n in registry.names("quantize") if cache.sizes_ready(bench, Step(n), judge)
          for p in pareto.of_budgets(cache.every_size(bench, Step(n), judge), registry.card(n).label, measure,
                                     bench.model.bytes)),
        *pareto.of_runs(mine),
    ]  # fmt: skip
    st.markdown("#### What is worth its cost")
    axis = st.segmented_control(
        "Against", list(pareto.AXES), format_func=pareto.AXES.get, default="vector_bytes", required=True, key="axis",
        persist_state="session",
        help="Cuts of the vectors save bytes per vector; cuts of the encoder save model bytes and encoding time "
        "(measured, where it was).",
    )  # fmt: skip
    figure = pareto_plots.pareto(points, str(axis), measure, floor)
    table = views.shares(pd.DataFrame(pareto.table(points, str(axis))), "kept", "low", "high")
    views.chart(figure, pareto.alt(points, str(axis), floor, measured), "pareto", table)
    st.caption(
        f"On {views.plain(views.called(bench, choice, name))}, with 95 % intervals. A cut is beaten when another keeps "
        "at least as much at no higher cost; the table names it."
        + ("" if mine else " Press *Prepare & verify* or *Cut, judge & verify* on the Prune page: each cut you "
           "prepare joins this picture, also after a restart.")
    )  # fmt: skip


def methods(shown: dict[str, Study], waiting: list[str], chosen: Step, index: int) -> None:
    """All dimension methods at the ratio of the Prune page."""
    base = cache.study(bench, session.fallback_step(), judge)
    kept = base.plain.kept[index]
    st.markdown(f"#### Every method at {kept} of {base.units} dimensions")
    shared = views.of_prune("At the ratio of the Prune page.")
    st.caption(f"{shared} Methods that are trained appear once they were trained there.")
    labels = [registry.card(n).label for n in shown]
    values = [float(s.ratio(measure)[index]) for s in shown.values()]
    chance = float(base.random(measure)[0][index])
    table = pd.DataFrame(
        {
            "method": labels,
            "kept": values,
            "low": [float(s.band(measure).low[index]) for s in shown.values()],
            "high": [float(s.band(measure).high[index]) for s in shown.values()],
            "neighbours kept": [float(s.overlap[index]) if len(s.overlap) else None for s in shown.values()],
            "largest cut that keeps your floor": [
                s.plain.kept[s.recommended(measure, floor)] for s in shown.values()
            ],
        }
    )  # fmt: skip
    points = list(zip(labels, values, table["low"], table["high"], strict=True))
    title = plots.methods_title(points, measured, f"{kept} dimensions")
    table = views.shares(table, "kept", "low", "high", "neighbours kept")
    figure = plots.methods(points, registry.card(chosen.name).label, title, chance)
    views.chart(figure, f"{title}; random pruning keeps {100 * chance:.1f} %.", "methods", table)
    st.caption(
        f"Dashed: the mean of five random draws, {100 * chance:.1f} %."
        + (f" Not trained yet: {', '.join(waiting)}." if waiting else "")
    )


def cuts() -> None:
    """Every finished run on this machine, whatever its model and data."""
    st.markdown("#### Cuts prepared so far")
    if not prepared:
        st.info("None yet.")
        return
    number = st.column_config.NumberColumn
    columns = ["label", "data", "kept", "low", "high", "random", "bytes", "model_bytes", "speedup", "neighbours",
               "judged"]  # fmt: skip
    shares = ("kept", "low", "high", "random", "neighbours")
    st.dataframe(
        views.shares(pd.DataFrame(prepared)[columns], *shares),
        hide_index=True,
        column_config={
            **{f"{c}, %": number(format="%.1f") for c in shares},
            "bytes": number("bytes per vector", format="localized"),
            "model_bytes": number("model bytes", format="localized"),
            "speedup": number("speed, measured", format="%.2fx"),
        },
    )


chosen = session.chosen_step()
shown, waiting = studied(bench, judge, chosen)
current = chosen.name if chosen.name in shown else session.fallback_step().name
worth(shown[current], registry.card(current).label)
methods(shown, waiting, chosen, session.chosen_ratio(cache.study(bench, session.fallback_step(), judge), measure))
cuts()
