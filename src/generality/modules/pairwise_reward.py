"""A scalar reward that learns from which of two inputs is preferred."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class PairwiseReward(nn.Module):
    """The reward of one input minus that of another, by one and the same model.

    Train it with `pairwise_reward_loss(difference, preference)` and show pairs in an order that
    does not depend on the preference. At real scale `trl`'s RewardTrainer does the same to hard
    labels.

    Args:
        score: from an input to one number each: a module that gives (batch,) or (batch, 1), or a
            `transformers` sequence classifier with `num_labels=1`.

    Source: Bradley and Terry 1952; as in Yang et al. 2025 (arXiv 2406.11431).

    >>> import torch
    >>> reward = PairwiseReward(nn.Linear(3, 1))
    >>> one, two = torch.randn(2, 5, 3)
    >>> bool(torch.equal(reward(one, two), -reward(two, one)))
    True
    """

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def forward(self, first: Any, second: Any) -> Float[Tensor, " batch"]:
        """r(first) − r(second); an input is a tensor, or a dictionary of keyword arguments."""
        return self.reward(first) - self.reward(second)

    def reward(self, given: Any) -> Float[Tensor, " batch"]:
        """The reward of each input. Raises ValueError where the model gives several numbers."""
        is_named = hasattr(given, "keys")
        said = self.score(**given) if is_named else self.score(given)
        numbers: Tensor = getattr(said, "logits", said)
        if numbers.ndim > 2 or (numbers.ndim == 2 and numbers.shape[1] != 1):
            raise ValueError(f"a reward is one number an input, not {tuple(numbers.shape)}")
        return numbers.reshape(len(numbers))
