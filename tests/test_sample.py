"""The built-in corpus is what it claims: written, varied, hard, graded, and shipped with its embeddings."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest

from core import data, encoders, judging
from core.bench import missing, prepare
from core.types import Dataset


@pytest.fixture(scope="module")
def sample() -> tuple[Dataset, Dataset]:
    corpus, pairs = data.load("sample")
    return corpus, pairs


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def trigrams(text: str) -> set[tuple[str, ...]]:
    w = words(text)
    return set(zip(w, w[1:], w[2:], strict=False))


def test_it_is_as_large_and_as_graded_as_promised(sample: tuple[Dataset, Dataset]) -> None:
    corpus, pairs = sample
    assert len(corpus.documents) >= 600
    assert len(set(corpus.documents.labels)) >= 12
    assert len(corpus.queries) >= 250
    assert len(pairs.documents) >= 150
    assert corpus.qrels is not None
    assert {g for judged in corpus.qrels.values() for g in judged.values()} == {1, 2}
    assert all(2 in judged.values() for judged in corpus.qrels.values())


def test_no_two_passages_share_their_wording(sample: tuple[Dataset, Dataset]) -> None:
    """Jaccard of word trigrams: a template or a reworded copy would share far more than 15 %."""
    grams = [trigrams(t) for t in sample[0].documents.texts]
    assert max(len(a & b) / max(1, len(a | b)) for a, b in itertools.combinations(grams, 2)) < 0.15


def test_no_template_opens_many_passages_or_queries(sample: tuple[Dataset, Dataset]) -> None:
    for texts in (sample[0].documents.texts, sample[0].queries.texts):
        opens = Counter(tuple(words(t)[:4]) for t in texts)
        assert opens.most_common(1)[0][1] <= 6


def test_its_vocabulary_is_that_of_real_writing(sample: tuple[Dataset, Dataset]) -> None:
    """At least 6,000 distinct words, and at least a third of them met once, as in any natural text."""
    count = Counter(w for t in sample[0].documents.texts for w in words(t))
    assert len(count) >= 6000
    assert sum(c == 1 for c in count.values()) / len(count) > 1 / 3


def test_queries_do_not_repeat_the_words_of_their_answer(sample: tuple[Dataset, Dataset]) -> None:
    """Long words of a query found in its best passage: a third or less, on average."""
    corpus, _ = sample
    assert corpus.qrels is not None
    text = dict(zip(corpus.documents.ids, corpus.documents.full, strict=True))
    shares = []
    for query, asked in zip(corpus.queries.ids, corpus.queries.texts, strict=True):
        best = max(corpus.qrels[query], key=corpus.qrels[query].__getitem__)
        long = {w for w in words(asked) if len(w) > 4}
        shares.append(len(long & set(words(text[best]))) / max(1, len(long)))
    assert sum(shares) / len(shares) <= 0.34


def test_nothing_has_to_be_embedded_and_it_is_hard(sample: tuple[Dataset, Dataset]) -> None:
    model = encoders.open_model("minilm")
    assert missing(model, list(sample)) == 0
    bench = prepare(model, ["sample"])
    corpus, pairs = bench.judges
    scored = judging.measure(corpus, corpus.documents.vectors, corpus.queries.vectors, "cosine")
    assert 0.6 <= scored.means["ndcg@10"] <= 0.9
    assert judging.measure(pairs, pairs.documents.vectors, pairs.queries.vectors, "cosine").means["spearman"] > 0.6
