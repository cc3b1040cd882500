"""Data & model: what is loaded and its anatomy, what fits and what judges, and bring your own."""

import pandas as pd
import streamlit as st

from core.encoders import VECTORS
from pages._ui import about_vectors, cache, load_vectors, load_your_own, session, views

session.share()
bench, choice = cache.settle()
info = bench.model

if info.architecture == VECTORS:
    about_vectors.shown(bench)
else:
    about_vectors.model(info)

st.markdown("#### Texts")
for judge in bench.judges:
    d = judge.dataset
    judged = len(judge.task) if judge.task is not None else len(d.queries)
    kind = {
        "retrieval": "vectors" if info.architecture == VECTORS else "documents",
        "pairs": "pairs",
        "labels": "training texts",
    }[d.kind]
    topics = f", {len(set(d.documents.labels))} topics" if d.documents.labels else ""
    st.markdown(
        f"**{views.plain(d.name)}**: {len(d.documents):,} {kind}{topics}, "
        f"{judged:,} {'queries' if d.kind == 'retrieval' else 'judged'}, truth: "
        f"*{d.truth}*."
    )
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
    f"Methods learn from **{views.plain(', '.join(bench.fit_names))}** ({len(bench.fit):,} texts, no judgements). "
    + (
        "These are the texts that are searched."
        if bench.inside
        else "These are other texts than those that are searched."
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
