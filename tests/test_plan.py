"""Plans: what is printed parses back, bad sentences say what is wrong with them, resolving writes everything out."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import registry
from core.errors import PlanError
from core.plan import Cut, Group, Plan, Step, Value, parse

# ---- round trip -----------------------------------------------------------------------------------------------


def is_word(text: str) -> bool:
    """Whether an option's value reads back as this very text (and not as a number or a truth value)."""
    try:
        float(text)
    except ValueError:
        return text not in ("true", "false")
    return False


letters = "abcdefghijklmnopqrstuvwxyz"
targets = st.text(letters, min_size=1, max_size=8)
names = targets | st.builds("{}/{}".format, targets, st.text(letters + "0123456789-", min_size=1, max_size=10))
values: st.SearchStrategy[Value] = st.one_of(
    st.booleans(),
    st.integers(-(10**17), 10**17),
    st.floats(allow_nan=False),
    st.text(letters + letters.upper() + "0123456789_.:+-", min_size=1, max_size=10).filter(is_word),
)
keys = st.text(letters + "_", min_size=1, max_size=8)
options = st.dictionaries(keys, values, max_size=4).map(lambda d: tuple(d.items()))
steps = st.builds(Step, names, options)
groups = st.builds(Group, st.lists(steps, min_size=1, max_size=3).map(tuple), options)
plans = st.lists(st.one_of(steps, groups), min_size=1, max_size=4).map(lambda s: Plan(tuple(s)))


@given(plans)
@settings(max_examples=200)
def test_what_is_printed_parses_back(plan: Plan) -> None:
    again = parse(str(plan))
    assert again == plan
    assert repr(again) == repr(plan)  # 1, 1.0 and true are equal, and three different values
    assert str(again) == str(plan)


@given(st.text(st.sampled_from("abz/-_=|() 01.5e+naif\t\nt:ratiokeep"), max_size=40) | st.text(max_size=25))
@settings(max_examples=300)
def test_any_text_parses_to_a_plan_that_round_trips_or_is_refused(text: str) -> None:
    try:
        plan = parse(text)
    except PlanError:
        return
    assert str(parse(str(plan))) == str(plan)


def test_the_sentence_of_the_design() -> None:
    sentence = "neurons/obs ratio=0.5 | recover/distill steps=300 | dimensions/svd keep=128 | quantize/int8"
    plan = parse(sentence)
    assert str(plan) == sentence
    assert [s.target for s in plan.steps if isinstance(s, Step)] == ["neurons", "recover", "dimensions", "quantize"]
    assert [s.cut for s in plan.steps if isinstance(s, Step)] == [Cut(ratio=0.5), None, Cut(keep=128), None]


def test_a_group() -> None:
    sentence = "iterate(neurons/magnitude ratio=0.5 | recover/distill steps=100) rounds=4 schedule=cubic floor=0.95"
    plan = parse(sentence)
    group = plan.steps[0]
    assert isinstance(group, Group)
    assert [s.name for s in group.steps] == ["neurons/magnitude", "recover/distill"]
    assert dict(group.options) == {"rounds": 4, "schedule": "cubic", "floor": 0.95}
    assert str(plan) == sentence


def test_spaces_do_not_matter() -> None:
    tidy = parse("dimensions/svd ratio=0.5 | quantize/int8")
    assert parse("  dimensions/svd\n  ratio=0.5|quantize/int8 ") == tidy
    assert parse("iterate ( a/b ratio=0.5|c/d )  rounds=2") == parse("iterate(a/b ratio=0.5 | c/d) rounds=2")


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("", ["empty", "dimensions/svd keep=128"]),
        ("   ", ["empty"]),
        ("|", ["begins with a name"]),
        ("dimensions/svd ratio=0.5 |", ["begins with a name"]),
        ("dimensions/svd | | quantize/int8", ["begins with a name"]),
        ("Dimensions/SVD ratio=0.5", ["Dimensions/SVD", "begins with a name"]),
        ("svd/ ratio=0.5", ["svd/", "begins with a name"]),
        ("dimensions/svd 0.5", ["'0.5'", "key=value"]),
        ("dimensions/svd ratio = 0.5", ["'ratio'", "without spaces"]),
        ("dimensions/svd ratio=", ["'ratio='", "key=value"]),
        ("dimensions/svd =5", ["'=5'", "key=value"]),
        ("dimensions/svd ratio=0.5;rm", ["ratio=0.5;rm"]),
        ("dimensions/svd ratio=0.5 ratio=0.6", ["'ratio'", "twice"]),
        ("iterate(a/b ratio=0.5", ["parentheses", "iterate(step | step)"]),
        ("iterate(a/b ratio=0.5)) rounds=2", ["parentheses"]),
        ("iterate(iterate(a/b ratio=0.5))", ["parentheses", "do not nest"]),
        ("a/b) | (c/d", ["parentheses"]),
        ("iterate()", ["begins with a name"]),
        ("iterate(a/b) rounds", ["'rounds'", "key=value"]),
    ],
)
def test_bad_sentences_say_what_is_wrong(sentence: str, words: list[str]) -> None:
    with pytest.raises(PlanError) as e:
        parse(sentence)
    assert all(w in str(e.value) for w in words), str(e.value)
    assert "\n" not in str(e.value)


def test_numbers_of_any_length_are_read() -> None:
    long = "9" * 5000
    assert parse(f"a/b n={'9' * 18}").steps[0].options == (("n", 10**18 - 1),)
    assert parse(f"a/b n={long}").steps[0].options == (("n", math.inf),)


# ---- slugs ----------------------------------------------------------------------------------------------------


@given(plans, plans)
@settings(max_examples=50)
def test_a_slug_is_a_file_name_of_its_own(one: Plan, two: Plan) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*-[0-9a-f]{8}", one.slug)
    assert len(one.slug) <= 70
    assert (one.slug == two.slug) == (str(one) == str(two))


def test_a_slug_can_be_read() -> None:
    assert parse("dimensions/svd keep=128").slug.startswith("dimensions-svd-keep-128-")


# ---- cuts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "ratio", "kept"),
    [
        (384, 0.0, 384), (384, 0.5, 192), (384, 2 / 3, 128), (384, 0.75, 96), (384, 0.999, 1), (384, 0.9999, 1),
        (5, 0.5, 3), (3, 0.5, 2), (7, 0.5, 4), (10, 0.25, 8), (10, 0.75, 3),  # halves round up
        (1, 0.0, 1), (1, 0.5, 1), (1, 0.99, 1), (2, 0.75, 1), (2, 0.76, 1), (100, 0.994, 1), (100, 0.985, 2),
    ],
)  # fmt: skip
def test_units_kept_at_a_ratio(units: int, ratio: float, kept: int) -> None:
    assert Cut(ratio=ratio).count(units) == kept


@given(st.integers(1, 5000), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_the_definition_of_a_ratio(units: int, one: float, two: float) -> None:
    found = Cut(ratio=one).count(units)
    assert found == max(1, math.floor(units * (1 - one) + 0.5))
    assert 1 <= found <= units
    assert abs(found - units * (1 - one)) <= 0.5 + 1e-9 or found == 1
    if one <= two:
        assert found >= Cut(ratio=two).count(units)


@given(st.integers(1, 5000))
def test_keep_is_kept_as_it_is(units: int) -> None:
    assert Cut(keep=1).count(units) == 1
    assert Cut(keep=units).count(units) == units
    assert Cut(ratio=0.0).count(units) == Cut(ratio=0).count(units) == units
    with pytest.raises(PlanError, match=rf"keep={units + 1} is outside 1..{units}"):
        Cut(keep=units + 1).count(units)


BAD_CUTS: list[tuple[dict[str, Any], str]] = [
    ({}, "exactly one"),
    ({"ratio": 0.5, "keep": 3}, "exactly one"),
    ({"ratio": 1.0}, r"ratio=1.0 is outside \[0, 1\)"),
    ({"ratio": 1}, r"ratio=1 is outside"),
    ({"ratio": -0.1}, r"ratio=-0.1 is outside"),
    ({"ratio": 7.5}, r"ratio=7.5 is outside"),
    ({"ratio": math.nan}, r"ratio=nan is outside"),
    ({"ratio": math.inf}, r"ratio=inf is outside"),
    ({"ratio": "half"}, r"ratio=half is no number"),
    ({"ratio": False}, r"ratio=false is no number"),
    ({"keep": 0}, r"keep=0 should be a whole number"),
    ({"keep": -5}, r"keep=-5 should be a whole number"),
    ({"keep": 0.5}, r"keep=0.5 should be a whole number"),
    ({"keep": 128.0}, r"keep=128.0 should be a whole number"),
    ({"keep": math.nan}, r"keep=nan should be"),
    ({"keep": True}, r"keep=true is no number"),
    ({"keep": "all"}, r"keep=all is no number"),
]


@pytest.mark.parametrize(("cut", "words"), BAD_CUTS)
def test_cuts_that_make_no_sense(cut: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        Cut(**cut).count(384)


@pytest.mark.parametrize(("cut", "words"), BAD_CUTS)
def test_resolving_refuses_them_before_any_work(cut: dict[str, Any], words: str) -> None:
    words = {"exactly one": "needs a cut|has both"}.get(words, words)
    with pytest.raises(PlanError, match=words):
        registry.resolve(Plan((Step("dimensions/svd", tuple(cut.items())),)))


def test_another_cut_takes_the_place_of_the_old_one() -> None:
    step = Step("dimensions/taylor", (("tau", 0.1), ("ratio", 0.5)))
    assert str(step.with_cut(keep=7)) == "dimensions/taylor keep=7 tau=0.1"
    assert str(step.with_cut(ratio=0.25)) == "dimensions/taylor ratio=0.25 tau=0.1"
    assert step.get("tau") == 0.1
    assert step.get("seed", 3) == 3


# ---- resolve --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in registry.names() if registry.card(n).kind != "schedule"])
def test_resolving_writes_every_default_out(name: str) -> None:
    cut = (("keep", 5),) if registry.card(name).cuts else ()
    resolved = registry.resolve(Plan((Step(name, cut),)))
    step = resolved.steps[0]
    assert isinstance(step, Step)
    method = registry.build(step)
    assert step.options == (*cut, *((f.name, f.default) for f in fields(method)))
    assert registry.resolve(resolved) == resolved
    assert registry.resolve(parse(str(resolved)), seed=9) == resolved  # written is written


def test_what_is_written_stays_and_a_seed_fills_in() -> None:
    resolved = registry.resolve(parse("dimensions/taylor tau=0.1 ratio=0.5"), seed=7)
    assert str(resolved) == "dimensions/taylor ratio=0.5 tau=0.1 seed=7"
    assert str(registry.resolve(parse("dimensions/random ratio=0.5 seed=3"), seed=7)).endswith("seed=3")
    assert str(registry.resolve(parse("dimensions/random ratio=0.5"))).endswith("seed=0")
    assert str(registry.resolve(parse("dimensions/svd ratio=0.5"), seed=7)) == "dimensions/svd ratio=0.5"


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("dimensions/svdd keep=5", ["'dimensions/svdd'", *registry.names("dimensions")]),
        ("nothing/such keep=5", ["'nothing/such'", *registry.names()]),
        ("svd keep=5", ["'svd'", "dimensions/svd"]),
        ("dimensions/svd", ["needs a cut", "ratio=0.5", "keep=128"]),
        ("dimensions/svd ratio=0.5 keep=3", ["both ratio= and keep="]),
        ("dimensions/svd keep=5 tau=0.1", ["no option 'tau'", "ratio, keep"]),
        ("dimensions/taylor keep=5 steps=3", ["no option 'steps'", "tau", "seed"]),
        ("dimensions/taylor keep=5 tau=0", ["tau=0", "0.005..1.0", "0.05"]),
        ("dimensions/taylor keep=5 tau=2", ["tau=2", "0.005..1.0"]),
        ("dimensions/taylor keep=5 tau=nan", ["tau=nan", "outside"]),
        ("dimensions/taylor keep=5 tau=warm", ["tau='warm'", "a number"]),
        ("dimensions/taylor keep=5 seed=1.5", ["seed=1.5", "a whole number"]),
        ("dimensions/taylor keep=5 seed=true", ["seed=True", "a whole number"]),
        ("dimensions/random keep=5 seed=-1", ["seed=-1", "outside"]),
        ("dimensions/distilled keep=5 steps=0", ["steps=0", "1..20000", "the default is"]),
        ("dimensions/bilinear keep=5 mix=1.01", ["mix=1.01", "0.0..1.0"]),
        ("dimensions/svd keep=5 | dimensions/pca keep=3", ["two dimension cuts"]),
        ("iterate(dimensions/svd ratio=0.5) rounds=2", ["iterate", "encoder steps only"]),
        ("iterate(neurons/obs)", ["neurons/obs needs a cut"]),
        ("iterate keep=3", ["goes around"]),
        ("iterate(neurons/obs ratio=0.5) rounds=2 take=3", ["take=3", "2 rounds"]),
        ("iterate(neurons/obs ratio=0.5) rounds=0", ["rounds=0", "1..50"]),
    ],
)
def test_plans_that_cannot_be_run(sentence: str, words: list[str]) -> None:
    with pytest.raises(PlanError) as e:
        registry.resolve(parse(sentence))
    assert all(w in str(e.value) for w in words), str(e.value)
    assert "\n" not in str(e.value)


def test_stages_run_from_the_encoder_to_the_codes() -> None:
    order = sorted(registry.STAGES, key=lambda t: registry.STAGES[t])
    assert order[-1] == "quantize"
    assert order.index("neurons") < order.index("dimensions") < order.index("vectors") < order.index("quantize")
    late = [Step("quantize/int8"), Step("dimensions/svd", (("keep", 5),))]
    with pytest.raises(PlanError, match="move the steps"):
        registry._check_order(late)  # no quantization to name in a plan yet
    registry._check_order(late[::-1])
