"""int8 ONNX folders: near torch for every architecture, one byte a weight, the same vector alone and in any batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from core.anatomy import Anatomy, duplicate
from core.embedding import encode, load
from core.errors import InputError
from core.export import int8
from core.export.int8 import fidelity, write_int8
from core.export.onnx_folder import write_onnx
from core.export.quantized_graph import Site, asymmetric, choose, linear_sites, observe, smoothing, symmetric
from core.onnx_encoder import GRAPH, SETTINGS, OnnxEncoder
from core.surgery.slicing import cut_heads, cut_neurons
from tests.test_onnx import run_script
from tests.tiny_models import ARCHITECTURES, POSITIONS, WIDTH, WORDS, tiny_model


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 24))) for _ in range(count)]


LEARN, JUDGE = sentences(96, 0), [*sentences(47, 1), "the red bird flew over the river " * 40]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A tiny encoder with lively weights that the test may change."""
    root = tmp_path_factory.mktemp("models")

    def get(architecture: str, extras: bool = False) -> Any:
        folder = root / f"{architecture}-{extras}"
        if not folder.exists():
            tiny_model(architecture, folder, extras=extras, lively=True)
        return duplicate(load(folder))

    return get


# ---- near torch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_uneven(architecture: str, models: Callable[..., Any], tmp_path: Path) -> None:
    """Heads alone, other numbers of neurons in every layer: int8 carries what the fp32 graph carries."""
    encoder = models(architecture)
    view = Anatomy(encoder)
    cut_heads(view, None if view.shared_heads else 0, [1, 3])
    cut_neurons(view, 0, range(24))
    cut_neurons(view, 1, range(5, 45))
    before = encode(encoder, JUDGE)
    held = write_int8(encoder, tmp_path, LEARN)
    found = fidelity(before, OnnxEncoder(tmp_path).encode(JUDGE))
    assert found.mean > 0.9995
    assert found.least > 0.998
    assert held.floating == ()
    assert abs(held.mean - found.mean) < 1e-3, "held-out texts foretell others"
    assert found.difference > 1e-5, "nothing was rounded"
    assert np.array_equal(encode(encoder, JUDGE), before), "the encoder stays as it was"


def test_every_weight_takes_one_byte(models: Callable[..., Any], tmp_path: Path) -> None:
    import onnx

    encoder = models("bert", extras=True)
    write_int8(encoder, tmp_path, LEARN)
    graph = onnx.load(tmp_path / GRAPH).graph
    matrices = [t for t in graph.initializer if len(t.dims) == 2 and t.dims[1] > 1]
    assert {t.data_type for t in matrices} == {onnx.TensorProto.INT8}
    named = encoder.named_parameters()
    large = sum(p.numel() for n, p in named if p.dim() == 2 and "pooler" not in n)  # no vector comes from there
    unread = POSITIONS - (encoder.max_seq_length + 2)  # longer texts are cut, whatever the family's first position is
    assert sum(int(np.prod(t.dims)) for t in matrices) == large - WIDTH * unread
    read = {name for node in graph.node for name in node.input}
    assert {t.name for t in graph.initializer} <= read
    onnx.checker.check_model(onnx.load(tmp_path / GRAPH), full_check=True)
    assert OnnxEncoder(tmp_path).settings["precision"] == "int8"


@pytest.mark.parametrize("architecture", ["bert", "mpnet", "modernbert"])
def test_a_vector_does_not_depend_on_its_batch(architecture: str, models: Callable[..., Any], tmp_path: Path) -> None:
    """Static ranges: as near as fp32's own padding noise; dynamic int8 moves by far more (oracle: onnxruntime's)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    write_int8(models(architecture), tmp_path / "static", LEARN)
    ours = OnnxEncoder(tmp_path / "static")
    alone, together = ours.encode(JUDGE, batch_size=1), ours.encode(JUDGE, batch_size=16)
    assert np.abs(alone - together).max() <= 2e-6
    write_onnx(models(architecture), tmp_path / "dynamic")
    path = tmp_path / "dynamic" / GRAPH
    quantize_dynamic(path, path, per_channel=True, weight_type=QuantType.QInt8)
    theirs = OnnxEncoder(tmp_path / "dynamic")
    moved = np.abs(theirs.encode(JUDGE, batch_size=1) - theirs.encode(JUDGE, batch_size=16)).max()
    assert moved > 100 * max(float(np.abs(alone - together).max()), 1e-7)


def test_the_same_bytes_twice(models: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_int8(models("electra"), tmp_path / name, LEARN)
    assert (tmp_path / "a" / GRAPH).read_bytes() == (tmp_path / "b" / GRAPH).read_bytes()
    assert (tmp_path / "a" / SETTINGS).read_bytes() == (tmp_path / "b" / SETTINGS).read_bytes()


def test_embed_py_runs_the_int8_graph(models: Callable[..., Any], tmp_path: Path) -> None:
    encoder = models("roberta", extras=True)
    write_int8(encoder, tmp_path / "model", LEARN)
    got = run_script(tmp_path / "model", JUDGE[:8], tmp_path)
    assert fidelity(encode(encoder, JUDGE[:8]), got).mean > 0.999
    assert np.abs(got - OnnxEncoder(tmp_path / "model").encode(JUDGE[:8])).max() <= 2e-6


# ---- what does not fit ----------------------------------------------------------------------------------------


def test_the_worst_inputs_stay_fp32_until_the_tolerance_is_met(
    models: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = models("bert")
    loose = write_int8(encoder, tmp_path / "loose", LEARN)
    monkeypatch.setattr(int8, "MEAN", loose.mean + 1e-7)
    strict = write_int8(encoder, tmp_path / "strict", LEARN)
    assert len(strict.floating) > 0
    assert strict.mean > loose.mean
    assert OnnxEncoder(tmp_path / "strict").settings["fp32_inputs"] == list(strict.floating)
    sizes = [(tmp_path / n / GRAPH).stat().st_size for n in ("loose", "strict")]
    assert sizes[1] <= sizes[0], "weights stay int8"
    monkeypatch.setattr(int8, "MEAN", 1.1)
    with pytest.raises(InputError, match=r"int8 weights alone .* 1.1 is wanted: use --format onnx"):
        write_int8(encoder, tmp_path / "none", LEARN)


def test_what_is_refused(models: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="calibrates on texts: 1 given, at least 2"):
        write_int8(models("bert"), tmp_path, ["one"])
    with pytest.raises(InputError, match="static model"):
        write_int8(models("static"), tmp_path, LEARN)


# ---- the arithmetic -------------------------------------------------------------------------------------------

MATRICES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-1e3, 1e3, width=32)
)


@given(MATRICES, st.sampled_from([0, 1]))
def test_symmetric_codes_are_within_half_a_step(weight: Any, axis: int) -> None:
    codes, scales = symmetric(weight, axis)
    shape = [1, 1]
    shape[axis] = -1
    assert np.all(np.abs(codes.astype(int)) <= 127)
    assert np.all(np.abs(codes * scales.reshape(shape) - weight) <= scales.reshape(shape) * 0.5001 + 1e-12)


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3))
def test_asymmetric_steps_cover_the_range_and_hold_zero(low: float, width: float) -> None:
    scale, zero = asymmetric(low, low + width)
    assert -int(zero) * scale <= min(low, 0) + 0.51 * scale
    assert (255 - int(zero)) * scale >= max(low + width, 0) - 0.51 * scale
    assert 0 <= int(zero) <= 255


def test_smoothing_divides_what_the_weights_carry(models: Callable[..., Any], tmp_path: Path) -> None:
    """X W = (X / s)(s W); with alpha 1 every channel of X/s reaches as far, with 0 every row of s W."""
    import onnx

    write_onnx(models("bert"), tmp_path)
    opened = OnnxEncoder(tmp_path)
    sites = linear_sites(onnx.load(tmp_path / GRAPH))
    assert [len(s.nodes) for s in sites] == [3, 1, 1, 1] * 2, "query, key and value read one tensor"
    seen = observe(onnx.load(tmp_path / GRAPH), [opened.feed(LEARN[:32])], sites)
    one, weights = sites[0], sites[0].weights
    reach = np.maximum(np.abs(seen[one.source].low), np.abs(seen[one.source].high))
    assert reach / smoothing(one, seen[one.source], 1.0) == pytest.approx(1.0, rel=1e-4)
    rows = np.max([np.abs(w).max(axis=1) for w in weights], axis=0) * smoothing(one, seen[one.source], 0.0)
    assert rows == pytest.approx(1.0, rel=1e-4)


def test_an_outlier_channel_is_smoothed_away() -> None:
    """One channel a hundred times the others: smoothing takes most of the error away."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 16)).astype(np.float32)
    x[:, 3] *= 100
    site = Site("x", ("y",), (rng.normal(size=(16, 8)).astype(np.float32),))
    from core.export.quantized_graph import Seen

    seen = Seen(x.min(axis=0), x.max(axis=0), [x])
    plain, best = choose(site, seen, (None,)), choose(site, seen)
    assert best.alpha is not None
    assert best.error < 0.3 * plain.error


def test_padding_is_not_looked_at(models: Callable[..., Any], tmp_path: Path) -> None:
    import onnx

    write_onnx(models("bert"), tmp_path)
    opened, model = OnnxEncoder(tmp_path), onnx.load(tmp_path / GRAPH)
    sites = linear_sites(model)
    texts = ["cat", "the cat sat on the mat under a red tree"]
    one = observe(model, [opened.feed(texts)], sites)
    two = observe(model, [opened.feed([t]) for t in texts], sites)
    for site in sites:
        assert one[site.source].low == pytest.approx(two[site.source].low, abs=1e-5)
        assert one[site.source].high == pytest.approx(two[site.source].high, abs=1e-5)
