"""Zero single weights of an encoder's copy: which stay, the refit of those that stay, and what it gains in time.

No mask outlives the cut: a saved model holds plain `weight` tensors with zeros in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.anatomy import Anatomy
from core.calibration import EncoderContext, Importance
from core.errors import InputError, PlanError
from core.methods.weights import DAMP, WeightMethod
from core.plan import Cut

Bools = NDArray[np.bool_]
_STEPS = 30  # of conjugate gradients; on MiniLM's layers 100 give the same error to three digits


def mask(
    scores: Sequence[NDArray[Any]], cut: Cut, scope: str = "local", pattern: str = "none", rows: bool = False
) -> list[Bools]:
    """True for the weights that stay, per matrix (out, in). Counts are exact, ties go to the lowest index.

    A group keeps cut.count(its size): all matrices together (scope="global"), each matrix, or with `rows` each
    output of each matrix. pattern="2:4" keeps the best 2 of every 4 neighbouring inputs whatever the scope.
    Masks of one set of scores are nested across ratios.
    """
    if pattern == "2:4":
        if cut.ratio != 0.5:
            raise PlanError(f"pattern=2:4 removes exactly half, not {cut}; write ratio=0.5")
        narrow = [s.shape[1] for s in scores if s.shape[1] % 4]
        if narrow:
            raise InputError(f"pattern=2:4 needs inputs in fours; a matrix has {narrow[0]}. Use pattern=none.")
        return [_best(s.reshape(-1, 4), 2).reshape(s.shape) for s in scores]
    if scope == "global":
        whole = np.concatenate([s.ravel() for s in scores])
        kept = _best(whole[None], cut.count(len(whole)))[0]
        parts = np.split(kept, np.cumsum([s.size for s in scores])[:-1])
        return [p.reshape(s.shape) for p, s in zip(parts, scores, strict=True)]
    groups = [s if rows else s.reshape(1, -1) for s in scores]
    return [_best(g, cut.count(g.shape[1])).reshape(s.shape) for g, s in zip(groups, scores, strict=True)]


def _best(groups: NDArray[Any], keep: int) -> Bools:
    """The `keep` largest of each row of (groups, n); of equals the first."""
    n = groups.shape[1]
    level = np.partition(groups, n - keep, axis=1)[:, n - keep, None]
    above, equal = groups > level, groups == level
    room = keep - above.sum(1, keepdims=True)
    return np.asarray(above | (equal & (equal.cumsum(1) <= room)))


def cut_weights(
    encoder: Any, method: WeightMethod, importance: Importance, cut: Cut, context: EncoderContext | None = None
) -> Any:
    """Zero weights of `encoder` (a copy: `anatomy.duplicate`) in place and return it. Ratio 0 changes no bit.

    With reconstruct=least-squares the weights that stay are refitted from the statistics of `context` (taken once,
    in the dense model), which is then needed. Raises PlanError for a cut that scope or pattern cannot make.
    """
    import torch
    from torch.nn.utils import prune

    method.check(cut.ratio)
    linears = Anatomy(encoder, "weights").linears()
    if [s.shape for s in importance.scores] != [tuple(m.weight.shape) for _, m in linears]:
        raise InputError(f"scores for {len(importance.scores)} matrices do not fit this encoder: rank it again")
    masks = mask(importance.scores, cut, method.scope, method.pattern, method.rows)
    for (name, module), stays in zip(linears, masks, strict=True):
        if stays.all():
            continue
        kept = torch.from_numpy(stays)
        with torch.no_grad():
            if method.reconstruct == "least-squares":
                module.weight.copy_(refit(module.weight, kept, _moments(context)[name]))
            prune.custom_from_mask(module, "weight", kept)  # type: ignore[no-untyped-call]
            prune.remove(module, "weight")  # type: ignore[no-untyped-call]
            module.weight.add_(0.0)  # -0.0 becomes 0.0: smaller zipped
    return encoder


def _moments(context: EncoderContext | None) -> Mapping[str, Any]:
    if context is None:
        raise InputError("reconstruct=least-squares refits the weights that stay: it needs the calibration texts")
    return context.moments


def refit(weight: Any, kept: Any, second: Any) -> Any:
    """The best W' (out, in) with zeros outside `kept`: min |X W'^T - X W^T|^2 + ridge |W' - W|^2, X^T X = second.

    All rows at once by conjugate gradients inside the mask, preconditioned by the diagonal: _STEPS x O(out in^2).
    Source: Hestenes & Stiefel 1952. SparseGPT's single sweep over the columns (arXiv 2301.00774) left a quarter
    more error on MiniLM's layers, on tokens not fitted on.
    """
    import torch

    h = second + DAMP * second.diagonal().mean() * torch.eye(len(second))
    diagonal = h.diagonal().clamp_min(1e-30)
    found = weight * kept
    rest = ((weight - found) @ h) * kept
    step = rest / diagonal
    size = (rest * step).sum(1, keepdim=True)
    for _ in range(_STEPS):
        along = (step @ h) * kept
        length = size / (step * along).sum(1, keepdim=True).clamp_min(1e-30)
        found += length * step
        rest -= length * along
        fresh = (rest * rest / diagonal).sum(1, keepdim=True)
        step = rest / diagonal + fresh / size.clamp_min(1e-30) * step
        size = fresh
    return found


def sparse_speed(linear: Any, batch: Any, repeats: int = 15) -> dict[str, Any]:
    """Time linear(batch) dense against the kernels torch has for zeros on this machine; batch (n, in).

    Kernel -> {"speedup", "dense_ms", "sparse_ms", "difference"}, medians over alternating pairs and the largest
    difference of the outputs; or {"speedup": None, "reason"} where torch has no kernel for it here.
    """
    return {"csr": _csr(linear, batch, repeats), "semi-structured": _semi_structured(linear, batch, repeats)}


def kernels(view: Anatomy) -> dict[str, Any]:
    """What these kernels gain an encoder on this machine, timed on its first up-projection and 1,024 tokens."""
    import torch

    up = view.up(0)
    return sparse_speed(up, torch.randn(1024, up.in_features, generator=torch.Generator().manual_seed(0)))


def said(found: Mapping[str, Any]) -> list[str]:
    """One sentence a kernel."""
    gained = {n: one["reason"] if one["speedup"] is None else f"{one['speedup']:.2f}x the dense layer's speed"
              for n, one in found.items()}  # fmt: skip
    return [f"sparse kernels ({name}): {words}; the saved model runs dense" for name, words in gained.items()]


def _csr(linear: Any, batch: Any, repeats: int) -> dict[str, Any]:
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "Sparse CSR tensor support is in beta state"
        sparse = linear.weight.detach().to_sparse_csr()
    bias = 0.0 if linear.bias is None else linear.bias.detach()[:, None]
    with torch.no_grad():
        return _paired(
            lambda: linear(batch),
            lambda: (sparse @ batch.T.contiguous() + bias).T.contiguous(),  # in the layout that the next layer reads
            repeats, batch.is_cuda,
        )  # fmt: skip


def _semi_structured(linear: Any, batch: Any, repeats: int) -> dict[str, Any]:
    """2:4 on the tensor cores, in half precision on both sides."""
    import copy

    import torch

    four = linear.weight.detach().unflatten(1, (-1, 4)) if linear.in_features % 4 == 0 else None
    if four is None or int((four != 0).sum(-1).max()) > 2:
        return {"speedup": None, "reason": "not 2:4: more than 2 of 4 neighbouring inputs are left; use pattern=2:4"}
    if not torch.cuda.is_available():
        return {"speedup": None, "reason": "torch has a 2:4 kernel for NVIDIA GPUs only, none here: it gains nothing"}
    dense = copy.deepcopy(linear).half().cuda()
    sparse, x = copy.deepcopy(dense), batch.half().cuda()
    sparse.weight = torch.nn.Parameter(torch.sparse.to_sparse_semi_structured(dense.weight.detach()))
    with torch.no_grad():
        return _paired(lambda: dense(x), lambda: sparse(x), repeats, True)


def _paired(dense: Any, sparse: Any, repeats: int, cuda: bool) -> dict[str, Any]:
    times = [(_seconds(dense, cuda), _seconds(sparse, cuda)) for _ in range(repeats + 1)][1:]  # the first warms up
    return {
        "speedup": median(a / b for a, b in times),
        "dense_ms": 1e3 * median(a for a, _ in times),
        "sparse_ms": 1e3 * median(b for _, b in times),
        "difference": float((dense() - sparse()).abs().max()),
    }


def _seconds(run: Any, cuda: bool) -> float:
    import torch

    start = perf_counter()
    run()
    if cuda:
        torch.cuda.synchronize()
    return perf_counter() - start
