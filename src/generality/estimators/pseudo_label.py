"""Pseudo-labelling at test time."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from generality.estimators.gradient_adapter import GradientAdapter


class PseudoLabel(GradientAdapter):
    """Trains on its own confident predictions: cross-entropy to the predicted class.

    Source: Lee 2013, at test time as in the harness of T3A (Iwasawa and Matsuo 2021) and AdaNPC.

    Args:
        model: as in `GradientAdapter`.
        threshold: least probability of a prediction that is learned from, in [0, 1].
        options: as in `GradientAdapter`.

    >>> import torch
    >>> adapter = PseudoLabel((torch.eye(2), torch.zeros(2)), threshold=0.6)
    >>> adapter.predict(torch.tensor([[1.0, 0.2]])).argmax(1)
    tensor([0])
    """

    def __init__(self, model: Any, *, threshold: float = 0.9, **options: Any) -> None:
        super().__init__(model, **options)
        self.threshold = threshold

    def loss(self, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""] | None:
        """Cross-entropy over the confident part of the batch; None when there is none."""
        return pseudo_label_loss(logits, self.threshold)


def pseudo_label_loss(
    logits: Float[Tensor, "batch classes"], threshold: float
) -> Float[Tensor, ""] | None:
    """Cross-entropy to the predicted class over predictions of at least `threshold`, if any."""
    best, guess = logits.detach().softmax(-1).max(-1)
    confident = best >= threshold
    return cross_entropy(logits[confident], guess[confident]) if bool(confident.any()) else None
