"""Bounds on the risk over domains when training domains come from a proxy of the true ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int


def two_level_bound(
    empirical_risk: float,
    rademacher_mn: float,
    rademacher_n: float,
    *,
    m: int,
    n: int,
    delta: float = 0.05,
    epsilon: float = 0.0,
    form: Literal["reported", "domains"] = "reported",
) -> float:
    """Upper bound on the risk over all domains, with probability 1 − delta.

        empirical + 2 R_mn + 2 R_n + 3 √(ln(2/δ) / 2mn) + 3 √(ln(2/δ) / k) + ε

    with k = n in the form that a summary of the paper reports, and k = m in the classical bound of
    two levels, whose last term falls with the number of domains. More synthetic domains shrink
    everything but ε, the distance between proxy and truth. Not capped: above 1 it says nothing.

    Args:
        empirical_risk: mean loss on the training examples of all domains, in [0, 1].
        rademacher_mn: Rademacher complexity over all m n examples.
        rademacher_n: the other complexity, over the examples of a domain (over domains, in the
            form "domains").
        m: domains.
        n: examples of each.
        delta: probability of failure, in (0, 1).
        epsilon: largest risk difference between proxy and truth; see `proxy_discrepancy`.
        form: "reported" or "domains".

    Raises:
        ValueError: counts below 1, delta outside (0, 1), an unknown form.

    Source: "Beyond Finite Data", arXiv 2403.05523, as summarised; the paper's code is not released.

    >>> round(two_level_bound(0.1, 0.01, 0.05, m=32, n=100, epsilon=0.02), 4)
    0.8882
    >>> round(two_level_bound(0.1, 0.01, 0.05, m=32, n=100, epsilon=0.02, form="domains"), 4)
    1.3306
    """
    if m < 1 or n < 1 or not 0 < delta < 1 or form not in ("reported", "domains"):
        raise ValueError("m, n ≥ 1, delta lies between 0 and 1, form is 'reported' or 'domains'")
    confidence = math.log(2 / delta)
    levels = 3 * math.sqrt(confidence / (2 * m * n))
    levels += 3 * math.sqrt(confidence / (n if form == "reported" else m))
    return empirical_risk + 2 * rademacher_mn + 2 * rademacher_n + levels + epsilon


def proxy_discrepancy(
    models: list[Callable[[Any], Float[np.ndarray, "n classes"]]],
    first: tuple[Any, Int[np.ndarray, " n"]],
    second: tuple[Any, Int[np.ndarray, " m"]],
) -> float:
    """Largest difference in error of any of these models between two proxies, in [0, 1].

    The ε of the bound is a supremum over all models against the truth; over the models at hand and
    two proxies generated apart it can only be seen from below.

    Args:
        models: each from inputs to class probabilities.
        first: inputs and labels of one proxy.
        second: of the other.

    >>> sure = lambda inputs: np.tile([0.1, 0.9], (len(inputs), 1))
    >>> proxy_discrepancy([sure], (range(4), np.array([1, 1, 1, 0])), (range(2), np.array([0, 1])))
    0.25
    """
    if not models:
        raise ValueError("there is no model to compare the proxies with")

    def error(model: Callable[[Any], np.ndarray], proxy: tuple[Any, np.ndarray]) -> float:
        return float(np.mean(model(proxy[0]).argmax(1) != proxy[1]))

    return max(abs(error(model, first) - error(model, second)) for model in models)
