"""Uploads: texts, a query log, a model. Each is checked by core before it is offered in the pickers."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import streamlit as st

from core import data
from core.encoders import open_model
from core.errors import InputError
from pages._ui import session, views

_FORMS = """
- **A BEIR folder as a zip**: `corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv`.
- **Sentence pairs** (TSV or CSV) with columns `score`, `sentence1`, `sentence2`.
- **Labelled texts** (CSV) with columns `text`, `label`.
- **Texts without judgements** (CSV, JSONL, Parquet) with a column `text`; add a log of real queries if you have one.
  Truth is then the unpruned model's own top ten, and is called *agreement*.
"""


def local_root() -> Path | None:
    """The folder given with `streamlit run app.py -- --allow-local-root DIR`; without it no path can be typed."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--allow-local-root")
    found, _ = parser.parse_known_args(sys.argv[1:])
    return Path(found.allow_local_root).resolve() if found.allow_local_root else None


def texts() -> None:
    with st.expander("Texts, queries, judgements", expanded=False, key="own_texts"):
        st.markdown(_FORMS)
        with st.form("texts", border=False):
            file = st.file_uploader("Texts", type=["zip", "csv", "tsv", "jsonl", "parquet"])
            log = st.file_uploader("A log of real queries (optional)", type=["csv", "jsonl", "txt", "parquet"])
            sent = st.form_submit_button("Check", type="primary")
        if sent and file is None:
            st.error("Choose a file with texts first.")
        elif sent:
            _take_texts(file, log)
        _local("local_data", "A folder or file with texts", _use_data)


def _take_texts(file: object, log: object) -> None:
    path = session.keep_upload(file, "texts")
    queries = session.keep_upload(log, "queries") if log is not None else None
    _use_data(path, file.name, queries)  # type: ignore[attr-defined]


def _use_data(path: Path, label: str, queries: Path | None = None) -> None:
    try:
        found = data.load(str(path), queries=queries)
    except InputError as e:
        st.error(views.plain(_named(str(e), path, label, queries)))
        return
    words = "; ".join(views.contents(d, len(d.qrels or d.queries)) for d in found)
    st.session_state.setdefault("datasets", {})[str(path)] = label
    if queries is not None:
        st.session_state.setdefault("queries_spec", {})[str(path)] = str(queries)
    st.session_state["choose_data"] = str(path)
    st.success(f"{views.plain(label)}: {words}. Choose it under *Texts* on the Prune page, or now:")
    for note in (n for d in found for n in d.notes):
        st.caption(f":material/info: {note}")
    st.button("Use it now", on_click=_choose, args=("data", str(path)), key="use_data")


def _named(message: str, path: Path, label: str, queries: Path | None) -> str:
    """An error in the person's words: their file's name where core says the one that we gave it."""
    message = message.replace(str(path), label)
    if queries is not None:  # named by our own words: which of the two files it is
        message = message.replace(str(queries), "the query log").replace(queries.name, "the query log")
    return message.replace(path.name, label) if message.startswith(path.name) else message


def _choose(key: str, value: str) -> None:
    st.session_state[key] = value


def model() -> None:
    with st.expander("Model", key="own_model"):
        st.markdown(
            "A sentence-transformers folder as a zip (safetensors only, no custom code), or a hub id `owner/name`. "
            "Everything passes a gate first: allow-listed files, known keys, shapes that match, finite weights. "
            "What is loaded is a clean copy."
        )
        file = st.file_uploader("Model zip", type=["zip"], key="model_zip")
        hub = st.text_input("or a hub id", placeholder="sentence-transformers/all-MiniLM-L12-v2", key="hub_id")
        if st.button("Check", key="take_model"):
            if file is not None:
                _use_model(str(session.keep_upload(file, "model")), file.name)
            elif hub.strip() and not Path(hub.strip()).exists():
                _use_model(hub.strip(), hub.strip())
            else:
                st.error("Choose a zip, or write a hub id owner/name.")
        _local("local_model", "A model folder", lambda path, label: _use_model(str(path), label))


def _use_model(spec: str, label: str) -> None:
    try:
        with st.spinner("checking the model"):
            info = open_model(spec)
    except InputError as e:
        ours = rf"{re.escape(spec)}|\.unzip-\w+\.tmp|(?<![\w./-]){re.escape(Path(spec).name)}"  # names that we gave it
        st.error(views.plain(re.sub(ours, lambda _: label, str(e)) if spec != label else str(e)))
        return
    st.session_state.setdefault("models", {})[spec] = label
    words = f"{info.architecture}, {info.dimension} dimensions, {info.parameters / 1e6:.1f} M parameters"
    st.success(f"{views.plain(label)}: {words}.")
    st.button("Use it now", on_click=_choose, args=("model", spec), key="use_model")


def _local(key: str, label: str, use: object) -> None:
    """A path box, only where the server was started with a folder that may be read; nothing outside it opens."""
    root = local_root()
    if root is None:
        return
    typed = st.text_input(f"{label}, inside {root.name}/", key=key)
    if typed and st.button("Check", key=f"{key}_go"):
        path = (root / typed).resolve()
        if not path.is_relative_to(root) or not path.exists():
            st.error(f"{typed!r} is not in {root.name}/: give a path inside that folder")
        else:
            use(path, path.name)  # type: ignore[operator]
