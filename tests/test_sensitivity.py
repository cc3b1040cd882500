"""Sensitivity: removal alone and together, on tiny models of every architecture; the answer's contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import report
from core.anatomy import Anatomy, duplicate
from core.bench import Bench, prepare
from core.calibration import EncoderContext, hooked
from core.embedding import load
from core.encoders import open_model
from core.errors import InputError, PlanError
from core.probing import Probe, draw
from core.removal import Removal
from core.sensitivity import CRITERIA, TARGETS, Point, check, recommend, sensitivity
from core.surgery.walk import Walker
from core.units import counts, gate_hooks
from tests.test_cli import Done, beir, here, refused, shop
from tests.tiny_models import ARCHITECTURES, tiny_model

SIZE = 24
RATIOS = (0.0, 0.5)
Model = Callable[[str], Path]
__all__ = ["shop"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return beir(tmp_path_factory.mktemp("beir"))


@pytest.fixture(scope="session")
def benches(tmp_path_factory: pytest.TempPathFactory, data: str) -> Callable[[str], Bench]:
    """A bench of each architecture; weights ten times the usual random ones, so that what is removed is seen."""
    made: dict[str, Bench] = {}

    def of(architecture: str) -> Bench:
        if architecture not in made:
            folder = tmp_path_factory.mktemp("m")
            encoder = duplicate(load(tiny_model(architecture, folder / "raw")))
            for _, linear in Anatomy(encoder, "tokens").linears() if architecture != "static" else ():
                linear.weight.data.mul_(10.0)
            encoder.save(str(folder / architecture), create_model_card=False)
            made[architecture] = prepare(str(folder / architecture), [data])
        return made[architecture]

    return of


def probe_of(bench: Bench) -> tuple[Any, Probe]:
    encoder = duplicate(load(bench.model.path))
    return encoder, Probe.start(encoder, bench.judges[0], bench.model, SIZE)


def removal(bench: Bench, target: str, criterion: str | None = None) -> Removal:
    step = check(bench.model.architecture, target, criterion, 0.98, SIZE)
    return Removal(bench, step, RATIOS, SIZE)


# ---- every target, every architecture -------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "static"])
def test_every_target_answers(benches: Callable[[str], Bench], architecture: str) -> None:
    bench = benches(architecture)
    possible = ("tokens", "dimensions") if architecture == "static" else TARGETS
    for target in possible:
        found = sensitivity(bench, target, size=SIZE, ratios=RATIOS)
        answer = report.plain(found.as_json())
        json.dumps(answer, allow_nan=False)
        assert [p["ratio"] for p in answer["curve"]] == list(RATIOS)
        whole = answer["curve"][0]
        assert whole["kept"] == answer["whole"]
        assert whole["quality_kept"] == pytest.approx(1.0)
        assert whole["cosine"] == pytest.approx(1.0, abs=1e-6)
        assert whole["neighbour_overlap@10"] == 1.0
        assert answer["curve"][1]["kept"] < answer["whole"]
        assert answer["curve"][1]["cosine"] < 1.0 or target in ("dimensions", "tokens")
        assert all(u["importance"] is not None for u in answer["units"]) or (architecture, target) == (
            "modernbert", "layers",
        )  # fmt: skip
        measured = [u["quality_drop"] is not None for u in answer["units"]]
        assert all(measured) if target in ("heads", "layers") else not any(measured)
        expected = {"heads": 8, "neurons": 128, "layers": 2, "width": 32, "dimensions": 32, "tokens": 45}
        if target in expected:
            assert len(answer["units"]) == expected[target]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_going_on_from_a_layer_is_the_whole_way(benches: Callable[[str], Bench], architecture: str) -> None:
    """A unit gated off gives the same vectors from the known hidden states as from the text."""
    encoder, probe = probe_of(benches(architecture))
    view = Anatomy(encoder)
    assert np.array_equal(probe.vectors(encoder), probe.dense)
    walker = Walker.start(view, probe.batches(encoder))
    import torch

    for layer in range(len(view.layers)):
        for target in ("heads", "neurons", "layers"):
            gates = [torch.ones(n) for n in counts(view, target)]
            gates[0 if target == "layers" else layer][layer] = 0.0
            with hooked([gate_hooks(view, target, gates)[layer]]):
                assert np.allclose(probe.resumed(walker), probe.vectors(encoder), atol=1e-6), (layer, target)
        walker.step()
    assert np.allclose(probe.resumed(walker), probe.dense, atol=1e-6)


# ---- properties -----------------------------------------------------------------------------------------------


def test_layers_cut_by_nothing_keep_everything(benches: Callable[[str], Bench]) -> None:
    for target in ("heads", "neurons", "weights"):
        rows = removal(benches("bert"), target).run()["layers"]
        assert {(r["layer"], r["ratio"]) for r in rows} == {(n, r) for n in range(2) for r in RATIOS}
        for row in rows:
            if row["ratio"] == 0:
                assert (row["quality_kept"], row["quality_drop"]) == (1.0, 0.0)
                assert row["cosine"] == pytest.approx(1.0, abs=1e-6)
            else:
                assert row["cosine"] < 1.0


@pytest.mark.parametrize("target", ["heads", "neurons"])
def test_a_unit_that_adds_nothing_is_not_missed(benches: Callable[[str], Bench], target: str, tmp_path: Path) -> None:
    """Zero its rows of the output matrix: lowest importance by every criterion that looks, and no loss without it."""
    import torch

    encoder = duplicate(load(benches("bert").model.path))
    view = Anatomy(encoder)
    layer, unit = 1, 2
    out = view.attention(layer).out if target == "heads" else view.feed_forward(layer).out
    size = view.head_size if target == "heads" else 1
    with torch.no_grad():
        out.weight[:, unit * size : (unit + 1) * size] = 0.0
    encoder.save(str(tmp_path / "m"), create_model_card=False)
    bench = prepare(str(tmp_path / "m"), [beir(tmp_path / "d")])
    for criterion in ("taylor", "activation", "magnitude"):
        run = removal(bench, target, criterion)
        scores = run.importance.scores[layer]
        assert scores.argmin() == unit
        assert scores[unit] == pytest.approx(0.0, abs=1e-9)
    found = sensitivity(bench, target, size=SIZE, ratios=(0.25,))
    row = next(u for u in found.units if (u.layer, u.unit) == (layer, unit))
    assert row.importance == pytest.approx(0.0, abs=1e-9)
    if target == "heads":
        assert row.quality_drop == pytest.approx(0.0, abs=1e-12)
        assert row.cosine == pytest.approx(1.0, abs=1e-6)
        first = next(r for r in found.layers if r.layer == layer)
        assert (first.kept, first.quality_kept) == (3, 1.0), "the first head to go is the one that adds nothing"


def test_the_shared_encoder_is_left_as_it_was(benches: Callable[[str], Bench]) -> None:
    shared = load(benches("distilbert").model.path)
    before = {k: v.clone() for k, v in shared.state_dict().items()}
    for target in ("heads", "weights", "layers", "neurons"):
        removal(benches("distilbert"), target)._work_out()
    assert all(bool((v == before[k]).all()) for k, v in shared.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in shared.modules())
    assert not any("forward" in vars(m) for m in shared.modules())


def test_masks_of_weights_are_taken_back(benches: Callable[[str], Bench]) -> None:
    run = removal(benches("bert"), "weights")
    before = [m.weight.detach().clone() for _, m in run.view.linears()]
    run._alone()
    assert all(bool((m.weight == b).all()) for (_, m), b in zip(run.view.linears(), before, strict=True))


def test_alone_in_the_only_cut_is_the_cut(benches: Callable[[str], Bench]) -> None:
    """Both layers' masks together give what slicing gives: gates are what the curve cuts."""
    import torch

    run = removal(benches("bert"), "neurons")
    view = run.view
    gates = [torch.ones(n) for n in counts(view, "neurons")]
    for gate, scores in zip(gates, run.importance.scores, strict=True):
        gate[np.argsort(-scores, kind="stable")[32:].copy()] = 0.0
    with hooked(gate_hooks(view, "neurons", gates)):
        look = run.probe.look(run.probe.vectors(run.encoder))
    whole = run._curve()["rows"][1]
    assert (whole["kept"], whole["quality_kept"]) == (32, look.quality)
    assert whole["cosine"] == pytest.approx(look.cosine, abs=1e-6)


def test_a_second_call_answers_from_the_disk(benches: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = benches("bert")
    said: list[tuple[str, int, int]] = []
    first = sensitivity(bench, "heads", size=20, ratios=RATIOS, progress=lambda *p: said.append(p))
    steps = [(done, total) for what, done, total in said if what == "removing each head alone"]
    assert steps[:-1] == [(i, 12) for i in range(12)], "4 heads and 2 ratios of 2 layers"
    monkeypatch.setattr("core.removal.Removal._work_out", lambda _: pytest.fail("worked again"))
    assert sensitivity(bench, "heads", size=20, ratios=RATIOS) == first
    other = sensitivity(bench, "heads", size=20, ratios=RATIOS, keep_quality=0.5)
    assert (other.curve, other.recommended.keep_quality) == (first.curve, 0.5)


@pytest.mark.parametrize("criterion", ["obs", "l1", "random"])
def test_other_criteria(benches: Callable[[str], Bench], criterion: str) -> None:
    found = sensitivity(benches("mpnet"), "heads", criterion, size=SIZE, ratios=(0.5,))
    assert (found.criterion, found.curve[0].kept) == (criterion, 2)
    assert len(found.units) == 8


def test_subsets_of_layers_are_ranked_for_their_size(benches: Callable[[str], Bench]) -> None:
    run = removal(benches("bert"), "layers", "subset")
    assert run.ranked is run.method, "its ranking depends on how many stay, so it may not be taken from another size"
    assert removal(benches("bert"), "layers").ranked.rank(EncoderContext(None, ())).method == "layers/leave-one-out"


# ---- the sample -----------------------------------------------------------------------------------------------


def test_the_sample_holds_all_that_is_relevant_and_is_seeded(benches: Callable[[str], Bench]) -> None:
    judge = benches("bert").judges[0]
    one = draw(judge, SIZE, 0)
    assert (len(one.documents), len(one.queries)) == (SIZE, 8)
    assert one.qrels is not None
    assert {d for q in one.queries.ids for d in one.qrels[q]} <= set(one.documents.ids)
    assert draw(judge, SIZE, 0).fingerprint == one.fingerprint
    assert draw(judge, SIZE, 1).fingerprint != one.fingerprint
    assert len(draw(judge, 500, 0).documents) == 60


@pytest.mark.parametrize("name", ["pairs.tsv", "labels.csv", "texts.csv"])
def test_other_kinds_of_data(shop: Path, benches: Callable[[str], Bench], name: str) -> None:
    bench = prepare(benches("bert").model, [str(shop / name)])
    found = sensitivity(bench, "layers", size=20, ratios=(0.0, 0.5))
    assert found.curve[0].quality_kept == pytest.approx(1.0)
    assert found.measure == {"pairs.tsv": "spearman", "labels.csv": "accuracy", "texts.csv": "ndcg@10"}[name]
    if name == "texts.csv":
        assert found.sample["quality"] == 1.0, "agreement with the unpruned encoder, by itself"
    assert found.sample["words"].startswith("20 of ")


# ---- the recommendation ---------------------------------------------------------------------------------------


def points(*kept: float) -> list[Point]:
    return [Point(r, r, round(12 * (1 - r)), q, q, q) for r, q in zip((0.25, 0.5, 0.75), kept, strict=True)]


def test_the_recommendation_stays_on_the_safe_side_of_the_line() -> None:
    best = recommend(points(1.01, 0.96, 0.7), 0.98, 12, 1, "heads")
    line = 0.25 + 0.25 * (1.01 - 0.98) / (1.01 - 0.96)
    assert best.ratio <= line < best.ratio + 1 / 12
    assert best.ratio == pytest.approx(1 - best.kept / 12)
    assert recommend(points(0.9, 0.99, 0.99), 0.98, 12, 1, "heads").ratio == 0, "a smaller cut must keep it too"
    assert "smallest cut" in recommend(points(0.9, 0.9, 0.9), 0.98, 12, 1, "heads").why
    assert recommend(points(1.0, 1.0, 0.99), 0.98, 12, 1, "heads").ratio == 0.75
    assert recommend(points(float("nan"), 1.0, 0.99), 0.98, 12, 1, "heads").ratio == 0
    assert recommend(points(1.0, 0.97, 0.9), 0.98, 1536, 8, "neurons").kept % 8 == 0


def test_a_looser_budget_never_recommends_less(benches: Callable[[str], Bench]) -> None:
    ratios = [
        sensitivity(benches("bert"), "width", size=SIZE, ratios=RATIOS, keep_quality=q).recommended.ratio
        for q in (1.0, 0.9, 0.7, 0.3)
    ]
    assert ratios == sorted(ratios)
    assert ratios[-1] > 0


# ---- the command ----------------------------------------------------------------------------------------------


def call(benches: Callable[[str], Bench], data: str, *argv: str, kind: str = "bert") -> Done:
    return here("sensitivity", "--model", str(benches(kind).model.path), "--data", data, *argv)


def test_the_json_contract(benches: Callable[[str], Bench], data: str) -> None:
    answer = call(benches, data, "--target", "heads", "--sample", "24", "--json").answer
    assert {"target", "criterion", "model", "sample", "units", "layers", "curve", "recommended", "seconds"} <= set(
        answer
    )
    assert (answer["target"], answer["criterion"]) == ("heads", CRITERIA["heads"])
    assert answer["model"] == open_model(str(benches("bert").model.path)).as_json()
    assert {"documents", "queries", "tokens", "seed", "words"} <= set(answer["sample"])
    assert answer["sample"]["words"].startswith("24 of 60 documents")
    assert {(u["layer"], u["unit"]) for u in answer["units"]} == {(n, h) for n in range(2) for h in range(4)}
    assert all({"layer", "unit", "importance", "quality_drop"} <= set(u) for u in answer["units"])
    assert all({"layer", "ratio", "kept", "quality_kept", "quality_drop", "cosine"} <= set(r) for r in answer["layers"])
    assert all({"ratio", "kept", "quality_kept", "cosine", "neighbour_overlap@10"} <= set(p) for p in answer["curve"])
    assert {"ratio", "kept", "keep_quality", "why"} <= set(answer["recommended"])
    words = call(benches, data, "--target", "heads", "--sample", "24")
    assert words.code == 0
    assert "recommended for 98.0 %" in words.out


def test_what_is_refused(benches: Callable[[str], Bench], data: str) -> None:
    refused(call(benches, data, "--target", "heads", kind="static"), "heads", "tokens, dimensions")
    refused(call(benches, data, "--target", "heads", "--criterion", "best"), "heads/best", "heads/obs")
    refused(call(benches, data, "--target", "eyes"), "eyes", "heads")
    refused(call(benches, data, "--target", "heads", "--keep-quality", "1.2"), "1.2", "(0, 1]")
    refused(call(benches, data, "--target", "heads", "--ratios", "0.5,1"), "[0, 1)")
    refused(call(benches, data, "--target", "heads", "--sample", "3"), "--sample 3")
    with pytest.raises(PlanError):
        check("bert", "layers", "obs", 0.98)
    with pytest.raises(InputError):
        sensitivity(benches("bert"), "heads", ratios=())
