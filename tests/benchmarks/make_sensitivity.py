"""Developer's script: measure what core/shipped.py hands out, and write it under assets/sensitivity/.

    python -m tests.benchmarks.make_sensitivity

The built-in model on the built-in corpus, every target by the method that the page offers first. Some minutes.
"""

from __future__ import annotations

import gzip
import json

from core import registry, shipped
from core.anatomy import ENCODER_TARGETS
from core.bench import prepare
from core.report import plain
from core.sensitivity import sensitivity
from core.store import write_atomic


def main() -> None:
    bench = prepare("minilm", ["sample"])
    for old in shipped.SENSITIVITY.glob("*.json.gz"):
        old.unlink()
    for target in ENCODER_TARGETS:
        criterion = registry.names(target)[0].split("/")[1]
        found = sensitivity(bench, target, criterion)
        answer = json.dumps(plain(found.as_json() | {"model": bench.model.as_json()}))
        write_atomic(shipped.place(bench, target, criterion), gzip.compress(answer.encode(), mtime=0))
        print(f"{target}/{criterion}: {found.seconds:.0f} s, {found.recommended.why}", flush=True)


if __name__ == "__main__":
    main()
