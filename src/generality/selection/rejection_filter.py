"""Of many sampled solutions, those whose answer is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Accepted:
    """What came through.

    Attributes:
        solutions: of each problem, those kept; empty where none was right.
        refused: samples whose answer was wrong.
        repeated: right samples that were there already.
        unsolved: problems without a right sample. They are the hard ones: what is trained on is
            easier than what was asked.
    """

    solutions: list[list[str]]
    refused: int
    repeated: int
    unsolved: int


def rejection_filter(
    samples: Sequence[Sequence[str]],
    is_right: Callable[[int, str], Any],
    *,
    at_most: int | None = None,
) -> Accepted:
    """Keeps the sampled solutions of each problem whose final answer is right, each text once.

    Source: Fu et al. 2023 (arXiv 2301.12726): of 40 samples a question all right ones are kept
    for tuning on chains of thought, and one for tuning on answers alone.

    Args:
        samples: of each problem.
        is_right: whether a solution of the problem at a place is right, such as
            `lambda place, text: problems[place].check(text)`.
        at_most: solutions kept of a problem, the first ones; None: all.

    >>> samples = [["=> 4", "=> 5", "=> 4"], ["=> 1"]]
    >>> found = rejection_filter(samples, lambda place, text: text == "=> 4")
    >>> found.solutions, found.refused, found.repeated, found.unsolved
    ([['=> 4'], []], 2, 1, 1)
    """
    if at_most is not None and at_most < 1:
        raise ValueError(f"at_most is at least 1, not {at_most}")
    right = [[s for s in found if is_right(place, s)] for place, found in enumerate(samples)]
    once = [list(dict.fromkeys(found)) for found in right]
    return Accepted(
        solutions=[found[:at_most] for found in once],
        refused=sum(map(len, samples)) - sum(map(len, right)),
        repeated=sum(map(len, right)) - sum(map(len, once)),
        unsolved=sum(not found for found in right),
    )
