"""Codes: what is encoded is decoded, bytes are exact, more bytes lose less, and the reader stands alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core import registry, storing
from core.__main__ import main
from core.codes import Book, compiled, indexed, opened, reader, trellis
from core.codes.book import packed
from core.codes.tables import MOST, START, WINDOW, allocate, levels, tables
from core.encoders import open_model
from core.errors import InputError, PlanError
from core.evaluate.judgements import similarity
from core.export.vectors import READER, write_codebook, write_codes
from core.methods.components import Magnitude
from core.methods.quantize import Binary, Fp16, Int4, Int8, Waterfill
from core.plan import Cut, Step, parse
from core.types import FitContext, Floats, Metric, Prior, frozen, unit
from tests.tiny_models import WORDS, tiny_model

DIMENSION = 24
PLANS = (
    "quantize/fp16", "quantize/int8", "quantize/int4", "quantize/binary", "quantize/waterfill bytes=12",
    "quantize/waterfill bytes=5", "quantize/waterfill bytes=5 coder=scalar", "components/magnitude keep=6",
    "components/magnitude keep=1 values=fp16", "components/random keep=6",
)  # fmt: skip


def texts(n: int = 600, d: int = DIMENSION, seed: int = 0) -> Floats:
    """Unit rows with a mean and a falling spectrum, as embeddings have."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(99).standard_normal((d, d)))[0]
    x = (rng.standard_normal((n, d)) * np.linspace(1.0, 0.1, d)) @ axes + 0.3
    return frozen(unit(x).astype(np.float32))


def context(x: Floats, metric: Metric = "cosine", prior: Prior | None = None) -> FitContext:
    return FitContext(x, np.zeros((0, x.shape[1]), np.float32), np.zeros(0, np.int64), metric=metric, prior=prior)


def book(sentence: str, x: Floats, metric: Metric = "cosine") -> Book:
    step = parse(sentence).steps[0]
    assert isinstance(step, Step)
    found = storing.built(step).fit(context(x, metric), step.cut)
    assert isinstance(found, Book)
    assert found.bytes == storing.planned_bytes(step, x.shape[1])
    return found


def error(codes: Book, x: Floats) -> float:
    return float(((codes.decode(codes.encode(x)) - x) ** 2).sum(axis=1).mean())


# ---- what all codes must do -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sentence", PLANS)
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_bytes_are_exact_rows_stand_alone_and_inputs_stay(sentence: str, metric: Metric) -> None:
    x = texts() if metric == "cosine" else frozen(texts() * 7)
    codes = book(sentence, x, metric)
    stored = codes.encode(x)
    assert stored.dtype == np.uint8
    assert stored.shape == (len(x), codes.bytes)
    decoded = codes.decode(stored)
    assert decoded.dtype == np.float32
    assert decoded.shape == x.shape
    assert np.isfinite(decoded).all()
    turned = np.random.default_rng(1).permutation(len(x))
    assert np.array_equal(codes.encode(x[turned]), stored[turned])
    assert np.array_equal(codes.encode(x[:1]), stored[:1])
    assert codes.encode(x[:0]).shape == (0, codes.bytes)
    assert codes.decode(stored[:0]).shape == (0, x.shape[1])
    assert not x.flags.writeable
    assert not any(a.flags.writeable for a in codes.book.values() if a.ndim)
    if metric == "cosine":
        assert np.allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-5)
    assert codes.codebook_bytes == sum(a.nbytes for a in codes.arrays().values())


@pytest.mark.parametrize("sentence", PLANS)
@pytest.mark.parametrize("case", ["one row", "zeros", "constant axis", "fewer rows than axes", "all alike"])
def test_odd_documents_are_coded_too(sentence: str, case: str) -> None:
    x = np.array(texts())
    if case == "one row":
        x = x[:1]
    elif case == "zeros":
        x = np.zeros_like(x)
    elif case == "constant axis":
        x[:, 3] = 0.5
    elif case == "fewer rows than axes":
        x = x[:7]
    else:
        x[:] = x[0]
    codes = book(sentence, frozen(x), "dot" if case == "zeros" else "cosine")
    decoded = codes.decode(codes.encode(x))
    assert np.isfinite(decoded).all()
    assert decoded.shape == x.shape
    if case in ("one row", "all alike") and "binary" not in sentence and "random" not in sentence:
        assert (unit(decoded) * unit(x)).sum(axis=1).min() > 0.9


@pytest.mark.parametrize("sentence", PLANS)
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_search_over_codes_finds_what_decoded_vectors_do(sentence: str, metric: Metric) -> None:
    x, q = texts(), texts(9, seed=4)
    if metric == "l2":
        x = frozen(x * np.linspace(0.3, 2, len(x))[:, None] + np.float32(0.5))
    codes = book(sentence, x, metric)
    stored = codes.encode(x)
    rows, scores = reader.search(stored, codes.arrays(), q, k=7)
    exact = similarity(q, codes.decode(stored), metric) if metric == "l2" else q @ codes.decode(stored).T
    assert opened(codes.arrays()).metric == metric
    assert np.allclose(scores, -np.sort(-exact, axis=1)[:, :7], atol=1e-5)
    assert np.allclose(np.take_along_axis(exact, rows, axis=1), scores, atol=1e-5)
    fast = reader.search(stored, codes.arrays(), q, 7, None, compiled.numbers)
    assert np.array_equal(fast[0], rows)
    assert np.array_equal(fast[1], scores)
    few, _ = reader.search(stored[:3], codes.arrays(), q, k=7)
    assert few.shape == (9, 3)


# ---- each code ------------------------------------------------------------------------------------------------


def test_errors_fall_with_the_bytes() -> None:
    x = texts()
    for coder in ("scalar", "trellis"):
        errors = [error(book(f"quantize/waterfill bytes={b} coder={coder}", x), x) for b in (1, 2, 3, 5, 8, 12, 18, 24)]
        assert all(b < a for a, b in pairwise(errors)), (coder, errors)
    kept = [error(book(f"components/magnitude keep={k}", x), x) for k in (1, 2, 4, 8, 16, 24)]
    assert all(b < a for a, b in pairwise(kept))
    assert error(book("quantize/fp16", x), x) < error(book("quantize/int8", x), x) < error(book("quantize/int4", x), x)
    assert error(book("quantize/int4", x), x) < error(book("quantize/binary", x), x)


def test_water_filling_beats_equal_bits_and_the_trellis_beats_both() -> None:
    x = texts(2000, 96)
    for size, plain in ((48, "quantize/int4"), (12, "quantize/binary")):
        trellised, scalar = (
            error(book(f"quantize/waterfill bytes={size} coder={c}", x), x) for c in ("trellis", "scalar")
        )
        assert trellised < 0.85 * scalar
        assert scalar < 0.8 * error(book(plain, x), x)


def test_int8_is_symmetric_and_as_good_as_the_official_one() -> None:
    faiss = pytest.importorskip("faiss")
    x = texts(2000, 64)
    codes = book("quantize/int8", x)
    table = codes.book["table"][MOST]
    assert np.allclose(table[129:], -table[1:128][::-1])
    assert table[128] == 0
    index = faiss.IndexScalarQuantizer(64, faiss.ScalarQuantizer.QT_8bit_uniform)
    index.train(np.array(x))
    theirs = index.sa_decode(index.sa_encode(np.array(x)))
    assert error(codes, x) < 1.05 * float(((theirs - x) ** 2).sum(axis=1).mean())


def test_binary_keeps_signs_of_rotated_centred_vectors() -> None:
    """The bits are sentence-transformers' own of the turned vectors; ranking by them is not by Hamming distance."""
    from sentence_transformers.quantization import quantize_embeddings

    x = texts()
    codes = book("quantize/binary", x)
    turned = (x - codes.book["mean"]) @ codes.book["basis"].T
    assert np.array_equal(codes.encode(x), quantize_embeddings(turned, precision="ubinary"))


def test_components_keep_the_largest_and_count_positions() -> None:
    x = texts()
    for values, step in (("fp16", 0.0), ("int8", 1.0)):
        codes = Magnitude(values=values).fit(context(x), Cut(keep=6))
        assert codes.bytes == 3 + 6 * (1 if step else 2)
        numbers = reader.numbers(codes.encode(x), codes.arrays())
        wanted = codes.turned(x)
        least = np.sort(np.abs(wanted), axis=1)[:, -6][:, None]
        wanted = np.where(np.abs(wanted) >= least, wanted, 0)
        assert np.abs(numbers - wanted).max() <= (0.51 * float(codes.book["step"]) if step else 1e-3)
    assert Magnitude(values="int8").size(384, Cut(keep=20)) == 60
    assert indexed(20, 384)
    assert Magnitude(values="int8").size(384, Cut(keep=30)) == 78  # a bit map of 48 bytes
    few = Magnitude(values="int8").fit(context(texts(d=200)), Cut(keep=2))
    assert (reader.numbers(few.encode(texts(d=200)), few.arrays()) != 0).sum(axis=1).max() == 2


def test_random_components_are_a_floor_and_depend_on_the_seed() -> None:
    x = texts()
    one, two = (book(f"components/random keep=6 seed={s}", x) for s in (0, 1))
    assert not np.array_equal(one.encode(x), two.encode(x))
    assert error(book("components/magnitude keep=6", x), x) < 0.7 * min(error(one, x), error(two, x))
    places = reader.numbers(one.encode(x), one.arrays()) != 0
    assert places.mean(axis=0).min() > 0.15
    assert places.mean(axis=0).max() < 0.35


# ---- bits -----------------------------------------------------------------------------------------------------


def test_levels_are_lloyd_and_maxs() -> None:
    """Max, Quantizing for Minimum Distortion, 1960, table I."""
    published = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}
    for bits, distortion in published.items():
        assert levels(bits)[1] == pytest.approx(distortion, rel=3e-3)
    assert np.allclose(levels(2)[0], [-1.510, -0.4528, 0.4528, 1.510], atol=1e-3)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5])
def test_the_trellis_errors_are_what_is_written(bits: int) -> None:
    table, errors = tables("trellis")
    z = np.random.default_rng(0).standard_normal((128, 400)).astype(np.float32)
    chosen = trellis.choose(z, np.full(400, bits), table)
    window, found = np.full(128, START), []
    for i in range(400):
        window = (window << bits | chosen[:, i]) & (WINDOW - 1)
        found.append(((z[:, i] - table[bits][window]) ** 2).mean())
    assert np.mean(found[20:]) == pytest.approx(errors[bits], rel=0.05)
    assert errors[bits] < levels(bits)[1] * 0.95
    assert errors[bits] > 4.0**-bits  # no code can do better


@given(
    st.lists(st.just(0.0) | st.floats(1e-30, 10), min_size=1, max_size=12), st.integers(0, 60),
    st.sampled_from(["scalar", "trellis"]),
)  # fmt: skip
def test_bits_go_where_they_help_most(variances: list[float], total: int, coder: str) -> None:
    v, errors = np.array(variances), tables(coder)[1]
    bits = allocate(v, errors, total)
    assert len(bits) == len(v)
    assert bits.sum() <= total
    assert bits.max(initial=0) <= MOST
    assert (bits[v == 0] == 0).all()
    if bits.sum() < total:
        assert (bits[v > 0] == MOST).all()
    gain = v * (errors[np.maximum(bits - 1, 0)] - errors[bits])  # of the last bit given
    more = v * (errors[bits] - errors[np.minimum(bits + 1, MOST)])  # of the next
    if bits.sum() and bits.sum() == total:
        assert gain[bits > 0].min() >= more[bits < MOST].max(initial=0.0) - 1e-12


@given(st.lists(st.integers(1, 8), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_streams_are_read_as_they_were_written(widths: list[int], seed: int) -> None:
    bits = np.array(widths)
    chosen = (np.random.default_rng(seed).integers(0, 256, (5, len(bits))) & ((1 << bits) - 1)).astype(np.uint8)
    table = np.tile(np.arange(WINDOW, dtype=np.float32), (MOST + 1, 1))
    for b in range(MOST + 1):
        table[b] %= 1 << b
    stored = packed(chosen, bits, -(-int(bits.sum()) // 8))
    parts: dict[str, NDArray[Any]] = {
        "table": table, "which": bits.astype(np.uint8), "ends": np.cumsum(bits), "start": np.array(START, np.uint8),
    }  # fmt: skip
    assert np.array_equal(reader.numbers(stored, parts), chosen)


def test_small_corpora_are_shrunk_to_the_prior() -> None:
    x, other = texts(40), texts(4000, seed=9)
    prior = Prior(frozen(other.T @ other / len(other)), frozen(other.mean(axis=0)), len(other))
    bare = Waterfill(bytes=6).fit(context(x))
    shrunk = Waterfill(bytes=6).fit(context(x, prior=prior))
    assert "overfit" in bare.notes[0]
    assert "general text" in shrunk.notes[0]
    assert error(shrunk, other) < error(bare, other)


# ---- plans, judging, files ------------------------------------------------------------------------------------


def test_plans_name_every_option_and_refuse_what_cannot_be() -> None:
    resolved = registry.resolve(parse("dimensions/svd keep=16 | quantize/waterfill bytes=6"), 0)
    assert str(resolved).endswith("quantize/waterfill bytes=6 coder=trellis")
    assert registry.parts(resolved).codes is not None
    for sentence in ("quantize/int8 | quantize/int4", "quantize/int8 ratio=0.5", "components/magnitude",
                     "quantize/waterfill bytes=0", "quantize/int8 | dimensions/svd keep=4"):  # fmt: skip
        with pytest.raises(PlanError):
            registry.resolve(parse(sentence), 0)
    with pytest.raises(PlanError, match=r"bytes=25 .* 24 dimensions"):
        book("quantize/waterfill bytes=25", texts())
    with pytest.raises(PlanError, match=r"outside 1\.\.24"):
        book("components/magnitude keep=25", texts())
    for method, size in ((Fp16(), 48), (Int8(), 24), (Int4(), 12), (Binary(), 3), (Waterfill(bytes=7), 7)):
        assert method.size(24) == size
    assert [storing.planned_bytes(s, 384) for s in storing.at_sizes(Step("quantize/waterfill"), 384)] == [
        384, 192, 128, 96, 77, 48, 32,
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"0\.75"):
        storing.at_sizes(Step("quantize/waterfill"), 384, [0.5])


def test_a_written_codebook_is_read_by_its_own_reader(tmp_path: Path) -> None:
    x, q = texts(50), texts(3, seed=3)
    for sentence in ("quantize/waterfill bytes=5", "components/magnitude keep=6", "quantize/int8", "quantize/fp16"):
        codes = book(sentence, x)
        write_codebook(codes, tmp_path)
        write_codes(codes, [f"d{i}" for i in range(len(x))], x, tmp_path)
        np.save(tmp_path / "q.npy", q)
        script = "import sys; sys.path.insert(0, '.')\nimport numpy as np; queries = np.load('q.npy')\n" + READER
        script += "\nassert 'core' not in sys.modules and 'scipy' not in sys.modules and ids[1] == 'd1'"
        script += "\nnp.save('rows.npy', rows); np.save('vectors.npy', vectors)"
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
        assert np.array_equal(np.load(tmp_path / "vectors.npy"), codes.decode(codes.encode(x)))
        assert np.array_equal(np.load(tmp_path / "rows.npy"), reader.search(codes.encode(x), codes.arrays(), q)[0])
        reopened = opened(dict(np.load(tmp_path / "codebook.npz")))
        assert type(reopened) is type(codes)
        assert np.array_equal(reopened.encode(q), codes.encode(q))
        import pyarrow.parquet as pq

        table = pq.read_table(tmp_path / "codes.parquet")
        assert table["code"][7].as_py() == codes.encode(x)[7].tobytes()
        assert table["id"][7].as_py() == "d7"
    assert json.loads((tmp_path / "ids.json").read_text(encoding="utf-8"))[:2] == ["d0", "d1"]


def _some(rng: np.random.Generator, count: int) -> str:
    return " ".join(rng.choice(WORDS, count))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny model and a hundred texts with titles, as command line arguments."""
    root = tmp_path_factory.mktemp("codes")
    tiny_model("bert", root / "model")
    rng = np.random.default_rng(0)
    rows = [{"_id": f"d{i}", "title": _some(rng, 2), "text": _some(rng, 7)} for i in range(100)]
    (root / "texts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return ["--model", str(root / "model"), "--data", str(root / "texts.jsonl"), "--json"]


def answer(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(arguments) == 0, capsys.readouterr().err
    return dict(json.loads(capsys.readouterr().out))


def test_a_plan_with_codes_is_judged_priced_and_written(
    session: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for plan, size in (("quantize/waterfill bytes=6", 6), ("dimensions/svd keep=16 | quantize/int4", 8),
                       ("components/magnitude keep=8", 12)):  # fmt: skip
        out = tmp_path / str(size)
        found = answer(
            ["prune", *session, "--plan", plan, "--format", "vectors", "--out", str(out), "--rescore", "20"], capsys
        )
        assert found["after"]["cost"]["vector_bytes"] == size
        assert found["before"]["cost"]["vector_bytes"] == 128
        assert "codebook_bytes" not in found["before"]["cost"]
        quality, stages = found["after"]["quality"]["texts"], found["two_stage"]["texts"]
        assert 0 < found["random_baseline"]["texts"]["ndcg@10"]["ratio"] < 1
        assert stages["ndcg@10"] >= quality["ndcg@10"]
        codes, book = np.load(out / "codes.npy"), dict(np.load(out / "codebook.npz"))
        assert codes.shape == (100, size)
        assert found["after"]["cost"]["codebook_bytes"] == sum(a.nbytes for a in book.values())
        assert (out / "projection.npz").exists() == ("svd" in plan)
        assert "reader.py" in (out / "README.md").read_text(encoding="utf-8")
        assert not (out / "__pycache__").exists()


def test_a_model_folder_may_carry_a_codebook_and_its_reader_but_no_other_code(
    session: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(session[1], folder)
    write_codebook(book("quantize/waterfill bytes=6", texts()), folder)
    assert open_model(str(folder)).dimension == 32
    (folder / "reader.py").write_bytes((folder / "reader.py").read_bytes() + b"#")
    with pytest.raises(InputError, match=r"reader\.py is code"):
        open_model(str(folder))


def test_a_sweep_goes_over_bytes(session: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(["sweep", *session, "--method", "quantize/waterfill", "--ratios", "0.75,0.9,0.98"], capsys)
    assert [p["vector_bytes"] for p in found["points"]] == [32, 13, 3]
    scores = [p["quality"]["texts"]["ndcg@10"] for p in found["points"]]
    assert scores[0] > 0.95
    assert scores[0] > scores[2]
    assert len(answer(["sweep", *session, "--method", "quantize/int8"], capsys)["points"]) == 1
    assert main(["sweep", *session, "--method", "quantize/waterfill", "--ratios", "0.5"]) == 2
    assert "0.75" in capsys.readouterr().err
