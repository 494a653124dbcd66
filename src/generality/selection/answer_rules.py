"""One answer among many sampled ones, by how often it came or how well it teaches."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, get_args

Rule = Literal["sum", "max", "avg", "majority"]


def _as_it_is(answer: str) -> Hashable:
    return " ".join(answer.split())


def select_answer(
    answers: Sequence[str],
    scores: Sequence[float] | None = None,
    rule: Rule = "sum",
    *,
    equal: Callable[[str], Hashable] = _as_it_is,
) -> str:
    """The answer that the rule prefers, in the spelling that came first.

    With S_a the scores of the samples whose answer is a, the rule takes the largest sum of S_a,
    maximum, mean, or number of samples ("majority" is self-consistency and needs no scores). Ties
    go to the answer with more samples, then to the one that came first. "sum" favours frequent
    answers, "max" and "avg" follow a single lucky exam: look at more than one.

    Source: Ning et al. 2024 (arXiv 2406.14629), section 3.2; ties as in the authors' code.

    Args:
        answers: one per sample; at least one.
        scores: one per sample, of `demonstration_value`.
        rule: "sum", "max", "avg" or "majority".
        equal: from an answer to what equal answers share: units and fractions normalised, say.

    Raises:
        ValueError: no answers, not one score per answer, a score that is NaN, an unknown rule.

    >>> answers = ["A", "A", "A", "B", "C", "C"]
    >>> scores = [2, 3, 1, 8, 4, 5]
    >>> [select_answer(answers, scores, rule) for rule in ("majority", "max", "sum", "avg")]
    ['A', 'B', 'C', 'B']
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule is one of {', '.join(get_args(Rule))}, not '{rule}'")
    if scores is None and rule == "majority":
        scores = [0.0] * len(answers)
    if scores is None or len(answers) == 0 or len(answers) != len(scores):
        raise ValueError("there must be at least one answer, and a score for each")
    if any(math.isnan(score) for score in scores):
        raise ValueError("a score is NaN: leave out samples whose exam failed")
    groups: dict[Hashable, list[float]] = {}
    spelling: dict[Hashable, str] = {}
    for answer, score in zip(answers, scores, strict=True):
        key = equal(answer)
        groups.setdefault(key, []).append(float(score))
        spelling.setdefault(key, answer)
    value: dict[Rule, Callable[[list[float]], float]] = {
        "sum": sum, "max": max, "avg": lambda s: sum(s) / len(s), "majority": len,
    }  # fmt: skip
    best = max(groups, key=lambda key: (round(value[rule](groups[key]), 9), len(groups[key])))
    return spelling[best]
