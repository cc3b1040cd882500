"""Figures are built unchecked for speed; here plotly checks every one of them, and their titles state the finding."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core import maps, plots, sensitivity_plots, training_plots
from core.bench import Bench, prepare
from core.judging import reduce
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


def test_the_chosen_curve_stays_in_the_chart_and_the_legend_out_of_it(found: Study) -> None:
    drawn = replace(found, careful=replace(found.careful, values={"ndcg@10": 0.3 * found.careful.values["ndcg@10"]}))
    for one in (found, drawn):
        figure = checked(plots.curves(one, {}, {"dimensions/svd": "SVD"}, "ndcg@10", 0, 0.98))
        line = next(t for t in figure.data if t.name == "SVD")
        assert figure.layout.yaxis.range[0] <= min(line.y)
        assert figure.layout.legend.y < 0


def test_a_title_stands_below_the_toolbar_and_above_the_plot() -> None:
    for title, lines in (("short", 1), ("a finding of many words " * 3, 2), ("a finding of many words " * 5, 3)):
        layout = checked(plots.methods([("x", 0.9, 0.8, 1.0)], "x", title, 0.4)).layout
        assert layout.title.text.count("<br>") == lines - 1
        assert layout.title.pad.t >= 28
        assert layout.margin.t >= 28 + 19 * lines


@pytest.mark.parametrize(
    ("rows", "title"),
    [
        ([("A", 0.9, 0.88, 0.92), ("B", 0.8, 0.7, 0.87)], "A keeps most of nDCG@10 at 9 dimensions"),
        ([("B (x)", 0.8, 0.7, 0.89), ("A", 0.9, 0.88, 0.92)],
         "A is ahead of B on nDCG@10 at 9 dimensions, within the noise"),
        ([("A", 1.0, 1.0, 1.0), ("B", 1.0, 1.0, 1.0)], "All methods keep the same of nDCG@10 at 9 dimensions"),
        ([("A", 0.9, np.nan, np.nan), ("B", 0.8, np.nan, np.nan)],
         "A is highest on nDCG@10 at 9 dimensions; there are no intervals"),
    ],
)  # fmt: skip
def test_the_title_of_methods_claims_what_the_intervals_allow(rows: list[Any], title: str) -> None:
    assert plots.methods_title(rows, "nDCG@10", "9 dimensions") == title


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
    if names is None:
        marker = figure.data[0].marker
        assert (marker.cmin, marker.cmax) == (0, 1), "the scale is the data's"
        assert marker.size[0] > marker.size[-1], "what lost most is larger, too"
        assert len(marker.colorscale) == 3, "a scale by name is one that plotly in the browser may not know"


def test_where_nothing_is_lost_the_map_shows_no_loss() -> None:
    [(_, _, marker)] = plots._groups(np.ones(3), None)
    assert marker["color"] == [marker["cmax"]] * 3
    assert set(marker["size"]) == {5}


def test_no_two_groups_of_a_map_look_alike() -> None:
    markers = [m for _, _, m in plots._groups(np.arange(40), [str(i) for i in range(40)])]
    assert len({(m["color"], m["symbol"]) for m in markers}) == 40


def test_moves_and_methods() -> None:
    moves = checked(plots.moves(["a", "b"], ["b", "c"], {"a": 2}, {"a": "A", "b": "B", "c": "C"}))
    assert moves.layout.title.text == "1 of the first 2 hits stay"
    shown = checked(plots.methods([("x", 0.9, 0.8, 1.0), ("y", 0.5, np.nan, np.nan)], "x", "t", 0.4))
    assert list(shown.data[0].x) == [50.0, 90.0]


def sensitivity_answer(target: str, layers: int = 3, units: int = 4) -> dict[str, Any]:
    """An answer of `sensitivity`: unit 1 of layer 2 is missed most, layer 2 suffers most."""
    places: list[tuple[int | None, int]] = [(n, u) for n in range(layers) for u in range(units)]
    if target in ("layers", "width", "tokens", "dimensions"):
        places = [(n, 0) for n in range(layers)] if target == "layers" else [(None, u) for u in range(units)]
    measured = target in ("heads", "layers")
    rows = [
        {"layer": n, "unit": u, "importance": 1.0 + 9.0 * ((n or 0) == 1 and u < units // 4),
         "quality_drop": (0.041 if n == 1 and u == 0 else -0.01) if measured else None, "cosine": None,
         "name": "the" if target == "tokens" and u == 0 else ""}
        for n, u in places
    ]  # fmt: skip
    alone = [{"layer": n, "ratio": r, "kept": 2, "quality_kept": 1 - r * (0.4 if n == 1 else 0.1), "quality_drop": 0.0,
              "cosine": 0.9} for n in range(layers) for r in (0.5, 0.75)]  # fmt: skip
    return {
        "target": target, "measure": "ndcg@10", "units": rows, "whole": units,
        "layers": alone if target in ("heads", "neurons", "weights") else [], "curve": [
            {"ratio": 0.5, "removed": 0.5, "kept": 2, "quality_kept": 0.9, "cosine": 0.9, "neighbour_overlap@10": 0.9}],
        "recommended": {"ratio": 0.25, "kept": 3, "keep_quality": 0.95, "why": ""},
        "quantiles": {"0.5": 1.0} if target == "tokens" else {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("target", "units", "title"),
    [
        ("heads", 4, "Layer 2, head 1 is missed most: without it 4.1 % of nDCG@10 is lost"),
        ("layers", 1, "Layer 2 is missed most: without it 4.1 % of nDCG@10 is lost"),
        ("neurons", 400, "In layer 2 a quarter of the neurons carries 77 % of the importance"),
        ("width", 32, "A quarter of the width carries 25 % of the importance"),
        ("tokens", 32, "the is the most important row; half of the 32 score 1 or less"),
    ],
)
def test_the_sensitivity_map_says_what_is_missed(target: str, units: int, title: str) -> None:
    answer = sensitivity_answer(target, units=units)
    figure = checked(sensitivity_plots.sensitivity_map(answer))
    assert figure.layout.title.text.replace("<br>", " ") == title
    heat = figure.data[0]
    assert len(heat.z) == len(heat.y)
    assert all(len(row) == len(heat.x) <= 192 for row in heat.z)
    if target == "heads":
        assert heat.z[1][0] == pytest.approx(4.1)
        assert -heat.zmin == heat.zmax == pytest.approx(4.1), "nothing lost is the middle of the scale"
    if target == "neurons":
        assert all(a >= b for row in heat.z for a, b in itertools.pairwise(row)), "most important first"


@pytest.mark.parametrize("target", ["heads", "layers", "width"])
def test_sensitivity_by_layer_marks_the_budget(target: str) -> None:
    figure = checked(sensitivity_plots.sensitivity_layers(sensitivity_answer(target)))
    whole = next(t for t in figure.data if t.name == "the whole encoder")
    assert (list(whole.x), list(whole.y)) == ([0.0, 50.0], [100.0, 90.0])
    assert len(figure.data) == (4 if target == "heads" else 1)
    text = figure.layout.title.text.replace("<br>", " ")
    assert "95 % of nDCG@10 holds up to ratio 25 %" in text
    assert text.startswith("Layer 2 suffers most: 70.0 % left at ratio 75 %") == (target == "heads")


# ---- training -------------------------------------------------------------------------------------------------


def points(phase: str, losses: list[float], start: int = 0) -> list[dict[str, Any]]:
    return [
        {"phase": phase, "step": start + 10 * i, "steps": 80, "held_out": v} | ({"loss": 2 * v} if i else {})
        for i, v in enumerate(losses)
    ]


def test_trainings_stand_after_one_another_and_each_has_its_best() -> None:
    two = [*points("l1", [0.4, 0.2, 0.3]), *points("distillation", [0.3, 0.1])]
    rounds = [{"phase": "round", "step": 1, "round": 1}, *points("distillation", [0.2, 0.15])]
    assert [len(s) for s in training_plots.stretches(two + rounds)] == [3, 2, 2]
    figure = checked(training_plots.live_curve(two + rounds))
    held, best = (next(t for t in figure.data if t.name == n) for n in ("held-out loss", "best, kept"))
    assert list(best.x) == [10, 30, 40]
    assert list(best.y) == [0.2, 0.1, 0.15]
    assert list(held.x) == sorted(held.x)
    assert held.y.count(None) == 3, "lines do not run from one training into the next"
    title = training_plots.live_title(two)
    assert title == "Distillation: step 10 of 80, held-out loss 0.3 → 0.1 (67 % lower)"
    assert "no gain over" in training_plots.live_title(points("l1", [0.4, 0.5]))
    assert "step 0 of 80" in training_plots.live_title(points("l1", [0.4]))
    assert training_plots.live_title([]) == "Nothing is trained yet"
    resumed = points("l1", [0.2, 0.1], start=40)
    assert checked(training_plots.live_curve(resumed)).data[1].x[0] == 40


def test_rounds_say_how_many_hold_the_floor() -> None:
    rows = [
        {"round": r, "ratio": 0.1 * r, "quality": q, "cosine": q, "parameters": 9, "seconds": 1.4}
        for r, q in ((1, 1.0), (2, 0.97), (3, 0.9))
    ]
    figure = checked(training_plots.rounds(rows, 0.95))
    assert figure.layout.title.text == "2 of 3 rounds hold the floor of 95 %"
    assert list(figure.data[0].marker.symbol) == ["circle", "circle", "x"]
    assert training_plots.round_table(rows)[1]["kept on held-out texts, %"] == 97.0
