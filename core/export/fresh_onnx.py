"""A fresh process that has onnxruntime and tokenizers and knows nothing of torch or Espalier: embed, time.

    python fresh_onnx.py REQUEST.json

The request names ONNX folders ({"models": {"dense": ..., "pruned": ...}}), the texts, the rounds to time, and
where to write the vectors ({"out": {name: .npy}}, optional). The answer is one JSON line. What embeds is the
embed.py inside each folder, so that what is measured is what the user runs.
"""

import json
import resource
import statistics
import sys
import time

sys.dont_write_bytecode = True  # the folders are to stay as they are


def opened(folder):  # type: ignore[no-untyped-def]
    """The folder's own embed.py, imported."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("embed", f"{folder}/embed.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encode(model, texts, batch_size=32):  # type: ignore[no-untyped-def]
    """(n, d): batches of texts of similar length, rows in the order given."""
    import numpy as np

    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    parts = [model.embed([texts[i] for i in order[s : s + batch_size]]) for s in range(0, len(order), batch_size)]
    return np.concatenate(parts)[np.argsort(order)]


def timings(models, texts, rounds):  # type: ignore[no-untyped-def]
    """Seconds of each model for a batch of 32 and for one text, in alternation: {name: {"batch": [], "one": []}}."""
    taken = {name: {"batch": [], "one": []} for name in models}
    for turn in range(rounds + 1):  # the first round warms up
        for kind, what in (("batch", texts[:32]), ("one", [texts[turn % len(texts)]])):
            for name, model in models.items():
                time.sleep(0.005)  # the other session's idle threads spin for a moment
                start = time.perf_counter()
                model.embed(what)
                if turn:
                    taken[name][kind].append(time.perf_counter() - start)
    return taken


def ratio(taken, kind):  # type: ignore[no-untyped-def]
    pairs = zip(taken["dense"][kind], taken["pruned"][kind], strict=True)
    return statistics.median(dense / pruned for dense, pruned in pairs)


def peak_bytes():  # type: ignore[no-untyped-def]
    """This process's own peak memory; getrusage would count the parent's from before exec on Linux."""
    try:
        with open("/proc/self/status", encoding="ascii") as f:
            return next(1024 * int(line.split()[1]) for line in f if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(request):  # type: ignore[no-untyped-def]
    import numpy as np

    models = {name: opened(folder) for name, folder in request["models"].items()}
    texts = request["texts"]
    for name, path in request.get("out", {}).items():
        np.save(path, encode(models[name], texts).astype(np.float32))
    first = next(iter(models.values()))
    tokens = [sum(row.attention_mask) for row in first.tokenizer.encode_batch(texts[:32])]
    answer = {"models": {}, "mean_tokens": statistics.mean(tokens)}
    if request.get("rounds"):
        taken = timings(models, texts, request["rounds"])
        for name, t in taken.items():
            answer["models"][name] = {
                "ms_batch1": 1000 * statistics.median(t["one"]),
                "texts_per_second": min(32, len(texts)) / statistics.median(t["batch"]),
            }
        if {"dense", "pruned"} <= set(models):
            answer |= {"speedup": ratio(taken, "batch"), "speedup_batch1": ratio(taken, "one")}
    answer["peak_bytes"] = peak_bytes()
    print(json.dumps(answer))


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as f:
        main(json.load(f))
