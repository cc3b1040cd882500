"""One view of every encoder: where its layers, heads, neurons, channels and token rows are, and what they cost.

    view = Anatomy(encoder)          a loaded SentenceTransformer; nothing is copied or changed
    view.layers[0], view.attention(0).out, view.feed_forward(0).out, view.shape.flops_per_token(64)

Tensors and their axes come from the table in shapes.py; what the table cannot say (which module reads the
attention's output, where the residual sum passes) stands in PARTS, one row an architecture.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from core.encoders import VECTORS, ModelInfo
from core.errors import InputError
from core.layouts import ARCHITECTURES, axes

ENCODER_TARGETS = ("tokens", "neurons", "heads", "width", "layers", "weights")  # weights last: a refit would fill zeros


@dataclass(frozen=True)
class Parts:
    """Dotted names below the backbone (`layers`, `tokens`, `bias`) and below one layer (the rest).

    A *sum* is the module whose input is residual + output of a sublayer; "" means the layer's own output.
    """

    layers: str
    tokens: str
    heads: str  # the module that splits into heads
    inputs: tuple[str, ...]  # query, key, value, or the fused one
    attention_out: str
    attention_sum: str
    up: str
    down: str
    feed_forward_sum: str
    gated: bool = False
    bias: str = ""  # a bias per head shared by all layers: the same heads must go everywhere
    tuples: bool = False  # a layer answers with a tuple


_BERT = Parts(
    "encoder.layer", "embeddings.word_embeddings", "attention.self",
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
PARTS: Mapping[str, Parts] = {
    "bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "electra": _BERT,
    "mpnet": Parts(
        "encoder.layer", "embeddings.word_embeddings", "attention.attn",
        ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        "attention.attn.o", "attention.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
        bias="encoder.relative_attention_bias", tuples=True,
    ),
    "distilbert": Parts(
        "transformer.layer", "embeddings.word_embeddings", "attention",
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
    ),
    "modernbert": Parts(
        "layers", "embeddings.tok_embeddings", "attn", ("attn.Wqkv",), "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo", "",
        gated=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """The sizes that decide what an encoder costs; heads and inner widths layer by layer."""

    kind: str
    vocabulary: int
    width: int
    head_size: int
    heads: tuple[int, ...]
    inner: tuple[int, ...]
    gated: bool
    parameters: int

    def flops_per_token(self, length: float) -> float:
        """Multiply-adds x 2 for one token of a text of `length` tokens; look-ups cost none."""
        return 2.0 * sum(
            4 * self.width * h * self.head_size + (3 if self.gated else 2) * self.width * i
            for h, i in zip(self.heads, self.inner, strict=True)
        ) + 4.0 * length * self.head_size * sum(self.heads)

    @property
    def even(self) -> bool:
        """Whether a stock config can say it: all heads of the width in every layer, one inner width."""
        whole = all(h * self.head_size == self.width for h in self.heads)
        return whole and len(set(self.inner)) <= 1

    def as_json(self) -> dict[str, Any]:
        return {"heads": list(self.heads), "inner": list(self.inner)}


@dataclass(frozen=True)
class Sublayer:
    """An output projection, and where residual + output passes (`sum` None: the layer's own output)."""

    out: Any
    sum: Any


class Anatomy:
    """A loaded encoder's parts by their function. Raises InputError for what encoder cuts are not built for."""

    def __init__(self, encoder: Any, target: str = "neurons") -> None:
        self.encoder = encoder
        first = encoder[0]
        if type(first).__name__ == "StaticEmbedding":
            check_target("static", target)
            self.kind = "static"
            return
        self.backbone = first.auto_model
        self.config = self.backbone.config
        self.kind = str(self.config.model_type)
        check_target(self.kind, target)
        self.parts = PARTS[self.kind]

    @property
    def layers(self) -> Any:
        return self.backbone.get_submodule(self.parts.layers)

    @property
    def tokens(self) -> Any:
        """The token-embedding module: rows are tokens."""
        return self.encoder[0].embedding if self.kind == "static" else self.backbone.get_submodule(self.parts.tokens)

    def attention(self, layer: int) -> Sublayer:
        """Concatenated head contexts -> residual stream."""
        block = self.layers[layer]
        return Sublayer(block.get_submodule(self.parts.attention_out), block.get_submodule(self.parts.attention_sum))

    def feed_forward(self, layer: int) -> Sublayer:
        """Neurons after their activation -> residual stream."""
        block, name = self.layers[layer], self.parts.feed_forward_sum
        return Sublayer(block.get_submodule(self.parts.down), block.get_submodule(name) if name else None)

    def norm(self, layer: int, ffn: bool) -> Any:
        """The norm that the residual sum behind a sublayer passes, or None."""
        return (self.feed_forward(layer) if ffn else self.attention(layer)).sum

    def inputs(self, layer: int) -> list[Any]:
        """The linear layers that read the stream before attention: query, key, value, or the fused one."""
        return [self.layers[layer].get_submodule(name) for name in self.parts.inputs]

    def up(self, layer: int) -> Any:
        """The linear layer that feeds the neurons (gated: value rows first, then as many gate rows)."""
        return self.layers[layer].get_submodule(self.parts.up)

    def linears(self) -> list[tuple[str, Any]]:
        """Name (below the backbone) and module of every linear layer inside the layers, in the order they run."""
        names = (*self.parts.inputs, self.parts.attention_out, self.parts.up, self.parts.down)
        return [
            (f"{self.parts.layers}.{i}.{name}", block.get_submodule(name))
            for i, block in enumerate(self.layers)
            for name in names
        ]

    def splitter(self, layer: int) -> Any:
        """The module that knows the number of heads."""
        return self.layers[layer].get_submodule(self.parts.heads)

    @property
    def shared_heads(self) -> bool:
        return bool(self.parts.bias)

    @cached_property
    def head_size(self) -> int:
        split = self.splitter(0)
        return int(getattr(split, "attention_head_size", None) or split.head_dim)

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Parameter name -> what its axes count, for the parameters that are there."""
        there = dict(self.backbone.named_parameters())
        named = axes(self.kind, self.config.to_dict() | {"hidden_size": self.config.hidden_size}, len(self.layers))
        return {n.lstrip("?"): words for n, words in named.items() if n.lstrip("?") in there}

    @property
    def shape(self) -> Shape:
        """What is there now, read from the tensors and not from the config."""
        parameters = sum(p.numel() for p in self.encoder.parameters())
        vocabulary, width = self.tokens.weight.shape
        if self.kind == "static":
            return Shape("static", int(vocabulary), int(width), 1, (), (), False, parameters)
        count = range(len(self.layers))
        heads = tuple(self.attention(i).out.in_features // self.head_size for i in count)
        inner = tuple(self.feed_forward(i).out.in_features for i in count)
        width = self.attention(0).out.out_features if len(count) else width
        return Shape(self.kind, int(vocabulary), int(width), self.head_size, heads, inner, self.parts.gated, parameters)


def check_target(kind: str, target: str) -> None:
    """Raise InputError naming what is possible for this architecture where `target` is not."""
    possible = targets(kind)
    if target in possible:
        return
    if kind == VECTORS:
        raise InputError(
            f"{target}/...: there is no encoder here that could be cut, only vectors. Cut dimensions/..., vectors/... "
            "or quantize/..., or give texts and a model"
        )
    raise InputError(
        f"{target}/... cannot cut a {kind!r} encoder; possible for it: {', '.join(possible)}. "
        f"All encoder targets work on {', '.join(sorted(PARTS))}."
    )


def targets(kind: str) -> tuple[str, ...]:
    """What can be pruned in an architecture; dimensions always."""
    own = ENCODER_TARGETS if kind in PARTS else ("tokens",) if kind == "static" else ()
    return (*own, "dimensions")


def duplicate(encoder: Any) -> Any:
    """A copy that may be cut; the shared one never is. Costs the model's parameters once more in memory."""
    return copy.deepcopy(encoder).eval()


def shape_of(model: ModelInfo) -> Shape:
    """The shape a described model has, without loading it."""
    heads = (model.heads,) * model.layers
    size = model.width // model.heads if model.heads else 1
    gated = model.architecture == "modernbert"
    return Shape(
        model.architecture, model.vocabulary, model.width, size, heads, (model.intermediate,) * model.layers, gated,
        model.parameters,
    )  # fmt: skip


def features(encoder: Any, texts: Sequence[str]) -> dict[str, Any]:
    """What the encoder's own tokenizer makes of a batch of texts: tensors by name."""
    found = encoder.preprocess(list(texts)) if hasattr(encoder, "preprocess") else encoder.tokenize(list(texts))
    return {k: v for k, v in dict(found).items() if hasattr(v, "shape")}


assert set(PARTS) == set(ARCHITECTURES)
