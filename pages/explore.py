"""Explore: the map before and after, and single queries, worst first."""

import streamlit as st

from core import registry
from pages._ui import cache, explore_views, options, session, views

session.share()
bench, choice = cache.settle()
judge, measure = options.judged_by(bench)
step = session.chosen_step()
if not cache.at_once(bench, step, judge):
    st.info(
        f"{registry.card(step.name).label} is not trained yet for these texts: open *Prune* to start it. SVD is shown."
    )
    step = session.fallback_step()
found = cache.study(bench, step, judge)
index = session.chosen_ratio(found, measure)
cut = found.plan(index).steps[0]
reduction = cache.reduction(bench, cut)  # type: ignore[arg-type]

st.markdown(f"#### {registry.card(step.name).label}: {found.plain.kept[index]} of {found.units} dimensions")
st.caption(views.of_prune("The method and the ratio are those of the Prune page."))
tab_map, tab_queries = st.tabs(["Map", "Queries"], key="explore_tab", on_change="rerun", bind="query-params")
with tab_map:
    if tab_map.open is not False:
        explore_views.map_tab(bench, choice, judge, cut, reduction)
with tab_queries:
    if tab_queries.open is not False:
        explore_views.queries_tab(found, reduction, index, measure)
