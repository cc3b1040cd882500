"""How much the prior of general text helps a small corpus, and how many documents it should count as.

    python tests/benchmarks/prior_weight.py [--data ../shared/data] [--prior FILE] [--draws 5]

Prints, for weights of 0 to 8 documents per dimension, the share of the main measure that SVD retains:
  sample    the built-in corpus, every query judged by a fit that never saw its relevant documents
  potion    a model without a prior: no weight may change anything
  sample, SciFact (nDCG@10, *train* queries), Banking77 (accuracy), STS-B train (Spearman)
            fitted on a few random documents, judged on the whole set (mean and spread of the draws)
Cost: SciFact is embedded once (about five minutes on two cores), the rest takes five more. Data that is not
there is left out, and said. The weight in use is `_PRIOR_WEIGHT` of core/methods/base.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from core import data, registry, sweeps  # noqa: E402
from core.bench import Bench, Judge, judge, load_prior, prepare  # noqa: E402
from core.encoders import open_model  # noqa: E402
from core.methods import base  # noqa: E402
from core.plan import Step  # noqa: E402
from core.store import home  # noqa: E402
from core.types import FitContext, Floats, Prior  # noqa: E402

WEIGHTS = (0.0, 0.01, 0.03, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
KEPT = (192, 128, 96, 64)
SIZES = (50, 100, 200, 300, 600, 1200)
Table = dict[float, NDArray[np.float64]]  # weight -> (draws, cuts) share retained


@contextmanager
def weight(value: float) -> Iterator[None]:
    """The prior counts as `value` documents per dimension; rankings are kept in a folder of this weight's own."""
    before, where = base._PRIOR_WEIGHT, os.environ.get("ESPALIER_HOME")
    (home() / "embeddings").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "embeddings").symlink_to(home() / "embeddings")
        base._PRIOR_WEIGHT, os.environ["ESPALIER_HOME"] = value, folder
        try:
            yield
        finally:
            base._PRIOR_WEIGHT = before
            os.environ.pop("ESPALIER_HOME")
            if where is not None:
                os.environ["ESPALIER_HOME"] = where


def ratios(dimension: int, kept: Sequence[int]) -> list[float]:
    return [0.0] + [1 - k / dimension for k in kept]


def retained(curve: sweeps.Curve, measure: str) -> NDArray[np.float64]:
    """(cuts,) share of the measure left; the curve's first cut removes nothing."""
    means = curve.means(measure)
    return np.asarray(means[1:] / means[0])


def fitted(one: Judge, documents: Floats, prior: Prior | None, method: str, kept: Sequence[int]) -> NDArray[np.float64]:
    """Fitted on these documents, judged on all of the data set's."""
    d = documents.shape[1]
    nothing = np.zeros((0, d), np.float32), np.zeros(0, np.int64)
    context = FitContext(documents, *nothing, metric=one.documents.metric, prior=prior)
    ranking = registry.build(Step(method)).rank(context)
    return retained(sweeps.curve(one, ranking, ratios(d, kept)), one.main)


def few_documents(
    one: Judge, prior: Prior | None, size: int, weights: Sequence[float], draws: int, method: str
) -> Table:
    """Random documents of a larger corpus, the same ones for every weight."""
    out: Table = {}
    for w in weights:
        with weight(w):
            rows = [np.random.default_rng(s).permutation(len(one.documents))[:size] for s in range(draws)]
            out[w] = np.array([fitted(one, one.documents.vectors[r], prior, method, KEPT) for r in rows])
    return out


def outside(bench: Bench, weights: Sequence[float], method: str) -> Table:
    """The built-in corpus, judged outside the fit."""
    out: Table = {}
    for w in weights:
        with weight(w):
            cuts = ratios(bench.model.dimension, KEPT)
            curve = sweeps.outside_curve(bench, bench.judges[0], Step(method), cuts)
            assert curve is not None
            out[w] = retained(curve, bench.judges[0].main)[None]
    return out


def show(title: str, table: Table, kept: Sequence[int]) -> None:
    print(f"\n{title}\n  weight " + "".join(f"{k:>14}" for k in kept) + "      mean")
    for w, found in table.items():
        each = zip(100 * found.mean(axis=0), 100 * found.std(axis=0), strict=True)
        cells = "".join(f"{m:8.1f} ±{s:4.1f}" if len(found) > 1 else f"{m:14.1f}" for m, s in each)
        print(f"  {w:6.2f} {cells}{100 * found.mean():10.2f}", flush=True)


def potion(folder: Path) -> None:
    """A model without a prior: the same to the last bit under every weight."""
    bench = prepare(str(folder), ["sample"])
    assert bench.prior is None, "potion has a prior"
    found = []
    for w in (WEIGHTS[0], WEIGHTS[-1]):
        with weight(w):
            found.append(fitted(bench.judges[0], bench.fit_vectors.vectors, bench.prior, "dimensions/svd", (128, 64)))
    print(f"\npotion-base-4m, no prior: weights {WEIGHTS[0]} and {WEIGHTS[-1]} agree: {np.array_equal(*found)}")


def elsewhere(folder: Path) -> Iterator[tuple[str, Judge]]:
    """Other data to be judged on, where it is there: none of it was used to make the prior."""
    model = open_model("minilm")
    for name, path, split, limit in (
        ("SciFact, train queries", "scifact", "train", None),
        ("Banking77, accuracy", "banking77/train.csv", "test", 3000),
        ("STS-B, train Spearman", "stsb/sts-train.tsv", "test", 1500),
    ):
        if (folder / path).exists():
            yield name, judge(model, data.load(str(folder / path), split=split, limit=limit)[0])
        else:
            print(f"\n{name}: not under --data, left out")


def read_prior(path: Path | None) -> Prior | None:
    if path is None:
        return load_prior(open_model("minilm"))
    from safetensors.numpy import load_file

    about, arrays = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")), load_file(path)
    return Prior(arrays["second_moment"], arrays["mean"], int(about["texts"]), about["source"])


def main() -> None:
    parser = argparse.ArgumentParser(description="what weight the prior of general text should have")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--prior", type=Path, help="another .safetensors than the shipped one")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--method", default="dimensions/svd")
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS, help="documents per dimension")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="documents to fit on")
    options = parser.parse_args()
    prior = read_prior(options.prior)
    if prior is None:
        raise SystemExit("there is no prior: make one with tests/benchmarks/make_prior.py, or give --prior")
    print(f"{options.method}, quality retained in %; prior: {prior.source}")
    bench = replace(prepare("minilm", ["sample"]), prior=prior)
    show("sample, judged outside the fit, dimensions kept:", outside(bench, options.weights, options.method), KEPT)
    if (options.data / "models" / "potion-base-4m").is_dir():
        potion(options.data / "models" / "potion-base-4m")
    judges = {"sample": bench.judges[0]} | dict(elsewhere(options.data))
    for (name, one), size in itertools.product(judges.items(), options.sizes):
        if size < len(one.documents):
            found = few_documents(one, prior, size, options.weights, options.draws, options.method)
            show(f"{name}: {size} documents to fit on, {options.draws} draws, dimensions kept:", found, KEPT)


if __name__ == "__main__":
    main()
