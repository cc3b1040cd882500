"""Pieces of pages: the verdict, the metric cards, the honest meter, what hurt most, the download panel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from core import meter as meters
from core import plots
from core.bench import Bench
from core.evaluate.cost import index_bytes
from core.types import Dataset
from core.verdict import MEASURE_HELP, MEASURE_NAMES, Study, percent, sentence
from pages._ui import cache, session, steps

CHART = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["zoomIn2d", "zoomOut2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "png", "scale": 2},
}


_MARKS = re.compile(r"([\\`*_\[\]<>$~#|]|:(?=[\w/]))")


def plain(text: str) -> str:
    """A text of somebody else's inside Markdown: every mark is escaped, so that it shows as it was written."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def chart(figure: Any, alt: str, key: str, table: pd.DataFrame | None = None, **more: Any) -> Any:
    """A figure with its alt text and, behind a button, the same as a table (which downloads as CSV)."""
    event = st.plotly_chart(figure, key=key, config=CHART, alt=alt, **more)
    if table is not None:
        behind("As table", table)
    return event


def behind(label: str, frame: pd.DataFrame) -> None:
    """A table behind a button, as wide as its columns."""
    with st.popover(label, icon=":material/table:"):
        st.dataframe(frame, hide_index=True, width="content", column_config=one_decimal(frame))


def shares(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Shares as percentages, which their heads say; everything else to four places."""
    out = frame.round(4)
    for c in columns:
        out[c] = (100 * pd.to_numeric(frame[c])).round(2)
    return out.rename(columns={c: f"{c}, %" for c in columns})


def one_decimal(frame: pd.DataFrame) -> Any:
    """How columns in percent are shown."""
    return {c: st.column_config.NumberColumn(format="%.1f") for c in frame.columns if str(c).endswith(", %")}


def called(bench: Bench, choice: session.Choice, name: str) -> str:
    """What the person calls a data set: an upload's own file name, where core has the name that we gave it."""
    first = bench.judges[0].dataset.name
    return session.datasets().get(choice.data, name) if name == first and choice.data not in session.DATA else name


def contents(data: Dataset, judged: int, documents: str = "documents") -> str:
    """How much there is of what, and what stands for truth."""
    n = f"{len(data.documents):,}"
    if data.kind == "pairs":
        return f"{n} pairs, scored by people"
    if data.kind == "labels":
        return f"{n} training texts, {judged:,} test texts, labelled"
    truth = "agreement with the unpruned ranking" if data.truth == "agreement" else data.truth
    return f"{n} {documents}, {judged:,} queries, {truth}"


def of_prune(same: str) -> str:
    """What a page of dimensions shares with the Prune page; where something else is cut there, that it does not."""
    target = st.session_state.get("target", "dimensions")
    elsewhere = f"Dimensions only; the Prune page is on *{steps.LABELS[target].lower()}*."
    return same if target == "dimensions" else elsewhere


def verdict(found: Study, index: int, measure: str, vectors: float) -> None:
    first, second = sentence(found, index, measure, vectors)
    st.markdown(f"#### {first}\n{second}")


def notes(found: Sequence[str]) -> None:
    """What a reader of the figures must know, behind one line."""
    if found:
        with st.popover("What to know about these figures", icon=":material/info:", type="tertiary"):
            for note in found:
                st.markdown(f"- {note.replace('`outside_fit` judges', 'this page judges')}")


def cards(found: Study, index: int, measures: Sequence[str]) -> None:
    """Retention first, then the change, then the interval, for four measures."""
    shown = [m for m in measures if m in found.careful.values][:3]
    columns = st.columns(len(shown) + (1 if len(found.overlap) else 0))
    for column, m in zip(columns, shown, strict=False):
        b = found.band(m)
        figures = (float(v[index]) for v in (b.ratio, b.low, b.high, b.p_value))
        card(column, m, found.plain.means(m)[0], *figures)
    if len(found.overlap):
        columns[-1].metric(
            "Neighbours kept",
            percent(float(found.overlap[index])),
            border=True,
            help=(
                "The share of a document's ten nearest neighbours that are still among "
                "its ten nearest, measured in the full space. Cosine falls later than "
                "this."
            ),
        )
        columns[-1].caption("of 10, full space")


def card(column: Any, measure: str, before: float, ratio: float, low: float, high: float, p: float) -> None:
    """One measure: what is kept, the change or that it is noise, the interval."""
    noise = p >= 0.05
    colour: Any = "off" if noise else "normal"
    column.metric(
        MEASURE_NAMES.get(measure, measure),
        percent(ratio),
        "within noise" if noise else f"{before * (ratio - 1):+.3f} of {before:.3f}",
        delta_color=colour,
        delta_arrow="off" if noise else "auto",
        help=MEASURE_HELP.get(measure),
        border=True,
    )
    column.caption(f"{100 * low:.1f} to {100 * high:.1f} %" if np.isfinite(low) else "no interval")


def curve(
    found: Study, others: dict[str, Study], labels: dict[str, str], measure: str, index: int, floor: float
) -> None:
    figure = plots.curves(found, others, labels, measure, index, floor)
    b, (chance, _) = found.band(measure), found.random(measure)
    alt = (
        f"{plots.curve_title(found, measure, floor)}. At the chosen ratio "
        f"{percent(float(b.ratio[index]))} is kept; random pruning keeps "
        f"{percent(float(chance[index]))}."
    )
    chart(figure, alt, "curve", _curve_table(found, others, labels, measure))


def _curve_table(found: Study, others: dict[str, Study], labels: dict[str, str], measure: str) -> pd.DataFrame:
    b, (chance, _) = found.band(measure), found.random(measure)
    table = pd.DataFrame(
        {
            "ratio": found.plain.ratios,
            "dimensions": found.plain.kept,
            labels[found.step.name]: b.ratio,
            "low": b.low,
            "high": b.high,
            "p": b.p_value,
            "random": chance,
        }
    )
    for name, s in others.items():
        if name != found.step.name:
            table[labels[name]] = s.ratio(measure)
    return shares(table, *(c for c in table.columns if c not in ("dimensions", "p")))


def meter(bench: Bench, found: Study, index: int, vectors: float) -> None:
    """What this kind of cut can give, before anything runs: measured or computed, never hoped."""
    bars(meters.dimension_rows(bench.model, found.units, found.plain.kept[index], vectors))


def bars(rows: Sequence[tuple[str, str, float]]) -> None:
    """The honest meter: label, words, share left of each cost."""
    st.markdown("**Honest meter**", help="What is left of each cost, beside what was not pruned. Cutting vectors or "
                "their numbers shrinks the index and speeds up search; the encoder stays what it is.")  # fmt: skip
    alt = "; ".join(f"{label}: {words}" for label, words, _ in rows)
    st.plotly_chart(plots.meter(rows), key="meter", config={"displayModeBar": False}, alt=alt)


def money(vectors: float, full: int, kept: int) -> None:
    """The person's own number of vectors and, if they give one, a price."""
    price = st.number_input(
        "price per GB and month, in your currency",
        0.0,
        1000.0,
        0.0,
        0.05,
        key="price",
        persist_state="session",
        help="Of your vector database's memory. 0 = not shown.",
    )
    if price:
        before, after = (index_bytes(int(vectors), d) / 1e9 * price for d in (full, kept))
        st.caption(f"{before:,.2f} → {after:,.2f} a month for {vectors:,.0f} vectors")


def hurt(found: Study, index: int, measure: str) -> None:
    """The queries that lost most, and the worst slice beside the mean."""
    if found.plain.kept[index] == found.units:
        st.caption("Nothing is cut: nothing hurts.")
        return
    number = st.column_config.NumberColumn(format="%.2f", width=70)
    config: Any = {
        "query": st.column_config.TextColumn(width="large"),
        "before": number,
        "after": number,
        "change": number,
    }
    st.dataframe(hurt_table(found, index, measure, 6), hide_index=True, height="content", column_config=config)
    parts = found.slices(index, measure)
    if parts:
        worst = parts[0]
        mean = float(found.ratio(measure)[index])
        st.markdown(
            f"Worst slice: **{plain(worst.name)}** ({worst.by}, {worst.queries} queries) keeps "
            f"**{percent(worst.ratio)}**; the mean keeps {percent(mean)}."
        )
        table = pd.DataFrame([s.__dict__ for s in parts]).rename(columns={"ratio": "kept"})
        behind("All slices", shares(table, "kept"))


def hurt_table(found: Study, index: int, measure: str, most: int) -> pd.DataFrame:
    """Queries in order of what they lost, worst first: change, text, before, after."""
    values = found.careful.values[measure]
    if found.judge.dataset.kind == "pairs" or values.shape[1] != len(found.judge.query_texts):
        return pd.DataFrame({"note": ["not defined per text for this measure"]})
    rows = found.hurt(index, measure)[:most]
    asked, before, after = found.judge.query_texts, found.plain.values[measure][0], values[index]
    return pd.DataFrame(
        {
            "change": (after - before)[rows].round(3),
            "query": [asked.texts[i] for i in rows],
            "before": before[rows].round(3),
            "after": after[rows].round(3),
        }
    )


def two_stage(bench: Bench, found: Study, index: int, judge: int, measure: str) -> None:
    """Shortlist on the pruned vectors, rescore with the full ones: its quality, and what it costs."""
    step = found.plan(index).steps[0]
    shortlist = st.select_slider(
        "shortlist",
        [10, 20, 50, 100, 200, 500],
        100,
        key="shortlist",
        persist_state="session",
        help="How many hits of the pruned search are scored again with the full vectors.",
    )
    if found.judge.task is None:
        st.caption("Two-stage search needs queries.")
        return
    kept = cache.two_stage(bench, step, shortlist, judge)  # type: ignore[arg-type]
    full = float(found.plain.means(measure)[0])
    plain = float(found.plain.means(measure)[index]) / full if full else float("nan")
    milliseconds = cache.search_ms(bench, step, judge)  # type: ignore[arg-type]
    d, n = found.units, len(found.judge.dataset.documents)
    rescored = percent(kept[measure] / full if full else float("nan"))
    st.markdown(
        f"Rescoring {shortlist} of {n:,} hits keeps **{rescored}** of {MEASURE_NAMES[measure]}, the plain cut "
        f"{percent(plain)} (both fitted on all documents). It reads {shortlist} × {4 * d:,} B = "
        f"{shortlist * 4 * d / 1e3:,.0f} kB a query and keeps the full vectors on disk. "
        f"Exact search here: {milliseconds[0]:.3f} → {milliseconds[1]:.3f} ms a query."
    )
