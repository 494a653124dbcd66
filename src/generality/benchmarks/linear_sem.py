"""Linear structural equation models, and interventions on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class LinearSEM:
    """V = A V + η: every node is a weighted sum of its parents plus independent noise of mean 0.

    One model, or a stack of them that share the graph's nodes (environments), along leading
    dimensions. Features are all nodes but the target, in order.

    Args:
        coefficients: A; entry (i, j) is the effect of node j on node i, (…, nodes, nodes).
        noise_variance: of each node, (…, nodes).
        target: the node to predict.

    Raises:
        ValueError: shapes that do not fit, a target that is no node, a variance below 0.

    >>> chain = LinearSEM(np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0]]), np.ones(3), target=1)
    >>> sigma, cross, variance = chain.moments()
    >>> sigma.tolist(), cross.tolist(), float(variance)
    ([[1.0, 2.0], [2.0, 9.0]], [1.0, 4.0], 2.0)
    """

    coefficients: Float[np.ndarray, "*environments nodes nodes"]
    noise_variance: Float[np.ndarray, "*environments nodes"]
    target: int

    def __post_init__(self) -> None:
        shape = self.coefficients.shape
        if shape[-1:] != shape[-2:-1] or self.noise_variance.shape != shape[:-1]:
            raise ValueError(
                f"coefficients of shape {shape} and variances of shape "
                f"{self.noise_variance.shape} are not of the same nodes"
            )
        if not 0 <= self.target < shape[-1]:
            raise ValueError(f"the target is a node from 0 to {shape[-1] - 1}, not {self.target}")
        if (self.noise_variance < 0).any():
            raise ValueError("a variance is at least 0")

    @property
    def nodes(self) -> int:
        """How many there are, the target included."""
        return int(self.coefficients.shape[-1])

    @property
    def features(self) -> Int[np.ndarray, " d"]:
        """The nodes that are features."""
        return np.delete(np.arange(self.nodes), self.target)

    @property
    def parents(self) -> Int[np.ndarray, " parents"]:
        """Places, among the features, of the target's direct causes (one model, no stack)."""
        return np.flatnonzero(self.coefficients[self.target][self.features])

    def covariance(self) -> Float[np.ndarray, "*environments nodes nodes"]:
        """(I − A)⁻¹ D (I − A)⁻ᵀ, with D the diagonal of noise variances."""
        mixing = np.linalg.inv(np.eye(self.nodes) - self.coefficients)
        return (mixing * self.noise_variance[..., None, :]) @ mixing.swapaxes(-1, -2)

    def moments(
        self,
    ) -> tuple[
        Float[np.ndarray, "*environments d d"],
        Float[np.ndarray, "*environments d"],
        Float[np.ndarray, "*environments"],
    ]:
        """E[X Xᵀ], E[X Y] and E[Y²] of the features X and the target Y, exactly."""
        whole, x, y = self.covariance(), self.features, self.target
        return whole[..., x[:, None], x], whole[..., x, y], whole[..., y, y]

    def sample(
        self, count: int, rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, "*environments n d"], Float[np.ndarray, "*environments n"]]:
        """`count` draws from each environment, with Gaussian noise: features and target."""
        deviation = np.sqrt(self.noise_variance)[..., None, :]
        noise = rng.normal(size=(*self.noise_variance.shape[:-1], count, self.nodes)) * deviation
        mixing = np.linalg.inv(np.eye(self.nodes) - self.coefficients)
        nodes = noise @ mixing.swapaxes(-1, -2)
        return nodes[..., self.features], nodes[..., self.target]

    def intervene(
        self,
        count: int,
        rng: np.random.Generator,
        *,
        sites: Sequence[int] | None = None,
        anywhere: int = 2,
        scale: tuple[float, float] = (-1.0, 1.5),
        variance: tuple[float, float] = (0.5, 3.0),
    ) -> LinearSEM:
        """A stack of `count` environments under soft interventions drawn independently.

        At a site, every incoming coefficient is multiplied by its own factor from U(scale) and the
        noise variance is replaced by one from U(variance). The target is never a site.

        Args:
            count: environments.
            rng: of all draws.
            sites: nodes; None draws `anywhere` of them anew for each environment.
            anywhere: how many sites an environment has when they are free.
            scale: range of the factors.
            variance: range of the variances.

        Raises:
            ValueError: a site that is the target or no node.
        """
        if sites is None:
            drawn = [rng.choice(self.features, anywhere, replace=False) for _ in range(count)]
            places = np.stack(drawn)
        else:
            places = np.tile(np.asarray(sites, dtype=int), (count, 1))
        if (places == self.target).any() or not np.isin(places, self.features).all():
            raise ValueError(f"a site is a node other than the target {self.target}")
        rows = np.arange(count)[:, None]
        coefficients = np.tile(self.coefficients, (count, 1, 1))
        coefficients[rows, places] *= rng.uniform(*scale, size=(*places.shape, self.nodes))
        variances = np.tile(self.noise_variance, (count, 1))
        variances[rows, places] = rng.uniform(*variance, size=places.shape)
        return replace(self, coefficients=coefficients, noise_variance=variances)

    def grow(
        self,
        nodes: int,
        rng: np.random.Generator,
        *,
        in_degree: int = 2,
        strength: tuple[float, float] = (0.5, 1.0),
    ) -> LinearSEM:
        """The same model with further nodes below it, each a child of `in_degree` earlier ones."""
        coefficients = np.zeros((nodes, nodes))
        coefficients[: self.nodes, : self.nodes] = self.coefficients
        for node in range(self.nodes, nodes):
            parents = rng.choice(node, min(in_degree, node), replace=False)
            signs = rng.choice([-1.0, 1.0], len(parents))
            coefficients[node, parents] = signs * rng.uniform(*strength, size=len(parents))
        variances = np.append(self.noise_variance, np.ones(nodes - self.nodes))
        return LinearSEM(coefficients, variances, self.target)


def random_sem(
    features: int,
    rng: np.random.Generator,
    *,
    in_degree: int = 2,
    strength: tuple[float, float] = (0.5, 1.0),
) -> LinearSEM:
    """A random acyclic model of `features` + 1 nodes, the middle one the target.

    Each node has min(in_degree, nodes before it) parents among those before it, with coefficients
    ±U(strength) and noise of variance 1.

    >>> sem = random_sem(8, np.random.default_rng(0))
    >>> sem.nodes, sem.target, len(sem.parents)
    (9, 4, 2)
    """
    empty = LinearSEM(np.zeros((1, 1)), np.ones(1), target=0)
    grown = empty.grow(features + 1, rng, in_degree=in_degree, strength=strength)
    return replace(grown, target=(features + 1) // 2)
