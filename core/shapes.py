"""What a model folder declares, held against what its weight files hold, before any library constructs it.

One table per architecture (layouts.py) says which tensors there are and how their shapes follow from config.json;
a chain of widths runs from the encoder through Pooling, Dense and LayerNorm. 20,000 declared layers never reach a
constructor, and a missing tensor is named instead of being filled with random numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import ModelRefused
from core.layouts import ARCHITECTURES, axes, times
from core.weights import Tensor, compare, read_object, strict_json, tensors_of

Shape = tuple[int, ...]
INPUTS = ("Transformer", "StaticEmbedding")
_TYPE = re.compile(
    r"sentence_transformers\.(models|(base|sentence_transformer)\.modules)"
    r"(\.(transformer|pooling|dense|normalize|layer_norm|static_embedding))?\."
    r"(?P<kind>Transformer|Pooling|Dense|Normalize|LayerNorm|StaticEmbedding)"
)
LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

_ALIASES = {"num_hidden_layers": "n_layers", "hidden_size": "dim", "intermediate_size": "hidden_dim",
            "num_attention_heads": "n_heads"}  # fmt: skip
_SPARE = re.compile(
    r"(pooler|cls|lm_head|head|decoder|vocab_(transform|layer_norm|projector)|discriminator_predictions"
    r"|generator_predictions|generator_lm_head)\.|embeddings\.(position_ids|token_type_ids)$"
)
_LAYER = re.compile(r"(?:^|[._])(?:layers?|h|blocks?)\.(\d+)\.")


def check_config(folder: Path) -> None:
    """Everything modules.json and the config.json files declare is what the weights hold.

    Raises ModelRefused naming the tensors, the declared value and the file.
    """
    width = 0
    for kind, path in modules_of(folder):
        width = _CHECKS[kind](folder / path, path or "the model", width)


def modules_of(folder: Path) -> list[tuple[str, str]]:
    """(kind, subfolder) of each module in order; a folder without modules.json is one Transformer.

    Raises ModelRefused for a class that is not on the short list, a path that is no bare name, a wrong order.
    """
    if not (folder / "modules.json").is_file():
        return [("Transformer", "")]
    entries = strict_json((folder / "modules.json").read_bytes(), "modules.json")
    found: list[tuple[str, str]] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        kind, path = (str(entry.get("type")), entry.get("path", "")) if isinstance(entry, dict) else (str(entry), "")
        match = _TYPE.fullmatch(kind)
        if not match:
            raise ModelRefused(
                f"modules.json names the class {kind[:120]!r}: only sentence_transformers' own Transformer, Pooling, "
                "Dense, Normalize, LayerNorm and StaticEmbedding are loaded. Save the model with those."
            )
        if not isinstance(path, str) or not re.fullmatch(r"(\w[\w.-]*)?", path, re.ASCII):
            raise ModelRefused(
                f"modules.json gives the path {path!r}: only a bare folder name is taken. Save it again."
            )
        found.append((match["kind"], path))
    kinds = [kind for kind, _ in found]
    if not kinds or kinds[0] not in INPUTS or any(kind in INPUTS for kind in kinds[1:]):
        raise ModelRefused(
            f"modules.json lists {kinds}: exactly one of {' or '.join(INPUTS)}, in first place, is wanted."
        )
    if (kinds[0] == "Transformer") != (kinds[1:2] == ["Pooling"]) or kinds.count("Pooling") > 1:
        raise ModelRefused(f"modules.json lists {kinds}: a Transformer is followed by one Pooling, nothing else is.")
    if len({path.casefold() for _, path in found}) < len(found):
        raise ModelRefused("modules.json gives two modules the same path. Save the model again.")
    return found


def declared(config: dict[str, Any], key: str, where: str, default: int | None = None) -> int:
    """A size that config.json declares, under its usual name or DistilBERT's. Raises ModelRefused."""
    names = [n for n in (key, _ALIASES.get(key, key)) if n in config]
    values = {str(config[n]): config[n] for n in names} or {"": default}
    value = next(iter(values.values()))
    if len(values) > 1 or type(value) is not int or not 1 <= value < 2**31:
        said = " and ".join(f"{n}={config[n]!r}" for n in names) or f"no {key}"
        raise ModelRefused(
            f"{where}: config.json declares {said[:200]}: one whole number from 1 on is wanted. Correct it."
        )
    return value


def _transformer(folder: Path, where: str, _: int) -> int:
    config = read_object(folder / "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ModelRefused(f"{where}: config.json has no model_type. Save the model with transformers and try again.")
    found = tensors_of(folder)
    hidden, layers = declared(config, "hidden_size", where), declared(config, "num_hidden_layers", where)
    vocab = declared(config, "vocab_size", where)
    if kind in ARCHITECTURES:
        found = _bare(found, ARCHITECTURES[kind][1], where)
        wanted = _wanted(kind, config, where, min(layers, 1 + _layers(found)))
        at = f"{where} ({kind}, {layers:,} layers declared, {_layers(found):,} found)"
        compare(at, found, wanted, _SPARE.match)
    else:
        _generic(config, found, where)
    check_tokenizer(folder, vocab)
    return hidden


def _layers(found: dict[str, Tensor]) -> int:
    return len({match[1] for name in found if (match := _LAYER.search(name))})


def _bare(found: dict[str, Tensor], prefix: str, where: str) -> dict[str, Tensor]:
    """The tensors under the names of the bare model: no head's prefix, no TensorFlow names of LayerNorm."""
    out: dict[str, Tensor] = {}
    for name, tensor in found.items():
        bare = re.sub(
            r"LayerNorm\.(gamma|beta)$", lambda m: "LayerNorm." + {"gamma": "weight", "beta": "bias"}[m[1]], name
        )
        bare = bare.removeprefix(prefix)
        if bare in out:
            raise ModelRefused(f"{where}: {bare} stands twice, once with {prefix!r} before it. Save the model again.")
        out[bare] = tensor
    return out


def _wanted(kind: str, config: dict[str, Any], where: str, layers: int) -> dict[str, Shape]:
    """Tensor name -> shape, from the architecture's table and the sizes that config.json declares."""
    hidden, inner = declared(config, "hidden_size", where), declared(config, "intermediate_size", where)
    embed = declared(config, "embedding_size", where, 128) if kind == "electra" else hidden
    size = {
        "vocab": declared(config, "vocab_size", where), "positions": declared(config, "max_position_embeddings", where),
        "types": declared(config, "type_vocab_size", where, 2), "heads": declared(config, "num_attention_heads", where),
        "buckets": declared(config, "relative_attention_num_buckets", where, 32), "embed": embed, "hidden": hidden,
        "inner": inner, "attend": hidden,
    }  # fmt: skip
    if hidden % size["heads"]:
        raise ModelRefused(
            f"{where}: config.json: hidden_size {hidden} is no multiple of {size['heads']} heads. Correct it."
        )
    named = axes(kind, config, layers)
    return {name: tuple(times(word) * size[word.lstrip("23")] for word in words) for name, words in named.items()}


def _generic(config: dict[str, Any], found: dict[str, Tensor], where: str) -> None:
    """What can be said of an architecture without a table: layers, embedding table, widths, float weights."""
    kind, layers = config["model_type"], declared(config, "num_hidden_layers", where)
    if _layers(found) != layers:
        names = sorted({name[: match.end(1)] for name in found if (match := _LAYER.search(name))})
        raise ModelRefused(
            f"{where} ({str(kind)[:40]}): config.json declares {layers:,} layers, the weights hold {_layers(found):,} "
            f"({', '.join(names[:3] + names[-1:])[:200]}). Save the model and its config again."
        )
    tables = {name: t for name, t in found.items() if len(t.shape) == 2 and "embed" in name}
    name, table = max(tables.items(), key=lambda item: item[1].shape[0] * item[1].shape[1], default=("none", None))
    rows = declared(config, "vocab_size", where)
    width = declared(config, "embedding_size" if "embedding_size" in config else "hidden_size", where)
    if table is None or table.shape != (rows, width):
        shape = list(table.shape) if table else "no table"
        raise ModelRefused(
            f"{where}: config.json declares {rows:,} x {width:,} embeddings, {name} is {shape}. Save it again."
        )
    sizes = {n for t in found.values() for n in t.shape}
    for key in ("hidden_size", "intermediate_size"):
        if key in config and not {declared(config, key, where) * n for n in (1, 2)} & sizes:
            raise ModelRefused(
                f"{where}: config.json declares {key}={config[key]}, no tensor is that wide. Correct it."
            )
    compare(
        where, found, {n: t.shape for n, t in found.items() if not n.endswith(("_ids", "inv_freq"))}, lambda _: True
    )


def check_tokenizer(folder: Path, rows: int) -> None:
    """A tokenizer is there, has a vocabulary, and none of its ids lies beyond the table's `rows`."""
    try:
        ids = _token_ids(folder)
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise ModelRefused(f"the tokenizer files hold no vocabulary ({e!r}). Save the tokenizer again.") from e
    if len(ids) < 2:
        raise ModelRefused(
            f"the tokenizer has {len(ids)} tokens, so that every text would be [UNK]. Add its tokenizer.json: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder) writes one."
        )
    if max(ids) >= rows or min(ids) < 0:
        raise ModelRefused(
            f"the tokenizer's ids run to {max(ids):,}, the embedding table has {rows:,} rows. Add the right one."
        )


def _token_ids(folder: Path) -> list[int]:
    """The ids of tokenizer.json, else of vocab.json + merges.txt, else of vocab.txt, else none."""
    if (folder / "tokenizer.json").is_file():
        vocabulary = read_object(folder / "tokenizer.json")["model"]["vocab"]
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocabulary = read_object(folder / "vocab.json")
    elif (folder / "vocab.txt").is_file():
        vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    else:
        vocabulary = []
    return list(map(int, vocabulary.values())) if isinstance(vocabulary, dict) else list(range(len(vocabulary)))


def _static(folder: Path, where: str, _: int) -> int:
    found = tensors_of(folder)
    name = "embedding.weight" if "embedding.weight" in found else "embeddings"
    shape = found[name].shape if name in found and len(found[name].shape) == 2 else (0, 0)
    rows = found["mapping"].shape[0] if "mapping" in found and found["mapping"].shape else shape[0]
    compare(where, found, {name: shape, "?weights": (rows,)}, lambda spare: spare == "mapping")
    check_tokenizer(folder, rows)
    return shape[1]


def _pooling(folder: Path, where: str, width: int) -> int:
    config = read_object(folder / "config.json")
    key = "embedding_dimension" if "embedding_dimension" in config else "word_embedding_dimension"
    _same(where, key, declared(config, key, where), width)
    modes = config.get("pooling_mode", [mode for key, mode in LEGACY_POOLING.items() if config.get(key)] or "mean")
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or not all(mode in LEGACY_POOLING.values() for mode in modes):
        raise ModelRefused(
            f"{where}: pooling_mode={modes!r} is none of {', '.join(LEGACY_POOLING.values())}. Choose one."
        )
    return width * len(modes)


def _dense(folder: Path, where: str, width: int) -> int:
    config = read_object(folder / "config.json")
    inside, outside = declared(config, "in_features", where), declared(config, "out_features", where)
    _same(where, "in_features", inside, width)
    wanted: dict[str, Shape] = {"linear.weight": (outside, inside)}
    if config.get("bias", True):
        wanted["linear.bias"] = (outside,)
    if config.get("use_residual") and inside != outside:
        wanted["residual.weight"] = (outside, inside)
    compare(where, tensors_of(folder), wanted)
    return outside


def _layer_norm(folder: Path, where: str, width: int) -> int:
    _same(where, "dimension", declared(read_object(folder / "config.json"), "dimension", where), width)
    compare(where, tensors_of(folder), {"norm.weight": (width,), "norm.bias": (width,)})
    return width


def _same(where: str, key: str, value: int, width: int) -> None:
    if value != width:
        raise ModelRefused(
            f"{where}: config.json declares {key}={value}, the module before it gives {width}. Correct it."
        )


def _normalize(folder: Path, where: str, width: int) -> int:
    return width


_CHECKS: dict[str, Callable[[Path, str, int], int]] = {
    "Transformer": _transformer, "StaticEmbedding": _static, "Pooling": _pooling, "Dense": _dense,
    "LayerNorm": _layer_norm, "Normalize": _normalize,
}  # fmt: skip
