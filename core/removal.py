"""Take parts of an encoder away and look what a sample keeps: units and layers alone, then the whole cut.

    Removal(bench, step, ratios, size=128, seed=0).run()     rows of numbers, kept on disk part by part

A part is removed by gates or masks on a private copy, which gives what slicing it would; evaluation goes on from
the hidden states before its layer. The whole cut is the real one, with the method's own reconstruction.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from core import registry, units
from core.anatomy import Anatomy, duplicate
from core.bench import Bench
from core.calibration import CalibrationTexts, EncoderContext, Importance, hooked
from core.cuts import Work, perform
from core.derive import calibration_texts
from core.embedding import load
from core.methods.base import EncoderMethod
from core.plan import Cut, Step
from core.planned import MULTIPLE, neurons
from core.probing import Look, Probe
from core.store import get_arrays, put_arrays
from core.surgery.masks import mask
from core.surgery.tokens import read_tokenizer
from core.surgery.vocabulary import ids_of
from core.surgery.walk import Walker
from core.types import Progress, digest, quiet

VERSION = "removal 3"  # raise it when what is computed changes, so that old results are not found again
TOKENS = 12_000  # of the calibration, where a method reads a stated number; a plan takes more
_DOCUMENTS, _SHORT = 100, 400  # texts that any calibration here may draw on
LISTED = 200  # token rows at either end that are listed
_COUNTED = 20_000  # texts in which tokens are counted
_DOING = {"heads": "removing each head alone", "layers": "removing each layer alone"}
Json = dict[str, Any]
Change = AbstractContextManager[None]


def kept_on_disk(key: str, make: Callable[[], Json]) -> Json:
    """What `make` answers, made once a key."""
    stored = get_arrays(key)
    if stored is None:
        found = make()
        put_arrays(key, {"json": np.frombuffer(json.dumps(found).encode(), np.uint8)})
        return found
    return dict(json.loads(stored["json"].tobytes()))


@dataclass(frozen=True)
class _Trial:
    """A change to one layer: a unit gone (`unit`), or the layer cut to `kept` at a ratio."""

    unit: int | None
    ratio: float
    kept: int
    change: Change


@dataclass(eq=False)
class Removal:
    """One target and criterion of one bench; the first judge's data set lends the sample."""

    bench: Bench
    step: Step
    ratios: Sequence[float]
    size: int
    seed: int = 0
    progress: Progress = quiet

    def run(self) -> Json:
        """units, layers and curve as rows, the sample, and how a cut can be sized; see sensitivity.py."""
        return kept_on_disk(self._key("answer"), self._work_out)

    def _work_out(self) -> Json:
        start = time.perf_counter()
        curve = kept_on_disk(self._key("curve"), self._curve)["rows"]
        alone = kept_on_disk(self._key("alone"), self._alone)
        whole, multiple = sizes(self.view, self.step.target)
        probe, judge = self.probe, self.bench.judges[0]
        sample = {
            "data": judge.name, "documents": probe.documents, "queries": len(probe.judge.dataset.queries),
            "tokens": probe.tokens, "seed": self.seed, "quality": probe.base, "words": probe.words,
        }  # fmt: skip
        notes = [*self._notes(), *alone.pop("notes")]
        return alone | {
            "curve": curve, "sample": sample, "whole": whole, "multiple": multiple, "notes": notes,
            "seconds": time.perf_counter() - start,
        }  # fmt: skip

    def _key(self, part: str) -> str:
        about = (str(self.step), repr(tuple(self.ratios)), str(self.size), str(self.seed))
        return digest(VERSION, part, self.bench.fingerprint, self.bench.fit.fingerprint, *about)

    @cached_property
    def encoder(self) -> Any:
        """A copy that may be hooked; the shared one never is."""
        self.progress("loading the encoder", 0, 1)
        return duplicate(load(self.bench.model.path))

    @cached_property
    def view(self) -> Anatomy:
        return Anatomy(self.encoder, self.step.target)

    @cached_property
    def texts(self) -> CalibrationTexts:
        """A few of the calibration texts that a plan would take; all of them for tokens, which only counts them."""
        found = calibration_texts(self.bench.model, self.bench.fit, self.seed)
        if self.step.target == "tokens":
            return CalibrationTexts(found.documents[:_COUNTED], found.short[:_COUNTED])
        return CalibrationTexts(found.documents[:_DOCUMENTS], found.short[:_SHORT])

    @cached_property
    def probe(self) -> Probe:
        return Probe.start(self.encoder, self.bench.judges[0], self.bench.model, self.size, self.seed)

    @cached_property
    def method(self) -> Any:
        return registry.build(self.step)

    @cached_property
    def importance(self) -> Importance:
        """The criterion's scores of the unpruned encoder."""
        assert isinstance(self.method, EncoderMethod)
        texts = self.texts.mixed(TOKENS)
        if self.step.target == "tokens":
            texts = (*self.texts.documents, *self.texts.short)
        context = EncoderContext(self.encoder, texts, self.step.target, self.seed, None, self.progress)
        return self.method.rank(context)

    @cached_property
    def ranked(self) -> Any:
        """The method, ranking what it has ranked; as it is where its ranking depends on the size of the cut."""
        if self.method.card.refits:
            return self.method
        known = copy.copy(self.method)
        object.__setattr__(known, "rank", lambda _: self.importance)
        return known

    # ---- alone ------------------------------------------------------------------------------------------------

    def _alone(self) -> Json:
        """Every unit's importance; every layer cut alone, and where that is quick every unit removed alone."""
        looks: dict[tuple[int, int], Look] = {}
        layers: list[Json] = []
        if self.step.target in ("heads", "neurons", "layers", "weights"):
            for layer, trial, look in self._walk():
                if trial.unit is not None:
                    looks[layer, trial.unit] = look
                if trial.unit is None or self.step.target == "layers":
                    layers.append({"layer": layer, "ratio": trial.ratio, "kept": trial.kept} | _shares(look))
        scores = self.importance
        if self.step.target == "tokens":
            rows, quantiles = self._token_rows(scores.scores[0])
        else:
            rows, quantiles = [self._row(*place, looks) for place in self._places(scores)], {}
        return {"units": rows, "layers": layers, "quantiles": quantiles, "notes": list(scores.notes)}

    def _walk(self) -> Iterator[tuple[int, _Trial, Look]]:
        """Each layer's trials, evaluated from the hidden states before the layer."""
        walker, layers = Walker.start(self.view, self.probe.batches(self.encoder)), len(self.view.layers)
        what = _DOING.get(self.step.target, "cutting each layer alone")
        for layer in range(layers):
            trials = self._trials(layer)
            for done, trial in enumerate(trials, layer * len(trials)):
                self.progress(what, done, layers * len(trials))
                with trial.change:
                    look = self.probe.look(self.probe.resumed(walker))
                yield layer, trial, look
            if layer + 1 < layers:
                walker.step()
        self.progress(what, 1, 1)

    def _trials(self, layer: int) -> list[_Trial]:
        target = self.step.target
        if target == "layers":
            return [_Trial(0, 1.0, 0, self._without(layer, [layer]))]
        if target == "weights":
            return [self._fewer_weights(layer, ratio) for ratio in self.ratios]
        count = units.counts(self.view, target)[layer]
        each = range(count) if target == "heads" else range(0)
        out = [_Trial(u, 1 / count, count - 1, self._without(layer, [u])) for u in each]
        order = np.argsort(-self.importance.scores[layer], kind="stable")
        for ratio in self.ratios:
            kept = neurons(Cut(ratio=ratio), count) if target == "neurons" else Cut(ratio=ratio).count(count)
            out.append(_Trial(None, ratio, kept, self._without(layer, order[kept:])))
        return out

    def _without(self, layer: int, gone: Any) -> Change:
        """Units `gone` of a layer (or the layer itself) gated off while this lasts."""
        import torch

        target = self.step.target
        gates = [torch.ones(n) for n in units.counts(self.view, target)]
        gates[0 if target == "layers" else layer][np.asarray(gone, np.int64)] = 0.0
        return hooked([units.gate_hooks(self.view, target, gates)[layer]])

    def _fewer_weights(self, layer: int, ratio: float) -> _Trial:
        linears = self.view.linears()
        each = len(linears) // len(self.view.layers)
        part = slice(layer * each, (layer + 1) * each)
        masks = mask(self.importance.scores[part], Cut(ratio=ratio), "local", "none", self.method.rows)
        return _Trial(None, ratio, int(sum(m.sum() for m in masks)), _masked([m for _, m in linears[part]], masks))

    # ---- rows -------------------------------------------------------------------------------------------------

    def _places(self, scores: Importance) -> Iterator[tuple[int | None, int, float, str]]:
        """(layer, unit, importance, name) of every unit."""
        target = self.step.target
        if target == "weights":
            linears = self.view.linears()
            each = len(linears) // len(self.view.layers)
            for i, ((name, _), s) in enumerate(zip(linears, scores.scores, strict=True)):
                short = name.removeprefix(f"{self.view.parts.layers}.{i // each}.")
                yield i // each, i % each, float(s.mean(dtype=np.float64)), short
        elif target in ("layers", "width"):
            for i, s in enumerate(scores.scores[0]):
                yield (i, 0, float(s), "") if target == "layers" else (None, i, float(s), "")
        else:
            for layer, row in enumerate(scores.scores):
                for i, s in enumerate(row):
                    yield layer, i, float(s), ""

    def _row(self, layer: int | None, unit: int, importance: float, name: str, looks: Any) -> Json:
        look = looks.get((layer, unit))
        drop = None if look is None else 1 - look.quality
        return {
            "layer": layer, "unit": unit, "importance": float(f"{importance:.7g}"), "quality_drop": drop,
            "cosine": look and look.cosine, "name": name,
        }  # fmt: skip

    def _token_rows(self, scores: Any) -> tuple[list[Json], Json]:
        """The rows that matter most and least, and quantiles of all."""
        names = {i: token for token, i in ids_of(read_tokenizer(self.encoder)).items()}
        order = np.argsort(-scores, kind="stable")
        listed = order if len(order) <= 2 * LISTED else np.concatenate([order[:LISTED], order[-LISTED:]])
        rows = [self._row(None, int(i), float(scores[i]), names.get(int(i), ""), {}) for i in listed]
        return rows, {f"{q:g}": float(np.quantile(scores, q)) for q in (0, 0.25, 0.5, 0.75, 1)}

    # ---- the whole cut ----------------------------------------------------------------------------------------

    def _curve(self) -> Json:
        """The real cut of everything at every ratio."""
        rows = []
        whole = sizes(self.view, self.step.target)[0]
        for i, ratio in enumerate(self.ratios):
            self.progress(f"cutting {100 * ratio:.0f} % of the whole", i, len(self.ratios))
            work = Work.start(load(self.bench.model.path), self.texts, self.seed, self.progress)
            perform(work, self.step.with_cut(ratio=ratio), self.ranked)
            kept = sizes(Anatomy(work.encoder, self.step.target), self.step.target, left=True)[0]
            look = self.probe.look(self.probe.vectors(work.encoder))
            rows.append({"ratio": ratio, "removed": 1 - kept / whole, "kept": kept, "quality_kept": look.quality,
                         "cosine": look.cosine, "overlap": look.overlap})  # fmt: skip
        return {"rows": rows}

    def _notes(self) -> list[str]:
        measure, base = self.probe.measure, self.probe.base
        refit = {k: self.step.get(k) for k in ("reconstruct", "output_map") if self.step.get(k) is not None}
        how = " ".join(f"{k}={str(v).lower()}" for k, v in refit.items()) or "nothing refitted"
        easier = ", and an easier search, as fewer documents compete" if self.probe.judge.task is not None else ""
        out = [
            f"quality is {measure} as a share of the unpruned encoder's {base:.3f} on this sample: few texts{easier}; "
            "it moves by chance, while the mean cosine to the unpruned embeddings is far less noisy",
            f"the curve is the whole cut, with {how}, calibrated on up to {len(self.texts.documents):,} documents and "
            f"{len(self.texts.short):,} short texts",
        ]
        if self.step.target in ("heads", "neurons", "weights"):
            out.append("layers are cut alone without reconstruction")
        if self.step.target == "weights":
            out.append("one unit a matrix: the mean score of its weights, which compares matrices only roughly")
        return out


def sizes(view: Anatomy, target: str, left: bool = False) -> tuple[int, int]:
    """(units of a layer or of the encoder, the steps they go in); `left` counts single weights that are not zero."""
    shape = view.shape
    if target == "weights":
        weights = [m.weight.detach() for _, m in view.linears()]
        total = sum(w.numel() for w in weights)
        return (sum(int((w != 0).sum()) for w in weights) if left else total), max(1, total // 100)
    return {
        "heads": (max(shape.heads, default=0), 1), "neurons": (max(shape.inner, default=0), MULTIPLE),
        "layers": (len(shape.heads), 1), "width": (shape.width, shape.head_size), "tokens": (shape.vocabulary, 1),
    }[target]  # fmt: skip


def _shares(look: Look) -> Json:
    return {"quality_kept": look.quality, "quality_drop": 1 - look.quality, "cosine": look.cosine}


@contextmanager
def _masked(modules: Sequence[Any], masks: Sequence[Any]) -> Iterator[None]:
    """Weights outside the masks are zero while this lasts."""
    import torch

    before = [m.weight.detach().clone() for m in modules]
    try:
        with torch.no_grad():
            for module, stays in zip(modules, masks, strict=True):
                module.weight.mul_(torch.from_numpy(stays))
        yield
    finally:
        with torch.no_grad():
            for module, weight in zip(modules, before, strict=True):
                module.weight.copy_(weight)
