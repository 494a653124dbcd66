"""The trainings of a leave-one-domain-out tournament, and what is measured on each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from generality.benchmarks import stratified
from generality.compare.domain_splits import DomainSplit, split_domain
from generality.measures import accuracy, ece

FEWEST_IN_GROUP = 5
"""Scored rows below which a group of the target is not looked at."""


@dataclass(frozen=True)
class Arm:
    """One training: on these domains, with this draw of the hyper-parameters and this seed.

    Attributes:
        rows: training rows of each domain, in the order of the domains.
        without: the domain of the sources that is left out to choose by; −1 for none.
        ceiling: whether it learns from labels of the target.
    """

    draw: int
    seed: int
    rows: tuple[Int[np.ndarray, " n"], ...]
    without: int = -1
    ceiling: bool = False


@dataclass(frozen=True)
class Fold:
    """One target and the domains that are trained on, with the splits of every seed.

    Attributes:
        target: the domain left out; −1 when none is, to refit on all.
        sources: domains trained on.
        splits: `splits[seed][domain]`.
        classes: how many there are.
        sample: labelled rows of the target that one has; four fifths of them are trained on, as a
            domain of their own, and a fifth can be chosen by.
    """

    target: int
    sources: tuple[int, ...]
    splits: list[list[DomainSplit]]
    classes: int
    sample: int = 0

    def arms(self, labels: Int[np.ndarray, " n"], draws: int, *, inner: bool) -> list[Arm]:
        """Every seed and draw; with `inner` each once more without each source in turn."""
        left_out = self.sources if inner else (-1,)
        return [
            Arm(draw, seed, self._train(labels, seed, without), without)
            for without in left_out
            for seed in range(len(self.splits))
            for draw in range(draws)
        ]

    def ceiling_arms(self, labels: Int[np.ndarray, " n"], draws: int) -> list[list[Arm]]:
        """The same training with labels of the target: on it alone, and beside the sources."""
        seeds = range(len(self.splits))
        own = [self.target_part(labels, seed).train for seed in seeds]
        together = [(*self._sources(seed, -1), own[seed]) for seed in seeds]
        return [
            [Arm(d, s, rows, ceiling=True) for s, rows in enumerate(each) for d in range(draws)]
            for each in ([(part,) for part in own], together)
        ]

    def target_part(self, labels: Int[np.ndarray, " n"], seed: int) -> DomainSplit:
        """The known half of the target: what the ceiling learns from, and is chosen by."""
        return split_domain(labels, self.splits[seed][self.target].known, seed)

    def sampled(self, labels: Int[np.ndarray, " n"], seed: int) -> DomainSplit:
        """The `sample` labelled rows of the target that one has, classes in proportion."""
        known = self.splits[seed][self.target].known
        return split_domain(labels, known[stratified(labels[known], self.sample, seed)], seed)

    def _train(
        self, labels: Int[np.ndarray, " n"], seed: int, without: int
    ) -> tuple[np.ndarray, ...]:
        own = (self.sampled(labels, seed).train,) if self.sample else ()
        return (*self._sources(seed, without), *own)

    def _sources(self, seed: int, without: int) -> tuple[np.ndarray, ...]:
        return tuple(self.splits[seed][d].train for d in self.sources if d != without)


Answer = Callable[[int, np.ndarray, str], np.ndarray]
"""Class probabilities from (place of the arm, rows, view)."""


def scores(
    probabilities: Float[np.ndarray, "n classes"],
    truth: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
) -> dict[str, float]:
    """Accuracy, that of the worst group, and calibration error."""
    right = probabilities.argmax(1) == truth
    large = np.flatnonzero(np.bincount(groups) >= FEWEST_IN_GROUP)
    return {
        "score": float(right.mean()),
        "worst_group": min((float(right[groups == g].mean()) for g in large), default=math.nan),
        "ece": ece(probabilities, truth),
    }


def sure(probabilities: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
    """Probabilities that can be scored: a network that diverged knows nothing of any class.

    >>> sure(np.array([[0.9, 0.1], [np.nan, np.nan]])).tolist()
    [[0.9, 0.1], [0.5, 0.5]]
    """
    known = np.isfinite(probabilities).all(1, keepdims=True)
    return np.where(known, probabilities, 1 / probabilities.shape[1])


def mean(values: Sequence[float]) -> float:
    """Mean of what is known; NaN for nothing."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def candidate(
    answer: Answer,
    place: int,
    arm: Arm,
    fold: Fold,
    labels: np.ndarray,
    groups: np.ndarray,
    views: Sequence[str],
) -> dict[str, float]:
    """Criteria and scores of one arm."""
    split = fold.splits[arm.seed]
    held = [split[domain].held for domain in fold.sources]
    together = np.concatenate(held)
    crafted = [view for view in views if view and len(together)]
    found: dict[str, float] = {
        "draw": arm.draw,
        "seed": arm.seed,
        "held-out-source": mean(
            [accuracy(answer(place, rows, ""), labels[rows]) for rows in held if len(rows)]
        ),
    }
    if crafted:
        found["crafted-shift"] = mean(
            [accuracy(answer(place, together, view), labels[together]) for view in crafted]
        )
    if fold.target >= 0 and len(split[fold.target].score):
        known, scored = split[fold.target].known, split[fold.target].score
        if fold.sample:
            sample = fold.sampled(labels, arm.seed)
            found["target-sample"] = accuracy(answer(place, sample.held, ""), labels[sample.held])
            known = np.setdiff1d(known, sample.train)
        found["oracle"] = accuracy(answer(place, known, ""), labels[known])
        found |= scores(answer(place, scored, ""), labels[scored], groups[scored])
    return found


def rows_of(fold: Fold) -> Int[np.ndarray, " rows"]:
    """Rows of the sources; the same in every seed."""
    first = fold.splits[0]
    return np.concatenate([each for d in fold.sources for each in (first[d].train, first[d].held)])
