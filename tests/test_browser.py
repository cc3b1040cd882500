"""The app in real Chromium, on a server of its own: mouse, keyboard, downloads, narrow screens, killed workers."""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from core import commands, jobs
from core.types import quiet
from tests.synthetic import documents_like_text

ROOT = Path(__file__).parents[1]
PAGES = {"": "Prune", "explore": "Explore", "compare": "Compare", "data": "Data & model", "methods": "Methods"}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
Visit = Callable[..., Any]
CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"),
]
WAIT = 25_000  # milliseconds until something that must appear is given up


@pytest.fixture(scope="module")
def server(espalier_home: Path) -> Iterator[str]:
    """`streamlit run app.py` on a free port, its first screen warmed as `make run` does."""
    commands.warm(argparse.Namespace(), quiet)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = (espalier_home / "server.log").open("wb")
    argv = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    child = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    url = f"http://localhost:{port}"
    try:
        _until(lambda: _answers(url), 60, "the server answers")
        yield url
    finally:
        for status in jobs.runs():
            jobs.cancel(status.id)
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(timeout=20)


@pytest.fixture(scope="module")
def browser(server: str) -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def visit(browser: Any, server: str) -> Iterator[Callable[..., Any]]:
    """Open a page in a session of its own; at the end nothing may have gone wrong in the console."""
    contexts, wrong = [], []

    def go(path: str = "", *, width: int = 1440, height: int = 1000, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        context.set_default_timeout(WAIT)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" and not _streamlits(m) else None)
        page.goto(f"{server}/{path}")
        settled(page)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not wrong


def _streamlits(message: Any) -> bool:
    """Streamlit looks for its endpoints below a page's own path before it finds them at the root."""
    return "404" in message.text and "/_stcore/" in str(message.location)


def _answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).status == 200)
    except OSError:
        return False


def _until(true: Callable[[], Any], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def settled(page: Any) -> None:
    """Wait until the page has a heading and Streamlit runs nothing."""
    page.locator("[data-testid=stMain] h4").first.wait_for()
    page.wait_for_function("!document.querySelector('[data-test-script-state=running]')")
    assert page.locator("[data-testid=stException]").count() == 0


def verdict(page: Any) -> str:
    return str(page.locator("[data-testid=stMain] h4").first.inner_text())


def changed(page: Any, before: str) -> str:
    """The verdict, once it is another one."""
    page.wait_for_function("b => { const h = document.querySelector('[data-testid=stMain] h4');"
                           " return h && h.innerText && h.innerText !== b }", arg=before)  # fmt: skip
    return verdict(page)


def slider(page: Any) -> Any:
    return page.get_by_role("slider", name="Pruning ratio")


def choose(page: Any, picker: str, option: str) -> None:
    page.get_by_role("combobox", name=picker).click()
    page.get_by_role("option", name=option).click()


# ---- the first screen, the slider, the method -----------------------------------------------------------------


def test_the_first_plot_stands_within_three_seconds(visit: Visit, server: str, record_property: Any) -> None:
    """The best of several visits: other work on the machine only ever adds to what the page itself takes."""
    page, taken = visit(), []  # the server has been visited once
    while min(taken, default=9.0) >= 3 and len(taken) < 5:
        start = time.monotonic()
        page.goto(server)
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
        taken.append(round(time.monotonic() - start, 2))
        settled(page)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    record_property("first plot, s", taken)
    record_property("load per core", round(load, 2))
    assert min(taken) < (3 if load < 1 else 30), f"{taken} s at a load of {load:.2f} per core"


def test_the_slider_moves_with_the_mouse_and_the_keyboard(visit: Visit) -> None:
    page = visit()
    first = verdict(page)
    box = slider(page).locator("xpath=ancestor::*[@data-testid='stSlider']//*[@role='group']").bounding_box()
    thumb = page.locator("[data-testid=stSliderThumbValue]").locator("xpath=..").bounding_box()
    page.mouse.move(thumb["x"] + thumb["width"] / 2, thumb["y"] + thumb["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.4, thumb["y"] + thumb["height"] / 2, steps=6)
    page.mouse.up()
    second = changed(page, first)
    value = int(slider(page).get_attribute("value"))
    assert 30 <= value <= 50
    assert second.startswith(f"Keep {384 - int(3.84 * value + 0.5)} of 384 dimensions: ")
    slider(page).focus()
    page.keyboard.press("ArrowRight")
    changed(page, second)
    assert int(slider(page).get_attribute("value")) == value + 1
    page.wait_for_url(f"**ratio={value + 1}*")


def test_switching_the_method_changes_the_verdict(visit: Visit) -> None:
    page = visit("?ratio=60")
    first = verdict(page)
    choose(page, "Method", "Magnitude (low activation)")
    second = changed(page, first)
    assert second.startswith("Keep 154 of 384 dimensions: ")
    page.get_by_role("link", name="Compare").click()
    page.get_by_text("Every method at 154 of 384 dimensions").wait_for()
    page.reload()
    page.get_by_text("Every method at 154 of 384 dimensions").wait_for()
    page.get_by_role("link", name="Prune").click()
    page.wait_for_function("t => document.querySelector('h4')?.innerText === t", arg=second)


# ---- take it away ---------------------------------------------------------------------------------------------

LOAD = """
import sys
from sentence_transformers import SentenceTransformer
vectors = SentenceTransformer(sys.argv[1]).encode(["a text", "another"])
assert abs((vectors ** 2).sum(axis=1) - 1).max() < 1e-5
print(vectors.shape)
"""


def test_prepare_verify_download_load_and_out_of_date(visit: Visit, tmp_path: Path) -> None:
    page = visit("?ratio=75")
    page.get_by_role("button", name="Prepare & verify").click()
    page.get_by_text("Verified: reopened in a fresh process").wait_for(timeout=240_000)
    page.get_by_text("Prepare & verify: done").wait_for()  # the run after which nothing is redrawn
    settled(page)
    with page.expect_download() as got:
        page.get_by_role("button", name=re.compile(r"Model \d+ MB")).click()
    got.value.save_as(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as z:
        assert z.testzip() is None
        z.extractall(tmp_path / "out")
    folder = next(tmp_path.glob("out/**/modules.json")).parent
    argv = [sys.executable, "-c", LOAD, str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.stdout.strip() == "(2, 96)", done.stderr[-1500:]
    first = verdict(page)
    slider(page).focus()
    page.keyboard.press("ArrowLeft")
    changed(page, first)
    page.get_by_text("Out of date").wait_for()
    assert page.locator("[data-testid=stDownloadButton]").count() == 0
    page.keyboard.press("ArrowRight")  # what was prepared is offered again for exactly its own settings
    page.get_by_text("Verified: reopened in a fresh process").wait_for()


def test_faster_encoding_is_planned_started_and_cancelled(visit: Visit) -> None:
    page = visit()
    first = verdict(page)
    page.get_by_role("radio", name="faster encoding").click()
    assert changed(page, first) == "Keep 5 of 6 layers: not measured yet."
    kept = page.get_by_role("slider", name="Layers kept")
    kept.focus()
    page.keyboard.press("ArrowLeft")
    changed(page, "Keep 5 of 6 layers: not measured yet.")
    assert verdict(page) == "Keep 4 of 6 layers: not measured yet."
    page.get_by_text("layers/subset keep=4").wait_for()
    page.get_by_role("button", name="Cut, judge & verify").click()
    page.get_by_text("You can go on working").wait_for()
    pid = _worker("prune")
    page.locator("[data-testid=stSidebar]").get_by_text("Cut, judge & verify: layers/subset keep=4").wait_for()
    kept.focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("layers/subset keep=5").wait_for()
    page.locator("[data-testid=stSidebar]").get_by_role("button", name="Cancel").click()
    _until(lambda: _gone(pid), 10, "the worker is gone")
    kept.focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("Cut, judge & verify: cancelled").wait_for()
    page.get_by_role("button", name="Go on").wait_for()
    assert page.get_by_text("cancelled").count() == 1
    assert page.locator("[data-testid=stAlert]").count() == 0
    page.get_by_role("radio", name="a smaller index").click()
    changed(page, "Keep 4 of 6 layers: not measured yet.")
    assert verdict(page) == first


# ---- the map --------------------------------------------------------------------------------------------------

PLACE = """() => {
  const gd = document.querySelector('.js-plotly-plot'), l = gd._fullLayout, t = gd._fullData[0];
  const box = gd.getBoundingClientRect();
  const x = l.xaxis, y = l.yaxis;
  const xs = [...t.x].map(v => x._offset + x.d2p(v)), ys = [...t.y].map(v => y._offset + y.d2p(v));
  return {x: box.x + xs[0], y: box.y + ys[0], row: [...t.customdata][0]};
}"""


def test_a_point_of_the_map_shows_its_text_and_neighbours(visit: Visit) -> None:
    page = visit("explore", height=1400)
    page.locator(".js-plotly-plot .nsewdrag").first.wait_for()
    page.wait_for_timeout(500)
    place = page.evaluate(PLACE)
    page.mouse.move(place["x"], place["y"], steps=3)
    page.wait_for_timeout(300)
    page.mouse.click(place["x"], place["y"])
    page.get_by_text("1 picked").wait_for()
    page.get_by_text(re.compile(r"\d+ of its 10 nearest neighbours stay")).wait_for()
    assert len(page.locator("[data-testid=stText]").first.inner_text()) > 40
    assert page.get_by_role("combobox", name="Neighbours of").input_value() != ""


# ---- bring your own -------------------------------------------------------------------------------------------


def test_a_file_of_vectors_is_uploaded_pruned_and_downloaded(visit: Visit, tmp_path: Path) -> None:
    """No model: an npy in, fewer rows out, every id found again in the rows or in the groups that they stand for."""
    page, x = visit("data"), documents_like_text(300, 16, 7)
    page.get_by_text("Vectors without a model", exact=True).click()
    out = io.BytesIO()
    np.save(out, x)
    box = page.locator("[data-testid=stExpander]", has_text="Vectors without a model")
    mine = {"name": "mine.npy", "mimeType": "application/octet-stream", "buffer": out.getvalue()}
    box.locator("input[type=file]").first.set_input_files(mine)
    page.get_by_text("mine.npy").first.wait_for()
    box.get_by_role("button", name="Check", exact=True).click()
    page.get_by_text("300 vectors of 16 dimensions").wait_for()
    page.get_by_role("button", name="Use it now").click()
    page.get_by_text("Vectors: mine.npy").wait_for()
    page.get_by_role("link", name="Prune").click()
    page.get_by_text("agreement with the whole index").first.wait_for()
    choose(page, "Cut", "Whole vectors")
    page.get_by_text("is not a conservative cut here").wait_for(timeout=120_000)
    page.get_by_role("button", name="Cut, judge & verify").click()
    with page.expect_download(timeout=120_000) as got:
        page.get_by_role("button", name=re.compile("Vectors and matrices")).click(timeout=120_000)
    got.value.save_as(tmp_path / "vectors.zip")
    with zipfile.ZipFile(tmp_path / "vectors.zip") as z:
        z.extractall(tmp_path / "out")
    folder = next(tmp_path.glob("out/**/documents.parquet")).parent
    table = pq.read_table(folder / "documents.parquet")
    ids = table["id"].to_pylist()
    groups = json.loads((folder / "groups.json").read_text()) if (folder / "groups.json").exists() else {}
    assert sorted([*ids, *(g for rest in groups.values() for g in rest)]) == sorted(map(str, range(300)))
    assert np.abs(np.array(table["vector"].to_pylist()) - x[[int(i) for i in ids]]).max() < 1e-6


def test_a_bad_line_of_an_upload_is_named(visit: Visit) -> None:
    page = visit("data")
    page.get_by_text("Texts, queries, judgements").click()
    bad = {"name": "walks.csv", "mimeType": "text/csv", "buffer": b"id,text\n1,one\n2,two,three\n"}
    page.locator("[data-testid=stFileUploader] input[type=file]").first.set_input_files(bad)
    page.get_by_text("walks.csv").first.wait_for()
    page.get_by_role("button", name="Check", exact=True).first.click()
    page.get_by_text("walks.csv, line 3").wait_for()
    assert verdict(page) == "Model: all-MiniLM-L6-v2"


# ---- every page, narrow and dark ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways_and_every_figure_has_words(visit: Visit, server: str, scheme: str) -> None:
    page = visit(width=390, height=844, scheme=scheme)
    for path in (*PAGES, "?wish=faster+encoding&target=Attention+heads", "?target=Whole+vectors&ratio_vectors=20"):
        page.goto(f"{server}/{path}")
        settled(page)
        if path != "methods":
            page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=180_000)  # whole vectors are studied first
        page.wait_for_timeout(300)
        widths = page.evaluate(
            "['stMain', 'stAppViewContainer'].map(t => document.querySelector(`[data-testid=${t}]`).scrollWidth)"
            ".concat(document.scrollingElement.scrollWidth)"
        )
        assert max(widths) <= 390, path
        words = page.evaluate(
            "[...document.querySelectorAll('.js-plotly-plot')]"
            ".map(e => e.closest('[aria-label]')?.getAttribute('aria-label') || '')"
        )
        assert all(len(w) > 15 for w in words), (path, words)
        assert path == "methods" or words
        back = page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 200) == (scheme == "dark")


# ---- workers that are cancelled or killed ---------------------------------------------------------------------


def _worker(kind: str = "study") -> int:
    """The process id of the run of this command (by default the one that trains the projection)."""
    found: list[int] = []

    def look() -> bool:
        for s in jobs.runs():
            if s.argv[0] == kind and s.state == "running" and (jobs.folder(s.id) / "pid").exists():
                found.append(int((jobs.folder(s.id) / "pid").read_text()))
        return bool(found)

    _until(look, 20, f"a {kind} run")
    return found[-1]


def _gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_cancel_and_kill_end_the_worker_and_not_the_app(visit: Visit) -> None:
    page = visit()
    choose(page, "Method", "Distilled projection")
    page.get_by_text("Shown until it is ready: SVD.").wait_for()
    pid = _worker()
    page.locator("[data-testid=stMain]").get_by_role("button", name="Cancel").click()
    page.get_by_text("Distilled projection: cancelled").first.wait_for()
    _until(lambda: _gone(pid), 10, "the worker is gone")
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("Shown until it is ready: SVD.").wait_for()
    pid = _worker()
    os.kill(pid, signal.SIGKILL)
    page.get_by_text("The worker ended without a result (killed, or out of memory)").first.wait_for()
    page.get_by_role("button", name="Try again").wait_for()
    choose(page, "Method", "SVD (rotation)")
    page.get_by_text("Shown until it is ready: SVD.").wait_for(state="hidden")
    assert verdict(page).startswith("Keep ")


# ---- the server -----------------------------------------------------------------------------------------------


def test_a_pages_own_link_opens_that_page_on_a_server_that_was_never_asked(
    browser: Any, server: str, espalier_home: Path
) -> None:
    """Streamlit would run the page alone, without the frame, until app.py has run once."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    argv = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _until(lambda: _answers(f"http://localhost:{port}"), 60, "the server answers")
        page = browser.new_page()
        page.goto(f"http://localhost:{port}/methods")
        page.get_by_text("Best practice, as the field has it").wait_for(timeout=WAIT)
        assert page.get_by_role("link", name="Data & model").count() == 1
        page.close()
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(timeout=20)


def test_a_foreign_host_is_turned_away(server: str) -> None:
    """A page of another name that resolves to this machine gets no session (DNS rebinding)."""
    port = int(server.rsplit(":", 1)[1])
    seen = {}
    for host in (f"localhost:{port}", f"evil.example:{port}"):
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        asks = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        asks |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Host": host, "Origin": f"http://{host}"}
        link.request("GET", "/_stcore/stream", headers=asks)
        seen[host.split(":")[0]] = link.getresponse().status
        link.close()
    assert seen == {"localhost": 101, "evil.example": 403}
