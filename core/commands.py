"""What each command does: arguments -> core calls -> the answer as JSON, and the answer in words."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from core import export, judging, pipeline, registry, report, sweeps
from core.bench import Bench, prepare
from core.encoders import open_model
from core.errors import InputError, PlanError
from core.export.proof import time_model
from core.plan import Plan, Step, parse
from core.store import sweep_partials
from core.types import Progress


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Dispatch one parsed command; in a job folder, progress and result are also kept there."""
    if args.job:
        from core.jobs import Recorder

        recorder = Recorder(Path(args.job))
        return recorder.keep(lambda: _COMMANDS[args.command](args, recorder.progress))
    return _COMMANDS[args.command](args, _Line())


FORMATS = ("sentence-transformers", "vectors")


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


def _bench(args: argparse.Namespace, progress: Progress) -> Bench:
    sweep_partials()
    queries = Path(args.queries) if args.queries else None
    return prepare(
        args.model, args.data, fit_on=args.fit_on, queries=queries, split=args.split, limit=args.limit,
        seed=args.seed, progress=progress,
    )  # fmt: skip


def methods(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    return {"methods": [registry.as_json(m) for m in registry.METHODS]}


def evaluate(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    start = time.perf_counter()
    bench = _bench(args, progress)
    before = [judging.measure(j, j.documents.vectors, j.queries.vectors, j.documents.metric) for j in bench.judges]
    progress("timing the encoder", 0, 1)
    timing = time_model(bench.model, bench.judges[0].dataset.documents.full)
    answer = report.evaluation(bench, before, timing, 0.0)
    answer["notes"] = list(pipeline.bench_notes(bench))
    answer["seconds"] = time.perf_counter() - start
    return dict(report.plain(answer))


def prune(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    request = {
        k: getattr(args, k) for k in ("model", "data", "fit_on", "queries", "split", "limit", "rescore", "format")
    }
    plan = parse(args.plan)
    registry.resolve(plan, args.seed)
    if args.rescore < 0:
        raise InputError(f"--rescore {args.rescore} is negative: give the length of the shortlist, e.g. 100")
    out = Path(args.out).expanduser() if args.out else None
    if out:
        _check_format(plan, args.format)
        _check_out(out, args.model, progress)
    bench = _bench(args, progress)
    cut = pipeline.judge_cut(bench, plan, rescore=args.rescore, seed=args.seed, progress=progress)
    answer = report.plain(report.pruning(bench, cut, args.seed))
    if out:
        _export(bench, cut, answer, request, out, args.zip, progress)
    return dict(report.plain(answer))


def _check_format(plan: Plan, form: str) -> None:
    """Refuse, before any work, what no single model can hold."""
    for step in plan.steps:
        if form == "sentence-transformers" and registry.card(step.name).two_maps:
            raise InputError(
                f"{step.name} maps queries and documents differently, which one model cannot hold: use --format vectors"
            )


def _check_out(out: Path, model: str, progress: Progress) -> None:
    """Refuse a destination before any work: neither the folder that was named nor the clean copy is written over."""
    info = open_model(model, progress)
    for source in (Path(model).expanduser(), info.path):
        if source.exists():
            export.check_destination(out, source, info.folder_bytes)


def _export(
    bench: Bench,
    cut: pipeline.Cutting,
    answer: dict[str, Any],
    request: dict[str, Any],
    out: Path,
    as_zip: bool,
    progress: Progress,
) -> None:
    done: dict[str, Any] = {"path": str(out), "format": request["format"]}
    if request["format"] == "vectors":
        export.export_vectors(bench, cut.reduction, answer, request, out)
    else:
        proof = export.export_model(bench, cut.reduction, answer, request, out, progress)
        done |= {
            "reloaded_in_fresh_process": True,
            "max_difference": proof.max_difference,
            "max_difference_on_screen": proof.on_screen,
        }
    done["bytes"] = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    done["sha256"] = export.folder_hash(out)
    if as_zip:
        archive = export.zipped(out)
        done |= {"zip": str(archive), "zip_bytes": archive.stat().st_size}
    answer["export"] = done
    answer["after"]["model"]["folder_bytes"] = done["bytes"]
    if request["format"] != "vectors":
        answer["after"]["model"]["bytes"] = sum(f.stat().st_size for f in out.rglob("*.safetensors"))


def _method(text: str) -> Step:
    """The one method, without a cut, that --method names."""
    plan = parse(text)
    if len(plan.steps) != 1 or not isinstance(plan.steps[0], Step) or plan.steps[0].cut is not None:
        raise PlanError(f"--method {text!r}: name one method without a cut, e.g. dimensions/svd")
    registry.build(plan.steps[0])
    return plan.steps[0]


def sweep(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    step = _method(args.method)
    card = registry.card(step.name)
    seeded = any(k == "seed" for k, _ in step.options) or "seed" not in registry.find(step.name).__dataclass_fields__
    step = step if seeded else Step(step.name, (*step.options, ("seed", args.seed)))
    ratios = _ratios(args.ratios)
    bench = _bench(args, progress)
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


def _ratios(text: str | None) -> list[float]:
    if text is None:
        return list(sweeps.RATIOS)
    try:
        found = [float(w) for w in text.split(",")]
    except ValueError as e:
        raise InputError(f"--ratios {text!r}: write numbers in [0, 1) with commas between, e.g. 0,0.25,0.5") from e
    if not found or not all(0.0 <= r < 1.0 for r in found):
        raise InputError(f"--ratios {text!r}: every ratio lies in [0, 1); it is the fraction removed")
    return found


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
    form = recipe.get("format", FORMATS[0])
    if form not in FORMATS:
        raise InputError(f"recipe {path}: format {form!r} is none of {', '.join(FORMATS)}. Correct it")
    queries = recipe.get("queries")
    args = argparse.Namespace(
        command="prune", model=str(recipe.get("model", "minilm")), data=_names(recipe, "data") or ["sample"],
        fit_on=_names(recipe, "fit_on"), queries=None if queries is None else str(queries),
        split=str(recipe.get("split", "test")), limit=_whole(recipe, "limit"), seed=_whole(recipe, "seed") or 0,
        plan=str(recipe["plan"]), out=args.out, rescore=_whole(recipe, "rescore") or 0, format=form, zip=False,
    )  # fmt: skip
    answer = prune(args, progress)
    wanted, got = recipe.get("model_fingerprint"), answer["before"]["model"]["fingerprint"]
    if wanted and wanted != got:
        answer["notes"].append(f"the model is not the one of the recipe: fingerprint {got}, not {wanted}")
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
    bench = _bench(args, progress)
    step = pipeline.dimension_step(registry.resolve(plan, args.seed))
    _, reduction = pipeline.reduce(bench, step, progress)
    pair = maps.umap_pair(bench.judges[0].documents.vectors, reduction, seed=args.seed, progress=progress)
    return dict(report.plain({"plan": str(plan), "key": pair.key, "noise_floor": pair.noise, "moved": pair.moved}))


def embed(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Embed all that any method may ask for, and study the quick methods, so that a page finds them finished."""
    bench = _bench(args, progress)
    for cls in registry.METHODS:
        bench.context(cls.card, progress)
    _study(bench, [Step(m.card.name) for m in registry.METHODS if not m.card.slow], progress)
    return {"model": bench.model.as_json(), "data": report.data_block(bench.judges)}


def _study(bench: Bench, steps: Sequence[Step], progress: Progress) -> None:
    """Every ratio of these methods on every data set, kept on disk (of labelled texts the first method only)."""
    from core import verdict

    for n, step in enumerate(steps):
        for judge in bench.judges:
            if n > 0 and judge.dataset.kind == "labels":
                continue
            progress(f"every ratio of {registry.card(step.name).label}", n, len(steps))
            verdict.study(bench, judge, step, progress=progress)


def study(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """What the page shows of one method: trained, and judged at every ratio."""
    step = _method(args.method)
    bench = _bench(args, progress)
    _study(bench, [step], progress)
    return {"method": str(step), "data": report.data_block(bench.judges)}


def warm(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Compute the first screen once, so that the page finds it finished (rankings on disk, loops compiled)."""
    bench = prepare("minilm", ["sample"], progress=progress)
    quick = [m.card.name for m in registry.METHODS if not m.card.slow]
    _study(bench, [Step(name) for name in quick], progress)
    return {"ready": quick}


_COMMANDS: dict[str, Callable[[argparse.Namespace, Progress], dict[str, Any]]] = {
    "methods": methods,
    "evaluate": evaluate,
    "prune": prune,
    "sweep": sweep,
    "run": replay,
    "map": map_command,
    "embed": embed,
    "study": study,
    "warm": warm,
}


# ---- in words -------------------------------------------------------------------------------------------------


def words(command: str, answer: dict[str, Any]) -> str:
    """The answer for a person at a terminal."""
    if command == "methods":
        return "\n".join(f"{m['name']:34} {m['idea']}" for m in answer["methods"])
    if command == "evaluate":
        return "\n".join(_quality(answer["quality"]))
    if command in ("prune", "run"):
        return "\n".join(_verdict(answer))
    if command == "sweep":
        return "\n".join(_points(answer))
    return yaml.safe_dump(answer, sort_keys=False, allow_unicode=True).strip()


def _number(value: float | None, digits: int = 4) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}"


def _p_value(value: float | None) -> str:
    return "p not defined" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _quality(quality: dict[str, Any]) -> list[str]:
    return [f"{d:24} {m:12} {_number(v)}" for d, ms in quality.items() for m, v in ms.items()]


def _verdict(answer: dict[str, Any]) -> list[str]:
    before, after = answer["before"]["model"]["dimension"], answer["after"]["model"]["dimension"]
    lines = [f"{answer['plan']}: {before} -> {after} dimensions"]
    for d, ms in answer["retention"].items():
        for m, r in ms.items():
            chance = answer["random_baseline"].get(d, {}).get(m, {}).get("ratio")
            lines.append(
                f"{d:20} {m:12} {_number(r['before'])} -> {_number(r['after'])}  kept {_percent(r['ratio'])} "
                f"({_percent(r['low'])} to {_percent(r['high'])}, {_p_value(r['p_value'])}); "
                f"random {_percent(chance)}"
            )
    if answer["export"]:
        lines.append(f"written to {answer['export']['path']}, {answer['export']['bytes'] / 1e6:.1f} MB")
    return lines + [f"note: {n}" for n in answer["notes"]]


def _percent(value: float | None) -> str:
    return "not defined" if value is None else f"{100 * value:.1f} %"


def _points(answer: dict[str, Any]) -> list[str]:
    lines = []
    for p in answer["points"]:
        for d, ms in p["quality"].items():
            first = next(iter(ms))
            lines.append(f"ratio {p['ratio']:.3f}  kept {p['kept']:4}  {d:16} {first} {_number(ms[first])}"
                         f"  random {_number(p['random'].get(d, {}).get(first))}")  # fmt: skip
    return lines
