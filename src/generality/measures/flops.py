"""What one forward pass costs, in arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def flops(model: nn.Module, *inputs: Any) -> int:
    """Floating-point operations of a forward pass in eval mode: two for each multiply-add.

    Counted by torch's `FlopCounterMode`: convolutions and matrix products, not normalisation,
    activations and sums. Papers that say "FLOPs" for multiply-adds mean half of this. The model is
    left in the mode it was in.

    >>> flops(nn.Linear(4, 3), torch.zeros(2, 4))
    48
    """
    training = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model.eval()(*inputs)
    finally:
        for module, mode in training.items():
            module.training = mode
    return int(counter.get_total_flops())
