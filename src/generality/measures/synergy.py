"""Does a merged model do more than its experts would add up to?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Synergy:
    """Both in the score's own units; above 0, the merge is more than that.

    Attributes:
        over_best: merge − the best expert.
        over_sum: merge − (base + Σ (expert − base)), the additive expectation.
    """

    over_best: float
    over_sum: float


def synergy(merged: float, experts: Sequence[float], base: float) -> Synergy:
    """A merge's score against its best expert and against the sum of what the experts gained.

    Intervals come from the seeds: a claim compares either number with 0.

    Source: the headline of "Unconstrained Model Merging" (arXiv 2410.13699), "surpasses simple
    additive effects".

    Raises:
        ValueError: no experts.

    >>> found = synergy(0.75, experts=[0.5, 0.25], base=0.125)
    >>> found.over_best, found.over_sum
    (0.25, 0.125)
    """
    if not experts:
        raise ValueError("there are no experts to compare with")
    gains = sum(score - base for score in experts)
    return Synergy(merged - max(experts), merged - (base + gains))
