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


def encode(model, texts, prompt):  # type: ignore[no-untyped-def]
    return model.encode(texts, prompt=prompt or None, batch_size=32, show_progress_bar=False)


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
    from sentence_transformers import SentenceTransformer

    models = {name: SentenceTransformer(path, device="cpu") for name, path in request["models"].items()}
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
