"""Interactions: ids as they stand, every bad row with its line, and a split that never leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.interactions import LEAST, Interactions, Split, looks_like_interactions, read_interactions, split
from core.errors import Cancelled, DataError, InputError
from tests.interactions_like import drawn, write_movielens

HEAD = "userId,movieId,rating,timestamp\n"


def wrote(folder: Path, text: str, name: str = "ratings.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def pairs(found: Interactions) -> set[tuple[str, str]]:
    return {(found.users[u], found.items[i]) for u, i in zip(found.user, found.item, strict=True)}


def of(parts: Split, *names: str) -> set[tuple[int, int]]:
    rows = parts.rows(*names)
    return set(zip(parts.interactions.user[rows].tolist(), parts.interactions.item[rows].tolist(), strict=True))


# ---- reading --------------------------------------------------------------------------------------------------


def test_a_movielens_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    rows = write_movielens(path, *drawn(60, 50, 4, each=10))
    assert looks_like_interactions(path)
    found = read_interactions(path)
    assert found.name == "u"
    assert found.notes == ()
    wanted = {(str(u), str(i)): (r, t) for u, i, r, t in rows.tolist()}
    assert pairs(found) == set(wanted)
    assert found.rating is not None
    assert found.time is not None
    for u, i, r, t in zip(found.user, found.item, found.rating, found.time, strict=True):
        assert wanted[found.users[u], found.items[i]] == (r, t)


def test_the_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    write_movielens(tmp_path / "u.data", *drawn(40, 30, 4, each=8))
    lines = (tmp_path / "u.data").read_text().splitlines(keepends=True)
    turned = wrote(tmp_path, "".join(reversed(lines)), "v.data")
    one, two = (split(read_interactions(p), 3) for p in (tmp_path / "u.data", turned))
    assert one.interactions.users == two.interactions.users
    assert np.array_equal(one.part, two.part)
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ratings.csv", HEAD + "007,NA,4,9\n7,null,5,8\n"),
        ("ratings.csv", "\ufeff" + HEAD + "007,NA,4,9\n7,null,5,8\n"),
        ("ratings.csv", '"USER_ID","Product"\r\n"007","NA"\r\n"7","null"\r\n'),
        ("ratings.tsv", "u\titem_id\n007\tNA\n7\tnull\n"),
        ("ratings.dat", "user\titem\n007\tNA\n\n7\tnull\n"),
        ("ratings.dat", "007::NA::4::9\n7::null::5::8\n"),
        ("u.data", "\ufeff007\tNA\t4\t9\r\n7\tnull\t5\t8\r\n"),
        ("log.csv", "date,asin,customer_id\n1997-12-04,NA,007\n1997-12-05T10:00:00Z,null,7\n"),
    ],
)
def test_ids_are_texts_in_every_form(tmp_path: Path, name: str, text: str) -> None:
    path = wrote(tmp_path, text, name)
    assert looks_like_interactions(path)
    assert pairs(read_interactions(path)) == {("007", "NA"), ("7", "null")}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("texts.csv", "id,text\n1,a\n"),
        ("pairs.csv", "score,sentence1,sentence2\n1,a,b\n"),
        ("reviews.csv", "user,item,text\n1,2,good\n"),
        ("labels.tsv", "text\tlabel\na\tb\n"),
        ("words.txt", "tiger 0.1 0.2 3\n"),
        ("words.tsv", "tiger\tcat\t7.35\n"),
        ("four.tsv", "a\tb\tc\td\n"),
        ("empty.csv", ""),
        ("latin.csv", b"user,item\n\xe9,1\n"),
        ("vectors.npy", b"\x93NUMPY"),
        ("missing.csv", None),
    ],
)
def test_other_files_are_not_taken_for_interactions(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        wrote(tmp_path, text, name)
    assert not looks_like_interactions(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.csv", HEAD + "1,2,3,4\n ,2,3,4\n", "r.csv, line 3: 'userid' is blank"),
        ("r.csv", HEAD + "1,2,good,4\n", "r.csv, line 2: 'rating' is 'good', no number"),
        ("r.csv", HEAD + "1,2,nan,4\n", "line 2: 'rating' is 'nan'"),
        ("r.csv", HEAD + "1,2,3,yesterday\n", "line 2: 'timestamp' is 'yesterday', neither a number nor a date"),
        ("r.csv", HEAD + "1,2,3,4\n1,2,3\n", "line 3: ragged row: 3 cells"),
        ("r.csv", 'user,item\n1,"2\n3,4\n', "line 2: a quote is opened and never closed"),
        ("r.csv", "user,user,item\n1,2,3\n", "line 1: duplicate header 'user'"),
        ("r.csv", b"user,item\n1,\x00\n", "line 2: NUL byte"),
        ("r.csv", b"user,item\n1,\xe9\n", "line 2: byte offset 12"),
        ("r.csv", "user,item\n", "r.csv: no rows"),
        ("r.csv", "", "r.csv: no rows"),
        ("r.csv", "user,colour\n1,2\n", "no item column among user, colour"),
        ("u.data", "1\t2\t3\t4\n\n5\t6\t7\n", "u.data, line 3: ragged row: 3 cells"),
        ("u.data", "1\t2\t3\t4\n5\t6\tx\t7\n", "u.data, line 2: 'rating' is 'x'"),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(DataError) as e:
        read_interactions(wrote(tmp_path, text, name))
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_a_pair_counts_once_and_its_latest_rating_stands(tmp_path: Path) -> None:
    timed = read_interactions(wrote(tmp_path, HEAD + "a,x,5,30\na,x,1,10\nb,x,2,5\na,x,3,20\n"))
    assert timed.rating is not None
    assert timed.rating.tolist() == [5, 2]
    assert timed.notes == ("interactions that stand more than once (merged): 2",)
    bare = read_interactions(wrote(tmp_path, "user,item,rating\na,x,5\na,x,1\n"))
    assert bare.rating is not None
    assert bare.rating.tolist() == [1]


def test_low_ratings_leave_on_request(tmp_path: Path) -> None:
    path = wrote(tmp_path, HEAD + "a,x,5,1\na,y,3,1\nb,y,2,1\n")
    assert len(read_interactions(path)) == 3
    found = read_interactions(path, min_rating=4)
    assert (found.users, found.items, len(found)) == (("a",), ("x",), 1)
    assert found.notes == ("interactions rated below 4 (left out): 2",)
    with pytest.raises(InputError, match="no rating of ratings is 6 or more; the highest is 5"):
        read_interactions(path, min_rating=6)
    with pytest.raises(InputError, match="has no ratings"):
        read_interactions(wrote(tmp_path, "user,item\na,x\n"), min_rating=4)


def test_reading_can_be_cancelled(tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        raise Cancelled(what)

    with pytest.raises(Cancelled):
        read_interactions(wrote(tmp_path, HEAD + "a,x,5,1\n"), progress=stop)


# ---- splitting ------------------------------------------------------------------------------------------------


def made(sizes: list[int], *, timed: bool, seed: int = 0) -> Interactions:
    """Users with so many of 60 items each, at times of which many are equal."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(len(sizes)), sizes)
    item = np.concatenate([np.sort(rng.choice(60, k, replace=False)) for k in sizes])
    time = rng.integers(0, 6, len(user)).astype(float) if timed else None
    ids = tuple(f"{i:02}" for i in range(60))
    return Interactions("made", tuple(f"u{i}" for i in range(len(sizes))), ids, user, item, None, time)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.booleans(), st.integers(0, 5))
def test_a_split_never_leaks(sizes: list[int], timed: bool, seed: int) -> None:
    if max(sizes) < LEAST:
        with pytest.raises(InputError, match="no user has 5 interactions"):
            split(made(sizes, timed=timed), seed)
        return
    whole = made(sizes, timed=timed)
    parts = split(whole, seed)
    train, valid, test = (of(parts, p) for p in ("train", "valid", "test"))
    assert len(train | valid | test) == len(train) + len(valid) + len(test) == sum(sizes)
    for u, size in enumerate(sizes):
        mine = whole.user == u
        held = max(1, size // 10) if size >= LEAST else 0
        assert [(parts.part[mine] == p).sum() for p in range(3)] == [size - 2 * held, held, held]
        if held and whole.time is not None:
            times = [whole.time[mine & (parts.part == p)] for p in range(3)]
            assert times[0].max() <= times[1].min()
            assert times[1].max() <= times[2].min()


def test_a_drawn_split_follows_its_seed() -> None:
    whole = made([40] * 5, timed=False)
    assert np.array_equal(split(whole, 1).part, split(whole, 1).part)
    assert not np.array_equal(split(whole, 1).part, split(whole, 2).part)


def test_notes_of_a_split_count() -> None:
    user, item = np.repeat([0, 1], [10, 3]), np.r_[np.arange(10), [0, 1, 2]]
    time = np.r_[np.arange(10.0), [0, 0, 0]]
    parts = split(Interactions("two", ("a", "b"), tuple("0123456789"), user, item, None, time))
    assert parts.part.tolist() == [0] * 8 + [1, 2] + [0] * 3
    assert parts.counts().tolist() == [2, 2, 2, 1, 1, 1, 1, 1, 0, 0]
    assert parts.notes == (
        "interactions: 11 train, 1 validate, 1 test (each user's last ones, seed 0)",
        "users with fewer than 5 interactions (train only): 1",
        "test interactions with an item that nobody trains on: 1",
    )


@pytest.mark.parametrize("share", [0.0, 0.5, float("nan")])
def test_a_share_that_cannot_be_held_out(share: float) -> None:
    with pytest.raises(InputError, match="not between 0 and"):
        split(made([20], timed=False), share=share)
