"""Schedules: what each round cuts, that one round is the plain cut, and that no round is lost or done twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import derive as derive_module
from core import folders, live, registry, rounds, store
from core.anatomy import Anatomy, shape_of
from core.cuts import Work, perform, random_plan
from core.derive import Derived, derive
from core.embedding import encode, load
from core.encoders import ModelInfo, open_model
from core.errors import InputError, PlanError
from core.plan import Group, Step, parse
from core.planned import after
from core.rounds import at, settled, shares, units
from core.surgery.tokens import read_tokenizer
from core.types import Texts
from tests.tiny_models import WORDS, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")

ROOT = Path(__file__).parents[1]
_dice = np.random.default_rng(0)
COUNT = 60
DOCUMENTS = tuple(". ".join(" ".join(_dice.choice(WORDS, 4 + i % 5)) for _ in range(2)) for i in range(COUNT))
TITLES = tuple(" ".join(_dice.choice(WORDS, 5)) for _ in DOCUMENTS)
FIT = Texts(tuple(map(str, range(COUNT))), DOCUMENTS, TITLES)
OTHERS = [" ".join(_dice.choice(WORDS, 2 + i)) for i in range(12)]
TRAINED = "iterate(neurons/obs ratio=0.6 calibration=100 | recover/distill steps=4 batch=8 every=2) rounds=3"
TARGETS = {
    "neurons": "neurons/obs ratio=0.7 calibration=100",
    "heads": "heads/taylor ratio=0.5 scope=global calibration=100",
    "layers": "layers/subset keep=1 calibration=100",
    "width": "width/variance ratio=0.5 calibration=100",
    "tokens": "tokens/frequency ratio=0.4",
    "weights": "weights/l1 ratio=0.8 steps=3",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    return open_model(str(tiny_model("bert", tmp_path_factory.mktemp("rounds") / "bert", layers=4, lively=True)))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def steps(sentence: str) -> tuple[Any, ...]:
    return registry.parts(registry.resolve(parse(sentence), 0)).encoder


def cut(model: ModelInfo, sentence: str) -> Derived:
    return derive(model, steps(sentence), FIT)


def vectors(found: Derived) -> np.ndarray:
    return encode(load.__wrapped__(found.info.path), OTHERS)


def kept_rounds(model: ModelInfo, sentence: str, count: int) -> list[Path]:
    """The folders of the rounds that are on disk."""
    *before, group = steps(sentence)
    maker = rounds.Rounds(
        model, tuple(before), group, FIT, np.zeros(0, np.int64), None, None, None, derive_module._VERSION  # type: ignore[arg-type]
    )  # fmt: skip
    return [f for f in map(maker.folder, range(1, count + 1)) if folders.complete(f)]


# ---- the plan ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 50), st.sampled_from(["linear", "cubic"]))
def test_shares_grow_to_the_whole(count: int, schedule: str) -> None:
    found = shares(count, schedule)
    assert len(found) == count
    assert found[-1] == 1.0
    assert all(a < b for a, b in zip([0.0, *found], found, strict=False))
    wanted = 1 / count if schedule == "linear" else 1 - (1 - 1 / count) ** 3
    assert found[0] == pytest.approx(wanted)


@given(
    st.sampled_from(["neurons", "heads", "layers", "width", "tokens"]), st.floats(0.05, 0.95), st.integers(1, 12),
    st.sampled_from(["linear", "cubic"]),
)  # fmt: skip
def test_counts_never_grow_and_end_where_the_cut_says(
    model: ModelInfo, target: str, ratio: float, count: int, schedule: str
) -> None:
    step, origin = Step(f"{target}/random", (("ratio", ratio), ("seed", 3))), shape_of(model)
    here, found = origin, [units(origin, target)]
    for n, share in enumerate(shares(count, schedule), 1):
        mine = at(step, share, n, origin, here)
        assert mine.get("seed") == 3 + n - 1
        here, _ = after(here if target in ("layers", "tokens") else origin, mine)
        found.append(units(here, target))
    assert sorted(found, reverse=True) == found
    assert found[-1] == units(after(origin, step)[0], target)


@pytest.mark.parametrize(
    ("sentence", "wanted"),
    [
        ("iterate(neurons/obs ratio=0.5 | neurons/taylor ratio=0.2)", "cuts neurons twice"),
        ("iterate(neurons/obs ratio=0.5 | weights/magnitude ratio=0.2)", "weights behind"),
        ("iterate(weights/magnitude ratio=0.5 pattern=2:4)", "rounds=1"),
        ("iterate(neurons/obs ratio=0.5) schedule=square", "none of linear, cubic"),
        ("iterate(neurons/obs ratio=0.5) floor=1.0", r"0.0..0.999"),
        ("iterate(recover/distill)", "needs a cut"),
    ],
)
def test_what_no_schedule_can_do_is_refused(sentence: str, wanted: str) -> None:
    with pytest.raises(PlanError, match=wanted):
        registry.resolve(parse(sentence), 0)


def test_a_resolved_schedule_says_all_and_reads_back() -> None:
    plan = registry.resolve(parse(TRAINED), 5)
    assert parse(str(plan)) == plan
    (group,) = plan.steps
    assert isinstance(group, Group)
    assert dict(group.options) == {"rounds": 3, "schedule": "cubic", "floor": 0.0, "take": 0}
    assert all(s.get("seed") == 5 for s in group.steps if s.target == "recover")
    chance = random_plan(plan, 1).steps[0]
    assert isinstance(chance, Group)
    assert chance.options == group.options
    assert [s.name for s in chance.steps] == ["neurons/random", "recover/distill"]


def test_random_units_are_compared_at_the_round_that_was_given() -> None:
    plan = registry.resolve(parse("iterate(neurons/obs ratio=0.5) rounds=4 floor=0.9"), 0)
    given_two = settled(plan, 2).steps[0]
    assert isinstance(given_two, Group)
    assert dict(given_two.options) == {"rounds": 4, "schedule": "cubic", "floor": 0.0, "take": 2}
    assert settled(plan, None) == plan
    assert [s.cut.ratio for s in settled(plan, 0).flat if s.cut] == [0.0]


# ---- the rounds -------------------------------------------------------------------------------------------------


def in_memory(model: ModelInfo, sentence: str) -> np.ndarray:
    """The plain cut, on the texts that a schedule learns from."""
    held = rounds.held_rows(FIT, np.random.default_rng(0).permutation(COUNT).tolist())
    work = Work.start(load(model.path), derive_module.calibration_texts(model, FIT, 0, held))
    for step in steps(sentence):
        perform(work, step)
    return encode(work.encoder, OTHERS)


@pytest.mark.parametrize("target", [*TARGETS, "trained"])
def test_one_round_is_the_plain_cut(target: str, model: ModelInfo) -> None:
    sentence = TARGETS.get(target) or f"{TARGETS['neurons']} | recover/distill steps=4 batch=8 every=2"
    one = cut(model, f"iterate({sentence}) rounds=1")
    np.testing.assert_allclose(vectors(one), in_memory(model, sentence), atol=0 if one.plain else 1e-6)


@pytest.mark.parametrize("target", list(TARGETS))
def test_every_round_cuts_what_the_schedule_says(target: str, model: ModelInfo) -> None:
    sentence, origin = f"iterate({TARGETS[target]}) rounds=3 schedule=linear", shape_of(model)
    found = cut(model, sentence)
    rows, paths = found.facts["rounds"], kept_rounds(model, sentence, 3)
    assert [r["round"] for r in rows] == [1, 2, 3]
    assert len(paths) == 3
    assert all(np.isfinite(r["quality"]) and r["seconds"] > 0 for r in rows)
    sizes = [r["parameters"] for r in rows]
    assert sorted(sizes, reverse=True) == sizes
    assert sizes[-1] == found.shape.parameters
    (step,) = parse(TARGETS[target]).steps
    assert isinstance(step, Step)
    final = rounds.final_ratio(step.cut, units(origin, target))  # type: ignore[arg-type]
    assert [r["ratio"] for r in rows] == pytest.approx([final / 3, final * 2 / 3, final])
    for row, path in zip(rows, paths, strict=True):
        said = folders.about(path)
        if target == "weights":
            zeros = [float((m.weight == 0).float().mean()) for _, m in Anatomy(load.__wrapped__(path)).linears()]
            assert zeros == pytest.approx([row["ratio"]] * len(zeros), abs=1e-3)
        elif step.get("scope") != "global":
            wanted, _ = after(origin, step.with_cut(ratio=row["ratio"]))
            mine = folders.read(path, model).shape
            assert units(mine, target) == units(wanted, target)
        assert said["rounded"] == [] or len(said["rounded"]) == 1  # this round's, not those of all before
    left = [folders.about(p)["left"] for p in paths]
    for one, two in pairwise(left):
        assert set(two["layers"]) <= set(one["layers"])
        places = [one["layers"].index(i) for i in two["layers"]]
        for kind in ("heads", "neurons"):
            assert all(set(two[kind][j]) <= set(one[kind][i]) for j, i in enumerate(places))


def test_the_teacher_reads_the_tokens_that_are_left(model: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Work] = []
    resume = folders.resume

    def noting(*args: Any, **kwargs: Any) -> Work:
        seen.append(resume(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(rounds, "resume", noting)
    cut(model, "iterate(tokens/random ratio=0.5 | neurons/obs ratio=0.5) rounds=2")
    for work in seen:
        assert read_tokenizer(work.teacher) == read_tokenizer(work.encoder)
        assert len(work.teacher[0].auto_model.embeddings.word_embeddings.weight) < shape_of(model).vocabulary
        assert Anatomy(work.teacher).shape.inner == shape_of(model).inner


def test_held_out_texts_are_learned_from_by_no_round(model: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[Any] = []
    start = Work.start

    def noting(source: Any, learned: Any, *rest: Any) -> Work:
        texts.append(learned)
        return start(source, learned, *rest)

    monkeypatch.setattr(Work, "start", noting)
    cut(model, "iterate(neurons/magnitude ratio=0.3) rounds=2 schedule=linear")
    held = rounds.held_rows(FIT, np.random.default_rng(0).permutation(COUNT).tolist())
    assert len(held) == COUNT // 5
    for one in texts:
        assert len(one.documents) == COUNT - len(held)
        assert not set(one.documents) & {FIT.full[i] for i in held}
        assert not set(one.short) & {FIT.titles[i] for i in held}
    with pytest.raises(InputError, match=r"9 are given, at least 10"):
        derive(model, steps("iterate(neurons/obs ratio=0.5)"), FIT.take(range(9)))


# ---- stopping, and going on ---------------------------------------------------------------------------------------


def test_a_lost_round_is_done_again_and_no_other(model: ModelInfo, home: Path) -> None:
    whole = cut(model, TRAINED)
    wanted, paths = vectors(whole), kept_rounds(model, TRAINED, 3)
    before = [p.stat().st_mtime_ns for p in paths[:2]]
    shutil.rmtree(paths[2])
    shutil.rmtree(whole.info.path)
    load.cache_clear()
    again = cut(model, TRAINED)
    np.testing.assert_array_equal(vectors(again), wanted)
    assert [p.stat().st_mtime_ns for p in paths[:2]] == before
    same = [{k: v for k, v in r.items() if k != "seconds"} for r in whole.facts["rounds"]]
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in again.facts["rounds"]] == same


_CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
import torch
from core import folders, rounds
from core.derive import derive
from core.encoders import open_model
from tests import test_rounds as t

torch.set_num_threads(1)
write = rounds.write
def noting(*args):
    write(*args)
    print("kept", flush=True)
rounds.write = noting
derive(open_model(sys.argv[1]), t.steps(t.TRAINED), t.FIT)
"""


def test_a_killed_worker_loses_the_round_it_was_in(model: ModelInfo, tmp_path: Path, home: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, model.source, str(ROOT)], stdout=subprocess.PIPE, cwd=ROOT,
        env=os.environ | {"ESPALIER_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"kept\n"
    time.sleep(0.05)  # somewhere in round 2
    child.send_signal(signal.SIGKILL)
    child.wait()
    paths = kept_rounds(model, TRAINED, 3)
    assert 1 <= len(paths) < 3
    first = paths[0].stat().st_mtime_ns
    store.sweep_partials()
    resumed = cut(model, TRAINED)
    assert paths[0].stat().st_mtime_ns == first
    os.environ["ESPALIER_HOME"] = str(tmp_path / "another")  # monkeypatched by `home`, which puts it back
    np.testing.assert_array_equal(vectors(resumed), vectors(cut(model, TRAINED)))


def looks(qualities: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of these qualities, as a bad schedule would have them."""
    found = iter(qualities)
    monkeypatch.setattr(rounds.HeldOut, "look", lambda self, encoder: (next(found), 0.5))


def test_the_floor_ends_it_and_the_round_above_is_given(
    model: ModelInfo, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks([0.99, 0.97, 0.94], monkeypatch)
    sentence = "iterate(neurons/magnitude ratio=0.6) rounds=5 schedule=linear"
    found = cut(model, f"{sentence} floor=0.95")
    paths = kept_rounds(model, sentence, 5)
    assert len(paths) == 3
    assert len(found.facts["rounds"]) == 3
    assert found.facts["round_given"] == 2
    said = "stopped at round 3 of 5: 94.0 % is below the floor of 95 %; round 2 is given"
    assert found.notes[-1] == said
    np.testing.assert_array_equal(vectors(found), encode(load.__wrapped__(paths[1]), OTHERS))


def test_below_the_floor_at_once_is_not_cut(model: ModelInfo, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks([0.5], monkeypatch)
    found = cut(model, "iterate(neurons/magnitude ratio=0.6) rounds=5 floor=0.95")
    assert found.shape == shape_of(model)
    assert "nothing was cut; take=1 gives it" in found.notes[-1]
    np.testing.assert_array_equal(vectors(found), encode(load(model.path), OTHERS))


@pytest.mark.parametrize("take", [1, 2, 3])
def test_any_round_can_be_taken(take: int, model: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(model, TRAINED)
    paths = kept_rounds(model, TRAINED, 3)

    def fail(*_: Any) -> None:
        raise AssertionError("done twice")

    monkeypatch.setattr(rounds, "perform", fail)
    found = cut(model, f"{TRAINED} floor=0.99 take={take}")  # taken by hand: whatever the floor
    assert found.facts["round_given"] == take
    assert found.shape == folders.read(paths[take - 1], model).shape
    np.testing.assert_array_equal(vectors(found), encode(load.__wrapped__(paths[take - 1]), OTHERS))


def test_a_stop_gives_the_last_whole_round_and_is_not_taken_for_the_end(
    model: ModelInfo, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pressed: list[bool] = []
    done: list[str] = []

    def noting(work: Work, step: Step) -> None:
        done.append(step.name)
        if done.count("neurons/obs") == 3:
            pressed.append(True)
        perform(work, step)

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "perform", noting)
        patch.setattr(live, "stopped", lambda: bool(pressed))
        found = cut(model, TRAINED)
    paths = kept_rounds(model, TRAINED, 3)
    assert len(paths) == 2
    assert found.notes[-1] == "stopped in round 3 of 3: round 2 is given"
    np.testing.assert_array_equal(vectors(found), encode(load.__wrapped__(paths[1]), OTHERS))
    load.cache_clear()
    whole = cut(model, TRAINED)
    assert whole.facts["round_given"] == 3
    assert "stopped" not in whole.facts


def test_a_stop_in_the_first_round_gives_its_cut(model: ModelInfo, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "stopped", lambda: True)
    found = cut(model, TRAINED)
    assert found.shape.inner[0] < shape_of(model).inner[0]
    assert not kept_rounds(model, TRAINED, 3)
    assert "round 1" in found.notes[-1]


def test_steps_stand_before_and_behind(model: ModelInfo) -> None:
    found = cut(model, "layers/subset keep=3 | iterate(neurons/obs ratio=0.5) rounds=2 | heads/magnitude ratio=0.25")
    assert (found.shape.inner, found.shape.heads) == ((32, 32, 32), (3, 3, 3))


def test_points_of_rounds_reach_the_page(model: ModelInfo, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    try:
        live.into(folder)
        found = cut(model, "iterate(neurons/random ratio=0.5) rounds=2")
    finally:
        live._folder.clear()
    points = [p for p in live.curve(folder) if p["phase"] == "round"]
    assert [p["step"] for p in points] == [1, 2]
    assert [{k: p[k] for k in r} for p, r in zip(points, found.facts["rounds"], strict=True)] == found.facts["rounds"]


def test_single_sentences_are_judged_by_their_neighbours(model: ModelInfo) -> None:
    texts = Texts(tuple(map(str, range(30))), tuple(" ".join(_dice.choice(WORDS, 6)) for _ in range(30)))
    held = rounds.HeldOut.start(model, texts)
    quality, cosine = held.look(load(model.path))
    assert (quality, held.base) == (pytest.approx(1.0), pytest.approx(1.0))
    assert cosine == pytest.approx(1.0, abs=1e-5)
    assert len(held.task.judged) == 300
