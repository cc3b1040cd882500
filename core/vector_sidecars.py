"""The files that stand beside a vector file, and the report that says which are ours.

index.parquet   index.projection.npz, index.groups.json, index.codebook.npz, index.reader.py, index.report.json

Nothing that a report of ours does not name is ever replaced or removed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from core.codes import reader
from core.errors import InputError
from core.export import vectors as forms
from core.pipeline import Cutting
from core.store import check_place, sha256, write_atomic
from core.types import Rows

REPORT = "report.json"
_ANY = ("projection.npz", "groups.json", "codebook.npz", "reader.py")
_NPY = ("ids.txt", "ids.json")  # what a .npy cannot hold: ids of vectors, of codes


def beside(path: Path, what: str) -> Path:
    """The file that travels with a vector file: index.parquet -> index.projection.npz."""
    return path.with_name(f"{path.stem}.{what}")


def _names(path: Path) -> list[Path]:
    return [beside(path, what) for what in (*_ANY, *(_NPY if path.suffix.lower() == ".npy" else ()))]


def _report(path: Path) -> dict[str, Any]:
    """What the report beside a file says of it; nothing where it is about another one."""
    try:
        done = dict(json.loads(beside(path, REPORT).read_text(encoding="utf-8"))["export"])
        return done if Path(done["path"]).name == path.name else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def check_ours(path: Path) -> None:
    """Raise InputError where the file, or one that would stand beside it, is not ours or cannot be written."""
    check_place(path, *_names(path), beside(path, REPORT))
    done = _report(path)
    readable = path.is_file() and os.access(path, os.R_OK)
    if path.exists() and not (readable and sha256(path) in (done.get("sha256"), done.get("replaces"))):
        raise InputError(f"--out {path} is there already and is no export of ours: choose another name")
    listed = {*done.get("beside", ()), *([beside(path, REPORT).name] if done else ())}
    other = next((p for p in (*_names(path), beside(path, REPORT)) if p.exists() and p.name not in listed), None)
    if other is not None:
        raise InputError(f"{other.name} beside --out {path} belongs to another file: choose another name")


def begin(path: Path, made: Path) -> None:
    """Say whose the file is before what was `made` takes its name: killed between, the old and the new one are ours."""
    old = sha256(path) if path.exists() else None
    names = [p.name for p in _names(path)]
    done = {"path": str(path), "sha256": sha256(made), "replaces": old, "beside": names}
    write_atomic(beside(path, REPORT), json.dumps({"export": done}).encode())


def listed(path: Path) -> list[str]:
    """The names of what stands beside a file now."""
    return [p.name for p in _names(path) if p.exists()]


def write_sidecars(path: Path, cut: Cutting, rows: Rows, ids: tuple[str, ...]) -> dict[str, str]:
    """What queries must be multiplied with, what a hit stands for, how codes are read: only what there is to say."""
    out: dict[str, str] = {}
    for name in (*_ANY, *(() if cut.codes else ("ids.json",))):
        beside(path, name).unlink(missing_ok=True)  # of an earlier plan

    def put(key: str, name: str, data: bytes) -> None:
        write_atomic(beside(path, name), data)
        out[key] = str(beside(path, name))

    if not cut.reduction.identity:
        put("projection", "projection.npz", forms.projection(cut.reduction))
    found = forms.groups(rows, ids)
    if found:
        put("groups", "groups.json", json.dumps(found, ensure_ascii=False, indent=0).encode())
    if cut.codes is not None:
        put("codebook", "codebook.npz", forms.codebook(cut.codes))
        shutil.copyfile(reader.__file__, beside(path, "reader.py"))
        out["reader"] = str(beside(path, "reader.py"))
    return out
