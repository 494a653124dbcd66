"""A layer that does nothing forward and turns the gradient round on the way back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class _Reverse(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, coeff: float) -> Tensor:
        return inputs.view_as(inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.coeff = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.coeff * gradients[0], None


class ReverseGrad(nn.Module):
    """Identity forward; backward, the gradient times −coeff.

    What comes after learns to lower a loss, what comes before to raise it, in one backward pass:
    a domain classifier behind it makes the features before it forget the domain.

    Source: Ganin and Lempitsky 2015 (arXiv 1409.7495), section 3.1.

    Args:
        coeff: how strongly the gradient comes back, ≥ 0; may be set anew at each step, see
            `dann_alpha`.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> ReverseGrad(0.5)(x).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """

    def __init__(self, coeff: float = 1.0) -> None:
        super().__init__()
        self.coeff = coeff

    def forward(self, inputs: Tensor) -> Tensor:
        """The inputs, unchanged."""
        result: Tensor = _Reverse.apply(inputs, self.coeff)
        return result

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"coeff={self.coeff}"


def dann_alpha(progress: float, gamma: float = 5.0) -> float:
    """How strongly to reverse at `progress` in [0, 1] of training: 2 / (1 + exp(−gamma·p)) − 1.

    Source: Ganin and Lempitsky 2015, section 5.2, with gamma 10 (FedKA, arXiv 2203.11635: 5).

    >>> [round(dann_alpha(p), 4) for p in (0.0, 0.1, 0.5, 1.0)]
    [0.0, 0.2449, 0.8483, 0.9866]
    """
    return 2 / (1 + math.exp(-gamma * progress)) - 1
