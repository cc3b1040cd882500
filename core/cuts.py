"""One encoder step of a plan, done on a copy: rank, choose, slice, refit. `derive` keeps what comes out.

The dense encoder stays beside the one being cut as its teacher; which of its layers, heads, neurons and channels
are still there is kept, so that later steps can still be refitted to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from core import registry, units
from core.anatomy import Anatomy, Shape, duplicate
from core.calibration import CalibrationTexts, EncoderContext, Importance, valid
from core.embedding import encode
from core.methods.base import EncoderMethod, TrainingMethod
from core.plan import Cut, Group, Plan, Step
from core.planned import MULTIPLE, after
from core.recover.distill import Teacher
from core.recover.steps import train
from core.surgery.least_squares import eliminate
from core.surgery.masks import cut_weights, kernels, said
from core.surgery.narrow import refit_width
from core.surgery.output_map import append_map
from core.surgery.rebuild import Cuts, rebuild
from core.surgery.slicing import cut_heads, cut_layers, cut_width
from core.surgery.tokens import closure, coverage, cut_tokens, read_tokenizer
from core.types import Ints, Progress, quiet

_COUNTED = 20_000  # texts in which tokens are counted
_READ = 30_000  # calibration tokens of criteria for single weights


@dataclass(frozen=True)
class Origin:
    """What a schedule began with: the ratios of its rounds count from these units, not from what is left of them."""

    shape: Shape
    layers: tuple[int, ...]
    rounded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Work:
    """An encoder being cut, its teacher, and what of the teacher is still there.

    teacher  the source with the vocabulary that is left, so that both read the same tokens
    origin   where the steps are the rounds of a schedule: what it began with
    dense    the source's vectors of texts: what recovery learns from, whatever the tokens
    trained  where trainings left their best state, until the encoder itself is written
    """

    encoder: Any
    teacher: Any
    texts: CalibrationTexts
    dense: Teacher
    seed: int = 0
    progress: Progress = quiet
    layers: list[int] = field(default_factory=list)
    heads: list[Ints] = field(default_factory=list)
    neurons: list[Ints] = field(default_factory=list)
    channels: Ints | None = None
    origin: Origin | None = None
    rounded: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)

    @classmethod
    def start(
        cls, source: Any, texts: CalibrationTexts, seed: int = 0, progress: Progress = quiet,
        dense: Teacher | None = None,
    ) -> Work:  # fmt: skip
        """Two copies of the source, which itself is neither changed nor hooked; `dense` may know its vectors."""
        work = cls(duplicate(source), source, texts, dense or (lambda t: encode(source, t)), seed, progress)
        work.learn_from(duplicate(source))
        return work

    def learn_from(self, teacher: Any) -> None:
        """Take another teacher that the encoder equals now: after a vocabulary cut tokens no longer correspond."""
        shape = Anatomy(teacher, "tokens").shape
        self.teacher = teacher
        self.layers = list(range(len(shape.heads)))
        self.heads, self.neurons = [np.arange(n) for n in shape.heads], [np.arange(n) for n in shape.inner]
        self.channels = None

    def context(self, target: str, tokens: int, keep: int | None = None) -> EncoderContext:
        """What a method may learn from: this encoder and calibration texts of about so many tokens."""
        context = EncoderContext(self.encoder, self.texts.mixed(tokens), target, self.seed, keep, self.progress)
        read = sum(int(valid(batch).sum()) for batch in context.batches)
        self.facts["calibration"] = {"texts": len(context.texts), "tokens": read}
        return context

    def planned(self, target: str, cut: Cut) -> Shape:
        """The shape this cut leaves; what was rounded is noted."""
        view = Anatomy(self.encoder, target)
        here = view.shape
        name, amount = ("ratio", cut.ratio) if cut.ratio is not None else ("keep", cut.keep)
        table = view.tokens.weight.shape[1]
        taken = int(table) if int(table) != here.width else 0
        shape, said = after(self._counted(here), Step(f"{target}/x", ((name, amount),)), taken)  # type: ignore[arg-type]
        self.rounded += said
        return shape

    def _counted(self, here: Shape) -> Shape:
        """The shape that ratios count from: what is here, or what a schedule began with in the layers that are left."""
        if self.origin is None:
            return here
        rows = [self.origin.layers.index(i) for i in self.layers]
        start = self.origin.shape
        heads, inner = tuple(start.heads[i] for i in rows), tuple(start.inner[i] for i in rows)
        return replace(start, heads=heads, inner=inner)

    def keep_layers(self, kept: Sequence[int]) -> None:
        self.layers = [self.layers[i] for i in kept]
        self.heads, self.neurons = [self.heads[i] for i in kept], [self.neurons[i] for i in kept]


def perform(work: Work, step: Step, method: Any = None) -> None:
    """Do one resolved encoder step; `method` is the step's own where it is built already.

    Raises InputError or PlanError for what cannot be cut so.
    """
    method, cut = method or registry.build(step), step.cut
    if isinstance(method, TrainingMethod):
        train(work, method)
        return
    assert isinstance(method, EncoderMethod)
    assert cut is not None
    Anatomy(work.encoder, step.target)  # raises where the architecture cannot be cut so
    if cut.ratio == 0:
        return
    _CUTS[step.target](work, step.target, method, cut)


def random_plan(plan: Plan, seed: int) -> Plan:
    """The same cuts with units drawn by chance, and the same reconstruction: what the criterion has to beat."""

    def drawn(step: Step) -> Step:
        if registry.STAGES.get(step.target) != 0 or step.cut is None:
            return step
        name = f"{step.target}/random"
        known = registry.find(name).__dataclass_fields__
        own = tuple((k, v) for k, v in step.options if k in known and k != "seed")
        cut = tuple((k, v) for k, v in step.options if k in ("ratio", "keep"))
        return Step(name, (*cut, *own, ("seed", seed)))

    return Plan(
        tuple(replace(s, steps=tuple(map(drawn, s.steps))) if isinstance(s, Group) else drawn(s) for s in plan.steps)
    )


# ---- neurons and heads ----------------------------------------------------------------------------------------


def _structures(work: Work, target: str, method: Any, cut: Cut) -> None:
    view, context = Anatomy(work.encoder), work.context(target, method.calibration)
    present, planned = units.counts(view, target), work.planned(target, cut)
    keep = list(planned.inner if target == "neurons" else planned.heads)
    if work.origin is not None:
        if method.scope == "local":
            keep = [min(k, n) for k, n in zip(keep, present, strict=True)]
        if sum(keep) >= sum(present):  # a round that rounds to nothing
            return
    sequential = method.card.refits
    scores = None if sequential and not _shared(view, target) else method.rank(context)
    if method.scope == "global" and not _shared(view, target):
        multiple = MULTIPLE if target == "neurons" and cut.keep is None else 1  # an explicit keep never snaps
        keep = _allocated(work, context, scores, keep, present, multiple)
    choose: Callable[[int, Any, Any], Ints]
    if scores is None:
        size = 1 if target == "neurons" else view.head_size

        def choose(layer: int, moments: Any, weight: Any) -> Ints:
            gone = eliminate(moments, weight, keep[layer], _biased(view, target, layer), size)
            return np.setdiff1d(np.arange(present[layer]), gone)
    else:
        kept = _by_scores(scores, keep)
        if _shared(view, target):
            one = _shared_choice(scores, keep[0])
            cut_heads(view, None, one)
            kept = [np.arange(len(one)) for _ in present]
            work.heads = [h[one] for h in work.heads]

        def choose(layer: int, moments: Any, weight: Any) -> Ints:
            return kept[layer]

    _rebuild(work, view, context, target, choose, method.reconstruct, sequential)
    if method.output_map:
        append_map(work.encoder, work.teacher, work.texts, work.progress)


def _rebuild(
    work: Work, view: Anatomy, context: EncoderContext, target: str, choose: Any, reconstruct: Any, sequential: bool
) -> None:
    """Cut layer by layer and note which of the teacher's units are left."""
    shared = _shared(view, target)
    record = work.neurons if target == "neurons" else work.heads

    def noted(layer: int, moments: Any, weight: Any) -> Ints:
        kept = np.sort(choose(layer, moments, weight))
        record[layer] = record[layer][kept]
        return kept

    cuts = Cuts(origins=work.layers, channels=work.channels, sequential=sequential and not shared)
    if target == "neurons":
        cuts.neurons = noted
    elif not shared:
        cuts.heads = noted
    rebuild(view, Anatomy(work.teacher), context.batches, cuts, reconstruct, work.progress)


def _shared(view: Anatomy, target: str) -> bool:
    return target == "heads" and view.shared_heads


def _biased(view: Anatomy, target: str, layer: int) -> bool:
    out = units.projections(view, target)[layer][0]
    return out.bias is not None


def _by_scores(scores: Importance, keep: Sequence[int]) -> list[Ints]:
    return [np.sort(np.argsort(-s, kind="stable")[:k]) for s, k in zip(scores.scores, keep, strict=True)]


def _shared_choice(scores: Importance, keep: int) -> Ints:
    """The same heads in every layer: each layer's scores count as shares of the layer."""
    total = sum(s / max(float(np.abs(s).sum()), 1e-30) for s in scores.scores)
    return np.sort(np.argsort(-np.asarray(total), kind="stable")[:keep])


def _allocated(
    work: Work, context: EncoderContext, scores: Any, keep: Sequence[int], present: Sequence[int], multiple: int
) -> list[int]:
    """How many units each layer keeps when layers compete. OBS has no score across layers: Taylor decides for it."""
    if scores is None:
        scores = Importance("allocation", units.gauss_newton(context))
    flat = np.concatenate(scores.scores)
    layer_of = np.repeat(np.arange(len(present)), present)
    count = np.bincount(layer_of[np.argsort(-flat, kind="stable")[: sum(keep)]], minlength=len(present))
    out = [min(n, -(-max(1, int(c)) // multiple) * multiple) for c, n in zip(count, present, strict=True)]
    if sum(out) != sum(keep):
        work.rounded.append(f"{context.target}: {sum(keep)} -> {sum(out)} in all (each layer a multiple of {multiple})")
    work.notes.append(f"{context.target} kept in each layer: {', '.join(map(str, out))}")
    return out


# ---- layers and width -----------------------------------------------------------------------------------------


def _layers(work: Work, target: str, method: Any, cut: Cut) -> None:
    view = Anatomy(work.encoder)
    keep = len(work.planned(target, cut).heads)
    if keep == len(view.layers):
        if work.origin is not None and len(work.layers) < len(work.origin.layers):
            _note_layers(work)
        return
    context = work.context(target, method.calibration, keep)
    scores = method.rank(context).scores[0]
    kept = np.sort(np.argsort(-scores, kind="stable")[:keep]).tolist()
    cut_layers(view, kept)
    work.keep_layers(kept)
    _note_layers(work)
    if method.reconstruct != "none":
        cuts = Cuts(origins=work.layers, channels=work.channels)
        rebuild(view, Anatomy(work.teacher), context.batches, cuts, method.reconstruct, work.progress)
    if method.output_map:
        append_map(work.encoder, work.teacher, work.texts, work.progress)


def _note_layers(work: Work) -> None:
    work.notes.append(f"layers kept: {', '.join(str(i + 1) for i in work.layers)}")


def _width(work: Work, target: str, method: Any, cut: Cut) -> None:
    view = Anatomy(work.encoder)
    size, width = view.head_size, view.shape.width
    keep = work.planned(target, cut).width
    if keep == width:
        return
    context = work.context(target, method.calibration)
    channels = np.sort(np.argsort(-method.rank(context).scores[0], kind="stable")[:keep])
    _fewer_heads(work, view, replace(context, target="heads"), keep // size)
    cut_width(view, channels)
    work.channels = channels if work.channels is None else work.channels[channels]
    if method.reconstruct != "none":
        refit_width(
            view, Anatomy(work.teacher), context.batches, work.channels, work.heads, work.neurons, work.layers,
            work.progress,
        )  # fmt: skip
    if method.output_map:
        append_map(work.encoder, work.teacher, work.texts, work.progress)


def _fewer_heads(work: Work, view: Anatomy, context: EncoderContext, keep: int) -> None:
    """Heads go with the width: those that add least to their layer's output."""
    scores = Importance("heads", units.contributions(context)[0])
    present = units.counts(view, "heads")
    keeps = [min(keep, n) for n in present]
    if view.shared_heads:
        chosen = [_shared_choice(scores, keeps[0])] * len(present)
        cut_heads(view, None, chosen[0])
    else:
        chosen = _by_scores(scores, keeps)
        for layer, kept in enumerate(chosen):
            cut_heads(view, layer, kept)
    work.heads = [h[kept] for h, kept in zip(work.heads, chosen, strict=True)]


# ---- tokens and single weights --------------------------------------------------------------------------------


def _tokens(work: Work, target: str, method: Any, cut: Cut) -> None:
    texts = (*work.texts.documents[:_COUNTED], *work.texts.short[:_COUNTED])
    importance = method.rank(EncoderContext(work.encoder, texts, target, work.seed, None, work.progress))
    before = read_tokenizer(work.encoder)
    count = cut.count(len(importance.scores[0]))
    kept = closure(before, np.argsort(-importance.scores[0], kind="stable").tolist(), count)
    if len(kept) != count:
        work.rounded.append(f"tokens: {count:,} -> {len(kept):,} rows (special and single-character tokens stay)")
    cut_tokens(work.encoder, kept)
    cut_tokens(work.teacher, kept)
    work.notes += importance.notes
    work.facts["tokens"] = coverage(before, read_tokenizer(work.encoder), texts[:2000])


def _weights(work: Work, target: str, method: Any, cut: Cut) -> None:
    context = work.context(target, _READ)
    importance = method.rank(context)
    if work.origin is not None:
        importance = replace(importance, scores=tuple(_zeros_last(importance.scores, context.view)))
    cut_weights(work.encoder, method, importance, cut, context)
    work.facts["sparse_kernels"] = found = kernels(Anatomy(work.encoder, "weights"))
    work.notes += [*said(found), *importance.notes, "zeros only: same size on disk, same speed (smaller when zipped)"]


def _zeros_last(scores: Sequence[Any], view: Anatomy) -> Iterator[Any]:
    """Scores in which what an earlier round set to zero goes first again."""
    for one, (_, module) in zip(scores, view.linears(), strict=True):
        yield np.where(module.weight.detach().numpy() == 0, -np.inf, one)


_CUTS: Mapping[str, Callable[[Work, str, Any, Cut], None]] = {
    "neurons": _structures, "heads": _structures, "layers": _layers, "width": _width, "tokens": _tokens,
    "weights": _weights,
}  # fmt: skip
