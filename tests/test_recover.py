"""Recovery on tiny models: training lowers what it should, repeats itself, stops, resumes, keeps zeros and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core import live, registry
from core.anatomy import Anatomy, duplicate
from core.calibration import CalibrationTexts
from core.cuts import Work, perform
from core.derive import derive
from core.embedding import encode, load
from core.encoders import open_model
from core.errors import InputError
from core.methods.recovery import Distill, Finetune, Qat
from core.plan import parse
from core.recover import distill as distilling
from core.recover import finetune as finetuning
from core.recover import qat, trainer
from core.recover.distill import distill
from core.recover.finetune import finetune
from core.types import Texts
from tests.tiny_models import ARCHITECTURES, WORDS, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

CUT = "layers/influence keep=2 calibration=2000 | neurons/magnitude ratio=0.5 calibration=2000"


def sentences(count: int, least: int, most: int, seed: int) -> tuple[str, ...]:
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(WORDS, size=rng.integers(least, most))) for _ in range(count))


TITLES = tuple(f"{a} {b}" for a, b in zip(sentences(80, 3, 5, 3), sentences(80, 2, 4, 4), strict=True))
TEXTS = CalibrationTexts(
    sentences(160, 6, 24, 1),
    sentences(80, 2, 6, 2),
    tuple((t, f"{t} {b}") for t, b in zip(TITLES, sentences(80, 5, 12, 5), strict=True)),
)
QUICK = Distill(steps=60, batch=16, rate=1e-3, every=20, precision="float32")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(tiny_model("bert", tmp_path_factory.mktemp("bert"), layers=3, lively=True))


@pytest.fixture(scope="module")
def cut(model: Any) -> Work:
    return done(model, CUT)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path))


def done(model: Any, plan: str, texts: CalibrationTexts = TEXTS) -> Work:
    work = Work.start(model, texts)
    for step in registry.resolve(parse(plan), 0).flat:
        perform(work, step)
    return work


def teacher(model: Any) -> distilling.Teacher:
    return lambda texts: encode(model, texts)


def weights(student: Any) -> list[Any]:
    return [p.detach().clone() for p in student.parameters()]


def same(one: Sequence[Any], two: Sequence[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def cosine(model: Any, student: Any, texts: Sequence[str]) -> float:
    return float((encode(model, texts) * encode(student, texts)).sum(1).mean())


# ---- distillation ---------------------------------------------------------------------------------------------


def test_distillation_brings_the_vectors_back(model: Any, cut: Work) -> None:
    fresh, student = sentences(40, 4, 16, 99), duplicate(cut.encoder)
    before = cosine(model, student, fresh)
    found = distill(student, teacher(model), TEXTS, QUICK)
    assert found.best < 0.5 * found.start
    assert 1 - cosine(model, student, fresh) < 0.6 * (1 - before)
    assert found.steps == 60
    assert [p["step"] for p in found.curve] == [0, 20, 40, 60]
    assert found.best == min(p["held_out"] for p in found.curve)


def test_as_a_step_of_a_plan(model: Any) -> None:
    work = done(model, f"{CUT} | recover/distill steps=20 every=10 rate=0.001")
    (said,) = work.facts["training"]
    assert said["step"] == "recover/distill"
    assert said["best"] < said["start"]
    assert Anatomy(work.encoder).shape == Anatomy(done(model, CUT).encoder).shape


def test_no_steps_change_no_bit(model: Any, cut: Work) -> None:
    for method in (Distill(steps=0), Finetune(steps=0)):
        student = duplicate(cut.encoder)
        run = distill if isinstance(method, Distill) else finetune
        assert run(student, teacher(model), TEXTS, method).steps == 0  # type: ignore[operator]
        assert same(weights(student), weights(cut.encoder))


def test_a_seed_decides_every_bit(model: Any, cut: Work) -> None:
    one, two, other = (duplicate(cut.encoder) for _ in range(3))
    for student, seed in ((one, 0), (two, 0), (other, 1)):
        distill(student, teacher(model), TEXTS, Distill(steps=6, every=3, seed=seed))
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))


def test_never_worse_than_the_start(model: Any, cut: Work) -> None:
    student = duplicate(cut.encoder)
    found = distill(student, teacher(model), TEXTS, Distill(steps=10, every=5, rate=0.1, similarity=0.0))
    assert (found.at, found.best) == (0, found.start)
    assert same(weights(student), weights(cut.encoder))


def test_too_few_texts_are_refused(model: Any, cut: Work) -> None:
    with pytest.raises(InputError, match="3 are given, at least 8"):
        distill(duplicate(cut.encoder), teacher(model), CalibrationTexts(("a cat", "a dog", "a bird")), QUICK)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "static"])
def test_every_architecture_is_trained_written_and_found_again(architecture: str, tmp_path: Path) -> None:
    info = open_model(str(tiny_model(architecture, tmp_path / "model", lively=True)))
    fit = Texts(tuple(map(str, range(40))), TEXTS.documents[:40], TEXTS.short[:40])
    steps = registry.resolve(parse("tokens/frequency ratio=0.2 | recover/distill steps=6 batch=8 every=3"), 0).steps
    found = derive(info, steps, fit)
    (said,) = found.facts["training"]
    assert said["steps"] == 6
    assert said["best"] <= said["start"]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))  # the checkpoint goes when the folder stands
    assert derive(info, steps, fit).info.path == found.info.path


@pytest.mark.parametrize("plan", ["heads/magnitude ratio=0.5", "neurons/magnitude ratio=0.4 scope=global"])
def test_uneven_shapes_are_trained_as_they_are(model: Any, plan: str) -> None:
    work = done(model, f"{plan} calibration=2000 | recover/distill steps=20 every=10 rate=0.001")
    assert not Anatomy(work.encoder).shape.even
    assert work.facts["training"][0]["best"] < work.facts["training"][0]["start"]


def test_zeros_stay_zero(model: Any) -> None:
    before = done(model, "weights/magnitude ratio=0.6")
    after = done(model, "weights/magnitude ratio=0.6 | recover/distill steps=20 every=10 rate=0.001")
    for (_, one), (_, two) in zip(*(Anatomy(w.encoder).linears() for w in (before, after)), strict=True):
        assert torch.equal(one.weight == 0, two.weight == 0)
        assert not torch.equal(one.weight, two.weight)


def test_the_model_itself_is_not_touched(model: Any) -> None:
    before, flags = weights(model), [p.requires_grad for p in model.parameters()]
    done(model, f"{CUT} | recover/distill steps=5 every=5")
    assert same(before, weights(model))
    assert flags == [p.requires_grad for p in model.parameters()]
    assert all(not m._forward_pre_hooks for m in model.modules())


def test_held_out_texts_are_no_training_texts() -> None:
    held = distilling.held_out(160, 80)
    assert held.tolist() == [*range(144, 160), *range(232, 240)]
    vectors = np.random.default_rng(0).standard_normal((240, 8)).astype(np.float32)
    read = [*TEXTS.documents, *TEXTS.short]
    task = distilling.Vectors(read, vectors, held, 1.0)
    asked = [t for texts, _ in task.asked for t in texts]
    assert sorted([*asked, *task.texts]) == sorted(read)
    assert len(asked) == 24


# ---- the loop -------------------------------------------------------------------------------------------------


class Line:
    """A task in one number: the student's first weight should be 3; some rows may lie."""

    def __init__(self, wrong: Any = 0.0) -> None:
        self.lengths, self.wrong, self.calls = [1] * 64, wrong, 0

    def loss(self, student: Any, rows: Any) -> Any:
        self.calls += 1
        value = self.wrong(self.calls) if callable(self.wrong) else self.wrong
        return (student(torch.ones(1, 1)) - 3.0).square().mean() + value

    def held_out(self, student: Any) -> float:
        return float((student(torch.ones(1, 1)) - 3.0).square().mean().detach())


def linear() -> Any:
    student = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(student.bias)
    torch.nn.init.ones_(student.weight)
    return student


def test_a_loss_that_is_no_number_ends_it_with_the_best_so_far() -> None:
    student = linear()
    found = trainer.fit(student, Line(lambda n: math.nan if n > 30 else 0.0), steps=100, every=10, rate=0.01, batch=4)
    assert found.steps == 30
    assert "no number at step 31" in found.notes[-1]
    assert 0 < found.best < found.start
    assert found.best == pytest.approx(Line().held_out(student), rel=1e-6)


def test_it_ends_when_nothing_is_gained() -> None:
    found = trainer.fit(linear(), Line(), steps=500, every=5, rate=1e-9, batch=4, patience=3)
    assert found.steps < 500
    assert "no gain in 3 evaluations" in found.notes[-1]


def test_a_stop_is_seen_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    task, looks = Line(), iter(range(10_000))
    monkeypatch.setattr(live, "stopped", lambda: task.calls >= 25 and next(looks) >= 0)
    student = linear()
    found = trainer.fit(student, task, steps=100, every=10, rate=0.01, batch=4)
    assert found.steps == 24
    assert task.calls == 25
    assert found.notes == ("training: stopped after 24 of 100 steps",)
    assert found.at == 20
    assert found.best == pytest.approx(task.held_out(student), rel=1e-6)


def test_a_stop_is_seen_between_two_layers(model: Any, cut: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only between steps: a step of a large model takes longer than a person waits."""
    student, seen = duplicate(cut.encoder), []
    first, last = Anatomy(student).up(0), Anatomy(student).up(1)
    last.register_forward_pre_hook(lambda *_: seen.append("last"))
    first.register_forward_pre_hook(lambda *_: seen.append("first"))
    monkeypatch.setattr(live, "stopped", lambda: seen.count("first") == 20)
    found = distill(student, teacher(model), TEXTS, QUICK)
    assert seen.count("last") == 19
    assert found.steps < 60
    assert all(not m._forward_pre_hooks for m in cut.encoder.modules())


def test_a_stop_before_the_first_step(model: Any, cut: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "stopped", lambda: True)
    student = duplicate(cut.encoder)
    found = distill(student, teacher(model), TEXTS, QUICK)
    assert (found.steps, found.notes) == (0, ("distillation: stopped before the first step",))
    assert same(weights(student), weights(cut.encoder))


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_from_its_checkpoint(model: Any, cut: Work) -> None:
    def killer(what: str, step: int, total: int) -> None:
        if what.startswith("distillation") and step == 50:
            raise Killed

    with pytest.raises(Killed):
        distill(duplicate(cut.encoder), teacher(model), TEXTS, QUICK, killer)
    student, seen = duplicate(cut.encoder), []
    found = distill(student, teacher(model), TEXTS, QUICK, lambda what, step, total: seen.append((what, step)))
    assert min(step for what, step in seen if what.startswith("distillation")) == 40
    assert found.steps == 60
    assert found.best <= found.curve[2]["held_out"]
    assert [p["step"] for p in found.curve] == [0, 20, 40, 60]
    assert found.notes == ("distillation: taken up again at step 40",)
    again = distill(duplicate(cut.encoder), teacher(model), TEXTS, QUICK)
    assert (again.steps, again.best) == (60, found.best)  # a finished training is found, not done again


def test_points_are_told_to_the_job(model: Any, cut: Work, tmp_path: Path) -> None:
    live.into(tmp_path)
    try:
        found = distill(duplicate(cut.encoder), teacher(model), TEXTS, QUICK)
    finally:
        live._folder.clear()
    points = live.curve(tmp_path)
    assert [p["held_out"] for p in points] == [p["held_out"] for p in found.curve]
    assert {p["phase"] for p in points} == {"distillation"}


def test_batches_hold_each_row_once_an_epoch_and_like_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 256).tolist()
    stream = trainer.schedule(lengths, 16, 0)
    epoch = [next(stream) for _ in range(16)]
    assert sorted(np.concatenate(epoch)) == list(range(256))
    spread = np.mean([np.ptp(np.asarray(lengths)[rows]) for rows in epoch])
    assert spread < 0.3 * np.mean([np.ptp(lengths) for _ in epoch])


def test_the_rate_grows_and_falls_to_nothing() -> None:
    rates = [trainer.rate_at(i, 100, 1.0) for i in range(100)]
    assert max(rates) <= 1.0
    assert rates[9] == pytest.approx(1.0, abs=0.02)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.03
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_bf16_is_taken_where_a_pilot_says_so(model: Any, cut: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_SMALL", 0)
    for times, wanted in (((2.0, 1.0), "bf16"), ((1.0, 100.0), "float32")):
        monkeypatch.setattr(
            trainer, "_timed", lambda s, t, r, p, times=times: dict(zip(("float32", "bf16"), times, strict=True))[p]
        )
        found = distill(duplicate(cut.encoder), teacher(model), TEXTS, Distill(steps=4, every=2, seed=len(wanted)))
        assert found.precision == wanted
        assert wanted in found.notes[0]


# ---- fine-tuning ----------------------------------------------------------------------------------------------


def test_fine_tuning_makes_titles_find_their_texts(model: Any) -> None:
    student = duplicate(model)
    found = finetune(
        student, teacher(model), TEXTS, Finetune(steps=60, batch=16, rate=1e-3, every=20, anchor=0.0, negatives=2)
    )
    assert found.best < found.start

    def rank(encoder: Any) -> float:
        titles, bodies = (encode(encoder, [p[side] for p in TEXTS.pairs]) for side in (0, 1))
        scores = titles @ bodies.T
        return float((scores > np.diag(scores)[:, None]).sum(1).mean())

    assert rank(student) < 0.7 * rank(model)


def test_an_anchor_keeps_the_vectors_near(model: Any) -> None:
    near = {}
    for anchor in (0.0, 50.0):
        student = duplicate(model)
        finetune(student, teacher(model), TEXTS, Finetune(steps=30, rate=1e-3, every=30, anchor=anchor, patience=0))
        near[anchor] = cosine(model, student, TEXTS.short)
    assert near[50.0] > near[0.0]


def test_the_contrast_is_that_of_sentence_transformers(model: Any) -> None:
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    titles, bodies = ([p[side] for p in TEXTS.pairs[:8]] for side in (0, 1))
    batch = [distilling.features(model, t) for t in (titles, bodies)]
    with torch.no_grad():
        wanted = MultipleNegativesRankingLoss(model, scale=1 / finetuning.TEMPERATURE)(batch, None)
        mine = finetuning.contrast(
            distilling.embedded(model, titles), distilling.embedded(model, bodies), torch.ones(8, 8, dtype=torch.bool)
        )
    assert float(mine) == pytest.approx(float(wanted), rel=1e-5)


def test_what_may_be_relevant_is_no_negative() -> None:
    rng = np.random.default_rng(0)
    asked, found = (finetuning.unit(rng.standard_normal((30, 6)).astype(np.float32)) for _ in range(2))
    found = finetuning.unit(asked + 0.7 * found)
    scores, may = asked @ found.T, finetuning.allowed(asked, found)
    assert not may.diagonal().any()
    rows = finetuning.mined(asked, found, 3)
    for i, chosen in enumerate(rows):
        mean = scores[i].mean()
        able = [j for j in range(30) if scores[i, j] - mean < 0.95 * (scores[i, i] - mean)]
        assert set(chosen) == set(sorted(able, key=lambda j: -scores[i, j])[:3])


def test_fine_tuning_needs_titles(model: Any) -> None:
    with pytest.raises(InputError, match="use recover/distill"):
        finetune(duplicate(model), teacher(model), CalibrationTexts(TEXTS.documents), Finetune())


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    assert not live._folder


# ---- quantization-aware training ------------------------------------------------------------------------------


def test_fake_rounding_is_that_of_eight_bits_and_goes_away(model: Any) -> None:
    student = duplicate(model)
    plain = encode(student, TEXTS.short)
    with qat.fake_quantized(student, TEXTS.documents[:16]):
        turned = encode(student, TEXTS.short)
    assert 0.98 < float((plain * turned).sum(1).min()) < 1 - 1e-6
    after, before = student.state_dict(), model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert np.array_equal(encode(student, TEXTS.short), plain)


def test_weights_are_rounded_to_255_levels_an_output() -> None:
    weight = torch.randn(7, 33, generator=torch.Generator().manual_seed(0))
    smooth = torch.linspace(0.5, 2.0, 33)
    got = qat._weight_rounding(smooth)(weight) * smooth
    step = (weight * smooth).abs().amax(1, keepdim=True) / 127
    codes = got / step
    assert torch.allclose(codes, codes.round(), atol=1e-3)
    assert codes.abs().max() <= 127.01
    assert ((got - weight * smooth).abs() <= step / 2 * 1.001).all()


@pytest.mark.parametrize(("bits", "levels"), [("int8", 255), ("int4", 15), ("binary", 2)])
def test_rounded_vectors_have_few_levels_and_straight_gradients(bits: str, levels: int) -> None:
    x = torch.nn.functional.normalize(torch.randn(20, 64, generator=torch.Generator().manual_seed(1)), dim=-1)
    x.requires_grad_(True)
    got = qat.rounded(x, bits)
    assert max(len(torch.unique((row / row.abs().max() * 1e4).round())) for row in got.detach()) <= levels
    assert torch.allclose(got.norm(dim=-1), torch.ones(20), atol=1e-5)
    got.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(x.grad, torch.ones_like(x))


def test_vectors_learn_to_bear_one_bit(model: Any) -> None:
    student = duplicate(model)
    method = Qat(steps=60, batch=16, rate=1e-3, every=20, vectors="binary", weights="float", precision="float32")
    found = qat.qat(student, teacher(model), TEXTS, method)
    assert found.best < 0.9 * found.start

    def lost(encoder: Any) -> float:
        fresh = sentences(60, 4, 16, 77)
        got, wanted = (torch.from_numpy(encode(m, fresh)) for m in (encoder, model))
        return float(qat.unlike(got, qat.rounded(got, "binary"), wanted))

    assert lost(student) < lost(model)


def test_training_with_rounded_weights_bears_them_better(model: Any, cut: Work) -> None:
    student = duplicate(cut.encoder)
    found = qat.qat(student, teacher(model), TEXTS, Qat(steps=40, batch=16, rate=1e-3, every=20))
    assert found.best < 0.7 * found.start
    assert not any("parametrizations" in n for n, _ in student.named_parameters())
