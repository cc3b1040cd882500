"""What each unit of an encoder contributes: the statistics that criteria rank by, one row of numbers per layer.

    magnitude(view, "heads")            from the weights alone
    contributions(context)              one pass over the calibration texts
    gauss_newton(context)               forward and backward passes over a sample of them
    trained_gates(context, ...)         a short L1-regularised training of gates on the units

Units are neurons and heads (a row per layer), layers and hidden channels (one row in all).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.anatomy import Anatomy
from core.calibration import EncoderContext, batches, hooked, sentence_vectors, valid

Rows = tuple[NDArray[np.float64], ...]
Hook = tuple[Any, Callable[..., Any], bool]
SAMPLE = 256  # texts that gradients are taken over


def counts(view: Anatomy, target: str) -> list[int]:
    """How many units each row holds."""
    shape = view.shape
    if target in ("neurons", "heads"):
        return list(shape.inner if target == "neurons" else shape.heads)
    return [len(shape.heads) if target == "layers" else shape.width]


def projections(view: Anatomy, target: str) -> list[tuple[Any, int]]:
    """(output projection, inputs per unit) of each layer, for neurons and heads."""
    if target == "neurons":
        return [(view.feed_forward(i).out, 1) for i in range(len(view.layers))]
    return [(view.attention(i).out, view.head_size) for i in range(len(view.layers))]


# ---- from the weights -----------------------------------------------------------------------------------------


def magnitude(view: Anatomy, target: str) -> Rows:
    """Neurons and heads: |incoming weights| x |outgoing weights|; width: the norm of all weights on a channel."""
    if target == "width":
        return (np.sqrt(_channel_squares(view)),)
    rows = []
    for layer, (out, size) in enumerate(projections(view, target)):
        units = out.in_features // size
        sources = [view.up(layer)] if target == "neurons" else view.inputs(layer)
        incoming = sum(
            (s.weight.detach().double().numpy() ** 2).reshape(-1, units, size, s.in_features).sum((0, 2, 3))
            for s in sources
        )
        outgoing = (out.weight.detach().double().numpy() ** 2).reshape(-1, units, size).sum((0, 2))
        rows.append(np.sqrt(np.asarray(incoming) * outgoing))
    return tuple(rows)


def _channel_squares(view: Anatomy) -> NDArray[np.float64]:
    total = np.zeros(view.shape.width)
    for name, words in view.axes().items():
        for axis, word in enumerate(words):
            if word == "hidden" and len(words) > 1:
                values = view.backbone.get_parameter(name).detach().double().numpy() ** 2
                total += values.sum(axis=1 - axis)
    return total


# ---- from what passes -----------------------------------------------------------------------------------------


def contributions(context: EncoderContext) -> tuple[Rows, Rows]:
    """(root mean square of |x_u W_u| over tokens, its mean share of the layer's sum) for neurons and heads."""
    import torch

    view = context.view
    taps = projections(view, context.target)
    squares = [np.zeros(n) for n in counts(view, context.target)]
    shares = [np.zeros(n) for n in counts(view, context.target)]
    tokens, mask = 0, None

    def hook(row: int, out: Any, size: int) -> Callable[..., None]:
        weight = out.weight.detach().T.reshape(-1, size, out.out_features)
        gram = weight @ weight.transpose(1, 2)  # |x W|^2 = x (W W^T) x^T, per unit

        def read(_: Any, inputs: tuple[Any, ...]) -> None:
            x = inputs[0][mask].reshape(-1, len(gram), size)
            square = ((torch.einsum("tus,usr->tur", x, gram) * x).sum(-1)).clamp_min(0).double()
            norm = square.sqrt()
            squares[row] += square.sum(0).numpy()
            shares[row] += (norm / norm.sum(1, keepdim=True).clamp_min(1e-30)).sum(0).numpy()

        return read

    hooks: list[Hook] = [(out, hook(row, out, size), True) for row, (out, size) in enumerate(taps)]
    with torch.no_grad(), hooked(hooks):
        for i, batch in enumerate(context.batches):
            context.progress("reading activations", i, len(context.batches))
            mask = valid(batch)
            tokens += int(mask.sum())
            sentence_vectors(context.encoder, batch)
    n = max(tokens, 1)
    return tuple(np.sqrt(s / n) for s in squares), tuple(s / n for s in shares)


def channel_variance(context: EncoderContext) -> Rows:
    """Variance of every hidden channel over tokens, as its share of the layer's, summed over layers."""
    import torch

    view, mask = context.view, None
    sums: dict[int, list[Any]] = {}

    def hook(row: int) -> Callable[..., None]:
        def read(_: Any, inputs: tuple[Any, ...]) -> None:
            x = inputs[0][mask].double()
            one = sums.setdefault(row, [0, 0.0, 0.0])
            one[0] += len(x)
            one[1] = one[1] + x.sum(0).numpy()
            one[2] = one[2] + (x * x).sum(0).numpy()

        return read

    with torch.no_grad(), hooked([(block, hook(i), True) for i, block in enumerate(view.layers)]):
        for i, batch in enumerate(context.batches):
            context.progress("reading activations", i, len(context.batches))
            mask = valid(batch)
            sentence_vectors(context.encoder, batch)
    variances = [squares / n - (total / n) ** 2 for n, total, squares in sums.values()]
    return (np.sum([v / v.sum() for v in variances], axis=0),)


def block_influence(context: EncoderContext) -> Rows:
    """1 - mean cosine between a layer's input and output over tokens: how much the layer changes."""
    import torch

    view, mask = context.view, None
    total, tokens = np.zeros(len(view.layers)), 0

    def hook(row: int) -> Callable[..., None]:
        def read(_: Any, inputs: tuple[Any, ...], output: Any) -> None:
            after = (output[0] if isinstance(output, tuple) else output)[mask]
            total[row] += float((1 - torch.cosine_similarity(inputs[0][mask], after, dim=-1)).sum())

        return read

    with torch.no_grad(), hooked([(block, hook(i), False) for i, block in enumerate(view.layers)]):
        for batch in context.batches:
            mask = valid(batch)
            tokens += int(mask.sum())
            sentence_vectors(context.encoder, batch)
    return (total / max(tokens, 1),)


# ---- gates ----------------------------------------------------------------------------------------------------


def gate_hooks(view: Anatomy, target: str, gates: Sequence[Any]) -> list[Hook]:
    """Hooks that multiply every unit by its gate (..., units); a layer's gate blends it with passing through."""
    if target in ("neurons", "heads"):
        return [
            (out, _scale(gate, size), True) for gate, (out, size) in zip(gates, projections(view, target), strict=True)
        ]
    if target == "width":
        return [(block, _scale(gates[0], 1), True) for block in view.layers]

    def blend(row: int) -> Callable[..., Any]:
        def hook(_: Any, inputs: tuple[Any, ...], output: Any) -> Any:
            after = output[0] if isinstance(output, tuple) else output
            mixed = inputs[0] + gates[0][..., row : row + 1] * (after - inputs[0])
            return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

        return hook

    return [(block, blend(i), False) for i, block in enumerate(view.layers)]


def _scale(gate: Any, size: int) -> Callable[..., Any]:
    def hook(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0] * gate.repeat_interleave(size, dim=-1), *inputs[1:])

    return hook


def sampled(context: EncoderContext, most: int = SAMPLE) -> tuple[Mapping[str, Any], ...]:
    """Token batches of a seeded sample of the calibration texts."""
    if len(context.texts) <= most:
        return context.batches
    rows = np.random.default_rng(context.seed).permutation(len(context.texts))[:most]
    return batches(context.encoder, [context.texts[i] for i in np.sort(rows)])


def gauss_newton(context: EncoderContext, seed: int = 0) -> Rows:
    """E |d embedding / d gate|^2 of every unit, estimated with one random direction a text.

    The gradient of a self-distillation loss is zero at the dense model, so its plain Taylor score is too; this is
    the diagonal of that loss's Gauss-Newton matrix instead.
    """
    import torch

    view, target = context.view, context.target
    generator = torch.Generator().manual_seed(seed)
    sample = sampled(context)
    rows = [np.zeros(n) for n in counts(view, target)]
    texts = 0
    for i, batch in enumerate(sample):
        context.progress("gradients of the units", i, len(sample))
        n = len(batch["input_ids"])
        gates = [torch.ones(n, 1, units, requires_grad=True) for units in counts(view, target)]
        with torch.enable_grad(), hooked(gate_hooks(view, target, gates)):
            vectors = sentence_vectors(context.encoder, batch)
            direction = torch.randn(vectors.shape, generator=generator)
            found = torch.autograd.grad((vectors * direction).sum(), gates)
        for row, g in zip(rows, found, strict=True):
            row += (g[:, 0].double() ** 2).sum(0).numpy()
        texts += n
    return tuple(row / max(texts, 1) for row in rows)


def trained_gates(context: EncoderContext, steps: int, strength: float, seed: int = 0) -> Rows:
    """Gates after `steps` of Adam on 1 - cosine to the dense embedding + strength x mean |gate|, all starting at one.

    Source: L1 (lasso) selection of structures, Liu et al., Network Slimming, ICCV 2017.
    """
    import torch

    view, target = context.view, context.target
    sample = sampled(context)
    with torch.no_grad():
        teacher = [sentence_vectors(context.encoder, batch) for batch in sample]
    gates = [torch.ones(n, requires_grad=True) for n in counts(view, target)]
    optimizer = torch.optim.Adam(gates, lr=0.02)
    rng = np.random.default_rng(seed)
    with torch.enable_grad(), hooked(gate_hooks(view, target, gates)):
        for step in range(steps):
            context.progress("training gates", step, steps)
            b = int(rng.integers(len(sample)))
            vectors = sentence_vectors(context.encoder, sample[b])
            loss = 1 - torch.cosine_similarity(vectors, teacher[b], dim=-1).mean()
            loss = loss + strength * torch.cat(gates).abs().mean()
            for gate, g in zip(gates, torch.autograd.grad(loss, gates), strict=True):
                gate.grad = g
            optimizer.step()
    return tuple(gate.detach().abs().double().numpy() for gate in gates)


# ---- removing, and looking ------------------------------------------------------------------------------------


def damage(context: EncoderContext, removed: Sequence[Sequence[int]], most: int = 64) -> NDArray[np.float64]:
    """Mean 1 - cosine to the dense embedding without these layers (or units of row 0), for every set in `removed`."""
    import torch

    view, target = context.view, context.target
    sample = sampled(context, most)
    with torch.no_grad():
        teacher = torch.cat([sentence_vectors(context.encoder, batch) for batch in sample])
    out = np.zeros(len(removed))
    for i, gone in enumerate(removed):
        context.progress("removing and looking", i, len(removed))
        gates = [torch.ones(n) for n in counts(view, target)]
        gates[0][list(gone)] = 0.0
        with torch.no_grad(), hooked(gate_hooks(view, target, gates)):
            vectors = torch.cat([sentence_vectors(context.encoder, batch) for batch in sample])
        out[i] = float(1 - torch.cosine_similarity(vectors, teacher, dim=-1).mean())
    return out


def obs_order(context: EncoderContext) -> Rows:
    """Scores from the order in which OBS removes a layer's units in the unpruned encoder: first out, lowest score."""
    from core.surgery.least_squares import eliminate
    from core.surgery.walk import Walker

    view = context.view
    walker, rows = Walker.start(view, context.batches), []
    for layer in range(len(view.layers)):
        context.progress("elimination order", layer, len(view.layers))
        out, size = projections(view, context.target)[layer]
        moments = walker.moments(*walker.look([(out, "input"), (out, "output")]))
        weight = out.weight.detach().double().numpy().T
        order = eliminate(moments, weight, 1, out.bias is not None, size)
        scores = np.full(len(weight) // size, float(len(order) + 1))
        scores[order] = np.arange(len(order))
        rows.append(scores)
        walker.step()
    return tuple(rows)
