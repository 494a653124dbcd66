"""Scores that are best for honest probabilities, and the scaling that makes them more so."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special


def nll(probabilities: Float[Any, "n classes"], truth: Int[Any, " n"]) -> float:
    """Mean −log of the true class's probability, in nats; probabilities below 1e-12 count as that.

    Raises:
        ValueError: for no examples, or shapes that do not fit together.

    >>> round(nll([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 4)
    0.4904
    """
    scores, true = _checked(probabilities, truth)
    return float(-np.log(np.maximum(scores[np.arange(len(true)), true], 1e-12)).mean())


def brier(probabilities: Float[Any, "n classes"], truth: Int[Any, " n"]) -> float:
    """Mean over examples of Σ_k (p_k − 1[k is true])², in [0, 2]; lower is better.

    Source: Brier 1950; for two classes twice the score that counts one class only.

    >>> brier([[0.5, 0.5], [1.0, 0.0]], [0, 1])
    1.25
    """
    scores, true = _checked(probabilities, truth)
    return float(((scores - np.eye(scores.shape[1])[true]) ** 2).sum(1).mean())


def temperature_scale(logits: Float[Any, "n classes"], truth: Int[Any, " n"]) -> float:
    """The temperature T in [0.01, 100] by which to divide logits so that `nll` is least.

    Fit it on held-out examples. Log-probabilities will do for logits.

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.

    >>> sure = np.log([[0.99, 0.01], [0.99, 0.01], [0.99, 0.01], [0.99, 0.01]])
    >>> hot = temperature_scale(sure, [0, 0, 0, 1])  # right in three of four
    >>> special.softmax(sure / hot, axis=1)[0].round(3).tolist()
    [0.75, 0.25]
    """
    scores, true = _checked(logits, truth)

    def loss(log_temperature: float) -> float:
        said = special.log_softmax(scores / np.exp(log_temperature), axis=1)
        return float(-said[np.arange(len(true)), true].mean())

    bounds = (np.log(0.01), np.log(100))
    return float(np.exp(optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x))


def _checked(scores: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    table, true = np.asarray(scores, dtype=float), np.asarray(truth)
    if table.ndim != 2 or true.shape != table.shape[:1] or not len(true):
        raise ValueError(f"scores of shape {table.shape} do not fit truth of shape {true.shape}")
    return table, true
