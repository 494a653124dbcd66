"""A learning rate that falls by the same factor at almost every epoch, as a torch scheduler."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def cosine_power_factors(epochs: int, order: float = 10.0, warmup: int = 0) -> list[float]:
    """Of each epoch, the share in [0, 1] of the way from the lowest to the highest rate.

    Epoch t = 1 … T has g_t = order^(c_t + 1) with c_t = (1 + cos(πt/T))/2, brought to [0, 1] by
    the first and the last. Order 1 is plain cosine annealing (g = c); the larger it is, the sooner
    the rate falls and the longer it stays small.

    With warm-up the first `warmup` + 1 epochs are a line up to 1 and the others t = 2 … T − warmup
    of the curve over T − warmup epochs, brought to [0, 1] by its values at 0 and at the end. This
    is the released schedule, which skips the curve's first epoch after the line.

    Source: Hundt, Jain and Hager 2019 (sharpDARTS, arXiv 1903.09900), section 4.

    Raises:
        ValueError: fewer than 2 epochs after warm-up, an order below 1, a negative warm-up.

    >>> [round(factor, 3) for factor in cosine_power_factors(5, order=10)]
    [1.0, 0.5, 0.173, 0.035, 0.0]
    """
    rest = epochs - warmup
    if warmup < 0 or rest < 2 or order < 1:
        raise ValueError(
            f"at least 2 epochs after warm-up and an order of at least 1, not {epochs} epochs, "
            f"{warmup} of warm-up and order {order}"
        )

    def power(epoch: int) -> float:
        cosine = (1 + math.cos(math.pi * epoch / rest)) / 2
        return cosine if order == 1 else float(order ** (cosine + 1))

    low, high = power(rest), power(0 if warmup else 1)
    curve = [(power(epoch) - low) / (high - low) for epoch in range(1, rest + 1)]
    if not warmup:
        return curve
    return [(epoch + 1) / (warmup + 1) for epoch in range(warmup + 1)] + curve[1:]


class CosinePowerAnnealingLR(LRScheduler):
    """Cosine power annealing: like `torch.optim.lr_scheduler.CosineAnnealingLR`, with an order.

    Call `step()` after every epoch (or after every batch, with `T_max` in batches). After `T_max`
    of them the rate stays at `eta_min`. A state dict taken up goes on where it was.

    Args:
        optimizer: its groups' rates are the highest.
        T_max: epochs, warm-up included.
        eta_min: the last epoch's rate.
        order: p, at least 1; 1 is cosine annealing, the paper searches with 2 and trains on
            ImageNet with 10.
        warmup: epochs of growth before the highest rate.
        last_epoch: as in torch's schedulers.

    Source: Hundt, Jain and Hager 2019 (sharpDARTS, arXiv 1903.09900); see `cosine_power_factors`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> schedule = CosinePowerAnnealingLR(optimizer, T_max=10, eta_min=1e-4)
    >>> for _ in range(3):
    ...     print(round(schedule.get_last_lr()[0], 5))
    ...     optimizer.step()
    ...     schedule.step()
    0.1
    0.08315
    0.06182
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,
        eta_min: float = 0.0,
        order: float = 10.0,
        warmup: int = 0,
        last_epoch: int = -1,
    ) -> None:
        self.factors = cosine_power_factors(T_max, order, warmup)
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> Any:
        """The rate of every group at this epoch."""
        factor = self.factors[min(self.last_epoch, len(self.factors) - 1)]
        return [self.eta_min + (float(base) - self.eta_min) * factor for base in self.base_lrs]
