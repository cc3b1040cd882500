"""Core calls kept in memory, keyed by names and fingerprints, never by arrays.

Everything in here answers at once; what would take long is a job (jobs.py) whose results lie on disk when it ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from core import budgets, data, encoders, judging, maps, pipeline, registry, results, row_study, shipped, verdict
from core.bench import Bench, Judge, lacking, missing, prepare  # the package's `prepare` is this function
from core.budgets import Budgets
from core.data import python_docs
from core.evaluate import cost
from core.evaluate import drift as moved
from core.evaluate.drift import Drift
from core.plan import Step
from core.row_study import RowStudy
from core.select import apply
from core.types import Dataset, Reduction
from core.vector_bench import is_source
from core.verdict import Study
from pages._ui.session import Choice, active, fallback_step, wanted

_FEW, _SOME, _MANY = 4, 24, 256
_QUICK = 400_000  # documents x queries up to which a study takes well under two seconds


def _written(*specs: str) -> tuple[tuple[int, int], ...]:
    """When the files behind names were written, and their sizes: a file that is read anew is another one."""
    paths = [Path(s).expanduser() for s in specs if s]
    found = [p.stat() for p in paths if p.exists()]
    return tuple((s.st_mtime_ns, s.st_size) for s in found)


@st.cache_resource(max_entries=_FEW, show_spinner=False)
def _read(spec: str, queries: str, seed: int, judged: bool, written: object) -> list[Dataset]:
    asked = Path(queries) if queries else None
    return data.load(spec, split="test" if judged else None, queries=asked, seed=seed)


def read(spec: str, queries: str, seed: int, judged: bool = True) -> list[Dataset]:
    return _read(spec, queries, seed, judged, _written(spec, queries))


@st.cache_resource(max_entries=_SOME, show_spinner=False)
def model_info(spec: str) -> encoders.ModelInfo:
    return encoders.open_model(spec)


def _bench(choice: Choice) -> Bench:
    return _opened(choice, _written(choice.data, choice.fit_on, choice.queries, *choice.pairs))


@st.cache_resource(max_entries=_FEW, show_spinner=False)
def _opened(choice: Choice, written: object) -> Bench:
    fit = [choice.fit_on] if choice.fit_on else []
    queries = Path(choice.queries) if choice.queries else None
    model = "" if is_source(choice.data) else model_info(choice.model)
    names = [choice.data, *choice.pairs]
    return prepare(model, names, fit_on=fit, queries=queries, seed=choice.seed, metric=choice.metric or None)


def ready(choice: Choice) -> bool:
    """Whether the choice can be shown without embedding or studying anything that takes long."""
    if is_source(choice.data):
        return at_once(_bench(choice), fallback_step())
    specs = [s for s in (choice.data, choice.fit_on) if s]
    if "python-docs" in specs and not python_docs.is_built():
        return False
    found = read(choice.data, choice.queries, choice.seed)
    fits = read(choice.fit_on, "", choice.seed, judged=False) if choice.fit_on else []
    if missing(model_info(choice.model), found, fits):
        return False
    bench = _bench(choice)
    return at_once(bench, fallback_step(), len(bench.judges) - 1) and at_once(bench, fallback_step())


def settle() -> tuple[Bench, Choice]:
    """The bench of what is shown: the wanted choice as soon as it is ready, until then the last one that was."""
    choice = wanted()
    if choice != active() and ready(choice):
        st.session_state["active"] = choice
    return _bench(active()), active()


def notes(bench: Bench) -> tuple[str, ...]:
    return pipeline.bench_notes(bench)


@st.cache_resource(max_entries=_MANY, show_spinner=False)
def _study(key: str, step: str, index: int, _bench: Bench, _step: Step) -> Study:
    return verdict.study(_bench, _bench.judges[index], _step)


def study(bench: Bench, step: Step, index: int = 0) -> Study:
    return _study(bench.fingerprint, str(step), index, bench, step)


@st.cache_resource(max_entries=_MANY, show_spinner=False)
def _budgets(key: str, step: str, index: int, _bench: Bench, _step: Step) -> Budgets:
    return budgets.study(_bench, _bench.judges[index], _step)


def every_size(bench: Bench, step: Step, index: int = 0) -> Budgets:
    """Every size of a code method; answers at once where `sizes_ready` says so."""
    return _budgets(bench.fingerprint, str(step), index, bench, step)


def sizes_ready(bench: Bench, step: Step, index: int = 0) -> bool:
    """Whether a code's study is on disk."""
    return budgets.ready(bench, bench.judges[index], step)


@st.cache_resource(max_entries=_MANY, show_spinner=False)
def _rows(key: str, step: str, index: int, _bench: Bench, _step: Step) -> RowStudy:
    return row_study.study(_bench, _bench.judges[index], _step)


def every_row(bench: Bench, step: Step, index: int = 0) -> RowStudy:
    """Every ratio of a method for whole vectors; answers at once where `rows_ready` says so."""
    return _rows(bench.fingerprint, str(step), index, bench, step)


def rows_ready(bench: Bench, step: Step, index: int = 0) -> bool:
    """Whether the study of a method for whole vectors is on disk."""
    return row_study.ready(bench, bench.judges[index], step)


@st.cache_resource(max_entries=_FEW, show_spinner=False)
def _whole_map(key: str, index: int, _judge: Judge) -> maps.MapPair:
    vectors = _judge.documents.vectors
    whole = Reduction(
        "none", vectors.shape[1], np.arange(vectors.shape[1]), metric=_judge.documents.metric, identity=True
    )
    return maps.pca_pair(vectors, whole, maps.sample_rows(len(vectors)))


def whole_map(bench: Bench, index: int = 0) -> maps.MapPair:
    """The map of an index as it is, at once."""
    return _whole_map(bench.fingerprint, index, bench.judges[index])


@st.cache_data(max_entries=_MANY, show_spinner=False)
def _code_stages(key: str, plan: str, index: int, shortlist: int, _bench: Bench, _step: Step) -> dict[str, float]:
    return budgets.two_stage(_bench, _bench.judges[index], _step, shortlist)


def code_stages(bench: Bench, step: Step, shortlist: int, index: int = 0) -> dict[str, float]:
    """Quality where the shortlist on the codes is scored again with the float vectors."""
    return _code_stages(bench.fingerprint, str(step), index, shortlist, bench, step)


@st.cache_resource(max_entries=_MANY, show_spinner=False)
def _lacking(key: str, name: str, _bench: Bench) -> int:
    return lacking(_bench, registry.card(name))


def at_once(bench: Bench, step: Step, index: int = 0) -> bool:
    """Whether a method's study is on disk, or so quick that no run of its own is needed."""
    judge, card = bench.judges[index], registry.card(step.name)
    if verdict.ready(bench, judge, step):
        return True
    if card.slow or judge.dataset.kind == "labels" or len(judge.documents) * len(judge.queries) > _QUICK:
        return False
    return _lacking(bench.fingerprint, step.name, bench) == 0


@st.cache_resource(max_entries=_SOME, show_spinner=False)
def _reduction(key: str, step: str, _bench: Bench, _step: Step) -> Reduction:
    return judging.reduce(_bench, _step)[1]


def reduction(bench: Bench, step: Step) -> Reduction:
    return _reduction(bench.fingerprint, str(step), bench, step)


@st.cache_data(max_entries=_MANY, show_spinner=False)
def _two_stage(
    key: str, step: str, index: int, shortlist: int, _judge: Judge, _reduction: Reduction
) -> dict[str, float]:
    return pipeline.two_stage(_judge, _reduction, shortlist)


def two_stage(bench: Bench, step: Step, shortlist: int, index: int = 0) -> dict[str, float]:
    return _two_stage(bench.fingerprint, str(step), index, shortlist, bench.judges[index], reduction(bench, step))


@st.cache_data(max_entries=_MANY, show_spinner=False)
def _search_ms(key: str, step: str, index: int, _judge: Judge, _reduction: Reduction) -> tuple[float, float]:
    small = judging.reduced(_judge, _reduction)
    return (
        cost.search_ms(_judge.queries.vectors, _judge.documents.vectors),
        cost.search_ms(small[1], small[0]),
    )


def search_ms(bench: Bench, step: Step, index: int = 0) -> tuple[float, float]:
    return _search_ms(bench.fingerprint, str(step), index, bench.judges[index], reduction(bench, step))


@st.cache_resource(max_entries=_SOME, show_spinner=False)
def _drift(key: str, step: str, index: int, _judge: Judge, _reduction: Reduction) -> Drift:
    full = _judge.documents.vectors
    near = moved.neighbours(full, maps.sample_rows(len(full)), _judge.documents.metric)  # those on the map
    metrics = (_judge.documents.metric, _reduction.metric)
    return moved.drift(full, apply(_reduction, full), metrics=metrics, near=near)


def drift(bench: Bench, step: Step, index: int = 0) -> Drift:
    return _drift(bench.fingerprint, str(step), index, bench.judges[index], reduction(bench, step))


@st.cache_resource(max_entries=_FEW, show_spinner=False)
def _clusters(key: str, index: int, _judge: Judge) -> NDArray[np.int64]:
    return results.clusters(_judge.documents.vectors)


def clusters(bench: Bench, index: int = 0) -> NDArray[np.int64]:
    return _clusters(bench.fingerprint, index, bench.judges[index])


def study_command(choice: Choice, step: Step) -> list[str]:
    """The run that makes a method's study."""
    return ["study", *choice.arguments, "--method", str(step)]


@st.cache_resource(max_entries=_SOME, show_spinner=False)
def _pca(key: str, step: str, index: int, _judge: Judge, _reduction: Reduction) -> maps.MapPair:
    vectors = _judge.documents.vectors
    return maps.pca_pair(vectors, _reduction, maps.sample_rows(len(vectors)))


def pca(bench: Bench, step: Step, index: int = 0) -> maps.MapPair:
    return _pca(bench.fingerprint, str(step), index, bench.judges[index], reduction(bench, step))


@st.cache_data(max_entries=_SOME, show_spinner=False)
def _shipped_sensitivity(key: str, target: str, criterion: str, _bench: Bench) -> dict[str, Any] | None:
    return shipped.sensitivity(_bench, target, criterion)


def shipped_sensitivity(bench: Bench, target: str, criterion: str) -> dict[str, Any] | None:
    return _shipped_sensitivity(bench.fingerprint, target, criterion, bench)
