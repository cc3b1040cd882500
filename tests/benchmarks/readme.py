"""Developer's script: write the generated parts of the README, and of RESULTS.md beside it, anew.

python -m tests.benchmarks.readme             the method tables, from the cards
python -m tests.benchmarks.readme BENCH.txt   also the measured figures, from what `make bench` printed
"""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path

from core import registry

README = Path(__file__).parents[2] / "README.md"
RESULTS = Path(__file__).with_name("RESULTS.md")


def methods() -> str:
    """A table for each target; what nearly all of its cards say stands once, above it."""
    parts = []
    for target, group in groupby((m.card for m in registry.METHODS), lambda c: c.target):
        cards = list(group)
        good, bad = (
            [_sentences(text) for text in texts] for texts in zip(*((c.benefits, c.limits) for c in cards), strict=True)
        )
        common = _common(good) + _common(bad)
        rows = [f"### {target}", "", *([" ".join(common), ""] if common else [])]
        rows += ["| method | kind | idea | benefits | limits |", "|---|---|---|---|---|"]
        for card, *told in zip(cards, good, bad, strict=True):
            own = [" ".join(s for s in sentences if s not in common) for sentences in told]
            rows.append(f"| `{card.name}` | {card.kind} | {card.idea} | {own[0]} | {own[1]} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.)]) (?=[A-Z])", text)


def _common(told: list[list[str]]) -> list[str]:
    """Sentences that all cards of a target share; one, which is `random`, may lack them."""
    return [s for s in told[0] if len(told) > 2 and sum(s in other for other in told) >= len(told) - 1]


def put(text: str, name: str, body: str) -> str:
    return re.sub(
        rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: f"{m[1]}{body}\n{m[2]}", text, flags=re.DOTALL
    )


def main() -> None:
    README.write_text(put(README.read_text(encoding="utf-8"), "methods", methods()), encoding="utf-8")
    if len(sys.argv) > 1:
        printed = Path(sys.argv[1]).read_text(encoding="utf-8").strip()
        RESULTS.write_text(put(RESULTS.read_text(encoding="utf-8"), "bench", printed), encoding="utf-8")


if __name__ == "__main__":
    main()
