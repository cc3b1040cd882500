"""Compare: the methods at this ratio, and the cuts tried so far, side by side."""

import pandas as pd
import streamlit as st

from core import plots, registry, runs
from core.plan import Step
from core.verdict import MEASURE_NAMES
from pages._ui import cache, options, session, views

session.share()
bench, choice = cache.settle()
judge, measure = options.judged_by(bench)
chosen = session.chosen_step()
base = cache.study(bench, session.fallback_step(), judge)
index = session.chosen_ratio(base, measure)

st.markdown(f"#### Every method at {base.plain.kept[index]} of {base.units} dimensions")
st.caption("At the ratio of the Prune page. Methods that are trained appear once they were trained there.")
shown, waiting = {}, []
for name in registry.names("dimensions"):
    step = chosen if name == chosen.name else Step(name)
    if cache.at_once(bench, step, judge):
        shown[name] = cache.study(bench, step, judge)
    else:
        waiting.append(registry.card(name).label)
labels = [registry.card(n).label for n in shown]
values = [float(s.ratio(measure)[index]) for s in shown.values()]
chance = float(base.random(measure)[0][index])
best = labels[values.index(max(values))]
title = f"{best} keeps most of {MEASURE_NAMES.get(measure, measure)} at {base.plain.kept[index]} dimensions"
table = pd.DataFrame(
    {
        "method": labels,
        "kept": values,
        "low": [float(s.band(measure).low[index]) for s in shown.values()],
        "high": [float(s.band(measure).high[index]) for s in shown.values()],
        "neighbours kept": [float(s.overlap[index]) if len(s.overlap) else None for s in shown.values()],
        "largest cut that keeps your floor": [
            s.plain.kept[s.recommended(measure, float(st.session_state.get("floor", 98.0)) / 100)]
            for s in shown.values()
        ],
    }
).round(4)
current = registry.card(chosen.name).label
points = list(zip(labels, values, table["low"], table["high"], strict=True))
views.chart(
    plots.methods(points, current, title, chance),
    f"{title}; random pruning keeps {100 * chance:.1f} %.",
    "methods",
    table,
)
st.caption(
    f"Dashed: the mean of five random draws, {100 * chance:.1f} %."
    + (f" Not trained yet: {', '.join(waiting)}." if waiting else "")
)

st.markdown("#### Cuts prepared so far")
rows = runs.prunings(measure)
if not rows:
    st.info(
        "None yet. Press *Prepare & verify* or *Cut, judge & verify* on the Prune page: each cut you prepare is kept "
        "here, also after a restart."
    )
else:
    against = st.segmented_control(
        "Against", list(plots.AGAINST), format_func=plots.AGAINST.get, default="bytes", required=True, key="against",
        help="Cuts of the vectors save bytes per vector; cuts of the encoder save model bytes and encoding time "
        "(measured, where it was).",
    )  # fmt: skip
    figure = plots.tried(rows, measure, str(against))
    frame = pd.DataFrame(rows).drop(columns=["run", "started"]).round(4)
    alt = f"{len(rows)} prepared cuts: quality kept against {plots.AGAINST[str(against)]}."
    views.chart(figure, alt, "tried", frame)
    columns = [
        "label",
        "data",
        "kept",
        "low",
        "high",
        "random",
        "bytes",
        "model_bytes",
        "speedup",
        "neighbours",
        "judged",
    ]
    number = st.column_config.NumberColumn
    st.dataframe(
        frame[columns],
        hide_index=True,
        column_config={
            "bytes": number("bytes per vector", format="localized"),
            "model_bytes": number("model bytes", format="localized"),
            "speedup": number("speed, measured", format="%.2fx"),
        },
    )
