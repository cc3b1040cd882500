"""What travels with an export: the model card (README.md) and the recipe that replays it."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any

from core.compare import RANDOM_DRAWS
from core.export.vectors import READER, SNIPPET

_PACKAGES = ("torch", "transformers", "sentence-transformers", "numpy")


def versions() -> dict[str, str]:
    """Of Python and the libraries that decide a vector."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def recipe(report: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """What `python -m core run` needs to do the same again: inputs by name and hash, the resolved plan, the seed."""
    return {
        "espalier": 1,
        "model": request["model"],
        "model_fingerprint": report["before"]["model"]["fingerprint"],
        "data": request["data"],
        "fit_on": request["fit_on"],
        "queries": request.get("queries"),
        "split": request["split"],
        "limit": request.get("limit"),
        "rescore": request.get("rescore", 0),
        "draws": request.get("draws", RANDOM_DRAWS),
        "data_fingerprints": {d["name"]: d["fingerprint"] for d in report["data"]},
        "plan": report["resolved_plan"],
        "format": request["format"],
        "engine": request.get("engine", "exact"),
        "metric": request.get("metric"),
        "seed": report["seed"],
        "versions": versions(),
    }


def _table(report: dict[str, Any]) -> list[str]:
    rows = [
        "| data | measure | before | after | kept | 95 % interval | p | random pruning |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, measures in report["retention"].items():
        for m, r in measures.items():
            chance = report["random_baseline"].get(name, {}).get(m, {})
            rows.append(
                f"| {name} | {m} | {_f(r['before'])} | {_f(r['after'])} | {_p(r['ratio'])} | "
                f"{_p(r['low'])} to {_p(r['high'])} | {_f(r['p_value'], 3)} | {_p(chance.get('ratio'))} |"
            )
    return rows


def _f(value: Any, digits: int = 4) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}"


def _p(value: Any) -> str:
    return "not defined" if value is None else f"{100 * value:.1f} %"


_LOAD = (
    "```python", "from sentence_transformers import SentenceTransformer", "",
    'model = SentenceTransformer("path/to/this/folder")  # sentence-transformers 6 or newer',
    'vectors = model.encode(["a text"])', "```",
)  # fmt: skip
_VECTORS = (
    "This folder holds no model: `documents.npy` and `documents.parquet` are the pruned vectors, `projection.npz` "
    "prunes others (`apply.py`).",
)
_CODES = (
    "This folder holds no model: `codes.npy` and `codes.parquet` are the documents as codes, `ids.json` their ids.",
)


_ONNX = (
    "`onnx/model.onnx` takes token ids and gives the sentence embedding, pooling and all. `embed.py` beside it needs",
    "onnxruntime, tokenizers and numpy, nothing else. In this folder:", "",
    "```python", "from embed import embed", "", 'vectors = embed(["a text"])', "```",
)  # fmt: skip


_INT8 = (
    "", "Weights and tables take one byte a number. The layers' inputs have static ranges, found on calibration texts,",
    "so a text's vector does not depend on its batch. OpenVINO reads the same file, where it is installed.",
)  # fmt: skip


def _what(report: dict[str, Any]) -> str:
    """The change in dimensions and in parameters, as far as there is one."""
    before, after = report["before"]["model"], report["after"]["model"]
    parts = []
    if before["dimension"] != after["dimension"]:
        parts.append(f" from {before['dimension']} to {after['dimension']} dimensions")
    if report.get("encoder"):
        parts.append(f" from {before['parameters']:,} to {after['parameters']:,} parameters")
    return " and".join(parts)


def _speed(report: dict[str, Any]) -> list[str]:
    """Measured speed beside the ideal, and what was rounded, for encoder cuts."""
    if not report.get("encoder"):
        return []
    speed = report["speedup"]
    said = "not measured" if speed["measured"] is None else f"{speed['measured']:.2f}x"
    lines = [f"Encoding speed against the unpruned model: {said} (ideal from FLOPs {speed['ideal']:.2f}x)."]
    return lines + [f"Rounded: {r}." for r in report["rounded"]]


def _int8(report: dict[str, Any]) -> list[str]:
    """How near the int8 graph is to its fp32 original, and what a user gains in all."""
    found, whole = report.get("int8"), report.get("speedup", {}).get("against_torch")
    if not found or not whole:
        return []
    return [
        f"int8 against fp32 vectors, text by text: cosine {found['cosine_mean']:.4f} on average, "
        f"{found['cosine_min']:.4f} at least ({found['texts']} texts). In onnxruntime {whole['measured']:.2f}x as fast "
        "as the unpruned model in torch."
    ]


def _coded(report: dict[str, Any]) -> bool:
    """Whether vectors are stored as codes."""
    return bool(report["after"]["cost"].get("codebook_bytes"))


def _stored(report: dict[str, Any]) -> list[str]:
    """How vectors are stored as codes and read again."""
    if not _coded(report):
        return []
    cost = report["after"]["cost"]
    return [
        "## Vectors as codes", "", f"`codebook.npz` ({cost['codebook_bytes']:,} bytes, once for all vectors) and "
        f"`reader.py` read and search vectors of {cost['vector_bytes']} bytes each; queries stay float:", "",
        "```python", READER, "```", "",
    ]  # fmt: skip


def model_card(report: dict[str, Any], form: str = "sentence-transformers") -> str:
    """README.md of an exported folder: plan first, then every figure, how to use it, what it was made with."""
    before, after = report["before"]["model"], report["after"]["model"]
    data = ", ".join(
        f"{d['name']} ({d['documents']:,} documents, {d['queries']:,} queries, {d['truth']})" for d in report["data"]
    )
    lines = [
        "---", "library_name: sentence-transformers", "tags: [sentence-transformers, pruning]", "---", "",
        f"# {report['plan']}", "",
        f"{before['name']} pruned by Espalier{_what(report)}.", "",
        *{"vectors": _CODES if _coded(report) else _VECTORS, "onnx": _ONNX, "onnx-int8": (*_ONNX, *_INT8)}.get(
            form, _LOAD
        ), "",
        "## What the cut costs", "", *_table(report), "",
        f"Drift: {', '.join(f'{k} {_f(v, 3)}' for k, v in report['drift'].items())}.",
        f"Bytes per vector: {report['before']['cost']['vector_bytes']} to {report['after']['cost']['vector_bytes']}. "
        f"Judged on {data}. Fitted on {', '.join(report['fit_on'])}, no judgements used.",
        *_speed(report), *_int8(report), "",
    ]  # fmt: skip
    if report["notes"]:
        lines += ["Notes:", *(f"- {n}" for n in report["notes"]), ""]
    lines += _stored(report)
    plain = form == "vectors" and not _coded(report)
    if plain or before["dimension"] != after["dimension"]:  # at ratio 0 a model needs no projection
        lines += ["## Migrate an index without encoding again", "", "With `projection.npz`:", ""]
        lines += ["```python", SNIPPET, "```", ""]
    lines += [
        "## Made with", "", f"Resolved plan: `{report['resolved_plan']}`, seed {report['seed']}.",
        f"Source: {before['source']}, fingerprint {before['fingerprint']}.",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in versions().items()) + ".",
        "`recipe.yaml` replays it: `python -m core run recipe.yaml --out DIR`. "
        "`espalier-manifest.json` lists the SHA-256 of every file.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
