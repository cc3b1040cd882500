"""Interactions of users with items, as MovieLens files or CSV, and their split per user.

Every id is a text as it stands in the file: `007` and `7` are two users, `NA` is one. What a user did with an item
counts once, however often and however highly it is rated.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.data.cleaning import Tally, blank, first_of, number
from core.data.readers import Table, cells, decode, lines, ragged, shown, with_header
from core.errors import InputError
from core.types import Ints, Progress, digest, frozen, quiet

SUFFIXES = (".csv", ".tsv", ".txt", ".data", ".dat")
PARTS = ("train", "valid", "test")
LEAST = 5  # interactions that a user needs to be judged
_SNIFFED = 1 << 16  # bytes
_MARKS = ("\t", "::")  # between the four cells of a MovieLens line
_BARE = ("user", "item", "rating", "time")


def _names(*stems: str) -> tuple[str, ...]:
    return tuple(stem + end for stem in stems for end in ("", "_id", "id", "-id"))


USERS = (*_names("user", "customer", "reviewer"), "u", "uid")
ITEMS = (*_names("item", "movie", "product", "track", "song", "artist", "book"), "isbn", "asin", "i", "iid")
RATINGS = ("rating", "ratings", "score", "stars")
TIMES = ("timestamp", "time", "ts", "date", "datetime")
_TEXTS = {"text", "sentence1", "sentence2", "review", "body", "content"}


@dataclass(frozen=True, eq=False)
class Interactions:
    """Who had what: `user` and `item` (n,) are indices into the ids, sorted by both, each pair once.

    rating  (n,) or None where the file has none; time (n,) seconds or None
    """

    name: str
    users: tuple[str, ...]
    items: tuple[str, ...]
    user: Ints
    item: Ints
    rating: NDArray[np.float64] | None = None
    time: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, eq=False)
class Split:
    """Interactions with the part each belongs to: `part` (n,) is an index into PARTS."""

    interactions: Interactions
    part: NDArray[np.int8]
    notes: tuple[str, ...]

    def rows(self, *parts: str) -> Ints:
        """The interactions of these parts."""
        return np.flatnonzero(np.isin(self.part, [PARTS.index(p) for p in parts]))

    def counts(self) -> Ints:
        """(items,) how often each item stands in the training part."""
        return np.bincount(self.interactions.item[self.rows("train")], minlength=len(self.interactions.items))

    @property
    def fingerprint(self) -> str:
        """Of all that training sees, and of nothing else."""
        mine, rows = self.interactions, self.rows("train")
        return digest("\x1f".join(mine.users), "\x1f".join(mine.items), mine.user[rows], mine.item[rows])


# ---- reading --------------------------------------------------------------------------------------------------


def looks_like_interactions(path: Path) -> bool:
    """Whether a file holds interactions rather than texts or vectors, by its first lines. Never raises."""
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        with path.open("rb") as f:
            head = f.read(_SNIFFED)
        whole = head if len(head) < _SNIFFED else head[: head.rindex(b"\n")]
        found = [line for line in whole.decode("utf-8-sig").splitlines() if line.strip()]
        return bool(found) and (all(_mark(line) for line in found[:5]) or _headed(found[0]))
    except (OSError, ValueError, csv.Error):
        return False


def _mark(line: str) -> str:
    """What parts the cells of a MovieLens line (user, item, rating, time), else ""."""
    for mark in _MARKS:
        row = line.strip("\r\n").split(mark)
        if len(row) == 4 and row[0] and row[1] and number(row[2]) is not None and row[3].isdecimal():
            return mark
    return ""


def _headed(line: str) -> bool:
    for mark in (",", "\t"):
        names = {name.strip().lower() for name in next(csv.reader([line], delimiter=mark))}
        if names & set(USERS) and names & set(ITEMS) and not names & _TEXTS:
            return True
    return False


def _table(path: Path) -> Table:
    first = next((line for line in decode(path).split("\n") if line.strip()), "")
    mark = _mark(first)
    if not mark:
        return with_header(shown(path), cells(path, (*USERS, *ITEMS)))
    file, rows, places = shown(path), [], []
    for place, line in enumerate(lines(path), 1):
        if line:
            row = line.split(mark)
            if len(row) != len(_BARE):
                raise ragged(file, place, len(row), len(_BARE))
            rows.append(dict(zip(_BARE, row, strict=True)))
            places.append(place)
    return Table(file, _BARE, rows, places)


def read_interactions(path: Path, *, min_rating: float | None = None, progress: Progress = quiet) -> Interactions:
    """A MovieLens `u.data` or `ratings.dat`, or a CSV or TSV whose header names a user and an item column.

    min_rating  only interactions rated so or higher; by default every one counts, whatever its rating

    A pair that stands twice counts once, the latest one (the last in the file where there are no times), and is
    counted. DataError with the line for a blank id, a rating that is no number, a time that is neither a number nor
    an ISO date; InputError where `min_rating` leaves nothing. Memory: 0.6 kB a line.
    """
    table, tally = _table(path), Tally()
    columns = [first_of(names, table.columns) for names in (USERS, ITEMS, RATINGS, TIMES)]
    for column, what in zip(columns[:2], ("user", "item"), strict=True):
        if not column:
            message = f"no {what} column among {', '.join(table.columns)}; name one {what}_id."
            raise table.error(0, message)
    pairs = [_ids(table, column, progress) for column in columns[:2]]
    (users, user), (items, item) = map(_coded, pairs)
    rating, time = (_numbers(table, c, dated=c == columns[3]) for c in columns[2:])
    order = np.lexsort((np.arange(len(user)), np.zeros(len(user)) if time is None else time, item, user))
    last = np.append((np.diff(user[order]) != 0) | (np.diff(item[order]) != 0), True)
    keep = order[last]
    tally.add("interactions that stand more than once (merged)", len(user) - len(keep))
    out = Interactions(
        path.stem, users, items, user[keep], item[keep], None if rating is None else rating[keep],
        None if time is None else time[keep],
    )  # fmt: skip
    return _rated(out, min_rating, tally)


def _ids(table: Table, column: str, progress: Progress) -> list[str]:
    out = []
    for row, found in enumerate(table.rows):
        if row % 20_000 == 0:
            progress(f"reading {table.file}", row, len(table))
        if blank(found[column]):
            raise table.error(row, f"{column!r} is blank; give an id or remove the row.")
        out.append(found[column])
    return out


def _coded(values: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """Distinct ids in sorted order, and the place of every value among them: the order of rows does not matter."""
    ids = tuple(sorted(set(values)))
    place = {name: i for i, name in enumerate(ids)}
    return ids, np.fromiter((place[v] for v in values), np.int64, len(values))


def _numbers(table: Table, column: str, *, dated: bool) -> NDArray[np.float64] | None:
    if not column:
        return None
    out = np.empty(len(table))
    for row, found in enumerate(table.rows):
        value = number(found[column])
        if value is None and dated:
            value = _seconds(found[column])
        if value is None:
            wanted = "neither a number nor a date such as 1997-12-04" if dated else "no number"
            raise table.error(row, f"{column!r} is {found[column][:40]!r}, {wanted}; correct it or remove the row.")
        out[row] = value
    return out


def _seconds(text: str) -> float | None:
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _rated(found: Interactions, least: float | None, tally: Tally) -> Interactions:
    """Only what is rated `least` or higher, and the users and items that still have something."""
    keep = np.arange(len(found))
    if least is not None:
        if found.rating is None:
            raise InputError(f"{found.name} has no ratings, so none is {least:g} or more; leave the limit out")
        keep = np.flatnonzero(found.rating >= least)
        if not len(keep):
            raise InputError(f"no rating of {found.name} is {least:g} or more; the highest is {found.rating.max():g}")
        tally.add(f"interactions rated below {least:g} (left out)", len(found) - len(keep))
    there, user = np.unique(found.user[keep], return_inverse=True)
    those, item = np.unique(found.item[keep], return_inverse=True)
    return Interactions(
        found.name, tuple(found.users[i] for i in there), tuple(found.items[i] for i in those),
        frozen(user, np.int64), frozen(item, np.int64),
        None if found.rating is None else found.rating[keep], None if found.time is None else found.time[keep],
        tally.notes,
    )  # fmt: skip


# ---- splitting ------------------------------------------------------------------------------------------------


def split(interactions: Interactions, seed: int = 0, *, share: float = 0.1) -> Split:
    """Per user: a tenth of the items tests, a tenth validates (one at least each), the others train.  O(n log n).

    Those held out are a user's last ones where there are times (the very last test; equal times by a seeded draw),
    else drawn by the seed. A user with fewer than 5 interactions only trains. InputError where nobody has 5.
    """
    user, n = interactions.user, len(interactions)
    sizes = np.bincount(user)
    if sizes.max() < LEAST:
        raise InputError(
            f"{interactions.name}: no user has {LEAST} interactions, so none can be judged; give more rows"
        )
    if not 0 < share < 0.5:
        raise InputError(f"share {share:g} to hold out is not between 0 and 0.5: both parts of it are taken")
    time = np.zeros(n) if interactions.time is None else interactions.time
    order = np.lexsort((np.random.default_rng(seed).random(n), time, user))
    after = np.cumsum(sizes)[user] - np.arange(n)  # 1 for a user's last place; `user` is sorted
    held = np.where(sizes < LEAST, 0, np.maximum(1, (share * sizes).astype(int)))[user]
    part = np.empty(n, np.int8)
    part[order] = np.where(after <= held, 2, np.where(after <= 2 * held, 1, 0))
    return Split(interactions, part, (*interactions.notes, *_said(interactions, part, sizes, seed)))


def _said(interactions: Interactions, part: NDArray[np.int8], sizes: Ints, seed: int) -> list[str]:
    train, valid, test = (int((part == p).sum()) for p in range(3))
    how = "drawn" if interactions.time is None else "each user's last ones"
    notes = [f"interactions: {train:,} train, {valid:,} validate, {test:,} test ({how}, seed {seed})"]
    few = int((sizes < LEAST).sum())
    if few:
        notes.append(f"users with fewer than {LEAST} interactions (train only): {few:,}")
    seen = np.bincount(interactions.item[part == 0], minlength=len(interactions.items)) > 0
    cold = int((~seen[interactions.item[part == 2]]).sum())
    if cold:
        notes.append(f"test interactions with an item that nobody trains on: {cold:,}")
    return notes
