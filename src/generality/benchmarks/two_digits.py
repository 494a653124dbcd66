"""Two digits as two classes: the blocks that dominoes are made of."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, Int

from generality.benchmarks.digits import digits


@functools.cache
def two_digits(
    style: str, zero: int, one: int, *, size: int = 14, count: int | None = None
) -> tuple[Float[np.ndarray, "n 1 size size"], Int[np.ndarray, " n"]]:
    """Grey images of two digits in one style, as classes 0 and 1; kept, so do not write to them.

    Args:
        style: as in `digits`, such as "mnist" or "fonts".
        zero: the digit that is class 0.
        one: the digit that is class 1.
        size: side of the images in pixels.
        count: digits of all ten kinds to choose from; None for all.

    Raises:
        ValueError: the same digit twice, or what is no digit.

    >>> images, labels = two_digits("uci", 4, 9, size=8)
    >>> images.shape[1:], len(images) == len(labels), sorted(set(labels.tolist()))
    ((1, 8, 8), True, [0, 1])
    """
    if zero == one or not {zero, one} <= set(range(10)):
        raise ValueError(f"two different digits, not {zero} and {one}")
    images, shown = digits(style, size=size, count=count)
    kept = (shown == zero) | (shown == one)
    return images[kept].mean(1, keepdims=True), (shown[kept] == one).astype(np.int64)
