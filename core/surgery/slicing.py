"""The cuts themselves: select along the axes that the shape table names, and keep every declared size true.

Each verb changes the encoder it is given (a copy: `anatomy.duplicate`) and leaves smaller tensors, not zeros.
`pad` and `trim` are each other's inverse: shapes that no stock config can declare are stored padded with units
that add exactly nothing, and trimmed when they are loaded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from core.anatomy import Anatomy
from core.errors import InputError
from core.layouts import times

Index = Sequence[int] | np.ndarray[Any, Any]


def take(view: Anatomy, word: str, kept: Index, layer: int | None = None) -> None:
    """Keep the units `kept` along every axis that counts `word` (in one layer, or everywhere)."""
    import torch

    index = torch.as_tensor(np.asarray(kept, np.int64))
    for module, leaf, axis, blocks in _counting(view, word, layer):
        old = getattr(module, leaf)
        step = old.shape[axis] // blocks
        rows = torch.cat([index + b * step for b in range(blocks)])
        _replace(module, leaf, old.detach().index_select(axis, rows))


def _counting(view: Anatomy, word: str, layer: int | None) -> Iterator[tuple[Any, str, int, int]]:
    """Every axis that counts `word`: module, name of its tensor, axis, and how often the units stand in it."""
    prefix = "" if layer is None else f"{view.parts.layers}.{layer}."
    for name, words in view.axes().items():
        if name.startswith(prefix):
            owner, _, leaf = name.rpartition(".")
            for axis, counted in enumerate(words):
                if counted.lstrip("23") == word:
                    yield view.backbone.get_submodule(owner), leaf, axis, times(counted)


def _replace(module: Any, leaf: str, tensor: Any) -> None:
    """Put a tensor in a parameter's place and make the module's declared sizes say so."""
    import torch
    from torch import nn

    setattr(module, leaf, nn.Parameter(tensor.contiguous().clone(), requires_grad=getattr(module, leaf).requires_grad))
    if leaf != "weight":
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = tensor.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = tensor.shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (tensor.shape[0],)
    assert isinstance(tensor, torch.Tensor)


def cut_neurons(view: Anatomy, layer: int, kept: Index) -> None:
    """Keep these feed-forward neurons of one layer; gated layers lose value and gate row together."""
    take(view, "inner", kept, layer)
    _declare(view)


def cut_heads(view: Anatomy, layer: int | None, kept: Index) -> None:
    """Keep these attention heads of one layer (None: the same of every layer, and of a shared bias)."""
    size = view.head_size
    channels = (np.asarray(kept, np.int64)[:, None] * size + np.arange(size)).ravel()
    take(view, "attend", channels, layer)
    if layer is None:
        take(view, "heads", kept)
        if view.shared_heads:
            view.backbone.encoder.n_heads = len(kept)
    for i in range(len(view.layers)) if layer is None else (layer,):
        _count_heads(view, i, len(kept))


def cut_layers(view: Anatomy, kept: Index) -> None:
    """Keep these whole layers, in their order."""
    from torch import nn

    rows = sorted(int(i) for i in kept)
    blocks = nn.ModuleList([view.layers[i] for i in rows])
    parent, _, leaf = view.parts.layers.rpartition(".")
    setattr(view.backbone.get_submodule(parent), leaf, blocks)
    if getattr(view.config, "layer_types", None):
        view.config.layer_types = [view.config.layer_types[i] for i in rows]
    for i, block in enumerate(blocks):
        for owner in (block, view.splitter(i)):
            if hasattr(owner, "layer_idx"):
                owner.layer_idx = i
    _declare(view)


def cut_width(view: Anatomy, channels: Index) -> None:
    """Keep these hidden channels everywhere on the residual path; what reads the pooling follows. Heads are cut apart.

    Raises InputError where a Dense with a residual path follows.
    """
    projected = view.kind == "electra" and hasattr(view.backbone, "embeddings_project")
    take(view, "hidden", channels)
    if not projected:
        take(view, "embed", channels)
    _behind(view.encoder, channels)
    _declare(view)


def _behind(encoder: Any, channels: Index) -> None:
    """Pooling, and what reads its output: LayerNorms, up to the first Dense."""
    pooling = encoder[1]
    width, modes = pooling.embedding_dimension, pooling.pooling_output_dimension // pooling.embedding_dimension
    rows = np.concatenate([np.asarray(channels, np.int64) + mode * width for mode in range(modes)])
    pooling.embedding_dimension, pooling.pooling_output_dimension = len(channels), len(rows)
    for module in list(encoder)[2:]:
        if type(module).__name__ == "LayerNorm":
            for leaf in ("weight", "bias"):
                _replace(module.norm, leaf, getattr(module.norm, leaf).detach()[rows])
            module.dimension = len(rows)
        elif type(module).__name__ == "Dense":
            if getattr(module, "use_residual", False):
                raise InputError(
                    "width/...: the Dense behind the pooling adds its input to its output: cut another target"
                )
            _replace(module.linear, "weight", module.linear.weight.detach()[:, rows])
            module.in_features = len(rows)
            return


def _declare(view: Anatomy) -> None:
    """Make the config say what is there, as far as a stock config can."""
    config, shape = view.config, view.shape
    config.num_hidden_layers = len(shape.heads)
    config.hidden_size = shape.width
    if shape.width % shape.head_size == 0:
        config.num_attention_heads = shape.width // shape.head_size
    if shape.inner:
        name = "hidden_dim" if hasattr(config, "hidden_dim") else "intermediate_size"
        setattr(config, name, max(shape.inner))
    if view.kind == "electra" and not hasattr(view.backbone, "embeddings_project"):
        config.embedding_size = shape.width
    for i in range(len(shape.heads)):
        if hasattr(view.splitter(i), "dim"):
            view.splitter(i).dim = shape.width


def pad(view: Anatomy) -> None:
    """Make the shape one that a stock config can declare: heads and neurons that add exactly nothing."""
    shape = view.shape
    whole, widest = shape.width // shape.head_size, max(shape.inner)
    if view.shared_heads and len(set(shape.heads)) == 1 and shape.heads[0] < whole:
        _grow(view, "heads", whole, shape.heads[0], None)
        view.backbone.encoder.n_heads = whole
    for layer, (heads, inner) in enumerate(zip(shape.heads, shape.inner, strict=True)):
        if heads < whole:
            _grow(view, "attend", whole * shape.head_size, heads * shape.head_size, layer)
            _count_heads(view, layer, whole)
        if inner < widest:
            _grow(view, "inner", widest, inner, layer)
    _declare(view)


def trim(view: Anatomy, heads: Sequence[int], inner: Sequence[int]) -> None:
    """Undo `pad`: the first `heads[i]` heads and `inner[i]` neurons of each layer are the real ones."""
    if view.shared_heads and heads[0] < view.shape.heads[0]:
        cut_heads(view, None, range(heads[0]))
    for layer in range(len(view.layers)):
        if heads[layer] < view.shape.heads[layer]:
            cut_heads(view, layer, range(heads[layer]))
        if inner[layer] < view.shape.inner[layer]:
            take(view, "inner", range(inner[layer]), layer)


def _count_heads(view: Anatomy, layer: int, count: int) -> None:
    split = view.splitter(layer)
    for attribute, value in (
        ("num_attention_heads", count), ("n_heads", count), ("all_head_size", count * view.head_size),
    ):  # fmt: skip
        if hasattr(split, attribute):
            setattr(split, attribute, value)


def _grow(view: Anatomy, word: str, size: int, old_size: int, layer: int | None) -> None:
    """Zeros behind the units of every axis that counts `word`."""
    import torch

    for module, leaf, axis, _ in _counting(view, word, layer):
        old = getattr(module, leaf).detach()
        parts = []
        for block in old.split(old_size, dim=axis):
            shape = list(block.shape)
            shape[axis] = size - old_size
            parts += [block, torch.zeros(shape, dtype=old.dtype)]
        _replace(module, leaf, torch.cat(parts, dim=axis))
