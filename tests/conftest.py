"""Shared by all tests: Espalier's own folder is a temporary one, never the user's; hypothesis repeats itself.

`pytest --hypothesis-profile=search` looks further, with other examples every time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from core import commands, jobs, store
from core.types import quiet

settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def espalier_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("espalier-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPALIER_HOME", str(home))
        yield home


# ---- what a module asks for with pytest.mark.usefixtures --------------------------------------------------------


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny matrices: threads that wait for each other would take most of the time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small folders, none of which has to outlive the machine."""
    monkeypatch.setattr(store, "sync", lambda path: None)


@pytest.fixture(scope="module")
def warmed(espalier_home: Path) -> None:
    """What `make run` does before the server starts."""
    commands.warm(argparse.Namespace(), quiet)


@pytest.fixture
def no_worker_left(warmed: None) -> Iterator[None]:
    """A page may start work (UMAP); no test waits for it."""
    yield
    for status in jobs.runs():
        jobs.cancel(status.id)
