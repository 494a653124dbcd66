"""A product of the student's and the supervisor's beliefs as the target."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.objectives.soft_cross_entropy import soft_cross_entropy


class ProductLoss(nn.Module):
    """Cross-entropy against target ∝ p^beta · w^alpha, renormalised, no gradient through it.

    p is the student's softmax and w the weak soft label; alpha = beta = 1 is a product of experts.

    Source: the code released with Burns et al. 2023 (arXiv 2312.09390).

    Args:
        alpha: exponent of the weak label, > 0.
        beta: exponent of the student's own probability, ≥ 0; 0 is plain cross-entropy.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [-1.0, 1.0]])
    >>> weak = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    >>> round(ProductLoss()(logits, weak).item(), 6)
    0.43287
    """

    def __init__(self, alpha: float = 1.0, beta: float = 1.0) -> None:
        super().__init__()
        if alpha <= 0 or beta < 0:
            raise ValueError(f"ProductLoss needs alpha > 0 and beta ≥ 0, not {alpha} and {beta}")
        self.alpha, self.beta = alpha, beta

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        soft_targets: Float[Tensor, "batch classes"],
        progress: float = 0.0,
    ) -> Float[Tensor, ""]:
        """The loss, in nats; `progress` is accepted and ignored."""
        tiny = torch.finfo(soft_targets.dtype).tiny
        belief = self.beta * logits.detach().log_softmax(-1)
        target = (belief + self.alpha * soft_targets.clamp_min(tiny).log()).softmax(-1)
        return soft_cross_entropy(logits, target)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"alpha={self.alpha}, beta={self.beta}"
