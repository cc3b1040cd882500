"""The rows of a vocabulary that may go, and the tokenizer of those that stay: tokenizer.json in, tokenizer.json out.

A token that is gone is spelled with shorter ones, so what stays must be able to spell every text: specials and
single characters are never dropped, and a BPE token never stays without the parts it is merged from.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

from core.errors import Fault

Json = dict[str, Any]
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SPACE = "▁"


def ids_of(tokenizer: Json) -> dict[str, int]:
    """Token -> id, added tokens included."""
    vocab = tokenizer["model"]["vocab"]
    known = dict(vocab) if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    return known | {t["content"]: t["id"] for t in tokenizer.get("added_tokens") or ()}


# ---- which rows stay ------------------------------------------------------------------------------------------


def protected(tokenizer: Json) -> set[int]:
    """Ids that must stay: added and special tokens, [UNK], and all that spells single characters.

    WordPiece: `x` and `##x`; BPE: base symbols; Unigram: `x`, `▁x` and bytes. A longer token stays too where it
    holds a character that has no row of its own. WordLevel spells nothing: its specials only.
    """
    ids, model = ids_of(tokenizer), tokenizer["model"]
    return {ids[t] for t in _alphabet(model, ids)} | _special_ids(tokenizer, ids)


def _special_ids(tokenizer: Json, ids: dict[str, int]) -> set[int]:
    model, padding = tokenizer["model"], tokenizer.get("padding")
    found = {t["id"] for t in tokenizer.get("added_tokens") or ()} | set(_post_ids(tokenizer.get("post_processor")))
    if model.get("unk_token") in ids:
        found.add(ids[model["unk_token"]])
    if model.get("unk_id") is not None:
        found.add(model["unk_id"])
    if padding and padding["pad_token"] in ids:
        found.add(ids[padding["pad_token"]])
    return found


def _alphabet(model: Json, tokens: Iterable[str]) -> set[str]:
    """The tokens that spell single characters, and those with a character which none of these spells."""
    kind = model["type"]
    if kind == "WordLevel":
        return set()
    if kind == "BPE":
        before, after = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
        return {t for t in tokens if len(t.removeprefix(before).removesuffix(after)) == 1 or _base(t)}
    if kind == "Unigram":
        single = {t for t in tokens if len(t) == 1}
        own = {t for t in tokens if len(t.removeprefix(_SPACE)) == 1 or _base(t)}
        return own | {t for t in tokens if not single.issuperset(t)}
    prefix = model.get("continuing_subword_prefix") or ""
    first, later = {t for t in tokens if len(t) == 1}, {t for t in tokens if t.startswith(prefix)}
    inner = {t.removeprefix(prefix) for t in later if len(t) == len(prefix) + 1}
    own = first | {prefix + c for c in inner}
    return own | {t for t in later if not inner.issuperset(t.removeprefix(prefix))} | {
        t for t in tokens if t and t not in later and (t[0] not in first or not inner.issuperset(t[1:]))
    }  # fmt: skip


def _base(token: str) -> bool:
    return len(token) == 1 or _BYTE.fullmatch(token) is not None


def closure(tokenizer: Json, wanted: Sequence[int], count: int) -> list[int]:
    """The `count` ids that stay, sorted: the protected ones, then the first of `wanted`, each after its merge parts.

    A smaller count keeps a subset of what a larger one keeps. Tokens that no text can produce and rows that the
    tokenizer does not know go first, whatever their importance. With count < protected the protected are the answer.
    Cost: linear in the vocabulary, below a second for 30,000 tokens.
    """
    ids, kept = ids_of(tokenizer), protected(tokenizer)
    everything = kept.union(int(v) for v in wanted)
    if count >= len(everything):
        return sorted(everything)
    names = {i: t for t, i in ids.items()}
    merges, idle = Merges(tokenizer["model"]), _idle(tokenizer, ids)
    order = [v for v in dict.fromkeys(map(int, wanted)) if v in names and v not in kept]
    for v in sorted(order, key=idle.__contains__):
        for token in merges.spelled(names[v]):
            if len(kept) >= count:
                return sorted(kept)
            kept.add(ids[token])
    return sorted(kept)


def _idle(tokenizer: Json, ids: dict[str, int]) -> set[int]:
    """Tokens that no text can produce, as [unused7] in BERT or a BPE token without a merge."""
    model = tokenizer["model"]
    if model["type"] == "BPE":
        made = Merges(model).producers
        return set() if model.get("ignore_merges") else {i for t, i in ids.items() if t not in made}
    if model["type"] == "Unigram":
        return set()
    prefix = model.get("continuing_subword_prefix") or "\0"
    whole = [t for t in ids if not t.startswith(prefix)]
    found = engine(tokenizer).encode_batch(whole, add_special_tokens=False)
    return {ids[t] for t, encoding in zip(whole, found, strict=True) if encoding.ids != [ids[t]]}


class Merges:
    """The merges of a BPE model, none for other models: what a token is made of when it is read in a text."""

    def __init__(self, model: Json) -> None:
        self.prefix = model.get("continuing_subword_prefix") or ""
        self.rank: dict[tuple[str, str], int] = {}
        for i, merge in enumerate(model.get("merges") or ()):
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            self.rank.setdefault((left, right), i)

    def product(self, pair: tuple[str, str]) -> str:
        return pair[0] + pair[1][len(self.prefix) :]

    @cached_property
    def producers(self) -> dict[str, list[tuple[str, str]]]:
        """Token -> the pairs it can be merged from, the first of the list first."""
        found: dict[str, list[tuple[str, str]]] = {}
        for pair in self.rank:
            found.setdefault(self.product(pair), []).append(pair)
        return found

    def parts(self, token: str) -> tuple[str, str] | tuple[()]:
        """The last merge when the token itself is read, or nothing for a base symbol."""
        pairs = self.producers.get(token, [])
        if len(pairs) < 2:
            return pairs[0] if pairs else ()
        symbols, last = list(self._leaves(token)), pairs[0]
        while len(symbols) > 1:
            rank, i = min((self.rank.get(p, len(self.rank)), i) for i, p in enumerate(pairwise(symbols)))
            if rank == len(self.rank):
                return pairs[0]
            last = symbols[i], symbols[i + 1]
            symbols[i : i + 2] = [self.product(last)]
        return last

    def _leaves(self, token: str) -> Iterator[str]:
        pairs = self.producers.get(token)
        if not pairs:
            yield token
            return
        for part in pairs[0]:
            yield from self._leaves(part)

    def spelled(self, token: str) -> Iterator[str]:
        """All that must stay for the token to stay, parts before what is merged from them; itself last."""
        for part in self.parts(token):
            yield from self.spelled(part)
        yield token


# ---- a tokenizer of these rows --------------------------------------------------------------------------------


def prune_tokenizer(tokenizer: Json, kept: Sequence[int], pad: int | None = None) -> tuple[Json, dict[int, int]]:
    """The tokenizer.json of the kept ids, and old id -> new id. The argument is left as it is.

    Ids keep their order, but for PAD, which keeps its id where the rows suffice (`pad`; by default the id that
    tokenizer.json pads with). Vocabulary, scores, merges, added tokens, post-processor and padding follow.
    Raises Fault where a protected id is missing from `kept`.
    """
    if lost := protected(tokenizer) - set(kept):
        raise Fault(f"{len(lost)} protected tokens are to be dropped, the first has id {min(lost)}: use closure()")
    new = _renumbered(tokenizer, kept, _pad_id(tokenizer) if pad is None else pad)
    out = copy.deepcopy({k: v for k, v in tokenizer.items() if k != "model"})
    model = out["model"] = dict(tokenizer["model"])
    if isinstance(model["vocab"], dict):
        own = sorted((new[i], token) for token, i in model["vocab"].items() if i in new)
        model["vocab"] = {token: i for i, token in own}
    else:
        old = sorted((i for i in new if i < len(model["vocab"])), key=new.__getitem__)
        model["vocab"] = [model["vocab"][i] for i in old]
        model["unk_id"] = new[model["unk_id"]] if model.get("unk_id") is not None else None
    if "merges" in model:
        model["merges"] = _surviving(model)
    for token in out.get("added_tokens") or ():
        token["id"] = new[token["id"]]
    _renumber_post(out.get("post_processor"), new)
    if out.get("padding"):
        out["padding"]["pad_id"] = new.get(out["padding"]["pad_id"], 0)
    return out, new


def _renumbered(tokenizer: Json, kept: Sequence[int], pad: int | None) -> dict[int, int]:
    order = sorted({int(i) for i in kept})
    vocab = tokenizer["model"]["vocab"]
    own = set(vocab.values()) if isinstance(vocab, dict) else range(len(vocab))
    if pad in order and pad in own and pad < sum(i in own for i in order):  # added tokens are numbered behind the rest
        order.remove(pad)
        order.insert(pad, pad)
    return {old: i for i, old in enumerate(order)}


def _pad_id(tokenizer: Json) -> int | None:
    if tokenizer.get("padding"):
        return int(tokenizer["padding"]["pad_id"])
    return next((t["id"] for t in tokenizer.get("added_tokens") or () if "pad" in t["content"].lower()), None)


def _surviving(model: Json) -> list[Any]:
    """The merges whose parts and product are all in the vocabulary, as they were spelled."""
    vocab, merges = model["vocab"], Merges(model)
    kept = {p for p in merges.rank if p[0] in vocab and p[1] in vocab and merges.product(p) in vocab}
    return [m for m in model["merges"] if tuple(m.split(" ") if isinstance(m, str) else m) in kept]


def _processors(post: Json | None) -> Iterator[Json]:
    """The post-processor, or those of a Sequence."""
    if post and post["type"] == "Sequence":
        for one in post["processors"]:
            yield from _processors(one)
    elif post:
        yield post


def _post_ids(post: Json | None) -> Iterator[int]:
    for one in _processors(post):
        yield from (one[key][1] for key in ("sep", "cls") if key in one)
        for special in (one.get("special_tokens") or {}).values():
            yield from special["ids"]


def _renumber_post(post: Json | None, new: dict[int, int]) -> None:
    for one in _processors(post):
        for key in {"sep", "cls"} & one.keys():
            one[key][1] = new[one[key][1]]
        for special in (one.get("special_tokens") or {}).values():
            special["ids"] = [new[i] for i in special["ids"]]


def engine(tokenizer: Json, keep_truncation: bool = False) -> Any:
    """The official tokenizer of a tokenizer.json, without padding."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(json.dumps(tokenizer))
    found.no_padding()
    if not keep_truncation:
        found.no_truncation()
    return found
