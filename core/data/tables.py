"""Tables of texts: with labels (then accuracy), or without judgements (then the texts or a query log ask)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from core.data import readers, sampling
from core.data.cleaning import IDS, Tally, blank, first_of, only_text_column, optional, texts_of
from core.data.readers import Table
from core.errors import DataError
from core.types import Dataset, Progress, Texts, quiet

LABELS = ("label", "category", "class", "intent", "target")
TEXT = ("text",)
QUERY = ("query", "queries", "text", "question", "search", "q")
_RESERVED = (*IDS, "title", "topic", *LABELS)
SIBLING = {"train": "test", "test": "train"}
ASK = 500  # at most so many held-out documents ask


def label_column(table: Table) -> str:
    return first_of(LABELS, table.columns)


def _labelled(table: Table, tally: Tally, prefix: str = "") -> Texts:
    """The rows that have a text and a label, as Texts."""
    column = label_column(table)
    if not column:
        message = f"no label column among {', '.join(table.columns)}; name it one of {', '.join(LABELS)}."
        raise DataError(message, file=table.file)
    text = only_text_column(table, TEXT, _RESERVED, tally)
    title = first_of(("title",), table.columns)
    marks = [optional(table, row, column, tally) for row in range(len(table))]
    texts = texts_of(table, tally, text=text, title=title, label=lambda i: marks[i], prefix=prefix)
    labels = texts.labels or ("",) * len(texts)
    keep = [i for i, label in enumerate(labels) if not blank(label)]
    tally.add("rows without a label skipped", len(texts) - len(keep))
    if not keep:
        raise DataError(f"no rows left: no text has a {column!r}. Fill that column.", file=table.file)
    return texts.take(keep)


def sibling(path: Path) -> Path | None:
    """train.csv for a test.csv and the other way round, where it is there."""
    other = SIBLING.get(path.stem.lower())
    if other is None:
        return None
    wanted = (other + path.suffix).lower()
    return next((p for p in sorted(path.parent.iterdir()) if p.name.lower() == wanted and p.is_file()), None)


def read_labels(path: Path, name: str, table: Table, seed: int) -> Dataset:
    """Training texts as documents and test texts as queries: of two sibling files, or a seeded 70/30 split."""
    tally = Tally()
    other = sibling(path)
    if other is None:
        texts = _labelled(table, tally)
        train, test = sampling.halves(texts.labels, seed)
        if not len(test):
            message = "no label stands on two rows: nothing is left to test on. Give two or more texts of each label."
            raise DataError(message, file=table.file)
        documents, queries = texts.take(train), texts.take(test)
        tally.say(f"trained on {len(train):,} rows, tested on {len(test):,} (70/30 by label, seed {seed})")
    else:
        second = readers.read_table(other, named=(*TEXT, *LABELS))
        tables = {path.stem.lower(): table, other.stem.lower(): second}
        documents, queries = (_labelled(tables[part], tally, prefix=f"{part}-") for part in ("train", "test"))
        tally.say(f"trained on {tables['train'].file}, tested on {tables['test'].file}")
        unseen = len(set(queries.labels) - set(documents.labels))
        tally.add("labels of the test file that the training file lacks", unseen)
    if len(set(documents.labels)) < 2:
        message = f"only one label ({documents.labels[0]!r}) to train on; accuracy needs two or more."
        raise DataError(message, file=table.file)
    return Dataset(name, "labels", documents, queries, notes=tally.notes)


def read_texts(table: Table, tally: Tally) -> Texts:
    """Texts without judgements: `text` or the only string column; id, title and label or topic where given."""
    text = only_text_column(table, TEXT, _RESERVED, tally)
    title = first_of(("title",), table.columns)
    topic = first_of(("topic", *LABELS), table.columns)
    marks = [optional(table, row, topic, tally) for row in range(len(table))]
    return texts_of(table, tally, text=text, title=title, label=lambda i: marks[i])


def read_log(path: Path, tally: Tally, progress: Progress = quiet) -> Texts:
    """A log of queries, each once: what was asked again is merged and counted."""
    table = readers.read_table(path, progress, QUERY)
    text = only_text_column(table, QUERY, _RESERVED, tally)
    log = texts_of(table, tally, text=text, prefix="q")
    first: dict[str, int] = {}
    for row, query in enumerate(log.texts):
        first.setdefault(query.strip(), row)
    tally.add("queries asked again in the log (merged)", len(log) - len(first))
    return log.take(first.values())


def agreement(
    documents: Texts, name: str, tally: Tally, log: Texts | None = None, *, limit: int | None = None, seed: int = 0
) -> Dataset:
    """A data set without judgements: the unpruned model's own top 10 will be its truth.

    Without a log, a seeded fifth of the documents (500 at most) asks, under the documents' own ids.
    With one, query ids are kept apart from the documents': an equal id would mean "the same text".
    """
    sampling.check_limit(limit)
    n = len(documents)
    if limit is not None and limit < n:
        documents = documents.take(sampling.rows(n, limit, seed))
        tally.say(sampling.said(len(documents), n, "documents", seed))
    if log is None:
        queries = documents.take(sampling.rows(len(documents), min(ASK, max(1, len(documents) // 5)), seed))
        tally.say(f"no query log: {len(queries):,} of {len(documents):,} documents ask, seed {seed}")
        return Dataset(name, "retrieval", documents, queries, notes=tally.notes)
    if limit is not None and limit < len(log):
        tally.say(sampling.said(limit, len(log), "queries", seed))
        log = log.take(sampling.rows(len(log), limit, seed))
    prefix, taken = "", set(documents.ids)
    while any(prefix + name_ in taken for name_ in log.ids):
        prefix += "query-"
    log = replace(log, ids=tuple(prefix + i for i in log.ids))
    return Dataset(name, "retrieval", documents, log, notes=tally.notes)
