"""What each member of an ensemble adds to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class ViewContributions:
    """Accuracies in [0, 1] on the same examples.

    Attributes:
        together: of the mean probability of all views.
        alone: of each view.
        without: of the mean of all others, one entry for each view left out; NaN with one view.
    """

    together: float
    alone: list[float]
    without: list[float]


def view_contributions(
    probabilities: Float[np.ndarray, "examples views classes"], truth: Int[np.ndarray, " examples"]
) -> ViewContributions:
    """Accuracy of an ensemble, of each member alone, and of the ensemble without each.

    Give probabilities (`LayerwiseEnsemble(...).per_layer.softmax(-1)`), not logits.

    Raises:
        ValueError: for shapes that do not fit together, or no examples.

    >>> views = np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.6, 0.4], [0.2, 0.8]]])
    >>> view_contributions(views, np.array([0, 1]))
    ViewContributions(together=1.0, alone=[0.5, 0.5], without=[0.5, 0.5])
    """
    probabilities, truth = np.asarray(probabilities), np.asarray(truth)
    if probabilities.ndim != 3 or len(probabilities) != len(truth) or not len(truth):
        raise ValueError(f"shape {probabilities.shape} does not fit {len(truth)} truths")

    def right(views: np.ndarray) -> float:
        return float((views.mean(1).argmax(-1) == truth).mean()) if views.shape[1] else np.nan

    count = probabilities.shape[1]
    return ViewContributions(
        right(probabilities),
        [right(probabilities[:, [k]]) for k in range(count)],
        [right(np.delete(probabilities, k, axis=1)) for k in range(count)],
    )
