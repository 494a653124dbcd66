"""Data in which one group of features no longer belongs to the example."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray


def shuffle_block(
    inputs: Float[NDArray, "n ..."],
    block: Bool[NDArray, " ..."],
    *,
    rotation: Float[NDArray, "dim dim"] | None = None,
    seed: int = 0,
) -> Float[NDArray[np.float32], "n ..."]:
    """The examples with one block taken from other examples: all of it by one permutation.

    Train on these with the labels as they are, and the block can teach nothing: what a model then
    learns is the ceiling for one that leans on the block. Beside the examples as they are, it is
    the plainest remedy; `measures.randomized_score` tests with the same on test data.

    Args:
        inputs: (n, ...).
        block: where the block is in one example, True there.
        rotation: Q, if inputs are Z·Q with orthonormal Q and the block is columns of Z.
        seed: of the permutation.

    Raises:
        ValueError: a block that is empty or of another shape than an example.

    >>> x = np.array([[0, 1], [2, 3], [4, 5]], dtype=np.float32)
    >>> shuffle_block(x, np.array([True, False]), seed=2)
    array([[4., 1.],
           [0., 3.],
           [2., 5.]], dtype=float32)
    """
    if block.shape != inputs.shape[1:] or not block.any():
        raise ValueError(f"a block within {inputs.shape[1:]}, not {block.shape}")
    straight = inputs if rotation is None else inputs @ rotation.T
    order = np.random.default_rng(seed).permutation(len(straight))
    mixed = np.where(block, straight[order], straight)
    return (mixed if rotation is None else mixed @ rotation).astype(np.float32)
