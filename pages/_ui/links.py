"""What a link says of a person's own texts and model: the id of a record on this machine, never a path.

    ?data=beir.zip~<id>      uploads/<id>/offer.json: where it lies, what it is called, how it is compared, what asks

The id is made from the record, so that it means the same as long as it is found; the name before it is only shown.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import streamlit as st

from core import store
from core.types import digest

_LINK = re.compile(r"(?:(?P<name>.{1,200})~)?(?P<id>[0-9a-f]{32})", re.DOTALL)
_ADDED = {"data": "datasets", "model": "models"}
_ABOUT = ("metric_spec", "queries_spec", "pairs_spec", "origin")  # of texts, each a mapping from their spec
_SHOWN = {"data": "the built-in corpus", "model": "the built-in model"}


def follow(key: str, text: str, known: dict[str, str]) -> str | None:
    """What a link's word stands for in this session: built in (by key or label), or found again; None if unknown."""
    for spec, label in known.items():
        if text in (spec, label):
            return spec
    match = _LINK.fullmatch(text)
    record = _read(match["id"]) if match else None
    if record is None or record["kind"] != key:
        return None
    spec, state = str(record["spec"]), st.session_state
    state.setdefault(_ADDED[key], {})[spec] = record["label"]
    for about in set(_ABOUT) & set(record["about"]):
        value = record["about"][about]
        state.setdefault(about, {})[spec] = tuple(value) if isinstance(value, list) else value
    return spec


def word(key: str, spec: str) -> str:
    """What stands in a link for something of the person's own; its record is written where there is none yet."""
    state = st.session_state
    label = str(state.get(_ADDED[key], {}).get(spec, spec))
    about = {a: state[a][spec] for a in _ABOUT if key == "data" and spec in state.get(a, {})}
    text = json.dumps({"kind": key, "spec": spec, "label": label, "about": about}, sort_keys=True).encode()
    name = digest(text)
    if not _path(name).exists():
        store.write_atomic(_path(name), text)
    return f"{label[:80]}~{name}"


def lost(key: str, text: str) -> str:
    """What is said of a word that nothing here answers to."""
    from pages._ui.views import plain  # it stands above this

    match = _LINK.fullmatch(text)
    name = plain(((match["name"] if match else text) or "without a name")[:80])
    again = "upload it again" if key == "data" else "check it again under *Data & model*"
    return f"This link's {key} '{name}' is not on this machine: {again}. Shown instead: {_SHOWN[key]}."


def _path(name: str) -> Path:
    return store.home() / "uploads" / name / "offer.json"


def _read(name: str) -> dict[str, Any] | None:
    """A record whose files are all where this server may read; `name` is 32 hex digits."""
    try:
        text = _path(name).read_bytes()
        record: dict[str, Any] = json.loads(text)
    except (OSError, ValueError):
        return None
    about = record["about"]
    files = [record["spec"], *filter(None, [about.get("queries_spec")]), *about.get("pairs_spec", ())]
    hub = record["kind"] == "model" and not Path(record["spec"]).is_absolute()
    return record if digest(text) == name and (hub or all(map(_may_be_read, files))) else None


def _may_be_read(file: str) -> bool:
    from pages._ui.load_your_own import local_root  # it imports what offers uploads, which stands above this

    path, roots = Path(file).resolve(), [store.home(), local_root()]
    return path.exists() and any(root is not None and path.is_relative_to(root.resolve()) for root in roots)
