"""After a sweep the slider is a look-up: server time from the move to the redrawn figures, and the first screen."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def run(data: Path) -> None:
    import streamlit.runtime.scriptrunner.script_runner as runner
    from streamlit.testing.v1 import AppTest

    subprocess.run([sys.executable, "-m", "core", "warm"], check=True, stdout=subprocess.DEVNULL)  # as `make run` does
    app = str(Path(__file__).parents[2] / "app.py")
    taken: list[float] = []
    original = runner.ScriptRunner._run_script

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(self, *args, **kwargs)
        finally:
            taken.append(time.perf_counter() - start)

    runner.ScriptRunner._run_script = timed  # type: ignore[method-assign]
    try:
        AppTest.from_file(app, default_timeout=120).run()
        first = taken[-1]
        page = AppTest.from_file(app, default_timeout=120).run()
        second = taken[-1]
        taken.clear()
        for ratio in [*range(20, 90, 5), *range(22, 90, 7)]:
            page.slider(key="ratio").set_value(ratio).run()
    finally:
        runner.ScriptRunner._run_script = original  # type: ignore[method-assign]
    milliseconds = sorted(1000 * t for t in taken)
    print(f"first screen, server side: {first:.2f} s with the imports, {second:.2f} s in a server that runs;")
    print(f"torch imported for it: {'torch' in sys.modules}")
    print(
        f"slider, the whole page run again: median {statistics.median(milliseconds):.0f} ms, "
        f"slowest of {len(milliseconds)}: {milliseconds[-1]:.0f} ms"
    )
