"""Coloured digits for training in two environments, choosing, and testing in three colourings."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from generality.benchmarks.colored_digits import colored_digits
from generality.benchmarks.digits import digits
from generality.errors import UserError

COLOURINGS = {"against": 0.9, "along": 0.1, "even": 0.5}
"""Tests, by the probability that the colour contradicts the label."""


@dataclass(frozen=True)
class ColoredPanel:
    """ColoredMNIST of 14×14 pixels as one training set of two environments for each seed.

    Attributes:
        label_noise: probability that the shape misleads.
        color_flips: probability that the colour misleads, in each training environment.
        images: "mnist" for the 5,000 that come with it, or a set of the hub ("ylecun/mnist").
        per_environment: digits of each training environment.
        held_out: digits of each environment that nothing is trained on.
        test: digits, each shown in every one of `COLOURINGS`.
    """

    label_noise: float = 0.25
    color_flips: tuple[float, float] = (0.1, 0.2)
    images: str = "mnist"
    per_environment: int = 800
    held_out: int = 400
    test: int = 1000

    def draw(self, seeds: Sequence[int]) -> dict[str, np.ndarray]:
        """Arrays with a leading dimension of seeds.

        `x`, `y`, `domains` to train on; `even_x`, `even_y` the same digits with colours that say
        nothing; `held_x`, `held_y` held out, one environment after the other; `test_x`, `test_y`
        the test digits in each of `COLOURINGS`.

        Raises UserError for more digits than there are.

        >>> panel = ColoredPanel(per_environment=20, held_out=10, test=10)
        >>> data = panel.draw(range(2))  # doctest: +SKIP
        >>> data["x"].shape, data["test_x"].shape  # doctest: +SKIP
        ((2, 40, 2, 14, 14), (2, 30, 2, 14, 14))
        """
        images, shown = _small_digits(self.images)
        sizes = [2 * self.per_environment, 2 * self.held_out, self.test]
        if sum(sizes) > len(images):
            raise UserError(f"There are {len(images)} digits, and {sum(sizes)} are asked for.")
        parts: dict[str, list[np.ndarray]] = {}
        for seed in seeds:
            order = np.random.default_rng(seed).permutation(len(images))
            train, held, test = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])

            def colour(rows: np.ndarray, *flips: float, seed: int = seed) -> Any:
                return colored_digits(
                    images[rows], shown[rows], label_noise=self.label_noise, color_flips=flips,
                    seed=seed,
                )  # fmt: skip

            given, even = colour(train, *self.color_flips), colour(train, 0.5)
            held_out = colour(held, *self.color_flips)
            tests = [colour(test, flip) for flip in COLOURINGS.values()]
            for name, value in {
                "x": given.inputs, "y": given.labels, "domains": given.domains,
                "even_x": even.inputs, "even_y": even.labels,
                "held_x": np.concatenate([held_out.inputs[held_out.domains == d] for d in (0, 1)]),
                "held_y": np.concatenate([held_out.labels[held_out.domains == d] for d in (0, 1)]),
                "test_x": np.concatenate([t.inputs for t in tests]),
                "test_y": np.concatenate([t.labels for t in tests]),
            }.items():  # fmt: skip
                parts.setdefault(name, []).append(value)
        return {name: np.stack(values) for name, values in parts.items()}


@functools.cache
def _small_digits(
    images: str,
) -> tuple[Float[np.ndarray, "n 14 14"], Int[np.ndarray, " n"]]:
    """Every other pixel of every other row, and the digits."""
    if images == "mnist":
        drawn, shown = digits("mnist")
        return drawn[:, 0, ::2, ::2], shown
    import datasets

    split = datasets.concatenate_datasets(
        [datasets.load_dataset(images, split=name) for name in ("train", "test")]
    )
    pixels = np.stack([np.asarray(image, np.uint8)[::2, ::2] for image in split["image"]])
    return pixels.astype(np.float32) / 255, np.asarray(split["label"])
