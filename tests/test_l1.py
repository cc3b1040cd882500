"""L1 training: gates reach zero, folding changes no vector, and the cut behind takes what is at zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core import live, registry, units
from core.anatomy import Anatomy, duplicate
from core.calibration import CalibrationTexts, hooked
from core.cuts import Work, perform
from core.derive import check
from core.embedding import encode, load
from core.encoders import ModelInfo, open_model
from core.errors import InputError, PlanError
from core.methods.recovery import L1
from core.methods.recovery import L1_TARGETS as TARGETS
from core.plan import Plan, parse
from core.recover.l1 import FASTER, train_l1, unit_gates
from tests.tiny_models import ARCHITECTURES, WORDS, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

_dice = np.random.default_rng(0)
TEXTS = CalibrationTexts(
    tuple(" ".join(_dice.choice(WORDS, 4 + i % 9)) for i in range(60)),
    tuple(" ".join(_dice.choice(WORDS, 3)) for i in range(40)),
)
OTHERS = [" ".join(_dice.choice(WORDS, 2 + i)) for i in range(12)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelInfo]:
    root = tmp_path_factory.mktemp("l1")
    found = {a: open_model(str(tiny_model(a, root / a, lively=True))) for a in (*ARCHITECTURES, "static")}
    return found | {"extras": open_model(str(tiny_model("bert", root / "extras", extras=True, lively=True)))}


def trained(model: ModelInfo, **options: object) -> tuple[object, object]:
    """(the student, what was said), after a short training."""
    source = load(model.path)
    student = duplicate(source)
    method = L1(**({"steps": 20, "batch": 8, "every": 10} | options))  # type: ignore[arg-type]
    return student, train_l1(student, lambda t: encode(source, t), TEXTS, method)


@pytest.mark.parametrize("target", [t for t in TARGETS if t != "weights"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "static", "extras"])
def test_a_gate_folded_in_is_a_gate_in_place(architecture: str, target: str, models: dict[str, ModelInfo]) -> None:
    """The vectors with gates are those of the plain weights behind; for neurons and heads, of gated activations too."""
    if architecture == "static" and target in ("neurons", "heads"):
        with pytest.raises(InputError, match="static"):
            unit_gates(duplicate(load(models["static"].path)), target)
        return
    encoder = duplicate(load(models[architecture].path))
    names = list(encoder.state_dict())
    whole = encode(encoder, OTHERS)
    gates = unit_gates(encoder, target)
    np.testing.assert_allclose(encode(encoder, OTHERS), whole, atol=2e-6)  # all at one
    with torch.no_grad():
        for row in gates.rows:
            row.copy_(torch.rand(len(row)) / FASTER)
            row[::3] = 0.0
    gated = encode(encoder, OTHERS)
    assert np.abs(gated - whole).max() > 1e-3
    if target in ("neurons", "heads"):
        source = duplicate(load(models[architecture].path))
        hooks = units.gate_hooks(Anatomy(source), target, [v.detach() * FASTER for v in gates.rows])
        with hooked(hooks):
            np.testing.assert_allclose(encode(source, OTHERS), gated, atol=1e-5)
    gates.fold()
    np.testing.assert_array_equal(encode(encoder, OTHERS), gated)
    assert list(encoder.state_dict()) == names
    assert not any("Parametrized" in type(m).__name__ for m in encoder.modules())


def test_gates_of_dimensions_are_the_dimensions(models: dict[str, ModelInfo]) -> None:
    for name in ("bert", "modernbert", "static", "extras"):
        encoder = duplicate(load(models[name].path))
        gates = unit_gates(encoder, "dimensions")
        gone = [0, 5]
        with torch.no_grad():
            gates.rows[0][gone] = 0.0
        gates.fold()
        found = encode(encoder, OTHERS)
        assert not found[:, gone].any()
        assert np.abs(found).sum(0).astype(bool).sum() == found.shape[1] - 2


@pytest.mark.parametrize("target", TARGETS)
def test_strength_brings_zeros_and_none_brings_none(target: str, models: dict[str, ModelInfo]) -> None:
    options = {"rate": 3e-3, "target": target}
    _, without = trained(models["bert"], strength=0.0, **options)
    student, much = trained(models["bert"], strength=5.0, **options)
    zeros = [done.curve[-1]["zeros"] for done in (without, much)]
    assert zeros[0] == 0.0
    assert zeros[1] > 0.2
    assert "raise strength=" in without.notes[0]
    assert f"the gates on {target} are zero" in much.notes[0]
    assert all({"zeros", "small", "distance", "held_out"} <= set(point) for point in much.curve)
    assert all("gate_gradient" in point for point in much.curve[1:])
    if target == "weights":
        linears = [m.weight for _, m in Anatomy(student, "weights").linears()]
        share = sum(int((w == 0).sum()) for w in linears) / sum(w.numel() for w in linears)
        assert share == pytest.approx(zeros[1])


@pytest.mark.parametrize("target", ["neurons", "heads", "weights"])
def test_no_layer_is_emptied(target: str, models: dict[str, ModelInfo]) -> None:
    """A matrix of zeros would be refused when the encoder is written: it holds nothing any more."""
    student, _ = trained(
        models["bert"], strength=10.0, rate=3e-2 if target == "weights" else 3e-3, target=target, steps=40
    )
    for _, module in Anatomy(student, "weights").linears():
        assert module.weight.any()


@pytest.mark.parametrize("target", ["neurons", "heads"])
def test_magnitude_cuts_first_what_is_at_zero(target: str, models: dict[str, ModelInfo]) -> None:
    strength = {"neurons": 0.02, "heads": 0.01}[target]
    student, done = trained(models["bert"], strength=strength, rate=3e-3, target=target)
    scores = units.magnitude(Anatomy(student), target)
    gone = sum(int((s == 0).sum()) for s in scores) / sum(len(s) for s in scores)
    assert gone == pytest.approx(done.curve[-1]["zeros"])
    work = Work.start(student, TEXTS)
    before = encode(student, OTHERS)
    spare = min(int((s == 0).sum()) for s in scores)
    assert 0 < spare < len(scores[0])
    keep = len(scores[0]) - spare
    (step,) = registry.resolve(parse(f"{target}/magnitude keep={keep}"), 0).steps
    perform(work, step)
    np.testing.assert_allclose(encode(work.encoder, OTHERS), before, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_no_steps_give_the_same_model(models: dict[str, ModelInfo]) -> None:
    one, two, three = (trained(models["bert"], strength=2.0, rate=3e-3, seed=s)[0] for s in (1, 1, 2))
    vectors = [encode(student, OTHERS) for student in (one, two, three)]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-6
    idle, done = trained(models["bert"], steps=0)
    np.testing.assert_array_equal(encode(idle, OTHERS), encode(load(models["bert"].path), OTHERS))
    assert done.steps == 0


def test_a_stop_folds_what_there_is(models: dict[str, ModelInfo], monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(range(10_000))
    monkeypatch.setattr(live, "stopped", lambda: next(looks) > 400)
    student, done = trained(models["bert"], steps=500, strength=5.0, rate=3e-3)
    assert 0 < done.steps < 500
    assert "stopped after" in " ".join(done.notes)
    assert not any("Parametrized" in type(m).__name__ for m in student.modules())


def test_vanished_gradients_are_said(models: dict[str, ModelInfo], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights at the end of the rate's decay: a loss that no gate can change any more."""
    from core.recover import l1

    monkeypatch.setattr(l1.Penalised, "loss", lambda self, student, rows: self.task.loss(student, rows) * (
        1.0 if self.step < 10 else 1e-9))  # fmt: skip
    _, done = trained(models["bert"], steps=40, strength=0.5)
    assert "vanished by step 20" in done.notes[-1]
    assert done.curve[-1]["gate_gradient"] < 0.01 * done.curve[1]["gate_gradient"]


def test_a_plan_says_it_and_takes_what_it_should(models: dict[str, ModelInfo]) -> None:
    plan = registry.resolve(parse("train/l1 strength=0.2 | neurons/magnitude ratio=0.5"), 4)
    assert parse(str(plan)) == plan
    assert plan.steps[0].get("target") == "neurons"  # type: ignore[union-attr]
    assert plan.steps[0].get("seed") == 4  # type: ignore[union-attr]
    check(models["static"], registry.resolve(parse("train/l1 target=tokens"), 0).steps)
    with pytest.raises(InputError, match="neurons"):
        check(models["static"], registry.resolve(parse("train/l1"), 0).steps)
    for wrong in ("train/l1 target=layers", "train/l1 strength=-1.0", "train/l1 ratio=0.5"):
        with pytest.raises(PlanError):
            registry.resolve(parse(wrong), 0)
    with pytest.raises(InputError, match="at least 8"):
        train_l1(None, lambda t: None, CalibrationTexts(("a cat",)), L1())  # type: ignore[arg-type, return-value]
    assert isinstance(plan, Plan)
