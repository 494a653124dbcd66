"""The gradient of every example's loss on its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

Batch = Mapping[str, Tensor]
ExampleLoss = Callable[[Any, Batch], Float[Tensor, " batch"]]
"""From a model and a batch to one loss an example, each of its own row only."""


def per_example_gradients(
    model: nn.Module,
    loss: ExampleLoss,
    batch: Batch,
    *,
    params: str = "",
    memory: int | None = None,
) -> Float[Tensor, "batch parameters"]:
    """Each example's gradient, its parameters flattened and joined in the model's own order.

    The model's mode and its `.grad` stay as they are; put it in eval mode first, or dropout makes
    every gradient a draw. What has no gradient (a layer that is not used) is 0. For large models
    and many examples take `ProjectedGradients`, which never forms a gradient.

    Args:
        model: any module.
        loss: loss(model, batch) → (batch,).
        batch: tensors with the examples along the first axis.
        params: a regular expression that parameters' names must contain: "" all of them, "lora_"
            those of adapters, r"layers\\.11\\." a block.
        memory: None takes one example at a time through plain autograd, which any model allows. A
            number of bytes takes as many examples at a time as have their gradients fit into it,
            by vmap of grad: faster for small models, if all they do can be vmapped.

    Raises:
        ValueError: no parameter of such a name, or losses that are not one an example.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> square = lambda model, batch: (model(batch["x"])[:, 0] - batch["y"]) ** 2 / 2
    >>> batch = {"x": torch.tensor([[1.0, 0.0], [1.0, 2.0]]), "y": torch.zeros(2)}
    >>> _ = nn.init.ones_(model.weight)
    >>> per_example_gradients(model, square, batch)
    tensor([[1., 0.],
            [3., 6.]])
    """
    chosen = {name: p.detach() for name, p in model.named_parameters() if re.search(params, name)}
    if not chosen:
        raise ValueError(f"no parameter's name contains '{params}'")
    size, width = len(next(iter(batch.values()))), sum(p.numel() for p in chosen.values())

    def one(weights: dict[str, Tensor], example: Batch) -> Tensor:
        alone = {name: column[None] for name, column in example.items()}
        losses = loss(lambda *a, **k: functional_call(model, weights, a, k), alone)
        if losses.shape != (1,):
            raise ValueError(f"losses of one example have shape {tuple(losses.shape)}, not (1,)")
        return losses[0]

    if memory is not None:
        at_a_time = max(1, memory // (4 * width))
        found = vmap(grad(one), in_dims=(None, 0), chunk_size=at_a_time)(chosen, dict(batch))
        return torch.cat([found[name].reshape(size, -1) for name in chosen], 1)
    rows = []
    for row in range(size):
        weights = {name: p.clone().requires_grad_() for name, p in chosen.items()}
        with torch.enable_grad():
            value = one(weights, {name: column[row] for name, column in batch.items()})
        pieces = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
        rows.append(torch.cat([piece.reshape(-1) for piece in pieces]))
    return torch.stack(rows)
