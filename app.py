"""Espalier in the browser: the router and nothing else."""

from pathlib import Path

import streamlit as st

from pages._ui import jobs

ASSETS = Path(__file__).parent / "assets"
st.set_page_config(page_title="Espalier", page_icon=ASSETS / "icon.svg", layout="wide")
pages = [
    st.Page("pages/prune.py", title="Prune", icon=":material/content_cut:", default=True),
    st.Page("pages/explore.py", title="Explore", icon=":material/travel_explore:"),
    st.Page("pages/compare.py", title="Compare", icon=":material/balance:"),
    st.Page("pages/data.py", title="Data & model", icon=":material/database:"),
    st.Page("pages/methods.py", title="Methods", icon=":material/menu_book:"),
]
page = st.navigation(pages)
st.session_state["routed"] = True
wanted = st.session_state.pop("go", "")
for target in pages:
    if wanted and target.url_path == wanted:
        st.switch_page(target)
st.html(ASSETS / "style.html")
st.logo(ASSETS / "logo.svg", size="large")
page.run()
jobs.panel()  # after the page: what it started is listed at once
