"""Whether a classifier is right as often as it says."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int


def ece(
    probabilities: Float[Any, "n classes"],
    truth: Int[Any, " n"],
    *,
    bins: int = 10,
    binning: Literal["mass", "width"] = "mass",
) -> float:
    """Expected calibration error: mean distance between confidence and accuracy, in [0, 1].

    Examples are grouped by the probability of their predicted class; each group counts by its
    size. "mass" gives every group as many examples (ties may fall on either side of a border),
    "width" cuts [0, 1] into equal pieces.

    Args:
        probabilities: of each class, rows that sum to 1.
        truth: class ids.
        bins: how many groups, at least 1.
        binning: "mass" or "width".

    Raises:
        ValueError: for no examples, shapes that do not fit together, or unknown options.

    Source: Naeini et al. 2015; Guo et al. 2017 (arXiv 1706.04599), equation 3 (equal width).

    >>> round(ece([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]], [0, 1, 1, 1], bins=2), 3)
    0.3
    """
    scores, true = np.asarray(probabilities, dtype=float), np.asarray(truth)
    if scores.ndim != 2 or true.shape != scores.shape[:1] or not len(true):
        raise ValueError(f"{scores.shape} probabilities do not fit truth of shape {true.shape}")
    if bins < 1 or binning not in ("mass", "width"):
        raise ValueError(f"bins is at least 1 and binning 'mass' or 'width', not {bins}, {binning}")
    confidence = scores.max(1)
    surplus = confidence - (scores.argmax(1) == true)
    if binning == "mass":
        groups = np.array_split(surplus[np.argsort(confidence, kind="stable")], bins)
    else:
        place = np.minimum((confidence * bins).astype(int), bins - 1)
        groups = [surplus[place == index] for index in range(bins)]
    return float(sum(abs(group.sum()) for group in groups) / len(true))
