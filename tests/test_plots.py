"""Figures are built unchecked for speed; here plotly checks every one of them, and their titles state the finding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core import maps, plots
from core.bench import Bench, prepare
from core.pipeline import reduce
from core.plan import Step
from core.verdict import Study, study


@pytest.fixture(scope="module")
def bench() -> Bench:
    return prepare("minilm", ["sample"])


@pytest.fixture(scope="module")
def found(bench: Bench) -> Study:
    return study(bench, bench.judges[0], Step("dimensions/svd"))


def checked(figure: Any) -> Any:
    """The same figure through plotly's validation, which raises on an unknown key or a wrong value."""
    import plotly.graph_objects as go

    return go.Figure(figure.to_dict())


def test_the_curve_says_where_the_floor_is_met(found: Study) -> None:
    mark = found.recommended("ndcg@10", 0.98)
    figure = checked(plots.curves(found, {}, {"dimensions/svd": "SVD"}, "ndcg@10", mark, 0.98))
    assert f"{found.plain.kept[mark]} dimensions" in figure.layout.title.text.replace("<br>", " ")
    line = next(t for t in figure.data if t.name == "SVD")
    assert line.y[mark] == pytest.approx(100 * found.ratio("ndcg@10")[mark], abs=1e-3)
    assert line.y[mark] >= 98.0


def test_the_meter_and_the_anatomy_add_up(bench: Bench) -> None:
    meter = checked(plots.meter([("vector", "4 → 2 B", 0.5)]))
    assert list(meter.data[1].x) == [50.0]
    anatomy = checked(plots.anatomy(bench.model.parts, bench.model.parameters))
    assert sum(t.x[0] for t in anatomy.data) == pytest.approx(bench.model.parameters / 1e6)


@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_the_maps_carry_rows_and_titles(bench: Bench, names: list[str] | None) -> None:
    vectors = bench.judges[0].documents.vectors[:40]
    cut = reduce(bench, Step("dimensions/svd", (("keep", 64),)))[1]
    pair = maps.pca_pair(vectors, cut, np.arange(5, 35))
    colour = np.linspace(0, 1, 30) if names is None else np.arange(30) % 2
    figure = checked(plots.maps(pair, colour, names, "a title", [f"<b>{i}" for i in range(30)]))
    rows = [r for t in figure.data for r in t.customdata]
    assert sorted(rows) == sorted(2 * list(range(5, 35)))
    assert all("<b>" not in t for trace in figure.data for t in trace.text)


def test_moves_methods_and_tried() -> None:
    moves = checked(plots.moves(["a", "b"], ["b", "c"], {"a": 2}, {"a": "A", "b": "B", "c": "C"}))
    assert moves.layout.title.text == "1 of the first 2 hits stay"
    shown = checked(plots.methods([("x", 0.9, 0.8, 1.0), ("y", 0.5, np.nan, np.nan)], "x", "t", 0.4))
    assert list(shown.data[0].x) == [50.0, 90.0]
    rows = [{"label": n, "bytes": b, "kept": k, "low": k, "high": k} for n, b, k in (("p", 8, 0.9), ("q", 8, 0.8))]
    assert checked(plots.tried(rows, "ndcg@10")).layout.title.text.startswith("1 of 2 cuts")
