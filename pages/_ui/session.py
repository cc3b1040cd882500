"""What the person has chosen, kept across pages and in the URL; and where uploads go."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

from core import registry, store
from core.plan import Step
from core.verdict import RATIOS, Study
from pages._ui import links

MODELS = {"minilm": "all-MiniLM-L6-v2"}
DATA = {"sample": "sample (built in)", "python-docs": "python-docs (documentation installed here)"}
WISHES = {
    "index": "a smaller index",
    "model": "a smaller model",
    "speed": "faster encoding",
}
_KEEP: dict[str, Any] = {"bind": "query-params", "persist_state": "session"}
_SUFFIXES = {".zip", ".csv", ".tsv", ".jsonl", ".parquet", ".txt", ".npy", ".npz", ".vec", ".bin", ".safetensors",
             ".data", ".dat"}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Names only: everything that is computed is found from these.

    metric, pairs   of vectors without a model: how they are compared, and the word-similarity sets about them
    """

    model: str
    data: str
    fit_on: str = ""
    queries: str = ""
    seed: int = 0
    metric: str = ""
    pairs: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """The same as command-line arguments."""
        out = ["--model", self.model, *(w for d in (self.data, *self.pairs) for w in ("--data", d))]
        out += ["--seed", str(self.seed)]
        out += ["--metric", self.metric] if self.metric else []
        out += ["--fit-on", self.fit_on] if self.fit_on else []
        return out + (["--queries", self.queries] if self.queries else [])


def kept(key: str, **more: Any) -> dict[str, Any]:
    """Arguments of a widget whose value survives page switches and stands in the URL."""
    return {"key": key, **_KEEP, **more}


def labels() -> dict[str, str]:
    """spec -> what the person calls it, for uploads of this session."""
    found: dict[str, str] = st.session_state.setdefault("labels", {})
    return found


def models() -> dict[str, str]:
    added: dict[str, str] = st.session_state.setdefault("models", {})
    return MODELS | added


def datasets() -> dict[str, str]:
    added: dict[str, str] = st.session_state.setdefault("datasets", {})
    return DATA | added


def wanted() -> Choice:
    """What the pickers say now."""
    state = st.session_state
    model, data = state.get("model", "minilm"), state.get("data", "sample")
    return Choice(
        model if model in models() else "minilm",
        data if data in datasets() else "sample",
        state.get("fit_on_spec", ""),
        state.get("queries_spec", {}).get(data, ""),
        metric=state.get("metric_spec", {}).get(data, ""),
        pairs=state.get("pairs_spec", {}).get(data, ()),
    )


def active() -> Choice:
    """What is shown: the last choice that was ready (see cache.settle)."""
    choice: Choice = st.session_state.setdefault("active", Choice("minilm", "sample"))
    return choice


_SHARED = ("method", "ratio", "floor")  # what a link to another page than Prune must carry
_OWN = (*_SHARED, "judge")
_RANGES = {"ratio": (0, len(RATIOS) - 1), "floor": (50, 100), "judge": (1, 99)}
STEPS = ("before", "after")  # what the cut is combined with, as the sentences of a plan (see combine)


def share() -> None:
    """On the pages without the sliders: take the choices from the URL where this session is new, else put them there.

    The Prune page's widgets do the latter by themselves (`bind="query-params"`), with a method's label as its value.
    """
    arrive()
    state, url = st.session_state, st.query_params
    for key in _SHARED:
        if key in state:
            with contextlib.suppress(StreamlitAPIException):  # Prune's widget still holds it in the run of the switch
                url[key] = registry.card(state[key]).label if key == "method" else f"{state[key]:g}"


def arrive() -> None:
    """A new session takes its choices from the URL; what is no possible value is ignored, what is missing is said."""
    state, url = st.session_state, st.query_params
    if "routed" not in state:  # a page's own link, on a server that never ran app.py: Streamlit runs the page alone
        state["go"] = str(st.context.url or "").split("?")[0].rstrip("/").rsplit("/", 1)[-1]
        st.switch_page("app.py")
    for key in _OWN:
        if key not in state and key in url and (value := _read(key, url[key])) is not None:
            state[key] = value
    _sources()
    put("judge", str(state["judge"] + 1) if state.get("judge") else "")
    for key in STEPS:
        put(key, state.setdefault(f"steps_{key}", url.get(key, "")))


def _sources() -> None:
    """Texts and model: from the URL where this session is new, else into it; each page says what is not here."""
    state, url = st.session_state, st.query_params
    for key, first, known in (("data", "sample", DATA), ("model", "minilm", MODELS)):
        if key not in state and key in url:
            found = links.follow(key, url[key], known)
            state[key] = first if found is None else found
            if found is None:
                state.setdefault("lost", {})[key] = url[key]
        lost, spec = state.get("lost", {}), state.get(key, first)
        if key in lost and spec == first:  # stands until something is chosen, in the URL too
            put(key, lost[key])
            st.warning(links.lost(key, lost[key]), icon=":material/link_off:")
            continue
        lost.pop(key, None)
        put(key, "" if spec == first else spec if spec in known else links.word(key, spec))


def put(key: str, text: str) -> None:
    """Write a word into the URL, or take it out where it is empty."""
    url = st.query_params
    if text and url.get(key) != text:
        url[key] = text
    elif not text and key in url:
        del url[key]


def _read(key: str, text: str) -> str | float | None:
    names = {registry.card(n).label: n for n in registry.names("dimensions")}
    if key == "method":
        return names.get(text)
    try:
        value = float(text)
    except ValueError:
        return None
    low, high = _RANGES[key]
    if not low <= value <= high:
        return None
    return int(value) - 1 if key == "judge" else int(value) if key == "ratio" else value


def chosen_step() -> Step:
    """The method chosen on the Prune page, with the options that were set there."""
    name = st.session_state.get("method", "dimensions/svd")
    options = []
    for f in fields(registry.find(name)):
        value = st.session_state.get(f"{name}:{f.name}", f.default)
        if value != f.default:
            options.append((f.name, value))
    return Step(name, tuple(options))


def fallback_step() -> Step:
    return Step("dimensions/svd")


def chosen_ratio(found: Study, measure: str) -> int:
    """The slider's place on the Prune page, or the mark where it was not moved yet, as an index of the study."""
    mark = found.recommended(measure, float(st.session_state.get("floor", 98.0)) / 100)
    return found.at(int(st.session_state.get("ratio", found.percent(mark))))


def keep_upload(file: Any, kind: str) -> Path:
    """Write an upload under a name of our own making (its SHA-256); the person's file name is only ever shown."""
    data = file.getvalue()
    suffix = Path(file.name).suffix.lower()
    suffix = suffix if suffix in _SUFFIXES else ".bin"
    path = store.home() / "uploads" / hashlib.sha256(data).hexdigest()[:24] / f"{kind}{suffix}"
    if not path.exists():
        store.write_atomic(path, data)
    return path
