"""From the command line's arguments to what commands work on: the model, the bench, one method, a list of ratios."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from core import registry, sweeps
from core.bench import Bench, prepare
from core.data.vector_bodies import TEXT
from core.encoders import ModelInfo, open_model
from core.errors import InputError, PlanError
from core.pilot import equipped
from core.plan import Step, parse
from core.store import path_problem, sweep_partials
from core.types import Progress
from core.vector_bench import is_source

NAMES = {
    "cache": "--cache", "model": "--model", "data": "--data", "fit_on": "--fit-on", "queries": "--queries",
    "source": "--in", "out": "--out", "judge": "--judge", "pruned": "--with", "projection": "--projection",
    "groups": "--groups", "users": "--users", "items": "--items", "recipe": "RECIPE",
}  # fmt: skip
LONGEST = 255  # bytes of a file's name
BESIDE = 25  # bytes by which names beside --out are longer, at most: NAME-<hash>.zip, NAME.projection.npz


def check(args: argparse.Namespace) -> None:
    """Refuse, before any work, names that no file can have and options that do not go together."""
    for dest, option in NAMES.items():
        given = getattr(args, dest, None)
        for name in given if isinstance(given, list) else [given]:
            if name is not None and (problem := path_problem(name, LONGEST - BESIDE * (dest == "out"))):
                raise InputError(f"{option} {problem}")
    out: str = getattr(args, "out", None) or ""
    if getattr(args, "zip", False) and not out:
        raise InputError("--zip packs what is written: give --out DIR as well")
    if getattr(args, "dtype", "float32") != "float32" and out.lower().endswith(TEXT):
        raise InputError(f"--dtype {args.dtype}: a {Path(out).suffix} cannot hold it. Leave --dtype out")


def bench_of(args: argparse.Namespace, progress: Progress, info: ModelInfo | None = None) -> Bench:
    sweep_partials()
    queries = Path(args.queries) if args.queries else None
    kind = getattr(args, "engine", "exact")
    return prepare(
        info or args.model, args.data, fit_on=args.fit_on, queries=queries, split=args.split, limit=args.limit,
        seed=args.seed, progress=progress, equip=lambda model, texts: equipped(model, texts, kind, progress),
        metric=args.metric,
    )  # fmt: skip


def opened_model(args: argparse.Namespace, progress: Progress, graphs: bool = False) -> ModelInfo | None:
    """The model, opened before any data is read; None where the data are vectors, which need none."""
    check(args)  # a recipe's arguments did not come from the command line
    return None if is_source(args.data[0]) else open_model(args.model, progress, graphs=graphs)


def method_of(text: str) -> Step:
    """The one method, without a cut, that --method names."""
    plan = parse(text)
    if len(plan.steps) != 1 or not isinstance(plan.steps[0], Step) or plan.steps[0].cut is not None:
        raise PlanError(f"--method {text!r}: name one method without a cut, e.g. dimensions/svd")
    registry.build(plan.steps[0])
    return plan.steps[0]


def ratios_of(text: str | None, default: Sequence[float] = sweeps.RATIOS) -> list[float]:
    if text is None:
        return list(default)
    try:
        found = [float(w) for w in text.split(",")]
    except ValueError as e:
        raise InputError(f"--ratios {text!r}: write numbers in [0, 1) with commas between, e.g. 0,0.25,0.5") from e
    if not found or not all(0.0 <= r < 1.0 for r in found):
        raise InputError(f"--ratios {text!r}: every ratio lies in [0, 1); it is the fraction removed")
    return found
