"""A schedule around other steps: `iterate(steps)` prunes a little, recovers, evaluates, and goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.methods.base import Card, Method, choice, option


@dataclass(frozen=True)
class Iterate(Method):
    """Rounds of the steps in its parentheses; the cut inside names the final ratio."""

    card: ClassVar[Card] = Card(
        name="iterate",
        criterion="schedule",
        label="Iterative schedule",
        idea="prune a little, recover, evaluate, and again: the ratio grows to the one the cut names.",
        cost="as many cuts and recoveries as there are rounds.",
        benefits="the network can adapt between cuts; every round is kept and can be downloaded.",
        limits="takes rounds times as long; not every target gains from it (README, schedules).",
        reference="Zhu and Gupta, To prune, or not to prune, 2017, eq. 1 (cubic); Han et al., NeurIPS 2015",
        kind="schedule",
        learns_from="calibration texts",
        cuts=False,
    )
    rounds: int = option(4, "how many times the steps run", 1, 50)
    schedule: str = choice("cubic", ("linear", "cubic"), "how the ratio grows: evenly, or fast at first")
    floor: float = option(
        0.0, "stop when known-item search on held-out texts falls below this share of the unpruned model's", 0.0, 0.999
    )
    take: int = option(0, "the round to give; 0 is the last that holds the floor", 0, 50)
