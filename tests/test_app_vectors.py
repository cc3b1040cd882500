"""The pages with vectors instead of a model: whole vectors, uploads, interactions, and a Milvus collection and back.

The harness swaps a process-wide runtime: one page at a time, never from threads.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from core import row_study, stores
from core.bench import prepare
from core.plan import Step
from core.vector_bench import open_bench
from core.verdict import study
from pages._ui import cache
from pages._ui.session import Choice
from tests.interactions_like import drawn, write_movielens
from tests.synthetic import documents_like_text
from tests.test_app import at, checked, command, opened, said, verdict

pytestmark = pytest.mark.usefixtures("warmed", "no_worker_left")

ROWS = 300


def vectors() -> bytes:
    out = io.BytesIO()
    np.save(out, documents_like_text(ROWS, 16, 7))
    return out.getvalue()


def until(page: AppTest, done: Callable[[], bool], seconds: float = 60) -> AppTest:
    """Run the page again until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, said(page)
        time.sleep(0.5)
        checked(page.run())
    return page


def given(page: AppTest, files: dict[str, list[tuple[str, bytes]]]) -> AppTest:
    """Put files into the vectors form, by the first words of each label, and send it."""
    for label, parts in files.items():
        box = next(u for u in page.file_uploader if u.label.startswith(label))
        found = [(name, content, "application/octet-stream") for name, content in parts]
        box.set_value(found if "sets" in label else found[0])
    return checked(next(b for b in page.button if b.form_id == "vectors").click().run())


# ---- whole vectors of a corpus --------------------------------------------------------------------------------


def test_whole_vectors_are_judged_at_every_ratio_with_the_ceiling() -> None:
    bench = prepare("minilm", ["sample"])
    found = row_study.study(bench, bench.judges[0], Step("vectors/duplicates"))
    page = checked(opened().selectbox(key="target").select("vectors").run())
    mark = found.recommended("ndcg@10", 0.98)
    first, second = row_study.sentence(found, mark, "ndcg@10", 1e7, 384)
    assert (first in verdict(page), second in verdict(page)) == (True, True)
    assert "30 % is not a conservative cut here" in said(page)
    checked(page.slider(key="ratio_vectors").set_value(40).run())
    first, _ = row_study.sentence(found, found.at(40), "ndcg@10", 1e7, 384)
    assert first in verdict(page)
    assert not any(
        "no relevant document" in m.value for m in page.markdown
    )  # duplicates are found through their survivors


def test_what_has_no_answer_left_is_counted() -> None:
    bench = prepare("minilm", ["sample"])
    found = row_study.study(bench, bench.judges[0], Step("vectors/density"))
    page = checked(opened().selectbox(key="target").select("vectors").run())
    checked(page.selectbox(key="method_vectors").select("vectors/density").run())
    checked(page.slider(key="ratio_vectors").set_value(60).run())
    lost = row_study.lost(bench.judges[0], found.rows(found.at(60)))
    assert any(f"**{len(lost):,}** of 280 queries" in m.value for m in page.markdown)


# ---- a file of vectors ----------------------------------------------------------------------------------------


def test_an_uploaded_file_is_pruned_without_a_model() -> None:
    page = at(opened(), "data")
    ids = "\n".join(f"w{i}" for i in range(ROWS)).encode()
    pairs = "\n".join(f"w{i}\tw{i + 1}\t{i % 9}" for i in range(0, 80, 2)).encode()
    files = {
        "Vectors": [("mine.npy", vectors())],
        "Ids": [("ids.txt", ids)],
        "Word-similarity sets": [("set.txt", pairs)],
    }
    page = given(page, files)
    assert "300 vectors of 16 dimensions" in said(page)
    checked(page.button(key="use_vectors").click().run())
    assert any(m.value == "#### Vectors: mine.npy" for m in page.markdown)
    page = at(page, "prune")
    assert page.selectbox(key="model").disabled
    spec = page.selectbox(key="data").value
    bench = open_bench([spec, str(next(Path(spec).parents[1].glob("*/word-pairs-1.txt")))], metric="cosine")
    found = study(bench, bench.judges[0], Step("dimensions/svd"))
    mark = found.recommended("ndcg@10", 0.98)
    assert f"Keep {found.plain.kept[mark]} of 16 dimensions" in verdict(page)
    assert "agreement with the whole index" in verdict(page)
    assert "--format vectors" in command(page)
    assert "--metric cosine" in command(page)
    assert next(c for c in page.segmented_control if c.label == "I want").disabled, "there is no encoder to cut"
    for name in ("explore", "compare", "data", "methods"):
        checked(at(page, name))
    page = at(page, "data")
    assert "Normalised for cosine" in said(page)
    words = " ".join(m.value for m in page.markdown)
    assert "**mine.npy**: 300 vectors, 60 queries, agreement with the unpruned ranking" in words
    assert "40 pairs, scored by people" in words
    assert "(240 vectors, no judgements)" in words


def test_a_bad_file_is_named_and_the_page_stays() -> None:
    page = at(opened(), "data")
    out = io.BytesIO()
    np.save(out, np.array([[1.0, np.nan]], np.float32))
    page = given(page, {"Vectors": [("bad.npy", out.getvalue())]})
    assert any("NaN" in e.value and "bad.npy" in e.value for e in page.error)
    assert "use_vectors" not in [b.key for b in page.button]


def test_interactions_are_factorised_and_judged_by_what_users_were_kept_back_from(tmp_path: Path) -> None:
    write_movielens(tmp_path / "u.data", *drawn(users=200, items=150))
    page = at(opened(), "data")
    page = given(page, {"Vectors": [("u.data", (tmp_path / "u.data").read_bytes())]})
    assert "200 users" in said(page)
    checked(page.button(key="use_interactions").click().run())
    page = at(page, "prune")
    assert "Hit rate@10" in page.selectbox(key="measure").options
    assert "dimensions" in verdict(page)


def test_a_bad_model_is_called_by_its_own_name() -> None:
    page, out = at(opened(), "data"), io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("read.me", "no model")
    page.file_uploader(key="model_zip").set_value(("my-model.zip", out.getvalue(), "application/zip"))
    checked(page.button(key="take_model").click().run())
    assert any(e.value.startswith(r"my-model.zip") for e in page.error), said(page)


# ---- the other pages say what they show -----------------------------------------------------------------------


def test_explore_ranks_queries_as_the_prune_page_does() -> None:
    page = opened(ratio="80")
    worst = next(d.value for d in page.dataframe if "change" in d.value)
    page = at(page, "explore")
    page.session_state["explore_tab"] = "Queries"
    checked(page.run())
    shown = page.selectbox(key="query").options[: len(worst)]
    rows = zip(worst["before"], worst["after"], worst["query"], strict=True)
    assert list(shown) == [f"{b:.2f} → {a:.2f}   {q[:110]}" for b, a, q in rows]
    assert "judged outside the fit" in said(page)


def test_pages_of_dimensions_say_so_when_layers_are_cut() -> None:
    page = opened()
    checked(page.segmented_control(key="wish").set_value("model").run())
    checked(page.selectbox(key="target").select("layers").run())
    for name in ("explore", "compare"):
        words = said(at(page, name))
        assert "Dimensions only; the Prune page is on *layers*." in words
        assert "those of the Prune page" not in words


# ---- Milvus ---------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Milvus Lite file with one collection, named as a person names it before the start."""
    from core.milvus_push import push

    uri = str(tmp_path / "index.db")
    x = documents_like_text(ROWS, 16, 7)
    ids = tuple(f"w{i}" for i in range(ROWS))
    batch = stores.Batch(ids, x, [{"title": f"t{i}"} for i in range(ROWS)])
    push(stores.parse(f"{uri}#docs"), [batch], dimension=16, metric="cosine", id_type="string", source=None,
         rows=ROWS, fingerprint="0" * 32, alias="", index="FLAT")  # fmt: skip
    monkeypatch.setenv("ESPALIER_MILVUS", uri)
    return uri


def test_a_collection_is_read_pruned_and_written_back(database: str) -> None:
    page = at(opened(), "data")
    checked(page.button(key="read_milvus").click().run())
    until(page, lambda: "use_milvus" in [b.key for b in page.button])
    checked(page.button(key="use_milvus").click().run())
    page = at(page, "prune")
    assert "of 16 dimensions" in verdict(page)
    checked(page.button(key="push").click().run())
    until(page, lambda: "read back bit for bit" in said(page))
    found = stores.collections(database)
    made = next(c for c in found if "docs_00000000_pruned" in c.aliases)
    assert made.rows == ROWS
    checked(page.button(key="compare_milvus").click().run())
    until(page, lambda: any("two-stage, fetched" in str(d.value) for d in page.dataframe))


def test_without_a_named_database_no_address_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESPALIER_MILVUS", raising=False)
    page = at(opened(), "data")
    assert any("ESPALIER_MILVUS" in m.value for m in page.markdown)
    assert "milvus_pick" not in [s.key for s in page.selectbox]


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    """A collection that is read again keeps its path."""
    choice = Choice("minilm", str(tmp_path / "x.npy"))
    found = []
    for seed in (1, 1, 2):
        np.save(tmp_path / "x.npy", documents_like_text(60, 8, seed))
        found.append(cache._bench(choice).fingerprint)
    assert found[0] == found[1] != found[2]
