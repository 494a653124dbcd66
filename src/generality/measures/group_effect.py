"""What putting several sources together does to accuracy on a target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def group_effect(
    global_accuracy: float | Float[np.ndarray, " rounds"],
    client_accuracies: Float[np.ndarray, "*rounds clients"] | Sequence[float],
) -> float:
    """Accuracy of the aggregated model minus the mean of the clients', averaged over rounds.

    In accuracy (0 to 1), in [−1, 1]; below 0 where aggregation hurts. Both are of the same round:
    the clients just before their weights are put together.

    Source: FedKA (arXiv 2203.11635), Group Effect; its exact definition is from memory.

    >>> round(group_effect(0.7, [0.5, 0.6, 0.7]), 3)
    0.1
    """
    clients = np.asarray(client_accuracies, dtype=float)
    return float(np.mean(np.asarray(global_accuracy) - clients.mean(-1)))


def negative_transfer(
    single_source_accuracy: Sequence[float], multi_source_accuracy: float
) -> float:
    """How much the best single source does better than all together, in accuracy; ≤ 0: no harm.

    Which source is best is known only with target labels: this measures, it does not select.

    >>> round(negative_transfer([0.5, 0.75], 0.7), 3)
    0.05
    """
    return float(max(single_source_accuracy) - multi_source_accuracy)
