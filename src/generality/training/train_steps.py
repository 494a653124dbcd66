"""A network trained for a number of steps, the same way for every architecture compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler


def train_steps(
    model: nn.Module,
    inputs: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    *,
    steps: int,
    seed: int,
    batch: int = 64,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 3e-4,
    clip: float = 5.0,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    schedule: Callable[[torch.optim.Optimizer, int], LRScheduler] = CosineAnnealingLR,
) -> list[float]:
    """SGD with momentum for `steps` batches; the loss of each. The model is left in eval mode.

    Args:
        model: its parameters that require gradients are trained.
        inputs, labels: to train on; every pass is shuffled by the seed.
        clip: the gradient's largest norm.
        loss: of the model's outputs and the labels.
        schedule: of the rate, called with the optimiser and the steps, moved after every batch.

    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> losses = train_steps(nn.Linear(3, 2), x, (x[:, 0] > 0).long(), steps=40, seed=0,
    ...                      learning_rate=0.5)
    >>> losses[-1] < losses[0]
    True
    """
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay
    )
    rate = schedule(optimizer, steps)
    model.train()
    losses: list[float] = []
    for rows in shuffled_batches(len(inputs), min(batch, len(inputs)), seed):
        if len(losses) == steps:
            break
        value = loss(model(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        rate.step()
        losses.append(value.item())
    model.eval()
    return losses


def shuffled_batches(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Rows of batches without end: every pass in another order, the last short batch left out.

    >>> [len(rows) for rows, _ in zip(shuffled_batches(10, 4, seed=0), range(3))]
    [4, 4, 4]
    """
    drawn = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=drawn)
        yield from order[: count - count % batch].split(batch)
