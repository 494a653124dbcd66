"""How undecided an agent is, from what it did when asked several times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np


def action_entropy(
    counts: Sequence[float], *, estimator: Literal["plugin", "miller_madow"] = "plugin"
) -> float:
    """Entropy of the distribution of actions, in nats; log(actions) at most, NaN without actions.

    Args:
        counts: how often each action was taken; answers that name none are left out.
        estimator: "plugin" of frequencies, which is biased low by about (actions − 1) / 2n;
            "miller_madow" adds that for the actions that were seen.

    Raises:
        ValueError: a negative count.

    >>> [round(action_entropy(counts), 5) for counts in ([20, 5], [18, 4], [25, 0])]
    [0.5004, 0.47414, 0.0]
    """
    n = np.asarray(counts, dtype=float)
    if (n < 0).any():
        raise ValueError("counts must not be negative")
    if n.sum() == 0:
        return float("nan")
    p = n[n > 0] / n.sum()
    entropy = float(-(p * np.log(p)).sum()) + 0.0
    return entropy + ((n > 0).sum() - 1) / (2 * n.sum()) if estimator == "miller_madow" else entropy
