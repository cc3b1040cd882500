"""A fresh process that knows nothing of Espalier: load with plain `SentenceTransformer(path)`, embed, time.

    python fresh.py REQUEST.json

The request names one or two model folders ("source", "pruned"), the texts with their prompts, and where to
write the vectors (.npy, one file a model). The answer is one JSON line. Run by path, so that what is proven
here holds on a machine that has only sentence-transformers.
"""

import json
import os
import resource
import statistics
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"


class Graph:
    """An ONNX folder as far as it is timed here: the same calls as a SentenceTransformer's."""

    max_seq_length = None  # tokenizer.json cuts

    def __init__(self, path):  # type: ignore[no-untyped-def]
        import onnxruntime
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(f"{path}/tokenizer.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)  # as torch
        self.session = onnxruntime.InferenceSession(f"{path}/onnx/model.onnx", options)

    def encode(self, texts, prompt="", batch_size=32, show_progress_bar=False):  # type: ignore[no-untyped-def]
        import numpy as np

        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        out = []
        for start in range(0, len(order), batch_size):
            batch = [prompt + texts[i] for i in order[start : start + batch_size]]
            rows = self.tokenizer.encode_batch(batch)
            feed = {"input_ids": [r.ids for r in rows], "attention_mask": [r.attention_mask for r in rows],
                    "token_type_ids": [r.type_ids for r in rows]}  # fmt: skip
            feed = {i.name: np.array(feed[i.name], np.int64) for i in self.session.get_inputs()}
            out.append(self.session.run(None, feed)[0])
        return np.concatenate(out)[np.argsort(order)]


def opened(path):  # type: ignore[no-untyped-def]
    """A model folder, or an ONNX folder."""
    if os.path.exists(f"{path}/onnx/model.onnx"):
        return Graph(path)
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(path, device="cpu")


def encode(model, texts, prompt):  # type: ignore[no-untyped-def]
    return model.encode(texts, prompt=prompt, batch_size=32, show_progress_bar=False)


def timings(models, texts, rounds):  # type: ignore[no-untyped-def]
    """Seconds of each model for a batch of 32 and for one text, in alternation: {name: {"batch": [], "one": []}}."""
    taken = {name: {"batch": [], "one": []} for name in models}
    batch, single = texts[:32], texts[0]
    for turn in range(rounds + 1):  # the first round warms up
        for name, model in models.items():
            for kind, what in (("batch", batch), ("one", [single])):
                start = time.perf_counter()
                model.encode(what, batch_size=32, show_progress_bar=False)
                if turn:
                    taken[name][kind].append(time.perf_counter() - start)
    return taken


def ratio(taken, kind):  # type: ignore[no-untyped-def]
    """Median of the paired ratios dense / pruned."""
    return statistics.median(a / b for a, b in zip(taken["dense"][kind], taken["pruned"][kind], strict=True))


def peak_bytes():  # type: ignore[no-untyped-def]
    """This process's own peak memory; getrusage would count the parent's from before exec on Linux."""
    try:
        with open("/proc/self/status", encoding="ascii") as f:
            return next(1024 * int(line.split()[1]) for line in f if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(request):  # type: ignore[no-untyped-def]
    import numpy as np

    models = {name: opened(path) for name, path in request["models"].items()}
    for name in request["out"]:
        model = models[name]
        parts = [encode(model, group["texts"], group["prompt"]) for group in request["groups"]]
        np.save(request["out"][name], np.concatenate(parts).astype(np.float32))
    answer = {"models": {}, "peak_bytes": peak_bytes()}
    texts = [t for group in request["groups"] for t in group["texts"]]
    first = next(iter(models.values()))
    try:
        answer["mean_tokens"] = float(statistics.mean(len(first.tokenizer(t)["input_ids"]) for t in texts[:32]))
    except (TypeError, KeyError):  # a static model's tokenizer is a `tokenizers` object
        answer["mean_tokens"] = float(statistics.mean(len(first.tokenizer.encode(t).ids) for t in texts[:32]))
    answer["mean_tokens"] = min(answer["mean_tokens"], float(first.max_seq_length or answer["mean_tokens"]))
    if request.get("rounds"):
        timed = {name: models[name] for name in request.get("timed", models)}
        taken = timings(timed, texts, request["rounds"])
        for name, t in taken.items():
            answer["models"][name] = {
                "ms_batch1": 1000 * statistics.median(t["one"]),
                "texts_per_second": min(32, len(texts)) / statistics.median(t["batch"]),
            }
        if {"dense", "pruned"} <= set(taken):
            answer |= {"speedup": ratio(taken, "batch"), "speedup_batch1": ratio(taken, "one")}
    print(json.dumps(answer))


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as f:
        main(json.load(f))
