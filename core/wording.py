"""The answers of the command line in words, for a person at a terminal."""

from __future__ import annotations

from typing import Any

import yaml


def words(command: str, answer: dict[str, Any]) -> str:
    """The answer for a person at a terminal."""
    if command == "methods":
        return "\n".join(f"{m['name']:34} {m['idea']}" for m in answer["methods"])
    if command == "evaluate":
        return "\n".join(_quality(answer["quality"]))
    if command in ("prune", "run") or (command == "vectors" and "retention" in answer):
        return "\n".join(_verdict(answer))
    if command == "vectors" and "rounds" in answer:
        return "\n".join(_rounds(answer))
    if command == "vectors" and "searches" in answer:
        return "\n".join(_searches(answer))
    if command == "sweep":
        return "\n".join(_points(answer))
    if command == "sensitivity":
        from core.sensitivity import in_words

        return "\n".join(in_words(answer))
    return yaml.safe_dump(answer, sort_keys=False, allow_unicode=True).strip()


def _number(value: float | None, digits: int = 4) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}"


def _p_value(value: float | None) -> str:
    return "p not defined" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _quality(quality: dict[str, Any]) -> list[str]:
    return [f"{d:24} {m:12} {_number(v)}" for d, ms in quality.items() for m, v in ms.items()]


def _verdict(answer: dict[str, Any]) -> list[str]:
    before, after = answer["before"]["model"]["dimension"], answer["after"]["model"]["dimension"]
    lines = [f"{answer['plan']}: {before} -> {after} dimensions{_encoder(answer)}"]
    for d, ms in answer["retention"].items():
        for m, r in ms.items():
            chance = answer["random_baseline"].get(d, {}).get(m, {}).get("ratio")
            lines.append(
                f"{d:20} {m:12} {_number(r['before'])} -> {_number(r['after'])}  kept {_percent(r['ratio'])} "
                f"({_percent(r['low'])} to {_percent(r['high'])}, {_p_value(r['p_value'])}); "
                f"random {_percent(chance)}"
            )
    for d, rows in answer.get("vectors", {}).items():
        top = rows["ceiling"]
        found = f"; {_percent(top['judged'])} of the judged documents can still be found" if top else ""
        folded = f", {rows['folded']:,} more through their survivors" if rows["folded"] else ""
        lines.append(f"{d:20} {rows['before']:,} -> {rows['after']:,} vectors{folded}{found}")
    if answer["export"]:
        lines.append(f"written to {answer['export']['path']}, {answer['export']['bytes'] / 1e6:.1f} MB")
    return lines + [f"note: {n}" for n in answer["notes"]]


def _rounds(answer: dict[str, Any]) -> list[str]:
    """The loop of a recommender: validation round by round, then test, once."""
    lines = [f"{r['dimensions']:4} dimensions  validation nDCG@10 {_number(r['ndcg@10'])}" for r in answer["rounds"]]
    test = answer["test"]
    before, after = test["before"], test["after"]
    lines.append(answer["why"])
    lines.append(
        f"test nDCG@10 {_number(before['ndcg@10'])} at {before['dimensions']} -> {_number(after['ndcg@10'])} at "
        f"{after['dimensions']} dimensions; by cosine {_number(test['by cosine']['ndcg@10'])}; popularity alone "
        f"{_number(test['popularity']['ndcg@10'])}"
    )
    return [*lines, *(f"written: {f}" for f in answer.get("files", [])), *(f"note: {n}" for n in answer["notes"])]


def _searches(answer: dict[str, Any]) -> list[str]:
    """Two collections side by side, a line a search."""
    lines = []
    for r in answer["searches"]:
        recall = next(v for k, v in r.items() if k.startswith("recall@"))
        what = f"{r['search']:20} {r['index']:10} {r['rows']:>10,} x {r['dimension']:<5}"
        lines.append(f"{what} recall {_number(recall, 3)}  {r['ms']:8.2f} ms  {r['bytes'] / 1e6:8.1f} MB")
    return lines + [f"note: {n}" for n in answer["notes"]]


def _encoder(answer: dict[str, Any]) -> str:
    """Size and speed of a cut encoder, "" where the plan cuts none."""
    if not answer.get("encoder"):
        return ""
    before, after, speed = answer["before"]["model"], answer["after"]["model"], answer["speedup"]
    measured = "not measured" if speed["measured"] is None else f"{speed['measured']:.2f}x"
    whole = speed.get("against_torch", {}).get("measured")
    against = f"; {whole:.2f}x against torch" if whole else ""
    return (
        f", {before['parameters']:,} -> {after['parameters']:,} parameters, encoding {measured} as fast "
        f"(ideal {speed['ideal']:.2f}x{against})"
    )


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
