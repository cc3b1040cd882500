"""Developer's script: write the generated parts of the README anew.

python -m tests.benchmarks.readme             the method table, from the cards
python -m tests.benchmarks.readme BENCH.txt   also the measured figures, from what `make bench` printed
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from core import registry

README = Path(__file__).parents[2] / "README.md"


def put(text: str, name: str, body: str) -> str:
    return re.sub(
        rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m: f"{m[1]}{body}\n{m[2]}", text, flags=re.DOTALL
    )


def main() -> None:
    text = put(README.read_text(encoding="utf-8"), "methods", registry.table())
    if len(sys.argv) > 1:
        printed = Path(sys.argv[1]).read_text(encoding="utf-8").strip()
        text = put(text, "bench", re.sub(r"^## (\w+)$", r"### \1", printed, flags=re.MULTILINE))
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
