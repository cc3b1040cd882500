"""Word vectors: GloVe and word2vec text, and word2vec binary, a row at a time.

text    word, then d numbers, parted by blanks; word2vec's has a first line "n d". A word may hold blanks (some GloVe
        releases): a row is parted from the right
binary  a first line "n d"; word, blank, d little-endian float32, and a newline or none
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from core.data.readers import no_rows, shown
from core.data.vector_record import Part, VectorFile, check_shape
from core.errors import DataError

_LONGEST = 1 << 24  # bytes of a line
_WORD = 1 << 16  # bytes of a word in a binary file
_SNIFFED = 64  # lines
_CHUNK = 1 << 20
_HEADER = re.compile(rb"(\d{1,15})[ \t]+(\d{1,15})\s*")
_BOM = b"\xef\xbb\xbf"


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines without a byte order mark before the first one; one that is too long comes cut, and fails as a row."""
    first = True
    while line := stream.readline(_LONGEST):
        yield line.removeprefix(_BOM) if first else line
        first = False


def _number(token: bytes) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _row(file: str, number: int, line: bytes, dimension: int) -> tuple[bytes, NDArray[np.float64]]:
    """The word and the values of one line."""
    word, *tokens = line.rsplit(None, dimension) or [b""]
    last = (word.split() or [b""])[-1]
    if len(tokens) < dimension or (last != word and _number(last)):
        found = len(line.split()) - 1
        message = f"{max(found, 0)} values where {dimension} are wanted; repair or remove the line."
        raise DataError(message, file=file, line=number)
    try:
        return word, np.fromiter(map(float, tokens), np.float64, dimension)
    except ValueError as e:
        wrong = next(token for token in tokens if not _number(token)).decode("utf-8", "replace")
        message = f"{wrong[:40]!r} is no number; repair or remove the line."
        raise DataError(message, file=file, line=number) from e


def _decoded(file: str, word: bytes, offset: int, line: int | None) -> str:
    try:
        return word.decode("utf-8")
    except UnicodeDecodeError as e:
        message = f"byte offset {offset + e.start} (0x{word[e.start]:02x}) is not UTF-8; save the file as UTF-8."
        raise DataError(message, file=file, line=line) from e


def _sniffed(path: Path) -> tuple[int, int | None]:
    """Dimension, and the rows that a header line names or None. DataError where the first rows are no vectors."""
    file = shown(path)
    with path.open("rb") as stream:
        first = [line for _, line in zip(range(_SNIFFED), _lines(stream), strict=False)]
    if not any(line.strip() for line in first):
        raise no_rows(file)
    header = _HEADER.fullmatch(first[0])
    if header:
        rows, dimension = int(header[1]), int(header[2])
        check_shape(path, (rows, dimension))
        if rows * (2 * dimension + 1) > path.stat().st_size:
            message = f"the header promises {rows:,} x {dimension:,} values, more than fit into "
            message += f"{path.stat().st_size:,} bytes: truncated, or damaged; download or write it again."
            raise DataError(message, file=file, line=1)
    else:
        rows, dimension = None, Counter(len(line.split()) - 1 for line in first).most_common(1)[0][0]
        if dimension < 1:
            raise DataError("no word with numbers after it; write `word 0.1 0.2 …` on each line.", file=file, line=1)
    for number, line in enumerate(first[1:] if header else first, 2 if header else 1):
        _row(file, number, line, dimension)
    return dimension, rows


def looks_like_text(path: Path) -> bool:
    """Whether the first lines are words with two or more numbers each. Raises OSError only."""
    try:
        dimension, rows = _sniffed(path)
    except DataError:
        return False
    return dimension >= 2 or rows is not None


def _counted(path: Path) -> int:
    """Lines of a file; the last one may lack its newline."""
    count, last = 0, b"\n"
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")


def open_text(path: Path, column: str | None, cap: int | None) -> VectorFile:
    """Lines are counted once, then read; the dimension is that of most of the first lines."""
    file = shown(path)
    dimension, promised = _sniffed(path)
    skip = 0 if promised is None else 1

    def parts(size: int) -> Iterator[Part]:
        words: list[str] = []
        values: list[NDArray[np.float64]] = []
        with path.open("rb") as stream:
            offset = len(_BOM) if stream.read(3) == _BOM else 0
            stream.seek(0)
            for number, line in enumerate(_lines(stream), 1):
                if number > skip:
                    word, row = _row(file, number, line, dimension)
                    words.append(_decoded(file, word, offset, number))
                    values.append(row)
                offset += len(line)
                if len(words) == size:
                    yield words, np.array(values), None
                    words, values = [], []
        if words:
            yield words, np.array(values), None

    rows = _counted(path) - skip
    if promised is not None and rows != promised:
        message = f"the header promises {promised:,} rows, the file has {rows:,}; download it again or correct line 1."
        raise DataError(message, file=file, line=1)
    return VectorFile(path, "word2vec" if skip else "glove", rows, dimension, "float32", "string", parts, cap=cap)


def _binary_header(path: Path, stream: BinaryIO) -> tuple[int, int]:
    header = _HEADER.fullmatch(stream.readline(64))
    if not header:
        message = 'no word2vec binary: its first line is not "rows dimension". Save the vectors as npy or Parquet.'
        raise DataError(message, file=shown(path))
    return int(header[1]), int(header[2])


def open_binary(path: Path, column: str | None, cap: int | None) -> VectorFile:
    """Read in chunks of 1 MiB; the sizes that the first line names must fit into the file."""
    file, size_there = shown(path), path.stat().st_size
    if not size_there:
        raise no_rows(file)
    with path.open("rb") as stream:
        rows, dimension = _binary_header(path, stream)
        begin = stream.tell()
    check_shape(path, (rows, dimension))
    width = 4 * dimension
    if rows * (width + 2) > size_there - begin:
        message = f"the first line promises {rows:,} x {dimension:,} values, more than fit into {size_there:,} bytes: "
        raise DataError(message + "truncated, or damaged; download or write it again.", file=file)

    def parts(size: int) -> Iterator[Part]:
        words: list[str] = []
        values = bytearray()
        with path.open("rb") as stream:
            stream.seek(begin)
            buffer, at, base = b"", 0, begin  # base: where the buffer begins in the file
            for row in range(rows):
                end = buffer.find(b" ", at)
                if end < 0 or end + 1 + width > len(buffer):
                    base, buffer, at = base + at, buffer[at:] + stream.read(max(_CHUNK, width + _WORD)), 0
                    end = buffer.find(b" ")
                if not 0 <= end - at <= _WORD or end + 1 + width > len(buffer):
                    message = f"row {row + 1} of {rows:,} is cut short or damaged; download or write it again."
                    raise DataError(message, file=file)
                words.append(_decoded(file, buffer[at:end].lstrip(b"\n"), base + at, None))
                values += buffer[end + 1 : end + 1 + width]
                at = end + 1 + width
                if len(words) == size or row == rows - 1:
                    yield words, np.frombuffer(bytes(values), "<f4").reshape(-1, dimension), None
                    words, values = [], bytearray()
            if (buffer[at:] + stream.read(2)).strip(b"\n"):
                raise DataError(f"more bytes after row {rows:,}, the last one; write it again.", file=file)

    return VectorFile(path, "word2vec-binary", rows, dimension, "float32", "string", parts, cap=cap)
