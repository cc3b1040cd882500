"""What stands in for queries: titles and single sentences of the texts, chosen by their content."""

from __future__ import annotations

import hashlib
import re

import numpy as np

from core.types import Ints, Texts

PSEUDO = 5000  # texts that lend a title and a sentence as pseudo-queries; a sample by content where there are more
ROWS = 20_000  # the same where whole vectors are ranked: every row of a usual corpus lends its own
_PAIRS = 2000
_BODY_WORDS = 80
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def _sentence(text: str) -> str:
    """One sentence of a text, chosen by the text's own hash, so that the order of texts does not matter."""
    found = [s for s in _SENTENCE.split(text) if 4 <= len(s.split()) <= 60]
    if not found:
        return " ".join(text.split()[:40])
    return found[int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), 16) % len(found)]


def chosen(texts: Texts, most: int) -> list[int]:
    """At most `most` rows, chosen by content hash, ascending."""
    if len(texts) <= most:
        return list(range(len(texts)))
    by_hash = sorted(
        range(len(texts)), key=lambda i: hashlib.sha256(texts.texts[i].encode("utf-8", "replace")).digest()
    )
    return sorted(by_hash[:most])


def pseudo_queries(texts: Texts, most: int = PSEUDO) -> tuple[list[str], Ints]:
    """Titles and one sentence of each text, with the row each came from: they stand in for real queries."""
    asked, owners = [], []
    for i in chosen(texts, most):
        title = texts.titles[i] if texts.titles else ""
        for text in ([title] if len(title.split()) >= 2 else []) + [_sentence(texts.texts[i])]:
            asked.append(text)
            owners.append(i)
    return asked, np.asarray(owners, np.int64)


def titled(texts: Texts) -> list[int]:
    """The rows that lend a pair of title and body."""
    return [i for i in chosen(texts, _PAIRS) if texts.titles and len(texts.titles[i].split()) >= 2]


def title_body_pairs(texts: Texts) -> tuple[list[str], list[str]]:
    """(titles, first 80 words of the text without its title), for texts that have both."""
    rows = titled(texts)
    return [texts.titles[i] for i in rows], [" ".join(texts.texts[i].split()[:_BODY_WORDS]) for i in rows]
