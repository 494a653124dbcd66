"""SHOT: information maximisation at test time."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from generality.estimators.gradient_adapter import GradientAdapter
from generality.estimators.pseudo_label import pseudo_label_loss
from generality.estimators.tent import mean_entropy


class SHOT(GradientAdapter):
    """Makes each prediction certain and the batch's predictions diverse.

    The loss is the mean entropy of the predictions minus the entropy of their mean, plus
    `pseudo_weight` times the pseudo-label loss at 0.9; a weight of 0 is SHOT-IM.

    Source: Liang et al. 2020 (arXiv 2002.08546), online as in the harness of T3A and AdaNPC. It
    adapts the featurizer under a fixed head: `SHOT(network, params="featurizer")`. On cached
    features, params="prebn" adapts a scale and shift of them.

    Args:
        model: as in `GradientAdapter`.
        pseudo_weight: see above.
        options: as in `GradientAdapter`.
    """

    def __init__(self, model: Any, *, pseudo_weight: float = 0.1, **options: Any) -> None:
        super().__init__(model, **options)
        self.pseudo_weight = pseudo_weight

    def loss(self, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
        """Information maximisation and pseudo-labels."""
        mean = logits.softmax(-1).mean(0)
        total = mean_entropy(logits) + (mean * (mean + 1e-8).log()).sum()
        pseudo = pseudo_label_loss(logits, 0.9) if self.pseudo_weight else None
        return total if pseudo is None else total + self.pseudo_weight * pseudo
