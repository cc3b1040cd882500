"""The command `sweep`: the whole curve of one method, each kind in the way that its target allows."""

from __future__ import annotations

import argparse
import time
from typing import Any

from core import judging, pipeline, registry, report, row_study, storing, sweeps
from core.arguments import bench_of, method_of, ratios_of
from core.derive import check as check_steps
from core.encoders import open_model
from core.methods.base import CodeMethod
from core.plan import Plan, Step
from core.thinning import check_index
from core.types import Progress

ENCODER_RATIOS = (0.0, 0.25, 0.5, 0.75)  # every point is a cut of its own: minutes, not milliseconds


def sweep(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    step = method_of(args.method)
    card = registry.card(step.name)
    if isinstance(registry.build(step), CodeMethod):
        return _code_sweep(args, step, progress)
    if card.target == "vectors":
        return _row_sweep(args, step, progress)
    if card.target != "dimensions":
        return _encoder_sweep(args, step, progress)
    seeded = any(k == "seed" for k, _ in step.options) or "seed" not in registry.find(step.name).__dataclass_fields__
    step = step if seeded else Step(step.name, (*step.options, ("seed", args.seed)))
    ratios = ratios_of(args.ratios)
    bench = bench_of(args, progress)
    context = bench.context(card, progress)
    start = time.perf_counter()
    ranking = judging.rank(context, step)
    ranked = time.perf_counter()
    curves = [sweeps.curve(j, ranking, ratios) for j in bench.judges]
    seconds = {"rank": ranked - start, "curve": time.perf_counter() - ranked}
    progress("random baseline and neighbours", 0, 1)
    chance = {j.name: sweeps.random_curves(bench, j, ratios) for j in bench.judges}
    outside = [c for j in bench.judges if (c := sweeps.outside_curve(bench, j, step, ratios, progress))]
    moved = pipeline.drift_curve(bench.judges[0], ranking, curves[0].kept, args.seed)
    answer = report.sweep(curves, chance, outside, moved, seconds)
    answer |= {"model": bench.model.as_json(), "data": report.data_block(bench.judges), "seed": args.seed}
    answer["notes"] = [*pipeline.bench_notes(bench), *ranking.notes]
    return dict(report.plain(answer))


def _encoder_sweep(args: argparse.Namespace, step: Step, progress: Progress) -> dict[str, Any]:
    """The curve of an encoder method: every ratio is a cut of its own, judged like `prune` judges it."""
    ratios = ratios_of(args.ratios, ENCODER_RATIOS)
    info = open_model(args.model, progress)
    check_steps(info, [step])
    bench = bench_of(args, progress, info)
    cuts, points, start = [], [], time.perf_counter()
    for n, ratio in enumerate(ratios):
        progress(f"ratio {ratio:g}", n, len(ratios))
        draws = args.draws if ratio else 0
        cuts.append(pipeline.judge_cut(bench, Plan((step.with_cut(ratio=ratio),)), seed=args.seed, draws=draws))
        points.append(report.encoder_point(cuts[-1], ratio))
    answer = {
        "method": step.name, "points": points, "seconds": {"rank": 0.0, "curve": time.perf_counter() - start},
        "model": bench.model.as_json(), "data": report.data_block(bench.judges), "seed": args.seed,
        "notes": list(dict.fromkeys(note for cut in cuts for note in cut.notes)),
    }  # fmt: skip
    return dict(report.plain(answer))


def _code_sweep(args: argparse.Namespace, step: Step, progress: Progress) -> dict[str, Any]:
    """The curve of a code over bytes a vector; `ratios` are the share of bytes removed."""
    ratios = None if args.ratios is None else ratios_of(args.ratios)
    bench = bench_of(args, progress)
    steps = storing.at_sizes(step, bench.model.dimension, ratios)
    cuts, start = [], time.perf_counter()
    for n, one in enumerate(steps):
        progress(str(one), n, len(steps))
        cuts.append(pipeline.judge_cut(bench, Plan((one,)), seed=args.seed, spread=False))
    answer = {
        "method": step.name, "points": [report.code_point(cut) for cut in cuts],
        "seconds": {"rank": 0.0, "curve": time.perf_counter() - start},
        "model": bench.model.as_json(), "data": report.data_block(bench.judges), "seed": args.seed,
        "notes": list(dict.fromkeys(note for cut in cuts for note in cut.notes)),
    }  # fmt: skip
    return dict(report.plain(answer))


def _row_sweep(args: argparse.Namespace, step: Step, progress: Progress) -> dict[str, Any]:
    """The curve of a method for whole vectors, with the share of judged documents that can still be found."""
    ratios = ratios_of(args.ratios)
    bench = bench_of(args, progress)
    check_index(bench, [step])
    start = time.perf_counter()
    judges = [j for j in bench.judges if j.dataset.kind != "pairs"]
    found = [row_study.study(bench, j, step, (0.0, *ratios), progress) for j in judges]
    answer = {
        "method": step.name, "points": row_study.points(found, ratios, bench.model.dimension),
        "seconds": {"rank": 0.0, "curve": time.perf_counter() - start},
        "model": bench.model.as_json(), "data": report.data_block(bench.judges), "seed": args.seed,
        "notes": list(dict.fromkeys(n for f in found for n in f.plain.notes)),
    }  # fmt: skip
    return dict(report.plain(answer))
