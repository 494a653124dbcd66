"""A network beside a slowly moving average of its own weights, which teaches it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.objectives import ProgressiveTargets, soft_cross_entropy


class EmaTaught(nn.Module):
    """A network that in train mode gives its logits and its teacher's beliefs, side by side.

    The teacher is the exponential average of the network's weights, moved before each training
    batch is answered; it runs in eval mode and gets no gradient. In eval mode the output is the
    network's logits alone. Train with `EmaTaughtLoss`.

    The control of progressive self-distillation that pays one more forward pass per step.

    Source: Tarvainen and Valpola 2017 (arXiv 1703.01780), with cross-entropy for consistency.

    Args:
        network: gives logits (batch, classes).
        decay: of the average, in [0, 1).

    >>> taught = EmaTaught(nn.Linear(4, 3))
    >>> taught.train()(torch.zeros(2, 4)).shape, taught.eval()(torch.zeros(2, 4)).shape
    (torch.Size([2, 6]), torch.Size([2, 3]))
    """

    started: Tensor

    def __init__(self, network: nn.Module, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is in [0, 1), not {decay}")
        self.network, self.decay = network, decay
        self.teacher = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, *inputs: Any, **named: Any) -> Float[Tensor, "batch outputs"]:
        """Logits; in train mode the teacher's probabilities beside them."""
        logits: Tensor = self.network(*inputs, **named)
        if not self.training:
            return logits
        with torch.no_grad():
            keep = self.decay if bool(self.started) else 0.0
            self.started.fill_(True)
            weights = zip(self.teacher.parameters(), self.network.parameters(), strict=True)
            for slow, fast in weights:
                slow.mul_(keep).add_(fast, alpha=1 - keep)
            buffers = zip(self.teacher.buffers(), self.network.buffers(), strict=True)
            for kept, now in buffers:
                kept.copy_(now)
            believed = self.teacher.eval()(*inputs, **named).softmax(-1)
        return torch.cat([logits, believed], -1)


class EmaTaughtLoss(nn.Module):
    """Cross-entropy against labels softened by the teacher, weighted as in `ProgressiveTargets`.

    >>> loss = EmaTaughtLoss(epochs=2)
    >>> round(loss(torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([[1.0, 0.0]]), 0.0).item(), 4)
    0.6931
    """

    def __init__(self, *, epochs: int, alpha: float = 0.8) -> None:
        super().__init__()
        self.soften = ProgressiveTargets(alpha, epochs=epochs)

    def forward(
        self,
        outputs: Float[Tensor, "batch twice_classes"],
        targets: Float[Tensor, "batch classes"],
        progress: float,
    ) -> Float[Tensor, ""]:
        """The loss, in nats."""
        logits, believed = outputs.chunk(2, -1)
        epoch = int(progress * self.soften.epochs + 1e-6)
        return soft_cross_entropy(logits, self.soften(targets, believed, epoch))
