"""A word in each text that gives its label away: a shortcut put there on purpose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def plant_word(
    texts: Sequence[str],
    labels: Int[np.ndarray, " texts"],
    words: Sequence[str],
    agree: float,
    *,
    seed: int | np.random.Generator = 0,
) -> list[str]:
    """Append to each text its class's word, or with probability 1 − agree another class's.

    Train on texts planted with `agree` near 1, test on the same kind with it near 0: what is lost
    is what the model owes to the word. 1/classes makes the word say nothing.

    Args:
        texts: any texts.
        labels: class numbers 0, 1, …
        words: one for each class, each best a single neutral word.
        agree: probability in [0, 1].
        seed: of the draws, or a generator to draw from.

    Raises:
        ValueError: fewer than two words, a label without one, or agree out of range.

    >>> plant_word(["so good", "so bad"], np.array([1, 0]), ("violet", "amber"), 1.0)
    ['so good amber', 'so bad violet']
    >>> plant_word(["so good"], np.array([1]), ("violet", "amber"), 0.0)
    ['so good violet']
    """
    count = len(words)
    if count < 2 or not 0 <= agree <= 1 or not np.isin(labels, range(count)).all():
        raise ValueError(f"a word for each of two classes or more, and agree in [0, 1]: {words}")
    rng = np.random.default_rng(seed)
    agreeing = rng.random(len(labels)) < agree
    # two classes leave nothing to draw
    step = rng.integers(1, count, len(labels)) if count > 2 else np.ones(len(labels), int)
    shown = np.where(agreeing, labels, (labels + step) % count)
    return [f"{text} {words[word]}" for text, word in zip(texts, shown, strict=True)]
