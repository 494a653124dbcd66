"""Tent: test-time adaptation by entropy minimisation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from generality.estimators.gradient_adapter import GradientAdapter


class Tent(GradientAdapter):
    """Makes predictions on the stream more certain: minimises the mean entropy of each batch.

    Source: Wang et al. 2021 (ICLR, arXiv 2006.10726), which adapts the batch normalisations of the
    whole network: `Tent(network, params="bn")`. On cached features with a head, "prebn" and "head"
    are the variants of the T3A and AdaNPC harness. Arguments as in `GradientAdapter`.

    >>> import torch
    >>> tent = Tent((torch.eye(2), torch.zeros(2)), params="head", learning_rate=0.1)
    >>> batch = torch.tensor([[1.0, 0.2], [0.1, 1.0]])
    >>> before, after = tent.predict(batch), tent.predict(batch)
    >>> bool(after.amax(1).mean() > before.amax(1).mean())
    True
    """

    def loss(self, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
        """Mean entropy of the predictions, in nats."""
        return mean_entropy(logits)


def mean_entropy(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """Entropy of softmax(logits), in nats, averaged over the batch."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
