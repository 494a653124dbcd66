"""How the learning rate moves over training."""

from __future__ import annotations

import math
from typing import Literal, get_args

Schedule = Literal["constant", "cosine", "linear", "exponential"]


def learning_rate_factor(
    schedule: Schedule, step: int, total_steps: int, *, warmup: float = 0.0
) -> float:
    """What the learning rate is multiplied by at `step` (0-based) of `total_steps`, in [0, 1].

    The rate grows linearly over the first `warmup` share of the steps (none of them at zero), then
    stays ("constant"), or falls to 0, reached after the last step, along a half cosine ("cosine")
    or a line ("linear"), or to a hundredth, by one factor at every step ("exponential"). Without
    warm-up, "cosine" is torch's `CosineAnnealingLR` with T_max equal to the number of steps.

    Raises:
        ValueError: for an unknown schedule, or a warm-up outside [0, 1).

    >>> [round(learning_rate_factor("cosine", step, 4), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    >>> [round(learning_rate_factor("linear", step, 6, warmup=0.34), 2) for step in range(6)]
    [0.33, 0.67, 1.0, 0.75, 0.5, 0.25]
    """
    if schedule not in get_args(Schedule):
        raise ValueError(f"schedule is one of {', '.join(get_args(Schedule))}, not '{schedule}'")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is a share of training in [0, 1), not {warmup}")
    warm_steps = int(warmup * total_steps)
    if step < warm_steps:
        return (step + 1) / (warm_steps + 1)
    done = (step - warm_steps) / (total_steps - warm_steps)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "exponential":
        return 0.01**done
    return 1 - done if schedule == "linear" else 1.0
