"""Read vectors that were stored in fewer bytes, and search them. Needs numpy alone.

    book, codes = dict(np.load("codebook.npz")), np.load("codes.npy")
    vectors = decode(codes, book)                        # (n, d), compare with float queries
    rows, scores = search(codes, book, queries, k=10)    # exact over the codes, nothing decoded at full width

codes.npy is (n, bytes) uint8. codebook.npz: `basis` (m, d) and `mean` (d,) turn stored numbers into a vector, where
they are there; `normalize` says that vectors have length one, `distance` that they are compared by L2: a score is then
minus half the squared distance. The numbers themselves: `table`, `which`, `ends` where they are bits of a stream;
`keep` where only the largest of each vector are stored; else they are fp16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_BLOCK = 4096  # vectors at a time


def numbers(codes: Any, book: Any) -> Any:
    """The stored numbers (n, m) of codes (n, bytes)."""
    if "table" in book:  # number i is looked up by the eight bits that end at bit ends[i]: its own and those before
        ends = book["ends"].astype(np.int64)
        wide = np.pad(codes, ((0, 0), (1, 0)), constant_values=book["start"])
        window = wide[:, (ends - 1) // 8 + 1]
        if (ends % 8).any():
            both = wide[:, (ends - 1) // 8].astype(np.uint16) << 8 | window
            window = (both >> (-ends % 8).astype(np.uint16)) & 255
        return np.take(book["table"].ravel(), window + (book["which"].astype(np.uint16) << 8))
    if "keep" in book:
        return _scattered(codes, book)
    return np.ascontiguousarray(codes).view("<f2").astype(np.float32)


def _scattered(codes: Any, book: Any) -> Any:
    """Positions first (a bit map, or one uint16 each), then the values in the same order: fp16, or int8 and a step."""
    n, width, keep = len(codes), int(book["width"]), int(book["keep"])
    own = 2 * keep if "step" not in book else keep
    place, value = codes[:, : codes.shape[1] - own], np.ascontiguousarray(codes[:, codes.shape[1] - own :])
    value = value.view("<f2").astype(np.float32) if "step" not in book else value.view(np.int8) * book["step"]
    out = np.zeros((n, width), np.float32)
    if place.shape[1] == 2 * keep:
        np.put_along_axis(out, np.ascontiguousarray(place).view("<u2").astype(np.int64), value, axis=1)
    else:
        out[np.unpackbits(place, axis=1)[:, :width] > 0] = value.ravel()
    return out


def decode(codes: Any, book: Any, read: Any = numbers) -> Any:
    """codes (n, bytes) -> vectors (n, d) float32."""
    dimension = int(book["dimension"])
    out = np.empty((len(codes), dimension), np.float32)
    for start in range(0, len(codes), _BLOCK):
        x = read(codes[start : start + _BLOCK], book)
        x = x @ book["basis"] if "basis" in book else x
        out[start : start + _BLOCK] = x + book["mean"] if "mean" in book else x
    if book["normalize"]:
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        np.divide(out, norms, out=out, where=norms > 0)
    return out


def lengths(codes: Any, book: Any, read: Any = numbers) -> Any:
    """(n,) the length of every decoded vector before it is normalised (for L2 from `mean`): once for all searches."""
    left_out = ("mean",) if "distance" in book else ()
    plain = {k: v for k, v in book.items() if k not in left_out} | {"normalize": False}
    parts = [decode(codes[i : i + _BLOCK], plain, read) for i in range(0, len(codes), _BLOCK)]
    return np.linalg.norm(np.concatenate(parts), axis=1) if parts else np.zeros(0, np.float32)


def search(codes: Any, book: Any, queries: Any, k: int = 10, norms: Any = None, read: Any = numbers) -> Any:
    """Rows and scores, (q, k) each, of the best vectors for float queries (q, d): queries are rotated, not codes."""
    q, mean = np.asarray(queries, np.float32), book.get("mean")
    if "distance" in book:  # both are seen from the mean
        q, mean = q if mean is None else q - mean, None
    if book["normalize"]:
        q = q / np.maximum(np.linalg.norm(q, axis=1, keepdims=True), 1e-30)
    if norms is None and (book["normalize"] or "distance" in book):
        norms = lengths(codes, book, read)
    turned = np.ascontiguousarray(q @ book["basis"].T if "basis" in book else q)
    offset = np.zeros((len(q), 1), np.float32) if mean is None else q @ mean[:, None]
    rows, best = np.zeros((len(q), 0), np.int64), np.zeros((len(q), 0), np.float32)
    for start in range(0, len(codes), _BLOCK):
        scores = turned @ read(codes[start : start + _BLOCK], book).T + offset
        if book["normalize"]:
            scores /= np.maximum(norms[start : start + _BLOCK], 1e-30)
        if "distance" in book:
            scores -= ((q**2).sum(axis=1)[:, None] + norms[start : start + _BLOCK] ** 2) / 2
        some = min(k, scores.shape[1])
        near = np.argpartition(-scores, some - 1, axis=1)[:, :some]
        rows = np.concatenate([rows, near + start], axis=1)
        best = np.concatenate([best, np.take_along_axis(scores, near, axis=1)], axis=1)
        first = np.argsort(-best, axis=1, kind="stable")[:, :k]
        rows, best = np.take_along_axis(rows, first, axis=1), np.take_along_axis(best, first, axis=1)
    return rows, best
