"""The store: what is written is whole or not there, whoever is killed, and a bad cache entry is never served."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from core import export, store
from core.bench import Bench, prepare
from core.encoders import open_model
from core.errors import EspalierError, Fault, InputError, ModelRefused
from core.export.proof import Proof
from core.pipeline import Cutting
from core.plan import Cut
from core.select import select
from core.store import MANIFEST, check_manifest, get_arrays, new_folder, put_arrays, sweep_partials, write_atomic
from core.types import Ranking
from tests.tiny_models import WORDS, tiny_model

REAL, OTHER = b"old bytes", b"new bytes"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def in_child(work: Callable[[], Any]) -> tuple[int, str]:
    """Run `work` in a forked child: (0, its answer), (2, the message of an InputError), (-signal, "") or (1, ...)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code, said = 1, ""
        try:
            code, said = 0, str(work() or "")
        except InputError as e:
            code, said = 2, str(e)
        except BaseException as e:
            said = repr(e)
        finally:
            os.write(writer, said.encode()[:4000])
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as f:
        said = f.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def full_disk(left: int) -> None:
    """From now on no file of this process grows beyond `left` bytes: what a full disk does, for root too."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, left))


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


# ---- single files ---------------------------------------------------------------------------------------------


def test_write_atomic_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    for data in (REAL, OTHER, b""):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path, size = tmp_path / "file.bin", 1 << 20
    write_atomic(path, b"a" * size)
    pid = os.fork()
    if not pid:
        for i in range(10_000):
            write_atomic(path, b"ab"[i % 2 : i % 2 + 1] * size)
        os._exit(0)
    try:
        seen = set()
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            data = path.read_bytes()
            assert len(data) == size
            assert data in (b"a" * size, b"b" * size)
            seen.add(data[:1])
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert seen == {b"a", b"b"}, "the writer never got to write while we read"
    assert path.read_bytes() in (b"a" * size, b"b" * size)


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_atomic(path, REAL)

    def work() -> None:
        full_disk(1000)
        write_atomic(path, b"x" * 5000)

    code, said = in_child(work)
    assert code == 2, said
    assert str(path) in said
    assert "Free space" in said
    assert path.read_bytes() == REAL
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("name", ["file/below", "file/far/below", "folder", "x" * 300])
def test_write_atomic_says_where_it_cannot_write(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(REAL)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*choose another folder with --out"):
        write_atomic(tmp_path / name, OTHER)
    assert (tmp_path / "file").read_bytes() == REAL
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


# ---- folders --------------------------------------------------------------------------------------------------


def fill(folder: Path, text: str = "one") -> None:
    (folder / "sub").mkdir()
    (folder / "a.txt").write_text(text)
    (folder / "sub" / "b.bin").write_bytes(text.encode() * 1000)


def test_new_folder_lists_every_file_with_its_hash(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with new_folder(target) as temporary:
        assert not target.exists()
        fill(temporary)
    assert set(json.loads((target / MANIFEST).read_text())["files"]) == {"a.txt", "sub/b.bin"}
    check_manifest(target)
    assert [p.name for p in target.parent.iterdir()] == ["target"]


def test_new_folder_replaces_the_whole_of_an_older_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for text in ("one", "two"):
        with new_folder(target) as temporary:
            fill(temporary, text)
            (temporary / f"{text}.txt").write_text(text)
    assert sorted(p.name for p in target.iterdir()) == ["a.txt", MANIFEST, "sub", "two.txt"]
    check_manifest(target)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("error", [ValueError("bug"), Fault("differs"), KeyboardInterrupt(), OSError(28, "No space")])
def test_a_failing_block_leaves_what_was_there(tmp_path: Path, older: bool, error: BaseException) -> None:
    target = tmp_path / "target"
    if older:
        with new_folder(target) as temporary:
            fill(temporary)
    wanted = InputError if isinstance(error, OSError) else type(error)

    def work() -> None:
        with new_folder(target) as temporary:
            fill(temporary, "two")
            raise error

    with pytest.raises(wanted):
        work()
    assert target.exists() == older
    if older:
        check_manifest(target)
        assert (target / "a.txt").read_text() == "one"
    assert hidden(tmp_path) == []


def test_a_rename_that_fails_puts_the_older_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    with new_folder(target) as temporary:
        fill(temporary)
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(InputError, match="Input/output error"), new_folder(target) as temporary:
        fill(temporary, "two")
    check_manifest(target)
    assert (target / "a.txt").read_text() == "one"
    assert hidden(tmp_path) == []


def test_a_full_disk_leaves_no_folder(tmp_path: Path) -> None:
    target = tmp_path / "target"

    def work() -> None:
        full_disk(1000)
        with new_folder(target) as temporary:
            fill(temporary)

    code, said = in_child(work)
    assert (code, "cannot write" in said, list(tmp_path.iterdir())) == (2, True, []), said


def test_a_folder_below_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(REAL)
    with pytest.raises(InputError, match=r"cannot write to .*--out"), new_folder(tmp_path / "file" / "x"):
        pytest.fail("the block must not run")


def _lost(folder: Path) -> None:
    (folder / "a.txt").unlink()


def _changed(folder: Path) -> None:
    data = bytearray((folder / "sub" / "b.bin").read_bytes())
    data[1234] ^= 1
    (folder / "sub" / "b.bin").write_bytes(data)


def _cut(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:-20])


def _unlisted(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def _begun(folder: Path) -> None:
    (folder / MANIFEST).write_text("{}")


@pytest.mark.parametrize("spoil", [_lost, _changed, _cut, _unlisted, _begun])
def test_check_manifest_refuses(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    target = tmp_path / "target"
    with new_folder(target) as temporary:
        fill(temporary)
    spoil(target)
    with pytest.raises(Fault, match=r"target.*again"):
        check_manifest(target)


# ---- killed ---------------------------------------------------------------------------------------------------


def test_killed_in_the_block_nothing_has_the_real_name(home: Path) -> None:
    target = home / "models" / "target"

    def work() -> None:
        with new_folder(target) as temporary:
            fill(temporary)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work)[0] == -signal.SIGKILL
    assert not target.exists()
    assert len(hidden(target.parent)) == 1
    assert sweep_partials() == 1
    assert hidden(target.parent) == []


def test_sweep_partials_spares_the_living(home: Path) -> None:
    ours = home / "cache" / f".file.{os.getpid()}-0123abcd.tmp"
    unnamed, ancient = home / ".unzip-abc.tmp", home / ".unzip-def.tmp"
    gone = in_child(lambda: os.getpid())[1]
    theirs = [home / "runs" / f".x.{gone}-0123abcd.tmp", home / f".y.{gone}-0123abcd.old" / "z"]
    for path in (ours, unnamed, ancient, *theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(REAL)
    kept = home / "cache" / "a.safetensors"
    kept.write_bytes(REAL)
    os.utime(ancient, (0, 0))
    with new_folder(home / "models" / "m") as temporary:
        fill(temporary)
        assert sweep_partials() == 2
    check_manifest(home / "models" / "m")
    assert all(p.exists() for p in (ours, unnamed, kept))
    assert not any(p.exists() for p in (ancient, theirs[0], theirs[1].parent))
    assert (home / "y" / "z").read_bytes() == REAL  # set aside for a new folder that never came: it has its name again


def test_sweep_partials_beside_a_name(tmp_path: Path) -> None:
    """Outside our folder only what was to become that very name goes."""
    gone = in_child(lambda: os.getpid())[1]
    left, aside = tmp_path / f".e.{gone}-0123abcd.tmp" / "a.txt", tmp_path / f".e.{gone}-0123abcd.old" / "a.txt"
    names = (f"e.{gone}-0123abcd.tmp", f".e.txt.{gone}-0123abcd.tmp", f".e.{os.getpid()}-0123abcd.tmp", ".e.1.tmp")
    for path in (left, aside, *(tmp_path / name for name in names)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(REAL)
    assert sweep_partials(tmp_path / "e") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted((*names, "e"))
    assert (tmp_path / "e" / "a.txt").read_bytes() == REAL


def test_an_older_folder_never_takes_the_name_of_another(tmp_path: Path) -> None:
    """Long names are cut short in hidden ones: those of two folders can look alike."""
    gone = in_child(lambda: os.getpid())[1]
    target = tmp_path / ("x" * 60 + "a")
    unfinished = store.unfinished(target, "old").name.replace(f".{os.getpid()}-", f".{gone}-")
    (tmp_path / unfinished).mkdir()
    sweep_partials(target.with_name("x" * 60 + "b"))
    assert [p.name for p in tmp_path.iterdir()] == [unfinished]


def test_check_place_tries_to_write_and_leaves_nothing(tmp_path: Path) -> None:
    for name in ("e", "far/below/e", "\N{CAT FACE}" * 60):
        store.check_place(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(REAL)
    for bad in (Path("/proc/e"), Path("/proc/far/below/e"), tmp_path / "file" / "e"):
        with pytest.raises(InputError, match=r"cannot write .*e: .*choose another folder with --out"):
            store.check_place(bad)


def test_sweep_partials_without_a_home(home: Path) -> None:
    assert sweep_partials() == 0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A tiny static model on a tiny corpus."""
    model = tiny_model("static", tmp_path_factory.mktemp("static") / "model")
    texts = tmp_path_factory.mktemp("data") / "texts.csv"
    rows = [f"{WORDS[i % 15]} {WORDS[i * 7 % 13]} {WORDS[i * 3 % 11]}" for i in range(40)]
    texts.write_text("text\n" + "\n".join(rows) + "\n")
    return prepare(str(model), [str(texts)])


def exporting(bench: Bench, out: Path, seed: int) -> Callable[[], None]:
    """The export of a cut, but for the proof in a fresh process, which would take seconds."""
    ranking = Ranking("dimensions/random", np.random.default_rng(seed).permutation(32).astype(np.float32))
    reduction = select(ranking, Cut(keep=8))
    block: dict[str, Any] = {"model": bench.model.as_json(), "cost": {"vector_bytes": 0}, "quality": {}}
    report = {
        "plan": "p", "resolved_plan": "p", "seed": seed, "before": block, "after": block, "data": [], "fit_on": [],
        "retention": {}, "random_baseline": {}, "drift": {}, "notes": [], "speedup": {},
    }  # fmt: skip
    request = {"model": "m", "data": [], "fit_on": [], "split": "test", "format": "sentence-transformers"}

    def work() -> None:
        one = {"ms_batch1": 1.0, "texts_per_second": 1.0}
        seen = {"peak_bytes": 1, "mean_tokens": 3.0, "speedup": 1.0, "models": {"dense": one, "pruned": one}}
        export.verify = lambda *_, **__: Proof(0.0, 0.0, seen)  # in the child only
        cut = cast(Cutting, SimpleNamespace(reduction=reduction, pruned=bench, derived=None, codes=None, rows=()))
        export.export_model(bench, cut, report, request, out)

    return work


EVENTS = ("open", "os.", "shutil.", "pathlib.")


def dying(work: Callable[[], None], at: int) -> Callable[[], int]:
    """`work`, killed -9 at its file-system event number `at`; the count of such events where it gets through."""

    def run() -> int:
        count = 0

        def hook(event: str, _: Any) -> None:
            nonlocal count
            if event.startswith(EVENTS):
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        return count

    return run


def accepted(folder: Path) -> list[str]:
    """The fingerprints of all folders in here, hidden ones too, that would be opened as a model."""
    found = []
    for path in folder.iterdir():
        try:
            found.append(open_model(str(path)).fingerprint)
        except ModelRefused:
            continue
    return found


@pytest.mark.parametrize("older", [False, True])
def test_killed_at_any_moment_of_an_export(bench: Bench, tmp_path: Path, older: bool) -> None:
    """Eight moments spread over all file-system events of an export, and the last ones around the renames."""
    whole, first = tmp_path / "whole", tmp_path / "first" / "out"
    for out, seed in ((whole, 1), (first, 2)):
        code, said = in_child(dying(exporting(bench, out, seed), 0))
        assert code == 0, said
    events, names = int(said), {p: open_model(str(p)).fingerprint for p in (whole, first)}
    moments = {*np.linspace(2, events - 14, 8).astype(int).tolist(), *range(events - 12, events)}
    ends = set()
    for at in sorted(moments):
        place = tmp_path / f"at{at}"
        place.mkdir()
        if older:
            shutil.copytree(first, place / "out")
        code, said = in_child(dying(exporting(bench, place / "out", 1), at))
        assert code == -signal.SIGKILL, said
        if (place / "out").exists():
            check_manifest(place / "out")
        assert set(accepted(place)) <= {names[whole], *([names[first]] if older else [])}
        if older:
            assert accepted(place), "the older export is lost and the new one is not there"
        ends.add(tuple(sorted(accepted(place))))
    assert () in ends or older, "no moment was early enough"
    assert any(names[whole] in end for end in ends), "no moment was late enough"


def test_killed_from_outside_at_eight_moments(bench: Bench, tmp_path: Path) -> None:
    """The same by the clock: a child exports again and again, and is killed after 1 to 8 steps of time."""
    out = tmp_path / "out"
    start = time.perf_counter()
    assert in_child(exporting(bench, out, 1))[0] == 0
    took = time.perf_counter() - start
    good = {open_model(str(out)).fingerprint}
    for moment in range(8):
        place = tmp_path / f"place{moment}"
        place.mkdir()
        pid = os.fork()
        if not pid:
            try:
                exporting(bench, place / "out", 1)()
            finally:
                os._exit(0)
        time.sleep(took * (moment + 0.5) / 8)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert set(accepted(place)) <= good
        if (place / "out").exists():
            check_manifest(place / "out")


@pytest.mark.parametrize("left", [20, 600, 3000])
def test_an_export_on_a_full_disk(bench: Bench, tmp_path: Path, left: int) -> None:
    """Whatever file does not fit any more: bad input in words, nothing left, the older export kept."""
    out = tmp_path / "out"
    assert in_child(exporting(bench, out, 2)) == (0, "")
    before = open_model(str(out)).fingerprint

    def work() -> None:
        full_disk(left)
        exporting(bench, out, 1)()

    code, said = in_child(work)
    assert code == 2, said
    assert "Free space" in said
    assert open_model(str(out)).fingerprint == before
    assert hidden(tmp_path) == []


# ---- the cache of arrays --------------------------------------------------------------------------------------


ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array([[1, -2]], np.int64).T,
    "c": np.frombuffer(b"text", np.uint8),
    "empty": np.zeros((0, 5), np.float64),
}


def same(found: dict[str, np.ndarray] | None) -> bool:
    return found is not None and all(
        found[k].dtype == v.dtype and found[k].shape == v.shape and np.array_equal(found[k], v)
        for k, v in ARRAYS.items()
    )


def test_arrays_come_back_as_they_were(home: Path) -> None:
    assert get_arrays("ab12") is None
    put_arrays("ab12", ARRAYS)
    put_arrays("ab13", {"a": np.ones((2, 3), np.float32).T})  # not contiguous
    assert same(get_arrays("ab12"))
    assert np.array_equal((get_arrays("ab13") or {})["a"], np.ones((3, 2)))
    assert all(home in p.parents for p in home.rglob("*.safetensors"))


def _flip(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 16]) + data[-2:]


@pytest.mark.parametrize("suffix", [".safetensors", ".sha256"])
@pytest.mark.parametrize(
    "spoil", [_flip, lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"\x80\x04K\x01.", None]
)
def test_a_corrupt_entry_is_dropped_and_rebuilt(home: Path, suffix: str, spoil: Any) -> None:
    put_arrays("cd34", ARRAYS)
    (entry,) = home.rglob(f"cd34{suffix}")
    entry.unlink() if spoil is None else entry.write_bytes(spoil(entry.read_bytes()))
    assert get_arrays("cd34") is None
    assert list(home.rglob("cd34*")) in ([], [entry.with_suffix(".sha256")])
    put_arrays("cd34", ARRAYS)
    assert same(get_arrays("cd34"))


def test_an_entry_that_was_not_written_to_the_end_counts_as_absent(home: Path) -> None:
    """Killed between the arrays and their hash, or an old hash beside new arrays."""
    put_arrays("ef56", ARRAYS)
    put_arrays("ef57", {"a": np.ones(3)})
    (entry,), (other,) = home.rglob("ef56.safetensors"), home.rglob("ef57.safetensors")
    shutil.copyfile(other, entry)
    assert get_arrays("ef56") is None
    assert not entry.exists()


def test_entries_of_another_version_are_not_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_arrays("ab12", ARRAYS)
    with monkeypatch.context() as other:
        other.setattr(store, "CACHE_VERSION", "another")
        assert get_arrays("ab12") is None
    assert same(get_arrays("ab12"))


def test_a_cache_that_cannot_be_written_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(REAL)
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot write .*choose another folder with --cache"):
        put_arrays("ab12", ARRAYS)
    assert get_arrays("ab12") is None


def test_home_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "a" / ".." / "b"))
    assert store.home() == tmp_path / "b"
    monkeypatch.delenv("ESPALIER_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert store.home() == tmp_path / "xdg" / "espalier"


def test_errors_are_espaliers_own() -> None:
    assert issubclass(Fault, EspalierError)
    assert not issubclass(Fault, InputError), "a fault of ours must not exit 2"


def test_a_kill_between_the_two_files_of_an_entry_keeps_the_old_or_the_new_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_arrays("ab12", {"a": np.zeros(3)})
    written: list[Path] = []

    def once(path: Path, data: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write_atomic(path, data)

    monkeypatch.setattr("core.store.write_atomic", once)
    with pytest.raises(KeyboardInterrupt):
        put_arrays("ab12", {"a": np.ones(3)})
    monkeypatch.undo()
    monkeypatch.setenv("ESPALIER_HOME", str(home))
    found = get_arrays("ab12")
    assert found is not None
    assert set(found["a"]) == {0.0}
    put_arrays("ab12", {"a": np.ones(3)})
    again = get_arrays("ab12")
    assert again is not None
    assert set(again["a"]) == {1.0}
