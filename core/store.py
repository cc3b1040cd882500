"""Espalier's own folder on disk: crash-safe writes and a cache of arrays that is never unpickled.

Layout under `home()`: `cache/` (arrays by content key), `models/` (clean copies that passed the gate),
`runs/` (what was run), `exports/` (what was handed out). A write goes to a temporary name first, is
synced, gets a SHA-256 manifest where it is a folder, and only then takes its real name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import Fault, InputError

MANIFEST = "espalier-manifest.json"
CACHE_VERSION = "2"  # raise it when what is computed from the same inputs changes
_MAKER = r"\.(\d+)-[0-9a-f]{8}"  # in a hidden name: the process that writes it
_SHOWN = 50  # characters of a name in its hidden one: at four bytes each these fit into 255


def home() -> Path:
    """ESPALIER_HOME, else the user's cache folder."""
    named = os.environ.get("ESPALIER_HOME")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "espalier"
    return base.expanduser().resolve()


def path_problem(text: str, longest: int) -> str:
    """What keeps a path from naming a file, or nothing. `longest` are the bytes that a name may have."""
    if not text.strip():
        return f"{text!r} names nothing: give a name, or leave the option out"
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError:
        return f"{text[:60]!r} is below the home of a user that is not there: write the path in full"
    *names, whole = (len(part.encode(errors="replace")) for part in (*path.parts, str(path)))
    for size, most in ((max(names), longest), (whole, 4095)):
        if size > most:
            return f"{text[:60]}... is too long: {size:,} bytes, {most:,} at most. Choose a shorter name"
    return ""


def sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file or folder."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unfinished(path: Path, kind: str) -> Path:
    """A hidden name beside `path` that says whose it is, so that `sweep_partials` knows whether its maker lives."""
    return path.with_name(f".{path.name[:_SHOWN]}.{os.getpid()}-{uuid.uuid4().hex[:8]}.{kind}")


def check_place(target: Path, *others: Path) -> None:
    """Before any work: clear what killed processes left of these names; InputError where `target` cannot be written."""
    for path in (target, *others):
        sweep_partials(path)
    target = target.absolute()
    try:
        above = next(p for p in target.parents if p.exists())
        for folder in (above, target) if target.is_dir() else (above,):
            probe = unfinished(folder / target.name, "tmp")
            probe.mkdir()
            probe.rmdir()
    except OSError as e:
        raise InputError(f"cannot write {target}: {e.strerror}. Free space or {_elsewhere(target)}.") from e


def _elsewhere(path: Path) -> str:
    """The next step where a path cannot be written."""
    return f"choose another folder with {'--cache' if path.is_relative_to(home()) else '--out'}"


def write_atomic(path: Path, data: bytes, begun: Callable[[Path], None] | None = None) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part.

    `begun` is called with the finished file just before that takes its name.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = unfinished(path, "tmp")
        try:
            with temporary.open("wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            if begun:
                begun(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as e:
        raise InputError(f"cannot write {path}: {e.strerror}. Free space or {_elsewhere(path)}.") from e


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends well; nothing is left when it does not.

    Every file is synced and listed with its SHA-256 in the manifest before the rename; an older folder of
    that name stays until the new one is complete.
    """
    target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = unfinished(target, "tmp")
        temporary.mkdir()
    except OSError as e:
        raise InputError(f"cannot write to {target.parent}: {e.strerror}. Free space or {_elsewhere(target)}.") from e
    try:
        yield temporary
        files = [p for p in sorted(temporary.rglob("*")) if p.is_file() and p != temporary / MANIFEST]
        hashes = {p.relative_to(temporary).as_posix(): sha256(p) for p in files}
        (temporary / MANIFEST).write_text(json.dumps({"version": 1, "files": hashes}, indent=1), encoding="utf-8")
        for p in temporary.rglob("*"):
            sync(p)
        sync(temporary)
        old = unfinished(target, "old")
        if target.exists():
            target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as e:
        raise InputError(f"cannot write {target}: {e.strerror}. Free space or {_elsewhere(target)}.") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_manifest(folder: Path) -> None:
    """Raise Fault unless every file listed in the folder's manifest is there with its hash."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as e:
        raise Fault(f"{folder.name} has no manifest: it was not written to the end. Prepare it again.") from e
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file() or sha256(path) != wanted:
            raise Fault(f"{folder.name}/{name} does not match its manifest. Prepare it again.")


def _entry(key: str) -> Path:
    return home() / "cache" / f"v{CACHE_VERSION}" / key[:2] / f"{key}.safetensors"


def put_arrays(key: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, str] | None = None) -> None:
    """Keep named arrays under a content key (safetensors, with a SHA-256 beside them)."""
    from safetensors.numpy import save

    data = save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata=dict(meta or {}))
    path = _entry(key)
    hashes = [hashlib.sha256(part).hexdigest() for part in (data, *([path.read_bytes()] if path.exists() else []))]
    write_atomic(path.with_suffix(".sha256"), " ".join(hashes).encode())  # the new one or, if we die now, the old one
    write_atomic(path, data)


def has_arrays(key: str) -> bool:
    """Whether something is kept under `key`; it is checked when it is read."""
    return _entry(key).exists()


def get_arrays(key: str) -> dict[str, NDArray[Any]] | None:
    """The arrays kept under `key`, or None. A corrupt or half-written entry is dropped and counts as absent."""
    from safetensors.numpy import load

    path = _entry(key)
    if not path.exists():
        return None
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() not in path.with_suffix(".sha256").read_text().split():
            raise ValueError("hash")
        return dict(load(data))
    except Exception:  # whatever is wrong with a cache entry, the cure is the same: rebuild it
        drop_arrays(key)
        return None


def drop_arrays(key: str) -> None:
    """Forget what is kept under `key`, where there is something."""
    for path in (_entry(key), _entry(key).with_suffix(".sha256")):
        path.unlink(missing_ok=True)


def sweep_partials(target: Path | None = None) -> int:
    """Remove what a killed process left behind in our folder, or beside `target` of what should have become it.

    Returns how many entries went. What a living process is still writing stays. An older folder that was set aside
    for a new one that never came takes its name back.
    """
    gone = 0
    for path in _partials(target):
        with contextlib.suppress(OSError):  # another process sweeps as well, or we may not
            kept = target or path.with_name(re.sub(rf"{_MAKER}\.old$", "", path.name[1:]))
            if path.suffix == ".old" and not kept.exists():
                path.rename(kept)
                continue
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            gone += 1
    return gone


def _partials(target: Path | None) -> list[Path]:
    """The temporary names in our folder, or of `target` and beside it, that nobody writes any more."""
    if target is None:
        found = [p for kind in ("tmp", "old") for p in home().glob(f"**/.*.{kind}")]
    else:
        kinds = "tmp|old" if len(target.name) <= _SHOWN else "tmp"  # an older folder of which name, nobody knows
        ours = re.compile(re.escape(f".{target.name[:_SHOWN]}") + rf"{_MAKER}\.({kinds})")
        found = [p for p in target.parent.glob(".*") if ours.fullmatch(p.name)]
    return [p for p in found if not _in_use(p)]


def _in_use(path: Path) -> bool:
    """Whether the process named in a temporary name lives; where none is named, whether it is under an hour old."""
    named = re.search(rf"{_MAKER}\.\w+$", path.name)
    try:
        if named is None:
            return time.time() - path.stat().st_mtime < 3600
        os.kill(int(named[1]), 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
