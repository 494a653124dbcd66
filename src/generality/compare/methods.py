"""The methods that learn from weak labels, and which of them apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from generality.errors import UserError, unknown
from generality.objectives import (
    ConfidenceLoss,
    ProductLoss,
    SelfDistillation,
    UpdateObjective,
    soft_cross_entropy,
)

_ALPHA = 0.8  # weight of a student's own past in the last epoch, the paper's
_WARM = 0.5  # share of training on labels alone, before an old model has a say


@dataclass(frozen=True)
class Method:
    """How a student learns from weak labels.

    Attributes:
        objective: the loss.
        soft: whether it takes the weak labels as distributions, or their most probable class.
        smoothing: share of each label that is spread evenly over all classes.
        same_if_hard: the method that it is equal to when the weak labels are hard.
        via: whether its labels come through intermediate models (`compare.bootstrap`).
        own_past: mix in what the student itself said of each row an epoch ago.
        update: how an old model has a say, a name of `UPDATE_LOSSES`; None: it has none.
    """

    objective: Callable[..., Any]
    soft: bool = True
    smoothing: float = 0.0
    same_if_hard: str | None = None
    via: bool = False
    own_past: bool = False
    update: str | None = None

    def targets(self, weak: Float[NDArray[Any], "*n classes"]) -> Float[NDArray[Any], "*n classes"]:
        """What the student is trained towards, given the weak labels as distributions."""
        classes = weak.shape[-1]
        if not self.soft:
            weak = np.eye(classes, dtype=np.float32)[weak.argmax(-1)]
        return ((1 - self.smoothing) * weak + self.smoothing / classes).astype(np.float32)

    def lesson(
        self,
        weak: Float[NDArray[Any], "seeds n classes"],
        *,
        epochs: int,
        teachers: Sequence[Float[NDArray[Any], "seeds n classes"]] = (),
    ) -> tuple[Callable[..., Any], Float[NDArray[Any], "seeds n columns"]]:
        """The loss and its targets for a training of so many epochs.

        Args:
            weak: labels of the training rows, as distributions.
            epochs: passes over them.
            teachers: for an update, what the old model and a student of naive training say of
                these rows.
        """
        targets = self.targets(weak)
        if self.own_past:
            rows, classes = targets.shape[-2:]
            index = np.broadcast_to(np.arange(rows, dtype=np.float32), targets.shape[:-1])
            loss = SelfDistillation(rows, classes, epochs=epochs, alpha=_ALPHA)
            return loss, np.concatenate([targets, index[..., None]], -1)
        if self.update is not None:
            columns = [targets, *(each.astype(np.float32) for each in teachers)]
            return UpdateObjective(self.update, warm=_WARM), np.concatenate(columns, -1)
        return self.objective, targets


METHODS = {
    "naive": Method(soft_cross_entropy),
    "hard": Method(soft_cross_entropy, soft=False, same_if_hard="naive"),
    "confidence-0.5": Method(ConfidenceLoss(alpha_max=0.5)),
    "confidence-0.75": Method(ConfidenceLoss(alpha_max=0.75)),
    # of p·w nothing is left but w where w is one-hot
    "product": Method(ProductLoss(), same_if_hard="naive"),
    "label-smoothing": Method(soft_cross_entropy, smoothing=0.1),
    "self-distillation": Method(soft_cross_entropy, own_past=True),
    "bootstrapped": Method(soft_cross_entropy, via=True),
    "compatible": Method(soft_cross_entropy, update="muscle"),
    "distill-average": Method(soft_cross_entropy, update="distill-average"),
    "distill-old": Method(soft_cross_entropy, update="distill-old"),
}
"""By name. "label-smoothing" is the trivial control: a method that does not beat it has not shown
that it does more than soften its labels. Those with `update` need an old model, whose say begins
halfway through a training as long as any other; "distill-average", which listens to it everywhere,
is the rival that "compatible" (MUSCLE) has to beat."""


def applicable(
    asked: Sequence[str] | None, *, soft: bool, via: bool = False, old_model: bool = False
) -> tuple[list[str], list[str]]:
    """The methods to run, and sentences about those left out.

    Args:
        asked: names; None for all.
        soft: whether the weak labels are distributions rather than classes.
        via: whether there is an intermediate model to bootstrap through.
        old_model: whether there is one whose right answers should be kept.

    Raises:
        UserError: a name that there is not, or no method at all.

    >>> applicable(["naive", "hard"], soft=False)
    (['naive'], ['hard is left out: with hard weak labels it is the same as naive.'])
    """
    possible = [
        name
        for name, method in METHODS.items()
        if (via or not method.via) and (old_model or method.update is None)
    ]
    names = list(dict.fromkeys(possible if asked is None else asked))
    if not names:
        raise UserError("There is no method to compare; leave out --methods to run all.")
    for name in names:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
        if name not in possible and METHODS[name].update is not None:
            raise UserError(f"{name} needs an old model: give it as --old-model.")
        if name not in possible:
            raise UserError(f"{name} goes through an intermediate model: name it with --via.")
    if via and "bootstrapped" not in names:
        raise UserError("--via is for the method bootstrapped: add it to --methods, or drop --via.")
    if soft:
        return names, []
    kept = list(dict.fromkeys(METHODS[name].same_if_hard or name for name in names))
    same = [
        f"{name} is left out: with hard weak labels it is the same as {METHODS[name].same_if_hard}."
        for name in names
        if METHODS[name].same_if_hard
    ]
    return kept, same
