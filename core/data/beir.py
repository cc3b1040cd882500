"""The BEIR layout: corpus.jsonl, queries.jsonl and judgements in qrels/<split>.tsv.

A judgement that names what is not there is dropped and counted, never scored 0; a query without a relevant
document is not judged. Where most judgements do not fit the corpus, the files do not belong together: DataError.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from core.data import readers
from core.data.cleaning import Tally, number, texts_of, topic_of
from core.errors import DataError
from core.types import Dataset, Progress, Texts, quiet

CORPUS = "corpus.jsonl"
QUERIES = "queries.jsonl"
ALL_ZERO = "queries whose judgements are all zero (left out)"
COLUMNS = ("query-id", "corpus-id", "score")
_ADD = f"add qrels/test.tsv ({', '.join(COLUMNS)}), or give --queries FILE for a log of real queries."
Qrels = dict[str, dict[str, int]]


def is_beir(folder: Path) -> bool:
    return (folder / CORPUS).is_file()


def splits(folder: Path) -> dict[str, Path]:
    """The judgement files by split; a qrels.tsv beside the corpus counts as `test`."""
    alone = folder / "qrels.tsv"
    found = {"test": alone} if alone.is_file() else {}
    return found | {p.stem: p for p in sorted((folder / "qrels").glob("*.tsv")) if p.is_file()}


def read_corpus(folder: Path, tally: Tally, progress: Progress = quiet) -> Texts:
    table = readers.json_lines(folder / CORPUS, progress)
    rows = table.rows
    return texts_of(table, tally, text="text", title="title", label=lambda i: topic_of(rows[i]), required=True)


def read_beir(folder: Path, name: str, split: str, progress: Progress = quiet) -> Dataset:
    """One judged data set. DataError names the splits that exist where `split` does not."""
    there = splits(folder)
    if split not in there:
        have = f"there are {', '.join(there)}. Choose one with --split." if there else "there are none: " + _ADD
        raise DataError(f"no split {split!r} in qrels/; {have}", file=name)
    if not (folder / QUERIES).is_file():
        raise DataError(f"no {QUERIES} beside {CORPUS}; add it.", file=name)
    tally = Tally()
    documents = read_corpus(folder, tally, progress)
    table = readers.json_lines(folder / QUERIES, progress)
    rows = table.rows
    queries = texts_of(table, tally, text="text", label=lambda i: topic_of(rows[i]), required=True)
    qrels = read_qrels(there[split], frozenset(queries.ids), frozenset(documents.ids), tally)
    judged = [i for i, q in enumerate(queries.ids) if q in qrels]
    tally.add("queries without judgements in this split (left out)", len(queries) - len(judged) - tally.count(ALL_ZERO))
    asked = queries.take(judged)
    ordered = {q: qrels[q] for q in asked.ids}
    return Dataset(name, "retrieval", documents, asked, ordered, split=split, notes=tally.notes)


def _columns(file: str, rows: readers.Cells) -> tuple[list[int], readers.Cells]:
    """Where query, document and grade stand, and the rows below the header (which may be missing)."""
    line, first = rows[0]
    names = [cell.strip().lower() for cell in first]
    if set(COLUMNS) <= set(names):
        readers.unique_names(first, file, line)
        return [names.index(c) for c in COLUMNS], rows[1:]
    if len(first) == 3 and number(first[2]) is not None:
        return [0, 1, 2], rows
    message = f"columns {', '.join(first)!r}: judgements are tab-separated {', '.join(COLUMNS)}; add that header."
    raise DataError(message, file=file, line=line)


def _grade(file: str, line: int, cell: str) -> int:
    value = number(cell)
    if value is None:
        raise DataError(f"score {cell!r} is no finite number; write a whole number.", file=file, line=line)
    if value != int(value):
        raise DataError(f"score {cell!r} is no whole number; grades are 0, 1, 2 …", file=file, line=line)
    return max(0, int(value))


def read_qrels(path: Path, queries: Collection[str], documents: Collection[str], tally: Tally) -> Qrels:
    """Grades by query and document, for queries with a relevant document; the rest is dropped and counted."""
    file = readers.shown(path)
    rows = [(line, row) for line, row in readers.cells(path) if row]
    places, body = _columns(file, rows)
    out: Qrels = {}
    unknown_queries = unknown_documents = blank = dropped = 0
    for line, row in body:
        if len(row) != len(rows[0][1]):
            raise readers.ragged(file, line, len(row), len(rows[0][1]))
        query, document, cell = (row[i].strip() for i in places)
        grade = _grade(file, line, cell)
        if query not in queries or document not in documents:
            skipped = query in tally.blank[QUERIES], document in tally.blank[CORPUS]
            unknown_queries += query not in queries and not skipped[0]
            unknown_documents += document not in documents and not skipped[1]
            blank += any(skipped)
            dropped += 1
            continue
        before = out.setdefault(query, {}).setdefault(document, grade)
        if before != grade:
            message = f"query {query!r}, document {document!r} has grade {grade} here and {before} before; keep one."
            raise DataError(message, file=file, line=line)
    if not body:
        raise readers.no_rows(file)
    if dropped * 2 > len(body):
        message = f"{dropped:,} of {len(body):,} judgements name unknown ids ({unknown_documents:,} documents, "
        message += f"{unknown_queries:,} queries)" + (f" or blank texts ({blank:,})" if blank else "")
        raise DataError(f"{message}: do these files belong together?", file=file)
    tally.add("judgements of unknown queries (dropped)", unknown_queries)
    tally.add("judgements of unknown documents (dropped)", unknown_documents)
    tally.add("judgements of blank queries or documents (dropped)", blank)
    judged = {q: grades for q, grades in out.items() if any(grades.values())}
    tally.add(ALL_ZERO, len(out) - len(judged))
    if not judged:
        raise DataError("no query has a relevant document: every score is 0. Give grades of 1 or more.", file=file)
    return judged
