"""Running work in the sidebar: what, how far, how long, cancel. Nothing here blocks a page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from core import jobs, live, training_plots
from core.jobs import Status
from pages._ui import views


def start(argv: list[str], label: str) -> Status:
    """Start (or find) a run and watch it in the sidebar; the same command is never started twice."""
    job = jobs.start(argv)
    _watch(job, label)
    found = jobs.status(job)
    assert found is not None
    return found


def _watch(job: str, label: str) -> None:
    """List a run in the sidebar; what is new there is shown at once, also where only a fragment was to run again."""
    watched: dict[str, str] = st.session_state.setdefault("watched", {})
    if job not in watched:
        watched[job] = label
        st.session_state.pop(f"seen-{job}", None)
        st.rerun()


def look(argv: list[str]) -> Status | None:
    """How the run of a command stands, without starting it."""
    return jobs.status(jobs.identity(argv))


def again(argv: list[str], label: str) -> None:
    """Forget a failed or cancelled run and start anew."""
    _watch(jobs.start(argv, again=True), label)


def ended(status: Status, label: str, key: str, words: str = "", listed: str = "") -> None:
    """What a failed or cancelled run left, in one message, and the button that starts it again.

    words    what going on begins with
    listed   its name in the sidebar, where that is another
    """
    cancelled = status.state == "cancelled"
    if cancelled:
        st.caption(f":material/cancel: {label}: cancelled. {words or 'What was finished is kept.'}")
    else:
        st.error(f"{label}: {views.plain(status.error or status.state)}")
        if words:
            st.caption(words)
    st.button("Go on" if cancelled else "Try again", on_click=again, args=(list(status.argv), listed or label), key=key)


def studied(argv: list[str], label: str, key: str) -> bool:
    """Whether the run that works a method out has ended well; else it is started, or shown where it stands."""
    status = look(argv) or start(argv, label)
    if status.state == "running":
        follow(status)
    elif status.state != "done":
        ended(status, label, key)
    return status.state == "done"


def follow(status: Status) -> None:
    """A run's progress where the person looks for its result; the page runs again when it ends."""

    st.session_state[f"seen-{status.id}"] = True  # this row runs the page again, the sidebar need not

    def row() -> None:
        now = jobs.status(status.id)
        if now is None or now.ended:
            st.rerun()
        st.progress(min(1.0, now.share), text=f"{how_far(now)}. You can go on working.")
        _end(now, f"stop-{status.id}")
        training(live.curve(jobs.folder(status.id)), f"live-{status.id}")

    st.fragment(row, run_every=1.0)()


def _end(status: Status, key: str) -> None:
    """The button that ends a run: while it trains the first press keeps the best so far, a second one kills."""
    folder = jobs.folder(status.id)
    stopping, begun = live.stopping(folder), bool(live.curve(folder))
    if live.training(folder) and begun and not stopping:
        about = "Training ends within two seconds; the best so far is judged and written. Then you can still cancel."
        if st.button("Stop training, keep the best so far", key=f"{key}-best", icon=":material/stop:", help=about):
            live.stop(folder)
            st.rerun()
        return
    if stopping:
        st.caption("Training is stopped: the best so far is judged and written.")
    about = "Ends the run now. What is finished is kept: started again, it goes on from there."
    if st.button("Cancel", key=key, icon=":material/close:", help=about):
        jobs.cancel(status.id)
        st.rerun()


def training(points: Sequence[Mapping[str, Any]], key: str) -> None:
    """The curves of a run that trains or trained, and the rounds of its schedule."""
    if training_plots.stretches(points):
        title = training_plots.live_title(points)
        views.chart(training_plots.live_curve(points), f"Training curves. {title}.", key)
    rounds = [p for p in points if p["phase"] == "round"]
    if rounds:
        if len(rounds) > 1:
            figure = training_plots.rounds(rounds)
            views.chart(figure, str(figure.layout.title.text).replace("<br>", " "), f"{key}-rounds")
        st.dataframe(training_plots.round_table(rounds), hide_index=True)


def how_far(status: Status) -> str:
    """Which step, how far in it, what is left of it, and how long the run has taken: the steps ahead are not known."""
    left = "" if status.eta is None else f" · {_long(status.eta)} left in this step"
    so_far = f" · {_long(time.time() - status.started)} so far" if status.step > 1 else ""
    return f"Step {status.step}: {views.plain(status.what)} · {100 * status.share:.0f} %{left}{so_far}"


def _long(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def panel() -> None:
    """The sidebar's list of runs of this session; it polls only while something runs."""
    watched: dict[str, str] = st.session_state.setdefault("watched", {})
    if not watched:
        return
    found = {j: jobs.status(j) for j in watched}
    running = any(s is not None and not s.ended for s in found.values())
    with st.sidebar:
        _list = st.fragment(_rows, run_every=1.0 if running else None)
        _list()


def _rows() -> None:
    watched: dict[str, str] = st.session_state["watched"]
    finished = False
    for job, label in list(watched.items()):
        status = jobs.status(job)
        if status is None:
            del watched[job]
        elif status.state == "running":
            _running(job, label, status)
        else:
            finished = finished or not st.session_state.get(f"seen-{job}", False)
            st.session_state[f"seen-{job}"] = True
            _ended(job, label, status)
    if finished:
        st.rerun()


def _running(job: str, label: str, status: Status) -> None:
    st.progress(min(1.0, status.share), text=f"**{label}** · {how_far(status)}")
    _end(status, f"cancel-{job}")


def _ended(job: str, label: str, status: Status) -> None:
    if status.state == "done":
        del st.session_state["watched"][job]
        st.toast(f"{label}: done", icon=":material/check:")
        return
    if status.state == "cancelled":  # said once, where its result was to stand
        del st.session_state["watched"][job]
        return
    st.warning(f"{label}: failed. {status.error}", icon=":material/error:")
    if st.button("Dismiss", key=f"dismiss-{job}"):
        del st.session_state["watched"][job]
        st.rerun()
