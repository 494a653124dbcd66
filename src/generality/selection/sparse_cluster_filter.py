"""Which examples lie where a pool has few: filters of candidates, and diverse subsets."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_ROWS = 8192  # at a time, so that a memory-mapped pool need not fit
_SPREAD = 256  # centres that are started by k-means++


class SparseClusterFilter:
    """Accepts candidates that fall into the clusters of a pool with fewest members.

    The pool's unit vectors (gradients projected by `GVendi.features`, or embeddings) are clustered
    by spherical k-means; a candidate belongs to the centre with the largest dot product. Of the
    clusters that have members the share `keep` with fewest is sparse (equal counts: the earlier
    cluster first); an empty one always is. Check candidates' answers first: junk is far from
    everything and passes.

    Args:
        k: clusters: a number, or below 1 a share of the pool (the released code's default is 0.1,
            the paper's runs are said to use 0.01).
        keep: share of clusters that are sparse, in (0, 1]; 0.5 lets 30 to 50 % of candidates pass.
        iterations: of k-means.
        seed: of the members it starts from.

    Attributes:
        centres: unit vectors, (clusters, dim), float32.
        counts: members of each.

    Source: Jung et al. 2025 (arXiv 2505.20161), section 4.

    >>> pool = torch.eye(3).repeat_interleave(torch.tensor([6, 3, 1]), 0)
    >>> sparse = SparseClusterFilter(k=3, keep=0.34).fit(pool)
    >>> sparse.accept(torch.eye(3)).tolist()
    [False, False, True]
    """

    def __init__(
        self, k: float = 0.1, keep: float = 0.5, *, iterations: int = 20, seed: int = 0
    ) -> None:
        if k <= 0 or not 0 < keep <= 1 or iterations < 1:
            raise ValueError(
                f"k > 0, keep in (0, 1] and iterations ≥ 1, not {k}, {keep}, {iterations}"
            )
        self.k, self.keep, self.iterations, self.seed = k, keep, iterations, seed

    def fit(self, pool: Float[Any, "n dim"]) -> SparseClusterFilter:
        """Cluster the pool. Raises ValueError when it is empty or holds a number not finite."""
        pool = _array(pool)
        if not len(pool):
            raise ValueError("an empty pool has no clusters")
        self.centres, members = spherical_kmeans(
            pool, clusters_of(self.k, len(pool)), iterations=self.iterations, seed=self.seed
        )
        self.counts = np.bincount(members, minlength=len(self.centres))
        return self

    def assign(self, rows: Float[Any, "n dim"]) -> Int[np.ndarray, " n"]:
        """The cluster of each row. Raises ValueError before `fit`."""
        if not hasattr(self, "centres"):
            raise ValueError("there are no clusters yet: call fit(pool) first")
        return _nearest(_array(rows), self.centres)[0]

    def accept(self, candidates: Float[Any, "n dim"]) -> Bool[np.ndarray, " n"]:
        """Whether each candidate falls into a sparse cluster; the counts stay as they are."""
        members = self.assign(candidates)
        return sparse_clusters(self.counts, self.keep)[members]

    def add(self, rows: Float[Any, "n dim"]) -> None:
        """Count rows as members of their clusters from now on, without clustering anew."""
        self.counts += np.bincount(self.assign(rows), minlength=len(self.counts))


def sparse_clusters(counts: Int[Any, " clusters"], keep: float) -> Bool[np.ndarray, " clusters"]:
    """The share `keep` of clusters with fewest members, rounded down but at least one.

    >>> sparse_clusters([6, 3, 1, 2], 0.5).tolist()
    [False, False, True, True]
    """
    members = np.asarray(counts)
    order = [i for i in np.argsort(members, kind="stable") if members[i]]
    sparse = members == 0
    sparse[order[: max(1, int(keep * len(order) + 1e-9))]] = True
    return sparse


class DiverseSubset:
    """n examples of a pool that are spread over it.

    Args:
        n: how many.
        method: "sparse" clusters the pool as `SparseClusterFilter` and takes from every cluster in
            turn, so that dense regions are cut down to what sparse ones have. "k-center" takes the
            row farthest from all taken so far, again and again: outliers first. "logdet" takes
            what adds most to log det(I + Σ z zᵀ), greedily: volume, close to a high Vendi score.
        k: clusters of "sparse", as in `SparseClusterFilter`.
        seed: of clusters, of what is taken within one, and of the first row.

    Time and memory: "sparse" passes over the pool 21 times and holds a number a row, the others
    pass n times and hold a number a row ("logdet" dim² besides); the pool may be memory-mapped.

    >>> pool = torch.eye(3).repeat_interleave(torch.tensor([6, 3, 1]), 0)
    >>> for method in ("sparse", "k-center", "logdet"):
    ...     print(sorted(pool[DiverseSubset(3, method, k=3).select(pool)].argmax(1).tolist()))
    [0, 1, 2]
    [0, 1, 2]
    [0, 1, 2]
    """

    def __init__(
        self,
        n: int,
        method: Literal["sparse", "k-center", "logdet"] = "sparse",
        *,
        k: float = 0.1,
        seed: int = 0,
    ) -> None:
        if method not in ("sparse", "k-center", "logdet"):
            raise ValueError(f"method is 'sparse', 'k-center' or 'logdet', not '{method}'")
        self.n, self.method, self.k, self.seed = n, method, k, seed

    def select(self, pool: Float[Any, "n dim"]) -> Int[np.ndarray, " chosen"]:
        """Rows of the pool, in the order in which they were taken; all when it has no more than n.

        Raises:
            ValueError: n < 1, an empty pool, or a number that is not finite.
        """
        pool = _array(pool)
        if self.n < 1 or not len(pool):
            raise ValueError(f"nothing to choose: n = {self.n} of {len(pool)}")
        if len(pool) <= self.n:
            return np.arange(len(pool))
        if self.method == "sparse":
            return self._in_turn(pool)
        return self._farthest(pool) if self.method == "k-center" else self._most_volume(pool)

    def _in_turn(self, pool: Any) -> np.ndarray:
        clusters = clusters_of(self.k, len(pool))
        _, members = spherical_kmeans(pool, clusters, seed=self.seed)
        order = np.random.default_rng(self.seed).permutation(len(pool))
        turn = np.empty(len(pool), dtype=int)  # its place among the members of its cluster
        seen = np.zeros(clusters, dtype=int)
        for row in order:
            turn[row] = seen[members[row]]
            seen[members[row]] += 1
        return order[np.lexsort((seen[members[order]], turn[order]))][: self.n]

    def _farthest(self, pool: Any) -> np.ndarray:
        chosen = [int(np.random.default_rng(self.seed).integers(len(pool)))]
        closest = torch.full((len(pool),), -torch.inf)
        while len(chosen) < self.n:
            closest = torch.maximum(closest, _times(pool, _unit(pool[chosen[-1] :][:1])[0]))
            closest[chosen] = torch.inf
            chosen.append(int(closest.argmin()))
        return np.array(chosen)

    def _most_volume(self, pool: Any) -> np.ndarray:
        dim = pool.shape[1]
        inverse = torch.eye(dim)
        gain = torch.cat([_unit(part).square().sum(1) for part in _parts(pool)])
        chosen: list[int] = []
        while len(chosen) < self.n:
            gain[chosen] = -torch.inf
            chosen.append(int(gain.argmax()))
            row = _unit(pool[chosen[-1] :][:1])[0]
            change = inverse @ row / (1 + row @ inverse @ row).sqrt()  # Sherman and Morrison
            inverse -= torch.outer(change, change)
            gain -= _times(pool, change).square()
        return np.array(chosen)


def spherical_kmeans(
    pool: Float[Any, "n dim"], k: int, *, iterations: int = 20, seed: int = 0
) -> tuple[Float[Tensor, "k dim"], Int[np.ndarray, " n"]]:
    """Centres (unit vectors) and the cluster of each row, by the largest dot product.

    Starts from k rows: up to 256 drawn one by one with a probability that grows with the distance
    from those drawn (k-means++), more drawn evenly, which saves k passes over the pool. A cluster
    that loses all its members begins again at the row that is farthest from its centre. Rows are
    read in blocks. Deterministic for a seed.

    Source: Dhillon and Modha 2001; Arthur and Vassilvitskii 2007.
    """
    k = min(k, len(pool))
    centres = _unit(pool[_starts(pool, k, np.random.default_rng(seed))])
    members, closeness = _nearest(pool, centres)
    for _ in range(iterations):
        sums = torch.zeros_like(centres)
        for first, part in zip(range(0, len(pool), _ROWS), _parts(pool), strict=True):
            place = torch.as_tensor(members[first : first + _ROWS])
            sums.index_add_(0, place, _unit(part))
        empty = np.flatnonzero(np.bincount(members, minlength=k) == 0)
        if len(empty):
            sums[empty] = _unit(pool[np.sort(np.argsort(closeness, kind="stable")[: len(empty)])])
        centres = _unit(sums)
        before = members
        members, closeness = _nearest(pool, centres)
        if np.array_equal(before, members):
            break
    return centres, members


def _starts(pool: Any, k: int, rng: np.random.Generator) -> Int[np.ndarray, " k"]:
    if k > _SPREAD:
        return np.sort(rng.choice(len(pool), k, replace=False))
    chosen, far = [int(rng.integers(len(pool)))], np.full(len(pool), np.inf)
    while len(chosen) < k:
        closeness = _times(pool, _unit(pool[chosen[-1] :][:1])[0]).double().numpy()
        far = np.minimum(far, (1 - closeness).clip(1e-9))
        far[chosen] = 0
        chosen.append(int(rng.choice(len(pool), p=far / far.sum())))
    return np.sort(chosen)


def clusters_of(k: float, rows: int) -> int:
    """How many clusters: k itself, or below 1 that share of the rows; at least 1.

    >>> clusters_of(0.1, 95), clusters_of(7, 95), clusters_of(7, 3)
    (10, 7, 3)
    """
    return max(1, min(rows, round(k * rows) if k < 1 else int(k)))


def _nearest(rows: Any, centres: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The centre of each row, and its dot product with it."""
    best = [(_unit(part) @ centres.T).max(1) for part in _parts(rows)]
    if not best:
        return np.empty(0, dtype=int), np.empty(0)
    return torch.cat([b.indices for b in best]).numpy(), torch.cat([b.values for b in best]).numpy()


def _times(rows: Any, vector: Tensor) -> Tensor:
    return torch.cat([_unit(part) @ vector for part in _parts(rows)])


def _parts(rows: Any) -> list[Any]:
    return [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]


def _array(rows: Any) -> Any:
    """A tensor or an array (perhaps mapped) as it is; a list or a DataFrame as an array."""
    return rows if isinstance(rows, (Tensor, np.ndarray)) else np.asarray(rows, np.float32)


def _unit(rows: Any) -> Tensor:
    rows = rows if isinstance(rows, Tensor) else torch.from_numpy(np.array(rows, np.float32))
    if not bool(rows.isfinite().all()):
        raise ValueError("rows of features hold numbers that are not finite")
    return torch.nn.functional.normalize(rows.float().cpu(), dim=1)
