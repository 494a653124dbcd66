"""Cross-entropy against a distribution over classes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def soft_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    soft_targets: Float[Tensor, "batch classes"],
    progress: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean over the batch of −Σ_k w_k log p_k, in nats; one-hot targets give the usual loss.

    `progress` is accepted and ignored, so that every objective is called alike.

    Raises:
        ValueError: targets of another shape, such as class numbers: give them one-hot.

    >>> import torch
    >>> round(soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.3, 0.7]])).item(), 4)
    0.6931
    """
    if soft_targets.shape != logits.shape:
        raise ValueError(
            f"soft targets are a distribution for each row of logits {tuple(logits.shape)}, not "
            f"{tuple(soft_targets.shape)}"
        )
    return -(soft_targets * logits.log_softmax(-1)).sum(-1).mean()
