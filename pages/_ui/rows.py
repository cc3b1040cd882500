"""The Prune page for whole vectors: every ratio answers at once, the ceiling beside it; one job writes what stays."""

from __future__ import annotations

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import meter, plots, registry, row_plots, row_study
from core.bench import Bench
from core.plan import Step
from core.report import topics_left
from core.row_study import RowStudy
from core.verdict import percent
from pages._ui import cache, codes, combine, jobs, options, views
from pages._ui.session import Choice


def ready(choice: Choice, bench: Bench, step: Step, judge: int) -> bool:
    """Whether every ratio is known; else the run that works them out is started, or shown."""
    known = cache.rows_ready(bench, step, judge)
    return known or jobs.studied(cache.study_command(choice, step), registry.card(step.name).label, "rows_again")


def cut(
    bench: Bench, choice: Choice, step: Step, judge: int, measure: str, floor: float,
    top: DeltaGenerator, left: DeltaGenerator, right: DeltaGenerator,
) -> None:  # fmt: skip
    """All of the page for one cut of whole vectors."""
    if bench.judges[judge].dataset.kind == "pairs":
        with top:
            st.info("Pairs have no index of their own. Choose what is searched under *Judged by*.")
        return
    with left:
        if not ready(choice, bench, step, judge):
            with top:
                st.markdown(
                    "#### Whole vectors: being ranked and judged at every ratio\nOnce; then the slider answers."
                )
            return
        found = cache.every_row(bench, step, judge)
        index = options.ratio(found, measure, floor, "ratio_vectors", row_study.WARNING)
        vectors = options.millions()
        views.bars(meter.row_rows(bench.model, found.units, found.plain.kept[index], vectors))
        combine.steps_of(bench, step.with_cut(ratio=found.plain.ratios[index]))
    plan = registry.resolve(found.plan(index), choice.seed)
    with top:
        first, second = row_study.sentence(found, index, measure, vectors, bench.model.dimension)
        st.markdown(f"#### {first}\n{second}")
        views.notes((*cache.notes(bench), *found.plain.notes))
    with right:
        _curve(bench, found, judge, measure, index, floor)
        views.cards(found, index, [measure, *[m for m in options.measures(bench, judge) if m != measure]])
        with st.container(border=True):
            st.markdown("**Hurt most**", help="Queries that lost most, worst first; the worst slice beside the mean.")
            views.hurt(found, index, measure)
            _gone(bench, found, judge, index)
        codes.take_away(bench, choice, plan)


def _curve(bench: Bench, found: RowStudy, judge: int, measure: str, index: int, floor: float) -> None:
    names = [n for n in registry.names("vectors") if n != "vectors/random"]
    others = {n: cache.every_row(bench, Step(n), judge) for n in names if cache.rows_ready(bench, Step(n), judge)}
    labels = {n: registry.card(n).label for n in registry.names("vectors")}
    figure = plots.curves(found, others, labels, measure, index, floor, found.top)
    b, (chance, _) = found.band(measure), found.random(measure)
    alt = (f"{plots.curve_title(found, measure, floor)}. At the chosen ratio {percent(float(b.ratio[index]))} is kept, "
           f"random vectors keep {percent(float(chance[index]))}, {percent(float(found.top[index]))} of the judged "
           "documents can still be found.")  # fmt: skip
    table = pd.DataFrame({"ratio": found.plain.ratios, "vectors": found.plain.kept, "kept": b.ratio, "low": b.low,
                          "high": b.high, "random": chance, "judged documents left": found.top})  # fmt: skip
    for name, s in others.items():
        if name != found.step.name:
            table[labels[name]] = s.ratio(measure)
    table = views.shares(table, *(c for c in table.columns if c != "vectors"))
    views.chart(figure, alt, "row_curve", table)


def _gone(bench: Bench, found: RowStudy, judge: int, index: int) -> None:
    """What went: queries without an answer, topics, and the map."""
    rows, own = found.rows(index), bench.judges[judge]
    if len(rows) == found.units:
        return
    lost = row_study.lost(own, rows)
    if len(lost):
        st.markdown(f"**{len(lost):,}** of {len(own.query_texts):,} queries have no relevant document left at all.")
    topics = topics_left(own, rows)
    if topics and topics[0]["left"] < 1:
        worst = topics[0]
        st.markdown(f"Worst topic: **{views.plain(worst['topic'])}**, {percent(worst['left'])} of its "
                    f"{worst['rows']:,} documents can still be found.")  # fmt: skip
        views.behind("All topics", views.shares(pd.DataFrame(topics), "left"))
    shown = st.expander("Map: what went", key="map_gone", on_change="rerun")
    if shown.open:
        with shown:
            pair = cache.whole_map(bench, judge)
            state, title = row_plots.states(rows, pair.rows)
            ids = own.dataset.documents.ids
            figure = row_plots.gone(pair, state, title, [ids[int(r)] for r in pair.rows])
            table = pd.DataFrame({"document": [ids[int(r)] for r in pair.rows], "state": state,
                                  "x": pair.before[:, 0].round(3), "y": pair.before[:, 1].round(3)})  # fmt: skip
            kind = "UMAP" if pair.kind == "umap" else "PCA"
            views.chart(figure, f"{title}, on a {kind} map of {len(pair.rows):,} documents.", "gone", table)
            st.caption(f"{kind} of the whole index; positions are a picture, the rows are what was cut.")
