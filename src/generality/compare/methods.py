"""The methods that learn from weak labels, and which of them apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from generality.errors import UserError, unknown
from generality.objectives import ConfidenceLoss, ProductLoss, soft_cross_entropy


@dataclass(frozen=True)
class Method:
    """How a student learns from weak labels.

    Attributes:
        objective: the loss.
        soft: whether it takes the weak labels as distributions, or their most probable class.
        smoothing: share of each label that is spread evenly over all classes.
        same_if_hard: the method that it is equal to when the weak labels are hard.
    """

    objective: Callable[..., Any]
    soft: bool = True
    smoothing: float = 0.0
    same_if_hard: str | None = None

    def targets(self, weak: Float[NDArray[Any], "*n classes"]) -> Float[NDArray[Any], "*n classes"]:
        """What the student is trained towards, given the weak labels as distributions."""
        classes = weak.shape[-1]
        if not self.soft:
            weak = np.eye(classes, dtype=np.float32)[weak.argmax(-1)]
        return ((1 - self.smoothing) * weak + self.smoothing / classes).astype(np.float32)


METHODS = {
    "naive": Method(soft_cross_entropy),
    "hard": Method(soft_cross_entropy, soft=False, same_if_hard="naive"),
    "confidence-0.5": Method(ConfidenceLoss(alpha_max=0.5)),
    "confidence-0.75": Method(ConfidenceLoss(alpha_max=0.75)),
    # of p·w nothing is left but w where w is one-hot
    "product": Method(ProductLoss(), same_if_hard="naive"),
    "label-smoothing": Method(soft_cross_entropy, smoothing=0.1),
}
"""By name. "label-smoothing" is the trivial control: a method that does not beat it has not shown
that it does more than soften its labels."""


def applicable(asked: Sequence[str] | None, *, soft: bool) -> tuple[list[str], list[str]]:
    """The methods to run, and sentences about those left out.

    Args:
        asked: names; None for all.
        soft: whether the weak labels are distributions rather than classes.

    Raises:
        UserError: a name that there is not, or no method at all.

    >>> applicable(["naive", "hard"], soft=False)
    (['naive'], ['hard is left out: with hard weak labels it is the same as naive.'])
    """
    names = list(dict.fromkeys(METHODS if asked is None else asked))
    if not names:
        raise UserError("There is no method to compare; leave out --methods to run all.")
    for name in names:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    if soft:
        return names, []
    kept = list(dict.fromkeys(METHODS[name].same_if_hard or name for name in names))
    same = [
        f"{name} is left out: with hard weak labels it is the same as {METHODS[name].same_if_hard}."
        for name in names
        if METHODS[name].same_if_hard
    ]
    return kept, same
