"""The two tabs of Explore: the linked maps with what a selection holds, and one query's results before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from core import maps, plots, results
from core.bench import Bench, Judge
from core.maps import MapPair
from core.plan import Plan, Step
from core.types import Reduction
from core.verdict import MEASURE_NAMES, Study, percent
from pages._ui import cache, jobs, views
from pages._ui.session import Choice

_TEXT = 280  # characters of a text shown in a list
_NEAR = "The share of a document's ten nearest neighbours that are still among its ten nearest, in the full space."
_COSINE = "The cosine of a document's vector before and after, once the two spaces are rotated onto each other."
_COLUMNS: Any = {
    "neighbours kept, %": st.column_config.NumberColumn(format="%.1f", help=_NEAR),
    "cosine, best rotation": st.column_config.NumberColumn(format="%.3f", help=_COSINE),
}
_RADIUS = "A layout radius is the root-mean-square distance of the points from their middle."


def map_tab(bench: Bench, choice: Choice, index: int, cut: Step, reduction: Reduction) -> None:
    judge = bench.judges[index]
    pair = _pair(bench, choice, index, cut, reduction)
    topics = judge.dataset.documents.labels
    offered = (["topic"] if topics else []) + ["neighbours kept", "cluster"]
    by = st.segmented_control(
        "Colour by", offered, default=offered[0], required=True, key="colour", persist_state="session"
    )
    colour, names = _colour(bench, index, cut, reduction, pair, str(by))
    title = _title(pair)
    titles = [_name(judge, int(r)) for r in pair.rows]
    event = views.chart(
        plots.maps(pair, colour, names, title, titles),
        f"{title}. {_about(pair)}",
        "map",
        _map_table(pair, titles, colour, names),
        on_select="rerun",
        selection_mode=("points", "box", "lasso"),
    )
    st.caption(_about(pair), help=_RADIUS)
    picked = _picked(event)
    if not picked:
        st.info(
            "Pick points on either map (click one, or take the lasso from the "
            "toolbar above) to read their texts and see their neighbours."
        )
        _moved_most(bench, index, cut)
        return
    _selection(judge, reduction, picked)


def _map_table(pair: MapPair, titles: list[str], colour: Any, names: list[str] | None) -> pd.DataFrame:
    what, shown = ("group", [names[int(c)] for c in colour]) if names else ("neighbours kept, %", 100 * colour)
    places = {
        f"{side} {a}": points[:, i].round(3)
        for side, points in (("before", pair.before), ("after", pair.after))
        for i, a in enumerate("xy")
    }
    return pd.DataFrame({"document": titles, what: shown, **places})


def _pair(bench: Bench, choice: Choice, index: int, cut: Step, reduction: Reduction) -> MapPair:
    """UMAP where it is ready, else the PCA map at once while UMAP is computed in a process of its own."""
    found = maps.cached_umap(bench.judges[index].documents.vectors, reduction, choice.seed)
    if found is not None:
        return found
    argv = ["map", *choice.arguments, "--plan", str(Plan((cut,)))]
    status = jobs.look(argv)
    if index == 0 and (status is None or status.state == "running"):
        jobs.start(argv, "UMAP")
        st.caption(":material/hourglass: The PCA map, at once; UMAP takes its place when it is done (see the sidebar).")
    elif status is not None and status.state in ("failed", "cancelled"):
        st.warning(f"UMAP: {status.error}. The PCA map is shown.")
        st.button("Compute UMAP", on_click=jobs.again, args=(argv, "UMAP"))
    return cache.pca(bench, cut, index)


def _title(pair: MapPair) -> str:
    kind = "UMAP" if pair.kind == "umap" else "PCA"
    if not np.isfinite(pair.moved):
        return f"{kind} of {len(pair.rows):,} documents"
    if np.isfinite(pair.noise) and pair.moved <= pair.noise * 1.1:
        return f"{kind}: points move no more than two layouts of the same vectors do"
    return f"{kind}: the median point moves {pair.moved:.2f} radii"


def _about(pair: MapPair) -> str:
    floor = (
        f" The noise floor, two layouts of the same vectors, is {pair.noise:.2f}." if np.isfinite(pair.noise) else ""
    )
    notes = " ".join(pair.notes)
    return (
        f"{len(pair.rows):,} documents. The median point moves {pair.moved:.2f} "
        f"layout radii.{floor} Positions are not drift: colour by neighbours "
        f"kept, measured in the full space. {notes}"
    )


def _colour(
    bench: Bench, index: int, cut: Step, reduction: Reduction, pair: MapPair, by: str
) -> tuple[Any, list[str] | None]:
    judge = bench.judges[index]
    if by == "topic":
        names = sorted({judge.dataset.documents.labels[i] for i in pair.rows})
        place = {n: i for i, n in enumerate(names)}
        return np.array([place[judge.dataset.documents.labels[i]] for i in pair.rows]), names
    if by == "cluster":
        found = cache.clusters(bench, index)[pair.rows]
        return found, [f"cluster {i + 1}" for i in range(int(found.max()) + 1)]
    drift = cache.drift(bench, cut, index)
    kept = np.ones(len(judge.documents))
    kept[drift.rows] = drift.overlap  # the same rows as the map's
    return kept[pair.rows], None


def _picked(event: Any) -> list[int]:
    points = (event or {}).get("selection", {}).get("points", []) if event else []
    found = []
    for p in points:
        data = p.get("customdata")
        value = data[0] if isinstance(data, list | tuple) else data
        if value is not None:
            found.append(int(value))
    return list(dict.fromkeys(found))


def _selection(judge: Judge, reduction: Reduction, picked: list[int]) -> None:
    """The texts of the picked points; for one of them its neighbours before and after."""
    texts = judge.dataset.documents
    rows = [r for r in picked if r < len(texts)]
    st.markdown(f"**{len(rows)} picked**")
    row = st.selectbox("Neighbours of", rows, format_func=lambda r: _name(judge, r), key="neighbours_of")
    st.text(texts.texts[row][: 3 * _TEXT])
    before, after = results.neighbours(judge, reduction, row)
    stay = set(before.tolist()) & set(after.tolist())
    st.markdown(f"{len(stay)} of its {len(before)} nearest neighbours stay.")
    one, two = st.columns(2)
    for column, head, near in ((one, "before", before), (two, "after", after)):
        column.dataframe(
            pd.DataFrame(
                {head: [_name(judge, int(r)) for r in near], "stays": ["yes" if int(r) in stay else "no" for r in near]}
            ),
            hide_index=True,
            key=f"near-{head}",
        )
    if len(rows) > 1:
        with st.expander(f"All {len(rows)} picked texts"):
            st.dataframe(
                pd.DataFrame({"id": [texts.ids[r] for r in rows], "text": [texts.full[r][:_TEXT] for r in rows]}),
                hide_index=True,
            )


def _name(judge: Judge, row: int) -> str:
    texts = judge.dataset.documents
    title = texts.titles[row] if texts.titles else ""
    return f"{texts.ids[row]} · {title or texts.texts[row][:60]}"


def _moved_most(bench: Bench, index: int, cut: Step) -> None:
    """The documents whose neighbourhoods changed most, and the topics, worst first."""
    judge, drift = bench.judges[index], cache.drift(bench, cut, index)
    order = np.argsort(drift.overlap, kind="stable")[:10]
    st.markdown("**Moved most** (fewest of their ten nearest neighbours kept)")
    st.dataframe(
        pd.DataFrame(
            {
                "document": [_name(judge, int(drift.rows[i])) for i in order],
                "neighbours kept, %": 100 * drift.overlap[order],
                "cosine, best rotation": drift.cosine[order],
            }
        ),
        hide_index=True,
        column_config=_COLUMNS,
    )
    labels = judge.dataset.documents.labels
    summary = drift.summary
    st.caption(
        f"Over {len(drift.rows):,} documents: neighbours kept "
        f"{percent(float(drift.overlap.mean()))}, cosine {summary['cosine']:.3f}"
        f", CKA {summary['cka']:.3f}.",
        help=f"{_COSINE} CKA (centred kernel alignment): how alike the similarities among all documents are before and "
        "after, one number for the whole set; 1 is the same.",
    )
    if labels:
        frame = pd.DataFrame(
            {
                "topic": [labels[int(r)] for r in drift.rows],
                "neighbours kept, %": 100 * drift.overlap,
                "cosine, best rotation": drift.cosine,
            }
        )
        st.markdown("**By topic**, worst first")
        means = frame.groupby("topic", as_index=False).mean().sort_values("neighbours kept, %")
        st.dataframe(means, hide_index=True, column_config=_COLUMNS)


def queries_tab(found: Study, reduction: Reduction, index: int, measure: str) -> None:
    """Queries worst first; one of them with both result lists and the moves drawn between."""
    judge = found.judge
    if judge.task is None:
        st.info("This data has no queries to search with. Choose texts with queries under *Data & model*.")
        return
    before, after = found.plain.values[measure][0], found.careful.values[measure][index]
    order = found.hurt(index, measure)  # as on the Prune page
    texts = judge.query_texts.texts
    picked = st.selectbox(
        f"Query, worst first by {MEASURE_NAMES.get(measure, measure)}",
        order.tolist(),
        key="query",
        format_func=lambda q: f"{before[q]:.2f} → {after[q]:.2f}   {texts[q][:110]}",
    )
    shown = results.hits(judge, reduction, int(picked))
    ids = judge.dataset.documents.ids
    names = {ids[r]: _title_of(judge, r) for r in (*shown.before, *shown.after)}
    one, two = [ids[r] for r in shown.before], [ids[r] for r in shown.after]
    lost = [d for d in shown.grades if d in one and d not in two]
    alt = (
        f"Results of one query before and after; {len(set(one) & set(two))} of "
        f"{len(one)} stay; relevant documents lost: {len(lost)}."
    )
    table = pd.DataFrame(
        {
            "rank": range(1, len(one) + 1),
            "before": one,
            "after": two,
            "relevant before": [shown.grades.get(d, 0) for d in one],
            "relevant after": [shown.grades.get(d, 0) for d in two],
        }
    )
    st.markdown(f"**{views.plain(texts[picked])}**")
    views.chart(plots.moves(one, two, shown.grades, names), alt, "moves", table)
    fits = _fits(found, index, measure, int(picked))
    st.caption(f"Left before, right after. Green lines and ★ are judged relevant (★★ fully).{fits}")
    for d in shown.grades:
        row = ids.index(d)
        place = f"rank {one.index(d) + 1}" if d in one else "beyond ten"
        now = f"rank {two.index(d) + 1}" if d in two else "beyond ten"
        with st.expander(f"★ {views.plain(_title_of(judge, row))}: {place} → {now}"):
            st.text(judge.dataset.documents.texts[row][:1200])


def _fits(found: Study, index: int, measure: str, query: int) -> str:
    """Where the figures are judged outside the fit: what the results that are drawn have."""
    if not found.careful.outside:
        return ""
    name, value = MEASURE_NAMES.get(measure, measure), float(found.plain.values[measure][index, query])
    return (
        " The list above is in the order of the Prune page, judged outside the fit; these are the results of the cut "
        f"fitted on all documents: {name} {value:.2f}."
    )


def _title_of(judge: Judge, row: int) -> str:
    texts = judge.dataset.documents
    return (texts.titles[row] if texts.titles else "") or texts.texts[row][:60]
