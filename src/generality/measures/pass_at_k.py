"""How often at least one of k attempts is right."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike


def pass_at_k(
    n: int, correct: Int[np.ndarray, "*problems"] | ArrayLike, k: int
) -> Float[np.ndarray, "*problems"]:
    """Probability, in [0, 1], that k of n attempts, drawn without replacement, hold a right one.

    Unbiased for the chance that k fresh attempts do, at every k up to n, and steadier than to look
    whether any of the first k is right. Without correction, 1 − (1 − c/n)^k is too low.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1: 1 − C(n−c, k) / C(n, k).

    Args:
        n: attempts per problem.
        correct: right ones among them, for one problem or for many.
        k: attempts that one may make, in [1, n].

    Raises:
        ValueError: k is not in [1, n], or a count not in [0, n].

    >>> pass_at_k(100, 5, 10).round(6).item(), pass_at_k(10, [0, 3], 5).round(6).tolist()
    (0.416248, [0.0, 0.916667])
    """
    c = np.asarray(correct)
    if not 1 <= k <= n:
        raise ValueError(f"k is between 1 and the {n} attempts, not {k}")
    if c.size and not 0 <= c.min() <= c.max() <= n:
        raise ValueError(f"right attempts are between 0 and {n}, not {c.min()} to {c.max()}")
    missed = 1 - c[..., None] / np.arange(n - k + 1, n + 1)
    return 1 - np.clip(missed, 0, None).prod(-1)
