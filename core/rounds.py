"""Rounds of a schedule: prune a little, recover, evaluate on held-out texts, keep, and go on.

    Rounds(model, before, group, fit, texts, held, source, seed).run(start)  -> Work

Every round's encoder is a folder of its own, and the next round begins from that folder: a killed worker loses the
round it was in and nothing else. Ratios grow as in Zhu and Gupta, To prune, or not to prune, 2017, eq. 1 (cubic), and
count from the units that the schedule began with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from core import live, registry
from core.anatomy import Anatomy, Shape
from core.asking import pseudo_queries
from core.calibration import CalibrationTexts
from core.cuts import Origin, Work, perform
from core.embedding import embed, encode, prompt_of
from core.encoders import ModelInfo
from core.errors import InputError
from core.evaluate import ranking, retrieval
from core.evaluate.judgements import Judgements, from_neighbours, from_qrels
from core.folders import about, complete, resume, write
from core.plan import Cut, Group, Plan, Step
from core.store import home
from core.types import Floats, Ints, Progress, Texts, digest, quiet, unit

HELD = 256  # documents that no round learns from, a fifth where there are few
LEAST = 10


# ---- how much goes in each round ------------------------------------------------------------------------------


def shares(rounds: int, schedule: str) -> list[float]:
    """The share of the final ratio that each round cuts to; the last is exactly 1."""
    done = [r / rounds for r in range(1, rounds + 1)]
    return done if schedule == "linear" else [1 - (1 - x) ** 3 for x in done]


def units(shape: Shape, target: str) -> int:
    """How many units a cut of this target counts, in the layer that has most."""
    linears = round(shape.flops_per_token(0) / 2)
    return {"neurons": max(shape.inner, default=0), "heads": max(shape.heads, default=0),
            "layers": len(shape.heads), "width": shape.width, "tokens": shape.vocabulary,
            "weights": linears}[target]  # fmt: skip


def final_ratio(cut: Cut, count: int) -> float:
    """The share of `count` units that a cut removes in the end."""
    return cut.ratio if cut.ratio is not None else 1 - (cut.keep or 0) / count


def at(step: Step, share: float, number: int, origin: Shape, here: Shape) -> Step:
    """The step as round `number` does it: its cut so far, its seed moved on."""
    moved = tuple((k, v + number - 1 if k == "seed" and isinstance(v, int) else v) for k, v in step.options)
    step, cut = Step(step.name, moved), step.cut
    if cut is None or cut.ratio == 0:
        return step
    count = units(origin, step.target)
    part = cut if share == 1 else Cut(ratio=share * final_ratio(cut, count))
    if step.target in ("layers", "tokens"):  # what is left says nothing of how many there were
        return step.with_cut(keep=min(part.count(count), units(here, step.target)))
    return step if share == 1 else step.with_cut(ratio=part.ratio)


# ---- how good a round is --------------------------------------------------------------------------------------


def held_rows(fit: Texts, order: Sequence[int]) -> Ints:
    """Rows of documents that are held out: the last of a seeded order that are longer than what is asked for them.

    Raises InputError where there are too few texts to hold any out.
    """
    if len(fit) < LEAST:
        raise InputError(
            f"iterate(...) holds texts out to judge its rounds: {len(fit)} are given, at least {LEAST} are needed"
        )
    asked, owners = pseudo_queries(fit)
    longer = {int(i) for i, text in zip(owners, asked, strict=True) if text != fit.texts[int(i)]}
    able = [i for i in order if i in longer] or list(order)
    return np.sort(np.array(able[-min(HELD, len(fit) // 5) :], np.int64))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Known-item search: titles and single sentences of held-out documents are to find the document they are from.

    Documents are read without their titles. Where all are single sentences, each is to find its neighbours of before.
    Easier than real queries: over six cuts of MiniLM it ordered them as SciFact's train queries do, and lost a third
    as much (benchmarks, schedules).

    dense   (documents + queries, d) vectors of the unpruned encoder; `base` its nDCG@10
    """

    texts: tuple[list[str], list[str]]
    prompts: tuple[str, str]
    task: Judgements
    dense: Floats
    base: float
    model: ModelInfo

    @classmethod
    def start(cls, model: ModelInfo, held: Texts, progress: Progress = quiet) -> HeldOut:
        """Embed the held-out texts with the unpruned encoder, once for all rounds."""
        asked, owners = pseudo_queries(held)
        bodies = list(held.texts)
        names = [str(i) for i in range(len(held))]
        documents, queries = embed(model, bodies, "document", progress), embed(model, asked, "query", progress)
        dense = np.concatenate([documents.vectors, queries.vectors])
        if all(text == held.texts[int(i)] for i, text in zip(owners, asked, strict=True)):
            task = from_neighbours(queries.vectors, documents.vectors, names, owners, metric=model.metric)
        else:
            qrels = {str(q): {names[int(i)]: 1} for q, i in enumerate(owners)}
            task = from_qrels(list(qrels), names, qrels)
        prompts = (prompt_of(model, "document"), prompt_of(model, "query"))
        found = cls((bodies, asked), prompts, task, dense, 1.0, model)
        return replace(found, base=found._ndcg(dense))

    def look(self, encoder: Any) -> tuple[float, float]:
        """(nDCG@10 as a share of the unpruned encoder's, mean cosine to its vectors); NaN where sizes differ."""
        vectors = np.concatenate([encode(encoder, t, p) for t, p in zip(self.texts, self.prompts, strict=True)])
        same = vectors.shape == self.dense.shape
        cosine = float(np.einsum("ij,ij->i", unit(vectors), unit(self.dense)).mean()) if same else float("nan")
        return self._ndcg(vectors) / self.base, cosine

    def _ndcg(self, vectors: Floats) -> float:
        n = len(self.texts[0])
        found = ranking.ranks(self.task, vectors[n:], vectors[:n], [vectors.shape[1]], self.model.metric)[0]
        return float(retrieval.per_query(self.task, found)["ndcg@10"].mean())


# ---- the rounds -----------------------------------------------------------------------------------------------


class _Stopped(Exception):
    """The person wants what there is; `work` is that of the round under way."""

    def __init__(self, work: Work | None = None) -> None:
        self.work = work


@dataclass(frozen=True, eq=False)
class Rounds:
    """A group of steps to be repeated behind the steps `before`; `texts` are without those of the rows `held`."""

    model: ModelInfo
    before: tuple[Step | Group, ...]
    group: Group
    fit: Texts
    held: Ints
    texts: CalibrationTexts
    source: Any
    teacher: Any
    version: str
    seed: int = 0
    progress: Progress = quiet

    @cached_property
    def options(self) -> dict[str, Any]:
        return dict(self.group.options)

    @cached_property
    def judge(self) -> HeldOut:
        return HeldOut.start(self.model, self.fit.take(self.held), self.progress)

    def folder(self, number: int) -> Path:
        """Where round `number` is kept; floor and take do not change it."""
        kept = tuple((k, v) for k, v in self.group.options if k not in ("floor", "take"))
        plan = Plan((*self.before, replace(self.group, options=kept)))
        parts = (self.version, self.model.fingerprint, self.fit.fingerprint, str(plan), str(self.seed))
        return home() / "derived" / digest("round", str(number), *parts)

    def run(self, start: Callable[[], Work]) -> Work:
        """The encoder of the round that is to be given; `start` does the steps before it where they are needed."""
        rows: list[dict[str, Any]] = []
        taken, floor = int(self.options["take"]), float(self.options["floor"])
        total = self.options["rounds"]
        given, said = 0, ""
        for number in range(1, (taken or total) + 1):
            try:
                rows.append(self.round(number, start))
            except _Stopped as stop:
                if stop.work is not None and not given:
                    return _cut_short(stop.work)
                said = f"stopped in round {number} of {total}: round {given} is given"
                break
            quality = rows[-1]["quality"]
            if quality < floor and not taken:
                what = f"round {given} is given" if given else "nothing was cut; take=1 gives it"
                said = f"stopped at round {number} of {total}: {100 * quality:.1f} % is below the floor of "
                said += f"{100 * floor:g} %; {what}"
                break
            given = number
        work = self.resume(given) if given else start()
        work.origin = None
        work.facts |= {"rounds": rows, "round_given": given}
        work.notes += [said] if said else []
        return work

    def resume(self, number: int) -> Work:
        return resume(self.folder(number), self.source, self.texts, self.seed, self.progress, self.teacher)

    def round(self, number: int, start: Callable[[], Work]) -> dict[str, Any]:
        """Do a round, or find it; its row of figures. Raises _Stopped where the person wants what there is."""
        folder = self.folder(number)
        if not complete(folder):
            if live.stopped() and number > 1:
                raise _Stopped
            begun = time.perf_counter()
            work = self.resume(number - 1) if number > 1 else start()
            self.cut(work, number)
            if live.stopped():
                raise _Stopped(work)
            quality, cosine = self.judge.look(work.encoder)
            row = {"round": number, "ratio": self.ratio(work, number), "quality": quality, "cosine": cosine,
                   "parameters": Anatomy(work.encoder, "tokens").shape.parameters,
                   "seconds": time.perf_counter() - begun}  # fmt: skip
            work.facts["rounds"] = [*(work.facts.get("rounds", []) if number > 1 else []), row]
            write(folder, work, self.model.path)
        found: dict[str, Any] = about(folder)["facts"]["rounds"][-1]
        live.point(phase="round", step=number, steps=self.options["rounds"], **found)
        return found

    def cut(self, work: Work, number: int) -> None:
        """The group's steps once, each to what this round wants of it."""
        if work.origin is None:
            shape = Anatomy(work.encoder, "tokens").shape
            work.origin = Origin(shape, tuple(work.layers), tuple(work.rounded), tuple(work.notes))
        work.rounded, work.notes = list(work.origin.rounded), list(work.origin.notes)
        total = self.options["rounds"]
        share = shares(total, self.options["schedule"])[number - 1]
        for n, step in enumerate(self.group.steps):
            self.progress(f"round {number} of {total}: {registry.card(step.name).label}", n, len(self.group.steps))
            here = Anatomy(work.encoder, "tokens").shape
            perform(work, at(step, share, number, work.origin.shape, here))

    def ratio(self, work: Work, number: int) -> float:
        """What the first cut of the group has removed by now, as a ratio."""
        assert work.origin is not None
        step = next(s for s in self.group.steps if s.cut)
        assert step.cut is not None
        final = final_ratio(step.cut, units(work.origin.shape, step.target))
        return final * shares(self.options["rounds"], self.options["schedule"])[number - 1]


def _cut_short(work: Work) -> Work:
    """Stopped before any round was whole: its cut, with what was trained by then."""
    work.origin = None
    work.facts |= {"rounds": [], "round_given": 1}
    work.notes.append("stopped in round 1: its cut is given, with what was trained by then")
    return work


def settled(plan: Plan, given: int | None) -> Plan:
    """The plan whose schedule gives just this round, whatever the floor: what random units are compared at."""

    def one(step: Step | Group) -> Step | Group:
        if not isinstance(step, Group) or given is None:
            return step
        if not given:
            steps = tuple(s.with_cut(ratio=0.0) if s.cut else s for s in step.steps)
            return replace(step, steps=steps)
        options = {"floor": 0.0, "take": given}
        return replace(step, options=tuple((k, options.get(k, v)) for k, v in step.options))

    return Plan(tuple(map(one, plan.steps)))
