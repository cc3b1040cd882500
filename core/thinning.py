"""Whole vectors cut from the indexes of a bench: each data set's own rows, and the same questions to what is left.

cut_judges(bench, reduction, steps)   which rows of each index stay, behind the dimension cut
thinned(judges, rows)                 the judges with the indexes that are left
ceiling(judge)                        what no search can bring back
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from core import registry
from core.bench import Bench, Judge
from core.errors import InputError
from core.evaluate.similarity import spearman
from core.judging import figures
from core.methods.base import Card
from core.plan import Step
from core.rows import as_shares, cut_rows, everything
from core.select import apply
from core.storing import judged
from core.types import Codes, FitContext, Measurement, Progress, Reduction, Rows, quiet

ASKED = "pseudo-queries"


def cut_judges(
    bench: Bench, reduction: Reduction, steps: Sequence[Step], progress: Progress = quiet
) -> tuple[tuple[Rows, ...], tuple[str, ...]]:
    """Which rows of each data set's index stay, and the methods' notes; () where no step cuts any.

    A ratio is cut from each index; pairs of words follow the index they are about, sentence pairs lose nothing.
    """
    if not steps:
        return (), ()
    found: list[Rows] = []
    notes: tuple[str, ...] = ()
    for judge in bench.judges:
        if judge.dataset.kind == "pairs":
            found.append(everything(len(judge.documents)) if judge.sides is None else found[0])
            continue
        context = behind_cut(bench.index(judge, needed(steps), progress), reduction)
        rows, said = cut_rows(context, judge.documents.vectors, steps)
        found.append(rows)
        notes += said
    return tuple(found), tuple(dict.fromkeys(notes))


def check_index(bench: Bench, steps: Sequence[Step]) -> None:
    """Before any work: raise InputError where these steps have no index to cut, PlanError where it has too few rows."""
    for judge in bench.judges:
        if judge.task is not None:
            as_shares(steps, len(judge.documents))
    if steps and all(j.dataset.kind == "pairs" and j.sides is None for j in bench.judges):
        raise InputError(f"{steps[0].name}: sentence pairs have no index to cut rows from. Give a corpus with --data")


def needed(steps: Sequence[Step]) -> Card:
    """The card that asks for most: pseudo-queries where any step learns from them."""
    cards = [registry.card(s.name) for s in steps]
    return next((c for c in cards if c.learns_from == ASKED), cards[0])


def behind_cut(context: FitContext, reduction: Reduction) -> FitContext:
    """The index and what asks it, as both look after a dimension cut."""
    if reduction.identity:
        return context
    asked = apply(reduction, context.pseudo_queries, "query")
    documents = apply(reduction, context.documents)
    return replace(context, documents=documents, pseudo_queries=asked, metric=reduction.metric)


def thinned(judges: Sequence[Judge], rows: Sequence[Rows]) -> tuple[Judge, ...]:
    """The judges with the indexes that are left; themselves where no row was cut."""
    if not rows:
        return tuple(judges)
    return tuple(
        j.without(r, (judges[0] if j.sides is not None else j).documents.vectors)
        for j, r in zip(judges, rows, strict=True)
    )


def paired(judge: Judge, before: Measurement, rows: Sequence[Rows]) -> Measurement:
    """The measurement before, on what can still be compared: of pairs of words, those of which both are left."""
    if judge.sides is None or not rows:
        return before
    assert judge.dataset.scores is not None
    stays = judge.covered(rows[0])
    scores = before.values["score"][stays]
    return replace(before, values={"score": scores}, extra={"spearman": spearman(scores, judge.dataset.scores[stays])})


def covered_notes(judges: Sequence[Judge], rows: Sequence[Rows]) -> tuple[str, ...]:
    """How many pairs of words are still whole, where any is not."""
    out = []
    for judge in judges if rows else ():
        if judge.sides is not None and len(judge.covered(rows[0])) < len(judge.documents):
            out.append(f"{judge.name}: both words of {len(judge.covered(rows[0])):,} of {len(judge.documents):,} pairs "
                       "are left; what is kept is told of these")  # fmt: skip
    return tuple(out)


def same_rows(judges: Sequence[Judge], rows: Sequence[Rows]) -> tuple[Judge, ...]:
    """The judges with their own vectors of the rows that a search can still bring up: what those are held against."""
    return thinned(judges, [_unmerged(j, r) for j, r in zip(judges, rows, strict=True)] if rows else ())


def _unmerged(judge: Judge, rows: Rows) -> Rows:
    left = judge.held(rows)
    own = np.full(len(rows.stands), -1)
    own[left] = left
    return Rows(rows.method, left, own)


@dataclass(frozen=True)
class Ceiling:
    """What is left to be found: shares of judged documents, over all and as the mean over queries.

    lost    queries of which no relevant document is left; alone  the share that stays by itself, not in a group
    """

    judged: float
    queries: float
    lost: int
    alone: float


def ceiling(judge: Judge, rows: Rows) -> Ceiling | None:
    """How many of the judged documents a search of the index that is left can still bring up; None without any."""
    task = judge.task
    if task is None or not len(task):
        return None
    document = task.columns[task.judged]
    stays = rows.stands[document] >= 0
    each = np.add.reduceat(stays.astype(np.float64), task.pointer[:-1]) / np.diff(task.pointer)
    alone = float(np.isin(document, rows.kept).mean())
    return Ceiling(float(stays.mean()), float(each.mean()), int((each == 0).sum()), alone)


def survivors_alone(
    bench: Bench, rows: Sequence[Rows], reduction: Reduction, codes: Codes | None, before: Sequence[Measurement]
) -> dict[str, dict[str, float]]:
    """What is kept where hits on survivors are not expanded to the rows they stand for; {} where nothing is folded."""
    own = [replace(r, stands=np.where(np.isin(np.arange(len(r.stands)), r.kept), r.stands, -1)) for r in rows]
    if all((a.stands == b.stands).all() for a, b in zip(own, rows, strict=True)):
        return {}
    out = {}
    for judge, one in zip(thinned(bench.judges, own), before, strict=True):
        if judge.task is not None:
            two, base = figures(judged(judge, reduction, codes)), figures(one)
            out[judge.name] = {m: two[m] / v if v > 0 else float("nan") for m, v in base.items()}
    return out
