"""A linear map behind a cut encoder: from its sentence embedding to the unpruned one's, by ridge regression.

It is a stock Dense module (identity activation), so a plain reload keeps it, and it costs next to nothing. It also
keeps the embedding's width and space where layers or channels were cut: an old index stays searchable.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.calibration import CalibrationTexts
from core.types import Progress, quiet

DOCUMENTS, SHORT = 256, 1500
_DAMP = 0.1


def append_map(encoder: Any, teacher: Any, texts: CalibrationTexts, progress: Progress = quiet) -> None:
    """Append Dense (and Normalize, where the teacher ends in one) to `encoder`; an earlier map is replaced."""
    import torch
    from sentence_transformers import models
    from torch import nn

    while getattr(encoder[-1], "espalier_map", False):
        del encoder._modules[str(len(encoder) - 1)]
    read = [*texts.documents[:DOCUMENTS], *texts.short[:SHORT]]
    progress("fitting the output map", 0, 2)
    source = np.asarray(encoder.encode(read, show_progress_bar=False), np.float64)
    progress("fitting the output map", 1, 2)
    target = np.asarray(teacher.encode(read, show_progress_bar=False), np.float64)
    weight, bias = fit(source, target)
    dense = models.Dense(source.shape[1], target.shape[1], bias=True, activation_function=nn.Identity())
    with torch.no_grad():
        dense.linear.weight.copy_(torch.as_tensor(weight.T.astype(np.float32)))
        dense.linear.bias.copy_(torch.as_tensor(bias.astype(np.float32)))
    added = [dense] + ([models.Normalize()] if type(teacher[-1]).__name__ == "Normalize" else [])
    for module in added:
        module.espalier_map = True
        encoder.append(module)


def fit(source: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """W (d, k), b (k,) of the ridge regression target ~ source W + b, shrunk towards the identity where d = k."""
    x, y = source - source.mean(0), target - target.mean(0)
    n, d = x.shape
    second = x.T @ x / n
    lam = _DAMP * float(np.trace(second)) / d + 1e-12
    prior = np.eye(d) if d == y.shape[1] else np.zeros((d, y.shape[1]))
    weight = np.linalg.solve(second + lam * np.eye(d), x.T @ y / n + lam * prior)
    return weight, target.mean(0) - source.mean(0) @ weight
