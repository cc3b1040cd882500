"""Tiny random-weight models of every architecture Espalier knows, built offline in well under a second each.

`tiny_model("bert", folder)` saves a SentenceTransformer as sentence-transformers 6 does and returns the folder.
The weights are seeded, so the same call gives the same vectors; the numbers mean nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "electra", "modernbert")
WORDS = ("a", "the", "cat", "dog", "bird", "sat", "ran", "flew", "on", "under", "over", "mat", "tree", "river", "red")
WIDTH, LAYERS, HEADS, HIDDEN, POSITIONS = 32, 2, 4, 64, 40


def tiny_tokenizer() -> Any:
    """A word-level tokenizer with <s>=0 <pad>=1 </s>=2 [UNK]=3 [MASK]=4, as the RoBERTa family expects."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["<s>", "<pad>", "</s>", "[UNK]", "[MASK]"]
    letters = [chr(c) for c in range(ord("b"), ord("z") + 1)]
    vocabulary = {word: i for i, word in enumerate([*specials, *WORDS, *letters])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", pad_token="<pad>", cls_token="<s>", sep_token="</s>",
        mask_token="[MASK]", bos_token="<s>", eos_token="</s>", model_max_length=POSITIONS - 8,
    )  # fmt: skip


def tiny_backbone(architecture: str, vocabulary: int, layers: int = LAYERS) -> Any:
    """The bare transformer of one architecture, random weights, in eval mode."""
    import transformers

    shape = {"hidden_size": WIDTH, "num_hidden_layers": layers, "num_attention_heads": HEADS}
    shape["intermediate_size"] = HIDDEN
    common = {"vocab_size": vocabulary, "max_position_embeddings": POSITIONS, "pad_token_id": 1}
    specials = {"cls_token_id": 0, "bos_token_id": 0, "sep_token_id": 2, "eos_token_id": 2}
    prefix, own = {
        "bert": ("Bert", shape),
        "roberta": ("Roberta", shape | {"type_vocab_size": 1}),
        "xlm-roberta": ("XLMRoberta", shape | {"type_vocab_size": 1}),
        "distilbert": ("DistilBert", {"dim": WIDTH, "n_layers": layers, "n_heads": HEADS, "hidden_dim": HIDDEN}),
        "mpnet": ("MPNet", shape),
        "electra": ("Electra", shape | {"embedding_size": WIDTH // 2}),
        "modernbert": ("ModernBert", shape | specials),
    }[architecture]
    config = getattr(transformers, f"{prefix}Config")(**common, **own)
    return getattr(transformers, f"{prefix}Model")(config).eval()


def _enliven(backbone: Any) -> None:
    """Larger weights, and biases and gains that are not all 0 and 1: attention that looks, neurons that differ."""
    import torch

    with torch.no_grad():
        for p in backbone.parameters():
            p.mul_(5.0) if p.dim() > 1 else p.add_(0.2 * torch.randn(p.shape))


def tiny_model(
    architecture: str, folder: Path, *, extras: bool = False, layers: int = LAYERS, lively: bool = False
) -> Path:
    """Save a tiny SentenceTransformer of `architecture` (one of ARCHITECTURES, or "static") into `folder`.

    `extras` appends LayerNorm and Dense(16, Identity) before Normalize, and gives the model prompts; `lively`
    weights are not the small ones of an untrained model, so that every part of it matters.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as modules

    torch.manual_seed(7)
    tokenizer = tiny_tokenizer()
    if architecture == "static":
        stages: list[Any] = [modules.StaticEmbedding(tokenizer, embedding_dim=WIDTH)]
    else:
        with tempfile.TemporaryDirectory() as bare:
            backbone = tiny_backbone(architecture, len(tokenizer), layers)
            if lively:
                _enliven(backbone)
            backbone.save_pretrained(bare)
            tokenizer.save_pretrained(bare)
            stages = [modules.Transformer(bare), modules.Pooling(WIDTH)]
    if extras:
        stages += [modules.LayerNorm(WIDTH), modules.Dense(WIDTH, 16, activation_function=torch.nn.Identity())]
    prompts = {"query": "the ", "document": ""} if extras else None
    model = SentenceTransformer(modules=[*stages, modules.Normalize()], prompts=prompts, device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder
