"""Pairs of a better and a worse response, from scores, as preference optimisation reads them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def preference_pairs(
    prompt: str,
    responses: Sequence[str],
    scores: Sequence[float],
    *,
    min_gap: float = 0.3,
    max_pairs: int = 8,
) -> list[dict[str, str | float]]:
    """Pairs of one prompt's responses whose scores are more than `min_gap` apart, widest first.

    The rows have what `trl`'s DPOTrainer reads (`datasets.Dataset.from_list(rows)`), and the
    scores. Equal texts make no pair, and a pair of texts comes once: its widest, where a text was
    scored more than once.

    Source: Ning et al. 2024 (arXiv 2406.14629), section 4, whose score is half the answer's
    correctness and half its exam's, with these two defaults. Which pairs to leave out beyond
    `max_pairs` is not said there; we leave out the narrowest.

    Args:
        prompt: what all responses answer.
        responses: the candidates.
        scores: one for each, in [0, 1] for the default gap.
        min_gap: pairs at or below it are noise, and left out.
        max_pairs: at most this many.

    Raises:
        ValueError: not one score per response, or one that is NaN.

    >>> scores = [0.5 * right + 0.5 * exam for right, exam in
    ...           [(1, 6 / 9), (1, 2 / 9), (0, 5 / 9), (0, 0)]]
    >>> [(pair["chosen"], pair["rejected"]) for pair in preference_pairs("?", "abcd", scores)]
    [('a', 'd'), ('b', 'd'), ('a', 'c'), ('b', 'c')]
    """
    if len(responses) != len(scores):
        raise ValueError(f"{len(responses)} responses and {len(scores)} scores")
    if any(math.isnan(score) for score in scores):
        raise ValueError("a score is NaN: leave that response out")
    ranked = sorted(zip(responses, scores, strict=True), key=lambda pair: -pair[1])
    apart = [
        (better, worse, high, low)
        for (better, high), (worse, low) in itertools.combinations(ranked, 2)
        if better != worse and high - low > min_gap + 1e-9
    ]
    widest: dict[frozenset[str], tuple[str, str, float, float]] = {}
    for pair in sorted(apart, key=lambda pair: pair[3] - pair[2]):
        widest.setdefault(frozenset(pair[:2]), pair)
    return [
        {"prompt": prompt, "chosen": better, "rejected": worse,
         "chosen_score": float(high), "rejected_score": float(low)}
        for better, worse, high, low in list(widest.values())[:max_pairs]
    ]  # fmt: skip
