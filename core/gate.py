"""The gate: every model that is not ours passes here before a library opens it.

    source folder or zip -> plan (allow-listed names, JSON rewritten with known keys) -> clean copy -> checks

What gets loaded is the clean copy, never the source. Nothing here imports torch or transformers; the whole-model
load and the probe sentences come afterwards, in `core.encoders`. `notes(copy)` tells what was dropped or added.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

from core.clean import CONVERT, PICKLES, Files, clean_files
from core.codes import reader
from core.errors import Fault, InputError, ModelRefused
from core.shapes import check_config
from core.store import MANIFEST, check_manifest, new_folder, sha256
from core.types import digest
from core.unzip import Limits, unzip_safely
from core.weights import check_weights, read_object

__all__ = ["Limits", "check_config", "check_weights", "clean_copy", "notes", "unzip_safely", "valid_hub_id"]

NOTES = "espalier-gate.json"
_VERSION = "gate 1"  # part of the fingerprint: raise it with every new check, so that old copies are judged again


def valid_hub_id(text: str) -> bool:
    """Whether `text` is owner/name as the hub writes it: no URL, no path, no dots that climb."""
    parts = text.split("/")
    plain = all(re.fullmatch(r"\w([\w.-]{0,94}\w)?", part, re.ASCII) for part in parts)
    return len(parts) == 2 and plain and ".." not in text and "--" not in text


def notes(folder: Path) -> tuple[str, ...]:
    """What the gate dropped from or added to a clean copy, in sentences."""
    path = folder / NOTES
    return tuple(read_object(path)["notes"]) if path.is_file() else ()


def clean_copy(source: Path, root: Path, *, limits: Limits | None = None) -> Path:
    """Check a model folder or zip and return root/<fingerprint>, the rewritten copy that may be loaded.

    A zip is held to `limits` (default `Limits()`), a folder only where they are given. The same model gives the
    same fingerprint, and a copy that is there and whole is returned as it is. Raises ModelRefused.
    """
    source = source.resolve()
    if source.is_dir():
        return _from_folder(source, root, limits)
    if not source.is_file():
        raise ModelRefused(
            f"{source.name} is not there, or no plain file or folder. Name a model folder or a .zip of one."
        )
    if source.suffix.lower() != ".zip":
        cure = CONVERT if source.suffix.lower() in PICKLES else "name a model folder or a .zip of one"
        raise ModelRefused(
            f"{source.name} is a single file ({source.suffix or 'no suffix'}), not a model folder: {cure}."
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        opened = tempfile.TemporaryDirectory(dir=root, prefix=".unzip-", suffix=".tmp")
    except OSError as e:
        raise InputError(f"cannot write to {root}: {e.strerror}. Choose another folder.") from e
    with opened as name:
        unzip_safely(source, Path(name), limits=limits or Limits())
        return _from_folder(_top(Path(name)), root, None)


def _top(folder: Path) -> Path:
    """The folder itself, or the single folder in it where the model was zipped with its folder."""
    inside = [p for p in folder.iterdir() if p.name not in ("__MACOSX", ".DS_Store")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _from_folder(source: Path, root: Path, limits: Limits | None) -> Path:
    """Plan, copy, check; the copy takes its name only when every check has passed."""
    said: list[str] = []
    try:
        files = _plan(source, limits, said)
        hashes = {
            name: hashlib.sha256(x).hexdigest() if isinstance(x, bytes) else sha256(x) for name, x in files.items()
        }
    except OSError as e:
        raise ModelRefused(f"cannot read {e.filename or source}: {e.strerror}. Make it readable and try again.") from e
    target = root / digest(_VERSION, *(part for name in sorted(files) for part in (name, hashes[name])))
    try:
        check_manifest(target)
        return target
    except Fault:
        pass  # not there yet, or damaged: made anew
    with new_folder(target) as copy:
        for name, content in files.items():
            place = copy / name
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(content) if isinstance(content, bytes) else shutil.copyfile(content, place)
            if sha256(place) != hashes[name]:
                raise ModelRefused(f"{name} changed while it was copied. Wait until it is complete and try again.")
        check_config(copy)
        for path in sorted(copy.rglob("*.safetensors")):
            check_weights(path)
        (copy / NOTES).write_text(json.dumps({"notes": said}, indent=1), encoding="utf-8")
    return target


def _plan(source: Path, limits: Limits | None, said: list[str]) -> Files:
    """Every file of the clean copy, and in `said` what differs from the source."""
    present = _survey(source, limits)
    if not present & {"modules.json", "config.json"}:
        kind = next((name for name in sorted(present) if name.lower().endswith(PICKLES)), "")
        cure = f"it holds {kind}: {CONVERT}" if kind else "name the folder that holds the model"
        raise ModelRefused(f"{source.name} has neither modules.json nor config.json; {cure}.")
    files = clean_files(source, said)
    if left := sorted(present - files.keys() - {NOTES, MANIFEST}):
        said.append(f"not copied: {', '.join(left[:20])}" + (f" and {len(left) - 20} more" if len(left) > 20 else ""))
    return files


def _reader(path: Path) -> bool:
    """Whether this is the reader of codes that our exports carry, to the byte; it is never run here either."""
    own = Path(reader.__file__)
    return path.name == own.name and path.stat().st_size == own.stat().st_size and path.read_bytes() == own.read_bytes()


def _survey(source: Path, limits: Limits | None) -> set[str]:
    """The names of all files. Raises ModelRefused for links, special files and code, wherever they lie."""
    found: set[str] = set()
    total = 0
    for top, folders, files in os.walk(source):
        for name in folders + files:
            path = Path(top, name)
            short, info = path.relative_to(source).as_posix(), path.lstat()
            if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
                raise ModelRefused(f"{short} is a link, a device or another special file. Replace it by its content.")
            if name.lower().endswith((".py", ".pyc")) and not _reader(path):
                raise ModelRefused(
                    f"{short} is code, and a model's own code is never run here. Use a stock architecture."
                )
            if stat.S_ISREG(info.st_mode):
                found.add(short)
                total += info.st_size
                if limits and (info.st_size > limits.file or total > limits.total or len(found) > limits.entries):
                    raise ModelRefused(
                        f"{short}: {info.st_size:,} bytes, {total:,} in {len(found):,} files so far; the limits are "
                        f"{limits.file:,} a file, {limits.total:,} in all, {limits.entries:,} files. Remove some."
                    )
    return found
