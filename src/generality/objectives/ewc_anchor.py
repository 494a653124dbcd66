"""A spring from every weight to where it was, stiffer for the weights that matter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn


class EWCAnchor(nn.Module):
    """strength · Σ importance · (w − w₀)², to be added to a loss while tuning.

    Keeps what a model can do in general while it learns a domain: the importance is that of the
    general ability (`hessian_importance` on open text, or Fisher diagonals for EWC proper). It is
    the form of D-Pruner's regulariser that acts; as released, that one compares weights before
    and after a single step and is a billionth of the gradient.

    Args:
        importance: parameter name → scores of its shape; other parameters move freely.
        initial: the weights w₀ to stay near.
        strength: the factor in front; times ½ Fisher it is EWC's λ.

    Source: Kirkpatrick et al. 2017 (EWC, arXiv 1612.00796), equation 3; D-Pruner (arXiv
    2405.06275), equation 4.

    Raises:
        ValueError: an importance without initial weights of its shape.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> anchor = EWCAnchor({"weight": torch.tensor([[1.0, 4.0]])}, {"weight": torch.zeros(1, 2)})
    >>> _ = nn.init.constant_(model.weight, 0.5)
    >>> anchor(model).item()
    0.125
    """

    def __init__(
        self,
        importance: Mapping[str, Tensor],
        initial: Mapping[str, Tensor],
        strength: float = 0.1,
    ) -> None:
        super().__init__()
        self.strength = strength
        self.names = tuple(importance)
        for i, name in enumerate(self.names):
            start = initial.get(name)
            if start is None or start.shape != importance[name].shape:
                raise ValueError(f"there are no initial weights for the importance of '{name}'")
            self.register_buffer(f"importance_{i}", importance[name].detach())
            self.register_buffer(f"initial_{i}", start.detach().clone())

    def forward(self, model: nn.Module) -> Float[Tensor, ""]:
        """The penalty for a model whose parameters have the names of the importance."""
        total = torch.zeros(())
        for i, name in enumerate(self.names):
            moved = model.get_parameter(name) - self.get_buffer(f"initial_{i}")
            total = total + (self.get_buffer(f"importance_{i}") * moved.square()).sum()
        return self.strength * total
