"""Long work in a process of its own: a `python -m core` command that writes into a run folder.

A cancel is real (the process group is killed), running out of memory ends the job and not the app, and a
browser that was closed finds its run again: the id is made from the command, so asking twice starts once.

    runs/<id>/  request.json  progress.json  result.json | error.json  pid  log.txt
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core import live
from core.errors import Cancelled, EspalierError, InputError
from core.store import home, write_atomic
from core.types import digest

State = Literal["running", "done", "failed", "cancelled"]
_EVERY = 0.25  # seconds between two writes of the progress
_CHILDREN: dict[str, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Status:
    """What is known of a run: `share` in [0, 1] and `eta` in seconds are of its step `step`, counted from one."""

    id: str
    argv: tuple[str, ...]
    state: State
    what: str = ""
    share: float = 0.0
    eta: float | None = None
    error: str = ""
    started: float = 0.0
    step: int = 1

    @property
    def ended(self) -> bool:
        return self.state != "running"


def folder(job: str) -> Path:
    return home() / "runs" / job


def identity(argv: Sequence[str]) -> str:
    """The run id of a command: the same command has the same id."""
    return digest(*argv)[:16]


def start(argv: Sequence[str], *, again: bool = False) -> str:
    """Start `python -m core *argv --json` in the background, or find the run that does or did just that.

    A run that failed or was cancelled is started anew; `again` does so for a finished one too.
    """
    job = identity(argv)
    known = status(job)
    if known is not None and (known.state == "running" or (known.state == "done" and not again)):
        return job
    path = folder(job)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    _write(path / "request.json", {"argv": list(argv), "started": time.time()})
    with (path / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "core", *argv, "--json", "--job", str(path)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True,
            cwd=Path(__file__).parents[1], env={**os.environ, "ESPALIER_HOME": str(home())},
        )  # fmt: skip
    reap()
    _CHILDREN[job] = child
    write_atomic(path / "pid", str(child.pid).encode())
    return job


def status(job: str) -> Status | None:
    """How a run stands, or None where there is no such run. A worker that is gone without a word has failed."""
    path = folder(job)
    request = _read(path / "request.json")
    if request is None:
        return None
    argv, started = tuple(request["argv"]), float(request["started"])
    if (path / "result.json").exists():
        return Status(job, argv, "done", share=1.0, started=started)
    error = _read(path / "error.json")
    if error is not None:
        return Status(job, argv, error["state"], error=error["error"], started=started)
    progress = _read(path / "progress.json") or {}
    if not _alive(job, path):
        if (path / "result.json").exists():
            return Status(job, argv, "done", share=1.0, started=started)
        return Status(job, argv, "failed", progress.get("what", ""), error=_last_words(path), started=started)
    what, share = progress.get("what", "starting"), float(progress.get("share", 0.0))
    taken = float(progress.get("taken", 0.0))
    eta = taken * (1 - share) / share if share > 0.02 and taken > 0.5 else None
    return Status(job, argv, "running", what, share, eta, started=started, step=int(progress.get("step", 1)))


def result(job: str) -> dict[str, Any] | None:
    """The answer of a finished run."""
    return _read(folder(job) / "result.json")


def cancel(job: str) -> None:
    """Kill the run's process group; what it had finished (embeddings, rankings) stays in the cache."""
    path = folder(job)
    pid = _pid(path)
    if pid is None or not _alive(job, path):
        return
    _write(path / "error.json", {"state": "cancelled", "error": "cancelled"})
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
    child = _CHILDREN.pop(job, None)
    if child is not None:
        child.wait(timeout=10)


def reap() -> None:
    """Let go of workers that have ended, also those that nobody watches any more."""
    for job, child in list(_CHILDREN.items()):
        if child.poll() is not None:
            del _CHILDREN[job]


def runs() -> list[Status]:
    """All runs on disk, the newest first."""
    root = home() / "runs"
    found = [s for p in (root.iterdir() if root.is_dir() else ()) if (s := status(p.name)) is not None]
    return sorted(found, key=lambda s: -s.started)


def _pid(path: Path) -> int | None:
    try:
        return int((path / "pid").read_text())
    except (OSError, ValueError):
        return None


def _alive(job: str, path: Path) -> bool:
    child = _CHILDREN.get(job)
    if child is not None:
        return child.poll() is None
    pid = _pid(path)
    if pid is None:
        return False
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return _answers(pid) if not Path("/proc/self").exists() else False
    return str(path).encode() in command  # another process may have been given the number since


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _last_words(path: Path) -> str:
    try:
        lines = (path / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    said = f" Its last words: {lines[-1][:300]}" if lines else ""
    return f"The worker ended without a result (killed, or out of memory). Try again, or with fewer texts.{said}"


def _write(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value).encode())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


class Recorder:
    """The worker's side: writes progress, result or error into the run folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.what, self.begun, self.written = path, "", time.monotonic(), 0.0
        self.place, self.step = (0, 0), 0  # done and total of the last word; which step it is
        live.into(path)
        _be_the_first_to_go()

    def progress(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self.what:
            self.what, self.written = what, 0.0
            if total != self.place[1] or done < self.place[0]:  # "layer 2 of 6" goes on where "layer 1 of 6" ended
                self.begun, self.step = now, self.step + 1
        self.place = (done, total)
        if now - self.written >= _EVERY or done >= total:
            share = done / total if total else 1.0
            said = {"what": what, "share": share, "taken": now - self.begun, "step": self.step}
            _write(self.path / "progress.json", said)
            self.written = now

    def keep(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run the work; its answer or its error is on disk before this returns or raises."""
        try:
            answer = work()
        except Cancelled:
            _write(self.path / "error.json", {"state": "cancelled", "error": "cancelled"})
            raise
        except MemoryError as e:
            message = "out of memory: choose fewer texts, or a machine with more memory"
            _write(self.path / "error.json", {"state": "failed", "error": message})
            raise InputError(message) from e
        except EspalierError as e:
            _write(self.path / "error.json", {"state": "failed", "error": str(e)})
            raise
        except Exception as e:
            _write(self.path / "error.json", {"state": "failed", "error": f"a fault of ours: {type(e).__name__}: {e}"})
            raise
        _write(self.path / "result.json", answer)
        return answer


def _be_the_first_to_go() -> None:
    """When the machine runs out of memory, this worker is to be killed, not the app that started it."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:  # not Linux, or not allowed: the kernel decides
        return
