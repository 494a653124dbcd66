"""Coloured digits: a colour that goes with the label in training and against it in the test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from generality.benchmarks.multi_domain import MultiDomain


def colored_digits(
    images: Float[np.ndarray, "n height width"],
    digits: Int[np.ndarray, " n"],
    *,
    label_noise: float = 0.25,
    color_flips: Sequence[float] = (0.1, 0.2, 0.9),
    seed: int = 0,
) -> MultiDomain:
    """ColoredMNIST from any images of digits: the shape says the label less surely than the colour.

    The label is 1 for a digit below 5, then flipped with probability `label_noise`. The colour is
    the label, flipped with a probability of its own in each domain. The images are dealt out to
    the domains at random, in parts that differ by at most one, and none is in two domains.

    A model of the shape alone is right in 1 − `label_noise` of the rows of every domain; one of
    the colour alone in 1 − flip, which beats the shape in the first two domains and is .1 in the
    third. With flips (…, 0.5) the colour says nothing.

    Args:
        images: in [0, 1]; the paper halves MNIST to 14×14 first, `images[:, ::2, ::2]`.
        digits: what is on them, 0 to 9.
        label_noise: probability in [0, 1].
        color_flips: for each domain the probability that the colour contradicts the label. The
            domains are named by them: "flip 0.1", …
        seed: of the dealing and of both kinds of flips.

    Returns:
        Inputs float32 (n, 2, height, width): the digit in the channel of its colour, so that the
        colour can be read back as `inputs.sum((2, 3)).argmax(1)` (unless an image is all black).

    Raises:
        ValueError: shapes or probabilities that do not fit, equal flips, digits beyond 0 to 9.

    Source: Arjovsky et al. 2019 (arXiv 1907.02893), section 5.2.

    >>> images = np.ones((3000, 2, 2), dtype=np.float32)
    >>> data = colored_digits(images, np.arange(3000) % 10)
    >>> data.inputs.shape, data.domain_names
    ((3000, 2, 2, 2), ('flip 0.1', 'flip 0.2', 'flip 0.9'))
    >>> colour = data.inputs.sum((2, 3)).argmax(1)
    >>> bool(np.mean((colour == data.labels)[data.rows("flip 0.9")]) < 0.2)
    True
    """
    if images.ndim != 3 or digits.shape != (len(images),):
        raise ValueError(f"images (n, height, width) and n digits, not {images.shape}")
    if len(digits) and not 0 <= digits.min() <= digits.max() <= 9:
        raise ValueError(f"digits are 0 to 9, not {digits.min()} to {digits.max()}")
    if not all(0 <= share <= 1 for share in (label_noise, *color_flips)):
        raise ValueError(f"probabilities lie in [0, 1]: {label_noise}, {tuple(color_flips)}")
    rng = np.random.default_rng(seed)
    domains = rng.permutation(np.arange(len(images)) % len(color_flips))
    labels = (digits < 5) ^ (rng.random(len(images)) < label_noise)
    colours = labels ^ (rng.random(len(images)) < np.asarray(color_flips)[domains])
    inputs = np.zeros((len(images), 2, *images.shape[1:]), dtype=np.float32)
    inputs[np.arange(len(images)), colours.astype(int)] = images
    return MultiDomain(
        inputs=inputs,
        labels=labels.astype(np.int64),
        domains=domains,
        label_names=("5 to 9", "0 to 4"),
        domain_names=tuple(f"flip {flip:g}" for flip in color_flips),
    )


def inverse_colored_digits(
    images: Float[np.ndarray, "n height width"],
    digits: Int[np.ndarray, " n"],
    *,
    label_noise: float = 0.1,
    color_flips: Sequence[float] = (0.2, 0.25, 0.9),
    seed: int = 0,
) -> MultiDomain:
    """`colored_digits` in which the shape is the surer cue, and the one that models take first.

    A method that merely avoids what is learnt first fails here.

    Source: Zhang et al. 2022 (arXiv 2203.15516), section 5.1.

    >>> data = inverse_colored_digits(np.ones((9, 2, 2)), np.arange(9))
    >>> data.domain_names
    ('flip 0.2', 'flip 0.25', 'flip 0.9')
    """
    return colored_digits(
        images, digits, label_noise=label_noise, color_flips=color_flips, seed=seed
    )
