"""The pages in Streamlit's own harness: what they say is what core computed, and nothing a person does breaks them.

The harness swaps a process-wide runtime: one page at a time, never from threads.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from core import jobs
from core.bench import prepare
from core.plan import Step
from core.registry import card, names
from core.verdict import Study, gigabytes, study

pytestmark = pytest.mark.usefixtures("warmed", "no_worker_left")

ROOT = Path(__file__).parents[1]
PAGES = ("prune", "explore", "compare", "data", "methods")
MARKUP = '<b>bold</b> <img src=x onerror=alert(1)> ![p](https://example.org/p.png) :red[r] $x$ =cmd()|"/C calc"!A1'


@pytest.fixture(scope="module")
def svd() -> Study:
    bench = prepare("minilm", ["sample"])
    return study(bench, bench.judges[0], Step("dimensions/svd"))


def opened(**url: str) -> AppTest:
    """A new session on the landing page, with these query parameters."""
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for key, value in url.items():
        page.query_params[key] = value
    return checked(page.run())


def at(page: AppTest, name: str) -> AppTest:
    return checked(page.switch_page(f"pages/{name}.py").run())


def checked(page: AppTest) -> AppTest:
    assert not page.exception, [e.value for e in page.exception]
    return page


def verdict(page: AppTest) -> str:
    return str(next(m.value for m in page.markdown if m.value.startswith(("#### Keep", "#### All"))))


def command(page: AppTest) -> str:
    """The copied command: the plan of what is on screen."""
    return str(next(c.value for c in page.code if c.value.startswith("python -m core prune")))


def said(page: AppTest) -> str:
    """Everything a page says in messages, without Markdown's escapes."""
    parts = [e.value for kind in (page.error, page.info, page.warning, page.success, page.caption) for e in kind]
    return re.sub(r"\\([^\w\s]|_)", r"\1", " ".join(parts))


# ---- every page, the first screen -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_a_fault(name: str) -> None:
    page = at(opened(), name)
    assert page.markdown
    assert not page.error


@pytest.mark.parametrize("name", [n for n in names("dimensions") if not card(n).slow])
def test_every_quick_method_can_be_looked_at(name: str) -> None:
    page = opened(method=card(name).label, ratio="60")
    assert page.selectbox(key="method").value == name
    assert verdict(page).startswith("#### Keep 154 of 384 dimensions: ")
    assert name in command(page)


def test_the_first_screen_needs_no_torch() -> None:
    script = (
        "import sys; from streamlit.testing.v1 import AppTest\n"
        f"page = AppTest.from_file({str(ROOT / 'app.py')!r}, default_timeout=60).run()\n"
        "assert not page.exception and page.metric\n"
        "print(sorted({'torch', 'transformers', 'umap', 'sentence_transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1:] == ["[]"], done.stdout + done.stderr[-2000:]


# ---- the verdict is true of what is shown ---------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["ndcg@10", "recall@100"])
@pytest.mark.parametrize("ratio", [1, 40, 75, 96])
def test_the_verdict_agrees_with_the_study(svd: Study, ratio: int, measure: str) -> None:
    page = opened(ratio=str(ratio))
    checked(page.selectbox(key="measure").select(measure).run())
    words, band, kept = verdict(page), svd.band(measure), 384 - int(384 * ratio / 100 + 0.5)
    assert f"Keep {kept} of 384 dimensions" in words
    assert f"{100 * float(band.ratio[ratio]):.1f} %" in words
    assert f"interval {100 * float(band.low[ratio]):.1f} to {100 * float(band.high[ratio]):.1f}" in words
    assert f"random pruning: {100 * float(svd.random(measure)[0][ratio]):.1f} %" in words
    noise = float(band.p_value[ratio]) >= 0.05 and band.low[ratio] <= 1.0 <= band.high[ratio]
    assert ("no measurable loss" in words) == noise
    assert f"10 M vectors: 15.4 GB → {gigabytes(10e6 * 4 * kept)}." in words
    assert page.metric[0].value == f"{100 * float(band.ratio[ratio]):.1f} %"
    assert page.metric[3].value == f"{100 * float(svd.overlap[ratio]):.1f} %"
    assert f"keep={kept}" in command(page)


def test_nothing_cut_is_called_the_unpruned_model(svd: Study) -> None:
    page = opened(ratio="0")
    assert "All 384 dimensions: the unpruned model" in verdict(page)
    assert f"{float(svd.plain.means('ndcg@10')[0]):.3f}" in verdict(page)


def test_the_slider_starts_on_the_mark_and_moves_verdict_and_plan(svd: Study) -> None:
    page = opened()
    mark = svd.recommended("ndcg@10", 0.98)
    assert page.slider(key="ratio").value == mark
    first = verdict(page), command(page)
    checked(page.slider(key="ratio").set_value(mark + 10).run())
    second = verdict(page), command(page)
    assert first[0] != second[0]
    assert first[1] != second[1]
    checked(page.button(key="to_mark").click().run())
    assert (verdict(page), command(page)) == first


def test_the_slider_follows_the_mark_until_it_is_moved(svd: Study) -> None:
    page = opened()
    checked(page.number_input(key="floor").set_value(90.0).run())
    assert page.slider(key="ratio").value == svd.recommended("ndcg@10", 0.90)
    checked(page.slider(key="ratio").set_value(33).run())
    checked(page.number_input(key="floor").set_value(99.0).run())
    assert page.slider(key="ratio").value == 33


def test_switching_the_method_changes_the_verdict_and_the_plan() -> None:
    page = opened(ratio="60")
    first = verdict(page)
    checked(page.selectbox(key="method").select("dimensions/magnitude").run())
    assert page.slider(key="ratio").value == 60
    assert verdict(page) != first
    assert "dimensions/magnitude keep=154" in command(page)


def test_a_floor_above_what_any_cut_keeps_puts_the_mark_at_zero() -> None:
    page = opened(method=card("dimensions/leading").label)
    checked(page.number_input(key="floor").set_value(100.0).run())
    mark = study_of("dimensions/leading").recommended("ndcg@10", 1.0)
    assert mark == 0, "choose a method that loses at once"
    assert page.slider(key="ratio").value == 0
    assert "▲ **0 %**" in said(page)
    assert "All 384 dimensions" in verdict(page)


def study_of(name: str) -> Study:
    bench = prepare("minilm", ["sample"])
    return study(bench, bench.judges[0], Step(name))


def test_pairs_can_judge() -> None:
    page = opened(ratio="50")
    checked(page.selectbox(key="judge").select(1).run())
    assert "Spearman" in verdict(page)
    assert page.metric[0].label == "Spearman"
    for name in ("explore", "compare", "methods"):
        at(page, name)


# ---- state ----------------------------------------------------------------------------------------------------


def test_the_choices_survive_page_switches() -> None:
    page = opened()
    checked(page.selectbox(key="method").select("dimensions/redundancy").run())
    checked(page.slider(key="ratio").set_value(44).run())
    for name in PAGES[1:]:
        at(page, name)
    assert page.session_state["ratio"] == 44
    at(page, "compare")
    assert any("215 of 384" in m.value for m in page.markdown)
    at(page, "prune")
    assert page.selectbox(key="method").value == "dimensions/redundancy"
    assert page.slider(key="ratio").value == 44


def test_the_choices_come_back_from_the_url() -> None:
    page = opened(method=card("dimensions/magnitude").label, ratio="40", floor="95")
    assert page.selectbox(key="method").value == "dimensions/magnitude"
    assert page.slider(key="ratio").value == 40
    assert page.number_input(key="floor").value == 95
    assert "Keep 230 of 384" in verdict(page)


def test_a_url_that_makes_no_sense_is_ignored(svd: Study) -> None:
    page = opened(method="no such method", ratio="seven", floor="-3")
    assert page.selectbox(key="method").value == "dimensions/svd"
    assert page.slider(key="ratio").value == svd.recommended("ndcg@10", 0.98)
    for name in PAGES[1:]:
        at(opened(method="no such method", ratio="5000", floor="x", judge="x"), name)


def test_who_judges_comes_back_from_the_url() -> None:
    page = opened(ratio="50")
    checked(page.selectbox(key="judge").select(1).run())
    assert url(page)["judge"] == "2"
    assert "Spearman" in verdict(opened(**url(page)))
    assert "280 queries" in verdict(opened(judge="77"))


def test_two_sessions_do_not_disturb_each_other() -> None:
    one, two = opened(ratio="30"), opened(ratio="80", method=card("dimensions/magnitude").label)
    first = verdict(one)
    checked(two.slider(key="ratio").set_value(90).run())
    checked(one.run())
    assert verdict(one) == first
    assert one.selectbox(key="method").value == "dimensions/svd"
    assert one.slider(key="ratio").value == 30
    assert two.slider(key="ratio").value == 90
    assert verdict(two) != first


# ---- links to what was uploaded -------------------------------------------------------------------------------


def url(page: AppTest) -> dict[str, str]:
    """The query parameters of the page; the harness gives those of the start as words, later ones as lists."""
    found = {key: page.query_params[key] for key in page.query_params}
    return {key: value if isinstance(value, str) else value[-1] for key, value in found.items()}


@pytest.fixture
def vectors(espalier_home: Path) -> Path:
    """An upload of vectors, as the form keeps it."""
    path = espalier_home / "uploads" / ("a" * 24) / "vectors.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(0).normal(size=(300, 16)).astype("float32"))
    return path


def using(path: Path, **about: Any) -> AppTest:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    page.session_state["datasets"], page.session_state["data"] = {str(path): "my own.npy"}, str(path)
    for key, value in about.items():
        page.session_state[key] = {str(path): value}
    return checked(page.run())


def test_a_link_finds_an_upload_again_in_another_session(vectors: Path) -> None:
    first = using(vectors, metric_spec="dot")
    assert url(first)["data"].startswith("my own.npy~")
    second = opened(**url(first))
    assert second.selectbox(key="data").value == str(vectors)
    assert "my own.npy" in second.selectbox(key="data").options
    assert second.session_state["metric_spec"] == {str(vectors): "dot"}
    assert verdict(second) == verdict(first)
    assert not second.warning
    other = using(vectors, metric_spec="l2")
    assert url(other)["data"] != url(first)["data"], "compared otherwise, it is another link"
    for name in PAGES[1:]:
        assert url(at(second, name))["data"] == url(first)["data"]
    vectors.unlink()
    assert "This link's data 'my own.npy' is not on this machine: upload it again" in said(opened(**url(first)))


@pytest.mark.parametrize("word", ["v.npy", f"v.npy~{'0' * 32}", "v.npy~../../../../etc", "~", "<b>x</b>"])
def test_a_link_to_what_is_not_here_says_so_on_every_page_until_something_is_chosen(word: str, vectors: Path) -> None:
    page = opened(data=word, ratio="40")
    for name in ("compare", "prune"):
        at(page, name)
        assert f"This link's data '{word.split('~0')[0]}' is not on this machine" in said(page)
        assert url(page)["data"] == word, "a reload says it again"
    assert "280 queries" in verdict(page)
    page.session_state["datasets"] = {str(vectors): "mine"}
    checked(page.run())
    checked(page.selectbox(key="data").select(str(vectors)).run())
    assert "is not on this machine" not in said(page)
    assert url(page)["data"].startswith("mine~")


def test_a_link_opens_nothing_outside_the_folder_of_uploads(espalier_home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret.npy"
    np.save(outside, np.eye(30, dtype="float32"))
    page = using(outside)
    assert (espalier_home / "uploads" / url(page)["data"].split("~")[1] / "offer.json").exists()
    assert "is not on this machine" in said(opened(**url(page)))


def test_vectors_without_a_model_have_one_wish(vectors: Path) -> None:
    page = using(vectors)
    assert page.segmented_control(key="only_wish").disabled
    assert "there is no encoder to cut. Only the index gets smaller" in said(page)
    checked(page.toggle(key="all_targets").set_value(True).run())
    assert "dimensions/..." not in said(page)
    checked(page.selectbox(key="data").select("sample").run())
    checked(page.segmented_control(key="wish").set_value("speed").run())
    assert "not measured yet" in verdict(page)


# ---- bring your own -------------------------------------------------------------------------------------------


def uploaded(page: AppTest, content: bytes, name: str) -> AppTest:
    uploader = next(u for u in page.file_uploader if u.label == "Texts")
    uploader.set_value((name, content, "text/csv"))
    button = next(b for b in page.button if b.label == "Check" and b.form_id)
    return checked(button.click().run())


def test_texts_with_markup_are_embedded_and_shown_as_text() -> None:
    rows = [f"{MARKUP} number {i}: a walk along the {w}" for i, w in enumerate(("river", "hill", "road", "sea") * 6)]
    lines = ["text", *('"' + r.replace('"', '""') + '"' for r in rows)]
    page = uploaded(at(opened(), "data"), "\n".join(lines).encode(), "walks.csv")
    assert "walks.csv: 24 documents, 4 queries, agreement" in said(page)
    checked(page.button(key="use_data").click().run())
    at(page, "prune")
    assert "Shown until it is ready: sample" in said(page)
    assert "no download until your choice is ready" in said(page)
    assert "prepare" not in [b.key for b in page.button]
    assert "280 queries" in verdict(page)
    run = next(s for s in jobs.runs() if s.argv[0] == "embed")
    until = time.monotonic() + 90
    while (found := jobs.status(run.id)) is not None and not found.ended and time.monotonic() < until:
        time.sleep(0.2)
    assert found is not None
    assert found.state == "done", found.error
    checked(page.run())
    assert "agreement with the unpruned model" in verdict(page)
    shown: list[Any] = []
    for name in PAGES:
        at(page, name)
        if name == "explore":
            page.session_state["explore_tab"] = "Queries"
            checked(page.run())
        shown += page.markdown
        assert not page.error
    assert all(not m.allow_html for m in shown)
    texts = [m.value for m in shown if "walk along" in m.value]
    assert texts, "Explore shows a query's text"
    for text in texts:
        assert not re.search(r"(?<!\\)[<\[$]|(?<!\\):red", text), text


def test_a_bad_line_is_named_and_the_page_stays() -> None:
    page = at(opened(), "data")
    before = [m.value for m in page.markdown][:3]
    uploaded(page, b"id,text\n1,one\n2,two,three\n", "my walks.csv")
    assert "my walks.csv, line 3" in said(page)
    assert str(os.environ["ESPALIER_HOME"]) not in said(page)
    assert [m.value for m in page.markdown][:3] == before
    at(page, "prune")
    assert "280 queries" in verdict(page)
    assert page.selectbox(key="data").options == opened().selectbox(key="data").options


def test_an_empty_form_asks_for_a_file() -> None:
    page = at(opened(), "data")
    next(b for b in page.button if b.label == "Check" and b.form_id).click()
    assert "Choose a file" in said(checked(page.run()))


def test_a_model_with_a_pickle_is_refused_with_the_reason() -> None:
    packed, kind = io.BytesIO(), "sentence_transformers.models."
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{kind}Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}Pooling"},
    ]
    with zipfile.ZipFile(packed, "w") as z:
        z.writestr("config.json", "{}")
        z.writestr("modules.json", json.dumps(modules))
        z.writestr("pytorch_model.bin", b"\x80\x04cposix\nsystem\n.")
    page = at(opened(), "data")
    page.file_uploader(key="model_zip").set_value(("mine.zip", packed.getvalue(), "application/zip"))
    checked(page.button(key="take_model").click().run())
    assert "mine.zip has its weights only as pytorch_model.bin" in said(page)
    assert len(page.error) == 1
    assert str(os.environ["ESPALIER_HOME"]) not in said(page)
    at(page, "prune")
    assert page.selectbox(key="model").options == ["all-MiniLM-L6-v2"]
