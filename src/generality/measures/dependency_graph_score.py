"""Faithfulness by questions of which some make sense only after others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np


def dependency_graph_scores(
    answers: Sequence[bool], parents: Sequence[Sequence[int]]
) -> list[float]:
    """1 for each question answered yes with all of its parents scored 1, else 0.

    A question whose parent failed counts as failed: it stays in the denominator, and so fail those
    that hang on it.

    Args:
        answers: of each question, whatever the others.
        parents: of each question the places (from 0) of those it depends on; none for a root.
            Files of DSG number questions from 1 and write 0 for none.

    Source: Cho et al. 2023 (Davidsonian Scene Graph, arXiv 2310.18235).

    Raises:
        ValueError: the lengths differ, a parent is no question, or questions depend on each other
            in a circle.

    >>> dependency_graph_scores([True, True, False, True], [[], [0], [1], [2]])
    [1.0, 1.0, 0.0, 0.0]
    """
    if len(answers) != len(parents):
        raise ValueError(f"{len(answers)} answers to {len(parents)} questions")
    for question, named in enumerate(parents):
        if wrong := [p for p in named if not 0 <= p < len(answers)]:
            raise ValueError(f"question {question} depends on {wrong[0]}, which is no question")
    scores: list[float | None] = [None] * len(answers)
    waiting = list(range(len(answers)))
    while waiting:
        ready = [q for q in waiting if all(scores[p] is not None for p in parents[q])]
        if not ready:
            raise ValueError("questions depend on each other in a circle")
        for q in ready:
            scores[q] = float(bool(answers[q]) and all(scores[p] for p in parents[q]))
        waiting = [q for q in waiting if scores[q] is None]
    return [float(score or 0) for score in scores]


def category_report(
    scores: Sequence[Sequence[float]], categories: Sequence[Sequence[str]]
) -> dict[str, float]:
    """The mean score of all questions ("all") and of those of each category.

    >>> category_report([[1.0, 0.0], [1.0]], [["shape", "count"], ["shape"]])
    {'all': 0.6666666666666666, 'count': 0.0, 'shape': 1.0}
    """
    grouped: dict[str, list[float]] = defaultdict(list)
    for row, names in zip(scores, categories, strict=True):
        for score, name in zip(row, names, strict=True):
            grouped[name].append(score)
    every = [score for row in scores for score in row]
    means = {name: float(np.mean(grouped[name])) for name in sorted(grouped)}
    return {"all": float(np.mean(every)) if every else float("nan"), **means}
