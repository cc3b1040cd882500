"""The Prune page where the encoder is cut: what is offered, the plan, one real small job, and what a kill leaves.

The harness swaps a process-wide runtime: one page at a time, never from threads.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core import commands, jobs, live, meter, registry, shipped
from core.__main__ import build_parser
from core.anatomy import ENCODER_TARGETS
from core.bench import prepare
from core.encoders import ModelInfo, open_model
from core.types import quiet
from tests.test_app import at, checked, command, opened, said, url, verdict
from tests.tiny_models import WORDS, tiny_model

pytestmark = pytest.mark.usefixtures("warmed", "no_worker_left")

ROOT = Path(__file__).parents[1]


def speed() -> AppTest:
    page = opened()
    return checked(page.segmented_control(key="wish").set_value("speed").run())


def cutting(page: AppTest, target: str) -> AppTest:
    return checked(page.selectbox(key="target").select(target).run())


def plan(page: AppTest) -> str:
    """The plan's sentence as the page shows it."""
    return str(page.code[0].value)


# ---- what is offered ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ENCODER_TARGETS)
def test_the_first_look_at_an_encoder_cut_is_an_estimate(target: str) -> None:
    """Measured before the product was shipped: stale? `python -m tests.benchmarks.make_sensitivity` (minutes)."""
    bench = prepare("minilm", ["sample"])
    answer = shipped.sensitivity(bench, *registry.names(target)[0].split("/"))
    assert answer is not None
    assert answer["model"]["fingerprint"] == bench.model.fingerprint
    assert 0.5 < answer["curve"][0]["quality_kept"] <= 1.05
    page = speed()
    checked(page.toggle(key="all_targets").set_value(True).run())
    cutting(page, target)
    assert any("\nEstimate: " in m.value for m in page.markdown)


@pytest.mark.parametrize(
    ("wish", "offered"),
    [
        ("index", ["Dimensions of the vectors", "Whole vectors", "Bits per number"]),
        ("model", ["Vocabulary (token rows)", "Layers", "Feed-forward neurons", "Hidden width"]),
        ("speed", ["Layers", "Feed-forward neurons", "Attention heads", "Hidden width"]),
    ],
)
def test_the_wish_chooses_what_can_be_cut(wish: str, offered: list[str]) -> None:
    page = opened()
    checked(page.segmented_control(key="wish").set_value(wish).run())
    assert page.selectbox(key="target").options == offered
    assert ("not measured yet" in verdict(page)) == (wish != "index")
    checked(page.toggle(key="all_targets").set_value(True).run())
    assert len(page.selectbox(key="target").options) == 9


def test_single_weights_say_at_once_that_they_gain_nothing() -> None:
    page = speed()
    checked(page.toggle(key="all_targets").set_value(True).run())
    cutting(page, "weights")
    assert meter.ZEROS.capitalize() in said(page)
    assert plan(page).startswith("weights/")


@pytest.mark.parametrize("target", ["layers", "neurons", "heads", "width"])
def test_every_method_can_be_chosen_and_its_options_reach_the_plan(target: str) -> None:
    page = cutting(speed(), target)
    checked(page.checkbox(key="all_methods").check().run())
    for name in registry.names(target):
        checked(page.selectbox(key=f"method_{target}").select(name).run())
        assert plan(page).startswith(name)
        assert not page.error
    box = page.selectbox(key=f"{name}:reconstruct")
    other = next(o for o in box.options if o != box.value)
    checked(box.select(other).run())
    assert f"reconstruct={other}" in plan(page)


def test_the_counts_are_real_and_snapped() -> None:
    page = cutting(speed(), "neurons")
    checked(page.slider(key="ratio_neurons").set_value(30).run())
    assert "1,080 of 1,536 neurons in each layer" in verdict(page)
    assert "multiple of 8" in said(page)
    assert "Reloads plainly" in said(page)
    cutting(page, "heads")
    checked(page.slider(key="ratio_heads").set_value(50).run())
    assert "6 of 12 heads" in verdict(page)
    assert "Download as ONNX" in said(page)
    cutting(page, "layers")
    checked(page.slider(key="keep_layers").set_value(4).run())
    assert plan(page) == "layers/subset keep=4"
    assert "Reloads plainly" in said(page)


def test_the_dimensions_come_back_as_they_were() -> None:
    page = opened(ratio="44")
    before = verdict(page)
    checked(page.segmented_control(key="wish").set_value("speed").run())
    checked(page.segmented_control(key="wish").set_value("index").run())
    assert verdict(page) == before
    assert page.slider(key="ratio").value == 44


def test_an_encoder_cut_comes_back_from_the_url() -> None:
    page = opened(wish="faster encoding", target="Feed-forward neurons", ratio_neurons="50")
    assert "768 of 1,536 neurons" in verdict(page)
    for name in ("compare", "methods"):
        at(page, name)
    at(page, "prune")
    assert "768 of 1,536 neurons" in verdict(page)


def test_nothing_cut_cannot_be_run() -> None:
    page = cutting(speed(), "neurons")
    checked(page.slider(key="ratio_neurons").set_value(0).run())
    assert page.button(key="run_encoder").disabled


# ---- the list of steps ----------------------------------------------------------------------------------------


def test_steps_are_added_moved_switched_off_and_removed() -> None:
    page = speed()
    checked(page.button(key="add_step").click().run())
    assert plan(page) == "layers/subset keep=5 | neurons/obs ratio=0.3"
    checked(page.slider(key="step1_ratio").set_value(50).run())
    checked(page.button(key="step1_arrow_upward").click().run())
    assert plan(page) == "neurons/obs ratio=0.5 | layers/subset keep=5"
    checked(page.button(key="add_step").click().run())
    checked(page.selectbox(key="step2_target").select("dimensions").run())
    assert plan(page).endswith("layers/subset keep=5 | dimensions/svd ratio=0.3")
    assert page.button(key="step2_arrow_upward").disabled, "encoder steps stand before dimensions"
    checked(page.toggle(key="step1_on").set_value(False).run())
    assert plan(page) == "layers/subset keep=5 | dimensions/svd ratio=0.3"
    checked(page.button(key="step2_gone").click().run())
    assert plan(page) == "layers/subset keep=5"
    assert "This cut" in " ".join(m.value for m in page.markdown)


def test_added_steps_stand_in_the_link_and_come_back() -> None:
    page = speed()
    for row, target in ((1, "recover"), (2, "train"), (3, "dimensions")):
        checked(page.button(key="add_step").click().run())
        checked(page.selectbox(key=f"step{row}_target").select(target).run())
    checked(page.number_input(key="step1_recover/distill:steps").set_value(70).run())
    checked(page.toggle(key="step1_group").set_value(True).run())
    checked(page.number_input(key="step1_iterate:rounds").set_value(2).run())
    link = url(page)
    assert link["before"].startswith("train/")
    assert link["after"] == "iterate(recover/distill steps=70) rounds=2 | dimensions/svd ratio=0.3"
    again = opened(wish="faster encoding", **link)  # the harness leaves out what widgets put there themselves
    assert plan(again) == plan(page)
    assert not again.warning
    at(again, "compare")
    assert url(again)["after"] == link["after"]
    for row in (1, 2, 3):
        checked(page.button(key=f"step{row}_gone").click().run())
    assert not {"before", "after"} & set(url(page))


@pytest.mark.parametrize("word", ["nonsense", "nosuch/method", "recover/distill steps=x", "neurons/obs ratio=7", "("])
def test_steps_of_a_link_that_cannot_be_read_are_said(word: str) -> None:
    page = opened(wish="faster encoding", after=word)
    assert "The steps of this link cannot be read" in said(page)
    assert plan(page) == "layers/subset keep=5"


def test_a_wish_chooses_its_own_first_target_among_all() -> None:
    page = opened()
    checked(page.toggle(key="all_targets").set_value(True).run())
    checked(page.segmented_control(key="wish").set_value("speed").run())
    assert page.selectbox(key="target").value == "layers"
    cutting(page, "dimensions")
    checked(page.segmented_control(key="wish").set_value("model").run())
    assert page.selectbox(key="target").value == "tokens"


def test_distilling_an_encoder_that_was_not_cut_is_refused_and_fine_tuning_is_not() -> None:
    page = opened()
    checked(page.button(key="add_step").click().run())
    checked(page.selectbox(key="step1_target").select("recover").run())
    assert "nothing to recover: cut the encoder first" in said(page)
    assert "run_encoder" not in [b.key for b in page.button]
    checked(page.selectbox(key="step1_by_recover").select("recover/finetune").run())
    assert not page.error
    assert "run_encoder" in [b.key for b in page.button]


def test_a_plan_that_cannot_be_is_said_beside_the_controls() -> None:
    page = opened(ratio="40")
    checked(page.button(key="add_step").click().run())
    assert "neurons" in verdict(page)
    checked(page.selectbox(key="step1_target").select("dimensions").run())
    assert "two dimension cuts" in said(page)
    assert page.slider(key="ratio").value == 40
    checked(page.button(key="step1_gone").click().run())
    assert verdict(page).startswith("#### Keep 230 of 384 dimensions: ")


# ---- one real job ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, espalier_home: Path) -> tuple[str, str]:
    """A tiny model and a few texts, embedded and studied as the page's own job would."""
    root = tmp_path_factory.mktemp("tiny")
    model, texts = str(tiny_model("bert", root / "bert", lively=True)), root / "walks.csv"
    rows = [" ".join(WORDS[(i * 3 + j * (1 + i % 4)) % len(WORDS)] for j in range(5 + i % 3)) for i in range(24)]
    texts.write_text("text\n" + "\n".join(rows), encoding="utf-8")
    commands.embed(build_parser().parse_args(["embed", "--model", model, "--data", str(texts)]), quiet)
    return model, str(texts)


def loaded(tiny: tuple[str, str]) -> AppTest:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    model, texts = tiny
    page.session_state["models"], page.session_state["datasets"] = {model: "tiny"}, {texts: "walks"}
    page.session_state["model"], page.session_state["data"] = model, texts
    page.session_state["wish"] = "speed"
    return checked(page.run())


def run() -> jobs.Status:
    return next(s for s in jobs.runs() if s.argv[0] == "prune")


def test_a_cut_is_measured_goes_out_of_date_and_comes_back(tiny: tuple[str, str]) -> None:
    page = loaded(tiny)
    assert "1 of 2 layers: not measured yet" in verdict(page)
    checked(page.button(key="run_encoder").click().run())
    until = time.monotonic() + 120
    while not (found := run()).ended and time.monotonic() < until:
        time.sleep(0.2)
    assert found.state == "done", found.error
    checked(page.run())
    measured = verdict(page)
    answer = jobs.result(found.id)
    assert answer is not None
    kept = next(iter(answer["retention"].values()))["ndcg@10"]["ratio"]
    assert f"{100 * kept:.1f} %" in measured
    assert "random units with the same reconstruction" in measured
    assert f"Encoding measured {answer['speedup']['measured']:.2f}x" in measured
    assert "Verified" in said(page)
    assert len(page.get("download_button")) == 1
    assert "layers/subset keep=1" in command(page)
    first = page.metric[0].value
    cutting(page, "neurons")
    assert "Out of date - run again" in said(page)
    assert "not measured yet" in verdict(page)
    assert any("Last measured" in m.value and "layers/subset keep=1" in m.value for m in page.markdown)
    assert page.metric[0].value == first
    assert len(page.get("download_button")) == 0
    cutting(page, "layers")
    assert verdict(page) == measured
    at(page, "compare")
    checked(page.segmented_control(key="axis").set_value("model_bytes").run())
    assert any("layers/subset keep=1" in str(d.value) for d in page.dataframe)


def test_a_killed_worker_leaves_the_page_up(tiny: tuple[str, str]) -> None:
    page = cutting(loaded(tiny), "width")
    checked(page.button(key="run_encoder").click().run())
    status, until = run(), time.monotonic() + 20
    while not (jobs.folder(status.id) / "pid").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(int((jobs.folder(status.id) / "pid").read_text()), signal.SIGKILL)
    while not run().ended and time.monotonic() < until:
        time.sleep(0.05)
    checked(page.run())
    assert "The worker ended without a result (killed, or out of memory)" in said(page)
    assert page.button(key="run_encoder").label == "Try again"
    assert "hidden channels: not measured yet" in verdict(page)


def test_a_cancelled_run_is_said_once_and_can_go_on(tiny: tuple[str, str]) -> None:
    page = cutting(loaded(tiny), "heads")
    assert "repeated 2 times with random units" in said(page)
    checked(page.button(key="run_encoder").click().run())
    jobs.cancel(run().id)
    checked(page.run())
    assert not page.error
    assert not page.warning
    assert said(page).count("cancelled") == 1
    assert page.button(key="run_encoder").label == "Go on"
    checked(page.button(key="run_encoder").click().run())
    assert run().state == "running"


def test_what_was_set_for_another_model_is_brought_into_range(tiny: tuple[str, str]) -> None:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    checked(page.run())
    checked(page.segmented_control(key="wish").set_value("speed").run())
    assert page.slider(key="keep_layers").value == 5
    checked(page.button(key="add_step").click().run())
    model, texts = tiny
    page.session_state["models"], page.session_state["datasets"] = {model: "tiny"}, {texts: "walks"}
    checked(page.run())
    page.selectbox(key="model").select(model)
    page.selectbox(key="data").select(texts)
    checked(page.run())
    assert plan(page) == "layers/subset keep=2 | neurons/obs ratio=0.3"


def test_texts_that_are_not_embedded_are_warned_of(tiny: tuple[str, str]) -> None:
    page = loaded(tiny)
    assert "calibrate on what will be embedded" not in said(page)
    page.session_state["fit_on_spec"] = "sample"
    model, texts = tiny
    args = ["embed", "--model", model, "--data", texts, "--fit-on", "sample"]
    commands.embed(build_parser().parse_args(args), quiet)
    checked(page.run())
    assert "calibrate on what will be embedded" in said(page)


def test_what_an_architecture_lacks_is_named(tmp_path: Path, tiny: tuple[str, str]) -> None:
    model = str(tiny_model("static", tmp_path / "static"))
    commands.embed(build_parser().parse_args(["embed", "--model", model, "--data", tiny[1]]), quiet)
    page = loaded((model, tiny[1]))
    assert "Not possible here: Layers, Feed-forward neurons, Attention heads, Hidden width" in said(page)
    assert page.selectbox(key="target").options == ["Dimensions of the vectors"]
    checked(page.segmented_control(key="wish").set_value("model").run())
    assert page.selectbox(key="target").options == ["Vocabulary (token rows)"]


# ---- training: live, stopped with the best so far, taken up again ---------------------------------------------


def recovering(tiny: tuple[str, str], steps: int) -> AppTest:
    """One layer of two, and a recovery of so many steps behind it."""
    page = loaded(tiny)
    checked(page.button(key="add_step").click().run())
    checked(page.selectbox(key="step1_target").select("recover").run())
    checked(page.number_input(key="step1_recover/distill:steps").set_value(steps).run())
    checked(page.number_input(key="step1_recover/distill:patience").set_value(0).run())
    return checked(page.number_input(key="step1_recover/distill:every").set_value(20).run())


def until(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_training_is_drawn_live_taken_up_after_a_kill_and_stopped_with_the_best_so_far(tiny: tuple[str, str]) -> None:
    page = recovering(tiny, 500_000)
    assert plan(page) == "layers/subset keep=1 | recover/distill steps=500000 patience=0 every=20"
    assert "1 of 2 layers, after 500,000 steps of distillation: not measured yet" in verdict(page)
    checked(page.button(key="run_encoder").click().run())
    folder = jobs.folder(run().id)
    until(lambda: len(live.curve(folder)) > 3)
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    until(lambda: run().ended)
    checked(page.run())
    assert "Training goes on from its last checkpoint" in said(page)
    checked(page.button(key="run_encoder").click().run())
    until(lambda: len(live.curve(folder)) > 2)
    checked(page.run())
    assert [c for c in page.get("plotly_chart") if "live-" in str(c.proto.id)]
    stop = f"stop-{run().id}-best"
    assert page.button(key=stop).label == "Stop training, keep the best so far"
    checked(page.button(key=stop).click().run())
    begun = time.monotonic()
    until(lambda: not live.training(folder))
    assert time.monotonic() - begun < 2
    until(lambda: run().ended)
    assert run().state == "done", run().error
    checked(page.run())
    answer = jobs.result(run().id)
    assert answer is not None
    found = answer["encoder"]["training"][0]
    assert 40 <= found["steps"] < 500_000
    assert found["best"] == min(p["held_out"] for p in found["curve"]) <= found["start"]
    assert f"{found['steps']:,} steps of distillation, stopped early" in verdict(page)
    assert "taken up again at step" in said(page)
    assert f"stopped after {found['steps']} of 500000 steps" in said(page)
    assert page.button(key="train_on").label == "Train to the end"


# ---- schedules, presets, formats, codes -----------------------------------------------------------------------


def test_a_step_goes_where_its_kind_belongs(tiny: tuple[str, str]) -> None:
    page = loaded(tiny)
    for number, target in ((1, "dimensions"), (2, "recover"), (3, "neurons"), (4, "quantize"), (5, "train")):
        checked(page.button(key="add_step").click().run())
        checked(page.selectbox(key=f"step{number}_target").select(target).run())
    found = [s.split("/")[0] for s in plan(page).split(" | ")]
    assert found == ["train", "layers", "neurons", "recover", "dimensions", "quantize"]
    assert not page.error


def test_a_recovery_behind_a_cut_can_become_a_schedule(tiny: tuple[str, str]) -> None:
    page = recovering(tiny, 30)
    checked(page.toggle(key="step1_group").set_value(True).run())
    assert plan(page) == "iterate(layers/subset keep=1 | recover/distill steps=30 patience=0 every=20)"
    checked(page.number_input(key="step1_iterate:rounds").set_value(2).run())
    checked(page.number_input(key="step1_iterate:floor").set_value(0.5).run())
    assert plan(page).endswith(") rounds=2 floor=0.5")
    assert "2 rounds of 30 steps of distillation" in verdict(page)
    checked(page.number_input(key="step1_iterate:take").set_value(3).run())
    assert "there are 2 rounds" in said(page)
    checked(page.toggle(key="step1_on").set_value(False).run())
    assert plan(page) == "layers/subset keep=1"


def test_one_click_fills_in_a_small_and_fast_model() -> None:
    page = speed()
    assert page.button(key="preset").label == "Small and fast: about 11.7 MB"
    checked(page.button(key="preset").click().run())
    assert plan(page) == str(meter.small(page_model()))
    assert page.get("button_group")[-1].value == "onnx-int8"
    assert "a byte a weight" in said(page)
    assert "4 of 6 layers, 960 of 1,536 neurons in each layer, 15,261 of 30,522 token rows, after" in verdict(page)
    checked(page.segmented_control(key="wish").set_value("index").run())
    assert "preset" not in [b.key for b in page.button]


def page_model() -> ModelInfo:
    return open_model("minilm")


def test_the_format_is_the_persons_choice_where_there_is_one(tiny: tuple[str, str]) -> None:
    page = loaded(tiny)
    checked(page.segmented_control(key="form").set_value("sentence-transformers-fp16").run())
    assert "16-bit floats" in said(page)
    cutting(page, "heads")
    checked(page.slider(key="ratio_heads").set_value(50).run())
    assert page.segmented_control(key="form").options == ["ONNX", "ONNX int8"]
    assert "Download as ONNX, which carries any shape" in said(page)
    cutting(page, "layers")
    assert "16-bit floats" in said(page)


def test_codes_answer_at_every_size(tiny: tuple[str, str]) -> None:
    model, texts = tiny
    args = ["study", "--model", model, "--data", texts, "--method", "quantize/waterfill"]
    commands.study(build_parser().parse_args(args), quiet)
    page = loaded(tiny)
    checked(page.segmented_control(key="wish").set_value("index").run())
    cutting(page, "quantize")
    sizes = page.select_slider(key="bytes").options
    assert sizes[0].startswith("32 B · 4x")
    checked(page.select_slider(key="bytes").set_value(8).run())
    assert "Keep 8 of 128 bytes a vector (16x smaller): " in verdict(page)
    assert "random dimensions of that size" in verdict(page)
    checked(page.button(key="add_step").click().run())
    checked(page.selectbox(key="step1_target").select("dimensions").run())
    checked(page.slider(key="step1_ratio").set_value(50).run())
    assert plan(page) == "dimensions/svd ratio=0.5 | quantize/waterfill bytes=8"
    assert "16 of 32 dimensions, 8 of 128 bytes a vector: not measured yet" in verdict(page)
    checked(page.button(key="step1_gone").click().run())
    at(page, "compare")
    assert any("Water-filled codes, 16x smaller" in str(d.value) for d in page.dataframe)
