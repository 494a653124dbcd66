"""The same number of training examples for every arm, in equal shares of its domains."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def budget_shares(total: int, parts: int) -> list[int]:
    """A total dealt out evenly, what is left over one by one from the first.

    >>> budget_shares(4000, 3), budget_shares(4000, 16)[-1]
    ([1334, 1333, 1333], 250)
    """
    if parts < 1 or total < 0:
        raise ValueError(f"{total} examples cannot be dealt out to {parts} domains")
    return [total // parts + (part < total % parts) for part in range(parts)]


def matched_budget(
    domains: Int[np.ndarray, " n"], total: int, *, seed: int = 0
) -> Int[np.ndarray, " total"]:
    """Rows that make up exactly `total` examples with an equal share of each domain.

    A domain with more rows than its share loses some at random; of one with fewer, all rows are
    repeated equally often, as far as that goes. Otherwise more data could look like more domains.

    Args:
        domains: the domain of each row, any integers.
        total: rows wanted.
        seed: of which rows are taken.

    >>> np.bincount(np.array([0, 0, 0, 0, 1])[matched_budget(np.array([0, 0, 0, 0, 1]), 6)])
    array([3, 3])
    """
    names, rng = np.unique(domains), np.random.default_rng(seed)
    found = []
    for name, share in zip(names, budget_shares(total, len(names)), strict=True):
        rows = rng.permutation(np.flatnonzero(domains == name))
        found.append(np.resize(rows, share))
    return np.concatenate(found)


def real_and_made(real: int, made: int, total: int) -> Int[np.ndarray, " total"]:
    """Rows that make up `total` examples of `real` ones followed by `made` ones.

    Every real example is in, as far as there is room, and the made ones fill what is left; either
    is repeated where it is short. Without made ones the real ones fill it all.

    >>> real_and_made(2, 3, 6), real_and_made(2, 0, 3)
    (array([0, 1, 2, 3, 4, 2]), array([0, 1, 0]))
    """
    if not made:
        return np.resize(np.arange(real), total)
    first = np.resize(np.arange(real), min(real, total))
    return np.concatenate([first, np.resize(np.arange(real, real + made), total - len(first))])
