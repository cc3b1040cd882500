"""What can go wrong, in a few typed errors.

Every message names the value, the limit and the next step. The command line turns `InputError`
into exit code 2 and one line; the pages turn it into one message box. Anything else is a fault of ours.
"""

from __future__ import annotations


class EspalierError(Exception):
    """Base of everything Espalier raises on purpose."""


class InputError(EspalierError):
    """Something the user gave cannot be used: the message says what, where and what to do."""


class PlanError(InputError):
    """A plan sentence that does not parse, names an unknown method, or makes no sense in its order."""


class DataError(InputError):
    """A data file that cannot be read as it should: the message begins with file and line."""

    def __init__(self, message: str, *, file: str = "", line: int | None = None) -> None:
        where = file + (f", line {line}" if line is not None else "")
        super().__init__(f"{where}: {message}" if where else message)
        self.file, self.line = file, line


class ModelRefused(InputError):
    """A model folder, zip or hub id that the gate does not let through."""


class Cancelled(EspalierError):
    """The user pressed cancel; raised from a progress callback."""


class Fault(EspalierError):
    """Something of ours failed a check that must never fail (a reload that differs, a lost file)."""
