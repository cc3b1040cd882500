"""Widgets for the options of a method, made from its card: what differs from the default goes into the step."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import streamlit as st

from core import registry
from core.budgets import offered_sizes, sized
from core.plan import Step, Value


def options(name: str, prefix: str = "", only: tuple[str, ...] = ()) -> tuple[tuple[str, Value], ...]:
    """One widget per option (of `only`, where given); only what differs from the default is returned."""
    out: list[tuple[str, Value]] = []
    for f in fields(registry.find(name)):
        if only and f.name not in only:
            continue
        value = option(f"{prefix}{name}:{f.name}", f.name, f.default, f.metadata)
        if value != f.default:
            out.append((f.name, value))
    return tuple(out)


def split(name: str, main: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options of a method that stand in sight, and the others."""
    known = [f.name for f in fields(registry.find(name))]
    return tuple(n for n in main if n in known), tuple(n for n in known if n not in main)


def budget(step: Step, dimension: int, place: str) -> list[tuple[str, Value]]:
    """The slider of bytes per vector of a code that takes a budget; nothing for one that has its own size."""
    if sized(step, 1) == step:
        return []
    full, offered = 4 * dimension, offered_sizes(step, dimension)
    if st.session_state.get(place) not in offered:  # new, or set for another model
        st.session_state[place] = min(offered, key=lambda b: abs(b - full // 16))
    value = st.select_slider("Bytes per vector", offered, format_func=lambda b: f"{b:,} B · {full / b:.3g}x",
                             help=f"Of {full:,} as 32-bit floats.", key=place, persist_state="session")  # fmt: skip
    return [("bytes", int(value))]


def option(key: str, name: str, default: Any, about: Any) -> Value:
    """One option: a checkbox, a list of words, or a number in its range."""
    more: dict[str, Any] = {"help": about["help"], "key": key, "persist_state": "session"}
    label, choices = name.replace("_", " "), about.get("choices")
    if isinstance(default, bool):
        return bool(st.checkbox(label, default, **more))
    if choices:
        return str(st.selectbox(label, choices, choices.index(default), **more))
    low, high = about["low"], about["high"]
    kind = type(default)
    value: Value = st.number_input(
        label,
        min_value=None if low is None else kind(low),
        max_value=None if high is None else kind(high),
        value=default,
        step=1 if kind is int else None,
        format=None if kind is int else "%.4g",
        **more,
    )
    return value
