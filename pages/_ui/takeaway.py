"""Take it away: prepare and verify, then download; out of date as soon as a setting moves."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import streamlit as st

from core import export, jobs, store
from core.bench import Bench
from core.encoders import VECTORS
from core.jobs import Status
from core.plan import Plan
from core.registry import card, resolve
from core.select import apply
from core.types import digest
from core.vector_bench import is_source
from core.verdict import gigabytes, percent
from pages._ui import cache, views
from pages._ui import jobs as running
from pages._ui.session import Choice, datasets, models, wanted


def command(choice: Choice, plan: Plan, out: str, form: str = "", draws: int | None = None) -> list[str]:
    """The command line that does exactly this; `form` where the format is not the plain one, `draws` of random cuts."""
    plain = "vectors" if any(card(s.name).two_maps for s in plan.steps) else "sentence-transformers"
    said = ["--draws", str(draws)] if draws is not None else []
    return ["prune", *choice.arguments, "--plan", str(plan), "--out", out, "--format", form or plain, "--zip", *said]


def held(choice: Choice) -> bool:
    """Whether other texts or another model are on their way: nothing of the last ones is handed out meanwhile."""
    if choice == wanted():
        return False
    words = f"What is shown is still of {datasets().get(choice.data, '')} with {models().get(choice.model, '')}"
    st.caption(f":material/hourglass_top: {views.plain(words)}: no download until your choice is ready.")
    return True


def panel(bench: Bench, choice: Choice, plan: Plan) -> None:
    if held(choice):
        return
    resolved = resolve(plan, choice.seed)
    place = store.home() / "exports" / f"{resolved.slug}-{digest(bench.fingerprint)[:8]}"
    argv = command(choice, resolved, str(place), "vectors" if bench.model.architecture == VECTORS else "")
    status = running.look(argv)
    done = status is not None and status.state == "done" and (place / store.MANIFEST).exists()
    last = st.session_state.get("prepared")
    if done:
        st.session_state["prepared"] = jobs.identity(argv)
        _downloads(bench, resolved, place, jobs.result(jobs.identity(argv)) or {}, choice)
        return
    if status is not None and status.state == "running":
        running.follow(status)
        return
    if status is not None and status.state == "failed":
        st.error(status.error)
    if last and last != jobs.identity(argv):
        st.warning(
            "**Out of date**: a setting moved since the last download was prepared. Prepare again.",
            icon=":material/history:",
        )
    st.button(
        "Prepare & verify",
        type="primary",
        icon=":material/verified:",
        key="prepare",
        on_click=_prepare,
        args=(argv, status),
        help=(
            "Writes the pruned model, reopens it in a fresh process with plain "
            "SentenceTransformer, compares the vectors, and only then offers it. "
            "About half a minute; vectors without a model take seconds."
        ),
    )
    _copies(resolved, choice)


def _prepare(argv: list[str], status: Status | None) -> None:
    label = "Prepare & verify"
    if status is None or status.state == "running":
        running.start(argv, label)
    else:
        running.again(argv, label)


def _downloads(bench: Bench, plan: Plan, place: Path, report: dict[str, Any], choice: Choice) -> None:
    done = report.get("export") or {}
    if "max_difference" in done:
        st.success(
            f"**Verified**: reopened in a fresh process, largest difference {done['max_difference']:.1e}.",
            icon=":material/verified:",
        )
    if card(plan.steps[0].name).refits:
        _exact(report)
    speedup = report.get("speedup", {}).get("measured")
    if speedup:
        memory = report["after"]["cost"].get("peak_memory_bytes", 0)
        st.caption(
            "Measured beside the unpruned model: encoding "
            f"{speedup:.2f}x as fast (ideal 1.00x); both "
            f"together peak at {gigabytes(memory)} of memory."
        )
    reduction = cache.reduction(bench, plan.steps[0])  # type: ignore[arg-type]
    judge = bench.judges[0]
    row = st.container(horizontal=True)
    if not reduction.identity:
        matrix = export.vectors.projection(reduction)
        row.download_button(
            f"Matrix {len(matrix) / 1e6:.1f} MB",
            matrix,
            export.content_name("projection", matrix, ".npz"),
            key="get_matrix",
            on_click="ignore",
            icon=":material/grid_on:",
            help="Migrates an existing index without encoding again.",
        )
    small = apply(reduction, judge.documents.vectors)
    vectors = export.vectors.parquet(judge.dataset.documents.ids, small)
    row.download_button(
        f"Vectors {len(vectors) / 1e6:.1f} MB",
        vectors,
        export.content_name("vectors", vectors, ".parquet"),
        key="get_vectors",
        on_click="ignore",
        icon=":material/table_rows:",
        help="Ids and pruned vectors as Parquet.",
    )
    plain = export.vectors.npy(small)
    row.download_button(
        "as .npy", plain, export.content_name("vectors", plain, ".npy"), key="get_npy", on_click="ignore"
    )
    archive = Path(done["zip"]) if done.get("zip") else None
    if archive is not None and archive.exists():
        words = f"Model {archive.stat().st_size / 1e6:.0f} MB" if "max_difference" in done else "Folder"
        row.download_button(
            words,
            archive.read_bytes,
            archive.name,
            "application/zip",
            key="get_model",
            on_click="ignore",
            type="primary",
            icon=":material/download:",
        )
    st.caption(f"Also at `{place}`, with its card and recipe.")
    _copies(plan, choice, str(place))


def _exact(report: dict[str, Any]) -> None:
    """What a method that refits reached when it was fitted for this size: the curve shows its shared basis."""
    for name, measures in report.get("retention", {}).items():
        main = next(iter(measures), None)
        if main:
            r = measures[main]
            st.info(
                f"Fitted anew for this size: {percent(r['ratio'])} of {main} on {name} "
                "(the curve shows one basis for all sizes)."
            )
            return


def _copies(plan: Plan, choice: Choice, place: str = "DIR") -> None:
    alone = is_source(choice.data)
    argv = command(choice, plan, "pruned-vectors" if alone else "pruned-model", "vectors" if alone else "")
    copies(argv, export.vectors.SNIPPET if alone else python(place), migrate=not alone)


def python(place: str) -> str:
    return (
        "from sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("{place}")\nvectors = model.encode(["a text"])'
    )


def copies(argv: list[str], code: str, migrate: bool = False) -> None:
    """The same from the command line and from Python; `migrate` adds the lines for an index that is there already."""
    row = st.container(horizontal=True)
    with row.popover("Copy command", icon=":material/terminal:"):
        st.code(shlex.join(["python", "-m", "core", *argv]), language="bash", wrap_lines=True)
    with row.popover("Copy Python", icon=":material/code:"):
        st.code(code)
        if migrate:
            st.caption("Migrate an index with the matrix:")
            st.code(export.vectors.SNIPPET)
