"""How a network's quality falls as its units are switched off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Shaped

from generality.measures.accuracy import accuracy


class Truncatable(Protocol):
    """A module whose last units can be switched off: `generality.modules.TruncatableMLP`."""

    active_units: int
    units_per_stage: int

    @property
    def units(self) -> int:
        """Hidden units in all."""

    def __call__(self, inputs: Any, /) -> Any:
        """Outputs of the active part."""


@dataclass(frozen=True)
class TruncationPoint:
    """The metric with `units` of the units kept, which is `share` of them all."""

    share: float
    units: int
    value: float


def truncation_curve(
    model: Truncatable,
    X: Float[Any, "n d"],
    y: Shaped[Any, " n"],
    fractions: Sequence[float] = (0.125, 0.25, 0.5, 0.75, 1.0),
    *,
    metric: Callable[[Any, Any], float] | None = None,
) -> list[TruncationPoint]:
    """The metric at each share of units kept, rounded down to whole stages of the model.

    Args:
        model: a module with `units`, `units_per_stage` and `active_units`; left as it was found.
        X: features.
        y: what the metric compares with.
        fractions: shares of units kept, in [0, 1].
        metric: (outputs (n, K) as numpy, y) -> number. None is accuracy of the highest logit, or
            of the sign of a single one.

    Raises:
        ValueError: for a share outside [0, 1].

    Source: Emami and Martínez-Muñoz 2023 (IEEE Access 11), the experiment on removing units.

    >>> from torch import nn
    >>> from generality.modules import TruncatableMLP
    >>> net, X = TruncatableMLP(nn.Linear(3, 8), nn.Linear(8, 2)), np.ones((4, 3), np.float32)
    >>> [point.units for point in truncation_curve(net, X, [0, 1, 0, 1], (0.0, 0.3, 1.0))]
    [0, 2, 8]
    """
    if any(not 0 <= share <= 1 for share in fractions):
        raise ValueError(f"fractions are shares in [0, 1], not {tuple(fractions)}")
    measure = metric or _accuracy
    inputs = torch.as_tensor(np.asarray(X))
    if isinstance(model, torch.nn.Module):
        inputs = inputs.to(next(model.parameters()))
    before, points = model.active_units, []
    try:
        for share in fractions:
            stages = int(share * model.units / model.units_per_stage + 1e-9)
            model.active_units = stages * model.units_per_stage
            with torch.inference_mode():
                outputs = model(inputs).cpu().numpy()
            points.append(
                TruncationPoint(float(share), model.active_units, float(measure(outputs, y)))
            )
    finally:
        model.active_units = before
    return points


def _accuracy(outputs: np.ndarray, truth: Any) -> float:
    if outputs.shape[1] == 1:
        return accuracy((outputs[:, 0] > 0).astype(int), truth)
    return accuracy(outputs, truth)
