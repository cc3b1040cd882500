"""The README's pictures, taken from the running app: `python -m tests.benchmarks.screenshots` (a minute or two).

Writes assets/pages/*.png with a palette of 256 colours, each below 250 kB.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OUT = ROOT / "assets" / "pages"
LIMIT = 250_000
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
WIDE, PHONE = {"width": 1440, "height": 1000}, {"width": 390, "height": 844}
SLOW = 600_000  # milliseconds a training, an export or a map may take


@contextmanager
def server() -> Iterator[str]:
    """The app on a free port, its first screen warmed."""
    subprocess.run([sys.executable, "-m", "core", "warm"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    argv = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    url = f"http://localhost:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=2)
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(timeout=20)


def shoot(page: Any, name: str) -> None:
    """One picture of what is on the screen, its colours reduced to a palette."""
    from PIL import Image

    page.mouse.move(2, 2)
    page.wait_for_function("!document.querySelector('[data-test-script-state=running]')")
    page.wait_for_timeout(1500)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    path = OUT / f"{name}.png"
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < LIMIT, f"{path.name} has {path.stat().st_size:,} bytes"
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")


def prepared(page: Any, url: str, ratio: int) -> None:
    """A verified download at this ratio, so that Compare has something to show."""
    page.goto(f"{url}/?ratio={ratio}")
    button, done = page.get_by_role("button", name="Prepare & verify"), page.get_by_text("Verified: reopened")
    button.or_(done).first.wait_for()
    if button.count():
        button.click()
    done.wait_for(timeout=SLOW)


def take(browser: Any, url: str) -> None:
    page = browser.new_page(viewport=WIDE, color_scheme="light")
    plot = page.locator(".js-plotly-plot .main-svg").first
    for path, name in (("", "prune"), ("data", "data"), ("methods", "methods")):
        page.goto(f"{url}/{path}")
        (plot if path != "methods" else page.locator("[data-testid=stDataFrame]").first).wait_for()
        shoot(page, name)
    page.goto(f"{url}/?target=Whole+vectors&ratio_vectors=20")
    page.get_by_text("judged documents left").first.wait_for(timeout=SLOW)
    page.set_viewport_size(WIDE | {"height": 1900})
    page.get_by_text("Map: what went").click()
    page.get_by_text("positions are a picture").wait_for()
    shoot(page, "vectors")
    page.set_viewport_size(WIDE)
    page.goto(f"{url}/explore")
    page.get_by_text("UMAP: ").first.wait_for()
    page.locator(".js-plotly-plot .gtitle", has_text="UMAP").wait_for(timeout=SLOW)
    shoot(page, "explore")
    page.get_by_role("tab", name="Queries").click()
    page.get_by_text("hits stay").first.wait_for()
    shoot(page, "queries")
    for ratio in (60, 75):
        prepared(page, url, ratio)
    page.goto(f"{url}/?wish=faster+encoding&target=Feed-forward+neurons")
    button, done = page.get_by_role("button", name="Cut, judge & verify"), page.get_by_text("Verified: reopened")
    button.or_(done).first.wait_for()
    if button.count():
        button.click()
    done.wait_for(timeout=SLOW)
    page.wait_for_timeout(6000)  # until the note that it is done has gone
    shoot(page, "encoder")
    page.get_by_role("link", name="Compare").click()
    page.get_by_text("Cuts prepared so far").wait_for()
    page.set_viewport_size(WIDE | {"height": 1250})  # both figures; the table below them shows paths
    page.locator(".js-plotly-plot .main-svg").last.wait_for()
    shoot(page, "compare")
    page.close()
    phone = browser.new_page(viewport=PHONE, color_scheme="dark")
    phone.goto(url)
    phone.locator(".js-plotly-plot .main-svg").first.wait_for()
    shoot(phone, "phone")


def main() -> None:
    from playwright.sync_api import sync_playwright

    OUT.mkdir(parents=True, exist_ok=True)
    with server() as url, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        take(browser, url)
        browser.close()


if __name__ == "__main__":
    main()
