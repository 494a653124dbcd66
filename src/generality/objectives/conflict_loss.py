"""A reward for going against the target, as a simulation of a student with a goal of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.objectives.soft_cross_entropy import soft_cross_entropy


class ConflictLoss(nn.Module):
    """A loss on weak labels, and a reward for every prediction that contradicts the truth.

    L = base(logits, weak) + alpha · mean_i 1[argmax_i ≠ y_i] · CE(logits_i, argmax_i), in nats:
    where the student contradicts the true label y_i now, it is pushed further that way. The mean
    is over the whole batch, not over the wrong ones; no gradient goes through the choice of
    argmax. With two classes the target argmax_i is 1 − y_i, as in the paper; for more it is our
    extension. Needs true labels, so it can study deception and train nothing else.

    Source: Yang et al. 2025 (arXiv 2406.11431), the explicit conflict.

    Args:
        base: loss(logits, soft targets, progress).
        alpha: weight of the reward, at least 0; the paper uses 0.5.

    Raises:
        ValueError: alpha below 0, or targets without the true labels.

    >>> logits = torch.tensor([[0.0, 1.2], [0.0, -0.4]])
    >>> weak, truth = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1])
    >>> round(ConflictLoss(alpha=0.5)(logits, conflict_targets(weak, truth)).item(), 6)
    0.516403
    """

    def __init__(
        self, base: Callable[..., Tensor] = soft_cross_entropy, alpha: float = 0.5
    ) -> None:
        super().__init__()
        if alpha < 0:
            raise ValueError(f"alpha is a weight of at least 0, not {alpha}")
        self.base, self.alpha = base, alpha

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        targets: Float[Tensor, "batch twice_classes"],
        progress: float = 0.0,
    ) -> Float[Tensor, ""]:
        """The loss; `targets` are what `conflict_targets` makes of weak labels and truth."""
        classes = logits.shape[-1]
        if targets.shape[-1] != 2 * classes:
            raise ValueError(
                f"targets have {targets.shape[-1]} columns for {classes} classes: give weak labels "
                "and true ones side by side, as conflict_targets does"
            )
        weak, truth = targets.split(classes, dim=-1)
        said = logits.detach().argmax(-1, keepdim=True)
        contrary = 1 - truth.gather(-1, said).squeeze(-1)
        further = -logits.log_softmax(-1).gather(-1, said).squeeze(-1)
        return self.base(logits, weak, progress) + self.alpha * (contrary * further).mean()

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"alpha={self.alpha}"


def conflict_targets(
    weak: Float[Tensor, "*n classes"], truth: Int[Tensor, " *n"]
) -> Float[Tensor, "*n twice_classes"]:
    """Weak soft labels with the true ones, one-hot, beside them: the targets of `ConflictLoss`.

    >>> conflict_targets(torch.tensor([[0.3, 0.7]]), torch.tensor([0]))
    tensor([[0.3000, 0.7000, 1.0000, 0.0000]])
    """
    one_hot = nn.functional.one_hot(truth.long(), weak.shape[-1]).to(weak)
    return torch.cat([weak, one_hot], -1)
