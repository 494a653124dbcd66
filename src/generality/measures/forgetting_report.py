"""What a tuning cost on tasks that it was not for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ForgettingReport:
    """Drops of scores, in their own unit; a negative drop is a gain.

    Attributes:
        drops: before − after, of each suite.
        average: mean of the drops.
        worst: the suite that dropped most.
        avoided: 1 − average / the baseline's average drop: 1 where nothing was forgotten, 0 where
            as much as the baseline forgot, below 0 where more; NaN without a baseline, or where
            the baseline forgot nothing.
    """

    drops: dict[str, float]
    average: float
    worst: str
    avoided: float


def forgetting_report(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    baseline: Mapping[str, float] | None = None,
) -> ForgettingReport:
    """How far scores on other tasks fell, and how much of a baseline's fall was avoided.

    Compare tunings at like accuracy on their own task too: one that learned less forgot less.

    Args:
        before: score of each suite before tuning; higher is better.
        after: of the tuned model, for the same suites.
        baseline: of another tuned model, usually by plain supervised tuning.

    Raises:
        ValueError: no suites, or not the same ones.

    Source: Gupta et al. 2025 (arXiv 2502.08130): average drops of 4.4 (SFT) and 2.5 (S3FT).

    >>> before = {"mmlu": 59.0, "winogrande": 74.0}
    >>> report = forgetting_report(
    ...     before, {"mmlu": 57.0, "winogrande": 71.0}, baseline={"mmlu": 55.0, "winogrande": 69.2}
    ... )
    >>> report.average, report.worst, round(report.avoided, 6)
    (2.5, 'winogrande', 0.431818)
    """
    for scores in (after, before if baseline is None else baseline):
        if not before or set(scores) != set(before):
            raise ValueError(f"suites differ: {sorted(before)} and {sorted(scores)}")
    drops = {suite: before[suite] - after[suite] for suite in before}
    average = sum(drops.values()) / len(drops)
    avoided = math.nan
    if baseline is not None:
        lost = sum(before[suite] - baseline[suite] for suite in before) / len(before)
        avoided = 1 - average / lost if lost > 0 else math.nan
    return ForgettingReport(drops, average, max(drops, key=lambda suite: drops[suite]), avoided)
