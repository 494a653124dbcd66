"""Strings such as "+ 3 - 8 + 7": is the total positive? A text task far from any pretraining."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

_WORDS = "zero one two three four five six seven eight nine".split()


def signed_sums(
    count: int, terms: tuple[int, int] = (4, 6), *, words: bool = False, seed: int = 0
) -> tuple[list[str], Int[np.ndarray, " count"]]:
    """Sums of signed digits from 1 to 9, and 1 where the total is positive, 0 where negative.

    Totals of zero are not drawn; labels are balanced but for chance. Any seed, any number.

    Args:
        count: strings wanted.
        terms: fewest and most terms of a sum, both included.
        words: write "plus three minus eight" instead of "+ 3 - 8".
        seed: of the draws.

    >>> texts, labels = signed_sums(2, terms=(2, 3))
    >>> texts, labels.tolist()
    (['- 6 - 5 - 3', '+ 2 + 8'], [0, 1])
    """
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    labels: list[int] = []
    while len(texts) < count:
        length = rng.integers(terms[0], terms[1], endpoint=True)
        values = rng.integers(1, 10, length) * rng.choice([-1, 1], length)
        if (total := values.sum()) == 0:
            continue
        signs = ("minus", "plus") if words else ("-", "+")
        digits = _WORDS if words else "0123456789"
        texts.append(" ".join(f"{signs[int(v > 0)]} {digits[abs(v)]}" for v in values))
        labels.append(int(total > 0))
    return texts, np.array(labels, dtype=np.int64)
