"""`python-docs`: a retrieval corpus that nobody tuned, made from the documentation on this machine.

The sources of the standard library and of installed packages are parsed, never imported. A docstring's summary
asks, its body answers, and the package is the topic. Which documents there are depends on the versions
installed, so their hash is in the folder's name; the choice itself is seeded and the same for everybody.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core import store
from core.data import beir, docstrings
from core.errors import Fault, InputError
from core.types import Progress, digest, quiet

DOCUMENTS, QUERIES = 4_200, 600
RECIPE = "1"  # raise it when a change here changes the documents
STDLIB = "python"
PACKAGES = {  # import name -> distribution
    "numpy": "numpy", "scipy": "scipy", "sklearn": "scikit-learn", "pandas": "pandas", "torch": "torch",
    "transformers": "transformers", "sentence_transformers": "sentence-transformers", "plotly": "plotly",
    "streamlit": "streamlit", "networkx": "networkx", "sympy": "sympy", "numba": "numba", "pyarrow": "pyarrow",
    "PIL": "pillow", "huggingface_hub": "huggingface-hub", "umap": "umap-learn", "pynndescent": "pynndescent",
    "joblib": "joblib", "requests": "requests", "rich": "rich", "click": "click", "jinja2": "Jinja2",
    "pydantic": "pydantic", "altair": "altair", "narwhals": "narwhals",
}  # fmt: skip
_SKIP = re.compile(
    r"tests?|testing|_tests|conftest|site-packages|dist-packages|__pycache__|idlelib|lib2to3|turtledemo|ensurepip|"
    r"pydoc_data|graph_objs|validators|_vendor|vendored|externals|extern|_?array_api\w*|benchmarks|examples|config-.*|"
    r"_(inductor|dynamo|functorch|export|higher_order_ops|prims|refs|decomp|subclasses|numpy)"
)
_PARTS = {"transformers": {"models"}}  # hundreds of generated files that say the same of every architecture
_BOILERPLATE = 3  # documents that share a summary: from so many on it is a template, not a description


@dataclass(frozen=True)
class Doc:
    """One docstring: where it stands (its dotted name is the id), what it says in a line, and the rest."""

    name: str
    package: str
    summary: str
    body: str


def installed() -> dict[str, tuple[Path, str]]:
    """Package -> (its folder, its version) for the standard library and what is installed of PACKAGES."""
    out = {STDLIB: (Path(sysconfig.get_path("stdlib")), platform.python_version())}
    for package, distribution in PACKAGES.items():
        spec = importlib.util.find_spec(package)  # finds a top-level package without importing it
        if spec is None or not spec.origin:
            continue
        try:
            out[package] = (Path(spec.origin).parent, importlib.metadata.version(distribution))
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def sources(root: Path, without: Collection[str] = ()) -> Iterator[Path]:
    """The .py files below a folder in a fixed order, without tests, vendored and generated parts."""
    for folder, below, files in os.walk(root):
        below[:] = sorted(d for d in below if not _SKIP.fullmatch(d) and d not in without)
        yield from (
            Path(folder, f) for f in sorted(files) if f.endswith(".py") and not f.startswith(("test_", "conftest"))
        )


def _public(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """(dotted name, docstring) of the module and of every public class, function and method in it."""
    stack: list[tuple[str, ast.AST]] = [(module, tree)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node, clean=False)
            if doc and not (node is tree and module.rsplit(".", 1)[-1].startswith("_")):
                yield name, doc
        if isinstance(node, ast.Module | ast.ClassDef | ast.If | ast.Try):
            for child in reversed(list(ast.iter_child_nodes(node))):
                inner = getattr(child, "name", "")
                if inner and not inner.startswith("_") and not isinstance(child, ast.alias):
                    stack.append((f"{name}.{inner}", child))
                elif isinstance(child, ast.If | ast.Try):
                    stack.append((name, child))


def read_package(package: str, root: Path) -> Iterator[Doc]:
    for path in sources(root, _PARTS.get(package, ())):
        try:
            raw = path.read_bytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's docstrings
                tree = ast.parse(raw)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join((package, *(p for p in parts if p != "__init__")))
        for name, text in _public(tree, module):
            found = docstrings.split(text)
            if found:
                yield Doc(name, package, *found)


def _fingerprint(text: str, words: int | None = None) -> str:
    return " ".join(re.findall(r"\w+", text.lower())[:words])


def distinct(docs: Sequence[Doc]) -> list[Doc]:
    """Without the second of two near-identical bodies, of two equal names, and without generated boilerplate."""
    shared = Counter(_fingerprint(d.summary) for d in docs)
    bodies: set[str] = set()
    names: set[str] = set()
    out = []
    for doc in docs:
        opening = _fingerprint(doc.body, 12)
        if shared[_fingerprint(doc.summary)] >= _BOILERPLATE or opening in bodies or doc.name in names:
            continue
        bodies.add(opening)
        names.add(doc.name)
        out.append(doc)
    return out


def _spread(groups: Mapping[str, Sequence[int]], count: int, seed: int) -> list[int]:
    """`count` rows taken from the groups in turn, at random within each: small groups give all they have."""
    random = np.random.default_rng(seed)
    shuffled = [list(random.permutation(np.asarray(groups[g], np.int64))) for g in sorted(groups)]
    out: list[int] = []
    depth = 0
    while len(out) < count and any(len(rows) > depth for rows in shuffled):
        out.extend(int(rows[depth]) for rows in shuffled if len(rows) > depth)
        depth += 1
    return sorted(out[:count])


def _by_package(docs: Sequence[Doc], rows: Sequence[int]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for row in rows:
        out.setdefault(docs[row].package, []).append(row)
    return out


def choose(docs: Sequence[Doc], documents: int, queries: int, seed: int = 0) -> tuple[list[Doc], list[Doc]]:
    """The documents, and those of them whose summary asks (only summaries that stand once)."""
    kept = [docs[i] for i in _spread(_by_package(docs, range(len(docs))), documents, seed)]
    shared = Counter(_fingerprint(d.summary) for d in docs)
    once = [i for i, d in enumerate(kept) if shared[_fingerprint(d.summary)] == 1]
    return kept, [kept[i] for i in _spread(_by_package(kept, once), queries, seed + 1)]


def _write(folder: Path, documents: Sequence[Doc], queries: Sequence[Doc], versions: Mapping[str, str]) -> None:
    def lines(rows: Iterable[Mapping[str, object]]) -> str:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def topic(doc: Doc) -> dict[str, str]:
        return {"topic": doc.package}

    corpus = ({"_id": d.name, "title": "", "text": d.body, "metadata": topic(d)} for d in documents)
    asked = ({"_id": f"q-{d.name}", "text": d.summary, "metadata": topic(d)} for d in queries)
    (folder / beir.CORPUS).write_text(lines(corpus), encoding="utf-8")
    (folder / beir.QUERIES).write_text(lines(asked), encoding="utf-8")
    (folder / "qrels").mkdir()
    judged = "".join(f"q-{d.name}\t{d.name}\t1\n" for d in queries)
    (folder / "qrels" / "test.tsv").write_text("\t".join(beir.COLUMNS) + "\n" + judged, encoding="utf-8")
    (folder / "versions.json").write_text(json.dumps(versions, indent=1), encoding="utf-8")


def location(versions: Mapping[str, str]) -> Path:
    """Where the corpus of these package versions is kept."""
    return store.home() / "data" / f"python-docs-{digest(RECIPE, json.dumps(versions, sort_keys=True))[:12]}"


def is_built() -> bool:
    """Whether the corpus of what is installed now is there already."""
    return location({package: version for package, (_, version) in installed().items()}).is_dir()


def built(progress: Progress = quiet) -> Path:
    """The folder of the corpus in BEIR layout, built at first use (and again when it is damaged)."""
    found = installed()
    versions = {package: version for package, (_, version) in found.items()}
    target = location(versions)
    if target.is_dir():
        try:
            store.check_manifest(target)
            return target
        except Fault:
            pass  # a damaged cache is rebuilt
    docs: list[Doc] = []
    for done, (package, (root, _)) in enumerate(found.items()):
        progress(f"reading the documentation of {package}", done, len(found))
        docs.extend(read_package(package, root))
    documents, queries = choose(distinct(docs), DOCUMENTS, QUERIES)
    if not queries:
        raise InputError("python-docs: no documentation sources here (0 docstrings found); use sample instead.")
    with store.new_folder(target) as folder:
        _write(folder, documents, queries, versions)
    progress("reading the documentation", len(found), len(found))
    return target
