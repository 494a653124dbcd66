"""Examples interpolated with others: the control for made-up domains, for it makes none."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Real


def mixup_examples(
    inputs: Real[np.ndarray, "n ..."],
    soft_labels: Float[np.ndarray, "n classes"],
    rng: np.random.Generator,
    *,
    alpha: float = 0.2,
) -> tuple[Float[np.ndarray, "n ..."], Float[np.ndarray, "n classes"]]:
    """Every example mixed with another at random, λ·x + (1 − λ)·x', λ from Beta(alpha, alpha).

    Done once, for trainers that take arrays; `generality.objectives.mixup` mixes a step's batches.

    Source: Zhang et al. 2018 (arXiv 1710.09412).

    >>> x, y = mixup_examples(np.eye(4), np.eye(4), np.random.default_rng(0))
    >>> bool(np.allclose(x, y)), np.round(y.sum(1), 4)
    (True, array([1., 1., 1., 1.]))
    """
    other, share = rng.permutation(len(inputs)), rng.beta(alpha, alpha, len(inputs))
    share = share.astype(np.float32)
    by_input = share.reshape(-1, *[1] * (inputs.ndim - 1))
    return (
        by_input * inputs + (1 - by_input) * inputs[other],
        share[:, None] * soft_labels + (1 - share[:, None]) * soft_labels[other],
    )
