"""Vectors without a model, from a file or a Milvus collection: checked by core, then offered under *Texts*."""

from __future__ import annotations

import os
from pathlib import Path

import streamlit as st

from core import store, stores
from core.data.interactions import looks_like_interactions, read_interactions
from core.data.vector_files import CAP, SUFFIXES, open_vectors
from core.data.word_pairs import read_word_pairs
from core.errors import InputError
from core.types import digest
from core.vector_bench import METRICS
from pages._ui import jobs, session, views
from pages._ui.load_your_own import local_root

_FORMS = """
An index dump, a recommender's table or a word-embedding file: **npy**, **npz**, **Parquet** (a list column),
**safetensors**, **word2vec** or **GloVe** (text or binary). Ids are kept. Without queries a fifth of the rows asks, and
the whole index's own top ten is the truth. **Interactions** of users and items (`u.data`, or a CSV with a user and an
item column) are factorised first; what each user was kept back from is the truth.
"""
_TYPES = [s.lstrip(".") for s in SUFFIXES]
_INTERACTIONS = ["data", "dat", "csv", "tsv"]
_METRIC = "How vectors are compared. Recommender tables want dot: their lengths say how often an item is wanted."


def files() -> None:
    """A vector file, with what may come beside it."""
    with st.expander("Vectors without a model", key="own_vectors"):
        st.markdown(_FORMS)
        with st.form("vectors", border=False):
            file = st.file_uploader("Vectors, or interactions", type=[*_TYPES, *_INTERACTIONS])
            ids = st.file_uploader("Ids of a .npy, one a line (optional)", type=["txt", "json"])
            queries = st.file_uploader("Query vectors (optional)", type=_TYPES)
            pairs = st.file_uploader(
                "Word-similarity sets (optional)", type=["txt", "csv", "tsv"], accept_multiple_files=True
            )
            metric = st.selectbox("Compared by", METRICS, help=_METRIC, key="own_metric")
            sent = st.form_submit_button("Check", type="primary")
        if sent and file is None:
            st.error("Choose a file with vectors first.")
        elif sent:
            _take(file, ids, queries, pairs, str(metric))


def _take(file: object, ids: object, queries: object, pairs: list[object], metric: str) -> None:
    """Keep the uploads side by side under names of our own, check their headers, and offer them."""
    path = session.keep_upload(file, "vectors")
    if looks_like_interactions(path):
        _take_interactions(path, str(file.name))  # type: ignore[attr-defined]
        return
    if ids is not None:  # another list of ids makes another source
        both = digest(path.read_bytes(), ids.getvalue())  # type: ignore[attr-defined]
        path = _copied(path, store.home() / "uploads" / both / path.name)
        name = "ids.json" if str(ids.name).endswith(".json") else f"{path.stem}.ids.txt"  # type: ignore[attr-defined]
        store.write_atomic(path.with_name(name), ids.getvalue())  # type: ignore[attr-defined]
    asked = session.keep_upload(queries, "queries") if queries is not None else None
    sets = [session.keep_upload(p, f"word-pairs-{i}") for i, p in enumerate(pairs, 1)]
    label = str(file.name)  # type: ignore[attr-defined]
    try:
        found = open_vectors(path, cap=CAP)
        for batch in found.batches():  # all of it, so that nothing fails later
            del batch
        if asked is not None and (wide := open_vectors(asked, cap=CAP).dimension) != found.dimension:
            raise InputError(
                f"the queries have {wide} dimensions, {label} has {found.dimension}: give the same model's"
            )
        for one in sets:
            read_word_pairs(one)
    except InputError as e:
        st.error(views.plain(str(e).replace(path.name, label)))
        return
    offer(str(path), label, metric, str(asked or ""), tuple(str(s) for s in sets))
    st.success(f"{views.plain(label)}: {found.rows:,} vectors of {found.dimension} dimensions ({found.form}), "
               f"compared by {metric}.")  # fmt: skip
    st.button("Use it now", on_click=_choose, args=(str(path),), key="use_vectors")


def _take_interactions(path: Path, label: str) -> None:
    """Users and items: checked, then factorised when they are chosen."""
    try:
        found = read_interactions(path)
    except InputError as e:
        st.error(views.plain(str(e).replace(path.name, label)))
        return
    offer(str(path), label, "")
    st.success(f"{views.plain(label)}: {len(found):,} interactions of {len(found.users):,} users and "
               f"{len(found.items):,} items.")  # fmt: skip
    st.button("Use it now", on_click=_choose, args=(str(path),), key="use_interactions")


def _copied(path: Path, target: Path) -> Path:
    if not target.exists():
        store.write_atomic(target, path.read_bytes())
    return target


def offer(spec: str, label: str, metric: str, queries: str = "", pairs: tuple[str, ...] = (), origin: str = "") -> None:
    """Put a source into the pickers; `origin` is the collection it was read from."""
    state = st.session_state
    state.setdefault("datasets", {})[spec] = label
    for key, value in (("metric_spec", metric), ("queries_spec", queries), ("pairs_spec", pairs), ("origin", origin)):
        if value:
            state.setdefault(key, {})[spec] = value


def _choose(spec: str) -> None:
    st.session_state["data"] = spec


def milvus() -> None:
    """A collection: of the server or file that ESPALIER_MILVUS names, or of a file in the folder that may be read."""
    with st.expander("A Milvus collection", key="own_milvus"):
        uri = _uri()
        if not uri:
            st.markdown(
                "Start Espalier with `ESPALIER_MILVUS` set to a Milvus Lite file (`./index.db`) or a server "
                "(`http://localhost:19530`; its token in `MILVUS_TOKEN`, which is never shown), and its collections "
                "stand here. An address typed here would be asked with your token, so none can be."
            )
            return
        found = _listed(uri)
        if found is None:
            return
        fields = {f"{c.name}/{f.name}": (c, f) for c in found for f in c.vectors if f.readable}
        if not fields:
            st.info(f"{views.plain(uri)} holds no collection with float vectors.")
            return
        picked = st.selectbox("Collection / field", list(fields), key="milvus_pick")
        info, field = fields[str(picked)]
        metric = field.metric or "cosine"
        st.caption(f"{info.rows:,} rows, {field.dimension} dimensions, {metric}.")
        _fetched(f"{uri}#{picked}", info.name, metric, info.rows)


def _listed(uri: str) -> list[stores.CollectionInfo] | None:
    """What the database holds, asked once a session: a local file is open to one process, and runs need it."""
    known: dict[str, list[stores.CollectionInfo]] = st.session_state.setdefault("milvus_listed", {})
    if st.button("Look again", key="milvus_again", icon=":material/refresh:", type="tertiary"):
        known.pop(uri, None)
    if uri not in known:
        try:
            known[uri] = stores.collections(uri)
        except InputError as e:
            st.error(views.plain(str(e)))
            return None
    return known[uri]


def _uri() -> str:
    """What may be asked: ESPALIER_MILVUS, or a file inside the folder that was named at the start."""
    named, root = os.environ.get("ESPALIER_MILVUS", ""), local_root()
    if named or root is None:
        return named
    files = [str(p) for p in sorted(root.rglob("*.db"))[:50]]
    return str(st.selectbox("Milvus Lite file", files, key="milvus_file")) if files else ""


def _fetched(spec: str, name: str, metric: str, rows: int) -> None:
    """Read the collection into a file of our own, as a run with progress and cancel; then offer it."""
    path = store.home() / "collections" / digest(spec, str(rows)) / "vectors.parquet"
    argv = ["vectors", "copy", "--in", spec, "--out", str(path), "--overwrite"]
    status = jobs.look(argv)
    if status is not None and status.state == "running":
        jobs.follow(status)
    elif status is not None and status.state == "done" and path.exists():
        offer(str(path), name, metric, origin=spec)
        st.success(f"{views.plain(name)}: {rows:,} vectors were read.")
        row = st.container(horizontal=True)
        row.button("Use it now", on_click=_choose, args=(str(path),), key="use_milvus")
        row.button("Read it again", on_click=jobs.again, args=(argv, f"Reading {name}"), key="again_milvus")
    else:
        if status is not None:
            st.error(views.plain(status.error or status.state))
        st.button("Read this collection", on_click=jobs.again, args=(argv, f"Reading {name}"), key="read_milvus",
                  type="primary")  # fmt: skip
