"""Methods: the cards, benefits and limits side by side, our own measurements on this corpus, best practices."""

import pandas as pd
import streamlit as st

from core import registry
from core.plan import Step
from core.verdict import MEASURE_NAMES
from pages._ui import cache, options, session

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
rows = []
for name in registry.names("dimensions"):
    known = cache.at_once(bench, Step(name), judge)
    found = cache.study(bench, Step(name), judge) if known else None
    card = registry.card(name)
    at = {
        f"kept at {r} %": None if found is None else round(100 * float(found.ratio(measure)[found.at(r)]), 1)
        for r in (50, 67, 75, 83)
    }
    rows.append({"method": card.label, "kind": card.kind, **at})
st.markdown(
    f"**Measured on {bench.judges[judge].name}**: "
    f"{MEASURE_NAMES.get(measure, measure)} kept, in % of the unpruned "
    "model, at four pruning ratios"
)
one_decimal = st.column_config.NumberColumn(format="%.1f")
st.dataframe(
    pd.DataFrame(rows),
    hide_index=True,
    height="content",
    column_config={c: one_decimal for c in rows[0] if c.startswith("kept")},
)
st.caption("None: the method has to be trained first; choose it on the Prune page.")

TARGETS = {
    "dimensions": "Dimensions of the vectors", "vectors": "Whole vectors",
    "neurons": "Feed-forward neurons", "heads": "Attention heads",
    "layers": "Layers", "width": "Hidden width", "tokens": "Vocabulary (token rows)", "weights": "Single weights",
}  # fmt: skip
target = st.segmented_control(
    "Methods for", list(TARGETS), format_func=TARGETS.get, default="dimensions", required=True, key="methods_for"
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
