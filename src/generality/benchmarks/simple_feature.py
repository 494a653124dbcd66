"""Data of which every feature predicts the label, one of them being simpler than the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from generality.benchmarks.slabs import slab_dataset
from generality.benchmarks.spurious_mixture import SpuriousMixture


@dataclass(frozen=True, eq=False)
class SimpleFeature:
    """Training and test data of every seed, and where the simple feature is.

    Attributes:
        inputs: to train on.
        labels: theirs.
        test_inputs: to test on.
        test_labels: theirs.
        mask: True where an example has its simple feature, before it is turned.
        rotations: Q of every seed, where inputs are Z·Q; None where they are not turned.
    """

    inputs: Float[np.ndarray, "seeds n ..."]
    labels: Int[np.ndarray, "seeds n"]
    test_inputs: Float[np.ndarray, "seeds m ..."]
    test_labels: Int[np.ndarray, "seeds m"]
    mask: Bool[np.ndarray, ...]
    rotations: Float[np.ndarray, "seeds dim dim"] | None = None

    def rotation(self, i: int) -> Float[np.ndarray, "dim dim"] | None:
        """Q of the i-th seed."""
        return None if self.rotations is None else self.rotations[i]

    def take(self, rows: Sequence[int]) -> SimpleFeature:
        """The data of some seeds."""
        chosen = list(rows)
        return SimpleFeature(
            self.inputs[chosen], self.labels[chosen], self.test_inputs[chosen],
            self.test_labels[chosen], self.mask,
            None if self.rotations is None else self.rotations[chosen],
        )  # fmt: skip


def slab_features(
    simple: str,
    *,
    slabs: Mapping[int, int],
    linear: int = 0,
    noise: float = 0.0,
    train: int = 20_000,
    test: int = 4000,
    seeds: Sequence[int] = (0,),
) -> SimpleFeature:
    """`slab_dataset` for every seed, test data from another draw turned by the same rotation.

    Args:
        simple: the group of columns that is the simple feature: "linear", "slab5", ….
        slabs, linear, noise: as in `slab_dataset`.
        train: examples of each seed.
        test: likewise.

    >>> data = slab_features("linear", slabs={5: 3}, linear=1, train=20, test=10, seeds=(0, 1))
    >>> data.inputs.shape, int(data.mask.sum())
    ((2, 20, 4), 1)
    """
    kind: dict[str, Any] = {"linear": linear, "slabs": dict(slabs), "noise": noise}
    drawn = [slab_dataset(train, seed=2 * seed, **kind) for seed in seeds]
    tests = [
        slab_dataset(test, seed=2 * seed + 1, rotation_seed=2 * seed, **kind) for seed in seeds
    ]  # fmt: skip
    mask = np.zeros(drawn[0].inputs.shape[1], bool)
    mask[drawn[0].groups[simple]] = True
    return SimpleFeature(
        np.stack([part.inputs for part in drawn]), np.stack([part.labels for part in drawn]),
        np.stack([part.inputs for part in tests]), np.stack([part.labels for part in tests]),
        mask, np.stack([part.rotation for part in drawn]),
    )  # fmt: skip


def block_features(
    mixture: SpuriousMixture, *, train: int, test: int, seeds: Sequence[int] = (0,)
) -> SimpleFeature:
    """Images of two blocks that show the same class, the simpler one, the spurious cue, on top.

    >>> from generality.benchmarks.spurious_mixture import spur_above
    >>> half = np.zeros((40, 1, 2, 2)), np.arange(40) % 2
    >>> data = block_features(SpuriousMixture(half, half, join=spur_above), train=6, test=4)
    >>> data.inputs.shape, data.mask[0].tolist()
    ((1, 6, 1, 4, 2), [[True, True], [True, True], [False, False], [False, False]])
    """
    drawn = [mixture.training(train, seed=seed) for seed in seeds]
    tests = [mixture.aligned_test(test, seed=seed) for seed in seeds]
    shape = drawn[0].inputs.shape[1:]
    mask = np.zeros(shape, bool)
    mask[:, : shape[1] // 2] = True
    return SimpleFeature(
        np.stack([part.inputs for part in drawn]), np.stack([part.labels for part in drawn]),
        np.stack([part.inputs for part in tests]), np.stack([part.labels for part in tests]), mask,
    )  # fmt: skip
