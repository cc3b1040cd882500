"""Vector files: exact round trips in every format, official libraries as oracles, and every fault by its words."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from core.data.vector_files import (
    SUFFIXES,
    Vectors,
    looks_like_vectors,
    open_vectors,
    open_writer,
    read_vectors,
)
from core.data.word_pairs import read_word_pairs
from core.errors import DataError, InputError

GLOVE = Path(__file__).parents[2] / "shared" / "data" / "glove50-10k"
ROOT = Path(__file__).parents[1]
TEXT = (".txt", ".vec", ".bin")
SIX = np.arange(6, dtype=np.float32).reshape(3, 2)
IDS = ("a", "b", "c")


def wrote(path: Path, vectors: Any, ids: Any = None, **options: Any) -> Path:
    """A file with these vectors; without ids, with row numbers."""
    options.setdefault("id_type", "string" if ids is not None else "row")
    with open_writer(path, dimension=vectors.shape[1], **options) as out:
        out.add(tuple(map(str, range(len(vectors)))) if ids is None else ids, vectors)
    return path


def same(read: Vectors, ids: Any, vectors: Any) -> bool:
    """Ids, order, and every bit."""
    return read.ids == tuple(ids) and read.vectors.tobytes() == np.asarray(vectors, np.float32).tobytes()


def columns(path: Path, /, **given: Any) -> Path:
    pq.write_table(pa.table(given), path)
    return path


def lists(vectors: Any, kind: Any = None) -> Any:
    """Vectors as Arrow fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(vectors).reshape(-1), kind), len(vectors[0]))


def refused(path: Path, *words: str, kind: type[InputError] = DataError, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        read_vectors(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in (path.name, *words)), message


# ---- round trips ----------------------------------------------------------------------------------------------

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
MATRICES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=7).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=FINITE)
)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters=" \t\n\r\v\f"), min_size=1).filter(
    lambda word: not word.startswith("\ufeff")
)
ANY_ID: dict[str, Any] = {
    ".npy": st.text(),
    ".npz": st.text().filter(lambda name: not name.endswith("\0")),
    ".parquet": st.text(st.characters(codec="utf-8")),
    ".safetensors": st.text(),
} | dict.fromkeys(TEXT, WORDS)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), vectors=MATRICES)
def test_string_ids_and_bits_come_back(suffix: str, data: Any, vectors: Any, tmp_path: Path) -> None:
    n = len(vectors)
    ids = data.draw(st.lists(ANY_ID[suffix], min_size=n, max_size=n, unique=True))
    assert same(read_vectors(wrote(tmp_path / f"x{suffix}", vectors, ids)), ids, vectors)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9, unique=True))
def test_integer_ids_come_back(suffix: str, ids: list[int], tmp_path: Path) -> None:
    vectors = np.ones((len(ids), 3), np.float32)
    read = read_vectors(wrote(tmp_path / f"i{suffix}", vectors, tuple(map(str, ids)), id_type="integer"))
    assert same(read, map(str, ids), vectors)
    if suffix in (".parquet", ".npz", ".safetensors") and ids != list(range(len(ids))):
        assert read.id_type == "integer"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".safetensors"])
def test_every_float16_is_read_and_written_exactly(suffix: str, tmp_path: Path) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    half = every[np.isfinite(every)].reshape(-1, 16)
    path = wrote(tmp_path / f"h{suffix}", half.astype(np.float32), dtype="float16")
    assert open_vectors(path).dtype == "float16"
    assert same(read_vectors(path), map(str, range(len(half))), half)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_batches_are_the_whole_in_order_and_a_copy_of_them_is_the_same_file(suffix: str, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(1000, 5)).astype(np.float32)
    ids = [f"w{i}" for i in range(1000)]
    source = open_vectors(wrote(tmp_path / f"a{suffix}", vectors, ids))
    assert (source.rows, source.dimension, source.dtype) == (1000, 5, "float32")
    seen: list[int] = []
    copy = tmp_path / "copy" / f"b{suffix}"
    with open_writer(copy, dimension=5, like=source) as out:
        for batch in source.batches(300, lambda what, done, total: seen.append(done)):
            assert len(batch.ids) == len(batch.vectors) <= 300
            out.add(batch.ids, batch.vectors, batch.more)
    assert seen[-1] == 1000
    assert same(read_vectors(copy), ids, vectors)
    if suffix != ".parquet":  # its row groups may differ
        assert copy.read_bytes() == source.path.read_bytes()


def test_rows_without_ids_are_numbered_and_keep_their_number_when_others_go(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", SIX)
    read = read_vectors(tmp_path / "x.npy")
    assert (read.ids, read.id_type, read.notes) == (("0", "1", "2"), "row", ())
    assert not read.vectors.flags.writeable
    for suffix, kind in ((".npy", "string"), (".npz", "integer"), (".parquet", "integer"), (".safetensors", "integer")):
        kept = read_vectors(wrote(tmp_path / f"kept{suffix}", SIX[[0, 2]], ("0", "2"), id_type="row"))
        assert same(kept, "02", SIX[[0, 2]])
        assert kept.id_type == kind


# ---- official libraries ---------------------------------------------------------------------------------------


def test_what_is_written_opens_in_the_official_libraries(tmp_path: Path) -> None:
    def made(name: str) -> Path:
        return wrote(tmp_path / name, SIX, IDS)

    assert np.array_equal(np.load(made("x.npy")), SIX)
    with np.load(made("x.npz")) as both:
        assert both["ids"].tolist() == list(IDS)
        assert np.array_equal(both["vectors"], SIX)
    table = pq.read_table(made("x.parquet"))
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 2)
    assert table.to_pydict() == {"id": list(IDS), "vector": SIX.tolist()}
    tensors = load_file(made("x.safetensors"))
    assert np.array_equal(tensors["vectors"], SIX)
    assert json.loads(tensors["ids_json"].tobytes()) == list(IDS)
    whole = load_file(wrote(tmp_path / "i.safetensors", SIX, ("7", "5", "6"), id_type="integer"))
    assert whole["ids"].tolist() == [7, 5, 6]
    assert made("x.txt").read_text() == "a 0 1\nb 2 3\nc 4 5\n"
    assert made("x.vec").read_text() == "3 2\na 0 1\nb 2 3\nc 4 5\n"
    assert made("x.bin").read_bytes()[:14] == b"3 2\na " + struct.pack("<2f", 0, 1)
    assert (tmp_path / "x.ids.txt").read_text() == "a\nb\nc\n"


def test_safetensors_with_odd_rows_of_float16_open_in_torch(tmp_path: Path) -> None:
    from safetensors.torch import load_file as torch_load

    path = wrote(tmp_path / "x.safetensors", SIX[:, :1], ("9", "8", "7"), id_type="integer", dtype="float16")
    assert torch_load(path)["ids"].tolist() == [9, 8, 7]


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_float_and_order_of_numpy(dtype: str, order: Any, tmp_path: Path) -> None:
    x = np.asarray(np.random.default_rng(1).normal(size=(50, 3)), dtype, order=order)
    np.save(tmp_path / "x.npy", x)
    np.savez_compressed(tmp_path / "x.npz", other=np.zeros(3), vectors=x, ids=np.arange(50)[::-1])
    for name in ("x.npy", "x.npz"):
        read = read_vectors(tmp_path / name)
        assert read.vectors.tobytes() == x.astype(np.float32).tobytes()
        assert read.notes == (("float64 values were rounded to float32",) if dtype == "<f8" else ())
    assert read.ids[:2] == ("49", "48")
    assert np.array_equal(next(open_vectors(tmp_path / "x.npz").batches(7)).vectors[0], x[0].astype(np.float32))


def test_a_matrix_under_any_name_and_the_choice_among_several(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", users=SIX, bias=np.zeros(3))
    save_file({"users": SIX}, tmp_path / "one.safetensors")
    np.savez(tmp_path / "two.npz", users=SIX, items=SIX + 1)
    save_file({"users": SIX, "items": SIX + 1}, tmp_path / "two.safetensors")
    for suffix in (".npz", ".safetensors"):
        assert same(read_vectors(tmp_path / f"one{suffix}"), "012", SIX)
        refused(tmp_path / f"two{suffix}", "users", "items", "choose one", kind=InputError)
        assert same(read_vectors(tmp_path / f"two{suffix}", column="items"), "012", SIX + 1)
        refused(tmp_path / f"two{suffix}", "'tags'", "users", "items", kind=InputError, column="tags")


def test_word2vec_binary_with_and_without_newlines(tmp_path: Path) -> None:
    for name, end in (("c.bin", b"\n"), ("gensim.bin", b"")):
        rows = (w.encode() + b" " + v.tobytes() + end for w, v in zip(("the", "été", "\u00a0"), SIX, strict=True))
        (tmp_path / name).write_bytes(b"3 2\n" + b"".join(rows))
        assert same(read_vectors(tmp_path / name), ("the", "été", "\u00a0"), SIX)


def test_glove_words_with_blanks_and_fasttext_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffthe 0 1 \r\n. . . 2 3 \r\n\u0085 4 5 \r\n".encode())
    assert same(read_vectors(path), ("the", ". . .", "\u0085"), SIX)
    assert open_vectors(path).form == "glove"
    path.write_text("3 2\nthe\t0\t1\nof\t2\t3\nto\t4\t5")
    assert same(read_vectors(path), ("the", "of", "to"), SIX)
    assert open_vectors(path).form == "word2vec"


@pytest.mark.skipif(not GLOVE.is_dir(), reason="the real data (../shared/data) is not on this machine")
def test_the_real_glove_with_its_words_and_pairs(tmp_path: Path) -> None:
    read = read_vectors(GLOVE / "vectors.npy")
    assert list(read.ids) == json.loads((GLOVE / "words.json").read_text("utf-8"))
    assert same(read, read.ids, np.load(GLOVE / "vectors.npy"))
    for suffix in SUFFIXES:
        assert same(read_vectors(wrote(tmp_path / f"g{suffix}", read.vectors, read.ids)), read.ids, read.vectors)
    counts = {p.name: len(read_word_pairs(p)) for p in GLOVE.glob("*.txt")}
    assert counts == {"EN-WS-353-ALL.txt": 353, "EN-SIMLEX-999.txt": 999, "EN-MEN-TR-3k.txt": 3000}
    assert not any(looks_like_vectors(p) for p in GLOVE.glob("*.txt"))


# ---- ids beside an npy ----------------------------------------------------------------------------------------


def test_ids_beside_an_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", SIX)
    (tmp_path / "ids.json").write_text("[7, 8, 9]")
    assert (read_vectors(tmp_path / "x.npy").ids, open_vectors(tmp_path / "x.npy").id_type) == (tuple("789"), "integer")
    (tmp_path / "words.json").write_text('["a", "b", "c"]')
    assert read_vectors(tmp_path / "x.npy").ids == IDS
    (tmp_path / "x.ids.txt").write_text('d\n"\\""\r\nf')
    assert read_vectors(tmp_path / "x.npy").ids == ("d", '"', "f")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("words.json", '["a"]', ("1 ids", "words.json", "3 vectors")),
        ("words.json", '["a", 1, "c"]', ("no list of strings or of integers",)),
        ("words.json", '{"a": 1}', ("no list of strings",)),
        ("words.json", '["a"', ("not valid JSON",)),
        ("x.ids.txt", "a\nb\n", ("2 ids", "x.ids.txt", "3 vectors")),
        ("x.ids.txt", 'a\n"\nc\n', ("line 2", "JSON string")),
        ("x.ids.txt", "a\n\nc\n", ("line 2", "blank")),
        ("x.ids.txt", "a\nb\na\n", ("row 3", "duplicate id 'a'", "first on row 1")),
    ],
)
def test_bad_ids_beside_an_npy(name: str, content: str, words: tuple[str, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", SIX)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_vectors(tmp_path / "x.npy")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_rewritten_npy_never_stands_beside_foreign_ids(tmp_path: Path) -> None:
    path = wrote(tmp_path / "x.npy", SIX, IDS)
    assert same(read_vectors(wrote(path, SIX[:2])), "01", SIX[:2])
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]
    (tmp_path / "words.json").write_text("[1, 2]")
    assert read_vectors(wrote(path, SIX)).ids == ("0", "1", "2")


# ---- Parquet --------------------------------------------------------------------------------------------------


def test_other_columns_pass_through_in_their_place(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            ("text", pa.string()),
            ("_id", pa.int32()),
            ("embedding", pa.list_(pa.float64())),
            pa.field("tag", pa.dictionary(pa.int8(), pa.string()), metadata={"why": "kept"}),
            ("payload", pa.struct([("n", pa.int64()), ("l", pa.list_(pa.string()))])),
        ]
    )
    rows = [
        {"text": None if i == 3 else f"t{i}", "_id": 90 - i, "embedding": [i, i + 0.5], "tag": f"g{i % 2}",
         "payload": {"n": i, "l": ["x"] * i}}
        for i in range(9)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "in.parquet", row_group_size=4)
    source = open_vectors(tmp_path / "in.parquet")
    assert source.columns is not None
    assert source.columns.others == ("text", "tag", "payload")
    assert (source.id_type, source.dtype, source.dimension) == ("integer", "float64", 2)
    with open_writer(tmp_path / "out.parquet", dimension=1, id_type=source.id_type, like=source) as out:
        for batch in source.batches(4):
            keep = np.flatnonzero(batch.vectors[:, 0] % 2 == 0)
            out.add([batch.ids[i] for i in keep], batch.vectors[keep, 1:], batch.more.take(pa.array(keep)))
    back = pq.read_table(tmp_path / "out.parquet")
    changed = schema.set(2, pa.field("embedding", pa.list_(pa.float32(), 1)))
    assert back.schema.equals(changed, check_metadata=False)
    assert back.schema.field("tag").metadata[b"why"] == b"kept"
    assert back.to_pylist() == [
        row | {"embedding": row["embedding"][1:]} for row in rows if row["embedding"][0] % 2 == 0
    ]


def test_columns_that_a_format_cannot_take_are_named(tmp_path: Path) -> None:
    source = open_vectors(columns(tmp_path / "in.parquet", id=list(IDS), vector=lists(SIX), text=["x", "y", "z"]))
    with open_writer(tmp_path / "out.npz", dimension=2, like=source) as out:
        for batch in source.batches():
            out.add(batch.ids, batch.vectors, batch.more)
    assert out.notes == ("columns left out, for a .npz holds none: text",)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float16(), 2)])
def test_every_list_type(kind: Any, tmp_path: Path) -> None:
    values = SIX.astype(np.float16) if kind.value_type == pa.float16() else SIX
    path = columns(tmp_path / "x.parquet", other=["x"] * 3, v=pa.array(list(values), kind), id=list(IDS))
    assert looks_like_vectors(path)
    assert same(read_vectors(path), IDS, SIX)


def test_which_column_holds_the_vectors(tmp_path: Path) -> None:
    path = columns(tmp_path / "named.parquet", title=lists(SIX), vector=lists(SIX + 1))
    assert same(read_vectors(path), "012", SIX + 1)
    assert same(read_vectors(path, column="title"), "012", SIX)
    refused(path, "'body'", "title, vector", kind=InputError, column="body")
    refused(columns(tmp_path / "two.parquet", a=lists(SIX), b=lists(SIX)), "a, b", "choose one", kind=InputError)


PARQUETS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"id": ["a"], "text": ["x"]}, ("no column of float lists", "id, text")),
    ({"vector": pa.array([[1, 2]], pa.list_(pa.int8()))}, ("list<", "int8", "decode codes first")),
    ({"vector": [[1.0, 2.0], [1.0], [2.0, 3.0]]}, ("row 2", "1 values where the first row has 2")),
    ({"vector": [[1.0, 2.0], None]}, ("row 2", "null")),
    ({"vector": [None, [1.0, 2.0]]}, ("row 1", "null")),
    ({"vector": [[1.0, 2.0], [1.0, None]]}, ("row 2", "a null among its values")),
    ({"vector": pa.array([[1.0, 2.0], [1.0, None]], pa.list_(pa.float32(), 2))}, ("row 2", "a null among")),
    ({"vector": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))}, ("row 2", "no vector (null)")),
    ({"vector": pa.array([[], []], pa.list_(pa.float32()))}, ("dimension 0",)),
    ({"vector": pa.array([], pa.list_(pa.float32(), 2))}, ("no rows",)),
    ({"vector": lists(SIX), "id": ["a", None, "c"]}, ("row 2", "no id")),
    ({"vector": lists(SIX), "id": [1.0, 2.0, 3.0]}, ("'id' is double", "strings or integers")),
    ({"vector": lists(SIX), "id": [7, 8, 7]}, ("row 3", "duplicate id '7'", "first on row 1")),
    ({"vector": lists([[1.0, 2], [np.nan, 1], [np.inf, 1]])}, ("float32: 2,", "NaN", "first is row 2")),
    ({"vector": lists([[1.0, 1e300]])}, ("float32: 1,", "beyond float32", "row 1")),
]


@pytest.mark.parametrize(("given", "words"), PARQUETS)
def test_parquet_that_cannot_be_used(given: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
    refused(columns(tmp_path / "x.parquet", **given), *words)


def test_a_parquet_bomb_stops_at_the_cap(tmp_path: Path) -> None:
    path = columns(tmp_path / "x.parquet", vector=lists(np.zeros((200_000, 64), np.float32)))
    assert path.stat().st_size < 200_000
    refused(path, "more than 10,000,000 bytes", "split the file", cap=10_000_000)
    payload = columns(tmp_path / "y.parquet", vector=lists(np.zeros((2000, 2), np.float32)), t=["x" * 10_000] * 2000)
    refused(payload, "more than 10,000,000 bytes", cap=10_000_000)
    assert len(read_vectors(payload).ids) == 2000
    long = columns(tmp_path / "z.parquet", vector=[[0.0] * 3_000_000])
    refused(long, "more than 10,000,000 bytes", cap=10_000_000)


STREAM = """
import resource, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path
from core.data.vector_files import open_vectors, open_writer
folder, rows = Path(sys.argv[1]), int(sys.argv[2])
schema = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), 8)), ("text", pa.string())])
with pq.ParquetWriter(folder / "in.parquet", schema) as out:
    for start in range(0, rows, 50_000):
        flat = np.random.default_rng(start).normal(size=50_000 * 8).astype(np.float32)
        ids = [f"d{i}" for i in range(start, start + 50_000)]
        columns = [pa.array(ids), pa.FixedSizeListArray.from_arrays(pa.array(flat), 8), pa.array(ids)]
        out.write_table(pa.table(columns, schema=schema))
del flat, ids, columns
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
source = open_vectors(folder / "in.parquet")
with open_writer(folder / "out.parquet", dimension=8, like=source) as out:
    for batch in source.batches():
        out.add(batch.ids, batch.vectors, batch.more)
print(peak() - before)
assert out.rows == rows
one, two = (pq.ParquetFile(folder / name).iter_batches(50_000) for name in ("in.parquet", "out.parquet"))
assert all(a.equals(b) for a, b in zip(one, two, strict=True))
"""


def streamed(folder: Path, rows: int) -> int:
    """MiB by which the peak grew while a Parquet of so many rows was copied through batches."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", STREAM, str(folder), str(rows)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_200_000_rows_of_parquet_stream_in_bounded_memory(tmp_path: Path) -> None:
    assert streamed(tmp_path, 200_000) < 250


@pytest.mark.slow
def test_2_million_rows_of_parquet_stream_in_bounded_memory(tmp_path: Path) -> None:
    assert streamed(tmp_path, 2_000_000) < 400


# ---- faults ---------------------------------------------------------------------------------------------------


def npy(vectors: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, vectors, **options)
    return out.getvalue()


def tensors(**given: Any) -> bytes:
    from safetensors.numpy import save

    return save(given)


def header(rows: int, dimension: int) -> bytes:
    out = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    np.lib.format.write_array_header_1_0(out, fields)
    return out.getvalue()


def npz(**given: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in given.items():
            archive.writestr(f"{name}.npy", raw)
    return out.getvalue()


OBJECTS = np.array([["a", 1]], object)
BAD = np.array([[1, 2], [3, np.nan], [np.inf, 5]], np.float32)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
WEB = b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n"
GOOD_BIN = b"2 2\na " + struct.pack("<2f", 1, 2) + b"\nb " + struct.pack("<2f", 3, 4) + b"\n"
FAULTS: list[tuple[str, bytes, tuple[str, ...]]] = [
    *((f"x{suffix}", LFS, ("Git-LFS pointer", "git lfs pull")) for suffix in SUFFIXES),
    *((f"x{suffix}", WEB, ("a web page", "download the file itself")) for suffix in SUFFIXES),
    ("x.npy", b"\x80\x04\x95", ("Python pickle",)),
    ("x.npy", b"", ("not a readable npy",)),
    ("x.npy", npy(OBJECTS, allow_pickle=True), ("pickled objects", "float32")),
    ("x.npy", npy(SIX)[:-1], ("152", "151", "truncated")),
    ("x.npy", npy(SIX) + b"x", ("152", "153", "damaged")),
    ("x.npy", header(10**12, 384), ("there are 128", "truncated")),
    ("x.npy", header(-3, -2) + bytes(24), ("no rows",)),
    ("x.npy", npy(SIX[:0]), ("no rows",)),
    ("x.npy", npy(SIX[:, :0]), ("dimension 0",)),
    ("x.npy", npy(SIX[0]), ("array of 2 values", "reshape")),
    ("x.npy", npy(SIX.astype(np.int8)), ("int8", "decode codes first")),
    ("x.npy", npy(SIX > 1), ("bool", "save it as float32")),
    ("x.npy", npy(SIX.astype(complex)), ("complex128",)),
    ("x.npy", npy(np.zeros(3, [("a", "f4")])), ("void",)),
    ("x.npy", npy(BAD), ("float32: 2,", "NaN", "first is row 2")),
    ("x.npz", b"PK\x03\x04 cut short", ("damaged, truncated",)),
    ("x.npz", npz(vectors=npy(SIX))[:-30], ("damaged, truncated",)),
    ("x.npz", npz(vectors=npy(SIX)).replace(b"PK\x01\x02", b"PK\x01\x09"), ("damaged",)),
    ("x.npz", npz(vectors=npy(OBJECTS, allow_pickle=True)), ("pickled objects",)),
    ("x.npz", npz(vectors=npy(SIX), ids=npy(np.array(IDS, object), allow_pickle=True)), ("ids", "dtype=str")),
    ("x.npz", npz(vectors=npy(SIX), ids=npy(np.array(IDS[:2]))), ("2 ids", "3 vectors")),
    ("x.npz", npz(vectors=npy(SIX), ids=npy(np.zeros(3))), ("ids are float64",)),
    ("x.npz", npz(vectors=header(10**9, 384) + bytes(9)), ("promises 1,536,000,000,128 bytes", "137")),
    ("x.npz", npz(vectors=npy(SIX.astype(np.uint8))), ("uint8", "decode codes first")),
    ("x.npz", npz(bias=npy(SIX[0])), ("no 2-D array of floats", "`vectors`")),
    ("x.npz", npz(vectors=npy(BAD)), ("float32: 2,", "first is row 2")),
    ("x.safetensors", tensors(vectors=SIX)[:-1], ("truncated",)),
    ("x.safetensors", b"\xff" * 64, ("truncated, or no safetensors",)),
    ("x.safetensors", tensors(vectors=SIX.astype(np.int8)), ("int8", "decode codes first")),
    ("x.safetensors", tensors(bias=SIX[0]), ("no 2-D tensor of floats",)),
    ("x.safetensors", tensors(vectors=SIX, ids=np.arange(2)), ("2 ids", "3 vectors")),
    ("x.safetensors", tensors(vectors=SIX, ids_json=np.frombuffer(b"[1, 2", np.uint8)), ("`ids_json`", "JSON")),
    ("x.safetensors", tensors(vectors=BAD), ("float32: 2,", "first is row 2")),
    ("x.safetensors", tensors(vectors=SIX[:0]), ("no rows",)),
    ("x.parquet", b"PAR1 cut short", ("damaged, truncated",)),
    ("x.parquet", b"", ("damaged, truncated",)),
    ("x.txt", b"", ("no rows",)),
    ("x.txt", b"a 1 2\nb 3\nc 4 5\n", ("line 2", "1 values where 2 are wanted")),
    ("x.txt", b"a 1 2\nb 3 4 5\nc 4 5\n", ("line 2", "3 values where 2 are wanted")),
    ("x.txt", b"a 1 2\n" * 70 + b"b 3\n", ("line 71", "1 values where 2 are wanted")),
    ("x.txt", b"a 1 2\nb 3 x4\n", ("line 2", "'x4' is no number")),
    ("x.txt", b"a 1 2\n\nb 3 4\n", ("line 2", "0 values")),
    ("x.txt", b"a 1 2\nb\xff 3 4\n", ("line 2", "byte offset 7 (0xff)", "UTF-8")),
    ("x.txt", b"a 1 2\nb nan 4\n", ("float32: 1,", "NaN", "row 2")),
    ("x.txt", b"a 1 2\na 3 4\n", ("row 2", "duplicate id 'a'", "row 1")),
    ("x.txt", b"just a text\nand another one\n", ("line 1", "is no number")),
    ("x.vec", b"3 2\na 1 2\nb 3 4\n", ("line 1", "promises 3 rows", "has 2")),
    ("x.vec", b"1 2\na 1 2\nb 3 4\n", ("line 1", "promises 1 rows", "has 2")),
    ("x.vec", b"900000 300\na 1 2\n", ("line 1", "900,000 x 300", "truncated")),
    ("x.vec", b"0 2\n", ("no rows",)),
    ("x.vec", b"2 0\na\nb\n", ("dimension 0",)),
    ("x.bin", b"", ("no rows",)),
    ("x.bin", b"\x80\x02", ("Python pickle",)),
    ("x.bin", b"PK\x03\x04", ("torch pickle",)),
    ("x.bin", b"no numbers\n", ("rows dimension",)),
    ("x.bin", GOOD_BIN.replace(b"a ", b"long ")[:-3], ("row 2 of 2", "cut short")),
    ("x.bin", GOOD_BIN[:-3], ("2 x 2 values", "truncated")),
    ("x.bin", GOOD_BIN + b"x", ("more bytes after row 2",)),
    ("x.bin", b"3000000 300\n" + GOOD_BIN, ("3,000,000 x 300", "truncated")),
    ("x.bin", b"1 2\n\xff " + bytes(8), ("byte offset 4 (0xff)",)),
    ("x.bin", b"1 1\na " + struct.pack("<f", np.nan), ("float32: 1,", "NaN")),
    ("x.csv", b"a,b\n", ("no vector file", ".parquet")),
]


@pytest.mark.parametrize(("name", "content", "words"), FAULTS)
def test_every_fault_names_itself(name: str, content: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, *words, kind=InputError)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        refused(tmp_path / f"x{suffix}", "No such file")
        (tmp_path / f"folder{suffix}").mkdir()
        refused(tmp_path / f"folder{suffix}", "cannot be read")


def test_an_npz_bomb_stops_at_the_cap(tmp_path: Path) -> None:
    bomb = tmp_path / "x.npz"
    np.savez_compressed(bomb, vectors=np.zeros((100_000, 50), np.float32))
    assert bomb.stat().st_size < 100_000
    refused(bomb, "more than 10,000,000 bytes", cap=10_000_000)
    ids = tmp_path / "y.npz"
    np.savez_compressed(ids, vectors=SIX, ids=np.array(["x" * 2_000_000, "y", "z"]))
    refused(ids, "more than 10,000,000 bytes", cap=10_000_000)


def test_a_zip_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    raw = npz(vectors=npy(np.zeros((1000, 8), np.float32)))
    size = struct.pack("<I", 128 + 32_000)
    longer = struct.pack("<I", 128 + 64_000)
    (tmp_path / "x.npz").write_bytes(raw.replace(size, longer))
    refused(tmp_path / "x.npz", "promises 32,128 bytes, there are 64,128")
    both = npz(vectors=header(2000, 8) + bytes(32_000)).replace(size, longer)
    (tmp_path / "x.npz").write_bytes(both)
    refused(tmp_path / "x.npz", "damaged, truncated")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from(SUFFIXES), cut=st.floats(0, 1), flips=st.lists(st.floats(0, 0.999), max_size=3))
def test_damage_is_a_data_error_or_another_value(suffix: str, cut: float, flips: list[float], tmp_path: Path) -> None:
    """Whatever a cut or flipped bits make of a file, nothing but an InputError comes out of reading it."""
    raw = bytearray(
        wrote(tmp_path / f"x{suffix}", np.eye(9, 5, dtype=np.float32), [f"w{i}" for i in range(9)]).read_bytes()
    )
    raw = raw[: int(len(raw) * cut)] if not flips else raw
    for place in flips:
        raw[int(place * len(raw))] ^= 1 << (int(place * 8000) % 8)
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(raw)
    looks_like_vectors(broken)
    try:
        read = read_vectors(broken, cap=1 << 20)
    except InputError as e:
        message = str(e)
    else:
        message = ""
        assert np.isfinite(read.vectors).all()
        assert len(set(read.ids)) == len(read.ids) == len(read.vectors)
    assert "\n" not in message


# ---- samples and looks ----------------------------------------------------------------------------------------


def test_a_sample_is_seeded_in_file_order_and_said(tmp_path: Path) -> None:
    vectors = np.arange(60_000, dtype=np.float32).reshape(30_000, 2)
    np.save(tmp_path / "x.npy", vectors)
    one, again = (read_vectors(tmp_path / "x.npy", limit=500, seed=3) for _ in range(2))
    rows = np.array(one.ids, int)
    assert one.notes == ("sample of 500 of 30,000 vectors, seed 3",)
    assert one.ids == again.ids != read_vectors(tmp_path / "x.npy", limit=500, seed=4).ids
    assert (np.diff(rows) > 0).all()
    assert rows[0] < 3000 < 27_000 < rows[-1]
    assert np.array_equal(one.vectors, vectors[rows])
    whole = read_vectors(tmp_path / "x.npy", limit=30_000)
    assert (whole.notes, len(whole.ids)) == ((), 30_000)
    with pytest.raises(InputError, match="limit 0"):
        read_vectors(tmp_path / "x.npy", limit=0)


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.txt", b"the 0.1 0.2\nof 0.3 0.4\n", True),
        ("a.txt", b"2 3\nthe 1 2 3\nof 4 5 6\n", True),
        ("a.txt", b"sun sunlight 50.0\ncar auto 3\n", False),
        ("a.txt", b"sun\tsunlight\t50.0\n", False),
        ("a.txt", b"A text of the year 1984\nAnother text\n", False),
        ("a.txt", b"3.5\tA sentence here\tAnother sentence\n", False),
        ("a.txt", b"the 0.1 0.2\nof 0.3\n", False),
        ("a.txt", b"", False),
        ("a.txt", b"\xff\xfe\0\0", False),
        ("a.parquet", b"PAR1", False),
        ("a.VEC", b"", True),
        ("a.csv", b"the 0.1 0.2\n", False),
    ],
)
def test_what_looks_like_vectors(name: str, content: bytes, wanted: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert looks_like_vectors(tmp_path / name) is wanted
    assert not looks_like_vectors(tmp_path / "absent.txt")


def test_a_parquet_of_texts_does_not_look_like_vectors(tmp_path: Path) -> None:
    assert not looks_like_vectors(columns(tmp_path / "x.parquet", text=["a"], n=[1.5], ids=[[1, 2]]))


# ---- writing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(suffix: str, tmp_path: Path) -> None:
    path = wrote(tmp_path / f"x{suffix}", SIX, IDS)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def failed(kind: type[Exception], go: Callable[[Any], object]) -> None:
        with pytest.raises(kind), open_writer(path, dimension=2) as out:
            go(out)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

    failed(InputError, lambda out: None)  # no rows
    failed(ZeroDivisionError, lambda out: (out.add(["x"], SIX[:1]), 1 / 0))
    failed(InputError, lambda out: out.add(["x"], np.array([[np.nan, 1]], np.float32)))
    failed(InputError, lambda out: out.add(["x"], SIX))
    failed(InputError, lambda out: out.add(["x"], SIX[:1, :1]))


@pytest.mark.parametrize("suffix", TEXT)
@pytest.mark.parametrize("name", ["New York", "a\tb", "", "\ufeffa", "\ud800", "a\n"])
def test_an_id_that_word2vec_cannot_hold_is_named(suffix: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot hold it") as caught:
        wrote(tmp_path / f"x{suffix}", SIX[:1], [name])
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["007", "1.5", "x", "", "9223372036854775808", "²", "-0"])
def test_integer_ids_lose_no_digit(name: str, tmp_path: Path) -> None:
    for suffix in (".parquet", ".npz"):
        with pytest.raises(InputError, match="no whole number that fits"):
            wrote(tmp_path / f"x{suffix}", SIX[:1], [name], id_type="integer")


def test_float16_overflow_is_counted(tmp_path: Path) -> None:
    vectors = np.array([[1, 70_000], [-1e9, 2]], np.float32)
    with pytest.raises(InputError, match=r"x.npz: 2 values overflow float16 .*65,504.*write float32"):
        wrote(tmp_path / "x.npz", vectors, dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_at_all(tmp_path: Path) -> None:
    for options, words in (
        ({"path": tmp_path / "x.csv"}, "no suffix of a vector file"),
        ({"dimension": 0}, "dimension 0"),
        ({"path": tmp_path / "x.txt", "dtype": "float16"}, "a .txt cannot hold float16"),
        ({"dtype": "int8"}, "cannot hold int8"),
        ({"like": open_vectors(wrote(tmp_path / "x.npy", SIX))}, "is the file that is being read"),
    ):
        with pytest.raises(InputError, match=words):
            open_writer(**({"path": tmp_path / "x.npy", "dimension": 2} | options))  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        wrote(tmp_path / "file" / "x.npy", SIX)


# ---- word pairs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["\t", ",", " "])
@pytest.mark.parametrize("head", ["", "word1{0}word2{0}score\n"])
def test_word_pairs(mark: str, head: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(head.format(mark) + f"tiger{mark}cat{mark}7.35\r\n\nÉté{mark}summer{mark}10\n", "utf-8")
    assert read_word_pairs(path) == [("tiger", "cat", 7.35), ("Été", "summer", 10.0)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b,1\nc,d\n", ("line 2", "'c,d'", "two words and a score")),
        ("a,b,1\nc,d,nan\n", ("line 2",)),
        ("a,b,1\nc,,2\n", ("line 2",)),
        ("one,two,score\nc,d,much\n", ("line 2",)),
        ("a b c d\n", ("line 1",)),
        ("one,two,score\n", ("no rows",)),
        ("", ("no rows",)),
    ],
)
def test_word_pairs_that_cannot_be_used(content: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(content)
    with pytest.raises(DataError) as caught:
        read_word_pairs(tmp_path / "p.txt")
    assert all(word in str(caught.value) for word in ("p.txt", *words)), str(caught.value)
