"""A network in two parts: what makes features, and a head that reads them."""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn


class Featurized(nn.Module):
    """`head(featurizer(x))`, with both parts at hand.

    Domain penalties look at features and at the head apart; test-time methods keep the features
    and replace the head. `nn.Identity()` as featurizer makes a probe on features you have.

    Args:
        featurizer: (batch, ...) to (batch, features).
        head: (batch, features) to (batch, classes); a linear layer for the methods that need one.

    >>> import torch
    >>> model = Featurized(mlp(8, 16, 16), nn.Linear(16, 3))
    >>> model(torch.zeros(5, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(self, featurizer: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.featurizer = featurizer
        self.head = head

    def forward(self, inputs: Tensor) -> Float[Tensor, "batch classes"]:
        """Logits of a batch."""
        logits: Tensor = self.head(self.featurizer(inputs))
        return logits


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them; the last one is linear.

    Inputs of more than one dimension (images) are flattened. `mlp(n, k)` is one linear layer.

    Raises:
        ValueError: for fewer than two widths.

    >>> mlp(4, 8, 2)
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=4, out_features=8, bias=True)
      (2): ReLU()
      (3): Linear(in_features=8, out_features=2, bias=True)
    )
    """
    if len(widths) < 2:
        raise ValueError("mlp needs the width of its input and of its output at least")
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
