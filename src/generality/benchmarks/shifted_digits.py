"""Small grey digits to learn from, and the same test digits under three shifts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from generality.benchmarks.corruptions import corrupt_inputs
from generality.benchmarks.digits import digits
from generality.benchmarks.rotated_digits import rotated_digits

Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ShiftedDigits:
    """Images (n, 1, pixels, pixels) in [0, 1] with their digits.

    Attributes:
        train: to learn from.
        held: to choose on; may be empty.
        test: to measure on.
        shifted: the test digits with noise, turned by 25°, and pale.
    """

    train: Part
    held: Part
    test: Part
    shifted: dict[str, Part]

    @torch.inference_mode()
    def accuracies(self, model: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """On the test digits as `score`, and `shifted`, the mean over the three shifts.

        Args:
            model: from images to logits, in eval mode.
        """
        score, *shifted = (
            float((model(x).argmax(1) == y).float().mean())
            for x, y in (self.test, *self.shifted.values())
        )
        return {"score": score, "shifted": float(np.mean(shifted))}


def shifted_digits(
    style: str, *, pixels: int, train: int, held: int, test: int, seed: int
) -> ShiftedDigits:
    """Digits of one style (see `digits`), dealt out by the seed.

    Noise and contrast are of strength 3 of `corrupt_inputs`.

    >>> data = shifted_digits("uci", pixels=8, train=20, held=10, test=10, seed=0)
    >>> data.train[0].shape, list(data.shifted)
    (torch.Size([20, 1, 8, 8]), ['noise', 'turned', 'pale'])
    """
    images, labels = digits(style, size=pixels, count=train + held + test, seed=seed)
    x, y = images.mean(1, keepdims=True), torch.from_numpy(labels).long()
    last = x[train + held :]
    shifts = {
        "noise": corrupt_inputs(last, "noise", 3, seed),
        "turned": rotated_digits(last, labels[train + held :], (25,)).inputs,
        "pale": corrupt_inputs(last, "contrast", 3, seed),
    }
    rows = [slice(0, train), slice(train, train + held), slice(train + held, None)]
    learned, kept, tested = ((torch.from_numpy(x[part]), y[part]) for part in rows)
    moved = {name: (torch.from_numpy(shift), tested[1]) for name, shift in shifts.items()}
    return ShiftedDigits(learned, kept, tested, moved)
