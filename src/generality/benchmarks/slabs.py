"""Slab data: one feature that a line reads, and many that take piecewise-linear functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

_OUTER = {5: 0.25, 7: 0.125}  # probability of the outermost slab of the class that has two of them


@dataclass(frozen=True)
class SlabData:
    """Examples whose every coordinate predicts the label.

    Attributes:
        inputs: (n, d) float32, Z·Q where Z has one feature a column.
        labels: (n,) 0 or 1, equally many.
        rotation: (d, d) Q, orthonormal; the identity without rotation.
        groups: "linear" (if there is one) and "slab5", "slab7", … -> columns of Z.
    """

    inputs: Float[NDArray[np.float32], "n d"]
    labels: Int[NDArray[np.int64], " n"]
    rotation: Float[NDArray[np.float64], "d d"]
    groups: dict[str, list[int]]


def slab_dataset(
    n: int,
    *,
    linear: int = 1,
    slabs: Mapping[int, int] | None = None,
    margin: float = 0.1,
    noise: float = 0.0,
    rotate: bool = True,
    seed: int = 0,
    rotation_seed: int | None = None,
) -> SlabData:
    """Draw linear and slab features, independent of each other given the label, and rotate them.

    In [−1, 1], a k-slab feature has k equally wide slabs, `2·margin` apart, that belong to the two
    classes in turn; k − 1 thresholds separate the classes. A linear feature is (2y − 1)(margin +
    (1 − margin)·U). All have the same margin. The slabs of a class are weighted so that the first
    two moments of 5- and 7-slab features do not depend on the label: a linear rule is at chance.

    Args:
        n: examples, half of each class (one more of class 0 when odd).
        linear: number of linear features.
        slabs: {slabs: number of such features}, slabs being 3, 5 or 7; None: {5: 49}.
        margin: half the distance between two slabs, in (0, 0.15].
        noise: share of the examples whose linear features are uniform in (−margin, margin) instead:
            a rule on such a feature is right with probability 1 − noise/2.
        rotate: by a random orthonormal matrix.
        seed: of the draws.
        rotation_seed: of the matrix, so that training and test data share it; None: `seed`.

    Raises:
        ValueError: for options out of range.

    Source: Shah et al. 2020 (arXiv 2006.07710), section 3 and appendix B; LMS-5 is linear=1,
    slabs={5: 49}; MS-(5,7) is linear=0, slabs={5: 1, 7: 49}.

    >>> data = slab_dataset(1000, linear=1, slabs={5: 4})
    >>> data.inputs.shape, data.groups
    ((1000, 5), {'linear': [0], 'slab5': [1, 2, 3, 4]})
    >>> features = data.inputs @ data.rotation.T
    >>> bool(((features[:, 0] > 0) == data.labels).all())
    True
    """
    kinds = {5: 49} if slabs is None else dict(slabs)
    if n < 2 or linear < 0 or any(k not in (3, 5, 7) or c < 0 for k, c in kinds.items()):
        raise ValueError(f"n ≥ 2, linear ≥ 0 and slabs of 3, 5 or 7: {n}, {linear}, {kinds}")
    if not 0 < margin <= 0.15 or not 0 <= noise <= 1:
        raise ValueError(f"margin in (0, 0.15] and noise in [0, 1], not {margin} and {noise}")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    columns = [_linear(labels, margin, noise, rng) for _ in range(linear)]
    groups = {"linear": list(range(linear))} if linear else {}
    for k, count in kinds.items():
        if count:
            groups[f"slab{k}"] = list(range(len(columns), len(columns) + count))
            columns += [_slab(labels, k, margin, rng) for _ in range(count)]
    if not columns:
        raise ValueError("ask for at least one feature")
    features = np.stack(columns, 1)
    rotation = np.eye(len(columns))
    if rotate:
        own = np.random.default_rng((seed if rotation_seed is None else rotation_seed, 1))
        q, r = np.linalg.qr(own.normal(size=rotation.shape))
        rotation = q * np.sign(np.diag(r))
    return SlabData((features @ rotation).astype(np.float32), labels, rotation, groups)


def slab_edges(slabs: int, margin: float = 0.1) -> Float[NDArray, "half 2"]:
    """Where the slabs of the positive half lie, from the centre outward: (low, high) each.

    >>> slab_edges(5).round(4).tolist()
    [[0.0, 0.12], [0.32, 0.56], [0.76, 1.0]]
    """
    width = (2 - 2 * (slabs - 1) * margin) / slabs
    j = np.arange((slabs + 1) // 2)
    low = np.where(j > 0, (j - 0.5) * width + 2 * j * margin, 0.0)
    return np.stack([low, low + np.where(j > 0, width, width / 2)], 1)


def _linear(labels: NDArray, margin: float, noise: float, rng: np.random.Generator) -> NDArray:
    values = (2 * labels - 1) * rng.uniform(margin, 1, len(labels))
    noisy = rng.permutation(len(labels)) < round(noise * len(labels))
    return np.where(noisy, rng.uniform(-margin, margin, len(labels)), values)


def _slab(labels: NDArray, slabs: int, margin: float, rng: np.random.Generator) -> NDArray:
    """Slab j of the positive half belongs to class 1 where j is odd; which half is a coin toss."""
    n, edges = len(labels), slab_edges(slabs, margin)
    if slabs == 3:
        chosen = labels
    elif slabs == 5:  # class 0 has the centre and the outer slab
        chosen = np.where(labels == 1, 1, np.where(rng.random(n) < _OUTER[5], 2, 0))
    else:  # class 1 has slabs 1 and 3, class 0 has 0 and 2
        odd = np.where(rng.random(n) < _OUTER[7], 3, 1)
        chosen = np.where(labels == 1, odd, np.where(rng.random(n) < 0.5, 2, 0))
    low, high = edges[chosen].T
    return rng.choice([-1.0, 1.0], n) * rng.uniform(low, high)
