"""A fresh process that knows nothing of Espalier: read a folder's codes with the reader that lies beside them.

    python fresh_codes.py REQUEST.json

The request names the folder, and where to write the decoded vectors (.npy). The answer is one JSON line.
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(request: dict[str, str]) -> None:
    folder = Path(request["folder"])
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    from reader import decode  # type: ignore[import-not-found]

    vectors = decode(np.load(folder / "codes.npy"), dict(np.load(folder / "codebook.npz")))
    np.save(request["out"], vectors)
    print(json.dumps({"vectors": len(vectors)}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
