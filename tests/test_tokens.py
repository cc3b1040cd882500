"""Vocabulary pruning: what stays, what the tokenizer makes of texts then, and vectors that do not change."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.anatomy import Anatomy, duplicate
from core.calibration import EncoderContext
from core.embedding import load
from core.encoders import open_model
from core.errors import Fault
from core.methods import tokens as methods
from core.surgery.tokens import closure, coverage, cut_tokens, protected, prune_tokenizer, read_tokenizer
from core.surgery.vocabulary import Merges, ids_of
from tests.tiny_models import ARCHITECTURES, tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[1]
POTION = ROOT.parent / "shared" / "data" / "models" / "potion-base-4m"
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXTS = ("the cat sat on the mat", "a dog ran under the tree", "red bird", "the river", "zebra over x y")
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
KINDS = ("wordpiece", "bpe", "bpe-suffix", "unigram", "wordlevel")
METHODS = (methods.Random, methods.Frequency, methods.Magnitude, methods.Taylor, methods.ImportanceSampling)


@cache
def corpus() -> tuple[str, ...]:
    lines = (ROOT / "assets" / "sample" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    return tuple(json.loads(line)["text"] for line in lines)


@cache
def minilm() -> Any:
    return load(open_model("minilm").path)


@cache
def trained(kind: str) -> dict[str, Any]:
    """tokenizer.json of one kind, trained here or MiniLM's own. Nobody may change it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    if kind == "wordpiece":
        return read_tokenizer(minilm())
    if kind == "wordlevel":
        return dict(json.loads(tiny_tokenizer().backend_tokenizer.to_str()))
    if kind == "unigram":
        raw = Tokenizer(models.Unigram())
        raw.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=900, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
        )
    elif kind == "bpe":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=1200, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
        )
    else:
        raw = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", continuing_subword_prefix="@@"))
        raw.normalizer = normalizers.Lowercase()
        raw.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(
            vocab_size=800, special_tokens=SPECIALS, end_of_word_suffix="</w>", continuing_subword_prefix="@@",
            show_progress=False,
        )  # fmt: skip
    raw.train_from_iterator(corpus(), trainer)
    raw.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return dict(json.loads(raw.to_str()))


def engine(tokenizer: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer

    raw = Tokenizer.from_str(json.dumps(tokenizer))
    raw.no_padding()
    raw.no_truncation()
    return raw


def shuffled(tokenizer: dict[str, Any], seed: int = 0) -> list[int]:
    ids = list(ids_of(tokenizer).values())
    random.Random(seed).shuffle(ids)
    return ids


@cache
def halved(kind: str) -> tuple[Any, Any, dict[int, int]]:
    """Official tokenizers before and after a random cut of half the rows, and the new ids."""
    tokenizer = trained(kind)
    kept = closure(tokenizer, shuffled(tokenizer), len(ids_of(tokenizer)) // 2)
    after, new = prune_tokenizer(tokenizer, kept)
    return engine(tokenizer), engine(after), new


# ---- which rows stay ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_closure_keeps_the_count_the_protected_and_what_a_smaller_cut_keeps(kind: str) -> None:
    tokenizer = trained(kind)
    wanted, must = shuffled(tokenizer), protected(tokenizer)
    sizes = [len(must) // 2, len(must) + 7, (len(must) + len(wanted)) // 2, len(wanted) - 1, len(wanted)]
    found = [closure(tokenizer, wanted, n) for n in sizes]
    assert [len(f) for f in found] == [max(n, len(must)) for n in sizes]
    for smaller, larger in pairwise(found):
        assert must <= set(smaller) <= set(larger)
        assert smaller == sorted(smaller)


def test_protected_rows_are_those_that_spell() -> None:
    ids = ids_of(trained("wordpiece"))
    assert protected(trained("wordpiece")) == {
        i for t, i in ids.items() if len(t.removeprefix("##")) == 1 or t in BERT_SPECIALS
    }
    assert {t for t, i in ids_of(trained("wordlevel")).items() if i in protected(trained("wordlevel"))} == {
        "<s>", "<pad>", "</s>", "[UNK]", "[MASK]",
    }  # fmt: skip
    suffixed = ids_of(trained("bpe-suffix"))
    assert {suffixed[t] for t in ("a", "a</w>", "@@a", "@@a</w>")} <= protected(trained("bpe-suffix"))
    assert suffixed["th"] not in protected(trained("bpe-suffix"))


def test_a_longer_token_stays_where_a_character_has_no_row_of_its_own() -> None:
    vocab = {"[UNK]": 0, "a": 1, "##a": 2, "b": 3, "ab": 4, "aa": 5, "##aa": 6}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": vocab}
    assert protected({"model": model}) == {0, 1, 2, 3, 4}  # ##b is missing, so `ab` alone spells "ab"


@pytest.mark.parametrize("kind", ["bpe", "bpe-suffix"])
def test_a_kept_bpe_token_has_its_parts_and_is_read_as_before(kind: str) -> None:
    tokenizer = trained(kind)
    before, after, new = halved(kind)
    merges, names = Merges(tokenizer["model"]), {i: t for t, i in ids_of(tokenizer).items()}
    kept = {names[i] for i in new}
    merged = [names[i] for i in new if names[i] in merges.producers]
    assert len(merged) > 50
    assert all(kept.issuperset(merges.parts(token)) for token in merged)
    whole = 0
    for i in new:
        text = before.decode([i]) if kind == "bpe" else names[i].removesuffix("</w>")
        if before.encode(text, add_special_tokens=False).ids == [i]:
            whole += 1
            assert after.encode(text, add_special_tokens=False).ids == [new[i]]
    assert whole > 50


def test_a_merge_survives_only_whole_in_either_spelling() -> None:
    listed = trained("bpe")
    assert isinstance(listed["model"]["merges"][0], list)
    spaced = listed | {"model": listed["model"] | {"merges": [" ".join(m) for m in listed["model"]["merges"]]}}
    kept = closure(listed, shuffled(listed), 700)
    assert closure(spaced, shuffled(spaced), 700) == kept
    one, other = prune_tokenizer(listed, kept)[0]["model"], prune_tokenizer(spaced, kept)[0]["model"]
    assert [" ".join(m) for m in one["merges"]] == other["merges"]
    assert all({a, b, a + b} <= one["vocab"].keys() for a, b in one["merges"])
    alive = [m for m in listed["model"]["merges"] if {m[0], m[1], m[0] + m[1]} <= one["vocab"].keys()]
    assert one["merges"] == alive


def test_of_several_merges_the_one_that_reads_the_token_decides() -> None:
    vocab = {t: i for i, t in enumerate(["a", "b", "c", "bc", "ab", "abc", "dead"])}
    merges = [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]
    model = {"type": "BPE", "unk_token": None, "vocab": vocab, "merges": merges}
    assert Merges(model).parts("abc") == ("a", "bc")  # b + c comes first, so ab + c never happens
    assert closure({"model": model}, [5, 6, 4, 3], 5) == [0, 1, 2, 3, 5]
    assert 6 not in closure({"model": model}, [6, 5, 4, 3], 6)  # no merge makes it


def test_rows_that_no_text_reaches_go_first() -> None:
    tokenizer = trained("wordpiece")
    ids = ids_of(tokenizer)
    idle = {i for t, i in ids.items() if t.startswith("[unused") or t == "..."}  # punctuation is read one by one
    kept = closure(tokenizer, [40000, *sorted(ids.values())], len(ids) - len(idle))
    assert len(idle) == 995
    assert kept == sorted(set(ids.values()) - idle)


# ---- the tokenizer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_official_tokenizer_has_the_new_ids_and_no_others(kind: str) -> None:
    before, after, new = halved(kind)
    assert after.get_vocab() == {t: new[i] for t, i in before.get_vocab().items() if i in new}
    assert sorted(new.values()) == list(range(len(new)))
    assert list(new) == sorted(new)
    for encoding in after.encode_batch([*corpus(), "日本 ☃ Ünïcode \u0000 \U0001f600"]):
        assert max(encoding.ids) < len(new)


@pytest.mark.parametrize("kind", KINDS)
def test_an_uncut_tokenizer_is_the_same(kind: str) -> None:
    tokenizer = trained(kind)
    kept = closure(tokenizer, shuffled(tokenizer), len(ids_of(tokenizer)))
    after, new = prune_tokenizer(tokenizer, kept)
    assert after == tokenizer
    assert all(a == b for a, b in new.items())


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "bpe-suffix", "unigram"])
@given(data=st.data())
def test_no_text_becomes_unknown(kind: str, data: st.DataObject) -> None:
    before, after, new = halved(kind)
    words = [w for text in corpus()[:40] for w in text.split()]
    single = sorted(t for t in before.get_vocab() if len(t) == 1)
    text = " ".join(
        data.draw(
            st.lists(st.one_of(st.sampled_from(words), st.text(st.sampled_from(single), max_size=12)), max_size=8)
        )
    )
    unknown = before.token_to_id("[UNK]" if kind == "wordpiece" else "<unk>")
    had = before.encode(text).ids.count(unknown)
    assert after.encode(text).ids.count(new[unknown]) <= had


def test_padding_keeps_its_id_among_words_that_go() -> None:
    vocab = {t: i for i, t in enumerate(["u", "v", "w", "x", "<pad>", "y", "<unk>", "z"])}
    added = [{"id": 4, "content": "<pad>"}, {"id": 6, "content": "<unk>"}]
    tokenizer = {"model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": vocab}, "added_tokens": added}
    after, _ = prune_tokenizer(tokenizer, [1, 3, 4, 5, 6, 7])
    assert after["model"]["vocab"] == {"v": 0, "x": 1, "y": 2, "<unk>": 3, "<pad>": 4, "z": 5}
    assert [t["id"] for t in after["added_tokens"]] == [4, 3]
    assert prune_tokenizer(tokenizer, [3, 4, 6])[1] == {3: 0, 4: 1, 6: 2}  # too few rows for an id of 4


def test_everything_that_holds_an_id_follows() -> None:
    from tokenizers import processors

    base = trained("bpe")
    special = {"</s>": 2, "<s>": 0}
    template = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=list(special.items()))
    chain = processors.Sequence([processors.ByteLevel(), processors.BertProcessing(("</s>", 2), ("<s>", 0)), template])
    raw = engine(base)
    raw.post_processor = chain
    raw.enable_padding(pad_id=1, pad_token="<pad>")
    moved = json.loads(raw.to_str())
    vocab = moved["model"]["vocab"]  # three unused words before all others: every id moves when they go
    moved["model"]["vocab"] = {"junk1": 0, "junk2": 1, "junk3": 2} | {t: i + 3 for t, i in vocab.items()}
    for token in moved["added_tokens"]:
        token["id"] += 3
    moved["padding"]["pad_id"] = 4
    for post in moved["post_processor"]["processors"]:
        for key in {"sep", "cls"} & post.keys():
            post[key][1] += 3
        for one in post.get("special_tokens", {}).values():
            one["ids"] = [i + 3 for i in one["ids"]]
    kept = sorted(set(ids_of(moved).values()) - {0, 1, 2})
    after, _ = prune_tokenizer(moved, kept, pad=-1)
    assert after["post_processor"] == json.loads(raw.to_str())["post_processor"]
    assert after["padding"] == json.loads(raw.to_str())["padding"]
    assert after["added_tokens"] == base["added_tokens"]
    assert after["model"]["vocab"] == vocab


def test_unigram_scores_and_the_unknown_piece_follow() -> None:
    vocab = [["junk", -9.0], ["<unk>", 0.0], ["a", -1.0], ["more", -8.0], ["b", -2.0], ["<0x0A>", -3.0], ["▁a", -4.0]]
    tokenizer = {"model": {"type": "Unigram", "unk_id": 1, "vocab": vocab, "byte_fallback": True}}
    assert protected(tokenizer) == {0, 1, 2, 3, 4, 5, 6}  # j, u, n, k, m, o, r and e have no rows of their own
    letters = [[c, -5.0] for c in "junkmore"]
    spelled = {"model": tokenizer["model"] | {"vocab": vocab + letters}}
    after, new = prune_tokenizer(spelled, sorted(protected(spelled)))
    assert protected(spelled) == {1, 2, 4, 5, 6} | set(range(7, 15))
    assert after["model"]["vocab"] == [vocab[i] for i in (1, 2, 4, 5, 6)] + letters
    assert (after["model"]["unk_id"], new[1], spelled["model"]["unk_id"]) == (0, 0, 1)


def test_added_tokens_behind_the_vocabulary_stay_behind_it() -> None:
    from tokenizers import AddedToken

    raw = engine(trained("bpe"))
    raw.add_special_tokens([AddedToken("[PAD]", special=True), AddedToken("[CLS]", special=True)])
    tokenizer = json.loads(raw.to_str())
    assert "[PAD]" not in tokenizer["model"]["vocab"]
    kept = closure(tokenizer, shuffled(tokenizer), 600)
    after, new = prune_tokenizer(tokenizer, kept, pad=raw.token_to_id("[PAD]"))
    assert engine(after).token_to_id("[PAD]") == new[raw.token_to_id("[PAD]")] == 598
    assert engine(after).token_to_id("[CLS]") == new[raw.token_to_id("[CLS]")] == 599


def test_a_protected_row_cannot_be_dropped() -> None:
    with pytest.raises(Fault, match="protected"):
        prune_tokenizer(trained("bpe"), range(10, 900))


def test_coverage_counts_words_and_tokens() -> None:
    tokenizer = trained("wordlevel")
    ids = ids_of(tokenizer)
    after, _ = prune_tokenizer(tokenizer, sorted(set(ids.values()) - {ids["cat"]}))
    found = coverage(tokenizer, after, ["the cat sat", "the dog", "zebra cat"])
    assert found["texts_unchanged"] == 1 / 3
    assert found["words_unchanged"] == 5 / 7
    assert found["unk_rate"] == {"before": 1 / 7, "after": 3 / 7}
    assert found["tokens_per_word"] == {"before": 1.0, "after": 1.0}
    halves = coverage(trained("wordpiece"), json.loads(halved("wordpiece")[1].to_str()), corpus())
    assert halves["tokens_per_word"]["after"] > halves["tokens_per_word"]["before"]
    assert halves["unk_rate"]["after"] <= halves["unk_rate"]["before"]
    assert 0 < halves["words_unchanged"] < 1


# ---- the encoder ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {a: tiny_model(a, root / a) for a in (*ARCHITECTURES, "static")}


def vectors(encoder: Any, texts: Any = TEXTS) -> Any:
    return encoder.encode(list(texts), show_progress_bar=False)


def ranked(method: Any, encoder: Any, texts: Any = TEXTS) -> Any:
    (scores,) = method.rank(EncoderContext(encoder, tuple(texts), "tokens")).scores
    return np.argsort(-scores, kind="stable")


def cut_to(encoder: Any, count: int) -> Any:
    wanted = ranked(methods.Frequency(), encoder)
    return cut_tokens(duplicate(encoder), closure(read_tokenizer(encoder), wanted, count))


def rows(encoder: Any) -> int:
    return int(Anatomy(encoder, "tokens").tokens.weight.shape[0])


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "static"])
def test_unchanged_texts_have_the_same_bits(tiny: dict[str, Path], architecture: str) -> None:
    encoder = load(tiny[architecture])
    size, dense = rows(encoder), vectors(encoder)
    half = cut_to(encoder, size // 2)
    assert rows(half) == size // 2
    assert np.array_equal(vectors(half), dense)
    assert np.array_equal(vectors(cut_to(encoder, size)), dense)
    assert rows(encoder) == size
    assert np.array_equal(vectors(encoder), dense)
    assert half.max_seq_length == encoder.max_seq_length


def test_a_fresh_process_gives_the_same_vectors(tiny: dict[str, Path], tmp_path: Path) -> None:
    folders = {}
    for architecture, path in tiny.items():
        half = cut_to(load(path), 24)
        half.save(str(tmp_path / architecture), create_model_card=False)
        np.save(tmp_path / f"{architecture}.npy", vectors(half))
        folders[architecture] = half
    code = f"""
import numpy, pathlib, sys
from sentence_transformers import SentenceTransformer
for folder in sorted(p for p in pathlib.Path({str(tmp_path)!r}).iterdir() if p.is_dir()):
    found = SentenceTransformer(str(folder), device="cpu").encode({list(TEXTS)!r}, show_progress_bar=False)
    print(folder.name, abs(found - numpy.load(str(folder) + ".npy")).max())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{a} 0.0" for a in sorted(tiny)]
    for architecture in ARCHITECTURES:
        folder = tmp_path / architecture
        assert not {"vocab.txt", "vocab.json", "merges.txt"} & {p.name for p in folder.iterdir()}
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert (config["vocab_size"], config["pad_token_id"]) == (24, 1)
        assert "/tmp" not in (folder / "tokenizer_config.json").read_text(encoding="utf-8")


@cache
def half_minilm() -> Any:
    encoder = minilm()
    wanted = ranked(methods.Frequency(), encoder, corpus())
    return cut_tokens(duplicate(encoder), closure(read_tokenizer(encoder), wanted, 30522 // 2))


def test_minilm_keeps_every_bit_of_the_texts_it_was_cut_for(tmp_path: Path) -> None:
    half, texts = half_minilm(), [text[:300] for text in corpus()[:12]]
    assert rows(half) == 15261
    found = coverage(read_tokenizer(minilm()), read_tokenizer(half), [*corpus(), *texts])
    assert found["texts_unchanged"] == 1.0
    assert np.array_equal(vectors(half, texts), vectors(minilm(), texts))
    other = ["photosynthesizers unbelievably hyperventilated"]
    assert not np.array_equal(vectors(half, other), vectors(minilm(), other))
    half.save(str(tmp_path / "half"), create_model_card=False)
    again = load(tmp_path / "half")
    assert np.array_equal(vectors(again, [*texts, *other]), vectors(half, [*texts, *other]))
    assert (again.max_seq_length, again.tokenizer.padding_side) == (minilm().max_seq_length, "right")
    assert sum(p.numel() for p in again.parameters()) == 22713216 - 15261 * 384


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_roberta_and_xlm_roberta_reload_with_their_own_tokenizer_classes(kind: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as modules
    from transformers import RobertaTokenizer, XLMRobertaTokenizer

    from tests.tiny_models import tiny_backbone

    folder = tmp_path / "bare"
    names = {"bpe": ("roberta", RobertaTokenizer), "unigram": ("xlm-roberta", XLMRobertaTokenizer)}
    architecture, cls = names[kind]
    model = trained(kind)["model"]
    if kind == "bpe":
        tokenizer = cls(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]], model_max_length=32)
    else:
        tokenizer = cls(vocab=[tuple(v) for v in model["vocab"]], model_max_length=32)
    tiny_backbone(architecture, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SentenceTransformer(modules=[modules.Transformer(str(folder)), modules.Pooling(32)]).save(str(tmp_path / "whole"))
    whole = load(tmp_path / "whole")
    assert type(whole.tokenizer) is cls
    texts = [sentence for text in corpus() for sentence in text.split(". ")]
    wanted = ranked(methods.Frequency(), whole, texts[:40])
    half = cut_tokens(duplicate(whole), closure(read_tokenizer(whole), wanted, rows(whole) // 2))
    half.save(str(tmp_path / "half"))
    again = load(tmp_path / "half")
    assert type(again.tokenizer) is cls
    assert np.array_equal(vectors(again, texts[:60]), vectors(half, texts[:60]))
    before, after = whole.tokenizer, again.tokenizer
    same = [t for t in texts if before.tokenize(t) == after.tokenize(t)][:20]
    assert len(same) > 3
    assert np.array_equal(vectors(again, same), vectors(whole, same))


@pytest.mark.skipif(not POTION.is_dir(), reason="potion-base-4m is not there")
def test_a_static_model_with_real_rows() -> None:
    whole = load(open_model(str(POTION)).path)
    wanted = ranked(methods.Frequency(), whole, corpus())
    half = cut_tokens(duplicate(whole), closure(read_tokenizer(whole), wanted, rows(whole) // 2))
    assert rows(half) == 29528 // 2
    assert np.array_equal(vectors(half, corpus()), vectors(whole, corpus()))


def test_a_static_table_with_mapping_and_weights_is_cut_row_by_token(tmp_path: Path, tiny: dict[str, Path]) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file
    from sentence_transformers import SentenceTransformer

    shutil.copytree(tiny["static"], tmp_path / "mapped")
    file = tmp_path / "mapped" / "model.safetensors"
    table = load_file(file)["embedding.weight"]
    mapping = np.arange(len(table)) // 2
    weights = np.linspace(0.5, 1.5, len(table)).astype(np.float32)
    save_file({"embeddings": table[: len(table) // 2 + 1], "mapping": mapping, "weights": weights}, file)
    whole = load(tmp_path / "mapped")
    half = cut_to(whole, 24)
    assert np.array_equal(vectors(half), vectors(whole))
    half.save(str(tmp_path / "half"))
    assert np.array_equal(vectors(SentenceTransformer(str(tmp_path / "half"), device="cpu")), vectors(whole))


# ---- the methods ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.card.name)
@pytest.mark.parametrize("architecture", ["modernbert", "static"])
def test_a_method_scores_every_row_and_leaves_the_encoder_alone(
    tiny: dict[str, Path], method: Any, architecture: str
) -> None:
    encoder = load(tiny[architecture])
    dense, size = vectors(encoder), rows(encoder)
    context = EncoderContext(encoder, TEXTS, "tokens")
    found = method().rank(context)
    assert found.method == method.card.name
    assert found.scores[0].shape == (size,)
    assert np.isfinite(found.scores[0]).all()
    assert np.array_equal(method().rank(context).scores[0], found.scores[0])
    assert np.array_equal(vectors(encoder), dense)
    assert not Anatomy(encoder, "tokens").tokens._forward_hooks
    if method.card.seeded:
        assert not np.array_equal(method(seed=1).rank(context).scores[0], found.scores[0])


def test_frequency_counts_what_the_encoder_reads() -> None:
    texts = corpus()[:60]
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(minilm().tokenizer(text, truncation=True, max_length=minilm().max_seq_length)["input_ids"])
    found = methods.Frequency().rank(EncoderContext(minilm(), texts, "tokens")).scores[0]
    assert {int(i): int(found[i]) for i in np.flatnonzero(found >= 1)} == dict(counts)
    unseen = [i for i in range(len(found)) if i not in counts]
    assert np.all(np.diff(found[unseen]) < 0)


@pytest.mark.parametrize("architecture", ["bert", "static"])
def test_taylor_is_the_squared_turn_of_the_vector_by_removal(tiny: dict[str, Path], architecture: str) -> None:
    import torch

    encoder = load(tiny[architecture])
    text = "the cat sat under a tree"
    found = methods.Taylor().rank(EncoderContext(encoder, (text,) * methods.SAMPLE, "tokens")).scores[0]
    ids = ids_of(read_tokenizer(encoder))
    chosen = [ids[w] for w in text.split()]
    step, turn = 1e-2, []
    for i in chosen:  # every token stands once, so scaling its row is scaling its one occurrence
        less, more = duplicate(encoder), duplicate(encoder)
        with torch.no_grad():
            Anatomy(less, "tokens").tokens.weight[i] *= 1 - step
            Anatomy(more, "tokens").tokens.weight[i] *= 1 + step
        turn.append(np.square((vectors(more, [text]) - vectors(less, [text])) / (2 * step)).sum())
    ratio = found[chosen] / (methods.SAMPLE * np.array(turn))
    assert np.all((ratio > 0.6) & (ratio < 1.6))  # a mean over 128 tangent vectors: +-12 %
    assert np.argmax(found[chosen]) == np.argmax(turn)


def test_importance_sampling_draws_by_weight(tiny: dict[str, Path]) -> None:
    encoder = load(tiny["bert"])
    context = EncoderContext(encoder, TEXTS * 8, "tokens")
    used = methods.Frequency().rank(context).scores[0] >= 1
    kept = Counter()
    for seed in range(12):
        best = np.argsort(-methods.ImportanceSampling(seed=seed).rank(context).scores[0])[: int(used.sum())]
        kept[tuple(sorted(best))] += int(used[best].sum())
    assert len(kept) > 1
    assert sum(kept.values()) > 12 * 0.8 * used.sum()
