"""What a page says of an encoder cut: the verdict of a finished run, and before that an estimate that says so.

sentence(model, report, data, measure)     two lines: what it keeps beside random pruning, what it saves
estimate(answer, plan_ratio)               from a sensitivity curve; None where the curve does not reach
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from core import meter, registry
from core.encoders import ModelInfo
from core.plan import Cut, Plan, parse
from core.sensitivity import Point, recommend
from core.verdict import MEASURE_NAMES, gigabytes, kept_words, percent

Json = Mapping[str, Any]


def number(value: float | None) -> float:
    """A figure of a report: null there is "not defined" here."""
    return math.nan if value is None else float(value)


def sentence(model: ModelInfo, report: Json, data: str, measure: str, floor: float | None = None) -> tuple[str, str]:
    """The verdict of a finished run in two lines, always of that run's own plan; `floor` is what must be kept."""
    plan = parse(report["resolved_plan"])
    found = report["retention"].get(data, {}).get(measure)
    kept = ", ".join(meter.words(model, meter.given(model, plan, report))) or "Nothing cut"
    kept += meter.trained(plan, report)
    if found is None:
        return f"{_upper(kept)}: judged on other data than {data}.", _saves(report)
    words = kept_words(*(number(found[k]) for k in ("ratio", "low", "high", "p_value")))
    where = f"of {MEASURE_NAMES.get(measure, measure)} on {_judged(report, data)}"
    below = f", below the {100 * floor:g} % wanted" if floor is not None and number(found["ratio"]) < floor else ""
    return f"{_upper(kept)}: {words} {where}{below}{_random(report, data, measure)}.", _saves(report)


def _upper(text: str) -> str:
    return f"Keep {text}" if text[:1].isdigit() and "set to zero" not in text else text


def planned(model: ModelInfo, plan: Plan) -> str:
    """The same first line before anything ran: what would stay."""
    kept = ", ".join(meter.words(model, plan)) or "Nothing cut"
    return f"{_upper(kept)}{meter.trained(plan)}: not measured yet."


def _judged(report: Json, data: str) -> str:
    about = next((d for d in report["data"] if d["name"] == data), None)
    if about is None:
        return data
    kind = {"retrieval": "queries", "pairs": "sentence pairs", "labels": "labelled texts"}[about["kind"]]
    agreement = ", agreement with the unpruned model" if about["truth"] == "agreement" else ""
    return f"{about['queries']:,} {kind}{agreement}"


def _random(report: Json, data: str, measure: str) -> str:
    chance = report["random_baseline"].get(data, {}).get(measure)
    if not chance or chance["ratio"] is None:
        return ""
    own = number(report["retention"][data][measure]["ratio"])
    no_better = ", no less" if chance["ratio"] >= own else ""
    share = f"{percent(chance['ratio'])}{no_better}"
    return f"; random units with the same reconstruction: {share} (mean of {chance['draws']})"


def _saves(report: Json) -> str:
    before, after = report["before"]["model"], report["after"]["model"]
    size = f"Model file {gigabytes(before['bytes'])} → {gigabytes(after['bytes'])}"
    costs = [report[side].get("cost", {}).get("vector_bytes", 4 * report[side]["model"]["dimension"])
             for side in ("before", "after")]  # fmt: skip
    if costs[0] != costs[1]:
        size += f", vectors {costs[0]:,} → {costs[1]:,} B"
    return f"{size}. {_fast(report)}"


def _fast(report: Json) -> str:
    speed = report["speedup"]
    if meter.only_zeros(parse(report["resolved_plan"])):
        return f"Single weights are {meter.ZEROS}."
    ideal = f"ideal {speed['ideal']:.2f}x by arithmetic at {speed['mean_tokens']:.0f} tokens a text"
    if not speed.get("measured"):
        return f"Encoding time {meter.LATER} ({ideal})."
    engine = "with onnxruntime, " if speed.get("engine") == "onnxruntime" else ""
    whole = speed.get("against_torch", {}).get("measured")
    in_all = f" {whole:.2f}x as fast as the unpruned model in torch." if whole else ""
    return f"Encoding measured {speed['measured']:.2f}x as fast ({engine}{ideal}).{in_all}"


def table(report: Json) -> list[dict[str, Any]]:
    """One row for each data set and measure, as it was judged; shares in percent."""
    out = []
    for data, measures in report["retention"].items():
        for measure, r in measures.items():
            chance = report["random_baseline"].get(data, {}).get(measure, {})
            shares = {"kept": r["ratio"], "low": r["low"], "high": r["high"], "random": chance.get("ratio")}
            row = {"data": data, "measure": MEASURE_NAMES.get(measure, measure), "before": number(r["before"]),
                   "after": number(r["after"])}  # fmt: skip
            out.append(row | {f"{k}, %": 100 * number(v) for k, v in shares.items()} | {"p": number(r["p_value"])})
    return out


def verified(export: Json) -> str:
    """What was checked of a written model: against torch text by text, or reopened in a fresh process."""
    if "cosine_mean" in export:
        return (
            f"the int8 graph compared with torch on {export['texts']:,} texts, cosine {export['cosine_mean']:.4f} on "
            f"average, {export['cosine_min']:.4f} at least; every figure here is the graph's own"
        )
    how = "compared with torch text by text" if export["format"] == "onnx" else "reopened in a fresh process"
    apart = f"{export['max_difference']:.1e}" if export["max_difference"] else "0"
    return f"{how}, largest difference {apart}"


def training_points(report: Json) -> list[dict[str, Any]]:
    """The curves of a finished run as core.live gives them of a running one: every training, then every round."""
    found = report.get("encoder") or {}
    out = [
        {"phase": registry.card(t["step"]).criterion, "steps": t["steps"], **point}
        for t in found.get("training", [])
        for point in t["curve"]
    ]
    return out + [{"phase": "round", **row} for row in found.get("rounds", [])]


def training_notes(report: Json) -> list[str]:
    """What a reader must know of how the training ended: stopped, no gain any more, taken up again."""
    said = ("stopped ", "ended at step", "taken up again", "no number")
    return [n for n in report["notes"] if any(words in n for words in said)]


def coverage_words(report: Json) -> str:
    """What a cut of the vocabulary changed for the texts, or "" where no tokens were cut."""
    found = (report.get("encoder") or {}).get("tokens")
    if not found:
        return ""
    unknown, long = found["unk_rate"], found["tokens_per_word"]
    return (
        f"{percent(found['texts_unchanged'])} of {found['texts']:,} texts and {percent(found['words_unchanged'])} of "
        f"their words are tokenised as before; [UNK] {percent(unknown['before'], 2)} → {percent(unknown['after'], 2)} "
        f"of the tokens; {long['before']:.2f} → {long['after']:.2f} tokens a word."
    )


# ---- before anything ran --------------------------------------------------------------------------------------


def estimate(answer: Json, ratio: float) -> float | None:
    """The share kept at a ratio by the curve of `sensitivity`, straight between measured ratios; None beyond them."""
    measured = [(p["removed"], p["quality_kept"]) for p in answer["curve"] if p["quality_kept"] is not None]
    points = sorted({0.0: 1.0, **dict(measured)}.items())
    for (r0, q0), (r1, q1) in itertools.pairwise(points):
        if r0 <= ratio <= r1 + 1e-9:
            return float(q0 + (q1 - q0) * (ratio - r0) / (r1 - r0))
    return None


def estimate_words(answer: Json | None, cut: Cut) -> str:
    """The estimate for one cut as a sentence that says what it rests on, or that nothing is known yet."""
    value = None
    if answer is not None:
        ratio = cut.ratio if cut.keep is None else 1 - cut.keep / answer["whole"]
        value = estimate(answer, ratio or 0.0)
    if answer is None or value is None:
        return "Nothing has run yet: sizes and ideal speed are arithmetic, quality is unknown until it is measured."
    name = MEASURE_NAMES.get(answer["measure"], answer["measure"])
    kept = f"about {percent(value)} of {name} kept" if value < 1 else f"nothing of {name} lost"
    return f"Estimate: {kept}, by the sensitivity curve of this cut alone (sample of {answer['sample']['words']})."


def budgeted(answer: Json, floor: float) -> dict[str, Any]:
    """The same answer with the cut it recommends for another budget; nothing is measured again."""
    curve = [
        Point(
            p["ratio"], p["removed"], p["kept"], number(p["quality_kept"]), number(p["cosine"]),
            number(p["neighbour_overlap@10"]),
        )
        for p in answer["curve"]
    ]  # fmt: skip
    name = str(meter.UNITS.get(answer["target"], answer["target"]))
    best = recommend(curve, floor, answer["whole"], answer["multiple"], name)
    return {**answer, "recommended": asdict(best)}


def in_steps(ratio: float, step: int = 5) -> int:
    """The largest slider position, in percent, that does not go beyond a ratio."""
    return int((100 * ratio + 1e-6) // step * step)
