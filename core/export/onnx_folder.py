"""An encoder of any shape as an ONNX folder: one graph from token ids to the sentence's vector, checked against torch.

    write_onnx(encoder, folder)              onnx/model.onnx, tokenizer, settings, and embed.py, which runs it
    verify_onnx(encoder, folder, texts)      largest difference to torch, text by text
    time_onnx(dense, pruned, texts)          both in one fresh process, in alternation

A graph declares no sizes beside its tensors, so what no stock config can say (heads cut alone, another number of
neurons in every layer) runs here as it is, without padding. Legacy exporter on purpose: 0.1 s a tiny model and
1.3 s for MiniLM instead of 2-3 s and more, the same bytes every time, and no paths of this machine in the file.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.anatomy import features
from core.embedding import encode
from core.errors import Fault, InputError
from core.export.proof import run_fresh
from core.onnx_encoder import GRAPH, INPUTS, OUTPUT, SETTINGS, OnnxEncoder

TOLERANCE = 1e-5
OPSET = 17
ONE_FILE = 2_000_000_000  # bytes: a graph of 2 GiB or more cannot hold its own weights
_FRESH = Path(__file__).with_name("fresh_onnx.py")

_EMBED = '''\
"""Embed texts with onnxruntime and tokenizers alone; `python embed.py "a text" "another"` prints a vector a line."""
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path(__file__).parent
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # cuts at the model's length, pads to the longest
model = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])


def embed(SIGNATURE
    rows = tokenizer.encode_batch([prompt + text for text in texts])
    feed = {"input_ids": [r.ids for r in rows], "attention_mask": [r.attention_mask for r in rows],
            "token_type_ids": [r.type_ids for r in rows]}
    return model.run(None, {i.name: np.array(feed[i.name], np.int64) for i in model.get_inputs()})[0]


if __name__ == "__main__":
    np.savetxt(sys.stdout, embed(sys.argv[1:]), fmt="%.9g")
'''


def write_onnx(encoder: Any, folder: Path) -> None:
    """Write a loaded SentenceTransformer, which is not changed, as an ONNX folder; every shape is taken.

    Cost: one traced pass over two short sentences and the weights once more in memory. Raises InputError for a
    static model, for a tokenizer without a tokenizer.json, and where pooling leaves a prompt's tokens out.
    """
    _check(encoder)
    (folder / GRAPH).parent.mkdir(parents=True, exist_ok=True)
    inputs = _graph(encoder, folder / GRAPH)
    pad = _tokenizer(encoder, folder)
    (folder / "config.json").write_text(encoder[0].auto_model.config.to_json_string(), encoding="utf-8")
    settings = {
        "espalier_onnx": 1,
        "precision": "fp32",
        "dimension": _dimension(encoder),
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "metric": encoder.similarity_fn_name or "cosine",
        "max_seq_length": encoder.max_seq_length,
        "inputs": inputs,
        "prompts": dict(encoder.prompts or {}),
        "default_prompt_name": encoder.default_prompt_name,
        **pad,
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "embed.py").write_text(script(encoder), encoding="utf-8")


def script(encoder: Any) -> str:
    """embed.py: the few lines that a card shows and a user runs, with the model's prompts in them."""
    prompts = dict(encoder.prompts or {})
    default = prompts.get(encoder.default_prompt_name, "")
    named = {name: text for name, text in prompts.items() if text}
    comment = f"  # this model's prompts: {named!r}" if named else ""
    return _EMBED.replace("SIGNATURE", f"texts, prompt={default!r}):{comment}")


def _check(encoder: Any) -> None:
    first = encoder[0]
    if type(first).__name__ == "StaticEmbedding":
        raise InputError(
            "format onnx: a static model looks its vectors up, there is nothing a runtime could speed up. "
            "Use --format sentence-transformers."
        )
    if getattr(encoder.tokenizer, "backend_tokenizer", None) is None:
        raise InputError(
            f"format onnx: the tokenizer {type(encoder.tokenizer).__name__} has no tokenizer.json, which is all the "
            "`tokenizers` library reads. Use --format sentence-transformers."
        )
    if any(getattr(m, "include_prompt", True) is False for m in encoder) and any((encoder.prompts or {}).values()):
        raise InputError(
            "format onnx: this model's pooling leaves the prompt's tokens out, which no graph of ids and mask can "
            "tell. Use --format sentence-transformers."
        )


def _dimension(encoder: Any) -> int:
    whole = int(encoder.get_embedding_dimension())
    return min(whole, encoder.truncate_dim or whole)


def _graph(encoder: Any, path: Path) -> list[str]:
    """Trace the whole encoder into one graph with dynamic batch and length; the names of its inputs."""
    import torch

    class Whole(torch.nn.Module):
        """Token ids to vector: all modules in a row, and `truncate_dim`, which encode() applies behind them."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, *tensors: Any) -> Any:
            out = self.encoder.forward(dict(zip(names, tensors, strict=True)))[OUTPUT]
            return out if encoder.truncate_dim is None else out[:, : encoder.truncate_dim]

    found = features(encoder, ["a text to trace", "text"])  # one of them padded
    names = [n for n in INPUTS if n in found]
    axes = {n: {0: "batch", 1: "length"} for n in names} | {OUTPUT: {0: "batch"}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer remarks on every Python number; verify_onnx looks at the result
        torch.onnx.export(
            Whole().eval(), tuple(found[n] for n in names), str(path), dynamo=False, opset_version=OPSET,
            input_names=names, output_names=[OUTPUT], dynamic_axes=axes,
        )  # fmt: skip
    return _gathered(path)


def _gathered(path: Path) -> list[str]:
    """Move weights that one file cannot hold into one file beside it (the exporter writes one a tensor); the inputs."""
    import onnx

    if sum(p.stat().st_size for p in path.parent.iterdir()) < ONE_FILE:
        return [i.name for i in onnx.load(path, load_external_data=False).graph.input]
    model = onnx.load(path)
    for file in path.parent.iterdir():
        file.unlink()
    onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data")
    return [i.name for i in model.graph.input]


def _tokenizer(encoder: Any, folder: Path) -> dict[str, Any]:
    """Write the tokenizer's files. tokenizer.json itself says where to cut and how to pad, whatever it said before."""
    from tokenizers import Tokenizer

    slow = encoder.tokenizer
    slow.save_pretrained(folder)
    own = Tokenizer.from_str(slow.backend_tokenizer.to_str())
    own.no_truncation()
    if encoder.max_seq_length and encoder.max_seq_length < 2**31:  # transformers' word for "no limit" is 1e30
        own.enable_truncation(int(encoder.max_seq_length), direction=slow.truncation_side)
    pad = {"pad_id": int(slow.pad_token_id), "pad_token": str(slow.pad_token)}
    own.enable_padding(**pad, pad_type_id=int(slow.pad_token_type_id), direction=slow.padding_side)
    own.save(str(folder / "tokenizer.json"), pretty=False)
    return pad


def verify_onnx(encoder: Any, folder: Path, texts: Sequence[str], prompt: str = "") -> float:
    """Largest difference to torch in any number of any text's vector, embedded in batches of 32 and alone.

    Both in fp32 and with the same texts in a batch; vectors longer than one are measured against their length.
    Raises Fault above 1e-5: measured are 2e-7 and less, the rest is room for wider and deeper models.
    """
    opened, worst = OnnxEncoder(folder), 0.0
    for size in (32, 1):
        for start in range(0, len(texts), size):
            batch = texts[start : start + size]
            wanted, got = encode(encoder, batch, prompt, size), opened.encode(batch, prompt, size)
            if got.shape != wanted.shape or not np.isfinite(got).all():
                raise Fault(f"the ONNX model gives {got.shape}, not {wanted.shape}, or numbers that are not finite")
            scale = np.maximum(np.linalg.norm(wanted, axis=1, keepdims=True), 1.0)
            apart = (np.abs(got - wanted) / scale).max(axis=1)
            row = int(apart.argmax())
            if apart[row] > TOLERANCE:
                raise Fault(
                    f"the ONNX model differs from torch by {apart[row]:.1e} on text {start + row + 1} (batches of "
                    f"{size}), {TOLERANCE:.0e} is allowed: it is not handed out"
                )
            worst = max(worst, float(apart[row]))
    return worst


def time_onnx(
    dense: Path, pruned: Path, texts: Sequence[str], rounds: int = 7, out: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Speed of two ONNX folders in one fresh process, in alternation, by the embed.py that each of them carries.

    {"models": {"dense"|"pruned": {"ms_batch1", "texts_per_second"}}, "speedup", "speedup_batch1" (medians of
    paired ratios), "mean_tokens", "peak_bytes"}; `out` names .npy files for the vectors. Raises Fault where a
    folder does not open.
    """
    folders = {"dense": dense.resolve(), "pruned": pruned.resolve()}
    with tempfile.TemporaryDirectory() as name:
        request = {"models": {k: str(f) for k, f in folders.items()}, "texts": list(texts), "rounds": rounds}
        request["out"] = dict(out or {})
        return run_fresh(request, Path(name), _FRESH)
