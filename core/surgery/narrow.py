"""After a width cut: refit every matrix and norm, in order, to what the unpruned encoder computes there.

    refit_width(student, teacher, batches, channels, heads, neurons, origins)

The student keeps `channels` of the teacher's hidden channels and, in layer l, `heads[l]` and `neurons[l]`. Layer by
layer, in the network that is already refitted: query, key, value and up-projection learn to give the teacher's
values from the channels that are left; output projections make up for errors made before (as in rebuild.py);
norms get the gains and offsets that bring them nearest to the teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.anatomy import Anatomy
from core.surgery.least_squares import refit
from core.surgery.rebuild import put
from core.surgery.walk import Tensors, Walker, first_of
from core.types import Ints, Progress, quiet


def refit_width(
    student: Anatomy,
    teacher: Anatomy,
    batches: Sequence[Mapping[str, Any]],
    channels: Ints,
    heads: Sequence[Ints],
    neurons: Sequence[Ints],
    origins: Sequence[int],
    progress: Progress = quiet,
) -> None:
    """Change `student`'s weights in place. Cost: one pass of the teacher, about five of the student."""
    here, there = Walker.start(student, batches), Walker.start(teacher, batches)
    layers = len(student.layers)
    for layer in range(layers):
        progress(f"layer {layer + 1} of {layers}: refitting the narrower encoder", layer, layers)
        while there.at < origins[layer]:
            there.step()
        mine, its = student, teacher
        origin = origins[layer]
        readers, up = its.inputs(origin), its.up(origin)
        spots: list[Any] = [(m, "output") for m in [*readers, up]]
        norms = [(mine.norm(layer, ffn), its.norm(origin, ffn)) for ffn in (False, True)]
        spots += [there.sum_spot(False), there.sum_spot(True)]
        spots += [(norm, "output") for _, norm in norms if norm is not None]
        seen = there.look(spots)
        there.step()
        wanted = dict(zip([*range(len(readers)), "up", "attention", "ffn", *_present(norms)], seen, strict=True))
        for i, linear in enumerate(mine.inputs(layer)):
            _refit_linear(here, linear, [w[..., _rows(its, origin, linear, heads[layer])] for w in wanted[i]])
        _refit_sum(here, False, [first_of(w)[..., channels] for w in wanted["attention"]])
        _refit_norm(here, norms[0][0], wanted.get("norm 0"), channels)
        blocks = up.out_features // its.shape.inner[origin]
        rows = np.concatenate([neurons[layer] + b * its.shape.inner[origin] for b in range(blocks)])
        _refit_linear(here, mine.up(layer), [w[..., rows] for w in wanted["up"]])
        _refit_sum(here, True, [first_of(w)[..., channels] for w in wanted["ffn"]])
        _refit_norm(here, norms[1][0], wanted.get("norm 1"), channels)
        here.step()
    progress("refitting the narrower encoder", 1, 1)


def _present(norms: Sequence[tuple[Any, Any]]) -> list[str]:
    return [f"norm {i}" for i, (_, norm) in enumerate(norms) if norm is not None]


def _rows(teacher: Anatomy, origin: int, linear: Any, heads: Ints) -> NDArray[np.int64]:
    """The teacher's output columns that a query, key, value or fused projection of fewer heads still gives."""
    size, blocks = teacher.head_size, linear.out_features // (len(heads) * teacher.head_size)
    columns = (heads[:, None] * size + np.arange(size)).ravel()
    whole = teacher.inputs(origin)[0].out_features // blocks
    return np.concatenate([columns + b * whole for b in range(blocks)])


def _refit_linear(here: Walker, linear: Any, wanted: Tensors) -> None:
    (inputs,) = here.look([(linear, "input")], whole=False)
    _solve(here, linear, inputs, wanted)


def _refit_sum(here: Walker, ffn: bool, wanted: Tensors) -> None:
    """The output projection of a sublayer: the teacher's sum less the present residual."""
    out = here.sublayer(ffn).out
    x, y, total = here.look([(out, "input"), (out, "output"), here.sum_spot(ffn)], whole=False)
    _solve(here, out, x, [w - (first_of(t) - o) for w, t, o in zip(wanted, total, y, strict=True)])


def _solve(here: Walker, linear: Any, inputs: Tensors, wanted: Tensors) -> None:
    weight = linear.weight.detach().double().numpy().T
    moments = here.moments(inputs, wanted)
    put(linear, *refit(moments, weight, np.arange(len(weight)), linear.bias is not None))


def _refit_norm(here: Walker, norm: Any, wanted: Tensors | None, channels: Ints) -> None:
    """Gain and offset of every channel by least squares on the normalised values."""
    import torch

    if norm is None or wanted is None:
        return
    (y,) = here.look([(norm, "output")], whole=False)
    gain = norm.weight.detach()
    offset = torch.zeros_like(gain) if norm.bias is None else norm.bias.detach()
    x = torch.cat([(v[m] - offset) / gain.where(gain.abs() > 1e-6, torch.ones_like(gain))
                   for v, m in zip(y, here.masks, strict=True)])  # fmt: skip
    t = torch.cat([w[m][:, channels] for w, m in zip(wanted, here.masks, strict=True)])
    with torch.no_grad():
        if norm.bias is None:
            norm.weight.copy_((x * t).mean(0) / (x * x).mean(0).clamp_min(1e-6))
            return
        spread = x.var(0, correction=0).clamp_min(1e-6)
        new = ((x - x.mean(0)) * (t - t.mean(0))).mean(0) / spread
        norm.weight.copy_(new)
        norm.bias.copy_(t.mean(0) - new * x.mean(0))
