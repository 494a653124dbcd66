"""Policy gradient on groups of answers to the same prompt (GRPO)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def grpo_advantages(
    rewards: Float[Tensor, " answers"],
    group_size: int,
    *,
    eps: float = 1e-4,
    unbiased: bool = True,
) -> Float[Tensor, " answers"]:
    """(reward − mean of its group) / (standard deviation of its group + eps).

    A group whose rewards are all the same gets 0: it teaches nothing.

    Source: Shao et al. 2024 (arXiv 2402.03300), section 4.1; `eps` and the unbiased deviation are
    those of TRL and of UniR (arXiv 2505.19075).

    Args:
        rewards: of the answers, group after group.
        group_size: answers to each prompt, at least 2.
        eps: added to the deviation.
        unbiased: divide by one less than the group's size.

    Raises:
        ValueError: the rewards are not whole groups of two or more.

    >>> rewards = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1])
    >>> [round(value, 4) for value in grpo_advantages(rewards, 8)[:2].tolist()]
    [1.2074, -0.7244]
    """
    if group_size < 2 or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards are no groups of {group_size}, at least 2")
    groups = rewards.float().view(-1, group_size)
    spread = groups.std(1, unbiased=unbiased, keepdim=True)
    return ((groups - groups.mean(1, keepdim=True)) / (spread + eps)).flatten()


def token_policy_loss(
    logp: Float[Tensor, "answers tokens"],
    old_logp: Float[Tensor, "answers tokens"] | None,
    advantages: Float[Tensor, " answers"],
    mask: Float[Tensor, "answers tokens"],
    *,
    clip: float = 0.2,
    normalize: Literal["token", "answer"] = "token",
) -> Float[Tensor, ""]:
    """−min(ρ A, clip(ρ, 1 − clip, 1 + clip) A), averaged, with ρ = exp(logp − old_logp).

    Source: Shao et al. 2024 (arXiv 2402.03300), equation 3 without its KL term; averaged over all
    tokens of the batch as UniR does (arXiv 2505.19075), or over each answer and then over answers.

    Args:
        logp: of the answers' tokens under the policy, in nats.
        old_logp: under the policy that wrote them; None: this very policy, so that ρ is 1 and the
            gradient that of −A·logp.
        advantages: of the answers.
        mask: 1 for the tokens of an answer, its first end token included; 0 after it.
        clip: how far ρ may go before the gradient stops.
        normalize: "token" or "answer".

    Raises:
        ValueError: an unknown `normalize`.

    >>> logits = torch.tensor([[[1.2, 0.5, -1.0]]], requires_grad=True)
    >>> logp = logits.log_softmax(-1)[..., 1]
    >>> loss = token_policy_loss(logp, None, torch.tensor([1.2074]), torch.ones(1, 1))
    >>> loss.backward()
    >>> logits.grad.numpy().round(3)
    array([[[ 0.751, -0.834,  0.083]]], dtype=float32)
    """
    if normalize not in ("token", "answer"):
        raise ValueError(f"normalize is 'token' or 'answer', not '{normalize}'")
    ratio = (logp - (logp.detach() if old_logp is None else old_logp)).exp()
    gain = advantages[:, None]
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    if normalize == "token":
        return -(surrogate * mask).sum() / mask.sum().clamp(min=1)
    return -((surrogate * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
