"""Pruned weights kept at zero while a model is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from generality.measures.weight_importance import BLOCK_LINEARS, linear_layers


@contextmanager
def hold_zeros(model: nn.Module, *, targets: str = BLOCK_LINEARS) -> Iterator[nn.Module]:
    """Inside, weights of the matching linear layers that are zero now stay so in any training.

    The parameters are the same objects inside and afterwards, so an optimiser may be made before;
    what its state (momentum, weight decay) does to a held weight does not show.

    Raises:
        ValueError: no linear layer matches.

    >>> import torch
    >>> layer = nn.Linear(3, 1, bias=False)
    >>> layer.weight.data = torch.tensor([[1.0, 0.0, 2.0]])
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9)
    >>> with hold_zeros(nn.ModuleDict({"proj": layer}), targets="proj"):
    ...     layer(torch.ones(1, 3)).sum().backward()
    ...     optimizer.step()
    >>> layer.weight
    Parameter containing:
    tensor([[0.5000, 0.0000, 1.5000]], requires_grad=True)
    """
    layers = linear_layers(model, targets)
    for layer in layers.values():
        parametrize.register_parametrization(layer, "weight", _Mask(layer.weight != 0))
    try:
        yield model
    finally:
        for layer in layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


class _Mask(nn.Module):
    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, weight: Float[Tensor, "out inputs"]) -> Float[Tensor, "out inputs"]:
        return weight * self.get_buffer("kept")
