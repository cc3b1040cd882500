"""Data & model: what is loaded and its anatomy, what fits and what judges, and bring your own."""

import pandas as pd
import streamlit as st

from core.encoders import VECTORS
from pages._ui import about_vectors, cache, load_vectors, load_your_own, session, views

session.share()
bench, choice = cache.settle()
info = bench.model

alone = info.architecture == VECTORS
unit = "vectors" if alone else "texts"
if alone:
    about_vectors.shown(bench, views.called(bench, choice, bench.judges[0].dataset.name))
else:
    about_vectors.model(info, session.models().get(choice.model, info.name))

st.markdown("#### What is searched" if alone else "#### Texts")
for judge in bench.judges:
    d = judge.dataset
    judged = len(judge.task) if judge.task is not None else len(d.queries)
    topics = f"; {len(set(d.documents.labels))} topics" if d.documents.labels else ""
    held = views.contents(d, judged, "vectors" if alone else "documents")
    st.markdown(f"**{views.plain(views.called(bench, choice, d.name))}**: {held}{topics}.")
    for note in d.notes:
        st.caption(f":material/info: {note}")
with st.expander("Read some of them"):
    texts = bench.judges[0].dataset.documents
    rows = range(0, len(texts), max(1, len(texts) // 25))
    st.dataframe(
        pd.DataFrame({"id": [texts.ids[i] for i in rows], "text": [texts.full[i][:300] for i in rows]}), hide_index=True
    )

st.markdown("#### What fits, what judges")
st.markdown(
    f"Methods learn from **{views.plain(', '.join(views.called(bench, choice, n) for n in bench.fit_names))}** "
    f"({len(bench.fit):,} {unit}, no judgements). "
    + (
        f"These are the {unit} that are searched."
        if bench.inside
        else f"These are other {unit} than those that are searched."
    )
)
known = {"": "the corpus itself", **session.datasets()}
current = st.session_state.get("fit_on_spec", "")
picked = st.selectbox(
    "Methods learn from",
    list(known),
    index=list(known).index(current) if current in known else 0,
    format_func=known.get,
    help="Texts only: judgements never reach a method. Choose other texts to see how a cut fitted elsewhere does here.",
)
if picked != current:
    st.session_state["fit_on_spec"] = picked
    st.rerun()

st.markdown("#### Bring your own")
load_your_own.texts()
load_vectors.files()
load_vectors.milvus()
load_your_own.model()
