"""Who may import whom, read from the sources: layers without back edges, no cycles, nothing heavy at import time."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch", "sentence_transformers", "transformers", "umap", "plotly", "sklearn", "scipy", "pandas", "pyarrow",
    "numba", "streamlit", "safetensors", "tokenizers", "huggingface_hub", "joblib", "threadpoolctl", "onnx",
    "onnxruntime", "openvino", "faiss", "pymilvus", "milvus_lite", "implicit",
}  # fmt: skip
LIGHT = {"numpy", "yaml"}  # what a core module may import when it is itself imported, beside Python's own

# A module may import from its own layer (without a cycle) and from those above it in this table.
# A name stands for the module and all below it. A new file must be given its place here.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("core.errors", "core.types"),
    ("core.store", "core.plan", "core.live"),
    (
        "core.data", "core.unzip", "core.weights", "core.shapes", "core.clean", "core.gate", "core.encoders",
        "core.codes", "core.embedding", "core.onnx_encoder", "core.engines", "core.layouts", "core.anatomy",
        "core.calibration", "core.planned", "core.surgery", "core.units",
        "core.select", "core.evaluate", "core.compare", "core.maps", "core.jobs", "core.asking", "core.neighbours",
        "core.stores", "core.milvus_client", "core.milvus_push", "core.milvus_collections", "core.milvus_search",
    ),
    ("core.methods",),
    ("core.surgery.masks", "core.recover", "core.registry"),
    ("core.bench", "core.vector_bench", "core.recommend"),
    ("core.cuts", "core.folders", "core.rounds", "core.derive", "core.judging", "core.sweeps", "core.storing",
     "core.rows", "core.thinning", "core.beside", "core.row_study", "core.row_plots", "core.vector_sidecars",
     "core.vector_export", "core.recommend_loop",
     "core.pipeline", "core.export", "core.report", "core.results", "core.verdict", "core.plots",
     "core.probing", "core.removal", "core.sensitivity", "core.sensitivity_plots", "core.shipped",
     "core.pilot", "core.meter", "core.encoder_verdict", "core.runs", "core.budgets", "core.pareto",
     "core.pareto_plots", "core.training_plots"),
    ("core.commands", "core.exporting", "core.wording", "core.arguments", "core.sweep_commands",
     "core.vector_commands"),
    ("core", "core.__main__"),
    ("pages._ui",),
    ("pages",),
    ("app",),
)  # fmt: skip
TOO_LONG: set[str] = set()  # to be split; each leaves this list when it is

Graph = Mapping[str, set[str]]


# ---- reading --------------------------------------------------------------------------------------------------


@cache
def sources() -> dict[str, Path]:
    """Module name -> file, of everything that is shipped."""
    files = [*ROOT.glob("core/**/*.py"), *ROOT.glob("pages/**/*.py"), ROOT / "app.py"]
    found = {}
    for path in sorted(files):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(sources()[module].read_text(encoding="utf-8"))


def at_import(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported: not those in functions or under TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            yield from at_import(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from at_import(handler.body)


def imported(nodes: Iterator[ast.AST] | Sequence[ast.AST], modules: Mapping[str, object]) -> set[str]:
    """The full names that these statements import; `from core import plan` is core.plan."""
    out = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            out |= {name if name in modules else str(node.module) for name in full}
    return out


def graph(lazy: bool) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports; with `lazy`, inside functions too."""
    out = {}
    for module in sources():
        nodes = list(ast.walk(tree(module)) if lazy else at_import(tree(module).body))
        out[module] = {name for name in imported(nodes, sources()) if name in sources() and name != module}
    return out


# ---- judging --------------------------------------------------------------------------------------------------


def layer(module: str, layers: Sequence[Sequence[str]] = LAYERS) -> int:
    """The place of the longest name that the module is, or lies below."""
    fitting = [
        (len(n), i) for i, names in enumerate(layers) for n in names if module == n or module.startswith(n + ".")
    ]
    assert fitting, f"{module} has no layer"
    return max(fitting)[1]


def back_edges(imports: Graph, layers: Sequence[Sequence[str]] = LAYERS) -> list[str]:
    return [f"{a} imports {b}" for a, found in imports.items() for b in found if layer(b, layers) > layer(a, layers)]


def find_cycle(imports: Graph) -> list[str]:
    """One cycle of modules, or nothing."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(imports.get(module, ())):
            found = walk(other, [*path, module])
            if found:
                return found
        done.add(module)
        return []

    return next((c for m in sorted(imports) if (c := walk(m, []))), [])


def test_the_judges_see_what_they_should() -> None:
    layers = (("core.low",), ("core.mid",), ("core",))
    assert back_edges({"core.mid.a": {"core.low", "core.mid.b"}, "core": {"core.low"}}, layers) == []
    assert back_edges({"core.low": {"core.mid.a"}}, layers) == ["core.low imports core.mid.a"]
    assert back_edges({"core.mid": {"core"}}, layers) == ["core.mid imports core"]
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    code = "import a\nfrom core import plan, x\ndef f():\n  import late\n"
    code += "if TYPE_CHECKING:\n  import typed\nelse:\n  import b"
    assert imported(list(at_import(ast.parse(code).body)), {"core.plan": 0}) == {"a", "b", "core.plan", "core"}
    nested = "try:\n  import a\nexcept ImportError:\n  import b\nclass C:\n  import c\n  def f(self):\n    import late"
    assert imported(list(at_import(ast.parse(nested).body)), {}) == {"a", "b", "c"}


# ---- rules ----------------------------------------------------------------------------------------------------


def modules(prefix: str) -> list[str]:
    return [m for m in sources() if m == prefix or m.startswith(prefix + ".")]


def test_every_module_has_its_place() -> None:
    named = {n for names in LAYERS for n in names}
    missing = [m for m in modules("core") if m != "core" and ".".join(m.split(".")[:2]) not in named]
    assert not missing, f"give {missing} a place in LAYERS"
    assert all(modules(n) for n in named), "a name in LAYERS stands for nothing"


def test_no_import_points_forward() -> None:
    assert back_edges(graph(lazy=True)) == []


def test_no_cycles() -> None:
    assert find_cycle(graph(lazy=False)) == []


@pytest.mark.parametrize("module", modules("core"))
def test_core_knows_neither_streamlit_nor_the_pages(module: str) -> None:
    found = {name.split(".")[0] for name in imported(list(ast.walk(tree(module))), sources())}
    assert not found & {"streamlit", "pages", "app", "tests"}


@pytest.mark.parametrize("module", modules("core"))
def test_nothing_heavy_is_imported_with_a_module(module: str) -> None:
    found = {name.split(".")[0] for name in imported(list(at_import(tree(module).body)), sources())}
    assert found <= LIGHT | {"core"} | set(sys.stdlib_module_names)


def test_nothing_heavy_is_loaded_by_importing_the_command_line() -> None:
    code = "import sys, core, core.__main__, core.commands, core.plots, core.maps, core.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {m.split(".")[0] for m in done.stdout.split()} & HEAVY == set()


@pytest.mark.parametrize("module", [m for m in modules("core.methods") if m != "core.methods"])
def test_a_method_knows_only_its_base_and_the_records(module: str) -> None:
    """No sibling, and nothing that knows a judgement: evaluation, data and preparation are out of reach."""
    found = {n for n in imported(list(ast.walk(tree(module))), sources()) if n.split(".")[0] == "core"}
    encoder = {"core.anatomy", "core.calibration", "core.units"}  # they know no judgement either
    codes = {"core.codes", "core.codes.tables"}
    rows = {"core.neighbours"}
    assert found <= {"core.errors", "core.types", "core.plan", "core.methods.base"} | encoder | codes | rows


def test_pages_do_not_import_each_other() -> None:
    imports = graph(lazy=True)
    pages = [m for m in modules("pages") if not m.startswith("pages._ui")]
    assert [(p, q) for p in pages for q in imports[p] if q in pages] == []
    assert [(m, n) for m in modules("pages._ui") for n in imports[m] if n in pages] == []


def test_the_router_is_only_a_router() -> None:
    assert len((ROOT / "app.py").read_text(encoding="utf-8").splitlines()) < 40


# ---- sizes and documentation ----------------------------------------------------------------------------------


def file_of(module: str) -> str:
    return sources()[module].relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(m, marks=pytest.mark.xfail(strict=True, reason="to be split")) if file_of(m) in TOO_LONG else m
        for m in modules("core")
    ],
)
def test_a_file_is_at_most_350_lines(module: str) -> None:
    assert len(sources()[module].read_text(encoding="utf-8").splitlines()) <= 350


@pytest.mark.parametrize("module", modules("core"))
def test_a_function_is_at_most_70_lines(module: str) -> None:
    functions = [n for n in ast.walk(tree(module)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions}
    assert {name: n for name, n in sizes.items() if n > 70} == {}


@pytest.mark.parametrize("module", modules("core"))
def test_every_module_says_what_it_is(module: str) -> None:
    text = ast.get_docstring(tree(module))
    assert text
    assert text.splitlines()[0].rstrip()[-1] in ".:`", "the first line is a sentence"
