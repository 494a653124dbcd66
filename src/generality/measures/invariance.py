"""Is a linear representation invariant: does one predictor on it suit every environment?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

Form = Literal["gradient", "excess", "weights"]

_AT_A_TIME = 20_000_000  # numbers in the largest array


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of features X and target Y in each environment.

    Args:
        features: E[X Xᵀ], (environments, d, d).
        cross: E[X Y], (environments, d).
        target: E[Y²], (environments,).

    >>> sigma, cross = np.array([[[3.0]], [[3.0]]]), np.array([[2.0], [-2.0]])
    >>> flips = Moments(sigma, cross, np.array([2.0, 2.0]))
    >>> invariance_residual(flips, np.eye(1), np.zeros(1)).tolist()
    [[-2.0], [2.0]]
    """

    features: Float[np.ndarray, "environments d d"]
    cross: Float[np.ndarray, "environments d"]
    target: Float[np.ndarray, " environments"]

    @classmethod
    def of(cls, X: Float[Any, "n d"], y: Float[Any, " n"], environments: Int[Any, " n"]) -> Moments:
        """Empirical moments of your own data, or of a network's features; centre both first.

        Raises ValueError for lengths that differ, no rows, or numbers that are not finite.
        """
        X, y, environments = (np.asarray(each) for each in (X, y, environments))
        if X.ndim != 2 or not len(X) == len(y) == len(environments) > 0:
            raise ValueError(
                f"X is (n, d), y and environments (n,), not {X.shape}, {y.shape} and "
                f"{environments.shape}"
            )
        if not (np.isfinite(X).all() and np.isfinite(y).all()):
            raise ValueError("X and y are finite numbers: drop or fill what is missing")
        parts = [(X[rows], y[rows]) for rows in _groups(environments)]
        return cls(
            np.stack([x.T @ x / len(x) for x, _ in parts]),
            np.stack([x.T @ t / len(x) for x, t in parts]),
            np.array([t @ t / len(t) for _, t in parts]),
        )

    @classmethod
    def of_samples(
        cls, X: Float[np.ndarray, "environments n d"], y: Float[np.ndarray, "environments n"]
    ) -> Moments:
        """Empirical moments of as many draws from every environment."""
        n = X.shape[1]
        return cls(
            np.swapaxes(X, -1, -2) @ X / n, np.einsum("enk,en->ek", X, y) / n, (y * y).mean(-1)
        )

    def first(self, count: int) -> Moments:
        """Of the first environments only."""
        return Moments(self.features[:count], self.cross[:count], self.target[:count])

    @property
    def pooled(self) -> Moments:
        """One environment: the mean of all."""
        parts = (self.features, self.cross, self.target)
        return Moments(*(part.mean(0, keepdims=True) for part in parts))

    def standardised(self, by: Moments) -> Moments:
        """In units of the pooled deviations of `by`.

        Of the training environments together, not of each: that would undo interventions on
        variances. Raises ValueError where a feature or the target is constant in all of them.
        """
        pooled = by.pooled
        x = np.sqrt(np.diagonal(pooled.features[0]))
        y = np.sqrt(pooled.target[0])
        if (x == 0).any() or y == 0:
            which = f"features {np.flatnonzero(x == 0).tolist()}" if y else "the target"
            raise ValueError(f"constant, so without a unit: {which}")
        return Moments(self.features / np.outer(x, x), self.cross / (x * y), self.target / (y * y))

    def projected(self, representation: Float[np.ndarray, "k d"]) -> Moments:
        """Moments of the representation Φ X."""
        return Moments(
            representation @ self.features @ representation.T,
            self.cross @ representation.T,
            self.target,
        )


def invariance_residual(
    moments: Moments, representation: Float[np.ndarray, "k d"], weights: Float[np.ndarray, " k"]
) -> Float[np.ndarray, "environments k"]:
    """g_e = Φ E_e[X Xᵀ] Φᵀ w − Φ E_e[X Y]: 0 where w is the least squares on Φ X in environment e.

    A representation is ε-approximately invariant on environments where one w keeps every ‖g_e‖ at
    most ε. It is a matter of the representation: the causal parents with a child beside them are
    not invariant, although the child's weight may be 0.

    Source: "PAC Generalization via Invariant Representations" (arXiv 2205.15196), after the
    first-order condition of IRM; the exact definition there may differ by a constant.
    """
    own = moments.projected(representation)
    return own.features @ weights - own.cross


@dataclass(frozen=True, eq=False)
class Subsets:
    """Subsets of features of one size as representations, each with its pooled least squares.

    Attributes:
        features: which, (subsets, size).
        weights: least squares on all training environments together, (subsets, size).
        residual: largest over the training environments, in the chosen form, (subsets,).
        risk: mean squared error over the training environments, (subsets,).
    """

    features: Int[np.ndarray, "subsets size"]
    weights: Float[np.ndarray, "subsets size"]
    residual: Float[np.ndarray, " subsets"]
    risk: Float[np.ndarray, " subsets"]

    def __len__(self) -> int:
        return len(self.features)

    def where(self, chosen: Any) -> Subsets:
        """Those of a mask or of places."""
        parts = (self.features, self.weights, self.residual, self.risk)
        return Subsets(*(part[chosen] for part in parts))


def feature_subsets(moments: Moments, *, max_size: int, form: Form = "gradient") -> list[Subsets]:
    """All subsets of 1 … `max_size` features, one `Subsets` a size; see `invariant_subsets`."""
    d = moments.features.shape[-1]
    if not 1 <= max_size <= d:
        raise ValueError(f"max_size is from 1 to {d}, the number of features, not {max_size}")
    found = []
    for size in range(1, max_size + 1):
        chosen = np.array(list(itertools.combinations(range(d), size)))
        pooled = moments.pooled
        sigma = pooled.features[0][chosen[:, :, None], chosen[:, None]]
        weights = np.linalg.solve(sigma, pooled.cross[0][chosen][..., None])[..., 0]
        bare = Subsets(chosen, weights, np.zeros(len(chosen)), np.zeros(len(chosen)))
        residual = residuals(bare, moments, form).max(0)
        found.append(Subsets(chosen, weights, residual, risks(bare, moments).mean(0)))
    return found


def subset_of(moments: Moments, features: Int[np.ndarray, " size"]) -> Subsets:
    """These features as one subset with its pooled least squares; its risk is left at 0.

    >>> one = Moments(np.eye(2)[None], np.array([[1.0, 0.5]]), np.ones(1))
    >>> subset_of(one, np.array([1])).weights
    array([[0.5]])
    """
    pooled = moments.pooled
    weights = np.linalg.solve(
        pooled.features[0][np.ix_(features, features)], pooled.cross[0][features]
    )
    bare = Subsets(features[None], weights[None], np.zeros(1), np.zeros(1))
    return Subsets(features[None], weights[None], residuals(bare, moments).max(0), np.zeros(1))


def kept_violations(kept: list[Subsets], unseen: Moments, epsilon: float) -> dict[str, float]:
    """Violation in unseen environments of the kept subsets: 0 where nothing is kept.

    "worst kept"; "typical kept", the median; and "selected", of lowest risk in training.

    >>> none = Subsets(np.zeros((0, 1), int), np.zeros((0, 1)), np.zeros(0), np.zeros(0))
    >>> kept_violations([none], Moments(np.eye(1)[None], np.ones((1, 1)), np.ones(1)), 0.1)
    {'worst kept': 0.0, 'typical kept': 0.0, 'selected': 0.0}
    """
    rates = np.concatenate([violation_rates(each, unseen, epsilon) for each in kept])
    risk = np.concatenate([each.risk for each in kept])
    return {
        "worst kept": float(rates.max(initial=0.0)),
        "typical kept": float(np.median(rates)) if len(rates) else 0.0,
        "selected": float(rates[risk.argmin()]) if len(rates) else 0.0,
    }


def invariant_subsets(
    moments: Moments, *, max_size: int, epsilon: float, form: Form = "gradient"
) -> list[Subsets]:
    """The subsets of features on which one predictor suits every environment, up to `epsilon`.

    A plain baseline for tables from several domains, and on the features of a frozen network. The
    predictor is the least squares on all environments together, which keeps fewer subsets than
    the best one for the worst environment would.

    Args:
        moments: of the training environments.
        max_size: of a subset; there are about d^max_size / max_size! of them.
        epsilon: largest residual of one that is kept.
        form: "gradient", ‖g_e‖ in units of target × feature; "excess", how much lower the mean
            squared error could be in environment e, g_eᵀ (Φ Σ_e Φᵀ)⁻¹ g_e; or "weights", how far
            w is from the least squares w_e of environment e, ‖w − w_e‖.

    >>> signs = Moments(np.array([[[1.0, 1], [1, 3]], [[1, -1], [-1, 3]]]),
    ...                 np.array([[1.0, 2], [1, -2]]), np.array([2.0, 2]))
    >>> [kept.features.tolist() for kept in invariant_subsets(signs, max_size=2, epsilon=0.1)]
    [[[0]], []]
    """
    every = feature_subsets(moments, max_size=max_size, form=form)
    return [each.where(each.residual <= epsilon) for each in every]


def residuals(
    subsets: Subsets, moments: Moments, form: Form = "gradient"
) -> Float[np.ndarray, "environments subsets"]:
    """How far each subset's predictor is from the best one on that subset in each environment."""
    if form not in ("gradient", "excess", "weights"):
        raise ValueError(f"form is 'gradient', 'excess' or 'weights', not '{form}'")
    parts = []
    for sigma, cross in _blocks(subsets, moments):
        g = (sigma @ subsets.weights[None, ..., None])[..., 0] - cross
        if form == "gradient":
            parts.append(np.linalg.norm(g, axis=-1))
            continue
        off = np.linalg.solve(sigma, g[..., None])[..., 0]  # w − w_e
        parts.append((g * off).sum(-1) if form == "excess" else np.linalg.norm(off, axis=-1))
    return np.concatenate(parts)


def risks(subsets: Subsets, moments: Moments) -> Float[np.ndarray, "environments subsets"]:
    """Mean squared error of each subset's predictor in each environment."""
    w, parts = subsets.weights[None], []
    for sigma, cross in _blocks(subsets, moments):
        fitted = (sigma @ w[..., None])[..., 0]
        parts.append((w * fitted).sum(-1) - 2 * (w * cross).sum(-1))
    return np.concatenate(parts) + moments.target[:, None]


def violation_rates(
    subsets: Subsets, moments: Moments, epsilon: float, form: Form = "gradient"
) -> Float[np.ndarray, " subsets"]:
    """Share of environments (unseen ones) in which each subset's residual is above `epsilon`."""
    return (residuals(subsets, moments, form) > epsilon).mean(0)


def jeffreys_rate(rate: float, trials: int) -> float:
    """The rate with half a success and half a failure added, which has a logarithm even at 0.

    >>> jeffreys_rate(0.0, 4)
    0.1
    """
    return float((rate * trials + 0.5) / (trials + 1))


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a rate: here, of violations over environments drawn independently.

    >>> low, high = clopper_pearson(0, 100)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def _blocks(subsets: Subsets, moments: Moments) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each subset's own moments, (environments, subsets, size, size) and (…, size), in parts."""
    rows, columns = subsets.features[:, :, None], subsets.features[:, None]
    size = max(1, subsets.features.size * subsets.features.shape[1])
    step = max(1, _AT_A_TIME // size)
    for start in range(0, len(moments.target), step):
        part = slice(start, start + step)
        yield moments.features[part][:, rows, columns], moments.cross[part][:, subsets.features]


def _groups(names: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(names == name) for name in np.unique(names)]
