"""Which parts of an encoder are missed: importance of every unit, each layer cut alone, and the whole cut.

    found = sensitivity(bench, "heads", "taylor", keep_quality=0.98)      Sensitivity; .as_json() is the answer

Measured on a seeded sample of the first data set (probing.py). Heads and layers are also removed one by one;
layers are cut alone by masks, which is what slicing gives; the curve is the real cut with its reconstruction.
All of it is kept on disk, part by part; the quality budget only reads it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core import judging, pipeline, registry, sweeps
from core.anatomy import ENCODER_TARGETS, check_target
from core.bench import Bench
from core.errors import InputError
from core.plan import Plan, Step
from core.probing import LEAST, SIZE
from core.removal import TOKENS, Json, Removal
from core.types import Progress, quiet

TARGETS = (*ENCODER_TARGETS, "dimensions")
RATIOS = (0.25, 0.5, 0.75)
CRITERIA = {
    "heads": "taylor", "neurons": "taylor", "layers": "leave-one-out", "width": "taylor", "tokens": "frequency",
    "weights": "activation", "dimensions": "svd",
}  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """A unit's importance, and what is lost of the main measure without it (a share) where that was measured.

    layer None: the unit is one of the whole encoder (width, tokens, dimensions). importance inf: it cannot go.
    """

    layer: int | None
    unit: int
    importance: float
    quality_drop: float | None = None
    cosine: float | None = None
    name: str = ""


@dataclass(frozen=True)
class LayerCut:
    """One layer cut alone, the others whole; layer None: the whole encoder at once."""

    layer: int | None
    ratio: float
    kept: int
    quality_kept: float
    quality_drop: float
    cosine: float


@dataclass(frozen=True)
class Point:
    """The whole cut at one ratio. `removed` is the fraction that really went, after snapping."""

    ratio: float
    removed: float
    kept: int
    quality_kept: float
    cosine: float
    overlap: float


@dataclass(frozen=True)
class Recommended:
    """The largest cut that keeps the budget by the curve's line, in a size that is possible."""

    ratio: float
    kept: int
    keep_quality: float
    why: str


@dataclass(frozen=True)
class Sensitivity:
    """The answer. Shares are of the unpruned encoder's `measure` on the sample, which stands in `sample`.

    whole, multiple    how many units a layer (or the encoder) has, and in what steps they can go
    """

    target: str
    criterion: str
    measure: str
    plan: str
    sample: Json
    units: tuple[Unit, ...]
    layers: tuple[LayerCut, ...]
    curve: tuple[Point, ...]
    recommended: Recommended
    whole: int
    multiple: int
    quantiles: Json
    notes: tuple[str, ...]
    seconds: float

    def as_json(self) -> Json:
        answer = asdict(self)
        for point in answer["curve"]:
            point["neighbour_overlap@10"] = point.pop("overlap")
        return answer


def sensitivity(
    bench: Bench,
    target: str,
    criterion: str | None = None,
    *,
    keep_quality: float = 0.98,
    ratios: Sequence[float] = RATIOS,
    size: int = SIZE,
    seed: int = 0,
    progress: Progress = quiet,
) -> Sensitivity:
    """Importance, removal and the curve of one target by one criterion; MiniLM's heads take one to two minutes.

    size: documents of the sample. Raises InputError where the architecture has no such target, PlanError for an
    unknown criterion.
    """
    step = check(bench.model.architecture, target, criterion, keep_quality, size, seed)
    if not ratios or not all(0.0 <= r < 1.0 for r in ratios):
        raise InputError(f"ratios {list(ratios)}: every ratio lies in [0, 1); it is the fraction removed")
    ratios = tuple(sorted(set(ratios)))
    if target == "dimensions":
        found = _dimensions(bench, step, ratios, seed, progress)
    else:
        found = Removal(bench, step, ratios, size, seed, progress).run()
    curve = tuple(Point(**p) for p in found["curve"])
    layers = tuple(LayerCut(**r) for r in found["layers"]) or tuple(
        LayerCut(None, p.ratio, p.kept, p.quality_kept, 1 - p.quality_kept, p.cosine) for p in curve
    )
    best = recommend(curve, keep_quality, found["whole"], found["multiple"], _name(target))
    about = {k: found[k] for k in ("sample", "whole", "multiple", "quantiles", "seconds")}
    return Sensitivity(
        target=target, criterion=step.name.split("/")[1], measure=bench.judges[0].main,
        plan=str(step.with_cut(ratio=best.ratio)), units=tuple(Unit(**u) for u in found["units"]), layers=layers,
        curve=curve, recommended=best, notes=tuple(found["notes"]), **about,
    )  # fmt: skip


def check(
    architecture: str, target: str, criterion: str | None, keep_quality: float, size: int = SIZE, seed: int = 0
) -> Step:
    """The method's step with all its options, before any work. Raises InputError or PlanError."""
    if target not in TARGETS:
        raise InputError(f"target {target!r} is none of {', '.join(TARGETS)}")
    if not 0.0 < keep_quality <= 1.0:
        raise InputError(f"--keep-quality {keep_quality:g} is outside (0, 1]: 0.98 keeps 98 % of the quality")
    if size < LEAST:
        raise InputError(f"--sample {size}: fewer than {LEAST} documents say nothing; the default is {SIZE}")
    check_target(architecture, target)
    name = f"{target}/{criterion or CRITERIA[target]}"
    own = {"calibration": TOKENS} if "calibration" in registry.find(name).__dataclass_fields__ else {}
    plan = registry.resolve(Plan((Step(name, (("ratio", 0.5), *own.items())),)), seed)
    step = plan.steps[0]
    assert isinstance(step, Step)
    return step


def recommend(curve: Sequence[Point], keep_quality: float, whole: int, multiple: int, name: str) -> Recommended:
    """Walk along the curve until it crosses the budget; what lies between measured ratios is a straight line."""
    points = [(0.0, 1.0), *sorted((p.removed, p.quality_kept) for p in curve if p.removed > 0)]
    end, crossing = points[-1][0], None
    for (r0, q0), (r1, q1) in itertools.pairwise(points):
        if not q1 >= keep_quality:
            crossing = (r0, q0, r1, q1)
            end = r0 + (r1 - r0) * (q0 - keep_quality) / (q0 - q1) if math.isfinite(q1) else r0
            break
    kept = min(whole, math.ceil(whole * (1 - end) / multiple - 1e-9) * multiple)
    ratio = 1 - kept / whole
    return Recommended(ratio, kept, keep_quality, _why(crossing, keep_quality, ratio, kept, whole, multiple, name))


def _why(crossing: Any, keep: float, ratio: float, kept: int, whole: int, multiple: int, name: str) -> str:
    size = f"{kept:,} of {whole:,} {name}"
    if crossing is None:
        return f"{size}: every measured ratio keeps {_percent(keep)}; look further only with larger ratios"
    r0, q0, r1, q1 = crossing
    if not math.isfinite(q1):
        return f"nothing, as quality is not defined at ratio {r1:.2f}"
    line = f"without {100 * r0:.0f} % {_percent(q0)} is kept, without {100 * r1:.0f} % {_percent(q1)}"
    if ratio == 0:
        return f"nothing: {line}, below the smallest cut ({multiple} of {whole:,} {name})"
    return f"{size}: {line}, {_percent(keep)} in between"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _name(target: str) -> str:
    return {
        "heads": "heads a layer", "neurons": "neurons a layer", "width": "channels", "tokens": "token rows"
    }.get(target, target)  # fmt: skip


def _dimensions(bench: Bench, step: Step, ratios: Sequence[float], seed: int, progress: Progress) -> Json:
    """The same rows for dimensions, from vectors that are there already: the whole data set is the sample."""
    start, judge, card = time.perf_counter(), bench.judges[0], registry.card(step.name)
    ranking = judging.rank(bench.context(card, progress), step)
    plain = sweeps.curve(judge, ranking, [0.0, *ratios])
    careful = sweeps.outside_curve(bench, judge, step, [0.0, *ratios], progress)
    means, base = (careful or plain).means(judge.main)[1:], float(plain.means(judge.main)[0])
    moved = pipeline.drift_curve(judge, ranking, plain.kept[1:], seed)
    curve = [
        {"ratio": r, "removed": 1 - k / ranking.units, "kept": k, "quality_kept": float(m) / base if base else math.nan,
         "cosine": d.summary["cosine"], "overlap": d.summary[f"neighbour_overlap@{d.k}"]}
        for r, k, m, d in zip(ratios, plain.kept[1:], means, moved, strict=True)
    ]  # fmt: skip
    asked = len(judge.dataset.queries if judge.task is None else judge.task.query_rows)
    sample = {
        "data": judge.name, "documents": len(judge.documents), "queries": asked, "tokens": None, "seed": seed,
        "quality": base, "words": f"all {len(judge.documents):,} documents and {asked:,} queries of {judge.name}",
    }  # fmt: skip
    axes = "rotated axes, in their order" if ranking.basis is not None else "the model's own axes"
    fit = ["the curve judges each query by a fit that never saw its relevant documents"] if careful else []
    rows = [{"layer": None, "unit": i, "importance": float(s)} for i, s in enumerate(ranking.scores)]
    return {
        "units": rows, "layers": [], "curve": curve, "sample": sample, "whole": ranking.units, "multiple": 1,
        "quantiles": {}, "notes": [f"units are {axes}", *fit, *ranking.notes], "seconds": time.perf_counter() - start,
    }  # fmt: skip


def in_words(answer: Json) -> list[str]:
    """The answer for a person at a terminal: the curve, what is missed most, what is recommended."""
    measure = answer["measure"]
    lines = [f"{answer['target']} by {answer['criterion']}, held against the unpruned encoder on"]
    lines.append(answer["sample"]["words"])
    for p in answer["curve"]:
        lines.append(f"all at ratio {p['ratio']:.2f}  kept {p['kept']:,}  {_share(p['quality_kept'])} of {measure}, "
                     f"cosine {p['cosine']:.4f}")  # fmt: skip
    for row in answer["layers"]:
        if row["layer"] is not None:
            lines.append(f"layer {row['layer'] + 1} alone at {row['ratio']:.2f}  {_share(row['quality_kept'])}, "
                         f"cosine {row['cosine']:.4f}")  # fmt: skip
    missed = sorted((u for u in answer["units"] if u["quality_drop"] is not None), key=lambda u: -u["quality_drop"])
    for u in missed[:5]:
        unit = "" if answer["target"] == "layers" else f", {answer['target'].removesuffix('s')} {u['unit'] + 1}"
        lines.append(f"missed: layer {u['layer'] + 1}{unit}: {_share(u['quality_drop'])} of {measure} lost without it")
    best = answer["recommended"]
    lines.append(f"recommended for {_share(best['keep_quality'])}: ratio {best['ratio']:.3f}; {best['why']}")
    return lines + [f"note: {n}" for n in answer["notes"]]


def _share(value: float | None) -> str:
    return "not defined" if value is None else _percent(value)
