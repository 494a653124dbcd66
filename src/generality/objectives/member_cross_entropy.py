"""The sum of the members' losses, for an ensemble trained as one network."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


def member_cross_entropy(
    logits: Float[Tensor, "members batch classes"],
    labels: Int[Tensor, " batch"],
    label_smoothing: float = 0.1,
) -> Float[Tensor, ""]:
    """Σ over members of the mean cross-entropy of each member's own logits.

    A sum, not a mean: with a mean, members would learn at a rate divided by their number. What they
    share gets the mean of their gradients from `generality.modules.GradScale`.

    Source: Chen et al. 2021 (NEAS, arXiv 2104.00597), released code.

    >>> import torch
    >>> member_cross_entropy(torch.zeros(2, 5, 10), torch.arange(5))
    tensor(4.6052)
    """
    members = len(logits)
    # One mean over all rows, times the members: the sum of their means.
    every = cross_entropy(
        logits.flatten(0, 1), labels.repeat(members), label_smoothing=label_smoothing
    )
    return members * every
