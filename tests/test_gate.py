"""The gate: rows 1 to 8 of the fault catalogue and the hub id of row 28, one refusal each, and the round trip."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ModelRefused
from core.gate import Limits, check_config, check_weights, clean_copy, notes, unzip_safely, valid_hub_id
from tests.tiny_models import ARCHITECTURES, WIDTH, tiny_model

TEXTS = ["the cat sat on the mat", "a dog ran under the tree", "zebra"]
LAYER = "encoder.layer.1.output.dense.weight"
Change = Callable[[Path], Any]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny model by architecture, built once; never change it in place."""
    made: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = tiny_model(architecture, tmp_path_factory.mktemp(architecture), extras=True)
        return made[architecture]

    return get


@pytest.fixture
def bert(models: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the tiny BERT that the test may spoil."""
    return Path(shutil.copytree(models("bert"), tmp_path / "bert"))


def edit(path: Path, **keys: Any) -> None:
    """Set keys of a JSON object; None removes one."""
    data = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))


def tensors(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a folder's weights after changing the arrays."""
    from safetensors.numpy import load_file, save_file

    arrays = load_file(folder / "model.safetensors")
    arrays = change(arrays) or arrays
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})


def filled(name: str, place: Any, value: float) -> Change:
    def change(folder: Path) -> None:
        tensors(folder, lambda a: a[name].__setitem__(place, value))

    return change


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def attacker(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "os.system"
    (folder / "modules.json").write_text(json.dumps(modules))


def climbing(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "../1_Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))


def linked(folder: Path) -> None:
    (folder / "vocab.txt").symlink_to("/etc/hostname")


def shard_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))


def spoil(data: bytes) -> Change:
    return lambda folder: (folder / "model.safetensors").write_bytes(data)


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


REFUSED: dict[str, tuple[Change, str]] = {
    "1 pickle only": (as_pickle, "pytorch_model.bin.*convert it offline"),
    "1 attacker class": (attacker, "os.system"),
    "1 path that climbs": (climbing, "bare folder name"),
    "1 auto_map": (lambda f: edit(f / "config.json", auto_map={"AutoModel": "evil.Model"}), "auto_map"),
    "1 tokenizer auto_map": (lambda f: edit(f / "tokenizer_config.json", auto_map={"x": "y"}), "auto_map"),
    "1 tokenizer class": (lambda f: edit(f / "tokenizer_config.json", tokenizer_class="a.b"), "plain name"),
    "1 custom code": (lambda f: (f / "modeling_x.py").write_text("boom"), r"modeling_x\.py is code"),
    "1 activation": (lambda f: edit(f / "3_Dense/config.json", activation_function="torch.hub.load"), "torch.hub.load"),
    "1 symlink": (linked, "vocab.txt is a link"),
    "1 fifo": (lambda f: os.mkfifo(f / "pipe"), "pipe is a link, a device"),
    "1 shard outside": (shard_outside, r"\.\./a\.safetensors"),
    "1 zip in disguise": (spoil(b"PK\x03\x04" + b"\0" * 600), "zip or torch pickle"),
    "1 pickle in disguise": (spoil(b"\x80\x02}q\x00." + b"x" * 600), "Python pickle"),
    "2 every weight missing": (lambda f: tensors(f, lambda a: {"x": a[LAYER]}), "missing: embeddings"),
    "2 one weight missing": (lambda f: tensors(f, lambda a: a.pop(LAYER) is None), f"missing: {LAYER}"),
    "2 masked weights": (
        lambda f: tensors(f, lambda a: a.__setitem__(LAYER + "_orig", a.pop(LAYER))),
        f"missing: {LAYER}; not declared: {LAYER}_orig",
    ),
    "2 fewer layers declared": (
        lambda f: edit(f / "config.json", num_hidden_layers=1),
        r"1 layers declared, 2 found.*not declared: encoder\.layer\.1",
    ),
    "2 20,000 layers declared": (
        lambda f: edit(f / "config.json", num_hidden_layers=20_000),
        r"20,000 layers declared, 2 found.*missing: encoder\.layer\.2",
    ),
    "2 wrong width": (
        lambda f: edit(f / "config.json", intermediate_size=48),
        r"another shape: .*\[64, 32\], not \[48, 32\]",
    ),
    "2 wrong vocabulary": (lambda f: edit(f / "config.json", vocab_size=9), "word_embeddings"),
    "2 odd number": (lambda f: edit(f / "config.json", hidden_size=True), "hidden_size=True"),
    "2 dense shape": (
        lambda f: edit(f / "3_Dense/config.json", out_features=8),
        r"linear\.weight \[16, 32\], not \[8, 32\]",
    ),
    "2 pooling width": (lambda f: edit(f / "1_Pooling/config.json", embedding_dimension=7), "embedding_dimension=7"),
    "2 quantised": (lambda f: tensors(f, lambda a: a.__setitem__(LAYER, a[LAYER].astype(np.int8))), r"\(I8\)"),
    "3 tokenizer missing": (lambda f: (f / "tokenizer.json").unlink(), r"no tokenizer\.json.*\[UNK\]"),
    "3 tokenizer empty": (lambda f: edit(f / "tokenizer.json", model={"type": "WordLevel", "vocab": {}}), "0 tokens"),
    "3 tokenizer foreign": (
        lambda f: edit(f / "tokenizer.json", model={"type": "WordLevel", "vocab": {"a": 0, "b": 999}}),
        "ids run to 999",
    ),
    "5 NaN row": (filled("embeddings.word_embeddings.weight", 17, np.nan), r"word_embeddings\.weight, row 17 of"),
    "5 all Inf": (filled(LAYER, slice(None), np.inf), f"{LAYER}, row 0 of 32"),
    "5 all zero": (filled("embeddings.word_embeddings.weight", slice(None), 0), "word_embeddings.weight .* all zero"),
    "6 truncated": (truncated, "truncated: download it again"),
    "6 LFS pointer": (spoil(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
    "6 web page": (spoil(b"\n<!DOCTYPE html><html>404</html>"), "a web page"),
    "6 web page as config": (lambda f: (f / "config.json").write_text("<html>"), "config.json.*a web page"),
    "6 empty file": (spoil(b""), "0 bytes"),
    "6 double key": (lambda f: (f / "config.json").write_text('{"a": 1, "a": 2}'), "stands twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, bert: Path, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    change(bert)
    root = tmp_path / "clean"
    with pytest.raises(ModelRefused, match=f"(?s){message}"):
        clean_copy(bert, root)
    assert not root.exists() or not list(root.iterdir())  # nothing is left behind


def test_a_flipped_byte_is_found(bert: Path, tmp_path: Path) -> None:
    """Row 4: our own copy is made anew (its hash is known); in a source, what is not finite is refused."""
    copy = clean_copy(bert, tmp_path / "clean")
    path, good = copy / "model.safetensors", (copy / "model.safetensors").read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert clean_copy(bert, tmp_path / "clean") == copy
    assert path.read_bytes() == good
    (bert / "model.safetensors").write_bytes(good[:-2] + b"\xff\x7f")
    with pytest.raises(ModelRefused, match="NaN or infinity"):
        clean_copy(bert, tmp_path / "clean")


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_check_weights_reads_every_float_type(dtype: str, tmp_path: Path) -> None:
    kind, bad = {"F32": ("<f4", None), "F64": ("<f8", None), "F16": ("<f2", None), "BF16": ("<u2", 0x7FC0)}[dtype]
    values = np.ones((5, 3), kind)
    path = tmp_path / "model.safetensors"
    for row in (None, 3):
        if row is not None:
            values[row, 1] = np.nan if bad is None else bad
        head = json.dumps({"w": {"dtype": dtype, "shape": [5, 3], "data_offsets": [0, values.nbytes]}}).encode()
        path.write_bytes(struct.pack("<Q", len(head)) + head + values.tobytes())
        if row is None:
            check_weights(path)
    with pytest.raises(ModelRefused, match="w, row 3 of 5"):
        check_weights(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
        {"dtype": "OBJ", "shape": [2], "data_offsets": [0, 8]},
        "nonsense",
    ],
)
def test_lying_headers_are_refused(entry: Any, tmp_path: Path) -> None:
    head = json.dumps({"w": entry}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * 8)
    with pytest.raises(ModelRefused, match="w"):
        check_weights(tmp_path / "m.safetensors")


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    head = json.dumps({"a": entry, "b": entry}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"\1" * 8)
    with pytest.raises(ModelRefused, match="b starts at byte"):
        check_weights(tmp_path / "m.safetensors")


# --- zips: rows 7 and 8 ---------------------------------------------------------------------------------------


def packed(*entries: tuple[str, bytes], mode: int = 0, flags: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data in entries:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr, info.compress_type = name, mode << 16, method
            z.writestr(info, data)
            info.flag_bits |= flags
    return out.getvalue()


def lying() -> bytes:
    """The directory declares 10 bytes where 4,000 are packed."""
    data = bytearray(packed(("a", bytes(range(250)) * 16)))
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    return bytes(data)


def overlapping() -> bytes:
    """Two directory entries that share one body: the second is sent to where the first begins."""
    data = bytearray(packed(("a", b"body" * 9), ("b", b"body" * 9), method=zipfile.ZIP_STORED))
    at = data.rfind(b"PK\x01\x02")
    data[at + 42 : at + 46] = bytes(4)
    return bytes(data)


ODD_ZIPS: dict[str, tuple[bytes, str]] = {
    "climbs": (packed(("../a", b"x")), "leaves the folder"),
    "climbs inside": (packed(("a/../../b", b"x")), "leaves the folder"),
    "absolute": (packed(("/etc/a", b"x")), "is absolute"),
    "drive": (packed(("C:a", b"x")), "colon"),
    "backslash": (packed(("a\\b", b"x")), "backslash"),
    "newline": (packed(("a\nb", b"x")), "control character"),
    "NUL": (packed(("a\0b", b"x")), "control character|damaged"),
    "300 characters": (packed(("a" * 300, b"x")), "255 bytes"),
    "symlink": (packed(("a", b"/etc/passwd"), mode=0o120777), "link"),
    "device": (packed(("a", b""), mode=0o020666), "device"),
    "encrypted": (packed(("a", b"x"), flags=1), "Zip without a password"),
    "case collision": (packed(("a/B", b"x"), ("A/b", b"y")), "would be one file"),
    "file and folder": (packed(("a", b"x"), ("a/b", b"y")), "inside another file"),
    "bzip2": (packed(("a", b"x"), method=zipfile.ZIP_BZIP2), "method 12"),
    "70,000 entries": (packed(*((str(i), b"") for i in range(70_000))), "65,535 or more.*limit is 2,000"),
    "2,001 entries": (packed(*((str(i), b"") for i in range(2_001))), "2,001.*limit is 2,000"),
    "lying header": (lying(), "damaged|header says"),
    "truncated": (packed(("a", b"x" * 999))[:-30], "truncated"),
    "no zip": (b"hello", "no zip"),
    "bomb": (packed(("a", bytes(20 << 20))), "limit is 200:1"),
    "overlap": (overlapping(), "overlaps another"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", ODD_ZIPS)
def test_odd_zips_are_refused(case: str, tmp_path: Path) -> None:
    data, message = ODD_ZIPS[case]
    (tmp_path / "odd.zip").write_bytes(data)
    with pytest.raises(ModelRefused, match=message):
        unzip_safely(tmp_path / "odd.zip", tmp_path / "in" / "side")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["odd.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.zip").write_bytes(packed(("a", b"x"), ("a", b"y")))
    with pytest.raises(ModelRefused, match="would be one file"):
        unzip_safely(tmp_path / "odd.zip", tmp_path / "inside")


@pytest.mark.parametrize(
    ("limits", "message"),
    [(Limits(file=999), "limit is 999 a file"), (Limits(total=1_500), "1,500"), (Limits(entries=1), "limit is 1")],
)
def test_caps_of_an_upload(limits: Limits, message: str, tmp_path: Path) -> None:
    (tmp_path / "big.zip").write_bytes(packed(("a", os.urandom(1_000)), ("b", os.urandom(1_000))))
    with pytest.raises(ModelRefused, match=message):
        unzip_safely(tmp_path / "big.zip", tmp_path / "inside", limits=limits)


@pytest.mark.parametrize(("data", "limits"), [(bytes(20 << 20), Limits()), (os.urandom(3 << 20), Limits(file=1 << 20))])
def test_bytes_are_counted_while_reading(
    data: bytes, limits: Limits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the directory were believed, the cap holds."""
    import core.unzip

    monkeypatch.setattr(core.unzip, "_check_entry", lambda *_: None)
    (tmp_path / "bomb.zip").write_bytes(packed(("a", data)))
    with pytest.raises(ModelRefused, match="unpacks to over"):
        unzip_safely(tmp_path / "bomb.zip", tmp_path / "inside", limits=limits)
    assert not (tmp_path / "inside").exists()


@pytest.mark.parametrize("top", ["", "my model/"])
def test_a_zipped_model_gives_the_same_copy(top: str, models: Callable[[str], Path], tmp_path: Path) -> None:
    source = models("bert")
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as z:
        for path in source.rglob("*"):
            z.write(path, top + str(path.relative_to(source)))
    assert clean_copy(tmp_path / "m.zip", tmp_path / "a").name == clean_copy(source, tmp_path / "b").name
    assert [p.name for p in (tmp_path / "a").iterdir()] == [clean_copy(source, tmp_path / "b").name]


# --- what passes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "static"])
def test_round_trip(architecture: str, models: Callable[[str], Path], tmp_path: Path) -> None:
    """The clean copy loads plainly, gives the source's vectors, and is its own clean copy."""
    from sentence_transformers import SentenceTransformer

    source = models(architecture)
    copy = clean_copy(source, tmp_path)
    assert clean_copy(source, tmp_path) == copy == clean_copy(copy, tmp_path)
    check_config(source)
    before, after = (SentenceTransformer(str(p), device="cpu") for p in (source, copy))
    for prompt in ("query", "document"):
        old, new = (m.encode(TEXTS, prompt_name=prompt) for m in (before, after))
        np.testing.assert_array_equal(old, new)
    assert after.get_embedding_dimension() == 16
    assert after.similarity_fn_name == before.similarity_fn_name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_tensor_may_be_missing(architecture: str, models: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(models(architecture), tmp_path / "m"))
    arrays = load_file(folder / "model.safetensors")
    for name in arrays:
        save_file({n: a for n, a in arrays.items() if n != name}, folder / "model.safetensors")
        if name.startswith("pooler"):
            check_config(folder)
        else:
            with pytest.raises(ModelRefused, match=f"missing: {name}"):
                check_config(folder)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_masked_language_model_passes(architecture: str, models: Callable[[str], Path], tmp_path: Path) -> None:
    """As models lie on the hub: a head, its prefix before every name, no modules.json, half precision."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(models(architecture))
    AutoModelForMaskedLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path / "mlm")
    AutoTokenizer.from_pretrained(models(architecture)).save_pretrained(tmp_path / "mlm")
    copy = clean_copy(tmp_path / "mlm", tmp_path / "clean")
    old, new = (SentenceTransformer(str(p), device="cpu").encode(TEXTS) for p in (tmp_path / "mlm", copy))
    np.testing.assert_array_equal(old, new)


def test_strays_are_left_out_and_named(bert: Path, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "model.onnx", "README.md", ".gitattributes", "adapter_config.json"):
        (bert / name).write_text("x")
    edit(bert / "config.json", quantization_config={"a": 1}, _attn_implementation="evil/kernel")
    edit(bert / "sentence_bert_config.json", model_args={"attn_implementation": "x"}, max_seq_length=20)
    copy = clean_copy(bert, tmp_path / "clean")
    kept = {p.name for p in copy.rglob("*")}
    assert not kept & {"pytorch_model.bin", "model.onnx", "README.md", ".gitattributes", "adapter_config.json"}
    assert not {"quantization_config", "_attn_implementation"} & json.loads((copy / "config.json").read_text()).keys()
    assert json.loads((copy / "sentence_bert_config.json").read_text()) == {"max_seq_length": 20}
    assert any("pytorch_model.bin" in note for note in notes(copy))
    assert any("model_args" in note for note in notes(copy))


def test_a_bare_transformer_gets_mean_pooling(bert: Path, tmp_path: Path) -> None:
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (bert / name).unlink()
    copy = clean_copy(bert, tmp_path / "clean")
    assert json.loads((copy / "1_Pooling/config.json").read_text())["embedding_dimension"] == WIDTH
    assert any("mean pooling was added" in note for note in notes(copy))


def test_both_spellings_heads_buffers_and_a_missing_pooler_pass(bert: Path, tmp_path: Path) -> None:
    """What older models hold: short class names, a task head's prefix, position ids, an MLM head, no pooler."""
    modules = json.loads((bert / "modules.json").read_text())
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rsplit(".", 1)[1]
    (bert / "modules.json").write_text(json.dumps(modules))

    def older(arrays: dict[str, Any]) -> dict[str, Any]:
        body = {f"bert.{name}": a for name, a in arrays.items() if not name.startswith("pooler")}
        ids = np.arange(40, dtype=np.int64)[None]
        return body | {"bert.embeddings.position_ids": ids, "cls.predictions.bias": np.zeros(9, np.float32)}

    tensors(bert, older)
    assert clean_copy(bert, tmp_path / "clean").is_dir()


def test_shards_pass(bert: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(bert / "model.safetensors")
    (bert / "model.safetensors").unlink()
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(arrays)}
    for file in set(where.values()):
        save_file({n: a for n, a in arrays.items() if where[n] == file}, bert / file, metadata={"format": "pt"})
    (bert / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert clean_copy(bert, tmp_path / "clean").is_dir()
    (bert / next(iter(where.values()))).unlink()
    with pytest.raises(ModelRefused, match="which is not there"):
        clean_copy(bert, tmp_path / "clean")


def test_unknown_architectures_are_held_to_the_general_checks(bert: Path, tmp_path: Path) -> None:
    edit(bert / "config.json", model_type="ernie")
    assert clean_copy(bert, tmp_path / "clean").is_dir()
    edit(bert / "config.json", num_hidden_layers=3)
    with pytest.raises(ModelRefused, match="declares 3 layers, the weights hold 2"):
        clean_copy(bert, tmp_path / "clean")
    edit(bert / "config.json", num_hidden_layers=2, secret_switch=1)
    with pytest.raises(ModelRefused, match="secret_switch"):
        clean_copy(bert, tmp_path / "clean")


def test_sources_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.zip").write_bytes(packed(("../a", b"x")))
    (tmp_path / "data.zip").write_bytes(packed(("a.csv", b"x")))
    zips = ("odd.zip", "leaves the folder"), ("data.zip", "neither modules.json nor config.json")
    for name, message in (
        *zips,
        ("weights.bin", "convert it offline"),
        ("empty", "modules.json"),
        ("gone", "not there"),
    ):
        with pytest.raises(ModelRefused, match=message):
            clean_copy(tmp_path / name, tmp_path / "clean")
    assert not list((tmp_path / "clean").iterdir())


def test_limits_hold_for_folders_only_when_given(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="limits are 100 a file"):
        clean_copy(bert, tmp_path / "clean", limits=Limits(file=100))
    assert clean_copy(bert, tmp_path / "clean").is_dir()


@pytest.mark.parametrize(
    ("text", "good"),
    [("sentence-transformers/all-MiniLM-L6-v2", True), ("a/b.c_d", True), ("bert", False), ("a/b/c", False),
     ("../b", False), ("a/..", False), ("https://x/y", False), ("a/b\n", False), ("a/ b", False), ("", False),
     ("a/é", False), ("a/b--c", False), ("a/-b", False)],
)  # fmt: skip
def test_hub_ids(text: str, good: bool) -> None:
    assert valid_hub_id(text) is good
