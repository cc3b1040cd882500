"""What the Data & model page says of what is loaded: a model and its parts, or vectors without one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from core import plots
from core.bench import Bench
from core.encoders import ModelInfo
from core.verdict import gigabytes
from pages._ui import views


def model(info: ModelInfo, label: str) -> None:
    """Sizes of a model, and its parameters by part."""
    st.markdown(f"#### Model: {views.plain(label)}")
    one, two, three, four = st.columns(4)
    one.metric("Vectors", f"{info.dimension} dim.", help="Numbers in one vector.", border=True)
    two.metric("Parameters", f"{info.parameters / 1e6:.1f} M", border=True)
    three.metric("Weights on disk", f"{info.bytes / 1e6:.1f} MB", border=True)
    shape = f"{info.layers} × {info.heads}" if info.layers else "static"
    four.metric("Layers × heads", shape, help="Transformer layers and attention heads in each.", border=True)
    parts = pd.DataFrame(info.parts, columns=["part", "parameters"])
    views.chart(plots.anatomy(info.parts, info.parameters), f"Parameters by part: {dict(info.parts)}", "anatomy", parts)
    st.caption(
        f"{info.architecture}, width {info.width}, vocabulary "
        f"{info.vocabulary:,}, texts up to {info.max_length} tokens, compared "
        f"by {info.metric}. Fingerprint `{info.fingerprint}`."
    )
    for note in info.notes:
        st.caption(f":material/info: {note}")


def shown(bench: Bench, label: str) -> None:
    """Vectors without a model: how many, how wide, how long, how they are compared."""
    info, index = bench.model, bench.judges[0].documents
    st.markdown(f"#### Vectors: {views.plain(label)}")
    one, two, three, four = st.columns(4)
    one.metric("Vectors", f"{len(index):,}", border=True)
    two.metric("Dimensions", f"{info.dimension:,}", border=True)
    three.metric("In memory", gigabytes(index.vectors.nbytes), help="As 32-bit floats.", border=True)
    four.metric("Compared by", info.metric, help="Cosine, dot product, or distance (L2).", border=True)
    lengths = np.linalg.norm(index.vectors, axis=1)
    size = f"Lengths {lengths.min():.3g} to {lengths.max():.3g}, mean {lengths.mean():.3g}."
    st.caption(
        f"{'Normalised for cosine.' if info.metric == 'cosine' else size} There is no encoder here: its "
        f"cuts are not offered, dimensions, whole vectors and bits are. Fingerprint `{info.fingerprint}`."
    )
