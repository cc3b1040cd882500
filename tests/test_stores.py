"""Milvus, with the real library: what is read, what is pushed, what a kill leaves, and what a user is told.

The local file and the server are both Milvus Lite: the server is its own gRPC server in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import milvus_client as mc
from core.__main__ import main
from core.errors import InputError
from core.milvus_collections import COMPLETE
from core.milvus_push import Pushed, push
from core.milvus_search import LOCAL_INDEXES, exact, search_compare
from core.stores import Batch, Location, Source, collections, is_milvus, open_source, parse
from core.types import unit

ROOT = Path(__file__).parents[1]
MARK = "0123456789abcdef0123456789abcdef"
AWKWARD = ('a"b', "c\\d", "", "line\nbreak", "é", "x'y", "tab\there", "pk in [1]", "plain", "\\", '"')


def vectors(n: int, d: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def make(
    path: Path | str, x: np.ndarray[Any, Any], ids: list[Any], *, name: str = "docs", metric: str = "COSINE"
) -> None:
    """A collection as a user has it: text, an array, JSON, dynamic fields, an index, and a second vector field."""
    with mc.connect(str(path), create=True) as client:
        from pymilvus import DataType

        schema = client.create_schema(enable_dynamic_field=True)
        kind = DataType.VARCHAR if isinstance(ids[0], str) else DataType.INT64
        schema.add_field("pk", kind, is_primary=True, **({"max_length": 100} if kind == DataType.VARCHAR else {}))
        schema.add_field("vec", DataType.FLOAT_VECTOR, dim=x.shape[1])
        schema.add_field("text", DataType.VARCHAR, max_length=50, nullable=True)
        schema.add_field("tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=4, max_length=9)
        schema.add_field("meta", DataType.JSON)
        schema.add_field("price", DataType.FLOAT)
        client.create_collection(name, schema=schema)
        rows = [{"pk": i, "vec": v, **other(n)} for n, (i, v) in enumerate(zip(ids, x, strict=True))]
        for start in range(0, len(rows), 2000):
            client.upsert(name, rows[start : start + 2000])
        client.flush(name)
        params = client.prepare_index_params()
        params.add_index("vec", index_type="FLAT", metric_type=metric)
        client.create_index(name, params)


def other(n: int) -> dict[str, Any]:
    return {
        "text": None if n % 3 else f"text {n}",
        "tags": ["a", f"{n}"],
        "meta": {"n": [n]},
        "price": n / 8,
        "more": n,
    }


def everything(spec: str | Location, size: int = 8192) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """id -> (its vector's bytes, its other fields); a row that comes twice fails."""
    out: dict[str, tuple[bytes, dict[str, Any]]] = {}
    for batch in open_source(spec).batches(size):
        for name, vector, more in zip(batch.ids, batch.vectors, batch.more, strict=True):
            assert name not in out
            out[name] = (vector.tobytes(), more)
    return out


def halve(source: Source, target: Location | None = None, **options: Any) -> Pushed:
    """The first half of the dimensions, pushed beside the source."""
    d = source.dimension // 2
    return push(
        target or Location(source.location.uri, source.location.collection),
        (Batch(b.ids, b.vectors[:, :d], b.more) for b in source.batches(500)),
        dimension=d,
        metric=source.metric,
        id_type=source.id_type,
        source=source,
        rows=source.rows,
        fingerprint=options.pop("fingerprint", MARK),
        **options,
    )


# ---- what is written and read ---------------------------------------------------------------------------------------


def test_a_spec_is_read_and_written_back() -> None:
    for spec in ("a.db#docs", "/x/y#z.db#docs/vec", "http://h:19530#docs", "https://h/db#docs/v"):
        assert str(parse(spec)) == spec
        assert is_milvus(spec)
    assert parse("http://h:1#c/f") == Location("http://h:1", "c", "f")
    assert is_milvus("a.db")
    assert not any(map(is_milvus, ("a.npy", "docs.parquet", "db", "a.db.npz")))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("a.db", "COLLECTION"),
        ("a.db#", "COLLECTION"),
        ("http://h:19530", "COLLECTION"),
        ("a.db#c/f/g", "FIELD"),
        ("a.npy#c", "neither"),
        ("http://h:port#c", "port"),
        ("http:///x#c", "host:19530"),
        ("http://h:1?token=hidden#c", "host:19530"),
        ("http://user:hidden@h:19530#c", mc.TOKEN),
        ("http://user:hid#den@h:19530#c", mc.TOKEN),
        ("http://u:hidden@h", mc.TOKEN),
    ],
)
def test_a_bad_spec_is_refused_and_no_secret_repeated(spec: str, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse(spec)
    assert said in str(refusal.value)
    assert "hid" not in str(refusal.value)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8), min_size=1))
@settings(max_examples=60)
def test_a_filter_says_just_these_ids(ids: list[str]) -> None:
    from milvus_lite.search.filter import parse_expr

    found = parse_expr(mc.among("pk", ids))
    assert [element.value for element in found.values.elements] == ids


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_every_row_comes_once_whatever_its_id_and_the_page(tmp_path: Path, size: int) -> None:
    x = vectors(len(AWKWARD), 6)
    make(tmp_path / "a.db", x, list(AWKWARD))
    found = everything(f"{tmp_path}/a.db#docs", size)
    assert found == {i: (x[n].tobytes(), other(n)) for n, i in enumerate(AWKWARD)}


def test_integer_ids_to_the_end_of_their_range(tmp_path: Path) -> None:
    ids = [0, -5, 2**63 - 1, -(2**63) + 1, 10**15 + 1]
    make(tmp_path / "a.db", vectors(5, 4), ids, metric="IP")
    source = open_source(f"{tmp_path}/a.db#docs")
    assert (source.id_type, source.metric, source.dimension, source.rows) == ("integer", "dot", 4, 5)
    assert set(everything(source.location, 2)) == {str(i) for i in ids}
    halve(source)
    assert set(everything(f"{tmp_path}/a.db#docs_pruned", 2)) == {str(i) for i in ids}


def test_half_precision_is_read_as_it_is() -> None:
    x = vectors(3, 5)
    half = x.astype(np.float16)
    assert np.array_equal(mc.as_vectors([[row.tobytes()] for row in half], "FLOAT16_VECTOR"), half.astype(np.float32))
    upper = (x.view(np.uint32) >> 16).astype(np.uint16)
    found = mc.as_vectors([row.tobytes() for row in upper], "BFLOAT16_VECTOR")
    assert np.array_equal(found.view(np.uint32) >> 16, upper)


def test_what_a_file_holds_is_listed(tmp_path: Path) -> None:
    make(tmp_path / "a.db", vectors(9, 4), list(range(9)), metric="L2")
    make(tmp_path / "a.db", vectors(4, 6), list("abcd"), name="words")
    halve(open_source(f"{tmp_path}/a.db#docs"))
    docs, pruned, words = collections(f"{tmp_path}/a.db")
    assert (docs.name, docs.rows, docs.id_field, docs.id_type, docs.aliases) == ("docs", 9, "pk", "integer", ())
    assert [(v.name, v.dimension, v.metric, v.index) for v in docs.vectors] == [("vec", 4, "l2", "FLAT")]
    assert (pruned.name, pruned.aliases, pruned.vectors[0].dimension) == ("docs_01234567", ("docs_pruned",), 2)
    assert (words.name, words.id_type, words.vectors[0].metric) == ("words", "string", "cosine")


# ---- pushing --------------------------------------------------------------------------------------------------------


def test_a_push_keeps_ids_and_fields_and_moves_the_alias(tmp_path: Path) -> None:
    x = vectors(300, 8)
    make(tmp_path / "a.db", x, [f"d{i}" for i in range(300)])
    before = everything(f"{tmp_path}/a.db#docs")
    source = open_source(f"{tmp_path}/a.db#docs")
    first = halve(source)
    assert (first.collection, first.alias, first.alias_before) == ("docs_01234567", "docs_pruned", "")
    assert (first.rows, first.written, first.checked, first.older) == (300, 300, 256, ())
    wanted = {f"d{i}": (x[i, :4].tobytes(), other(i)) for i in range(300)}
    assert everything(f"{tmp_path}/a.db#docs_pruned") == wanted
    again = halve(source)
    assert (again.written, again.checked, again.alias_before) == (0, 256, first.collection)
    second = halve(source, fingerprint="f" * 32)
    assert (second.collection, second.older) == ("docs_ffffffff", (first.collection,))
    assert second.alias_before == first.collection
    assert open_source(f"{tmp_path}/a.db#docs_pruned").location.collection == second.collection
    assert everything(f"{tmp_path}/a.db#{first.collection}") == wanted, "an older generation stays"
    assert everything(f"{tmp_path}/a.db#docs") == before, "the source is not touched"


def test_every_kind_of_field_is_kept_or_named(tmp_path: Path) -> None:
    path, x = f"{tmp_path}/a.db", vectors(20, 4)
    with mc.connect(path, create=True) as client:
        from pymilvus import DataType, Function, FunctionType

        schema = client.create_schema(auto_id=True)
        schema.add_field("pk", DataType.INT64, is_primary=True, auto_id=True)
        schema.add_field("vec", DataType.FLOAT_VECTOR, dim=4)
        schema.add_field("tenant", DataType.VARCHAR, max_length=10, is_partition_key=True)
        schema.add_field("text", DataType.VARCHAR, max_length=99, enable_analyzer=True)
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_field("flag", DataType.BOOL, default_value=True)
        schema.add_field("small", DataType.INT8, nullable=True)
        schema.add_field("at", DataType.TIMESTAMPTZ, nullable=True)
        schema.add_field("where", DataType.GEOMETRY, nullable=True)
        words = {"input_field_names": ["text"], "output_field_names": ["sparse"]}
        schema.add_function(Function(name="words", function_type=FunctionType.BM25, **words))
        client.create_collection("docs", schema=schema)
        odd = {"at": "2025-01-01T00:00:00Z", "where": "POINT (1 2)", "small": 3, "flag": False}
        rows = [
            {"vec": v, "tenant": f"t{i % 3}", "text": f"hello {i}"} | (odd if i % 2 else {}) for i, v in enumerate(x)
        ]
        client.insert("docs", rows)
    source = open_source(f"{path}#docs")
    assert source.left_out == ("sparse",)
    assert (source.metric, source.index) == ("cosine", ""), "no index: Milvus's own default"
    made = halve(source)
    full, pruned = everything(f"{path}#docs"), everything(f"{path}#{made.collection}")
    assert {i: more for i, (_, more) in pruned.items()} == {i: more for i, (_, more) in full.items()}
    assert {i: v for i, (v, _) in pruned.items()} == {i: v[:8] for i, (v, _) in full.items()}
    with mc.connect(path) as client:
        kept = {f["name"]: f for f in client.describe_collection(made.collection)["fields"]}
    assert kept["tenant"]["is_partition_key"]
    assert kept["text"]["params"]["max_length"] == 99
    assert kept["flag"]["default_value"].bool_data


def test_a_push_from_a_file_makes_dynamic_fields(tmp_path: Path) -> None:
    x = vectors(10, 3)
    batches = [Batch(tuple(f"{i}" for i in range(10)), x, [{"title": f"t{i}"} for i in range(10)])]
    made = push(
        parse(f"{tmp_path}/new.db#words"), batches, dimension=3, metric="l2", id_type="string", source=None,
        rows=10, fingerprint=MARK, alias="live", index="HNSW",
    )  # fmt: skip
    assert (made.alias, made.index) == ("live", "HNSW")
    source = open_source(f"{tmp_path}/new.db#live")
    assert (source.metric, source.index, source.id_field) == ("l2", "HNSW", "id")
    assert everything(source.location) == {f"{i}": (x[i].tobytes(), {"title": f"t{i}"}) for i in range(10)}


def test_a_source_that_changed_is_another_push(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A field, a vector or an id of one row: each makes a new collection; nothing changed, nothing is written."""
    argv = ["vectors", "prune", "--in", f"{tmp_path}/a.parquet", "--out", f"{tmp_path}/b.db#docs", "--metric", "dot",
            "--plan", "vectors/norm ratio=0.5", "--json"]  # fmt: skip
    ids, x, price = [f"d{i}" for i in range(40)], unit(vectors(40, 8)), list(range(40))
    x *= np.linspace(2, 1, 40)[:, None].astype(np.float32)  # the last half goes

    def pushed() -> tuple[str, int]:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8)
        pq.write_table(pa.table({"id": ids, "vector": flat, "price": price}), tmp_path / "a.parquet")
        assert main(argv) == 0
        done = json.loads(capsys.readouterr().out)["export"]
        return done["collection"], done["written"]

    first = pushed()
    assert pushed() == (first[0], 0)
    names = {first[0]}
    price[3] = 99
    names.add(pushed()[0])
    ids[4] = "other"
    names.add(pushed()[0])
    x[5] *= 1.001
    names.add(pushed()[0])
    assert len(names) == 4


def test_a_foreign_collection_is_never_written_to(tmp_path: Path) -> None:
    make(tmp_path / "a.db", vectors(20, 8), list(range(20)))
    make(tmp_path / "a.db", vectors(5, 4), list(range(5)), name="docs_01234567")
    before = everything(f"{tmp_path}/a.db#docs_01234567")
    with pytest.raises(InputError, match="not of this push"):
        halve(open_source(f"{tmp_path}/a.db#docs"))
    assert everything(f"{tmp_path}/a.db#docs_01234567") == before


def test_a_finished_collection_that_changed_is_not_switched_to(tmp_path: Path) -> None:
    make(tmp_path / "a.db", vectors(20, 8), list(range(20)))
    source = open_source(f"{tmp_path}/a.db#docs")
    made = halve(source)
    row = {"pk": 3, "vec": [9.0] * 4, **other(3)}
    for change, said in ((row, "reads back differently"), (row | {"pk": 99}, "21 rows")):
        with mc.connect(source.location.uri) as client:
            client.upsert(made.collection, [change])
        with pytest.raises(InputError, match=said):
            halve(source, alias="other")
        with mc.connect(source.location.uri) as client:
            assert "other" not in client.list_aliases()["aliases"]
            client.upsert(made.collection, [{"pk": 3, **other(3), "vec": next(source.batches(4)).vectors[3, :4]}])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": 7}, "6 rows came where 7"),
        ({"rows": 0}, "nothing to push"),
        ({"dimension": 5}, "do not fit"),
        ({"fingerprint": "../x"}, "hex"),
        ({"alias": "docs"}, "alias needs a name"),
        ({"ids": ("1", "2", "3", "4", "5", "5")}, "ids repeat"),
        ({"ids": ("1", "2", "3", "4", "5", "x")}, "no integer"),
        ({"ids": ("1", "2", "3", "4", "5", "007")}, "'007' is no integer"),
        ({"ids": ("1", "2", "3", "4", "5", str(2**63))}, "no integer"),
        ({"more": [{"vector": 1}] * 6}, "would overwrite"),
        ({"value": np.nan}, "NaN"),
        ({"index": "NGT"}, "refused"),
    ],
)
def test_a_push_that_cannot_be_right_switches_nothing(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    make(tmp_path / "a.db", vectors(6, 8), list(range(6)))
    x = vectors(6, 4)
    x[4, 2] = change.pop("value", 0)
    ids, more = change.pop("ids", tuple("123456")), change.pop("more", [])
    options: dict[str, Any] = {"dimension": 4, "rows": 6, "fingerprint": MARK} | change
    with pytest.raises(InputError, match=said):
        push(
            parse(f"{tmp_path}/a.db#docs"),
            [Batch(ids, x, more)],
            metric="dot",
            id_type="integer",
            source=None,
            **options,
        )
    assert [c.aliases for c in collections(f"{tmp_path}/a.db")] in ([()], [(), ()])


# ---- kills ----------------------------------------------------------------------------------------------------------

# pushes half the dimensions of FILE#docs; kills itself right after a call of the client, where one is named
WORKER = """
import os, signal, sys
from core import milvus_client as mc
from core.milvus_push import push
from core.stores import Batch, Location, open_source
uri, mark, size, call, index = sys.argv[1:]
milvus = mc.library()
import milvus_lite, milvus_lite.adapter.grpc.server
if call:
    real = getattr(milvus.MilvusClient, call)
    def killing(self, *a, **k):
        real(self, *a, **k)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(milvus.MilvusClient, call, killing)
source = open_source(uri + "#docs")
d = source.dimension // 2
halves = (Batch(b.ids, b.vectors[:, :d], b.more) for b in source.batches(int(size)))
print("start", flush=True)
push(Location(uri, "docs"), halves, dimension=d, metric=source.metric, id_type=source.id_type, source=source,
     rows=source.rows, fingerprint=mark, index=index)
"""


def killed(path: Path, seconds: float = -1, call: str = "", size: int = 500, index: str = "AUTOINDEX") -> bool:
    """Push in a process that dies after some seconds, or after a call of the client; whether it died in time."""
    command = [sys.executable, "-c", WORKER, str(path), MARK, str(size), call, index]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "start\n", run.stderr and run.stderr.read()
        if seconds >= 0:
            time.sleep(seconds)
            run.send_signal(signal.SIGKILL)
        noise = run.communicate(timeout=120)[1]
    assert not noise
    return run.returncode == -signal.SIGKILL


def recovered(path: Path, wanted: dict[str, tuple[bytes, dict[str, Any]]], before: dict[str, Any]) -> None:
    """After a kill an alias names nothing or what is whole; after a re-run every row is there once, bit for bit."""
    named = {alias: info for info in collections(str(path)) for alias in info.aliases}
    if named:
        assert everything(f"{path}#docs_pruned") == wanted
    made = halve(open_source(f"{path}#docs"))
    assert (made.rows, made.alias, made.older) == (len(wanted), "docs_pruned", ())
    assert everything(f"{path}#docs_pruned") == wanted
    assert everything(f"{path}#docs") == before
    assert [(c.name, c.rows) for c in collections(str(path))] == [("docs", len(before)), (made.collection, len(wanted))]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("milvus") / "original.db"
    make(path, vectors(2000, 32), [f"d{i:05}" for i in range(2000)])
    return path


@pytest.fixture(scope="module")
def truth(original: Path) -> tuple[dict[str, tuple[bytes, dict[str, Any]]], dict[str, Any]]:
    x = vectors(2000, 32)
    wanted = {f"d{i:05}": (x[i, :16].tobytes(), other(i)) for i in range(2000)}
    return wanted, everything(f"{original}#docs")


@pytest.mark.parametrize("moment", ((np.arange(5) + np.random.default_rng(5).random(5)) / 5).round(2).tolist())
def test_killed_at_any_moment_a_push_ends_with_every_row_once(
    tmp_path: Path, original: Path, truth: Any, moment: float
) -> None:
    path = Path(shutil.copytree(original, tmp_path / "a.db"))
    killed(path, seconds=1.2 * moment)
    recovered(path, *truth)


@pytest.mark.parametrize(
    "call",
    [
        "create_index",
        "alter_collection_properties",
        *(
            pytest.param(call, marks=pytest.mark.slow)
            for call in ("create_collection", "upsert", "flush", "load_collection")
        ),
    ],
)
def test_killed_after_any_call_a_push_ends_with_every_row_once(tmp_path: Path, call: str) -> None:
    x = vectors(600, 8)
    path = tmp_path / "a.db"
    make(path, x, list(range(600)))
    before = everything(f"{path}#docs")
    if call == "load_collection":  # the source is loaded first: let the push find it so
        with mc.connect(str(path)) as client:
            client.drop_index("docs", "vec")
    assert killed(path, call=call)
    recovered(path, {f"{i}": (x[i, :4].tobytes(), other(i)) for i in range(600)}, before)


def test_what_a_kill_tears_is_made_again(tmp_path: Path) -> None:
    make(tmp_path / "a.db", vectors(50, 8), list(range(50)))
    source = open_source(f"{tmp_path}/a.db#docs")
    folder = tmp_path / "a.db" / "collections" / "docs_01234567"
    folder.mkdir()  # killed between the folder and its schema
    (folder / "schema.json.tmp").write_text("{")
    made = halve(source)
    for complete in (True, False):
        sidecar = next(folder.rglob("*.idx"))
        sidecar.write_bytes(sidecar.read_bytes()[:20])  # killed while the index was saved
        if not complete:
            with mc.connect(source.location.uri) as client:
                client.drop_collection_properties(made.collection, [COMPLETE])
        assert halve(source).rows == 50
        assert sidecar.stat().st_size > 20


# ---- faults ---------------------------------------------------------------------------------------------------------

SERVER = """
import sys, grpc, milvus_lite
from concurrent import futures
from milvus_lite.adapter.grpc import server as lite
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.db import MilvusLite
from pymilvus.grpc_gen import milvus_pb2_grpc
import base64
wanted = base64.b64encode(b"user:right").decode()
class Token(grpc.ServerInterceptor):
    def intercept_service(self, go_on, call):
        if dict(call.invocation_metadata).get("authorization") == wanted:
            return go_on(call)
        def refuse(request, context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure, please check api key is correct")
        return grpc.unary_unary_rpc_method_handler(refuse)
db = MilvusLite(sys.argv[1])
server = grpc.server(futures.ThreadPoolExecutor(4), interceptors=[Token()] if sys.argv[2] == "token" else [])
milvus_pb2_grpc.add_MilvusServiceServicer_to_server(MilvusServicer(db), server)
print(server.add_insecure_port("127.0.0.1:" + sys.argv[3]), flush=True)
server.start()
server.wait_for_termination()
"""


def serve(path: Path, token: str = "", port: int = 0) -> tuple[subprocess.Popen[str], int]:
    run = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(path), token, str(port)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    return run, int(run.stdout.readline())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    run, port = serve(tmp_path / "server.db")
    yield f"http://127.0.0.1:{port}"
    run.kill()
    run.communicate()


def test_a_server_is_read_and_written_as_a_file_is(server: str, tmp_path: Path) -> None:
    x = vectors(100, 8)
    make(server, x, list(range(100)))
    with mc.connect(server) as client:
        client.release_collection("docs")
    made = halve(open_source(f"{server}#docs"))
    assert everything(f"{server}#docs_pruned") == {f"{i}": (x[i, :4].tobytes(), other(i)) for i in range(100)}
    assert [c.name for c in collections(server)] == ["docs", made.collection]
    with mc.connect(server) as client:
        assert "NotLoad" in str(client.get_load_state("docs")["state"]), "it was not loaded before"
    across = halve(open_source(f"{server}#docs"), Location(f"{tmp_path}/local.db", "docs"))
    assert everything(f"{tmp_path}/local.db#{across.collection}") == everything(f"{server}#docs_pruned")


def test_a_token_comes_from_the_environment_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run, port = serve(tmp_path / "server.db", "token")
    try:
        for token, said in (("", "is not set"), ("user:hidden", "was refused")):
            monkeypatch.setenv(mc.TOKEN, token)
            start = time.monotonic()
            with pytest.raises(InputError, match=said) as refusal:
                collections(f"http://127.0.0.1:{port}")
            assert time.monotonic() - start < 10
            assert "hidden" not in str(refusal.value)
            assert refusal.value.__cause__ is None
        monkeypatch.setenv(mc.TOKEN, "user:right")
        assert collections(f"http://127.0.0.1:{port}") == []
    finally:
        run.kill()
        run.communicate()
    assert capfd.readouterr() == ("", "")


def test_a_server_that_dies_in_a_push_is_named_and_the_push_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mc, "CALL_SECONDS", 2)
    x = vectors(900, 8)
    run, port = serve(tmp_path / "server.db")
    target = parse(f"http://127.0.0.1:{port}#docs")
    options: dict[str, Any] = {"dimension": 8, "metric": "dot", "id_type": "integer", "source": None}

    def batches(dying: bool) -> Iterator[Batch]:
        for start in range(0, 900, 300):
            if dying and start == 600:
                run.kill()
            ids = tuple(map(str, range(start, start + 300)))
            yield Batch(ids, x[start : start + 300], [])

    try:
        with pytest.raises(InputError, match="no Milvus answers"):
            push(target, batches(True), rows=900, fingerprint=MARK, **options)
    finally:
        run.communicate()
    again, _ = serve(tmp_path / "server.db", port=port)
    try:
        assert [c.aliases for c in collections(target.uri)] == [()]
        assert push(target, batches(False), rows=900, fingerprint=MARK, **options).rows == 900
        assert everything(f"{target.uri}#docs_pruned") == {f"{i}": (x[i].tobytes(), {}) for i in range(900)}
    finally:
        again.kill()
        again.communicate()
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_opened_is_said_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "a.db", vectors(5, 4), list(range(5)))
    (tmp_path / "old.db").write_bytes(b"SQLite format 3")
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "folder.db" / "mine.txt").write_text("x")
    cases = {
        f"{tmp_path}/none.db#docs": "there is no file",
        f"{tmp_path}/old.db#docs": "is a file",
        f"{tmp_path}/folder.db#docs": "no Milvus Lite database",
        f"{tmp_path}/a.db#nope": "it holds docs",
        f"{tmp_path}/a.db#docs/nope": "it has vec",
        f"{tmp_path}/a.db#docs/text": "it has vec",
        "http://127.0.0.1:9#docs": "no Milvus answers",
    }
    for spec, said in cases.items():
        start = time.monotonic()
        with pytest.raises(InputError, match=said) as refusal:
            open_source(spec)
        assert time.monotonic() - start < 10
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "none.db").exists()
    assert sorted(p.name for p in (tmp_path / "folder.db").iterdir()) == ["mine.txt"]
    assert capfd.readouterr() == ("", "")


def test_vectors_that_cannot_be_pruned_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    with mc.connect(path, create=True) as client:
        from pymilvus import DataType

        for name, kinds in (("sparse", ["SPARSE_FLOAT_VECTOR"]), ("two", ["FLOAT_VECTOR", "FLOAT_VECTOR"])):
            schema = client.create_schema()
            schema.add_field("pk", DataType.INT64, is_primary=True)
            for i, kind in enumerate(kinds):
                schema.add_field(f"v{i}", DataType[kind], **({"dim": 4 + i} if kind == "FLOAT_VECTOR" else {}))
            client.create_collection(name, schema=schema)
        client.upsert("two", [{"pk": i, "v0": [1.0] * 4, "v1": [float(i)] * 5} for i in range(3)])
    with pytest.raises(InputError, match=r"only v0 \(sparse_float_vector"):
        open_source(f"{path}#sparse")
    with pytest.raises(InputError, match=r"write .*two/FIELD"):
        open_source(f"{path}#two")
    source = open_source(f"{path}#two/v1")
    assert (source.dimension, source.left_out) == (5, ("v0",))
    assert halve(source).left_out == ("v0",)
    make(path, vectors(1, 4), [1], name="one")
    with mc.connect(path) as client:
        client.delete("one", ids=[1])
    with pytest.raises(InputError, match="no rows"):
        open_source(f"{path}#one")


def test_two_processes_do_not_open_one_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "a.db", vectors(5, 4), list(range(5)))
    run, _ = serve(tmp_path / "a.db")
    try:
        with pytest.raises(InputError, match="open in another process"):
            open_source(f"{tmp_path}/a.db#docs")
    finally:
        run.kill()
        run.communicate()
    assert open_source(f"{tmp_path}/a.db#docs").rows == 5, "a killed process leaves no lock behind"
    assert capfd.readouterr() == ("", "")


def test_a_file_is_let_go_and_no_thread_stays(tmp_path: Path) -> None:
    make(tmp_path / "a.db", vectors(5, 4), list(range(5)))
    for _ in range(8):
        open_source(f"{tmp_path}/a.db#docs")
    deadline = time.monotonic() + 5
    while threading.active_count() > 6 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert threading.active_count() <= 6
    with mc.connect(f"{tmp_path}/a.db") as outer:
        with mc.connect(f"{tmp_path}/a.db"):
            pass
        assert outer.list_collections() == ["docs"], "the inner user leaves the file open for the outer one"
    run, _ = serve(tmp_path / "a.db")  # another process can have it now
    run.kill()
    run.communicate()


def test_the_library_reads_no_env_file_and_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "found.env").write_text(f"{mc.TOKEN}=planted\n")
    code = f"""
import logging, os
import dotenv.main
dotenv.main.find_dotenv = lambda *a, **k: {str(tmp_path / "found.env")!r}
from core import milvus_client as mc
mc.library()
for name in ("pymilvus.decorators", "pymilvus.milvus_client.milvus_client", "milvus_lite.server_manager"):
    logging.getLogger(name).error("noise")
print(os.environ.get(mc.TOKEN), os.environ.get("PYTHON_DOTENV_DISABLED"))
"""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHON_DOTENV_DISABLED", mc.TOKEN)}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("None None\n", "")


def test_a_proxy_in_the_environment_does_not_stand_before_a_local_file(tmp_path: Path) -> None:
    make(tmp_path / "a.db", vectors(5, 4), list(range(5)))
    code = "import sys; from core.stores import collections; print(collections(sys.argv[1])[0].rows)"
    behind = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"} | {"http_proxy": "http://127.0.0.1:9"}
    run = subprocess.run(
        [sys.executable, "-c", code, f"{tmp_path}/a.db"], cwd=ROOT, env=behind, capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("5\n", "")


def test_a_collection_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a.db", vectors(40, 4), list(range(40)))
    pages = open_source(f"{tmp_path}/a.db#docs").batches(10)
    next(pages)
    with mc.connect(f"{tmp_path}/a.db") as client:
        client.delete("docs", ids=[35])
    with pytest.raises(InputError, match="changed meanwhile"):
        list(pages)


# ---- searching ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Source]:
    """600 rows whose first half of dimensions holds most of what tells them apart."""
    path = tmp_path_factory.mktemp("milvus") / "pair.db"
    x = vectors(600, 16) * np.geomspace(1, 0.1, 16, dtype=np.float32)
    make(path, x, list(range(600)))
    source = open_source(f"{path}#docs")
    halve(source, index="FLAT")
    return source, open_source(f"{path}#docs_pruned")


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_truth_is_that_of_faiss(tmp_path: Path, metric: str) -> None:
    faiss = pytest.importorskip("faiss")
    x, q = vectors(500, 12), vectors(20, 12, seed=1)
    make(tmp_path / "a.db", x, list(range(500)), metric={"cosine": "COSINE", "dot": "IP", "l2": "L2"}[metric])
    index = faiss.IndexFlatL2(12) if metric == "l2" else faiss.IndexFlatIP(12)
    index.add(unit(x) if metric == "cosine" else x)
    wanted = index.search(unit(q) if metric == "cosine" else q, 10)[1]
    found = exact(open_source(f"{tmp_path}/a.db#docs"), q, 10)
    assert [[int(i) for i in row] for row in found] == wanted.tolist()


def test_two_stages_find_what_the_full_search_finds(pair: tuple[Source, Source]) -> None:
    q = vectors(12, 16, seed=2)
    full, pruned, fetched, filtered = search_compare(*pair, q, q[:, :8], k=10, shortlist=600)
    assert [r["search"] for r in (full, pruned, fetched, filtered)] == [
        "full", "pruned", "two-stage, fetched", "two-stage, filtered"
    ]  # fmt: skip
    assert full["recall@10"] == fetched["recall@10"] == filtered["recall@10"] == 1
    assert 0.3 < pruned["recall@10"] < 1
    assert (full["index"], pruned["index"], full["ratio"]) == ("FLAT", "FLAT", 1)
    assert (full["bytes"], pruned["bytes"], fetched["bytes"]) == (600 * 64, 600 * 32, 600 * 96)
    assert all(0 < r["ms"] <= r["ms_p95"] for r in (full, pruned, fetched, filtered))


def test_every_index_type_is_tried_on_copies(pair: tuple[Source, Source]) -> None:
    q = vectors(5, 16, seed=3)
    before = collections(pair[0].location.uri)
    rows = search_compare(*pair, q, q[:, :8], indexes=("FLAT", "HNSW", "HNSW_SQ"), k=5)
    assert [(r["index"], r["search"]) for r in rows] == [
        (i, s) for i in ("FLAT", "HNSW", "HNSW_SQ") for s in ("full", "pruned")
    ]
    assert {r["collection"] for r in rows} == {s.location.collection for s in pair}
    assert rows[0]["recall@5"] == 1
    assert rows[2]["parameters"] == {"ef": 128}
    assert collections(pair[0].location.uri) == before
    with pytest.raises(InputError, match="builds no NGT"):
        search_compare(*pair, q, q[:, :8], indexes=("NGT",))


@pytest.mark.slow
def test_a_local_file_builds_the_types_that_are_offered(tmp_path: Path) -> None:
    x = vectors(5000, 4)
    with mc.connect(f"{tmp_path}/a.db", create=True) as client:
        from core.milvus_collections import build_index

        client.create_collection("c", dimension=4, metric_type="L2", auto_id=False)
        client.upsert("c", [{"id": i, "vector": v} for i, v in enumerate(x)])
        client.flush("c")
        for index in LOCAL_INDEXES:
            assert build_index(client, "c", "vector", "l2", index) == index
            found = client.search("c", [x[7].tolist()], anns_field="vector", limit=1, output_fields=["id"])
            assert found[0][0]["id"] == 7


def test_a_hit_on_a_survivor_counts_for_what_it_stands_for(tmp_path: Path) -> None:
    x = vectors(200, 8)
    x[100:] = x[:100] + 1e-4 * vectors(100, 8, seed=4)  # every row has a near copy
    make(tmp_path / "a.db", x, list(range(200)))
    old = open_source(f"{tmp_path}/a.db#docs")
    ids = tuple(map(str, range(100)))
    push(parse(f"{tmp_path}/a.db#few"), [Batch(ids, x[:100], [])], dimension=8, metric="cosine", id_type="integer",
         source=None, rows=100, fingerprint=MARK, index="FLAT")  # fmt: skip
    new = open_source(f"{tmp_path}/a.db#few_pruned")
    q = vectors(10, 8, seed=5)
    stands = {f"{i + 100}": f"{i}" for i in range(100)}
    lost = search_compare(old, new, q, q, k=10, shortlist=10)
    kept = search_compare(old, new, q, q, k=10, shortlist=10, stands_for=stands)
    assert [r["recall@10"] for r in lost[1:]] == pytest.approx([0.5] * 3, abs=0.1)
    assert [r["recall@10"] for r in kept[1:]] == [1, 1, 1]


def test_queries_that_do_not_fit_are_refused(pair: tuple[Source, Source]) -> None:
    q = vectors(3, 16)
    for a, b, options in (
        (q, q, {}),
        (q, q[:2, :8], {}),
        (q[:0], q[:0, :8], {}),
        (q, q[:, :8], {"k": 5, "shortlist": 4}),
    ):
        with pytest.raises(InputError):
            search_compare(*pair, a, b, **options)
