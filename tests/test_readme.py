"""The README is true: its table is the registry's, its Python runs, its commands parse, its pictures exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from core.__main__ import build_parser
from tests.benchmarks import readme

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def between(name: str) -> str:
    return TEXT.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


def test_the_method_table_is_the_registrys() -> None:
    """Stale? `python -m tests.benchmarks.readme` writes it anew."""
    assert between("methods") == readme.methods()


def test_the_notebook_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python")[0], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "dimensions/svd keep=" in printed
    assert "p = " in printed


def test_the_commands_are_ones_that_exist() -> None:
    lines = [line for b in block("sh") for line in b.splitlines() if line.startswith("python -m core")]
    assert len(lines) >= 5
    for line in lines:
        build_parser().parse_args(shlex.split(line)[3:])


def test_every_picture_and_file_that_is_linked_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if not link.startswith("https://")]
    assert len(links) > 5
    assert [p for p in links if not (ROOT / p).is_file()] == []


def test_every_table_that_the_readme_names_is_among_the_results() -> None:
    named = set(re.findall(r"[Tt]ables? \*(\w+)\*", TEXT))
    there = set(re.findall(r"^## (\w+)$", readme.RESULTS.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(named) > 5
    assert named - there == set()


def test_no_machine_path_or_registry_host_stands_in_the_repository() -> None:
    words = ("/" + "work/", "/opt/" + "pypi", "pythonhosted" + ".org", "registry.npmjs" + ".org")
    skip = {".git", ".venv", "__pycache__", ".hypothesis", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
    files = [p for p in ROOT.rglob("*") if p.is_file() and not skip.intersection(p.relative_to(ROOT).parts)]
    text = [p for p in files if p.suffix in (".py", ".md", ".toml", ".txt", ".html", ".yaml", ".json", "", ".svg")]
    found = [p.name for p in text for w in words if w in p.read_text(encoding="utf-8", errors="ignore")]
    assert found == []
