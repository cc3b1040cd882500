"""Exports: what is handed out is what was shown, it opens with plain sentence-transformers, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from core import export, registry
from core.__main__ import main
from core.bench import Bench, prepare
from core.embedding import prompt_of
from core.encoders import open_model
from core.errors import Fault, InputError
from core.export import check_destination, folder_hash, vectors, zipped
from core.export.model_folder import write_model
from core.export.proof import TOLERANCE
from core.judging import reduce
from core.pipeline import Cutting
from core.plan import Step
from core.select import apply
from core.store import MANIFEST, check_manifest, new_folder
from core.types import Reduction
from tests.tiny_models import ARCHITECTURES, WORDS, tiny_model

KEEP = 11
METHODS = [n for n in registry.names("dimensions") if n != "dimensions/bilinear"]
SHORT = {"dimensions/distilled": 20, "dimensions/contrastive": 20, "dimensions/l1": 20}  # steps: the fit is not judged
VARIANTS = ("dot", "unscaled", "truncated", "truncated-dot", "prompts")
TEXTS = [f"the {a} {b} on {WORDS[-1 - i]}" for i, a in enumerate(WORDS) for b in WORDS[3:7]]

# a process that knows nothing of Espalier; one line of JSON: {name: {"keys": [...], "classes": [...]}}
FRESH = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
request, out = json.load(open(sys.argv[1])), {}
for name, (path, texts, prompt) in request.items():
    model = SentenceTransformer(path, device="cpu")
    np.save(name.replace("/", "_") + ".npy", model.encode(texts, prompt=prompt or None, batch_size=32))
    out[name] = {"modules": [type(m).__name__ for m in model], "similarity": model.similarity_fn_name}
assert not any(m == "core" or m.startswith("core.") for m in sys.modules)
print(json.dumps(out))
"""


# ---- models, benches, reductions ------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def corpus(folder: Path) -> Path:
    """A BEIR folder of 60 documents with titles; query i asks for document i."""
    rows = [{"_id": f"d{i}", "title": f"{WORDS[i % 15]} {WORDS[i % 7]}", "text": t} for i, t in enumerate(TEXTS)]
    asked = [{"_id": f"q{i}", "text": " ".join(TEXTS[i].split()[1:3])} for i in range(0, 60, 5)]
    write(folder / "corpus.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    write(folder / "queries.jsonl", "".join(json.dumps(r) + "\n" for r in asked))
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(0, 60, 5))
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\n" + judged)
    return folder


def variant(kind: str, folder: Path) -> Path:
    """A tiny BERT that departs from the usual cosine model with a Normalize at its end."""
    tiny_model("bert", folder, extras=kind == "prompts")
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    if kind.endswith("dot"):
        settings["similarity_fn_name"] = "dot"
    if kind.startswith("truncated"):
        settings["truncate_dim"] = 20
    path.write_text(json.dumps(settings))
    if kind in ("dot", "unscaled", "truncated-dot"):
        modules = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps(modules[:-1]))
    return folder


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """A bench for every architecture and variant, all on one tiny corpus."""
    root = tmp_path_factory.mktemp("export")
    data = str(corpus(root / "corpus"))
    folders = {a: tiny_model(a, root / a) for a in (*ARCHITECTURES, "static")}
    folders |= {v: variant(v, root / v) for v in VARIANTS}
    return {name: prepare(str(folder), [data]) for name, folder in folders.items()}


def reduction_of(bench: Bench, method: str, *, keep: int | None = KEEP) -> Reduction:
    cut: tuple[str, Any] = ("ratio", 0.0) if keep is None else ("keep", keep)
    steps = (("steps", SHORT[method]),) if method in SHORT else ()
    return reduce(bench, Step(method, (cut, *steps)))[1]


CASES = [f"bert:{m}" for m in METHODS] + [
    f"{name}:{what}"
    for name in (*ARCHITECTURES, "static", *VARIANTS)
    for what in ("dimensions/pca", "identity", *(["dimensions/svd"] if name in VARIANTS else []))
    if name != "bert" or what == "identity"
]
Cases = dict[str, tuple[Bench, Reduction, Path]]


@pytest.fixture(scope="module")
def cases(benches: dict[str, Bench], tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """Every method on one model, a centred rotation and no cut on all of them: written out."""
    root = tmp_path_factory.mktemp("written")
    out: Cases = {}
    for i, case in enumerate(CASES):
        name, method = case.split(":")
        whole = method == "identity"
        reduction = reduction_of(benches[name], "dimensions/svd" if whole else method, keep=None if whole else KEEP)
        folder = root / str(i)
        folder.mkdir()
        write_model(benches[name].model, reduction, folder)
        out[case] = (benches[name], reduction, folder)
    return out


@pytest.fixture(scope="module")
def reopened(
    cases: Cases, benches: dict[str, Bench], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
    """Vectors by case, and of every source, from one fresh process; what it told of them; its standard error."""
    root = tmp_path_factory.mktemp("fresh")
    request = {name: (str(b.model.path), TEXTS, prompt_of(b.model, "query")) for name, b in benches.items()}
    request |= {case: (str(folder), TEXTS, prompt_of(b.model, "query")) for case, (b, _, folder) in cases.items()}
    write(root / "request.json", json.dumps(request))
    write(root / "fresh.py", FRESH)
    keep = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "fresh.py", "request.json"], cwd=root, capture_output=True, text=True, check=False,
        env={k: v for k, v in os.environ.items() if k in keep} | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: np.load(root / f"{name.replace('/', '_')}.npy") for name in request}
    return found, json.loads(done.stdout.strip().splitlines()[-1]), done.stderr


Reopened = tuple[dict[str, np.ndarray], dict[str, Any], str]


# ---- the model folder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_reopened_model_gives_the_vectors_that_were_shown(cases: Cases, reopened: Reopened, case: str) -> None:
    found, _, _ = reopened
    bench, reduction, _ = cases[case]
    source, got = found[case.split(":")[0]], found[case]
    if reduction.identity:
        assert np.array_equal(got, source), "no cut must change no bit"
        return
    assert got.shape == (len(TEXTS), KEEP)
    if bench.model.metric == "cosine":
        source = source / np.linalg.norm(source, axis=1, keepdims=True)
        assert np.allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-6)
    assert np.abs(got - apply(reduction, source)).max() < 1e-5


def test_no_weight_was_missing(reopened: Reopened) -> None:
    said = reopened[2]
    assert not re.search("MISSING|UNEXPECTED|newly initialized|MISMATCH", said), said[-2000:]


@pytest.mark.parametrize("case", CASES)
def test_only_stock_modules_and_a_normalize_for_cosine_alone(cases: Cases, reopened: Reopened, case: str) -> None:
    bench, reduction, folder = cases[case]
    listed = json.loads((folder / "modules.json").read_text())
    assert all(re.fullmatch(r"sentence_transformers\.[\w.]+", m["type"]) for m in listed)
    assert [m["idx"] for m in listed] == list(range(len(listed)))
    about = reopened[1][case]
    assert about["similarity"] == bench.model.metric
    if not reduction.identity:
        ending = ["Dense", "Normalize"] if bench.model.metric == "cosine" else ["Dense"]
        assert about["modules"][-len(ending) :] == ending
        assert ("Normalize" in about["modules"]) == (bench.model.metric == "cosine")
        assert "truncate_dim" not in json.loads((folder / "config_sentence_transformers.json").read_text())


@pytest.mark.parametrize("name", [*ARCHITECTURES, "static"])
def test_the_transformers_own_files_are_copied_to_the_byte(cases: Cases, name: str) -> None:
    bench, _, folder = cases[f"{name}:dimensions/pca"]
    for path in bench.model.path.rglob("*"):
        if path.is_file() and path.name not in (MANIFEST, "espalier-gate.json", "modules.json"):
            assert (folder / path.relative_to(bench.model.path)).read_bytes() == path.read_bytes(), path.name


def test_the_centre_is_a_bias_and_nothing_else_has_one(cases: Cases) -> None:
    for case, (_, reduction, folder) in cases.items():
        if reduction.identity:
            continue
        last = sorted(folder.glob("*_Dense"), key=lambda p: int(p.name.split("_")[0]))[-1]
        weights = load_file(last / "model.safetensors")
        about = json.loads((last / "config.json").read_text())
        assert np.array_equal(weights["linear.weight"], reduction.matrix.T)
        assert about["bias"] == ("linear.bias" in weights) == (case.endswith("/pca"))
        assert about["activation_function"].endswith("Identity")
        if case.endswith("/pca"):
            assert reduction.mean is not None
            wanted = -(reduction.mean.astype(np.float64) @ reduction.matrix.astype(np.float64))
            assert np.abs(weights["linear.bias"] - wanted).max() < 1e-7
            assert np.abs(wanted).max() > 1e-3


def test_the_export_passes_our_own_gate(cases: Cases) -> None:
    """An exported model can be pruned in turn: the gate takes it, and it is described as what it is."""
    for case in CASES:
        bench, reduction, folder = cases[case]
        again = open_model(str(folder))
        assert again.dimension == reduction.size
        assert again.metric == bench.model.metric
        assert again.prompts == bench.model.prompts
        assert again.parameters == sum(n for _, n in again.parts)
        if not reduction.identity:
            assert dict(again.parts)["projection"] >= reduction.matrix.size


def cutting(bench: Bench, reduction: Reduction) -> Cutting:
    """What `judge_cut` would hand over, as far as an export reads it."""
    return cast(Cutting, SimpleNamespace(reduction=reduction, pruned=bench, derived=None))


def test_two_maps_are_refused_with_the_way_out(benches: dict[str, Bench], tmp_path: Path) -> None:
    bench = benches["static"]
    reduction = reduction_of(bench, "dimensions/bilinear")
    assert reduction.query_basis is not None
    with pytest.raises(InputError, match=r"dimensions/bilinear.*--format vectors"):
        export.export_model(bench, cutting(bench, reduction), {}, {"format": "sentence-transformers"}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_differs_is_not_handed_out(
    benches: dict[str, Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof is a real one: a folder with one wrong weight never gets the name that was asked for."""
    bench = benches["static"]
    reduction = reduction_of(bench, "dimensions/svd")
    assert reduction.basis is not None
    wrong = reduction.basis.copy()
    wrong[3, 2] += 1e-3
    monkeypatch.setattr(export, "write_model", lambda m, r, into: write_model(m, replace(r, basis=wrong), into))
    with pytest.raises(Fault, match="differs from what was shown"):
        export.export_model(bench, cutting(bench, reduction), {}, {"format": "sentence-transformers"}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# ---- through the command line: card, recipe, zip --------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny static model and a tiny corpus; its path stands in recipes."""
    root = tmp_path_factory.mktemp("shop")
    tiny_model("static", root / "model", extras=True)
    corpus(root / "corpus")
    return root


Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(shop: Path) -> Run:
    """`python -m core ... --json` in this process, on the tiny model and corpus; its answer."""
    import contextlib
    import io

    def call(command: str, *argv: str, code: int = 0) -> dict[str, Any]:
        inputs = [] if command == "run" else ["--model", str(shop / "model"), "--data", str(shop / "corpus")]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            got = main([command, *inputs, *argv, "--json"])
        assert got == code, err.getvalue()
        return dict(json.loads(out.getvalue())) if not code else {"error": err.getvalue()}

    return call


@pytest.fixture(scope="module")
def made(run: Run, shop: Path) -> tuple[Path, dict[str, Any]]:
    """One cut of the tiny model, exported with everything: the folder and the command's answer."""
    plan = "dimensions/svd keep=8"
    answer = run("prune", "--plan", plan, "--out", str(shop / "made"), "--zip", "--rescore", "7", "--seed", "3")
    return shop / "made", answer


def test_the_folder_is_whole_and_says_so(made: tuple[Path, dict[str, Any]]) -> None:
    folder, answer = made
    check_manifest(folder)
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert there == {MANIFEST, *json.loads((folder / MANIFEST).read_text())["files"]}
    assert {"README.md", "recipe.yaml", "espalier-report.json", "projection.npz", "modules.json"} <= there
    told = answer["export"]
    assert told["sha256"] == folder_hash(folder)
    assert told["bytes"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert told["reloaded_in_fresh_process"] is True
    assert 0 <= told["max_difference"] <= TOLERANCE
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")]


def test_the_answers_model_is_the_one_on_disk(made: tuple[Path, dict[str, Any]]) -> None:
    folder, answer = made
    found, told = open_model(str(folder)), answer["after"]["model"]
    assert told["parameters"] == found.parameters
    assert told["dimension"] == found.dimension == 8
    assert told["bytes"] == found.bytes == sum(p.stat().st_size for p in folder.rglob("*.safetensors"))
    assert told["folder_bytes"] == answer["export"]["bytes"]
    assert told["parts"] == dict(found.parts)


def test_the_card_begins_with_the_plan_and_holds_every_figure(made: tuple[Path, dict[str, Any]]) -> None:
    folder, answer = made
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert next(line for line in card.splitlines() if line.startswith("# ")) == "# dimensions/svd keep=8"
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "sentence-transformers"
    for name, measures in answer["retention"].items():
        for measure, r in measures.items():
            (row,) = (line for line in card.splitlines() if line.startswith(f"| {name} | {measure} |"))
            chance = answer["random_baseline"][name][measure]["ratio"]
            for figure in (f"{r['before']:.4f}", f"{r['after']:.4f}", f"{r['p_value']:.3f}"):
                assert figure in row
            for share in (r["ratio"], r["low"], r["high"], chance):
                assert f"{100 * share:.1f} %" in row
    assert answer["notes"]
    assert all(note in card for note in answer["notes"])
    assert answer["before"]["model"]["fingerprint"] in card
    assert answer["resolved_plan"] in card
    assert "SentenceTransformer(" in card
    assert "64 to 32" in card, "bytes per vector before and after"


def test_the_report_in_the_folder_is_the_answer(made: tuple[Path, dict[str, Any]]) -> None:
    folder, answer = made
    told = json.loads((folder / "espalier-report.json").read_text())
    for key in ("plan", "resolved_plan", "retention", "random_baseline", "outside_fit", "two_stage", "drift", "notes"):
        assert told[key] == answer[key]


def figures(answer: dict[str, Any]) -> dict[str, Any]:
    """All but what is measured by the clock or belongs to the export."""
    keep = ("resolved_plan", "seed", "data", "fit_on", "fit_documents", "retention", "random_baseline",
            "outside_fit", "seed_spread", "two_stage", "drift", "slices", "notes")  # fmt: skip
    return {k: answer[k] for k in keep} | {s: answer[s]["quality"] for s in ("before", "after")}


def test_the_recipe_replays_to_the_same_figures(made: tuple[Path, dict[str, Any]], run: Run) -> None:
    folder, answer = made
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["plan"] == answer["resolved_plan"]
    assert (recipe["seed"], recipe["rescore"]) == (3, 7)
    assert recipe["model_fingerprint"] == answer["before"]["model"]["fingerprint"]
    assert {"python", "torch", "transformers", "sentence-transformers", "numpy"} <= set(recipe["versions"])
    again = run("run", str(folder / "recipe.yaml"))
    assert figures(again) == figures(answer)
    assert again["export"] is None


def test_a_recipe_for_another_model_says_so(made: tuple[Path, dict[str, Any]], run: Run, tmp_path: Path) -> None:
    recipe = yaml.safe_load((made[0] / "recipe.yaml").read_text()) | {"model_fingerprint": "0" * 32}
    path = write(tmp_path / "recipe.yaml", yaml.safe_dump(recipe))
    assert any("the model is not the one of the recipe" in note for note in run("run", str(path))["notes"])


def test_the_zip_holds_the_folder_and_opens(made: tuple[Path, dict[str, Any]]) -> None:
    folder, answer = made
    archive = Path(answer["export"]["zip"])
    assert archive.name == f"made-{folder_hash(folder)[:12]}.zip"
    assert archive.stat().st_size == answer["export"]["zip_bytes"]
    with zipfile.ZipFile(archive) as z:
        assert z.testzip() is None
        held = {n: z.read(n) for n in z.namelist()}
    assert held == {f"made/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert open_model(str(archive)).fingerprint == open_model(str(folder)).fingerprint


def test_the_zip_is_the_same_bytes_for_the_same_files(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    archives = []
    for place, then in (("one", 1e9), ("two", 1.2e9)):
        copy = tmp_path / place / "made"
        shutil.copytree(made[0], copy)
        os.utime(copy / "modules.json", (then, then))
        archives.append(zipped(copy))
    assert archives[0].name == archives[1].name == Path(made[1]["export"]["zip"]).name
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_the_zips_name_changes_with_one_byte_of_its_content(tmp_path: Path) -> None:
    names = set()
    for last in b"ab":
        with new_folder(tmp_path / "out") as folder:
            (folder / "big.bin").write_bytes(b"x" * (1 << 21) + bytes([last]))
        names.add(zipped(tmp_path / "out").name)
    assert len(names) == 2
    assert export.content_name("stem", b"a" * 9, ".png") != export.content_name("stem", b"a" * 8 + b"b", ".png")


# ---- vectors without a model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["dimensions/svd", "dimensions/pca", "dimensions/bilinear", "dimensions/random"])
def migrated(request: pytest.FixtureRequest, run: Run, shop: Path) -> tuple[str, Path, dict[str, Any]]:
    """The `vectors` format of four kinds of reduction: method, folder, answer."""
    out = shop / request.param.replace("/", "-")
    plan = f"{request.param} keep=8"
    answer = run("prune", "--plan", plan, "--format", "vectors", "--out", str(out), "--zip")
    return request.param, out, answer


Migrated = tuple[str, Path, dict[str, Any]]


@pytest.fixture
def tiny(shop: Path) -> Bench:
    return prepare(str(shop / "model"), [str(shop / "corpus")])


def test_the_vectors_are_those_that_were_judged(migrated: Migrated, tiny: Bench) -> None:
    method, folder, answer = migrated
    check_manifest(folder)
    _, reduction = reduce(tiny, Step(method, (("keep", 8),)))
    wanted = apply(reduction, tiny.judges[0].documents.vectors)
    found = np.load(folder / "documents.npy", allow_pickle=False)
    assert found.dtype == np.float32
    assert np.array_equal(found, wanted)
    assert answer["export"]["format"] == "vectors"
    assert "reloaded_in_fresh_process" not in answer["export"], "there is no model to reload"


def test_parquet_comes_back_exactly(migrated: Migrated, tiny: Bench) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(migrated[1] / "documents.parquet")
    assert table.column("id").to_pylist() == list(tiny.judges[0].dataset.documents.ids)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 8)
    back = np.stack(table.column("vector").to_numpy())
    assert np.array_equal(back, np.load(migrated[1] / "documents.npy"))


def test_apply_py_as_written_prunes_an_index(
    migrated: Migrated, tiny: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, folder, _ = migrated
    judge = tiny.judges[0]
    full = np.concatenate([judge.documents.vectors, np.zeros((1, 16), np.float32)])
    np.save(tmp_path / "my_vectors.npy", full)
    for name in ("projection.npz", "apply.py"):
        shutil.copyfile(folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with np.errstate(all="raise"):
        got = runpy.run_path("apply.py")
    _, reduction = reduce(tiny, Step(method, (("keep", 8),)))
    assert np.abs(got["small"][:-1] - np.load(folder / "documents.npy")).max() < 1e-6
    assert np.abs(got["small"] - apply(reduction, full)).max() < 1e-6
    asked = got["prune"](judge.queries.vectors, "query")
    assert np.abs(asked - apply(reduction, judge.queries.vectors, "query")).max() < 1e-6
    assert (folder / "apply.py").read_text().strip() == vectors.SNIPPET.strip()
    assert vectors.SNIPPET in (folder / "README.md").read_text()


def test_the_projection_holds_plain_arrays_only(migrated: Migrated) -> None:
    method, folder, _ = migrated
    with np.load(folder / "projection.npz", allow_pickle=False) as held:
        names = set(held.files)
        assert held["matrix"].shape == (16, 8)
        assert bool(held["normalize"]) == (method != "dimensions/bilinear")
        if method == "dimensions/random":
            assert np.array_equal(np.eye(16, dtype=np.float32)[:, held["kept"]], held["matrix"])
    more = {"dimensions/pca": {"mean"}, "dimensions/bilinear": {"query_matrix"}, "dimensions/random": {"kept"}}
    assert names == {"matrix", "normalize"} | more.get(method, set())


def test_a_card_of_vectors_promises_no_model(migrated: Migrated) -> None:
    card = (migrated[1] / "README.md").read_text()
    assert "SentenceTransformer(" not in card
    assert "documents.parquet" in card
    assert f"# {migrated[0]} keep=8" in card


def test_a_recipe_of_vectors_replays(migrated: Migrated, run: Run, tmp_path: Path) -> None:
    again = run("run", str(migrated[1] / "recipe.yaml"), "--out", str(tmp_path / "again"))
    assert figures(again) == figures(migrated[2])
    assert again["export"]["format"] == "vectors"
    assert (tmp_path / "again" / "documents.npy").read_bytes() == (migrated[1] / "documents.npy").read_bytes()


# ---- destinations ---------------------------------------------------------------------------------------------


def test_destinations_that_hold_or_are_the_source_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "models" / "m"
    with new_folder(source) as folder:  # even an export of ours, which may else be replaced
        (folder / "a.txt").write_text("a")
    (tmp_path / "link").symlink_to(source)
    places = (source, source / "sub", source / ".." / "m", tmp_path / "link", source.parent, tmp_path)
    for out in places:
        with pytest.raises(InputError, match="loaded model's own folder"):
            check_destination(out, source, 1)
    check_destination(tmp_path / "models" / "m2", source, 1)


def test_foreign_files_are_never_written_over(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    out.mkdir()
    check_destination(out, source, 1)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"other files in it \(thesis\.tex\)"):
        check_destination(out, source, 1)
    with new_folder(tmp_path / "ours") as folder:
        (folder / "a.txt").write_text("a")
    check_destination(tmp_path / "ours", source, 1)
    (tmp_path / "ours" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"other files in it \(notes\.txt\)"):
        check_destination(tmp_path / "ours", source, 1)


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_destination_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"hoose another folder|choose a folder"):
        check_destination(tmp_path / name, tmp_path / "source", 1)


def test_a_folder_that_takes_no_files_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write /proc/out: .*--out"):
        check_destination(Path("/proc/out"), tmp_path / "source", 1)


def test_a_disk_without_room_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"MB free, about [\d,]+ MB needed"):
        check_destination(tmp_path / "out", tmp_path / "source", 1 << 60)


def test_the_source_is_refused_before_any_work(run: Run, shop: Path, made: tuple[Path, dict[str, Any]]) -> None:
    """The folder that was named, not only the clean copy that is loaded."""
    before = folder_hash(made[0])
    for out in (shop / "model", made[0]):
        said = run("prune", "--plan", "dimensions/svd keep=4", "--model", str(out), "--out", str(out), code=2)
        assert "own folder" in said["error"]
    said = run("prune", "--plan", "dimensions/svd keep=4", "--out", str(shop / "model"), code=2)
    assert "own folder" in said["error"]
    assert folder_hash(made[0]) == before
    check_manifest(made[0])


def test_an_export_may_replace_an_older_export(run: Run, shop: Path) -> None:
    out = str(shop / "twice")
    names = []
    for keep in (8, 4):
        answer = run("prune", "--plan", f"dimensions/svd keep={keep}", "--format", "vectors", "--out", out)
        assert np.load(Path(out) / "documents.npy").shape[1] == keep
        names.append(answer["export"]["sha256"])
    assert names[0] != names[1]
    assert not [p for p in shop.iterdir() if p.name.startswith(".twice")]


def test_the_card_of_no_cut_speaks_of_no_projection(benches: dict[str, Bench]) -> None:
    model = benches["bert"].model.as_json()
    block = {"model": model, "cost": {"vector_bytes": 128}}
    report = {
        "plan": "dimensions/svd ratio=0", "resolved_plan": "dimensions/svd ratio=0", "seed": 0, "before": block,
        "after": block, "data": [], "fit_on": ["x"], "retention": {}, "random_baseline": {}, "drift": {}, "notes": [],
    }  # fmt: skip
    assert "projection.npz" not in export.card.model_card(report)
    smaller = block | {"model": model | {"dimension": 8}}
    assert "projection.npz" in export.card.model_card(report | {"after": smaller})
