"""What tuning on some classes gains there and costs on classes it never saw."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class BaseToNew:
    """Accuracies from 0 to 1, and what joins the two."""

    base: float
    new: float
    harmonic_mean: float


def harmonic_mean(*shares: float) -> float:
    """n / Σ 1/x of shares from 0 to 1: as low as the lowest of them makes it; 0 where one is 0.

    Raises ValueError without any, or for a negative one.

    >>> round(harmonic_mean(0.8269, 0.6322), 4)  # CoOp over 11 data sets, as published
    0.7166
    """
    if not shares or min(shares) < 0:
        raise ValueError("harmonic_mean is of one number or more, none negative")
    return 0.0 if min(shares) == 0 else len(shares) / sum(1 / share for share in shares)


def base_to_new(
    scores: Float[np.ndarray, "items classes"],
    labels: Int[np.ndarray, " items"],
    base: Collection[int],
) -> BaseToNew:
    """Accuracy on the classes tuned on, on the others, and their harmonic mean.

    Items of base classes are classified among base classes only, the others among the others, as
    CoCoOp does.

    Args:
        scores: the higher the likelier; logits, cosines or probabilities.
        labels: column of each item's class.
        base: columns of the classes that were tuned on.

    Raises:
        ValueError: where there are no base classes or no others, or no items of either.

    Source: Zhou et al. 2022, "Conditional Prompt Learning for Vision-Language Models".

    >>> scores = np.array([[2.0, 1.0, 9.0, 0.0], [0.0, 0.0, 1.0, 2.0]])
    >>> base_to_new(scores, np.array([0, 2]), base=[0, 1])  # column 2 does not count for item 0
    BaseToNew(base=1.0, new=0.0, harmonic_mean=0.0)
    """
    chosen = np.isin(np.arange(scores.shape[1]), list(base))
    shares = []
    for columns in (np.flatnonzero(chosen), np.flatnonzero(~chosen)):
        rows = np.isin(labels, columns)
        if not len(columns) or not rows.any():
            raise ValueError("there must be items of base classes and of others")
        said = columns[scores[np.ix_(rows, columns)].argmax(1)]
        shares.append(float((said == labels[rows]).mean()))
    return BaseToNew(shares[0], shares[1], harmonic_mean(*shares))
