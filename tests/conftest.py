"""Shared by all tests: Espalier's own folder is a temporary one, never the user's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def espalier_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("espalier-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPALIER_HOME", str(home))
        yield home
