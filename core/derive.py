"""Cut the encoder itself: the encoder steps of a plan make a smaller model folder, kept on disk and checked.

    derived = derive(model, steps, fit, seed=0)      Derived: .info (a ModelInfo like any other), .shape, .rounded

The source is never changed: a copy is cut in memory, written, gated and loaded again, and its vectors must be the
ones of the copy. Everything after that (embedding, judging, dimension cuts, export) works on the folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core import live, registry
from core.anatomy import check_target
from core.asking import pseudo_queries, title_body_pairs
from core.calibration import CalibrationTexts
from core.cuts import Work, perform
from core.embedding import embed, load, prompt_of
from core.encoders import VECTORS, ModelInfo
from core.errors import InputError
from core.evaluate.cost import peak_bytes
from core.folders import Derived as Derived
from core.folders import about, complete, read, write
from core.methods.weights import WeightMethod
from core.plan import Group, Plan, Step
from core.planned import planned
from core.rounds import Rounds, held_rows
from core.store import home
from core.types import Floats, Ints, Progress, Texts, digest, quiet

_VERSION = "derived 5"  # raise it when a cut's computation changes, so that old folders are not found again


def check(model: ModelInfo, steps: Sequence[Step | Group]) -> None:
    """Raise InputError or PlanError before any work where the architecture or a method cannot make these cuts."""
    for step in Plan(tuple(steps)).flat:
        if model.architecture == VECTORS or step.target != "recover":  # vectors are all that recovery looks at
            trains = registry.card(step.name).kind == "training"
            check_target(model.architecture, str(step.get("target", "neurons")) if trains else step.target)
        method = registry.build(step)
        if isinstance(method, WeightMethod) and step.cut is not None:
            method.check(step.cut.ratio)
    planned(model, steps)


def derive(
    model: ModelInfo, steps: Sequence[Step | Group], fit: Texts, seed: int = 0, progress: Progress = quiet
) -> Derived:
    """Cut a copy of the encoder by these steps, or find the folder where that was done before.

    Methods learn from unlabelled `fit` texts. Memory: the model up to three times, and the hidden states of the
    calibration texts. Raises InputError for what the architecture cannot do, Fault where the saved model differs.
    """
    check(model, steps)
    if not len(fit):
        raise InputError("no texts to calibrate on (0, at least 1 is wanted): give a corpus with --data or --fit-on")
    key = digest(_VERSION, model.fingerprint, fit.fingerprint, str(Plan(tuple(steps))), str(seed))
    folder = home() / "derived" / key
    if not complete(folder) or (about(folder)["facts"].get("stopped") and not live.stopped()):
        _make(folder, model, steps, fit, seed, progress)
    return read(folder, model)


def _make(
    folder: Path, model: ModelInfo, steps: Sequence[Step | Group], fit: Texts, seed: int, progress: Progress
) -> None:
    start = time.perf_counter()
    progress("loading the encoder", 0, 1)
    with live.stoppable(any(isinstance(s, Group) or s.cut is None for s in steps)):
        work = _performed(model, tuple(steps), fit, seed, progress)
    work.facts |= {"seconds": time.perf_counter() - start, "peak_memory_bytes": peak_bytes()}
    work.facts |= {"stopped": True} if live.stopped() else {}
    write(folder, work, model.path)


def _performed(model: ModelInfo, steps: tuple[Step | Group, ...], fit: Texts, seed: int, progress: Progress) -> Work:
    """The encoder in memory after these steps; what the rounds of a schedule left on disk is not done again."""

    def teacher(texts: Sequence[str]) -> Floats:
        return embed(model, texts, "sentence").vectors

    source, texts, held = load(model.path), calibration_texts(model, fit, seed), np.zeros(0, np.int64)
    if any(isinstance(step, Group) for step in steps):
        held = held_rows(fit, np.random.default_rng(seed).permutation(len(fit)).tolist())
        texts = calibration_texts(model, fit, seed, held)

    def after(done: tuple[Step | Group, ...]) -> Work:
        if not done:
            return Work.start(source, texts, seed, progress, teacher)
        *before, step = done
        if isinstance(step, Group):
            rounds = Rounds(model, tuple(before), step, fit, held, texts, source, teacher, _VERSION, seed, progress)
            return rounds.run(lambda: after(tuple(before)))
        work = after(tuple(before))
        perform(work, step)
        return work

    return after(steps)


def calibration_texts(
    model: ModelInfo, fit: Texts, seed: int = 0, without: Ints | Sequence[int] = ()
) -> CalibrationTexts:
    """Documents, and titles and sentences that stand in for queries, each with the prompt it would be embedded with.

    `without` are rows of documents that are left out with all that was taken from them; the others keep their order.
    """
    rng, gone = np.random.default_rng(seed), set(map(int, without))
    documents, (short, owners) = list(fit.full), pseudo_queries(fit)
    before = (prompt_of(model, "document"), prompt_of(model, "query"))
    read, asked = (
        tuple(prompt + texts[i] for i in rng.permutation(len(texts)) if int(rows[i]) not in gone)
        for prompt, texts, rows in zip(before, (documents, short), (np.arange(len(fit)), owners), strict=True)
    )
    titled = title_body_pairs(fit.take([i for i in range(len(fit)) if i not in gone]))
    pairs = [(before[1] + title, before[0] + body) for title, body in zip(*titled, strict=True)]
    return CalibrationTexts(read, asked, tuple(pairs[i] for i in rng.permutation(len(pairs))))
