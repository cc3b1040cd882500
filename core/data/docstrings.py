"""A docstring to (summary, prose): what a person would ask, and what they would read.

Parameter tables, signatures, doctests, code blocks and directives go; markup is undone. What is left reads as
prose, or there is too little of it and the docstring is not used.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

MOST_WORDS = 150
_PROSE_SECTIONS = {"notes", "note", "description", "warnings", "warning", "details", "overview", "background"}
_TABLES = re.compile(
    r"(args|arguments|parameters|params|keyword args|keyword arguments|other parameters|returns?|yields?|raises?|"
    r"attributes|methods|examples?|usage|see also|references?|shape|inputs?|outputs?|warns|fields|properties)"
    r"\s*:{1,2}$",
    re.IGNORECASE,
)
_UNDERLINE = re.compile(r"([=\-~^*#])\1{2,}$")
_FIELD = re.compile(r":(param|type|returns?|rtype|raises?|arg|keyword|ivar|cvar|var|meta)\b[^:]*:", re.IGNORECASE)
_DIRECTIVE = re.compile(r"\.\. ")
_LIST_OR_TABLE = re.compile(r"(\||\+[-=]|={3,}|-{3,}|@|\$ |\[\d+\]|#)")
_MARKUP = (
    (re.compile(r"\[\w+\]_"), ""),
    (re.compile(r":[\w:+.-]+:`~?([^`<]+?)(?:\s*<[^>]*>)?`"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^>]*>`_{0,2}"), r"\1"),
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),
    (re.compile(r"\[`?[~!]?([^\]`]+)`?\]"), r"\1"),
    (re.compile(r"`+~?([^`]*)`+_{0,2}"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"https?://\S+"), ""),
    (re.compile(r"\s+"), " "),
)


def plain(text: str) -> str:
    """One line of text without reStructuredText or Markdown marks."""
    for pattern, instead in _MARKUP:
        text = pattern.sub(instead, text)
    return text.strip()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _without_sections(lines: list[str]) -> Iterator[str]:
    """numpydoc: an underlined heading begins a section; only those that are prose stay, without their heading."""
    skip = False
    for i, line in enumerate(lines):
        nxt = lines[i + 1].strip() if i + 1 < len(lines) else ""
        text = line.strip()
        if text and _UNDERLINE.match(nxt) and _indent(line) == 0 and len(nxt) >= min(4, len(text)):
            skip = text.lower().rstrip(":") not in _PROSE_SECTIONS
        elif not skip and not (_UNDERLINE.match(text) and _indent(line) == 0):
            yield line


def _without_blocks(lines: list[str]) -> Iterator[str]:
    """Google sections, directives, field lists, code fences, doctests: each with the indented lines it owns."""
    owner: int | None = None  # indent of the line whose indented block is being dropped
    fenced = doctest = False
    for line in lines:
        text = line.strip()
        if text.startswith(("```", "~~~")):
            fenced = not fenced
            continue
        if not text:
            doctest = False
            yield ""
            continue
        if owner is not None and _indent(line) > owner:
            continue
        owner = None
        if fenced or doctest or text.startswith((">>>", "In [")):
            doctest = doctest or not fenced
            continue
        if _TABLES.match(text) or _DIRECTIVE.match(text) or _FIELD.match(text):
            owner = _indent(line)
            continue
        if _LIST_OR_TABLE.match(text):
            continue
        if text.endswith("::"):
            owner = _indent(line)
            line = line.rstrip()[:-1]
        yield line


def split(docstring: str) -> tuple[str, str] | None:
    """(summary, prose) of a docstring that has both, else None: 5-40 words, then 30 words or more."""
    lines = inspect.cleandoc(docstring).split("\n")
    end = next((i for i, line in enumerate(lines) if not line.strip()), len(lines))
    if not 1 <= end <= 3 or end == len(lines):
        return None
    head = " ".join(lines[:end])
    if ">>>" in head or "::" in head or any(_UNDERLINE.match(line.strip()) for line in lines[:end]):
        return None
    summary = plain(head)
    if not 5 <= len(summary.split()) <= 40 or summary.count("(") > 2:
        return None
    kept = _without_blocks(list(_without_sections(lines[end:])))
    words = plain(" ".join(line.strip() for line in kept)).split()
    if len(words) < 30 or sum(w[:1].isalpha() for w in words) < 0.7 * len(words):
        return None
    return summary, _shortened(words)


def _shortened(words: list[str]) -> str:
    """At most 150 words, ended at a sentence where one ends in the last third."""
    if len(words) <= MOST_WORDS:
        return " ".join(words)
    cut = words[:MOST_WORDS]
    last = next((i for i in range(MOST_WORDS - 1, 2 * MOST_WORDS // 3, -1) if cut[i].endswith((".", "!", "?"))), None)
    return " ".join(cut[: last + 1] if last is not None else cut)
