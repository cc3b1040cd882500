"""Shared by all tests: Espalier's own folder is a temporary one, never the user's; hypothesis repeats itself.

`pytest --hypothesis-profile=search` looks further, with other examples every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def espalier_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("espalier-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPALIER_HOME", str(home))
        yield home
