"""Embed texts with onnxruntime and tokenizers alone: an ONNX folder as an encoder, no torch loaded.

    OnnxEncoder(folder).encode(texts, prompt="", batch_size=32) -> (n, d) float32

The folder is what core.export.onnx_folder writes. Nothing in it is unpickled or run as code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
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


def threads() -> int:
    """How many threads OMP_NUM_THREADS allows, which torch obeys and other libraries do not read; 0 says nothing."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() else 0


def _onnxruntime(graph: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


class OnnxEncoder:
    """A loaded ONNX folder. `settings` is its espalier-onnx.json (dimension, metric, prompts, max_seq_length).

    session    what runs the graph; another library's must answer get_inputs() and run(names, feed) as onnxruntime's
    """

    def __init__(self, folder: Path, session: Callable[[Path], Any] = _onnxruntime) -> None:
        """Raises ModelRefused where a file is missing, does not parse, or the graph asks for other inputs."""
        from tokenizers import Tokenizer

        try:
            self.settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.session = session(folder / GRAPH)
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

        Batches are of texts of similar length, longest first; what is longer than the model reads is cut.
        """
        whole = [prompt + text for text in texts]
        order = sorted(range(len(whole)), key=lambda i: -len(whole[i]))
        out = np.zeros((len(whole), self.dimension), np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            out[rows] = self.session.run([OUTPUT], self.feed([whole[i] for i in rows]))[0]
        return out

    def feed(self, batch: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs for a batch, padded to its longest text; tokenizer.json says how to cut and pad.

        Lone surrogates, which no tokenizer takes, are replaced.
        """
        readable = [text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for text in batch]
        found = self.tokenizer.encode_batch(readable)
        feed = {
            "input_ids": [e.ids for e in found],
            "attention_mask": [e.attention_mask for e in found],
            "token_type_ids": [e.type_ids for e in found],
        }
        return {name: np.array(feed[name], np.int64) for name in self.inputs}
