"""A finished encoder cut: cards, what every data set says, what hurt, what was rounded, and the downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from core import encoder_verdict, export
from core.encoder_verdict import number
from core.plan import parse
from core.verdict import MEASURE_NAMES, gigabytes, percent
from pages._ui import combine, jobs, takeaway, views
from pages._ui.session import Choice

_KIND = {"onnx": "ONNX model", "onnx-int8": "ONNX int8 model", "vectors": "Vectors and matrices"}


def show(choice: Choice, report: dict[str, Any], argv: list[str], data: str, measure: str) -> None:
    cards(report, data, measure)
    _training(report, argv)
    with st.container(border=True):
        st.markdown("**Every data set**", help="Retention with its 95 % interval, beside random units with the same "
                    "reconstruction.")  # fmt: skip
        _table(report)
    with st.container(border=True):
        st.markdown("**Hurt most**", help="The slices that lost most; the mean hides them.")
        _slices(report, data)
        _known(report)
    with st.container(border=True):
        st.markdown("**Take it away**")
        downloads(report, choice, argv)


def cards(report: dict[str, Any], data: str, measure: str) -> None:
    """Retention first, then the change, then the interval; neighbours and cosine beside it."""
    found = report["retention"].get(data, {})
    names = [m for m in (measure, *found) if m in found]
    shown = list(dict.fromkeys(names))[:3]
    columns = st.columns(len(shown) + 1)
    for column, m in zip(columns, shown, strict=False):
        views.card(column, m, *(number(found[m][k]) for k in ("before", "ratio", "low", "high", "p_value")))
    moved = report["drift"]
    columns[-1].metric(
        "Neighbours kept",
        percent(number(moved.get("neighbour_overlap@10"))),
        border=True,
        help="The share of a document's ten nearest neighbours that are still among its ten nearest; below it the "
        "mean cosine of a document's vector to the unpruned model's.",
    )
    columns[-1].caption(f"of 10; cosine {number(moved.get('cosine')):.3f}")


def _training(report: dict[str, Any], argv: list[str]) -> None:
    """How the training went, and every round of a schedule, each to be had."""
    points = encoder_verdict.training_points(report)
    if not points:
        return
    with st.container(border=True):
        st.markdown("**Training**", help="Held-out texts are never trained on; the state that is best on them is kept.")
        jobs.training(points, "trained")
        for note in encoder_verdict.training_notes(report):
            st.caption(f":material/info: {views.plain(note)}")
        found = report["encoder"]
        if found.get("stopped"):
            st.button("Train to the end", icon=":material/resume:", key="train_on", on_click=jobs.again,
                      args=(argv, "Train to the end"), help="Goes on from the best so far.")  # fmt: skip
        if len(found.get("rounds", [])) > 1:
            row = st.container(horizontal=True, vertical_alignment="center")
            for r in found["rounds"]:
                number = int(r["round"])
                row.button(f"Take round {number}", key=f"take_{number}", disabled=number == found["round_given"],
                           on_click=combine.take_round, args=(number,),
                           help="Sets take= in the plan; its encoder is there: it is judged and written.")  # fmt: skip


def _table(report: dict[str, Any]) -> None:
    share, figure = (st.column_config.NumberColumn(format=f) for f in ("%.1f", "%.3f"))
    config: Any = dict.fromkeys(("before", "after", "p"), figure)
    config |= dict.fromkeys((f"{k}, %" for k in ("kept", "low", "high", "random")), share)
    table = pd.DataFrame(encoder_verdict.table(report))
    st.dataframe(table, hide_index=True, height="content", column_config=config)


def _slices(report: dict[str, Any], data: str) -> None:
    parts = report["slices"].get(data, [])
    if not parts:
        st.caption("No slices: this data set has one figure for all of it.")
        return
    worst = parts[0]
    mean = report["retention"][data]
    main = next(iter(mean))
    st.markdown(
        f"Worst slice: **{views.plain(worst['name'])}** ({worst['by']}, {worst['queries']} queries) keeps "
        f"**{percent(number(worst['ratio']))}** of {MEASURE_NAMES.get(main, main)}; the mean keeps "
        f"{percent(number(mean[main]['ratio']))}."
    )
    views.behind("All slices", views.shares(pd.DataFrame(parts), "ratio"))


def _known(report: dict[str, Any]) -> None:
    """Token coverage, what was rounded, and what a reader must know."""
    covered = encoder_verdict.coverage_words(report)
    if covered:
        st.markdown(f"Vocabulary: {views.plain(covered)}")
    if report["rounded"]:
        st.caption(f"Rounded: {views.plain('; '.join(report['rounded']))}.")
    if report["notes"]:
        with st.popover("Notes of this run", icon=":material/info:"):
            for note in report["notes"]:
                st.markdown(f"- {views.plain(note)}")


def downloads(report: dict[str, Any], choice: Choice, argv: list[str]) -> None:
    if takeaway.held(choice):
        return
    done = report.get("export") or {}
    form, place = done.get("format", ""), Path(str(done.get("path", "")))
    if "max_difference" in done:
        st.success(f"**Verified**: {encoder_verdict.verified(done)}.", icon=":material/verified:")
    archive = Path(done["zip"]) if done.get("zip") else None
    if archive is not None and archive.exists():
        st.download_button(
            f"{_KIND.get(form, 'Model')} {gigabytes(archive.stat().st_size)}",
            archive.read_bytes,
            archive.name,
            "application/zip",
            key="get_encoder",
            on_click="ignore",
            type="primary",
            icon=":material/download:",
        )
        st.caption(f"Also at `{place}`, with its card and recipe.")
    else:
        st.caption("The files are gone from this machine's disk.")
        st.button("Write them again", key="write_again", on_click=jobs.again, args=(argv, "Cut, judge & verify"))
    argv = takeaway.command(choice, parse(report["resolved_plan"]), "pruned-model", form)
    graph = form.startswith("onnx")
    code = (
        _onnx_python(place) if graph else export.vectors.SNIPPET if form == "vectors" else takeaway.python(str(place))
    )
    takeaway.copies(argv, code)


def _onnx_python(place: Path) -> str:
    return (
        f'import sys\n\nsys.path.insert(0, "{place}")\n'
        "from embed import embed  # onnxruntime and tokenizers are all it needs\n\n"
        'vectors = embed(["a text"])'
    )
