"""How sharply each weight of a model is determined by the data it was tuned on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def diagonal_fisher(
    model: nn.Module, examples: Iterable[Any], loss: Callable[[nn.Module, Any], Tensor]
) -> dict[str, Tensor]:
    """Mean squared gradient of each parameter, one example at a time: the empirical Fisher.

    What `generality.weights.merge(…, "fisher", fisher=[…])` weighs models by, number by number.
    Give examples one by one: the square of a batch's mean gradient is something else. With labels
    drawn from the model's own predictions instead of true ones it is the Fisher information itself.

    Source: Matena and Raffel 2022 (arXiv 2111.09832), section 3; they take hundreds of examples.

    Args:
        model: is left in the mode it is in, with its gradients cleared.
        examples: anything that `loss` takes.
        loss: −log p(example) of the model, a scalar.

    Returns:
        Float32 tensors by the names of the parameters that require gradients.

    Raises:
        ValueError: there are no examples.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> model.weight.data.fill_(2.0)
    tensor([[2.]])
    >>> squared = lambda model, x: (model(x) ** 2).sum() / 2
    >>> diagonal_fisher(model, [torch.tensor([1.0]), torch.tensor([2.0])], squared)
    {'weight': tensor([[34.]])}
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    count = 0
    for example in examples:
        count += 1
        model.zero_grad(set_to_none=True)
        loss(model, example).backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                found[name] += parameter.grad.float() ** 2
    model.zero_grad(set_to_none=True)
    if not count:
        raise ValueError("there are no examples to take gradients of")
    return {name: total / count for name, total in found.items()}
