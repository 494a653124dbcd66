"""Linear representations learned to be invariant across environments, from second moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

if TYPE_CHECKING:
    from generality.measures.invariance import Moments


@dataclass(frozen=True, eq=False)
class Projections:
    """Representations Φ and the pooled least squares w on each.

    Attributes:
        representations: (restarts, k, d).
        weights: (restarts, k).
        risk: mean squared error over the training environments, (restarts,).
    """

    representations: Float[np.ndarray, "restarts k d"]
    weights: Float[np.ndarray, "restarts k"]
    risk: Float[np.ndarray, " restarts"]

    def __len__(self) -> int:
        return len(self.risk)

    def residuals(self, moments: Moments) -> Float[np.ndarray, "environments restarts"]:
        """‖Φ Σ_e Φᵀ w − Φ c_e‖ of each in each environment."""
        phi, w = self.representations, self.weights
        fitted = np.einsum("rkd,rk->rd", phi, w)
        gradients = np.einsum("eij,rj->eri", moments.features, fitted) - moments.cross[:, None]
        g = np.einsum("rkd,erd->erk", phi, gradients)
        found: np.ndarray = np.linalg.norm(g, axis=-1)
        return found


def invariant_projections(
    moments: Moments,
    size: int,
    rng: np.random.Generator,
    *,
    rank: int,
    penalties: tuple[float, ...] = (0.0, 1.0, 10.0, 100.0),
    restarts: int = 10,
    steps: int = 200,
    learning_rate: float = 0.05,
) -> Projections:
    """Search projections of the features onto `size` dimensions on which one predictor suits all.

    The features are whitened by the environments together and cut to their `rank` largest
    directions (latent variables behind a fixed mixing have as many). On them Φ has orthonormal
    rows, and Adam minimises pooled risk + penalty · mean over environments of ‖g_e‖², w being the
    pooled least squares on Φ. Every restart of every penalty is kept: what is invariant is for
    the caller to measure, on environments that were not trained on.

    Args:
        moments: of the training environments.
        size: dimensions of the representation.
        rng: of the starts.
        rank: of the features, at least `size`.
        penalties: weights of invariance.
        restarts: of each penalty.
        steps: of Adam.
        learning_rate: of Adam.

    Raises:
        ValueError: size above rank, or rank above the number of features.

    >>> from generality.measures.invariance import Moments
    >>> signs = Moments(np.array([[[1.0, 1], [1, 3]], [[1, -1], [-1, 3]]]),
    ...                 np.array([[1.0, 2], [1, -2]]), np.array([2.0, 2]))
    >>> found = invariant_projections(signs, 1, np.random.default_rng(0), rank=2)
    >>> bool(found.residuals(signs).max(0).min() < 0.1)
    True
    """
    d = moments.features.shape[-1]
    if not 1 <= size <= rank <= d:
        raise ValueError(f"size {size}, rank {rank} and {d} features must not fall")
    values, vectors = np.linalg.eigh(moments.pooled.features[0])
    whiten = vectors[:, -rank:].T / np.sqrt(values[-rank:, None])
    inside = moments.projected(whiten)
    sigma, cross = torch.as_tensor(inside.features), torch.as_tensor(inside.cross)
    count = len(penalties) * restarts
    weight = torch.as_tensor(np.repeat(penalties, restarts))
    free = torch.as_tensor(rng.normal(size=(count, rank, size))).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=learning_rate)

    def fit() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        phi = torch.linalg.qr(free).Q.mT
        w = torch.einsum("rkd,d->rk", phi, cross.mean(0))  # whitened: Φ Σ Φᵀ is the identity
        fitted = torch.einsum("rkd,rk->rd", phi, w)
        g = torch.einsum("eij,rj->eri", sigma, fitted) - cross[:, None]
        squared = torch.einsum("rkd,erd->erk", phi, g).square().sum(-1).mean(0)
        return phi, w, float(inside.target.mean()) - w.square().sum(-1), squared

    for _ in range(steps):
        _, _, risk, squared = fit()
        optimizer.zero_grad()
        (risk + weight * squared).sum().backward()
        optimizer.step()
    with torch.no_grad():
        phi, w, risk, _ = fit()
    return Projections(phi.numpy() @ whiten, w.numpy(), risk.numpy())
