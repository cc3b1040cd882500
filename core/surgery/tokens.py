"""Vocabulary pruning: fewer rows of the token table, and a tokenizer that knows of no others.

kept = closure(read_tokenizer(encoder), wanted, count)     which rows stay
cut_tokens(duplicate(encoder), kept)                       table, config and tokenizer, cut together
coverage(before, after, texts)                             what it did to texts
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.anatomy import Anatomy
from core.errors import InputError
from core.surgery.slicing import take
from core.surgery.vocabulary import Json, closure, engine, ids_of, protected, prune_tokenizer

__all__ = ["closure", "coverage", "cut_tokens", "protected", "prune_tokenizer", "read_tokenizer"]
_POSITIONED = ("roberta", "xlm-roberta", "mpnet")  # position ids are counted from the id of PAD
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def read_tokenizer(encoder: Any) -> Json:
    """The parsed tokenizer.json of a loaded encoder."""
    first = encoder[0]
    raw = first.tokenizer if type(first).__name__ == "StaticEmbedding" else first.processor.backend_tokenizer
    return dict(json.loads(raw.to_str()))


def cut_tokens(encoder: Any, kept: Sequence[int]) -> Any:
    """Keep these token rows of the encoder (a copy: `anatomy.duplicate`), and give it the tokenizer of them.

    Texts whose tokens stay the same get bit-identical vectors. Static models that were stored with a mapping or
    weights beside the table have them folded into its rows when they are loaded, so they are cut like the others.
    Raises InputError where position ids hang on a PAD that would move.
    """
    import torch
    from torch import nn

    view = Anatomy(encoder, "tokens")
    table = view.tokens
    pad = getattr(table, "padding_idx", None)
    tokenizer, new = prune_tokenizer(read_tokenizer(encoder), kept, pad)
    rows = sorted(new, key=new.__getitem__)
    if view.kind == "static":
        first = encoder[0]
        table.weight = nn.Parameter(table.weight.detach()[torch.as_tensor(rows)].clone())
        table.num_embeddings = first.num_embeddings = len(rows)
        first.tokenizer = engine(tokenizer, keep_truncation=True)
        return encoder
    if view.kind in _POSITIONED and new.get(pad if pad is not None else -1) != pad:
        raise InputError(
            f"{view.kind}: position ids are counted from padding id {pad}, which would not keep its row: "
            f"keep more than the {len(rows):,} rows asked for"
        )
    take(view, "vocab", rows)
    table.padding_idx = new.get(pad) if pad is not None else None
    _declare(view.config, new)
    encoder[0].processor = _reloaded(encoder[0].processor, tokenizer, new)
    return encoder


def _declare(config: Any, new: dict[int, int]) -> None:
    """The config's size and token ids; an id whose row is gone is declared as none."""
    config.vocab_size = len(new)
    for key, value in config.to_dict().items():
        if key.endswith("_token_id") and value is not None:
            several = isinstance(value, list)
            found = [new[i] for i in (value if several else [value]) if i in new]
            setattr(config, key, found if several else next(iter(found), None))


def _reloaded(old: Any, tokenizer: Json, new: dict[int, int]) -> Any:
    """The tokenizer as a fresh process will load it, with the settings of the old one."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old.save_pretrained(folder)
        for file in folder.iterdir():
            if file.suffix in (".txt", ".model", ".json") and file.name not in _TOKENIZER_FILES:
                file.unlink()  # vocab.txt, merges.txt and the like would tell of the old rows
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        if "added_tokens_decoder" in settings:
            added = settings["added_tokens_decoder"].items()
            settings["added_tokens_decoder"] = {str(new[int(i)]): token for i, token in added}
        path.write_text(json.dumps(settings), encoding="utf-8")
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found.backend_tokenizer.normalizer = old.backend_tokenizer.normalizer  # lower-casing that was added on loading
    for attribute in ("model_max_length", "padding_side", "truncation_side", "name_or_path"):
        setattr(found, attribute, getattr(old, attribute))
    return found


# ---- what it did to texts -------------------------------------------------------------------------------------


def coverage(before: Json, after: Json, texts: Sequence[str]) -> dict[str, Any]:
    """What another tokenizer makes of the texts: shares unchanged, [UNK] rate, tokens per word.

    A word is what the pre-tokenizer splits off; it is unchanged when it has the same pieces. Shares are of 1; more
    tokens per word mean slower encoding and an earlier end at the model's longest length.
    """
    pair = [(engine(t), _unknown(t)) for t in (before, after)]
    same = {"texts": 0, "words": 0}
    words, tokens, unknown = 0, [0, 0], [0, 0]
    for start in range(0, len(texts), 256):
        part = list(texts[start : start + 256])
        for both in zip(*(reader.encode_batch(part, add_special_tokens=False) for reader, _ in pair), strict=True):
            for side, encoding in enumerate(both):
                tokens[side] += len(encoding.ids)
                unknown[side] += encoding.ids.count(pair[side][1])
            spelled = [_words(encoding, pair[side][1]) for side, encoding in enumerate(both)]
            words += len(spelled[0])
            same["words"] += sum(spelled[1].get(k) == pieces for k, pieces in spelled[0].items())
            same["texts"] += spelled[0] == spelled[1]
    return {
        "texts": len(texts),
        "texts_unchanged": same["texts"] / max(len(texts), 1),
        "words_unchanged": same["words"] / max(words, 1),
        "unk_rate": {k: n / max(t, 1) for k, n, t in zip(("before", "after"), unknown, tokens, strict=True)},
        "tokens_per_word": {k: t / max(words, 1) for k, t in zip(("before", "after"), tokens, strict=True)},
    }


def _unknown(tokenizer: Json) -> int:
    model = tokenizer["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return ids_of(tokenizer).get(str(model.get("unk_token")), -1)


def _words(encoding: Any, unknown: int) -> dict[int, list[str]]:
    """Word -> its pieces; an unknown piece counts as none, whatever it is spelled like."""
    found: dict[int, list[str]] = {}
    for word, token, i in zip(encoding.word_ids, encoding.tokens, encoding.ids, strict=True):
        found.setdefault(word, []).append("" if i == unknown else token)
    return found
