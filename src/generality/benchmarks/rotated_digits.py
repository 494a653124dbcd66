"""Images turned by an angle for each domain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from generality.benchmarks.multi_domain import MultiDomain


def rotated_digits(
    images: Float[np.ndarray, "n *channels height width"],
    labels: Int[np.ndarray, " n"],
    angles: Sequence[float] = (0, 15, 30, 45, 60, 75),
    seed: int = 0,
) -> MultiDomain:
    """RotatedMNIST from any images: domain d has its images turned by `angles[d]` degrees.

    The images are dealt out to the domains at random, in parts that differ by at most one, and
    none is in two domains. They turn counterclockwise about their centre, with bilinear
    interpolation; what turns in from outside is 0.

    Args:
        images: (n, height, width) or (n, channels, height, width).
        labels: the class of each, from 0.
        angles: in degrees, one for each domain, whose names they are ("15°").
        seed: of the dealing.

    Returns:
        Inputs float32 (n, channels, height, width).

    Raises:
        ValueError: shapes that do not fit, or two equal angles.

    Source: Ghifary et al. 2015 (arXiv 1508.07680), as set up by DomainBed (arXiv 2007.01434).

    >>> data = rotated_digits(np.eye(3)[None].repeat(4, 0), np.zeros(4, int), angles=(0, 90))
    >>> data.inputs[data.rows("90°")][0, 0].round(3)
    array([[0., 0., 1.],
           [0., 1., 0.],
           [1., 0., 0.]], dtype=float32)
    """
    from scipy.ndimage import rotate  # slow to import

    if images.ndim not in (3, 4) or labels.shape != (len(images),):
        raise ValueError(f"images (n, [channels,] height, width) and n labels, not {images.shape}")
    inputs = images.astype(np.float32).reshape(len(images), -1, *images.shape[-2:])
    domains = np.random.default_rng(seed).permutation(np.arange(len(images)) % len(angles))
    for domain, angle in enumerate(angles):
        if angle % 360:
            rows = domains == domain
            inputs[rows] = rotate(inputs[rows], angle, axes=(3, 2), reshape=False, order=1)
    return MultiDomain(
        inputs=inputs,
        labels=labels,
        domains=domains,
        label_names=tuple(str(label) for label in range(int(labels.max(initial=-1)) + 1)),
        domain_names=tuple(f"{angle:g}°" for angle in angles),
    )
