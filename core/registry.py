"""Every method there is, as one explicit tuple; names are looked up here and nowhere else.

To add a method: write its dataclass with a card under methods/, name it in METHODS. The command line, the
pages, the README table and the property battery find it from here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from core.errors import PlanError
from core.methods import (
    axes,
    components,
    depth,
    groups,
    learned,
    quantize,
    recovery,
    retrieved,
    rotations,
    rows,
    schedule,
    structures,
    tokens,
    weights,
    width,
)
from core.methods.base import Card, Method
from core.plan import CUT, Group, Plan, Step, Value

METHODS: tuple[type[Method], ...] = (
    rotations.Svd,
    learned.Distilled,
    learned.Contrastive,
    rotations.Bilinear,
    rotations.Pca,
    axes.Redundancy,
    learned.L1,
    axes.Taylor,
    axes.Sensitivity,
    axes.Variance,
    axes.Magnitude,
    axes.ImportanceSampling,
    axes.Leading,
    axes.Random,
    tokens.Frequency,
    tokens.ImportanceSampling,
    tokens.Taylor,
    tokens.Magnitude,
    tokens.Random,
    *structures.NEURONS,
    *structures.HEADS,
    *width.WIDTH,
    *depth.LAYERS,
    weights.SecondOrder,
    weights.Activation,
    weights.Taylor,
    weights.L1,
    weights.Magnitude,
    weights.ImportanceSampling,
    weights.Random,
    *recovery.RECOVERIES,
    schedule.Iterate,
    groups.Duplicates,
    retrieved.Coverage,
    retrieved.Unretrieved,
    rows.Density,
    groups.Centroid,
    rows.ImportanceSampling,
    rows.Norm,
    rows.Random,
    *quantize.QUANTIZERS,
    *components.COMPONENTS,
)
_BY_NAME = {m.card.name: m for m in METHODS}
STAGES = {"tokens": 0, "weights": 0, "neurons": 0, "heads": 0, "width": 0, "layers": 0, "recover": 0, "train": 0,
          "iterate": 0, "dimensions": 1, "vectors": 2, "components": 2, "quantize": 3}  # fmt: skip
CODES = ("components", "quantize")  # how the vectors are stored


def names(target: str | None = None) -> list[str]:
    """All method names, the recommended first; of one target where it is given."""
    return [n for n in _BY_NAME if target is None or n.startswith(target + "/")]


def find(name: str) -> type[Method]:
    """The method's class. Raises PlanError listing the known names."""
    if name not in _BY_NAME:
        known = names(name.split("/")[0]) or names()
        raise PlanError(f"no method is called {name!r}; there are: {', '.join(known)}")
    return _BY_NAME[name]


def card(name: str) -> Card:
    return find(name).card


def build(step: Step) -> Method:
    """The configured method of a step. Raises PlanError for an unknown option or a value out of range."""
    cls = find(step.name)
    known = [f.name for f in fields(cls)]
    given = {k: v for k, v in step.options if k not in CUT}
    for key in given:
        if key not in known:
            raise PlanError(f"{step.name} has no option {key!r}; it has: {', '.join(['ratio', 'keep', *known])}")
    return cls(**given)


def resolve(plan: Plan, seed: int | None = None) -> Plan:
    """The plan with every option written out, so that a changed default cannot change what it means.

    `seed` fills in for seeds that are not written. Raises PlanError where the plan cannot be run: unknown names,
    a cut missing or doubled, steps out of order.
    """
    steps: list[Step | Group] = []
    for step in plan.steps:
        if isinstance(step, Group):
            inner = tuple(_resolved(s, seed) for s in step.steps)
            options = _resolved(Step(step.name, step.options), seed, alone=False).options
            steps.append(Group(inner, options, step.name))
            _check_group(steps[-1])
        else:
            steps.append(_resolved(step, seed))
    _check_order(list(Plan(tuple(steps)).flat))
    return Plan(tuple(steps))


def _resolved(step: Step, seed: int | None, alone: bool = True) -> Step:
    method, cut = build(step), step.cut
    if alone and method.card.kind == "schedule":
        raise PlanError(f"{step.name} goes around other steps: iterate(neurons/obs ratio=0.5 | recover/distill)")
    if not method.card.cuts and cut is not None:
        raise PlanError(f"{step.name} cuts nothing: take ratio= and keep= away, or put a cut before it")
    if method.card.cuts:
        if cut is None:
            raise PlanError(f"{step.name} needs a cut: write ratio=0.5 (the fraction removed) or keep=128")
        both = [k for k in CUT if k in dict(step.options)]
        if len(both) > 1:
            raise PlanError(f"{step.name} has both {both[0]}= and {both[1]}=: write one of them")
        if cut.threshold is not None and not method.card.thresholds:
            raise PlanError(f"{step.name} has no threshold=: write ratio=0.5 (the fraction removed) or keep=128")
        cut.check()
    written = dict(step.options)
    options: list[tuple[str, Value]] = [(k, written[k]) for k in CUT if k in written]
    for f in fields(method):
        value = getattr(method, f.name)
        if f.name == "seed" and "seed" not in written and seed is not None:
            value = seed
        options.append((f.name, value))
    return Step(step.name, tuple(options))


def _check_group(group: Group | Step) -> None:
    """A group holds encoder steps, at least one of them a cut, and gives a round it has."""
    assert isinstance(group, Group)
    strange = next((s for s in group.steps if STAGES.get(s.target) != 0), None)
    if strange is not None:
        raise PlanError(f"iterate(...) holds encoder steps only: put {strange.name} behind the parentheses")
    if not any(s.cut for s in group.steps):
        raise PlanError("iterate(...) needs a cut inside, e.g. iterate(neurons/obs ratio=0.5 | recover/distill)")
    targets = [s.target for s in group.steps if s.cut]
    double = next((t for t in targets if targets.count(t) > 1), None)
    if double is not None:
        raise PlanError(f"iterate(...) cuts {double} twice, and each names a final ratio: keep one of the two")
    if "weights" in targets and len(targets) > 1:
        raise PlanError("iterate(...): a round that cuts after weights/... would fill its zeros: put weights behind")
    options = dict(group.options)
    if int(options["rounds"]) > 1 and any(s.get("pattern") == "2:4" for s in group.steps):
        raise PlanError("iterate(...): pattern=2:4 removes exactly half at once: take it out, or write rounds=1")
    if int(options["take"]) > int(options["rounds"]):
        raise PlanError(f"iterate take={options['take']}: there are {options['rounds']} rounds; write one of them")


@dataclass(frozen=True)
class Parts:
    """A plan by what its steps work on: the encoder, the dimensions, which vectors stay, how they are stored."""

    encoder: tuple[Step | Group, ...]
    dimensions: Step | None
    vectors: tuple[Step, ...]
    codes: Step | None


def parts(plan: Plan) -> Parts:
    """The steps of a resolved plan by stage."""
    if not plan.steps:
        raise PlanError("the plan is empty: write at least one step, e.g. dimensions/svd keep=128")
    encoder = tuple(s for s in plan.steps if isinstance(s, Group) or STAGES.get(s.target) == 0)
    if encoder and encoder[0].name == "recover/distill":  # fine-tuning learns from the corpus: it may stand alone
        raise PlanError("nothing to recover: cut the encoder first, e.g. neurons/obs ratio=0.5 | recover/distill")

    def of(*targets: str) -> tuple[Step, ...]:
        return tuple(s for s in plan.steps if isinstance(s, Step) and s.target in targets)

    return Parts(encoder, next(iter(of("dimensions")), None), of("vectors"), next(iter(of(*CODES)), None))


def brief(plan: Plan) -> str:
    """The plan's sentence without the options that have their defaults: what a person would write."""
    return str(Plan(tuple(map(_brief, plan.steps))))


def _brief(step: Step | Group) -> Step | Group:
    if isinstance(step, Group):
        inner = tuple(s for s in map(_brief, step.steps) if isinstance(s, Step))
        own = _brief(Step(step.name, step.options))
        return Group(inner, own.options, step.name)
    default = {f.name: f.default for f in fields(find(step.name))}
    return Step(step.name, tuple((k, v) for k, v in step.options if k in CUT or v != default.get(k)))


def _check_order(steps: list[Step]) -> None:
    stages = [STAGES.get(s.target, 1) for s in steps]
    if stages != sorted(stages):
        raise PlanError("the order is encoder steps, then dimensions, then vectors, then quantize: move the steps")
    targets = [s.target for s in steps if STAGES.get(s.target) == 0]
    behind = targets[targets.index("weights") :] if "weights" in targets else []
    later = next((t for t in behind if t not in ("weights", "recover", "train")), None)  # training keeps the zeros
    if later is not None:
        raise PlanError(
            f"{later}/... after weights/... would fill the zeros again or cut them away: put weights last of the "
            "encoder's steps"
        )
    for target in {s.target for s in steps}:
        if sum(s.target == target for s in steps) > 1 and target == "dimensions":
            raise PlanError("two dimension cuts in one plan: the second would cut what the first left; keep one")
    codes = [s.name for s in steps if s.target in CODES]
    if len(codes) > 1:
        raise PlanError(f"{' and '.join(codes)} both say how vectors are stored: keep one of them")


def options(cls: type[Method]) -> list[dict[str, Any]]:
    """The options of a method for people: name, type, default, range, help. The cut stands first."""
    threshold = {"name": "threshold", "type": "float", "default": None, "low": None, "high": None,
                 "help": "similarity from which on; instead of ratio"}  # fmt: skip
    cut: list[dict[str, Any]] = [
        {"name": "ratio", "type": "float", "default": None, "low": 0.0, "high": 1.0, "help": "fraction removed"},
        {
            "name": "keep",
            "type": "int",
            "default": None,
            "low": 1,
            "high": None,
            "help": "units kept; instead of ratio",
        },
    ]
    cut += [threshold] if cls.card.thresholds else []
    own: list[dict[str, Any]] = [
        {"name": f.name, "type": type(f.default).__name__, "default": f.default, **f.metadata} for f in fields(cls)
    ]
    return cut + own if cls.card.cuts else own


def as_json(cls: type[Method]) -> dict[str, Any]:
    c = cls.card
    keep = ("name", "target", "criterion", "label", "idea", "cost", "benefits", "limits", "kind", "learns_from")
    return {k: getattr(c, k) for k in keep} | {"options": options(cls), "reference": c.reference, "seeded": c.seeded}
