"""What beats what: the definition by brute force, and properties that hold for any points and any choice of costs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import pareto, pareto_plots
from core.bench import prepare
from core.pareto import AXES, Point, beaten, beats, cheapest
from core.plan import Step
from core.verdict import Study, study

COSTS = list(AXES)
SUBSETS = [list(c) for n in range(1, len(COSTS) + 1) for c in itertools.combinations(COSTS, n)]
figures = st.sampled_from([0.1, 0.25, 0.5, 0.5000001, 0.9, 1.0, 1.02])
points = st.builds(
    lambda n, kept, costs: Point(f"p{n}", kept, dict(zip(COSTS, costs, strict=True))),
    st.integers(0, 99), st.one_of(figures, st.just(math.nan)),
    st.tuples(*[st.one_of(figures, figures, figures, st.just(math.nan))] * 3),
)  # fmt: skip


def at(kept: float, *costs: float, label: str = "p", **more: Any) -> Point:
    return Point(label, kept, dict(zip(COSTS, costs, strict=False)), **more)


# ---- properties -----------------------------------------------------------------------------------------------


@given(st.lists(points, max_size=12), st.sampled_from(SUBSETS))
def test_a_point_is_beaten_exactly_when_another_is_no_worse_and_somewhere_better(
    found: list[Point], axes: list[str]
) -> None:
    known = [p for p in found if p.known(axes)]
    for p, by in zip(found, beaten(found, axes), strict=True):
        expected = p.known(axes) and any(
            q.kept >= p.kept
            and all(q.costs[a] <= p.costs[a] for a in axes)
            and (q.kept > p.kept or any(q.costs[a] < p.costs[a] for a in axes))
            for q in known
        )
        assert (by is not None) == expected


@given(st.lists(points, max_size=12), st.sampled_from(SUBSETS))
def test_what_is_named_beats_and_is_itself_on_the_front(found: list[Point], axes: list[str]) -> None:
    by = beaten(found, axes)
    for p, b in zip(found, by, strict=True):
        if b is not None:
            assert beats(found[b], p, axes)
            assert by[b] is None


@given(st.lists(points, max_size=10), st.sampled_from(SUBSETS), st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_the_order(found: list[Point], axes: list[str], random: Any) -> None:
    def front(some: list[Point]) -> list[str]:
        return sorted(repr(p) for p, b in zip(some, beaten(some, axes), strict=True) if b is None)

    mixed = list(found)
    random.shuffle(mixed)
    assert front(mixed) == front(found)


@given(st.lists(points, max_size=10), st.sampled_from(SUBSETS), st.sampled_from(SUBSETS))
def test_what_is_beaten_when_more_costs_count_is_not_better_when_fewer_do(
    found: list[Point], fewer: list[str], more: list[str]
) -> None:
    """A point that is beaten when all of these costs count is not better than its rival when only some do."""
    found = [p for p in found if p.known(COSTS)]
    axes = sorted({*fewer, *more})
    for p, b in zip(found, beaten(found, axes), strict=True):
        if b is not None:
            assert not beats(p, found[b], fewer)


@given(st.lists(points, max_size=10), st.sampled_from(COSTS), st.floats(0.5, 1.0))
def test_the_cheapest_keeps_the_floor_and_nothing_cheaper_does(found: list[Point], axis: str, floor: float) -> None:
    best = cheapest(found, axis, floor)
    able = [p for p in found if p.known([axis]) and p.kept >= floor]
    assert (best is None) == (not able)
    if best is not None:
        assert found[best].kept >= floor
        assert found[best].costs[axis] == min(p.costs[axis] for p in able)


# ---- cases ----------------------------------------------------------------------------------------------------


def test_equal_points_do_not_beat_each_other() -> None:
    assert beaten([at(0.9, 8.0), at(0.9, 8.0)], ["vector_bytes"]) == [None, None]


def test_what_wins_on_one_cost_can_lose_on_all() -> None:
    small, fast = at(0.9, 100.0, 50.0, 1.0), at(0.9, 200.0, 20.0, 0.5)
    assert beaten([small, fast], ["vector_bytes"]) == [None, 0]
    assert beaten([small, fast], ["model_bytes"]) == [1, None]
    assert beaten([small, fast], COSTS) == [None, None]


def test_an_unknown_cost_neither_beats_nor_is_beaten() -> None:
    unknown, known = at(1.0, math.nan), at(0.1, 5.0)
    assert beaten([unknown, known], ["vector_bytes"]) == [None, None]
    assert pareto.cost_words(unknown, "vector_bytes") == "not measured yet"


def test_random_pruning_is_no_offer() -> None:
    found = [pareto.dense(384, 1000), at(0.99, 8.0, kind="random"), at(0.985, 96.0, label="coded")]
    assert cheapest(found, "vector_bytes", 0.98) == 2
    assert pareto.finding(found, "vector_bytes", 0.98, "nDCG@10") == (
        "Cheapest that keeps 98 % of nDCG@10: coded, 96 B a vector")  # fmt: skip
    assert "No cut here keeps 99 %" in pareto.finding(found, "vector_bytes", 0.99, "nDCG@10")


def test_runs_of_one_plan_count_once_and_carry_their_random_twin() -> None:
    row = {"label": "layers/subset keep=4", "bytes": 1536, "model_bytes": 7e7, "encoding": 0.7, "kept": 0.97,
           "low": 0.95, "high": 0.99, "random": 0.8}  # fmt: skip
    found = pareto.of_runs([row, row | {"kept": 0.5}, row | {"label": "other", "random": None}])
    assert [(p.kept, p.kind) for p in found] == [(0.97, "run"), (0.8, "random"), (0.97, "run")]
    assert found[1].costs == found[0].costs


# ---- a real curve, and its figure -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def svd() -> Study:
    bench = prepare("minilm", ["sample"])
    return study(bench, bench.judges[0], Step("dimensions/svd"))


def test_a_curve_gives_its_sizes_and_where_it_meets_the_floor(svd: Study) -> None:
    found = pareto.of_study(svd, "SVD", "ndcg@10", 1000, 0.98)
    mark = svd.recommended("ndcg@10", 0.98)
    sizes = {p.costs["vector_bytes"]: p for p in found if p.kind == "study"}
    assert sizes[4.0 * svd.plain.kept[mark]].kept == pytest.approx(float(svd.ratio("ndcg@10")[mark]))
    assert 4.0 * svd.units not in sizes
    assert len(found) == 2 * len(sizes)
    assert pareto.cheapest(found, "vector_bytes", 0.98) == found.index(sizes[4.0 * svd.plain.kept[mark]])


@pytest.mark.parametrize("axis", COSTS)
def test_the_figure_shows_the_front_the_beaten_and_random(svd: Study, axis: str) -> None:
    import plotly.graph_objects as go

    found = [
        pareto.dense(384, 90_000_000),
        *pareto.of_study(svd, "SVD", "ndcg@10", 90_000_000, 0.98),
        at(0.97, 1536.0, 6e7, 0.5, label="<b>fast</b>"),
        at(0.90, 1536.0, 6e7, 0.6, label="slow"),
        at(0.80, 1536.0, 6e7, 0.6, label="random, like slow", kind="random"),
    ]
    figure = go.Figure(pareto_plots.pareto(found, axis, "ndcg@10", 0.98).to_dict())
    traces = {t.name: t for t in figure.data}
    hover = " ".join(h for t in figure.data for h in t.customdata)
    assert "slow: 90.0 % kept" in hover
    assert "beaten by &lt;b&gt;fast" in hover or axis == "vector_bytes"
    assert "<b>fast" not in hover
    assert sorted(traces["not beaten"].y) == list(traces["not beaten"].y), "a front only rises with the cost"
    assert sum(len(t.x) for t in figure.data) == sum(p.known([axis]) for p in found)
    table = pareto.table(found, axis)
    assert len(table) == len(found)
    assert next(r for r in table if r["cut"] == "slow")["beaten at every cost by"] == "<b>fast</b>"
    assert "keeps" in pareto.alt(found, axis, 0.98, "nDCG@10")
