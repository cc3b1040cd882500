"""What of a foreign model's files goes into the clean copy: allow-listed names, known JSON keys, nothing else.

Every JSON file is parsed and written anew; keys that could name code, paths or other models are not on the lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from core.errors import ModelRefused
from core.layouts import ARCHITECTURES
from core.shapes import LEGACY_POOLING, modules_of
from core.weights import INDEX, WEIGHTS, read_object, shard_names

PICKLES = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".h5",
    ".gguf",
    ".npy",
    ".npz",
    ".msgpack",
    ".onnx",
)
CONVERT = (
    'convert it offline with: python -c "from sentence_transformers import SentenceTransformer as S; '
    "S('OLD').save('NEW')\" on a machine you can lose, then bring NEW"
)
Files = dict[str, bytes | Path]  # path in the clean copy -> what it will hold


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# config.json: what the seven known architectures read ...
_CONFIG = _words("""
architectures model_type dtype torch_dtype tokenizer_class is_decoder tie_word_embeddings activation
attention_bias attention_dropout attention_probs_dropout_prob bos_token_id cls_token_id dim dropout embedding_dropout
embedding_size eos_token_id global_attn_every_n_layers global_rope_theta hidden_act hidden_activation hidden_dim
hidden_dropout_prob hidden_size initializer_cutoff_factor initializer_range intermediate_size layer_norm_eps
layer_types local_attention local_rope_theta max_position_embeddings mlp_bias mlp_dropout n_heads n_layers norm_bias
norm_eps num_attention_heads num_hidden_layers pad_token_id position_embedding_type relative_attention_num_buckets
rope_parameters rope_scaling sep_token_id sinusoidal_pos_embds type_vocab_size vocab_size
""")
# ... what others need besides (their unknown keys are refused: dropping one could change the model)
_CONFIG_OTHERS = _CONFIG | _words("""
attn_logit_softcapping conv_kernel_size head_dim head_ratio inner_group_num is_causal legacy mask_token_id
max_relative_positions max_window_layers num_groups num_hidden_groups num_key_value_heads partial_rotary_factor
pooler_dropout pooler_hidden_act pooler_hidden_size pos_att_type position_biased_input position_buckets norm_rel_ebd
share_att_key query_pre_attn_scalar relative_attention rms_norm_eps rope_theta rotary_value sliding_window
task_type_vocab_size use_bidirectional_attention use_sliding_window use_task_id
""")
# ... and what never changes an embedding
_CONFIG_IDLE = _words("""
_name_or_path add_cross_attention attn_implementation _attn_implementation chunk_size_feed_forward
classifier_activation classifier_bias classifier_dropout classifier_dropout_prob classifier_pooling decoder_bias
deterministic_flash_attn final_logit_softcapping finetuning_task gradient_checkpointing id2label is_encoder_decoder
label2id output_attentions output_hidden_states output_past pretraining_tp problem_type qa_dropout
quantization_config reference_compile return_dict seq_classif_dropout sparse_pred_ignore_index sparse_prediction
summary_activation summary_last_dropout summary_type summary_use_proj transformers_version use_cache
""")
_SPECIAL = _words("""
additional_special_tokens bos_token cls_token eos_token extra_special_tokens mask_token pad_token sep_token unk_token
""")
_TOKENIZER_CONFIG = _SPECIAL | _words("""
add_bos_token add_eos_token add_prefix_space added_tokens_decoder clean_up_tokenization_spaces do_basic_tokenize
do_lower_case legacy max_length model_input_names model_max_length never_split pad_to_multiple_of pad_token_type_id
padding_side split_special_tokens stride strip_accents tokenize_chinese_chars tokenizer_class trim_offsets
truncation_side truncation_strategy
""")
_TOKENIZER = _words("version truncation padding added_tokens normalizer pre_tokenizer post_processor decoder model")
_SENTENCE = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_TOKENIZER_FILES: dict[str, Collection[str]] = {
    "tokenizer.json": _TOKENIZER, "tokenizer_config.json": _TOKENIZER_CONFIG, "special_tokens_map.json": _SPECIAL,
    "added_tokens.json": (), "vocab.json": (),
}  # fmt: skip
_FLOW = ("module_input_name", "module_output_name")
_ACTIVATIONS = {"torch.nn.modules.linear.Identity"} | {
    f"torch.nn.modules.activation.{name}"
    for name in ("Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "LeakyReLU", "ELU", "Mish")
}


def clean_files(source: Path, said: list[str]) -> Files:
    """Every file of the clean copy of `source`; `said` collects what was dropped or added, in sentences.

    Raises ModelRefused for classes, code, activations or weight formats that are not taken.
    """
    modules = modules_of(source)
    files: Files = {}
    for kind, path in modules:
        for name, content in _CLEAN[kind](source / path, said).items():
            files[f"{path}/{name}" if path else name] = content
    if not (source / "modules.json").is_file():
        modules.append(("Pooling", "1_Pooling"))
        files["1_Pooling/config.json"] = _default_pooling(source, said)
    if (source / "config_sentence_transformers.json").is_file():
        files["config_sentence_transformers.json"] = _sentence_transformers(source)
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    return files | {"modules.json": _dump(listed)}


def _dump(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


def _known(path: Path, keys: Collection[str], said: list[str]) -> dict[str, Any]:
    """The file's known keys. Raises ModelRefused for auto_map, which asks for code of the model's own."""
    data = read_object(path)
    if "auto_map" in data:
        raise ModelRefused(
            f"{path.name} asks for code of its own (auto_map: {str(data['auto_map'])[:120]}), which is never run here. "
            "Use a stock architecture, or remove auto_map if it is one."
        )
    if dropped := sorted(data.keys() - set(keys)):
        said.append(f"{path.name}: dropped {', '.join(k[:60] for k in dropped[:20])}")
    return {key: value for key, value in data.items() if key in keys}


def _weights(here: Path) -> Files:
    """model.safetensors, or an index and its shards. Raises ModelRefused where weights exist in other forms only."""
    if (here / WEIGHTS).is_file():
        return {WEIGHTS: here / WEIGHTS}
    if (here / INDEX).is_file():
        where = shard_names(here)
        shards: Files = {file: here / file for file in sorted(set(where.values()))}
        return shards | {INDEX: _dump({"metadata": {}, "weight_map": where})}
    names = sorted(p.name for p in here.iterdir()) if here.is_dir() else []
    if kinds := [name for name in names if name.lower().endswith(PICKLES)]:
        raise ModelRefused(f"{here.name} has its weights only as {', '.join(kinds[:5])}, never opened here: {CONVERT}.")
    raise ModelRefused(f"{here.name} has no {WEIGHTS} (it holds {', '.join(names[:8]) or 'nothing'}). Add the weights.")


def _transformer(here: Path, said: list[str]) -> Files:
    data = read_object(here / "config.json")
    kind = str(data.get("model_type"))
    keys = _CONFIG if kind in ARCHITECTURES else _CONFIG_OTHERS
    strange = [k for k in data if k not in keys | _CONFIG_IDLE | {"auto_map"} and not k.endswith(("_args", "_kwargs"))]
    if kind not in ARCHITECTURES and strange:
        raise ModelRefused(
            f"config.json of {kind[:40]!r} holds {', '.join(strange)[:200]}, which we do not know and dare not drop. "
            f"Use one of {', '.join(ARCHITECTURES)}, or remove the key if it has no effect."
        )
    config = _known(here / "config.json", keys, said)
    _check_names(config, ("tokenizer_class", "model_type", "dtype", "torch_dtype"), pattern=r"[A-Za-z][\w-]*")
    files = _weights(here) | _tokenizer(here, said) | {"config.json": _dump(config)}
    for name in (f"sentence_{stem}_config.json" for stem in _SENTENCE):
        if (here / name).is_file():
            return files | {"sentence_bert_config.json": _dump(_sentence(here / name, said))}
    return files


def _check_names(data: dict[str, Any], keys: Collection[str], pattern: str = r"[A-Za-z]\w*") -> None:
    for key in keys:
        if (value := data.get(key)) is not None and not re.fullmatch(pattern, str(value), re.ASCII):
            raise ModelRefused(f"{key}={str(value)[:120]!r} is no plain name. Correct it and try again.")


def _sentence(path: Path, said: list[str]) -> dict[str, Any]:
    """max_seq_length and do_lower_case; the rest must be what a text encoder has by default."""
    config = _known(
        path, ("max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"), said
    )
    task, modality = config.pop("transformer_task", None), config.pop("modality_config", None)
    output = config.pop("module_output_name", None)
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    usual = task in (None, "feature-extraction") and output in (None, "token_embeddings")
    if not usual or not (modality is None or (isinstance(modality, dict) and modality.get("text") == text)):
        raise ModelRefused(
            f"{path.name} asks for task={task!r}, modality_config={str(modality)[:120]}, output={output!r}: only "
            "plain text encoders (feature-extraction, token_embeddings) are taken. Save the model as one."
        )
    length = config.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise ModelRefused(f"{path.name}: max_seq_length={length!r}; a whole number from 1 on is wanted. Correct it.")
    return config


def _tokenizer(here: Path, said: list[str]) -> Files:
    """The tokenizer's files: JSON with known keys, vocabularies as plain text."""
    files: Files = {}
    for name, keys in _TOKENIZER_FILES.items():
        if (here / name).is_file():
            data = _known(here / name, keys, said) if keys else read_object(here / name)
            _check_names(data, ("tokenizer_class",) if name == "tokenizer_config.json" else ())
            if not keys and not all(type(value) is int for value in data.values()):
                raise ModelRefused(f"{name} must map tokens to whole numbers. Save the tokenizer again.")
            files[name] = _dump(data)
    for name in ("vocab.txt", "merges.txt"):
        if (here / name).is_file():
            files[name] = _text(here / name)
    if not {"tokenizer.json", "vocab.json", "vocab.txt"} & files.keys():
        raise ModelRefused(
            f"{here.name} has no tokenizer.json (nor vocab.txt, nor vocab.json with merges.txt): every text would be "
            "[UNK]. Add it: AutoTokenizer.from_pretrained(...).save_pretrained(folder) writes one."
        )
    return files


def _text(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ModelRefused(f"{path.name} is no UTF-8 text (byte {e.start:,}). Save the tokenizer again.") from e
    return data


def _static(here: Path, said: list[str]) -> Files:
    return _weights(here) | {"tokenizer.json": _dump(_known(here / "tokenizer.json", _TOKENIZER, said))}


def _pooling(here: Path, said: list[str]) -> Files:
    keys = ("embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *LEGACY_POOLING)
    return {"config.json": _dump(_known(here / "config.json", keys, said))}


def _dense(here: Path, said: list[str]) -> Files:
    keys = ("in_features", "out_features", "bias", "activation_function", "use_residual", *_FLOW)
    config = _flow(_known(here / "config.json", keys, said))
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS:
        raise ModelRefused(
            f"{here.name} asks for the activation {str(activation)[:120]!r}; known are "
            f"{', '.join(sorted(_ACTIVATIONS))}. Save the module with one of them."
        )
    return _weights(here) | {"config.json": _dump(config)}


def _layer_norm(here: Path, said: list[str]) -> Files:
    return _weights(here) | {"config.json": _dump(_known(here / "config.json", ("dimension",), said))}


def _normalize(here: Path, said: list[str]) -> Files:
    """Before sentence-transformers 6 the folder was empty, and an empty folder does not survive every zip."""
    path = here / "config.json"
    return {"config.json": _dump(_flow(_known(path, _FLOW, said)) if path.is_file() else {})}


def _flow(config: dict[str, Any]) -> dict[str, Any]:
    for key in _FLOW:
        if config.get(key) not in (None, "sentence_embedding"):
            raise ModelRefused(
                f"{key}={str(config[key])[:80]!r}; only sentence_embedding is taken. Save the module again."
            )
    return config


def _default_pooling(source: Path, said: list[str]) -> bytes:
    """What sentence-transformers adds to a bare transformer: mean pooling, the last token for a causal model."""
    config = read_object(source / "config.json")
    names = config.get("architectures")
    causal = isinstance(names, list) and bool(names) and str(names[0]).endswith("ForCausalLM")
    mode = "lasttoken" if causal and config.get("is_causal", True) else "mean"
    said.append(f"no modules.json: {mode} pooling was added, as sentence-transformers does")
    width = config.get("hidden_size", config.get("dim"))
    return _dump({"embedding_dimension": width, "pooling_mode": mode, "include_prompt": True})


def _sentence_transformers(source: Path) -> bytes:
    """Prompts, similarity and truncation; a model of another kind (sparse, cross-encoder) is refused."""
    name = "config_sentence_transformers.json"
    data = _known(
        source / name, ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim", "model_type"), []
    )
    prompts, default, dim = data.get("prompts") or {}, data.get("default_prompt_name"), data.get("truncate_dim")
    faults = {
        "model_type": data.setdefault("model_type", "SentenceTransformer") != "SentenceTransformer",
        "similarity_fn_name": data.get("similarity_fn_name") not in (None, "cosine", "dot", "euclidean", "manhattan"),
        "prompts": not isinstance(prompts, dict) or not all(isinstance(v, str) for v in prompts.values()),
        "default_prompt_name": default is not None and default not in prompts,
        "truncate_dim": dim is not None and (type(dim) is not int or dim < 1),
    }
    for key, wrong in faults.items():
        if wrong:
            raise ModelRefused(
                f"{name}: {key}={str(data.get(key))[:120]!r} cannot be used here. Correct it and try again."
            )
    return _dump(data)


_CLEAN: dict[str, Callable[[Path, list[str]], Files]] = {
    "Transformer": _transformer, "StaticEmbedding": _static, "Pooling": _pooling, "Dense": _dense,
    "LayerNorm": _layer_norm, "Normalize": _normalize,
}  # fmt: skip
