"""A worker's progress: the time that is left is told across the parts of one stage, and anew for the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import jobs


def test_the_clock_goes_on_within_a_stage_and_starts_again_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(jobs, "_be_the_first_to_go", lambda: None)  # this process is to stay
    recorder = jobs.Recorder(tmp_path)

    def said(what: str, done: int, total: int) -> tuple[int, float]:
        recorder.progress(what, done, total)
        found = json.loads((tmp_path / "progress.json").read_text())
        return found["step"], found["taken"]

    assert said("layer 1 of 6", 0, 6) == (1, 0.0)
    now[0] += 10
    assert said("layer 2 of 6", 1, 6) == (1, 10.0)
    now[0] += 10
    assert said("layer 3 of 6", 2, 6) == (1, 20.0)
    assert said("embedding", 0, 40) == (2, 0.0)
    now[0] += 5
    assert said("embedding", 20, 40) == (2, 5.0)
    assert said("embedding again", 0, 40) == (3, 0.0)
