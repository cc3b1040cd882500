"""Methods: the cards, benefits and limits side by side, our own measurements on this corpus, best practices."""

import numpy as np
import pandas as pd
import streamlit as st

from core import registry
from core.plan import Step
from core.verdict import MEASURE_NAMES, Study
from pages._ui import cache, options, session, views
from pages._ui.steps import LABELS

session.share()
bench, choice = cache.settle()
judge, measure = options.judged_by(bench)

st.markdown("#### Methods")
st.markdown(
    "A **selection** keeps some of the original columns: an existing index is cut by dropping the others. "
    "A **rotation** makes new axes: an existing index is multiplied with one matrix, nothing is encoded again."
)
with st.expander("Best practice, as the field has it", expanded=True):
    st.markdown("""
- **Begin with magnitude or L1** and see what the others add; the random line says what any cut of that size costs.
- **Start at 30 to 50 %.** On most models half the dimensions cost little, whatever the method.
- **Prune step by step** and look after each step, rather than once and far.
- **Validate on diverse and unseen inputs**: other texts than those the method was fitted on, and the worst topic
  beside the mean.
- **Match the strategy to the deployment**: for latency cut layers or heads, for memory cut dimensions and bits,
  for accuracy stop at the mark.
""")


def kept(found: Study, index: int) -> str:
    """What a cut keeps, in percent, with its interval."""
    b = found.band(measure)
    ratio, low, high = (100 * float(v[index]) for v in (b.ratio, b.low, b.high))
    return f"{ratio:.1f} ({low:.1f} to {high:.1f})" if np.isfinite(low) else f"{ratio:.1f}"


rows = []
for name in registry.names("dimensions"):
    known = cache.at_once(bench, Step(name), judge)
    found = cache.study(bench, Step(name), judge) if known else None
    card = registry.card(name)
    at = {f"kept at {r} %": "not trained yet" if found is None else kept(found, found.at(r)) for r in (50, 67, 75, 83)}
    rows.append({"method": card.label, "kind": card.kind, **at})
st.markdown(
    f"**Measured on {views.plain(views.called(bench, choice, bench.judges[judge].name))}**: "
    f"{MEASURE_NAMES.get(measure, measure)} kept, in % of the unpruned "
    "model, at four pruning ratios"
    + (", with 95 % intervals" if any("(" in row["kept at 50 %"] for row in rows) else "")
)
st.dataframe(pd.DataFrame(rows), hide_index=True, height="content")
if any("not trained yet" in row.values() for row in rows):
    st.caption("A method that is not trained yet is trained when it is chosen on the Prune page.")

target = st.segmented_control(
    "Methods for", list(LABELS), format_func=LABELS.get, default="dimensions", required=True, key="methods_for"
)
for name in registry.names(target):
    card = registry.card(name)
    with st.container(border=True):
        head = st.container(horizontal=True, vertical_alignment="center")
        head.markdown(f"**{card.label}**", width="content")
        head.badge(card.kind, color="green" if card.kind == "rotation" else "blue")
        if card.seeded:
            head.badge("seeded", color="gray", help="Another seed, another answer: read it with its spread.")
        st.markdown(card.idea)
        good, bad = st.columns(2)
        good.markdown(f":material/add_circle: **Benefits.** {card.benefits}")
        bad.markdown(f":material/do_not_disturb_on: **Limits.** {card.limits}")
        st.caption(f"Cost: {card.cost} Learns from: {card.learns_from}. `{name}`. {card.reference}")
        own = [o for o in registry.options(registry.find(name)) if o["name"] not in ("ratio", "keep")]
        if own:
            with st.popover("Options", icon=":material/tune:"):
                st.dataframe(pd.DataFrame(own).astype(str), hide_index=True)
