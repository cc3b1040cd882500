"""What each command does: arguments -> core calls -> the answer as JSON, and the answer in words."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from core import export, exporting, judging, pipeline, registry, report, sweep_commands, vector_commands
from core.anatomy import shape_of
from core.arguments import bench_of, method_of, opened_model, ratios_of
from core.bench import Bench, prepare
from core.compare import RANDOM_DRAWS
from core.derive import check as check_steps
from core.encoders import open_model
from core.engines import opened
from core.errors import InputError
from core.evaluate import cost
from core.export.proof import time_model
from core.methods.base import CodeMethod
from core.plan import Plan, Step, parse
from core.types import Progress


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Dispatch one parsed command; in a job folder, progress and result are also kept there."""
    if args.job:
        from core.jobs import Recorder

        recorder = Recorder(Path(args.job))
        return recorder.keep(lambda: _COMMANDS[args.command](args, recorder.progress))
    return _COMMANDS[args.command](args, _Line())


BESIDE = 10_000  # rows up to which all methods for whole vectors are studied at once


class _Line:
    """Progress as one line on standard error, with a share and an ETA; silent where that is no terminal."""

    def __init__(self) -> None:
        self.what, self.start = "", time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self.what:
            self.what, self.start = what, time.monotonic()
        if not sys.stderr.isatty():
            return
        share = done / total if total else 1.0
        taken = time.monotonic() - self.start
        eta = f" · {taken * (1 - share) / share:.0f} s left" if share > 0 and taken > 1 else ""
        print(f"\r\x1b[K{what} · {100 * share:.0f} %{eta}", end="\n" if share >= 1 else "", file=sys.stderr)


def methods(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    return {"methods": [registry.as_json(m) for m in registry.METHODS]}


def evaluate(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    start = time.perf_counter()
    info = opened_model(args, progress, graphs=True)
    bench = bench_of(args, progress, info)
    before = [judging.measured(j) for j in bench.judges]
    progress("timing the encoder", 0, 1)
    timing = time_model(bench.model, bench.judges[0].dataset.documents.full) if info else None
    answer = report.evaluation(bench, before, timing, 0.0)
    answer["notes"] = list(pipeline.bench_notes(bench))
    if bench.model.engine:
        answer["engine"] = opened(bench.model).as_json()
    answer["seconds"] = time.perf_counter() - start
    return dict(report.plain(answer))


def _checked(args: argparse.Namespace, plan: Plan, out: Path | None, progress: Progress) -> Bench:
    """The bench of a plan, with all that can be refused refused: with a model, before its texts are embedded."""
    info = opened_model(args, progress)
    bench = bench_of(args, progress) if info is None else None
    model = info or bench.model  # type: ignore[union-attr]
    check_steps(model, registry.parts(plan).encoder)
    if out:
        exporting.check_format(model, plan, args.format)
        exporting.check_out(out, args.model, model)
    return bench or bench_of(args, progress, info)


_REQUEST = (
    "model", "data", "fit_on", "queries", "split", "limit", "rescore", "draws", "format", "engine", "metric",
)  # fmt: skip


def prune(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    request = {k: getattr(args, k) for k in _REQUEST}
    plan = parse(args.plan)
    resolved = registry.resolve(plan, args.seed)
    steps = registry.parts(resolved).encoder
    if args.rescore < 0:
        raise InputError(f"--rescore {args.rescore} is negative: give the length of the shortlist, e.g. 100")
    if steps and args.engine != "exact":
        raise InputError(f"--engine {args.engine}: encoder cuts are judged in fp32, by torch. Leave --engine out")
    out = Path(args.out).expanduser() if args.out else None
    bench = _checked(args, resolved, out, progress)
    cut = pipeline.judge_cut(bench, plan, rescore=args.rescore, seed=args.seed, progress=progress, draws=args.draws)
    answer = report.plain(report.pruning(bench, cut, args.seed))
    if out:
        exporting.write(bench, cut, answer, request, out, args.zip, progress)
    elif cut.derived:
        progress("timing against the unpruned model", 0, 1)
        report.add_timing(answer, (shape_of(bench.model), cut.derived.shape), export.measure_speed(bench, cut))
    if cut.derived:
        for side, model in (("before", bench.model), ("after", cut.pruned.model)):
            answer[side]["model"]["zipped_bytes"] = cost.zipped_bytes(model.path)
    return dict(report.plain(answer))


def sensitivity(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from core import sensitivity as parts

    ratios = parts.RATIOS if args.ratios is None else ratios_of(args.ratios)
    info = open_model(args.model, progress)
    parts.check(info.architecture, args.target, args.criterion, args.keep_quality, args.sample)
    found = parts.sensitivity(
        bench_of(args, progress, info), args.target, args.criterion, keep_quality=args.keep_quality, ratios=ratios,
        size=args.sample, seed=args.seed, progress=progress,
    )  # fmt: skip
    return dict(report.plain(found.as_json() | {"model": info.as_json()}))


def replay(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    path = Path(args.recipe)
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"recipe {path} cannot be read: {e.strerror}. Give the path of a recipe.yaml") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise InputError(f"recipe {path} is no YAML file. Give a recipe.yaml that Espalier wrote") from e
    if not isinstance(recipe, dict) or "plan" not in recipe or recipe.get("espalier") != 1:
        raise InputError(f"recipe {path} is not one of ours (no `espalier: 1` and `plan`). Export one from the app")
    form = recipe.get("format", exporting.FORMATS[0])
    if form not in exporting.FORMATS:
        raise InputError(f"recipe {path}: format {form!r} is none of {', '.join(exporting.FORMATS)}. Correct it")
    queries, drawn = recipe.get("queries"), _whole(recipe, "draws")
    args = argparse.Namespace(
        command="prune", model=str(recipe.get("model", "minilm")), data=_names(recipe, "data") or ["sample"],
        fit_on=_names(recipe, "fit_on"), queries=None if queries is None else str(queries),
        split=str(recipe.get("split", "test")), limit=_whole(recipe, "limit"), seed=_whole(recipe, "seed") or 0,
        plan=str(recipe["plan"]), out=args.out, draws=RANDOM_DRAWS if drawn is None else drawn,
        rescore=_whole(recipe, "rescore") or 0, format=form, zip=False, engine=str(recipe.get("engine", "exact")),
        metric=recipe.get("metric"),
    )  # fmt: skip
    answer = prune(args, progress)
    wanted, got = recipe.get("model_fingerprint"), answer["before"]["model"]["fingerprint"]
    if wanted and wanted != got:
        answer["notes"].append(f"the model is not the one of the recipe: fingerprint {got}, not {wanted}")
    written, here = recipe.get("data_fingerprints") or {}, {d["name"]: d["fingerprint"] for d in answer["data"]}
    changed = [name for name in written if here.get(name) != written[name]]
    if changed:
        answer["notes"].append(f"the data are not those of the recipe: {', '.join(changed)}. Figures may differ")
    return answer


def _whole(recipe: dict[str, Any], key: str) -> int | None:
    value = recipe.get(key)
    if value is not None and type(value) is not int:
        raise InputError(f"recipe: {key}={value!r} is no whole number. Correct it, or leave it out")
    return value


def _names(recipe: dict[str, Any], key: str) -> list[str]:
    value = recipe.get(key) or []
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def map_command(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    from core import maps

    plan = parse(args.plan)
    registry.resolve(plan, args.seed)
    bench = bench_of(args, progress)
    step = pipeline.dimension_step(registry.resolve(plan, args.seed))
    _, reduction = judging.reduce(bench, step, progress)
    pair = maps.umap_pair(bench.judges[0].documents.vectors, reduction, seed=args.seed, progress=progress)
    return dict(report.plain({"plan": str(plan), "key": pair.key, "noise_floor": pair.noise, "moved": pair.moved}))


def embed(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Embed all that any method may ask for, and study the quick methods, so that a page finds them finished."""
    bench = bench_of(args, progress)
    for name in registry.names("dimensions"):
        bench.context(registry.card(name), progress)
    _study(bench, _quick(), progress)
    return {"model": bench.model.as_json(), "data": report.data_block(bench.judges)}


def _quick() -> list[Step]:
    """The dimension methods that are studied without being asked."""
    return [Step(name) for name in registry.names("dimensions") if not registry.card(name).slow]


def _study(bench: Bench, steps: Sequence[Step], progress: Progress) -> None:
    """Every ratio of these methods on every data set, kept on disk (of labelled texts the first method only)."""
    from core import budgets, row_study, verdict

    for n, step in enumerate(steps):
        code = isinstance(registry.build(step), CodeMethod)
        for judge in bench.judges:
            if n > 0 and judge.dataset.kind == "labels":
                continue
            progress(f"every {'size' if code else 'ratio'} of {registry.card(step.name).label}", n, len(steps))
            if step.target == "vectors":
                if judge.dataset.kind != "pairs":
                    row_study.study(bench, judge, step, progress=progress)
            elif code:
                budgets.study(bench, judge, step, progress)
            else:
                verdict.study(bench, judge, step, progress=progress)


def study(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """What the page shows of one method: trained, and judged at every ratio."""
    step = method_of(args.method)
    bench = bench_of(args, progress)
    _study(bench, [step, *_one_size(step), *_other_rows(bench, step)], progress)
    return {"method": str(step), "data": report.data_block(bench.judges)}


def _one_size(step: Step) -> list[Step]:
    """What stands beside a code on the page: the codes that have one size each."""
    if not isinstance(registry.build(step), CodeMethod):
        return []
    names = [n for n in registry.names("quantize") if "bytes" not in registry.find(n).__dataclass_fields__]
    return [Step(n) for n in names if n != step.name]


def _other_rows(bench: Bench, step: Step) -> list[Step]:
    """What stands beside a cut of whole vectors on the page: the other methods, where the index is small."""
    if step.target != "vectors" or any(len(j.documents) > BESIDE for j in bench.judges):
        return []
    return [Step(n) for n in registry.names("vectors") if n not in (step.name, "vectors/random")]


def warm(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Compute the first screen once, so that the page finds it finished (rankings on disk, loops compiled)."""
    bench = prepare("minilm", ["sample"], progress=progress)
    _study(bench, _quick(), progress)
    return {"ready": [step.name for step in _quick()]}


def vectors(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """What needs no model: `vectors prune`, `vectors collections`."""
    return vector_commands.COMMANDS[args.vectors](args, progress)


_COMMANDS: dict[str, Callable[[argparse.Namespace, Progress], dict[str, Any]]] = {
    "methods": methods,
    "evaluate": evaluate,
    "prune": prune,
    "sweep": sweep_commands.sweep,
    "sensitivity": sensitivity,
    "run": replay,
    "map": map_command,
    "embed": embed,
    "study": study,
    "vectors": vectors,
    "warm": warm,
}
