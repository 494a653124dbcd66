"""Learning from several correct solutions of one problem."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Kind = Literal["mle", "mle_aug", "mml", "beta_mml", "mixed"]
_KINDS = ("mle", "mle_aug", "mml", "beta_mml", "mixed")


class MultiTargetLoss(nn.Module):
    """A loss over groups of targets; mean over the groups (the problems), in nats.

    With l_j the log-probability of target j, summed over its tokens:

    - "mle": −l of the first target (the reference) of each group, the others do not count;
    - "mle_aug": −Σ_j l_j, every target as if it were another example;
    - "mml": −log Σ_j exp l_j, one of them must be likely;
    - "beta_mml": −(1/β) log Σ_j exp(β l_j), in between, as β goes to 0;
    - "mixed": λ₁ · mle_aug + λ₂ · beta_mml.

    The gradient of l_j has weight 1, softmax(l)_j or softmax(β l)_j: "mml" teaches mostly what the
    model already prefers.

    Source: Ni et al. 2023 (arXiv 2205.14318), section 3.3. Guu et al. 2017 for β.

    Args:
        kind: of the loss.
        beta: β in (0, 1]; 1 is "mml".
        mean: divide "mle_aug" by the number of a group's targets, so that the step does not grow
            with what was found. The paper sums.
        length_norm: multiply l_j by (most tokens in its group / its tokens), so that short,
            partial programs do not win "mml" by their length.
        weights: λ₁ and λ₂ of "mixed".

    Raises:
        ValueError: an unknown kind, or β outside (0, 1].

    >>> logps, one_problem = torch.tensor([[0.5], [0.1], [0.01]]).log(), torch.tensor([0, 0, 0])
    >>> for kind in ("mle", "mle_aug", "mml", "beta_mml"):
    ...     print(round(MultiTargetLoss(kind, beta=0.25)(logps, one_problem).item(), 4))
    0.6931
    7.6009
    0.4943
    -2.1681
    """

    def __init__(
        self,
        kind: Kind = "mle_aug",
        *,
        beta: float = 0.25,
        mean: bool = False,
        length_norm: bool = False,
        weights: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        if kind not in _KINDS:
            raise ValueError(f"kind is one of {', '.join(_KINDS)}, not '{kind}'")
        if not 0 < beta <= 1:
            raise ValueError(f"beta is in (0, 1], not {beta}")
        self.kind, self.beta, self.mean = kind, beta, mean
        self.length_norm, self.weights = length_norm, weights

    def forward(
        self,
        token_logps: Float[Tensor, "targets tokens"],
        groups: Int[Tensor, " targets"],
        mask: Bool[Tensor, "targets tokens"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of one batch.

        Args:
            token_logps: log-probability of each token of each target.
            groups: which problem each target is for, 0 to the number of problems − 1, each with at
                least one target, the reference first.
            mask: which tokens count; None: all.
        """
        mask = torch.ones_like(token_logps, dtype=torch.bool) if mask is None else mask
        count = int(groups.max()) + 1
        logps = token_logps.masked_fill(~mask, 0.0).sum(1)
        if self.length_norm:
            lengths = mask.sum(1).to(logps)
            most = _per_group(lengths, groups, count, "amax")[groups]
            logps = logps * most / lengths.clamp(min=1)
        return self._per_problem(logps, groups, count).mean()

    def _per_problem(self, logps: Tensor, groups: Tensor, count: int) -> Float[Tensor, " groups"]:
        if self.kind == "mle":
            order = torch.arange(len(groups), device=groups.device)
            return -logps[_per_group(order, groups, count, "amin")]
        augmented = -_per_group(logps, groups, count, "mean" if self.mean else "sum")
        if self.kind == "mle_aug":
            return augmented
        beta = 1.0 if self.kind == "mml" else self.beta
        marginal = -_log_sum_exp(beta * logps, groups, count) / beta
        if self.kind != "mixed":
            return marginal
        return self.weights[0] * augmented + self.weights[1] * marginal

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"{self.kind!r}, beta={self.beta}, mean={self.mean}, "
            f"length_norm={self.length_norm}, weights={self.weights}"
        )


def _per_group(values: Tensor, groups: Tensor, count: int, how: str) -> Float[Tensor, " groups"]:
    return values.new_zeros(count).scatter_reduce(0, groups, values, how, include_self=False)


def _log_sum_exp(values: Tensor, groups: Tensor, count: int) -> Float[Tensor, " groups"]:
    highest = _per_group(values.detach(), groups, count, "amax")
    shifted = (values - highest[groups]).exp()
    return highest + _per_group(shifted, groups, count, "sum").log()
