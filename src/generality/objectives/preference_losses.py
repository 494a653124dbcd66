"""Losses on pairs of responses of which one is preferred, for rewards and for policies."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def pairwise_reward_loss(
    difference: Float[Tensor, " batch"], preference: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Mean −p log σ(d) − (1 − p) log σ(−d), in nats: Bradley and Terry with soft preferences.

    Args:
        difference: reward of the first response minus that of the second.
        preference: probability in [0, 1] that the first is preferred. Show pairs in an order that
            does not depend on it, or position becomes the label.

    >>> import torch
    >>> loss = pairwise_reward_loss(torch.tensor([1.2, -0.4]), torch.tensor([1.0, 0.0]))
    >>> round(loss.item(), 6)
    0.388149
    """
    return functional.binary_cross_entropy_with_logits(difference, preference)


def dpo_loss(
    chosen: Float[Tensor, " batch"],
    rejected: Float[Tensor, " batch"],
    reference_chosen: Float[Tensor, " batch"],
    reference_rejected: Float[Tensor, " batch"],
    *,
    beta: float = 0.1,
) -> Float[Tensor, " batch"]:
    """−log σ(β[(log π_c − log π_r) − (log ref_c − log ref_r)]) of each pair, in nats.

    Args:
        chosen: log-probability, summed over tokens, of the preferred response under the policy.
        rejected: of the other one.
        reference_chosen: likewise under the frozen model that the policy started from.
        reference_rejected: of the other one.
        beta: how strongly the policy is kept near its reference, above 0.

    Raises:
        ValueError: beta not above 0.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7.

    >>> import torch
    >>> pair = [torch.tensor([value]) for value in (-30.0, -31.0, -34.0, -33.0)]
    >>> round(dpo_loss(*pair, beta=0.1).item(), 6)
    0.598139
    """
    _positive(beta)
    margin = (chosen - rejected) - (reference_chosen - reference_rejected)
    return -functional.logsigmoid(beta * margin)


def simpo_loss(
    chosen: Float[Tensor, " batch"],
    rejected: Float[Tensor, " batch"],
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> Float[Tensor, " batch"]:
    """−log σ(β(mean log π_c − mean log π_r) − γ) of each pair, in nats; needs no reference.

    Args:
        chosen: log-probability per token of the preferred response under the policy.
        rejected: of the other one.
        beta: scale of the difference, above 0.
        gamma: by how much, after scaling, the preferred one is to win.

    Raises:
        ValueError: beta not above 0.

    Source: Meng et al. 2024 (arXiv 2405.14734), equation 6.

    >>> import torch
    >>> round(simpo_loss(torch.tensor([-1.1]), torch.tensor([-1.5])).item(), 6)
    0.798139
    """
    _positive(beta)
    return -functional.logsigmoid(beta * (chosen - rejected) - gamma)


def _positive(beta: float) -> None:
    if beta <= 0:
        raise ValueError(f"beta is above 0, not {beta}")
