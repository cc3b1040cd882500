"""A plan is a sentence: steps joined by `|`, each a method's name and its options.

    neurons/obs ratio=0.5 | recover/distill steps=300 | dimensions/svd keep=128
    iterate(neurons/magnitude ratio=0.5 | recover/distill steps=100) rounds=4 floor=0.95

Parsing is purely syntactic: whether a name or an option exists is the registry's business.
`parse(str(plan)) == plan` for every plan.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass

from core.errors import PlanError

Value = bool | int | float | str
_NAME = re.compile(r"[a-z]+(?:/[a-z0-9-]+)?")
_OPTION = re.compile(r"([a-z_]+)=([\w.:+\-]+)")
_INT = re.compile(r"[+-]?\d{1,18}")


CUT = ("ratio", "keep", "threshold")  # the options that say how much goes


@dataclass(frozen=True)
class Cut:
    """How much goes: `ratio` (the field's pruning ratio, the fraction removed), `keep` (units that stay), or
    `threshold` (the similarity from which on rows of an index are folded together)."""

    ratio: float | None = None
    keep: int | None = None
    threshold: float | None = None

    def check(self) -> None:
        """Raise PlanError where no number of units could make sense of this cut."""
        if [self.ratio, self.keep, self.threshold].count(None) != 2:
            raise PlanError("a cut needs exactly one of ratio= and keep=; write e.g. ratio=0.5")
        for key, value in (("ratio", self.ratio), ("keep", self.keep), ("threshold", self.threshold)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise PlanError(f"{key}={_write(value)} is no number: write e.g. ratio=0.5 or keep=128")
        if self.ratio is not None and not 0.0 <= self.ratio < 1.0:
            raise PlanError(f"ratio={self.ratio} is outside [0, 1): the pruning ratio is the fraction removed")
        if self.keep is not None and not (isinstance(self.keep, int) and self.keep >= 1):
            raise PlanError(f"keep={self.keep} should be a whole number of units, 1 or more; write e.g. keep=128")
        if self.threshold is not None and not self.threshold <= 1:
            raise PlanError(f"threshold={self.threshold} is no similarity, which is 1 at most: write threshold=0.98")

    def count(self, units: int) -> int:
        """Units kept of `units`: max(1, floor(units * (1 - ratio) + 0.5)), or `keep` itself."""
        self.check()
        if self.threshold is not None:
            raise PlanError(f"threshold={self.threshold}: how many stay shows in the data; write ratio= or keep= here")
        if self.ratio is not None:
            return max(1, math.floor(units * (1.0 - self.ratio) + 0.5))
        assert self.keep is not None
        if self.keep > units:
            raise PlanError(f"keep={self.keep} is outside 1..{units}: there are {units} units to keep")
        return self.keep


@dataclass(frozen=True)
class Step:
    """One method with its options, in the order they were written."""

    name: str
    options: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{k}={_write(v)}" for k, v in self.options)])

    @property
    def target(self) -> str:
        return self.name.split("/")[0]

    def get(self, key: str, default: Value | None = None) -> Value | None:
        return dict(self.options).get(key, default)

    @property
    def cut(self) -> Cut | None:
        """The step's cut, or None where it cuts nothing (recovery, quantization)."""
        given = {k: v for k, v in self.options if k in CUT}
        return Cut(**given) if given else None  # type: ignore[arg-type]

    def with_cut(self, *, ratio: float | None = None, keep: int | None = None) -> Step:
        """The same step with another cut in first place."""
        rest = tuple((k, v) for k, v in self.options if k not in CUT)
        first: tuple[str, Value] = (
            ("keep", keep) if keep is not None else ("ratio", ratio if ratio is not None else 0.0)
        )
        return Step(self.name, (first, *rest))


@dataclass(frozen=True)
class Group:
    """`iterate(steps) options`: the steps repeated in rounds; a cut inside names the final ratio."""

    steps: tuple[Step, ...]
    options: tuple[tuple[str, Value], ...] = ()
    name: str = "iterate"

    def __str__(self) -> str:
        inner = " | ".join(map(str, self.steps))
        return " ".join([f"{self.name}({inner})", *(f"{k}={_write(v)}" for k, v in self.options)])


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they are applied."""

    steps: tuple[Step | Group, ...] = ()

    def __str__(self) -> str:
        return " | ".join(map(str, self.steps))

    @property
    def flat(self) -> tuple[Step, ...]:
        """All steps; those of a group stand in its place, once."""
        return tuple(s for step in self.steps for s in (step.steps if isinstance(step, Group) else (step,)))

    @property
    def slug(self) -> str:
        """A file name: the words of the sentence and a short hash of all of it."""
        words = re.sub(r"[^a-z0-9]+", "-", str(self).lower()).strip("-")[:60].strip("-") or "dense"
        return f"{words}-{hashlib.sha256(str(self).encode()).hexdigest()[:8]}"


def _write(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def _read(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    if _INT.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _options(words: list[str], sentence: str) -> tuple[tuple[str, Value], ...]:
    out: dict[str, Value] = {}
    for word in words:
        match = _OPTION.fullmatch(word)
        if not match:
            raise PlanError(f"cannot read {word!r} in {sentence!r}: options are written key=value, without spaces")
        if match[1] in out:
            raise PlanError(f"option {match[1]!r} stands twice in {sentence!r}: keep one")
        out[match[1]] = _read(match[2])
    return tuple(out.items())


def _step(sentence: str) -> Step:
    words = sentence.split()
    if not words or not _NAME.fullmatch(words[0]):
        raise PlanError(f"cannot read step {sentence!r}: it begins with a name such as dimensions/svd")
    return Step(words[0], _options(words[1:], sentence))


def _pieces(text: str) -> list[str]:
    """Split at `|` outside parentheses."""
    pieces, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth < 0 or depth > 1:
            break
        if c == "|" and depth == 0:
            pieces.append(text[start:i])
            start = i + 1
    if depth != 0:
        raise PlanError(
            f"parentheses do not match in {text!r}: groups are written iterate(step | step) and do not nest"
        )
    return [*pieces, text[start:]]


def parse(text: str) -> Plan:
    """Read a plan sentence. Raises PlanError naming the word that cannot be read."""
    if not text.strip():
        raise PlanError("the plan is empty: write at least one step, e.g. dimensions/svd keep=128")
    steps: list[Step | Group] = []
    for piece in _pieces(text):
        piece = piece.strip()
        match = re.fullmatch(r"iterate\s*\((.*)\)\s*(.*)", piece, re.DOTALL)
        if match:
            inner = tuple(_step(p.strip()) for p in match[1].split("|"))
            steps.append(Group(inner, _options(match[2].split(), piece)))
        else:
            steps.append(_step(piece))
    return Plan(tuple(steps))
