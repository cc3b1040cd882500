"""The tensors of every architecture Espalier knows, and what each of their axes counts.

The gate holds a model's files against these tables; surgery reads here along which axes a unit has to go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# name, then its shape in words; a name without .weight/.bias stands for both; {a,b} = one of each; `*` = every
# layer, `+` = all but the first; `?` = may be absent; `if=key` = only where config.json says so
_BERT = """
embeddings.word_embeddings.weight vocab embed
embeddings.position_embeddings.weight positions embed
embeddings.token_type_embeddings.weight types embed
embeddings.LayerNorm embed
encoder.layer.*.attention.self.{query,key,value} attend hidden
encoder.layer.*.attention.output.dense hidden attend
encoder.layer.*.attention.output.LayerNorm hidden
encoder.layer.*.intermediate.dense inner hidden
encoder.layer.*.output.dense hidden inner
encoder.layer.*.output.LayerNorm hidden
?pooler.dense hidden hidden
"""
_MPNET = """
embeddings.word_embeddings.weight vocab hidden
embeddings.position_embeddings.weight positions hidden
embeddings.LayerNorm hidden
encoder.relative_attention_bias.weight buckets heads
encoder.layer.*.attention.attn.{q,k,v} attend hidden
encoder.layer.*.attention.attn.o hidden attend
encoder.layer.*.attention.LayerNorm hidden
encoder.layer.*.intermediate.dense inner hidden
encoder.layer.*.output.dense hidden inner
encoder.layer.*.output.LayerNorm hidden
?pooler.dense hidden hidden
"""
_DISTILBERT = """
embeddings.word_embeddings.weight vocab hidden
embeddings.position_embeddings.weight positions hidden
embeddings.LayerNorm hidden
transformer.layer.*.attention.{q_lin,k_lin,v_lin} attend hidden
transformer.layer.*.attention.out_lin hidden attend
transformer.layer.*.sa_layer_norm hidden
transformer.layer.*.ffn.lin1 inner hidden
transformer.layer.*.ffn.lin2 hidden inner
transformer.layer.*.output_layer_norm hidden
"""
_MODERNBERT = """
embeddings.tok_embeddings.weight vocab hidden
embeddings.norm.weight hidden
embeddings.norm.bias hidden if=norm_bias
layers.+.attn_norm.weight hidden
layers.+.attn_norm.bias hidden if=norm_bias
layers.*.attn.Wqkv.weight 3attend hidden
layers.*.attn.Wqkv.bias 3attend if=attention_bias
layers.*.attn.Wo.weight hidden attend
layers.*.attn.Wo.bias hidden if=attention_bias
layers.*.mlp_norm.weight hidden
layers.*.mlp_norm.bias hidden if=norm_bias
layers.*.mlp.Wi.weight 2inner hidden
layers.*.mlp.Wi.bias 2inner if=mlp_bias
layers.*.mlp.Wo.weight hidden inner
layers.*.mlp.Wo.bias hidden if=mlp_bias
final_norm.weight hidden
final_norm.bias hidden if=norm_bias
"""
# model type -> (table, prefix that a model saved with a head puts before every name)
ARCHITECTURES = {
    "bert": (_BERT, "bert."),
    "roberta": (_BERT, "roberta."),
    "xlm-roberta": (_BERT, "roberta."),
    "electra": (_BERT + "embeddings_project hidden embed if=projected", "electra."),
    "mpnet": (_MPNET, "mpnet."),
    "distilbert": (_DISTILBERT, "distilbert."),
    "modernbert": (_MODERNBERT, "model."),
}


def times(word: str) -> int:
    """How often a table's word stands along its axis: 3 for the fused `3attend`, 2 for `2inner`, else 1."""
    return int(word[0]) if word[0].isdigit() else 1


def axes(kind: str, config: Mapping[str, Any], layers: int) -> dict[str, tuple[str, ...]]:
    """Tensor name -> what each of its axes counts (vocab, hidden, attend = heads x head size, inner ...).

    A name that begins with `?` may be absent. Surgery reads here along which axes a unit has to go.
    """
    projected = kind == "electra" and config.get("embedding_size", 128) != config["hidden_size"]
    found: dict[str, tuple[str, ...]] = {}
    for line in ARCHITECTURES[kind][0].strip().splitlines():
        name, *words = line.split()
        if words[-1].startswith("if="):
            if not (projected if words[-1] == "if=projected" else config.get(words[-1][3:])):
                continue
            words.pop()
        start, _, rest = name.partition("{")
        names = [start + one for one in rest.removesuffix("}").split(",")]
        ends = {"": words} if name.endswith((".weight", ".bias")) else {".weight": words, ".bias": words[:1]}
        for i in range("+" in name, layers) if re.search(r"[*+]", name) else range(1):
            found |= {re.sub(r"[*+]", str(i), n) + end: tuple(its) for n in names for end, its in ends.items()}
    return found
