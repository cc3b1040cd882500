"""Write what stays back to Milvus: a new collection, counted and read back, then the alias; and both searched."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from core import jobs, stores
from core.milvus_search import index_types
from core.plan import Plan
from pages._ui import jobs as running
from pages._ui import views
from pages._ui.session import Choice

_ABOUT = (
    "Writes a new collection beside the old one, which stays as it is; counts it, reads a sample back, and only then "
    "lets the alias name it. Interrupted or repeated, no row is lost or doubled."
)


def panel(choice: Choice, plan: Plan) -> None:
    """Only for vectors that were read from a collection."""
    origin = st.session_state.get("origin", {}).get(choice.data)
    if not origin or any(s.target in ("quantize", "components") for s in plan.flat):
        return
    where = stores.parse(origin)
    with st.container(border=True):
        st.markdown("**Back to Milvus**", help=_ABOUT)
        target = f"{where.uri}#{where.collection}"
        argv = ["vectors", "prune", "--in", origin, "--plan", str(plan), "--out", target, "--seed", str(choice.seed)]
        status = running.look(argv)
        if status is not None and status.state == "running":
            running.follow(status)
            return
        if status is not None and status.state == "done":
            _written((jobs.result(status.id) or {}).get("export") or {}, origin, where.uri)
            st.button(
                "Write it again", key="push_again", type="tertiary", on_click=running.again,
                args=(argv, f"Milvus: {where.collection}"),
                help="Reads the collection as it is now; where it has changed, a new one is written.",
            )  # fmt: skip
            return
        if status is not None:
            words = "Started again it goes on: rows are written under their own ids."
            running.ended(status, f"Milvus: {views.plain(where.collection)}", "push", words)
            return
        st.button(f"Write a new collection beside {views.plain(where.collection)}", key="push", type="primary",
                  on_click=running.again, args=(argv, f"Milvus: {where.collection}"), help=_ABOUT)  # fmt: skip


def _written(done: dict[str, Any], origin: str, uri: str) -> None:
    st.success(f"**{views.plain(str(done['collection']))}**: {done['rows']:,} vectors, counted; {done['read_again']:,} "
               f"read back bit for bit. The alias `{done['alias']}` names it.", icon=":material/verified:")  # fmt: skip
    if done.get("alias_before"):
        st.caption(f"The alias named `{done['alias_before']}` before: point it there to go back.")
    if done.get("older"):
        st.caption(f"Earlier ones stay until you drop them: {', '.join(done['older'])}.")
    types = st.multiselect(
        "Index types", index_types(uri), key="milvus_types", persist_state="session",
        help="Tried on copies that are dropped again; without any, both are searched as they are.",
    )  # fmt: skip
    sides = [w for key in ("projection", "groups") if done.get(key) for w in (f"--{key}", str(done[key]))]
    argv = ["vectors", "compare", "--in", origin, "--with", f"{uri}#{done['collection']}", *sides, "--rescore", "100",
            *(["--index", ",".join(types)] if types else [])]  # fmt: skip
    if done.get("projection"):
        st.caption(f"Queries are multiplied with `{done['projection']}`.")
    status = running.look(argv)
    if status is not None and status.state == "running":
        running.follow(status)
    elif status is not None and status.state == "done":
        _table(jobs.result(status.id) or {})
    else:
        if status is not None:
            st.error(views.plain(status.error or status.state))
        st.button("Search both side by side", key="compare_milvus", on_click=running.again,
                  args=(argv, "Searching both"), help="Milliseconds and recall of 100 of its own rows.")  # fmt: skip


def _table(found: dict[str, Any]) -> None:
    rows = [{"search": r["search"], "index": r["index"], "vectors": r["rows"], "MB": r["bytes"] / 1e6,
             "recall@10": r["recall@10"], "ms a query": r["ms"]} for r in found["searches"]]  # fmt: skip
    number = st.column_config.NumberColumn
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        height="content",
        column_config={
            "MB": number(format="%.1f"),
            "recall@10": number(format="%.3f"),
            "ms a query": number(format="%.2f"),
        },
    )
    st.caption("; ".join(found["notes"]) + ".")
