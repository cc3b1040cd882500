"""What a page says of an encoder cut, before and after it ran: sizes as they will be, words as they were measured."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from core import encoder_verdict, meter, registry
from core.derive import derive
from core.encoders import ModelInfo, open_model
from core.errors import PlanError
from core.plan import Cut, Plan, parse
from core.runs import row_of
from core.types import Texts
from tests.tiny_models import HEADS, HIDDEN, LAYERS, WIDTH, WORDS, tiny_model

DOCUMENTS = tuple(" ".join(WORDS[(i + j) % len(WORDS)] for j in range(4 + i % 5)) + "." for i in range(24))
FIT = Texts(tuple(map(str, range(24))), DOCUMENTS)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    return open_model(str(tiny_model("bert", tmp_path_factory.mktemp("meter") / "bert", lively=True)))


def plan_of(text: str) -> Plan:
    return registry.resolve(parse(text), 0)


# ---- before it runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "neurons/magnitude ratio=0.5",
        "neurons/magnitude ratio=0.45",
        "heads/magnitude ratio=0.5",
        "layers/influence keep=1",
        "width/magnitude ratio=0.5",
        "width/magnitude ratio=0.5 output_map=false",
        "weights/magnitude ratio=0.5",
        "layers/influence keep=1 | neurons/magnitude ratio=0.5 output_map=true",
    ],
)
def test_the_meter_is_what_the_cut_leaves(bert: ModelInfo, text: str) -> None:
    plan = plan_of(text)
    will = meter.leaves(bert, plan)
    done = derive(bert, registry.parts(plan).encoder, FIT)
    assert (will.parameters, will.dimension) == (done.info.parameters, done.info.dimension)
    assert (will.shape.heads, will.shape.inner, will.shape.width) == (done.shape.heads, done.shape.inner,
                                                                      done.shape.width)  # fmt: skip
    assert bool(will.why) == (not done.plain)
    assert will.rounded == done.rounded


def test_nothing_cut_leaves_everything(bert: ModelInfo) -> None:
    will = meter.leaves(bert, plan_of("neurons/obs ratio=0.0"))
    assert (will.parameters, will.dimension, will.bytes, will.speedup) == (
        bert.parameters, bert.dimension, bert.bytes, 1.0)  # fmt: skip
    assert meter.rows(bert, plan_of("neurons/obs ratio=0.0"))[1][2] == 1.0


def test_a_dimension_cut_behind_an_encoder_cut_counts_what_is_left(bert: ModelInfo) -> None:
    plan = plan_of("width/magnitude ratio=0.5 output_map=false | dimensions/svd ratio=0.5")
    assert meter.leaves(bert, plan).dimension == WIDTH // 4
    assert meter.words(bert, plan) == [
        f"{WIDTH // 2} of {WIDTH} hidden channels", f"{WIDTH // 4} of {WIDTH // 2} dimensions"]  # fmt: skip


def test_words_count_step_after_step(bert: ModelInfo) -> None:
    words = meter.words(bert, plan_of("layers/influence keep=1 | neurons/obs ratio=0.5 | heads/obs keep=3"))
    assert words == [f"1 of {LAYERS} layers", f"{HIDDEN // 2} of {HIDDEN} neurons in each layer",
                     f"3 of {HEADS} heads in each layer"]  # fmt: skip
    assert "snapped" in meter.caption(bert, plan_of("neurons/obs ratio=0.45"))


def test_the_download_says_why_it_is_onnx(bert: ModelInfo) -> None:
    for text, form, words in (
        ("neurons/obs ratio=0.5", "sentence-transformers", "plainly"),
        ("heads/obs ratio=0.5", "onnx", "ONNX"),
        ("neurons/obs ratio=0.5 scope=global", "onnx", "ONNX"),
        ("layers/subset keep=1 | dimensions/bilinear ratio=0.5", "vectors", "matrix"),
    ):
        plan = plan_of(text)
        why = meter.leaves(bert, plan).why
        assert meter.forms(bert, plan, why)[0] == form
        assert words in meter.reload_words(form, why)


def test_zeros_gain_nothing_and_nothing_is_measured_before_it_ran(bert: ModelInfo) -> None:
    rows = {label: (words, share) for label, words, share in meter.rows(bert, plan_of("weights/magnitude ratio=0.5"))}
    assert meter.ZEROS in rows["model file, planned"][0]
    assert [rows[k][1] for k in ("vector", "parameters", "model file, planned", "encoding time")] == [1.0] * 4
    assert meter.LATER in rows["zipped"][0]
    assert meter.LATER in rows["encoding time"][0]
    assert not meter.only_zeros(plan_of("weights/magnitude ratio=0.5 | dimensions/svd ratio=0.5"))


def test_a_cut_that_cannot_be_is_a_plan_error(bert: ModelInfo) -> None:
    with pytest.raises(PlanError, match="keep=3"):
        meter.leaves(bert, plan_of("layers/influence keep=3"))


def test_brief_is_the_same_plan() -> None:
    text = "neurons/obs ratio=0.5 scope=global | layers/subset keep=4 | dimensions/distilled keep=8 seed=3"
    assert registry.brief(plan_of(text)) == text
    assert plan_of(registry.brief(plan_of(text))) == plan_of(text)


# ---- the estimate ---------------------------------------------------------------------------------------------


def curve(*points: tuple[float, float | None]) -> dict[str, Any]:
    rows = [
        {"ratio": r, "removed": r, "kept": round(100 * (1 - r)), "quality_kept": q, "cosine": 0.9,
         "neighbour_overlap@10": 0.8}
        for r, q in points
    ]  # fmt: skip
    return {"target": "neurons", "criterion": "obs", "measure": "ndcg@10", "curve": rows, "whole": 100, "multiple": 1,
            "sample": {"words": "12 documents"}, "recommended": {}}  # fmt: skip


def test_the_estimate_lies_on_the_line_and_never_beyond_it() -> None:
    answer = curve((0.25, 0.9), (0.5, 0.7))
    assert encoder_verdict.estimate(answer, 0.0) == 1.0
    assert encoder_verdict.estimate(answer, 0.25) == pytest.approx(0.9)
    assert encoder_verdict.estimate(answer, 0.3) == pytest.approx(0.86)
    assert encoder_verdict.estimate(answer, 0.6) is None
    assert encoder_verdict.estimate(curve((0.25, None)), 0.2) is None
    words = encoder_verdict.estimate_words(answer, Cut(keep=75))
    assert "90.0 %" in words
    assert "12 documents" in words
    assert "90.0 %" not in encoder_verdict.estimate_words(None, Cut(keep=75))


def test_another_budget_is_read_from_the_same_curve() -> None:
    answer = curve((0.25, 0.9), (0.5, 0.7))
    assert encoder_verdict.budgeted(answer, 0.95)["recommended"]["ratio"] == pytest.approx(0.12)
    assert encoder_verdict.budgeted(answer, 0.80)["recommended"]["ratio"] == pytest.approx(0.37)
    assert [encoder_verdict.in_steps(r) for r in (0.0, 0.37, 0.35, 0.999)] == [0, 35, 35, 95]


# ---- what was measured ----------------------------------------------------------------------------------------


@pytest.fixture
def report(bert: ModelInfo) -> dict[str, Any]:
    kept = {"before": 0.7, "after": 0.665, "ratio": 0.95, "low": 0.93, "high": 0.97, "p_value": 0.001}
    model = {"bytes": 1000, "dimension": 32, "zipped_bytes": 900, "parameters": 250}
    return {
        "plan": "neurons/magnitude ratio=0.5", "resolved_plan": str(plan_of("neurons/magnitude ratio=0.5")),
        "data": [{"name": "d", "kind": "retrieval", "truth": "judged", "queries": 280}],
        "before": {"model": model}, "after": {"model": model | {"bytes": 600}, "cost": {"vector_bytes": 128}},
        "retention": {"d": {"ndcg@10": kept}},
        "random_baseline": {"d": {"ndcg@10": {"ratio": 0.8, "std": 0.01, "draws": 2}}},
        "speedup": {"measured": 1.4, "ideal": 1.5, "mean_tokens": 64.0, "engine": "torch"},
        "encoder": {"plain_reload": True, "why": ""}, "rounded": [], "drift": {"neighbour_overlap@10": 0.8},
    }  # fmt: skip


def test_the_verdict_of_a_run(bert: ModelInfo, report: dict[str, Any]) -> None:
    first, second = encoder_verdict.sentence(bert, report, "d", "ndcg@10")
    assert first == (
        f"Keep {HIDDEN // 2} of {HIDDEN} neurons in each layer: 95.0 % kept (95 % interval 93.0 to 97.0) of nDCG@10 on "
        "280 queries; random units with the same reconstruction: 80.0 % (mean of 2)."
    )
    assert second == (
        "Model file 1.0 kB → 600 B. Encoding measured 1.40x as fast (ideal 1.50x by arithmetic at 64 tokens a text)."
    )


def test_noise_zeros_and_what_is_not_defined(bert: ModelInfo, report: dict[str, Any]) -> None:
    noise = copy.deepcopy(report)
    noise["retention"]["d"]["ndcg@10"] |= {"ratio": 0.99, "low": 0.95, "high": 1.02, "p_value": 0.4}
    assert "no measurable loss" in encoder_verdict.sentence(bert, noise, "d", "ndcg@10")[0]
    empty = copy.deepcopy(report)
    empty["retention"]["d"]["ndcg@10"] |= dict.fromkeys(("ratio", "low", "high", "p_value"))
    assert "not defined" in encoder_verdict.sentence(bert, empty, "d", "ndcg@10")[0]
    assert encoder_verdict.table(report)[0]["kept, %"] == pytest.approx(95.0)
    assert math.isnan(encoder_verdict.table(empty)[0]["kept, %"])
    zeros = report | {"resolved_plan": str(plan_of("weights/magnitude ratio=0.5"))}
    first, second = encoder_verdict.sentence(bert, zeros, "d", "ndcg@10")
    assert first.startswith("50 % of the weights set to zero: 95.0 % kept")
    assert second.endswith(f"Single weights are {meter.ZEROS}.")
    assert "other data" in encoder_verdict.sentence(bert, report, "elsewhere", "ndcg@10")[0]


def test_measured_figures_stand_in_the_meter(bert: ModelInfo, report: dict[str, Any]) -> None:
    rows = {label: (words, share) for label, words, share in meter.rows(bert, plan_of(report["plan"]), report)}
    assert rows["encoding time"] == ("measured 1.40x as fast (ideal 1.50x)", 1 / 1.4)
    assert rows["zipped"][1] == 1.0
    assert rows["model file"][0].endswith("600 B")


def test_token_coverage_in_words(report: dict[str, Any]) -> None:
    assert encoder_verdict.coverage_words(report) == ""
    found = {"texts": 200, "texts_unchanged": 0.9, "words_unchanged": 0.99, "unk_rate": {"before": 0.0, "after": 0.001},
             "tokens_per_word": {"before": 1.2, "after": 1.25}}  # fmt: skip
    words = encoder_verdict.coverage_words(report | {"encoder": {"tokens": found}})
    assert words.startswith("90.0 % of 200 texts and 99.0 % of their words")
    assert "0.00 % → 0.10 %" in words


def test_a_prepared_cut_is_named_without_its_defaults(report: dict[str, Any]) -> None:
    full = report | {"plan": report["resolved_plan"]}
    row = row_of(full, "ndcg@10")
    assert row is not None
    assert row["label"] == "neurons/magnitude ratio=0.5"
    assert row["model_bytes"] == 600
    assert row["encoding"] == pytest.approx(1 / 1.4)
    assert row_of(full | {"plan": "gone/method ratio=0.5"}, "ndcg@10")["label"] == "gone/method ratio=0.5"  # type: ignore[index]


# ---- training, schedules, codes, formats ----------------------------------------------------------------------


def test_the_sentence_names_the_training_that_was_done(bert: ModelInfo) -> None:
    plan = plan_of("layers/subset keep=1 | recover/distill steps=300")
    assert encoder_verdict.planned(bert, plan) == (
        f"Keep 1 of {LAYERS} layers, after 300 steps of distillation: not measured yet.")  # fmt: skip
    report = {"encoder": {"training": [{"step": "recover/distill", "steps": 120, "curve": [{"step": 0}]}],
                          "stopped": True}}  # fmt: skip
    assert meter.trained(plan, report) == ", after 120 steps of distillation, stopped early"
    assert encoder_verdict.training_points(report) == [{"phase": "distillation", "steps": 120, "step": 0}]
    assert meter.trained(plan_of("layers/subset keep=1")) == ""
    notes = {"notes": ["distillation: stopped after 120 of 300 steps", "1 text was blank"]}
    assert encoder_verdict.training_notes(notes) == notes["notes"][:1]


def test_a_schedule_that_stopped_is_said_with_what_it_really_cut(bert: ModelInfo) -> None:
    plan = plan_of("iterate(neurons/magnitude ratio=0.5 | recover/distill steps=10) rounds=2 schedule=linear")
    assert meter.trained(plan) == ", after 2 rounds of 10 steps of distillation"
    report = {"encoder": {"round_given": 1, "training": [{"step": "recover/distill", "steps": 10, "curve": []}]}}
    assert meter.words(bert, meter.given(bert, plan, report)) == [
        f"{HIDDEN * 3 // 4} of {HIDDEN} neurons in each layer"]  # fmt: skip
    assert meter.trained(plan, report) == ", after round 1 of 2 with 10 steps of distillation"
    none = {"encoder": {"round_given": 0}}
    assert meter.words(bert, meter.given(bert, plan, none)) == [f"{HIDDEN} of {HIDDEN} neurons in each layer"]


def test_the_meter_counts_dimensions_codes_and_formats(bert: ModelInfo) -> None:
    plan = plan_of(f"layers/subset keep=1 | dimensions/svd keep={WIDTH // 2} | quantize/int8")
    rows = {label: (words, share) for label, words, share in meter.rows(bert, plan, None, "onnx-int8")}
    assert rows["vector"] == (f"{4 * WIDTH} → {WIDTH // 2} B", 1 / 8)
    assert meter.words(bert, plan)[-1] == f"{WIDTH // 2} of {4 * WIDTH} bytes a vector"
    will = meter.leaves(bert, plan)
    assert rows["model file, planned"][1] == pytest.approx(will.parameters / bert.bytes)
    assert meter.file_bytes(bert, will, "sentence-transformers-fp16") == 2 * will.parameters
    measured = {"after": {"cost": {"vector_bytes": 16, "codebook_bytes": 2048}, "model": {}}}
    assert meter.rows(bert, plan, measured)[0][1] == f"{4 * WIDTH} → 16 B, codebook 2.0 kB once"
    assert meter.forms(bert, plan_of("quantize/int8"), "")[0] == "vectors"
    assert meter.forms(bert, plan, "")[0] == "sentence-transformers"
    assert "vectors" not in meter.forms(bert, plan, "")


def test_small_and_fast_scales_with_the_layers(bert: ModelInfo) -> None:
    assert str(meter.small(bert)).startswith(f"layers/subset keep={round(LAYERS * 2 / 3)} | neurons/obs ratio=0.375")
    assert registry.resolve(meter.small(bert), 0)
