"""Quality without a search: Spearman on scored pairs, accuracy on labelled texts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.types import Floats, Metric, unit


def pair_scores(left: Floats, right: Floats, metric: Metric = "cosine") -> NDArray[np.float64]:
    """(n,) similarity of row i of one with row i of the other, rounded to 1e-6; for L2 minus half the distance squared.

    Where only the order counts, as for Spearman, that is as good as the distance.
    """
    if metric == "l2":
        apart = left.astype(np.float64) - right
        return np.asarray(np.round(-np.einsum("ij,ij->i", apart, apart) / 2, 6))
    if metric == "cosine":
        left, right = unit(left), unit(right)
    return np.asarray(np.round(np.einsum("ij,ij->i", left, right, dtype=np.float64), 6))


def spearman(scores: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; NaN ("not defined") where either side is constant or has under two values."""
    from scipy.stats import spearmanr

    if len(scores) < 2 or np.ptp(scores) == 0 or np.ptp(wanted) == 0:
        return float("nan")
    return float(spearmanr(scores, wanted).statistic)


def label_hits(
    train: Floats, train_labels: Sequence[str], test: Floats, test_labels: Sequence[str], k: int = 10
) -> dict[str, NDArray[np.float64]]:
    """Right or wrong (1 or 0) for every test text: logistic regression and k nearest neighbours by cosine.

    Both are scikit-learn's; features are the vectors as they are served. k is clamped to the training texts.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    wanted = np.asarray(test_labels)
    nearest = KNeighborsClassifier(min(k, len(train)), metric="cosine", algorithm="brute")
    hits = {f"knn@{k}": _hits(nearest, train, train_labels, test, wanted)}
    if len(set(train_labels)) > 1:
        hits["accuracy"] = _hits(LogisticRegression(max_iter=200, C=10.0), train, train_labels, test, wanted)
    return dict(sorted(hits.items()))


def _hits(
    model: object, train: Floats, labels: Sequence[str], test: Floats, wanted: NDArray[np.str_]
) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(train, list(labels))  # type: ignore[attr-defined]
        hits = model.predict(test) == wanted  # type: ignore[attr-defined]
        return np.asarray(hits, np.float64)
