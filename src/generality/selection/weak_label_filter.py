"""Which weak labels to learn from: those the supervisor is sure of, of every class."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int


def filter_weak_labels(
    probabilities: Float[Any, "n classes"],
    *,
    tau: float | None = None,
    top_frac: float | None = None,
    per_class: bool = True,
) -> Int[np.ndarray, " kept"]:
    """Rows to keep, in ascending order, by the probability of their most probable class.

    Args:
        probabilities: the supervisor's, of each class; rows sum to 1.
        tau: keep what it gives at least this probability; 0.6 to 0.9 are usual.
        top_frac: keep this share, the surest first, rounded up; ties by their order.
        per_class: take the share within each predicted class. Otherwise the class of which the
            supervisor is less sure, mostly the smaller one, may be gone altogether. With `tau` it
            keeps of each predicted class at least the surest example.

    Raises:
        ValueError: both `tau` and `top_frac` or neither, or one outside (0, 1]; probabilities that
            are no matrix or hold NaN.

    Source: a reconstruction; Ye et al. 2024 (arXiv 2410.12621) name strategies for better weak
    supervision, and their code has none.

    >>> sure = [[0.9, 0.1], [0.8, 0.2], [0.95, 0.05], [0.7, 0.3], [0.45, 0.55], [0.4, 0.6]]
    >>> filter_weak_labels(sure, top_frac=0.5)
    array([0, 2, 5])
    >>> filter_weak_labels(sure, top_frac=0.5, per_class=False)
    array([0, 1, 2])
    """
    if (tau is None) == (top_frac is None):
        raise ValueError("give tau or top_frac")
    if not 0 < (tau if tau is not None else top_frac or 0) <= 1:
        raise ValueError(f"tau and top_frac are in (0, 1], not {tau}, {top_frac}")
    values = np.asarray(probabilities, dtype=float)
    if values.ndim != 2 or np.isnan(values).any():
        raise ValueError(f"probabilities are (n, classes) without NaN, not {values.shape}")
    confidence, guess = values.max(1), values.argmax(1)
    groups = [np.flatnonzero(guess == c) for c in np.unique(guess)] if per_class else None
    kept = []
    for group in groups if groups is not None else [np.arange(len(values))]:
        surest = group[np.argsort(-confidence[group], kind="stable")]
        if tau is not None:
            count = max(int((confidence[group] >= tau).sum()), int(per_class))
        else:
            count = int(np.ceil((top_frac or 0) * len(group) - 1e-9))
        kept.append(surest[:count])
    return np.sort(np.concatenate(kept)) if kept else np.arange(0)
