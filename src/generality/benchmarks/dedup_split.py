"""Splits that no copy crosses, and what the crossing of copies is worth to a score."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from generality.benchmarks.splits import hash_points
from generality.errors import UserError

Rows = Int[np.ndarray, " n"]


def dedup_split(
    keys: Sequence[Hashable],
    *,
    groups: Sequence[Hashable] | None = None,
    shares: tuple[float, ...] = (0.8, 0.2),
    keep_copies: bool = False,
    seed: int = 0,
) -> list[Rows]:
    """Row numbers of training, test, … such that what has one key, or one group, stays together.

    Rows that are linked, through keys and groups in any number of steps, land on one side, which a
    hash of their smallest key settles.

    Args:
        keys: what makes two rows copies of each other: a hash, a normalised text.
        groups: also kept together: the package, the author.
        shares: of each split; they add up to 1.
        keep_copies: False keeps the first row of each key.
        seed: another one cuts elsewhere.

    Raises:
        UserError: a split would be empty.
        ValueError: shares do not add up to 1, or there are more or fewer groups than keys.

    >>> train, test = dedup_split(list("aabbccdd"), shares=(0.5, 0.5))
    >>> len(train) + len(test), set(train) & set(test)
    (4, set())
    """
    if abs(sum(shares) - 1) > 1e-9 or min(shares) < 0:
        raise ValueError(f"shares add up to 1, and {shares} do not")
    if groups is not None and len(groups) != len(keys):
        raise ValueError(f"{len(groups)} groups for {len(keys)} keys")
    linked = _linked([list(keys)] if groups is None else [list(keys), list(groups)])
    named = [""] * len(keys)
    for row, root in enumerate(linked):
        named[root] = min(named[root] or str(keys[row]), str(keys[row]))
    points = hash_points([named[root] for root in linked], salt=str(seed))
    sides = np.searchsorted(np.cumsum(shares)[:-1], points, side="right")
    first = np.ones(len(keys), dtype=bool)
    if not keep_copies:
        seen: set[Hashable] = set()
        for row, key in enumerate(keys):
            first[row] = key not in seen
            seen.add(key)
    splits = [np.flatnonzero((sides == side) & first) for side in range(len(shares))]
    for side, rows in enumerate(splits):
        if shares[side] and not len(rows):
            raise UserError(
                f"Split {side + 1} of {len(shares)} is empty: there are too few rows that are not "
                "copies or relatives of each other."
            )
    return splits


def _linked(columns: list[list[Hashable]]) -> list[int]:
    """For each row the first row that it is linked to (union-find)."""
    parent = list(range(len(columns[0])))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for column in columns:
        first: dict[Hashable, int] = {}
        for row, value in enumerate(column):
            a, b = root(first.setdefault(value, row)), root(row)
            parent[max(a, b)] = min(a, b)
    return [root(row) for row in range(len(parent))]


@dataclass(frozen=True)
class LeakageGap:
    """What copies on both sides add to a score.

    Attributes:
        raw: mean score of splits at random.
        dedup: mean score of splits that no copy crosses.
        gap: raw − dedup.
        low: lower end of the 95 % interval of the gap (t over splits); NaN with one split.
        high: upper end.
        copies: mean share of a random split's test rows of which training has a copy, in [0, 1].
        fresh: mean score of random splits on the other test rows; NaN where all have copies.
    """

    raw: float
    dedup: float
    gap: float
    low: float
    high: float
    copies: float
    fresh: float


def leakage_gap(
    score: Callable[[Rows, Rows], float],
    keys: Sequence[Hashable],
    *,
    groups: Sequence[Hashable] | None = None,
    test_share: float = 0.2,
    splits: int = 5,
) -> LeakageGap:
    """How much a score owes to copies of test rows in training.

    Both arms train on as many rows. Copies in training thin it out, too: as many rows hold fewer
    different ones, so that a small gap need not mean that copies are worth little: `raw − fresh`
    says what they add to the score of one and the same training set.

    Args:
        score: trains on the first rows, tests on the second, returns a number; called three times a
            split, with one test row or more.
        keys: as in `dedup_split`.
        groups: as in `dedup_split`.
        test_share: of each split, in (0, 1).
        splits: how many, seeds 0, 1, ….

    >>> gap = leakage_gap(
    ...     lambda train, test: float(np.isin(test % 50, train % 50).mean()), [*range(50)] * 4
    ... )
    >>> gap.gap > 0.3, gap.dedup, gap.fresh
    (True, 0.0, 0.0)
    """
    from scipy import stats

    shares = (1 - test_share, test_share)
    raws, dedups, copies, fresh = [], [], [], []
    for seed in range(splits):
        train, test = dedup_split(keys, groups=groups, shares=shares, seed=seed)
        order = np.random.default_rng(seed).permutation(len(keys))
        dedups.append(score(train, test))
        mixed, asked = order[: len(train)], order[len(train) : len(train) + len(test)]
        raws.append(score(mixed, asked))
        known = {keys[row] for row in mixed}
        new = np.array([keys[row] not in known for row in asked])
        copies.append(float(1 - new.mean()))
        if new.any():
            fresh.append(score(mixed, asked[new]))
    gaps = np.subtract(raws, dedups)
    half = float(stats.t.ppf(0.975, splits - 1) * stats.sem(gaps)) if splits > 1 else float("nan")
    gap = float(gaps.mean())
    return LeakageGap(
        float(np.mean(raws)), float(np.mean(dedups)), gap, gap - half, gap + half,
        float(np.mean(copies)), float(np.mean(fresh)) if fresh else float("nan"),
    )  # fmt: skip
