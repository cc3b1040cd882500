"""Data: from what a person names (a word, a folder, a file) to the frozen `Dataset` records they are judged on.

The loader is the validator: what cannot be read as it should raises DataError with file, line and remedy; what
was skipped, cut or sampled is counted in `Dataset.notes`. Judgements and texts leave this room together and are
parted later: no pruning method is ever handed a Dataset.

    readers (bytes -> rows)  ->  cleaning (rows -> texts)  ->  beir | pairs | tables | python_docs  ->  sampling
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from core.data import beir, pairs, readers, sampling, tables
from core.data.cleaning import Tally
from core.errors import DataError, InputError
from core.types import Dataset, Progress, Texts, quiet

__all__ = ["load", "told_apart"]

SAMPLE = Path(__file__).parents[2] / "assets" / "sample"
_KNOWN = "sample, python-docs, a folder or .zip with corpus.jsonl, or a file (" + ", ".join(readers.SUFFIXES) + ")"
_UNUSED = "the query log was not used: this data has a truth of its own"


def load(
    spec: str,
    *,
    split: str | None = "test",
    queries: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> list[Dataset]:
    """The data sets that `spec` names: one, or two where a BEIR folder also holds pairs.tsv.

    spec     `sample`, `python-docs`, a BEIR folder or a .zip of one, or a file of pairs, labels or texts
    split    which judgements of a BEIR folder; None where they do not count: its corpus is read, and nobody asks
    queries  a log of real queries for texts without judgements; truth is then the unpruned model's agreement
    limit    at most so many documents (pairs, labelled texts): a seeded sample, said in the notes

    InputError where there is nothing of that name; DataError (file, line, remedy) where it cannot be read.
    """
    sampling.check_limit(limit)
    if seed < 0:
        raise InputError(f"seed {seed} is below 0; give 0 or a positive whole number.")
    if queries is not None and not os.path.isfile(queries):
        raise InputError(f"no file at {str(queries)!r}: give --queries a log ({', '.join(readers.SUFFIXES)}).")
    try:
        name, path = _locate(spec, progress)
        if path.is_dir():
            found = _folder(path, name, split, queries, limit, seed, progress)
        else:
            found = _file(path, name, queries, limit, seed, progress)
    except OSError as e:
        raise InputError(f"cannot read {spec!r}: {e.strerror or e}. Check the path and its permissions.") from e
    return [sampling.limited(d, limit, seed) if d.truth != "agreement" else d for d in found]


def told_apart(datasets: Sequence[Dataset]) -> list[Dataset]:
    """Every data set under a name of its own: the second `same` becomes `same-2`, and a note says so."""
    given, out = {d.name for d in datasets}, dict[str, Dataset]()
    for d in datasets:
        free = (f"{d.name}-{n}" for n in count(2) if f"{d.name}-{n}" not in given | out.keys())
        name = next(free) if d.name in out else d.name
        note = f"called {d.name} as one before it: its figures stand under {name}"
        out[name] = d if name == d.name else replace(d, name=name, notes=(*d.notes, note))
    return list(out.values())


def _locate(spec: str, progress: Progress) -> tuple[str, Path]:
    """The data's name and where it lies; zips are unpacked and python-docs built on the way."""
    if spec == "sample":
        return spec, SAMPLE
    if spec == "python-docs":
        from core.data.python_docs import built

        return spec, built(progress)
    path = Path(spec).expanduser()
    try:
        there = path.exists()
    except (OSError, ValueError):
        there = False
    if not there or not spec.strip():
        raise InputError(f"no data at {spec!r}: give {_KNOWN}.")
    if path.suffix.lower() == ".zip" and path.is_file():
        return path.stem, _unpacked(path, progress)
    return (path.resolve().name if path.is_dir() else path.stem), path


def _unpacked(archive: Path, progress: Progress) -> Path:
    """The zip's content under our own folder, by its hash; its single top folder where it has one."""
    from core import store
    from core.unzip import unzip_safely

    progress(f"unpacking {archive.name}", 0, 1)
    target = store.home() / "uploads" / store.sha256(archive)
    if not (target / store.MANIFEST).is_file():
        with store.new_folder(target) as temporary:
            unzip_safely(archive, temporary)
    inside = [p for p in target.iterdir() if p.name not in (store.MANIFEST, "__MACOSX")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else target


def _folder(
    folder: Path, name: str, split: str | None, queries: Path | None, limit: int | None, seed: int, progress: Progress
) -> list[Dataset]:
    if not beir.is_beir(folder):
        parted = next((p for p in sorted(folder.iterdir()) if p.name.lower() in ("test.csv", "test.tsv")), None)
        if parted is not None and tables.sibling(parted) is not None:
            return _file(parted, name, queries, limit, seed, progress)
        raise InputError(f"{name} holds no {beir.CORPUS}: give {_KNOWN}.")
    if split is None or (queries is not None and not beir.splits(folder)):
        tally = Tally()
        documents = beir.read_corpus(folder, tally, progress)
        log = Texts((), ()) if queries is None else tables.read_log(queries, tally, progress)
        found = [tables.agreement(documents, name, tally, log, limit=limit, seed=seed)]
    else:
        found = [_truthful(beir.read_beir(folder, name, split, progress), queries)]
    extra = folder / "pairs.tsv"
    return [*found, pairs.read_pairs(extra, f"{name}-pairs")] if extra.is_file() else found


def _file(
    path: Path, name: str, queries: Path | None, limit: int | None, seed: int, progress: Progress
) -> list[Dataset]:
    suffix = path.suffix.lower()
    named = (*pairs.COLUMNS, "title", *tables.TEXT, *tables.LABELS)
    if suffix in readers.DELIMITED:
        rows = readers.cells(path, named)
        if pairs.fits(rows):
            return [_truthful(pairs.read_pairs(path, name, rows), queries)]
        if suffix == ".txt":
            message = "no pairs with a score; give texts as .csv or .jsonl with a column `text`."
            raise DataError(message, file=readers.shown(path))
        table = readers.with_header(readers.shown(path), rows)
        if queries is None and tables.label_column(table):
            return [tables.read_labels(path, name, table, seed)]
    elif suffix in readers.SUFFIXES:
        table = readers.read_table(path, progress)
    else:
        raise InputError(f"{path.name} is no data that can be read: give {_KNOWN}.")
    tally = Tally()
    documents = tables.read_texts(table, tally)
    log = tables.read_log(queries, tally, progress) if queries is not None else None
    return [tables.agreement(documents, name, tally, log, limit=limit, seed=seed)]


def _truthful(data: Dataset, queries: Path | None) -> Dataset:
    """Data with a truth of its own; a query log given beside it is not used, and that is said."""
    return data if queries is None else replace(data, notes=(*data.notes, _UNUSED))
