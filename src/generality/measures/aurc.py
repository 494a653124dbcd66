"""How well a classifier's confidence ranks its errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int


def risk_coverage(
    probabilities: Float[Any, "n classes"], truth: Int[Any, " n"]
) -> Float[np.ndarray, " n"]:
    """Error rate among the n most confident examples, n = 1 … N, in [0, 1].

    Confidence is the largest probability. Where several examples share it, each counts as their
    mean error, so that their order does not matter.

    Raises:
        ValueError: for no examples, or shapes that do not fit together.

    Source: Geifman and El-Yaniv 2017 (arXiv 1705.08500).

    >>> risk_coverage([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], [0, 1, 1]).round(3).tolist()
    [0.0, 0.5, 0.333]
    """
    scores, true = np.asarray(probabilities, dtype=float), np.asarray(truth)
    if scores.ndim != 2 or true.shape != scores.shape[:1] or not len(true):
        raise ValueError(f"{scores.shape} probabilities do not fit truth of shape {true.shape}")
    wrong = (scores.argmax(1) != true).astype(float)
    _, place, size = np.unique(-scores.max(1), return_inverse=True, return_counts=True)
    place = place.ravel()
    shared = (np.bincount(place, wrong) / size)[place][np.argsort(place, kind="stable")]
    return shared.cumsum() / np.arange(1, len(true) + 1)


def aurc(probabilities: Float[Any, "n classes"], truth: Int[Any, " n"]) -> float:
    """Area under the risk-coverage curve, in [0, 1], lower is better; papers often show × 1000.

    It falls with the number of errors as well as with their ranking; see `excess_aurc`.

    Source: Geifman et al. 2019 (arXiv 1805.08206).

    >>> p = [[0.95, 0.05], [0.9, 0.1], [0.8, 0.2], [0.65, 0.35], [0.55, 0.45]]
    >>> round(1000 * aurc(p, [0, 0, 1, 0, 1]), 4)
    196.6667
    """
    return float(risk_coverage(probabilities, truth).mean())


def excess_aurc(probabilities: Float[Any, "n classes"], truth: Int[Any, " n"]) -> float:
    """`aurc` minus the least that any ranking of as many errors can have, in [0, 1].

    The least is exact for N examples; others use its limit r + (1 − r) ln(1 − r), r the error
    rate, which differs on small sets.

    Source: Geifman et al. 2019 (arXiv 1805.08206), E-AURC.

    >>> p = [[0.95, 0.05], [0.9, 0.1], [0.8, 0.2], [0.65, 0.35], [0.55, 0.45]]
    >>> round(1000 * excess_aurc(p, [0, 0, 1, 0, 1]), 4)
    66.6667
    """
    risks = risk_coverage(probabilities, truth)
    n = len(risks)
    errors = round(float(risks[-1]) * n)
    last = np.arange(1, errors + 1)
    return float(risks.mean() - (last / (n - errors + last)).sum() / n)
