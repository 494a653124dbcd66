"""Subsets of one size and class balance that cover few or many regions of a pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from generality.selection.sparse_cluster_filter import spherical_kmeans


def region_subsets(
    features: Float[np.ndarray, "n dim"],
    labels: Int[np.ndarray, " n"],
    *,
    count: int,
    items: int,
    regions: int = 20,
    opened: Sequence[int] = (2, 4, 8, 20),
    seed: int = 0,
) -> list[Int[np.ndarray, " items"]]:
    """Rows of `count` subsets, to ask which number about a data set foretells what it teaches.

    The pool is clustered into regions; subset i is drawn from opened[i % len(opened)] of them, or
    from more where these hold too few rows. Size and class balance are the same for all, so that
    neither explains a difference.

    Args:
        features: of the pool.
        labels: class of each row.
        count: how many subsets.
        items: rows of each, equally many of each class.
        regions: clusters of the pool.
        opened: how many of them subsets are drawn from, in turn.
        seed: of regions and draws.

    Raises:
        ValueError: a class of the pool has too few rows.

    >>> rng = np.random.default_rng(0)
    >>> pool, labels = rng.normal(size=(200, 5)), np.arange(200) % 2
    >>> subsets = region_subsets(pool, labels, count=3, items=10, regions=4, opened=(1, 4))
    >>> [(len(rows), int(labels[rows].sum())) for rows in subsets]
    [(10, 5), (10, 5), (10, 5)]
    """
    classes = np.unique(labels)
    share = items // len(classes)
    if min(np.bincount(labels)[classes]) < share:
        raise ValueError(f"{share} rows of each class are asked for, and the pool has fewer")
    rng = np.random.default_rng(seed)
    _, region = spherical_kmeans(features, regions, seed=seed)
    found = []
    for subset in range(count):
        order = rng.permutation(regions)
        for width in range(opened[subset % len(opened)], regions + 1):
            rows = rng.permutation(np.flatnonzero(np.isin(region, order[:width])))
            drawn = [rows[labels[rows] == c][:share] for c in classes]
            if min(map(len, drawn)) == share:
                found.append(np.concatenate(drawn))
                break
    return found
