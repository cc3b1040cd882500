"""`make bench`: every figure that the README claims, measured again and printed with its interval.

    python -m tests.benchmarks [slider] [harness] [methods] [sweep] [encoder] [engines] [recover] [schedules] [vectors]
                               [indexes] [rows] [recommend]
    python -m tests.benchmarks.milvus [push] [kill] [search] [case]     about half an hour

Needs ../shared/data for SciFact and STS-B; parts whose data is absent say so. Options were chosen on train, the
figures are those of test.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.benchmarks import (
    encoder,
    engines,
    harness,
    indexes,
    methods,
    recommend,
    recover,
    rows,
    schedules,
    slider,
    sweep,
    vectors,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
PARTS = {"slider": slider.run, "harness": harness.run, "methods": methods.run, "sweep": sweep.run,
         "encoder": encoder.run, "engines": engines.run, "recover": recover.run, "schedules": schedules.run,
         "vectors": vectors.run, "indexes": indexes.run, "rows": rows.run, "recommend": recommend.run}  # fmt: skip


def main(wanted: list[str]) -> None:
    for name in wanted or list(PARTS):
        start = time.perf_counter()
        print(f"\n## {name}\n", flush=True)
        PARTS[name](DATA)
        print(f"\n({name}: {time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
