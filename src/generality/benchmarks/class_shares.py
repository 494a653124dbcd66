"""Classes made rarer, and classes made even again."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int


def thinned(
    rare: Bool[np.ndarray, " examples"], share: float, *, most: int, seed: int = 0
) -> Int[np.ndarray, " kept"]:
    """Rows in an order of chance, so many of the rare class dropped that this share is left.

    Args:
        rare: whether an example is of the class to be made rare.
        share: what it should be of all that is kept, in (0, 1); less if there are too few.
        most: rows kept, at most.
        seed: of which ones are kept, and of the order.

    >>> rare = np.array([True, False] * 50)
    >>> kept = thinned(rare, 0.2, most=50)
    >>> len(kept), float(rare[kept].mean())
    (50, 0.2)
    """
    if not 0 < share < 1:
        raise ValueError(f"share is in (0, 1), not {share}")
    order = np.random.default_rng(seed).permutation(len(rare))
    others = order[~rare[order]][: int(most * (1 - share))]
    few = order[rare[order]][: round(len(others) * share / (1 - share))]
    return np.random.default_rng(seed).permutation(np.concatenate([others, few]))


def evened(classes: Int[np.ndarray, " examples"]) -> Int[np.ndarray, " rows"]:
    """Rows of the examples, those of smaller classes repeated until all are equally many.

    For training by a loss that weighs examples alike: afterwards it weighs classes alike.

    >>> evened(np.array([0, 1, 0, 0, 1])).tolist()
    [0, 2, 3, 1, 4, 1]
    """
    groups = [np.flatnonzero(classes == each) for each in np.unique(classes)]
    return np.concatenate([np.resize(group, max(map(len, groups))) for group in groups])
