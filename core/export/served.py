"""A cut as its int8 graph serves it: every judged text embedded again by the graph itself, figures made of that.

    served = as_served(bench, cut, OnnxEncoder(folder).encode)      a Cutting like any other

fp32 figures of a model that is handed out in int8 would promise what nobody downloads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from core.bench import Bench, Judge
from core.embedding import Role, prompt_of
from core.judging import compare
from core.pipeline import Cutting, drift, two_stage
from core.report import pruning
from core.storing import judged
from core.types import Embeddings, Floats, Progress, Reduction, quiet, unit

_CHUNK = 256


def as_served(
    bench: Bench,
    cut: Cutting,
    encode: Callable[[Sequence[str], str], Floats],
    seed: int = 0,
    rescore: int = 0,
    progress: Progress = quiet,
) -> Cutting:
    """The cutting with `after`, retention, drift and two-stage figures of these vectors; what was cut stays."""
    metric = cut.reduction.metric

    def again(judge: Judge) -> Judge:
        roles: tuple[Role, Role] = (
            ("document", "query") if judge.dataset.kind == "retrieval" else ("sentence", "sentence")
        )
        sides = (judge.dataset.documents.full, judge.dataset.queries.full)
        found = []
        for texts, role in zip(sides, roles, strict=True):
            x = _embedded(encode, texts, prompt_of(bench.model, role), f"embedding {judge.name} in int8", progress)
            found.append(Embeddings(unit(x) if metric == "cosine" else x, metric))
        return Judge(judge.dataset, found[0], found[1], judge.task)

    judges = tuple(again(j) for j in bench.judges)
    size = cut.reduction.size
    same = Reduction("none", size, np.arange(size), metric=metric, identity=True)  # the graph holds the dimension cut
    after = tuple(judged(j, same, cut.codes) for j in judges)
    stages = {}
    for one, two in zip(bench.judges, judges, strict=True):
        if rescore and one.task is not None:
            stages[one.name] = two_stage(two, same, rescore, one, cut.codes)
    return replace(
        cut, after=after, two_stage=stages, drift=drift(judges[0], same, seed, bench.judges[0], codes=cut.codes),
        retention={j.name: compare(j, a, b, seed) for j, a, b in zip(bench.judges, cut.before, after, strict=True)},
    )  # fmt: skip


def _embedded(
    encode: Callable[[Sequence[str], str], Floats], texts: Sequence[str], prompt: str, what: str, progress: Progress
) -> Floats:
    """All texts, those of similar length together, with a look at the cancel button between chunks."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    parts = []
    for start in range(0, len(order), _CHUNK):
        progress(what, start, len(order))
        parts.append(encode([texts[i] for i in order[start : start + _CHUNK]], prompt))
    progress(what, len(order), len(order))
    return np.asarray(np.concatenate(parts)[np.argsort(order)], np.float32)


def as_report(bench: Bench, served: Cutting, report: dict[str, Any]) -> None:
    """Put the served figures into a report in place; the fp32 ones stay beside them as after.fp32."""
    fp32 = {"quality": report["after"]["quality"], "retention": report["retention"], "drift": report["drift"]}
    report |= pruning(bench, served, report["seed"])
    report["after"]["fp32"] = fp32
    report["notes"].append(
        "all figures after the cut are those of the int8 graph itself; random pruning beside them is fp32"
    )
