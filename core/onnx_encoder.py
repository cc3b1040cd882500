"""Embed texts with onnxruntime and tokenizers alone: an ONNX folder as an encoder, no torch loaded.

    OnnxEncoder(folder).encode(texts, prompt="", batch_size=32) -> (n, d) float32

The folder is what core.export.onnx_folder writes. Nothing in it is unpickled or run as code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import ModelRefused
from core.types import Floats

SETTINGS = "espalier-onnx.json"
GRAPH = "onnx/model.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "sentence_embedding"


class OnnxEncoder:
    """A loaded ONNX folder. `settings` is its espalier-onnx.json (dimension, metric, prompts, max_seq_length)."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelRefused where a file is missing, does not parse, or the graph asks for other inputs."""
        import onnxruntime
        from tokenizers import Tokenizer

        try:
            self.settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.session = onnxruntime.InferenceSession(str(folder / GRAPH), providers=["CPUExecutionProvider"])
            self.dimension = int(self.settings["dimension"])
        except Exception as e:  # onnxruntime and tokenizers raise types of their own
            raise ModelRefused(
                f"{folder.name} is no ONNX folder of Espalier's ({str(e).splitlines()[0][:200]}): export it again"
            ) from e
        self.inputs = [i.name for i in self.session.get_inputs()]
        strange = sorted(set(self.inputs) - set(INPUTS))
        if strange:
            raise ModelRefused(f"{folder.name}/{GRAPH} asks for {strange}, {list(INPUTS)} are known: export it again")

    def encode(self, texts: Sequence[str], prompt: str = "", batch_size: int = 32) -> Floats:
        """(n, d) float32, a row a text in the order given, as the graph's last module gives them.

        Without a prompt the model's default one is used, where it has one. Batches are of texts of similar length,
        longest first; what is longer than the model reads is cut. Lone surrogates, which no tokenizer takes, are
        replaced.
        """
        prompt = prompt or self.settings["prompts"].get(self.settings["default_prompt_name"], "")
        readable = [(prompt + t).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for t in texts]
        order = sorted(range(len(readable)), key=lambda i: -len(readable[i]))
        out = np.zeros((len(readable), self.dimension), np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            out[rows] = self.session.run([OUTPUT], self._feed([readable[i] for i in rows]))[0]
        return out

    def _feed(self, batch: list[str]) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs for a batch, padded to its longest text; tokenizer.json says how to cut and pad."""
        found = self.tokenizer.encode_batch(batch)
        feed = {
            "input_ids": [e.ids for e in found],
            "attention_mask": [e.attention_mask for e in found],
            "token_type_ids": [e.type_ids for e in found],
        }
        return {name: np.array(feed[name], np.int64) for name in self.inputs}
