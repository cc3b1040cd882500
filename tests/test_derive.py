"""Whole cuts: every encoder method on every architecture, folders that load again, and a source that stays as it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core import derive as derive_module
from core import registry, store
from core.anatomy import Anatomy, Shape, check_target, targets
from core.calibration import CalibrationTexts
from core.cuts import Work, perform, random_plan
from core.derive import Derived, derive
from core.embedding import DERIVED, SHAPES, encode, load
from core.encoders import ModelInfo, open_model
from core.errors import Cancelled, InputError, PlanError
from core.plan import Cut, Plan, parse
from core.planned import planned
from core.surgery.tokens import read_tokenizer
from core.surgery.vocabulary import ids_of
from core.types import Texts
from tests.tiny_models import ARCHITECTURES, HEADS, HIDDEN, LAYERS, WIDTH, WORDS, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")

ROOT = Path(__file__).parents[1]
METHODS = [n for n in registry.names() if registry.STAGES[n.split("/")[0]] == 0 and registry.card(n).cuts]
SIZE = WIDTH // HEADS
_dice = np.random.default_rng(0)
DOCUMENTS = tuple(" ".join(_dice.choice(WORDS, 3 + i % 12)) + "." for i in range(24))
FIT = Texts(
    tuple(map(str, range(24))), DOCUMENTS, tuple(" ".join(_dice.choice(WORDS, 3)) for _ in DOCUMENTS)
)  # fmt: skip
OTHERS = [" ".join(_dice.choice(WORDS, 2 + i)) for i in range(12)]  # nothing was fitted on these
QUICK = {"l1": " steps=4"}  # training, but not for long


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ModelInfo]:
    root = tmp_path_factory.mktemp("derive")
    found = {a: open_model(str(tiny_model(a, root / a, lively=True))) for a in (*ARCHITECTURES, "static")}
    for name in ("bert", "mpnet"):
        found[f"deep {name}"] = open_model(str(tiny_model(name, root / f"deep-{name}", layers=4, lively=True)))
    return found


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """The works that `derive` starts: the encoders in memory, before they were written."""
    seen: list[Work] = []
    start = Work.start

    def noting(*args: Any, **kwargs: Any) -> Work:
        seen.append(start(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(Work, "start", noting)
    return seen


def steps(sentence: str, seed: int | None = None) -> list[Any]:
    quick = [s + QUICK.get(s.split()[0].split("/")[1], "") for s in sentence.split(" | ")]
    return registry.parts(registry.resolve(parse(" | ".join(quick)), seed)).encoder


def cut(model: ModelInfo, sentence: str, seed: int = 0) -> Derived:
    return derive(model, steps(sentence, seed), FIT, seed)


def done(model: ModelInfo, sentence: str, seed: int = 0) -> Work:
    """The same in memory only."""
    work = Work.start(load(model.path), derive_module.calibration_texts(model, FIT, seed), seed)
    for step in steps(sentence, seed):
        perform(work, step)
    return work


def reloads(derived: Derived, work: Work) -> None:
    """The folder gives the vectors of the encoder that was cut, for texts that nobody checked on writing.

    Where the folder is padded, the encoder in memory is, too, by now: the loaded one is trimmed again.
    """
    np.testing.assert_allclose(
        encode(load(derived.info.path), OTHERS), encode(work.encoder, OTHERS), atol=1e-6 if not derived.plain else 0
    )
    assert Anatomy(load(derived.info.path), "tokens").shape == derived.shape
    assert derived.info.parameters == sum(p.numel() for p in load(derived.info.path).parameters())
    assert derived.info.dimension == encode(work.encoder, OTHERS).shape[1]


def files(folder: Path) -> dict[str, str]:
    """Name -> SHA-256, but for the note that says how long it took."""
    listed = json.loads((folder / store.MANIFEST).read_text())["files"]
    return {name: sha for name, sha in listed.items() if name != DERIVED}


def found_again(monkeypatch: pytest.MonkeyPatch, model: ModelInfo, sentence: str, before: Derived) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("done twice")

    with monkeypatch.context() as patch:
        patch.setattr(derive_module, "perform", fail)
        again = cut(model, sentence)
    assert (again.info, again.shape, again.rounded, again.notes) == (
        before.info, before.shape, before.rounded, before.notes,
    )  # fmt: skip


# ---- every method on every architecture ------------------------------------------------------------------------


def wanted_shape(dense: Shape, target: str) -> Shape:
    """What ratio=0.5 leaves, by Cut.count and the snapping rule; without its parameters."""
    half = Cut(0.5)
    changes: dict[str, Any] = {
        "tokens": {"vocabulary": half.count(dense.vocabulary)},
        "neurons": {"inner": (HIDDEN // 2,) * LAYERS},
        "heads": {"heads": (HEADS // 2,) * LAYERS},
        "layers": {"heads": dense.heads[:1], "inner": dense.inner[:1]},
        "width": {"width": 16, "heads": (2,) * LAYERS},
        "weights": {},
    }[target]
    if target == "width" and dense.kind == "electra":  # 16 is the width of its token table
        changes = {"width": 24, "heads": (3,) * LAYERS}
    return replace(dense, **changes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "static"])
def test_every_method_on_every_architecture(
    architecture: str, method: str, models: Mapping[str, ModelInfo], made: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, target = models[architecture], method.split("/")[0]
    sentence = f"{method} ratio=0.5"
    if target not in targets(architecture):
        with pytest.raises(InputError, match="'static' encoder; possible for it: tokens, dimensions"):
            cut(model, sentence)
        return
    dense = Anatomy(load(model.path), "tokens").shape
    found = cut(model, sentence)
    (work,) = made
    assert replace(found.shape, parameters=0) == replace(wanted_shape(dense, target), parameters=0)
    assert (found.info.parameters < dense.parameters) == (target != "weights")
    assert found.plain == (target != "heads") == (not (found.info.path / SHAPES).exists())
    assert found.why.startswith("" if found.plain else f"a {architecture} config cannot declare 2 heads of 4")
    assert bool(found.why) == (not found.plain)
    assert bool(found.rounded) == (architecture == "electra" and target == "width")
    if method == registry.names(target)[0]:  # criteria choose units; what is written depends on the target alone
        reloads(found, work)
    found_again(monkeypatch, model, sentence, found)
    if architecture == "mpnet" and target == "heads":
        assert all((kept == work.heads[0]).all() for kept in work.heads)
        table = "encoder.relative_attention_bias.weight"
        (mine, its) = (load(m.path)[0].auto_model.get_parameter(table) for m in (found.info, model))
        assert torch.equal(mine, its[:, work.heads[0]])


@pytest.mark.parametrize("method", [n for n in METHODS if n.startswith("weights/")])
def test_half_of_the_weights_are_zero(method: str, models: Mapping[str, ModelInfo]) -> None:
    work = done(models["bert"], f"{method} ratio=0.5 reconstruct=none")
    for _, module in Anatomy(work.encoder, "weights").linears():
        assert int((module.weight == 0).sum()) == module.weight.numel() // 2


@pytest.mark.parametrize(
    ("sentence", "inner", "rounded"),
    [
        ("neurons/magnitude ratio=0.4", 40, "38 -> 40"),
        ("neurons/magnitude ratio=0.99", 8, "1 -> 8"),
        ("neurons/magnitude keep=38", 38, ""),
        ("neurons/magnitude keep=64", 64, ""),
        ("neurons/magnitude ratio=0.0", 64, ""),
    ],
)
def test_a_ratio_of_neurons_snaps_up_and_a_number_never(
    sentence: str, inner: int, rounded: str, models: Mapping[str, ModelInfo]
) -> None:
    for architecture in ("bert", "modernbert"):
        found = cut(models[architecture], sentence)
        assert found.shape.inner == (inner,) * LAYERS
        assert found.plain
        assert len(found.rounded) == bool(rounded)
        assert rounded in "".join(found.rounded)


def test_a_number_of_neurons_is_met_exactly_when_layers_compete(models: Mapping[str, ModelInfo]) -> None:
    found = cut(models["bert"], "neurons/taylor keep=37 scope=global")
    assert sum(found.shape.inner) == 37 * LAYERS
    assert found.rounded == ()


def test_width_goes_by_whole_heads(models: Mapping[str, ModelInfo]) -> None:
    found = cut(models["bert"], "width/magnitude ratio=0.6")
    assert (found.shape.width, found.shape.heads, found.info.dimension) == (16, (2, 2), WIDTH)
    assert "13 -> 16" in found.rounded[0]
    narrow = cut(models["bert"], "width/magnitude keep=8 output_map=false")
    assert (narrow.shape.width, narrow.info.dimension, narrow.rounded) == (8, 8, ())
    with pytest.raises(PlanError, match=r"keep=13.*multiples of 8: write .*8"):
        cut(models["bert"], "width/magnitude keep=13")
    with pytest.raises(PlanError, match=r"keep=16.*write .*24"):
        cut(models["electra"], "width/magnitude keep=16")


@pytest.mark.parametrize("target", ["neurons", "heads", "layers", "width", "tokens"])
def test_more_than_there_is_cannot_be_kept(target: str, models: Mapping[str, ModelInfo]) -> None:
    with pytest.raises(PlanError, match=r"keep=1000 is outside 1\.\."):
        cut(models["bert"], f"{target}/random keep=1000")


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
@pytest.mark.parametrize("method", ["neurons/obs", "neurons/taylor", "heads/obs", "heads/taylor"])
def test_layers_may_compete(architecture: str, method: str, models: Mapping[str, ModelInfo], made: list[Work]) -> None:
    found = cut(models[architecture], f"{method} ratio=0.4 scope=global")
    units = found.shape.inner if method.startswith("neurons") else found.shape.heads
    assert min(units) >= (8 if method.startswith("neurons") else 1)
    assert sum(units) >= (80 if method.startswith("neurons") else 4)
    assert ", ".join(map(str, units)) in found.notes[0]
    assert found.plain == found.shape.even
    reloads(found, made[0])


def test_uneven_neurons_say_why(models: Mapping[str, ModelInfo]) -> None:
    sentences = [f"neurons/taylor ratio={r} scope=global" for r in (0.3, 0.5, 0.7)]
    uneven = [x for x in (cut(models["bert"], s) for s in sentences) if len(set(x.shape.inner)) > 1]
    assert uneven
    assert all("differs from layer to layer" in x.why and (x.info.path / SHAPES).exists() for x in uneven)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_planned_is_what_comes(architecture: str, models: Mapping[str, ModelInfo]) -> None:
    """The arithmetic of the meter, without a model, against tensors that were cut."""
    for sentence in (
        "neurons/random ratio=0.3", "heads/random ratio=0.5", "layers/random ratio=0.5 output_map=false",
        "width/random ratio=0.25 output_map=false", "tokens/random ratio=0.3",
        "tokens/random ratio=0.2 | neurons/random keep=24 | width/random ratio=0.5 output_map=false",
    ):  # fmt: skip
        model = models[architecture]
        shape, rounded = planned(model, steps(sentence))
        work = done(model, sentence)
        assert (shape, list(rounded)) == (Anatomy(work.encoder).shape, work.rounded)


# ---- the source -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "static"])
def test_the_source_stays_as_it_is(architecture: str, models: Mapping[str, ModelInfo]) -> None:
    model = models[architecture]
    source = load(model.path)
    vectors, before = encode(source, OTHERS), {k: v.clone() for k, v in source.state_dict().items()}
    config = None if architecture == "static" else source[0].auto_model.config.to_dict()
    vocabulary = read_tokenizer(source)
    plan = [f"{t}/taylor ratio=0.3" for t in targets(architecture) if t != "dimensions"]
    found = cut(model, " | ".join(plan), seed=5)
    assert found.info.path != model.path
    after = source.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    np.testing.assert_array_equal(encode(source, OTHERS), vectors)
    assert read_tokenizer(source) == vocabulary
    assert config is None or source[0].auto_model.config.to_dict() == config
    assert all(not m._forward_hooks and not m._forward_pre_hooks and not m.training for m in source.modules())
    assert all(p.requires_grad and p.grad is None for p in source.parameters())
    assert load(model.path) is source


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "static"])
def test_ratio_zero_is_the_same_encoder(architecture: str, models: Mapping[str, ModelInfo]) -> None:
    model = models[architecture]
    plan = [f"{t}/{registry.names(t)[0].split('/')[1]} ratio=0.0" for t in targets(architecture) if t != "dimensions"]
    found = cut(model, " | ".join(plan))
    np.testing.assert_array_equal(encode(load(found.info.path), OTHERS), encode(load(model.path), OTHERS))
    mine, its = (load(m.path).state_dict() for m in (found.info, model))
    assert all(torch.equal(mine[k], its[k]) for k in its)
    assert (found.rounded, found.notes, found.plain) == ((), (), True)


# ---- nested, seeded, random -------------------------------------------------------------------------------------

ONE_SHOT = [n for n in METHODS if not registry.card(n).refits]


def kept(work: Work, target: str) -> list[set[Any]]:
    """The units of the source that are left, one set a layer (or one in all)."""
    if target == "tokens":
        return [set(ids_of(read_tokenizer(work.encoder)))]
    if target == "weights":
        return [set(np.flatnonzero(m.weight.detach().numpy())) for _, m in Anatomy(work.encoder, target).linears()]
    rows: Any = {"neurons": work.neurons, "heads": work.heads, "layers": [work.layers], "width": [work.channels]}[
        target
    ]
    return [set(map(int, row)) for row in rows]


@pytest.mark.parametrize("method", ONE_SHOT)
@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_what_a_larger_ratio_keeps_a_smaller_one_keeps(
    architecture: str, method: str, models: Mapping[str, ModelInfo]
) -> None:
    target = method.split("/")[0]
    if architecture == "mpnet" and target != "heads":
        pytest.skip("only its heads are chosen in another way")
    model = models[f"deep {architecture}" if target in ("layers", "heads") else architecture]
    plain = " reconstruct=none" if target in ("width", "weights", "layers") else ""
    sets = [kept(done(model, f"{method} ratio={r}{plain}"), target) for r in (0.25, 0.5, 0.75)]
    for more, fewer in pairwise(sets):
        assert all(f < m for m, f in zip(more, fewer, strict=True))


@pytest.mark.parametrize("method", [n for n in METHODS if registry.card(n).seeded])
def test_the_same_seed_makes_the_same_folder_and_another_one_another(
    method: str, models: Mapping[str, ModelInfo], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target, model = method.split("/")[0], models["bert"]
    found = []
    for home in ("a", "b"):
        monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / home))
        found.append(cut(model, f"{method} ratio=0.5", seed=3))
        assert (tmp_path / home).resolve() in found[-1].info.path.parents
    assert files(found[0].info.path) == files(found[1].info.path)
    assert found[0].info.fingerprint == found[1].info.fingerprint
    assert found[0].shape == found[1].shape
    if registry.card(method).criterion in ("random", "importance-sampling"):
        first = kept(done(model, f"{method} ratio=0.5", seed=3), target)
        assert any(kept(done(model, f"{method} ratio=0.5", seed=s), target) != first for s in range(4, 9))


def test_the_random_counterpart_has_the_same_cuts_and_the_same_refit() -> None:
    plan = registry.resolve(parse(
        "tokens/frequency ratio=0.3 | neurons/obs keep=40 calibration=5000"
        " | heads/l1 ratio=0.5 reconstruct=bias steps=9 scope=global | width/taylor ratio=0.25 reconstruct=none"
        " | layers/subset keep=1 output_map=false"
        " | weights/activation ratio=0.5 scope=global reconstruct=least-squares | dimensions/svd keep=8"
    ))  # fmt: skip
    found = random_plan(plan, 7)
    assert registry.resolve(found) == found
    assert found.steps[-1] == plan.steps[-1]
    for mine, its in zip(found.steps[:-1], plan.steps[:-1], strict=True):
        assert mine.name == f"{its.target}/random"
        assert (mine.cut, mine.get("seed")) == (its.cut, 7)
        for option in ("scope", "reconstruct", "output_map", "calibration", "pattern"):
            assert mine.get(option) == its.get(option)
    assert random_plan(plan, 8) != found
    assert random_plan(Plan(plan.steps[-1:]), 7) == Plan(plan.steps[-1:])


# ---- reconstruction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("sentence", [
    "neurons/magnitude ratio=0.5", "heads/magnitude ratio=0.5", "width/magnitude ratio=0.25 output_map=false",
    "layers/influence ratio=0.5 output_map=false",
])  # fmt: skip
def test_least_squares_brings_the_vectors_nearer(
    architecture: str, sentence: str, models: Mapping[str, ModelInfo]
) -> None:
    dense = encode(load(models[architecture].path), list(DOCUMENTS))
    errors = []
    for reconstruct in ("none", "least-squares"):
        work = done(models[architecture], f"{sentence} reconstruct={reconstruct}")
        there = dense if work.channels is None else dense[:, work.channels]
        there = there / np.linalg.norm(there, axis=1, keepdims=True)
        errors.append(float(1 - (encode(work.encoder, list(DOCUMENTS)) * there).sum(1).mean()))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("sentence", ["layers/influence ratio=0.5", "width/magnitude ratio=0.25 reconstruct=none"])
def test_an_output_map_brings_them_nearer_still(
    architecture: str, sentence: str, models: Mapping[str, ModelInfo]
) -> None:
    dense = encode(load(models[architecture].path), list(DOCUMENTS))
    mapped, plain = (done(models[architecture], f"{sentence} output_map={m}") for m in ("true", "false"))
    there = dense if plain.channels is None else dense[:, plain.channels]
    there = there / np.linalg.norm(there, axis=1, keepdims=True)
    vectors = encode(mapped.encoder, list(DOCUMENTS))
    assert vectors.shape == dense.shape
    assert (vectors * dense).sum(1).mean() > (encode(plain.encoder, list(DOCUMENTS)) * there).sum(1).mean()


# ---- plans of several steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("sentence", [
    "tokens/frequency ratio=0.4 | neurons/obs ratio=0.5 | layers/influence keep=1 | heads/magnitude keep=2",
    "neurons/magnitude ratio=0.5 | width/variance ratio=0.25",
    "heads/obs keep=3 | width/magnitude ratio=0.25 | neurons/obs keep=20",
    "layers/subset keep=1 | width/magnitude ratio=0.25 output_map=false",
    "heads/taylor ratio=0.4 scope=global | tokens/magnitude ratio=0.2 | width/magnitude ratio=0.25",
    "width/magnitude ratio=0.25 | width/random keep=8 | weights/magnitude ratio=0.5",
])  # fmt: skip
def test_steps_follow_each_other(
    architecture: str, sentence: str, models: Mapping[str, ModelInfo], made: list[Work],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found = cut(models[architecture], sentence)
    reloads(found, made[0])
    found_again(monkeypatch, models[architecture], sentence, found)
    assert (found.shape.width < WIDTH) == ("width" in sentence)
    assert (len(found.shape.heads) < LAYERS) == ("layers" in sentence)
    assert (max(found.shape.inner) < HIDDEN) == ("neurons" in sentence)
    assert (found.shape.vocabulary < models[architecture].vocabulary) == ("tokens" in sentence)
    assert found.info.dimension == WIDTH


def test_a_pruned_encoder_can_be_pruned_again(models: Mapping[str, ModelInfo], made: list[Work]) -> None:
    first = cut(models["mpnet"], "heads/magnitude keep=3 | neurons/taylor ratio=0.4 scope=global")
    second = cut(first.info, "heads/magnitude keep=2 | layers/random keep=1")
    assert second.shape.heads == (2,)
    reloads(second, made[1])


@pytest.mark.parametrize("target", ["neurons", "heads", "width", "layers", "tokens"])
def test_modules_behind_the_pooling_and_prompts_stay(target: str, tmp_path: Path, made: list[Work]) -> None:
    model = open_model(str(tiny_model("bert", tmp_path / "m", extras=True, lively=True)))
    found = cut(model, f"{target}/random ratio=0.5")
    assert (found.info.dimension, found.info.prompts) == (16, model.prompts)
    assert made[0].texts.short[0].startswith("the ")
    reloads(found, made[0])


# ---- what cannot be cut, and what goes wrong ----------------------------------------------------------------------


def test_an_unknown_architecture_is_told_what_is_possible(models: Mapping[str, ModelInfo]) -> None:
    stranger = replace(models["bert"], architecture="albert")
    for target in ("neurons", "tokens", "layers"):
        with pytest.raises(InputError, match="'albert' encoder; possible for it: dimensions") as said:
            cut(stranger, f"{target}/random ratio=0.5")
        assert all(known in str(said.value) for known in ARCHITECTURES)
    check_target("albert", "dimensions")


def test_without_texts_nothing_is_cut(models: Mapping[str, ModelInfo]) -> None:
    for method in ("neurons/magnitude", "width/variance", "tokens/frequency"):
        with pytest.raises(InputError, match=r"no texts to calibrate on \(0"):
            derive(models["bert"], steps(f"{method} ratio=0.5"), Texts((), ()))


def test_a_cancel_leaves_nothing(
    models: Mapping[str, ModelInfo], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path))
    plan = steps("neurons/obs ratio=0.5")
    said: list[str] = []
    derive(models["bert"], plan, FIT, progress=lambda what, *_: said.append(what))
    (folder,) = (tmp_path / "derived").iterdir()
    wanted = files(folder)
    (folder / store.MANIFEST).unlink()
    for stop in dict.fromkeys(said):

        def cancel(what: str, at: int, of: int, stop: str = stop) -> None:
            if what == stop:
                raise Cancelled(stop)

        with pytest.raises(Cancelled):
            derive(models["bert"], plan, FIT, progress=cancel)
        assert [p.name for p in (tmp_path / "derived").iterdir()] == [folder.name]
    derive(models["bert"], plan, FIT)
    assert files(folder) == wanted


_KILLED = """
import os, signal, sys
from core import derive, folders, store
from core.encoders import open_model
from core.embedding import load
from tests.test_derive import FIT, steps

model = open_model(sys.argv[1])
load(model.path)
places = {"cut": (derive, "perform"), "written": (folders, "check_config"), "listed": (store, "sync")}
for name, (module, function) in places.items():
    if os.fork() == 0:
        def kill(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "cut":
            derive.derive(model, steps("neurons/obs ratio=0.5"), FIT, progress=lambda what, at, of: at and kill())
        setattr(module, function, kill)
        derive.derive(model, steps("neurons/obs ratio=0.5"), FIT)
    _, status = os.wait()
    partial = [p.name[0] == "." for p in (store.home() / "derived").glob("*")]
    print(name, os.waitstatus_to_exitcode(status), partial.count(True), partial.count(False))
"""


def test_killed_in_the_middle_it_leaves_no_folder_of_that_name(
    models: Mapping[str, ModelInfo], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path))
    source = str(models["bert"].path)
    ran = subprocess.run(
        [sys.executable, "-c", _KILLED, source], cwd=ROOT, capture_output=True, text=True, check=False,
        env=dict(os.environ) | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    killed = -signal.SIGKILL
    assert [line.split() for line in ran.stdout.splitlines()] == [
        ["cut", str(killed), "0", "0"], ["written", str(killed), "1", "0"], ["listed", str(killed), "2", "0"],
    ]  # fmt: skip
    left = list((tmp_path / "derived").iterdir())
    assert left
    model = open_model(source)
    found = cut(model, "neurons/obs ratio=0.5")
    store.check_manifest(found.info.path)
    assert found.shape.inner == (HIDDEN // 2,) * LAYERS
    assert store.sweep_partials() == len(left)
    assert list((tmp_path / "derived").iterdir()) == [found.info.path]


def test_a_damaged_folder_is_made_anew(models: Mapping[str, ModelInfo]) -> None:
    found = cut(models["bert"], "neurons/magnitude keep=8")
    before = files(found.info.path)
    with (found.info.path / "model.safetensors").open("r+b") as f:
        f.seek(-4, os.SEEK_END)
        f.write(b"\0\0\0\1")
    again = cut(models["bert"], "neurons/magnitude keep=8")
    assert again.info.path == found.info.path
    store.check_manifest(again.info.path)
    assert files(again.info.path) == before


# ---- real weights -------------------------------------------------------------------------------------------------


def test_minilm_really_gets_smaller() -> None:
    model = open_model("minilm")
    found = cut(model, "neurons/magnitude ratio=0.5")
    gone = 6 * 768 * (384 + 1 + 384)  # of each of six layers: rows in, their biases, columns out
    assert (model.parameters, found.info.parameters) == (22_713_216, 22_713_216 - gone)
    assert found.shape.inner == (768,) * 6
    assert abs((model.bytes - found.info.bytes) - 4 * gone) < 8192  # but for the header, and position ids (4,096 bytes)
    assert found.info.folder_bytes < model.folder_bytes
    assert (found.plain, found.rounded) == (True, ())
    dense, cut_ = (encode(load(m.path), ["How do I bake bread?", "Interest rates rose."]) for m in (model, found.info))
    assert 0.5 < float((dense * cut_).sum(1).min()) < 0.9999


def test_calibration_texts_are_of_both_kinds_and_seeded(models: Mapping[str, ModelInfo]) -> None:
    one, same, other = (derive_module.calibration_texts(models["bert"], FIT, s) for s in (0, 0, 1))
    assert one == same != other
    assert sorted(one.documents) == sorted(other.documents) == sorted(FIT.full)
    assert len(one.short) == 2 * len(FIT)
    assert isinstance(one, CalibrationTexts)
    assert set(one.mixed(60)) & set(one.documents)
    assert set(one.mixed(60)) & set(one.short)
