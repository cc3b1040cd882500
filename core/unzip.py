"""Opening a zip that somebody else made: everything odd is refused, nothing is repaired.

Names are judged before the first byte is written, sizes are counted while reading (the header may lie),
and a refused zip leaves nothing behind.
"""

from __future__ import annotations

import shutil
import stat
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError, ModelRefused

_CHUNK = 1 << 20
_END, _END_SIZE = b"PK\x05\x06", 22
_STORED_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Limits:
    """What an upload may unpack to. `ratio` is unpacked : packed, judged above 1 MiB unpacked."""

    total: int = 2 << 30
    file: int = 512 << 20
    entries: int = 2_000
    ratio: int = 200


def unzip_safely(archive: Path, into: Path, *, limits: Limits = Limits()) -> None:
    """Unpack `archive` into `into`, a new or empty folder.

    Raises ModelRefused for names that leave the folder or collide, links, devices, encryption, overlaps,
    damage, and anything over `limits`; InputError where the folder cannot be written.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise InputError(f"{into} is not an empty folder: name a new one to unpack {archive.name} into.")
    try:
        _check_directory(archive, limits)
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            _check_entries(archive, entries, opened.start_dir, limits)
            _extract(opened, entries, into, archive.stat().st_size, limits)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as e:
        shutil.rmtree(into, ignore_errors=True)
        raise ModelRefused(f"{archive.name} is damaged or truncated ({e}). Zip the folder again and retry.") from e
    except ModelRefused:
        shutil.rmtree(into, ignore_errors=True)
        raise
    except OSError as e:
        shutil.rmtree(into, ignore_errors=True)
        raise InputError(f"cannot unpack {archive.name}: {e.strerror}. Free space or choose another folder.") from e


def _check_directory(archive: Path, limits: Limits) -> None:
    """Bound the central directory before zipfile reads the whole of it into memory."""
    size = archive.stat().st_size
    with archive.open("rb") as f:
        f.seek(max(0, size - _END_SIZE - 0xFFFF))
        tail = f.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise ModelRefused(f"{archive.name} ({size:,} bytes) has no zip directory: truncated, or no zip. Zip it again.")
    count = int.from_bytes(tail[at + 10 : at + 12], "little")
    length = int.from_bytes(tail[at + 12 : at + 16], "little")
    if count > limits.entries or length > limits.entries * 1024:
        found = "65,535 or more" if count == 0xFFFF else f"{count:,}"
        raise ModelRefused(
            f"{archive.name} lists {found} entries ({length:,} bytes of names); the limit is {limits.entries:,}. "
            "Zip only the files that are needed."
        )


def _check_entries(archive: Path, entries: list[zipfile.ZipInfo], directory: int, limits: Limits) -> None:
    """Refuse by what the directory says: names, kinds, sizes, overlaps."""
    if len(entries) > limits.entries:
        raise ModelRefused(f"{archive.name} has {len(entries):,} entries; the limit is {limits.entries:,}. Zip fewer.")
    seen: dict[str, str] = {}
    files: set[str] = set()
    for entry in entries:
        name = _checked_name(archive, entry)
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            raise ModelRefused(
                f"{archive.name}: {name!r} and {seen[key]!r} would be one file. Rename one and zip again."
            )
        seen[key] = name
        if not entry.is_dir():
            files.add(key)
        _check_entry(archive, entry, limits)
    for key, name in seen.items():
        parts = key.split("/")
        if any("/".join(parts[:i]) in files for i in range(1, len(parts))):
            raise ModelRefused(f"{archive.name}: {name!r} lies inside another file. Zip the folder again.")
    if sum(e.file_size for e in entries) > limits.total:
        raise ModelRefused(f"{archive.name} unpacks to over {limits.total:,} bytes, the limit. Zip fewer files.")
    _check_overlaps(archive, entries, directory)


def _checked_name(archive: Path, entry: zipfile.ZipInfo) -> str:
    """The entry's name without a trailing slash. Raises ModelRefused unless it is plain and relative."""
    name = entry.orig_filename
    parts = name.removesuffix("/").split("/")
    why = ""
    if len(name.encode("utf-8", "replace")) > 255:
        why = f"is {len(name)} characters long, the limit is 255 bytes"
    elif not name.isprintable() or "\\" in name or ":" in name:
        why = "holds a control character, a backslash or a colon"
    elif name.startswith("/") or any(p in ("", ".", "..") or p != p.strip() or p.endswith(".") for p in parts):
        why = "is absolute, leaves the folder, or has an empty or dotted part"
    if why:
        raise ModelRefused(f"{archive.name}: the name {name[:60]!r} {why}. Rename the file and zip again.")
    return name.removesuffix("/")


def _check_entry(archive: Path, entry: zipfile.ZipInfo, limits: Limits) -> None:
    """Refuse links, devices, encryption, rare compressions and declared sizes over the limits."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    why = ""
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > entry.is_dir():
        why = "is a link, a device or another special file; only plain files are taken. Replace it by its content"
    elif entry.flag_bits & 0x2041:
        why = "is encrypted. Zip without a password"
    elif entry.compress_type not in _STORED_OR_DEFLATED:
        why = f"is packed by method {entry.compress_type}; only stored and deflated are taken. Zip it the plain way"
    elif entry.file_size > limits.file:
        why = f"is {entry.file_size:,} bytes; the limit is {limits.file:,} a file. Use a local folder instead"
    elif entry.file_size > max(_CHUNK, limits.ratio * entry.compress_size):
        why = f"shrinks {entry.file_size // max(1, entry.compress_size):,}:1; the limit is {limits.ratio}:1. Store it"
    if why:
        raise ModelRefused(f"{archive.name}: {entry.orig_filename[:60]!r} {why}.")


def _check_overlaps(archive: Path, entries: list[zipfile.ZipInfo], directory: int) -> None:
    """Refuse entries whose bytes are shared: that is how one kilobyte becomes a terabyte."""
    ordered = sorted(entries, key=lambda e: e.header_offset)
    for entry, following in zip(ordered, [e.header_offset for e in ordered[1:]] + [directory], strict=True):
        end = entry.header_offset + 30 + len(entry.orig_filename.encode()) + entry.compress_size
        if min(entry.header_offset, following - end) < 0:
            raise ModelRefused(f"{archive.name}: {entry.orig_filename!r} overlaps another entry. Zip the folder again.")


def _extract(opened: zipfile.ZipFile, entries: list[zipfile.ZipInfo], into: Path, packed: int, limits: Limits) -> None:
    """Write every file, counting bytes as they come."""
    into.mkdir(parents=True, exist_ok=True)
    total = 0
    for entry in entries:
        target = into / entry.orig_filename
        if entry.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        with opened.open(entry) as source, target.open("xb") as out:
            while chunk := source.read(_CHUNK):
                size, total = size + len(chunk), total + len(chunk)
                ratio = max(_CHUNK, limits.ratio * entry.compress_size), max(_CHUNK, limits.ratio * packed)
                if size > min(limits.file, ratio[0]) or total > min(limits.total, ratio[1]):
                    raise ModelRefused(
                        f"{entry.orig_filename[:60]!r} unpacks to over {size:,} bytes ({total:,} in all); limits are "
                        f"{limits.file:,} a file, {limits.total:,} in all, {limits.ratio}:1. Zip fewer files."
                    )
                out.write(chunk)
        if size != entry.file_size:
            raise ModelRefused(f"{entry.orig_filename!r} holds {size:,} bytes, its header says {entry.file_size:,}.")
