"""Experts on turned digits: small networks of one base, one for each angle, and their merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.lab.replicate import replicate
from generality.models import mlp
from generality.weights import merge


@dataclass(frozen=True)
class DigitParts:
    """How many of the 1797 digits go where, and how long networks are trained on them.

    Attributes:
        base: images, each turned by an angle of its own, for a base.
        train: images of each angle that an expert is tuned on.
        validation: images of each angle to choose by.
        test: images of each angle to score on.
        epochs: of tuning, in batches of 32.
        learning_rate: of tuning, by Adam.
    """

    base: int = 600
    train: int = 600
    validation: int = 100
    test: int = 400
    epochs: int = 11
    learning_rate: float = 5e-4


class TurnedDigits:
    """Digits of scikit-learn turned by each of some angles, dealt out anew by each seed.

    The images of base, train, validation and test are different ones; within a part every angle has
    the same images.

    Raises:
        ValueError: more images than there are.

    >>> digits = TurnedDigits((0, 90), DigitParts(base=10, train=40, test=50, epochs=1), seed=0)
    >>> start = digits.network(8)
    >>> [digits.accuracy(model, "test", [0, 1]) < 0.5 for model in digits.tune(start, [[0], [1]])]
    [True, True]
    """

    def __init__(self, angles: Sequence[float], parts: DigitParts, seed: int) -> None:
        from scipy.ndimage import rotate  # slow to import
        from sklearn.datasets import load_digits

        self.parts, self.seed = parts, seed
        images, labels = load_digits(return_X_y=True)
        if parts.base + parts.train + parts.validation + parts.test > len(images):
            raise ValueError(f"there are {len(images)} digits for all parts together")
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(images))
        images = (images[order] / 16).reshape(-1, 8, 8).astype(np.float32)
        self.labels = torch.from_numpy(labels[order])
        self.turned = torch.stack(
            [
                torch.from_numpy(rotate(images, angle, axes=(2, 1), reshape=False, order=1))
                for angle in angles
            ]
        ).flatten(2)
        own = rng.uniform(0, 360, parts.base)
        turned = [rotate(image, a, reshape=False, order=1) for image, a in zip(images, own)]  # noqa: B905
        self._for_base = torch.from_numpy(np.stack(turned)).flatten(1)
        ends = np.cumsum([parts.base, parts.train, parts.validation, parts.test])
        self._rows = {
            part: slice(int(begin), int(end))
            for begin, end, part in zip(
                ends[:-1], ends[1:], ("train", "validation", "test"), strict=True
            )
        }

    def network(self, width: int) -> nn.Module:
        """Two hidden layers of this width, with random weights of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return mlp(64, width, width, 10)

    def train_base(
        self, start: nn.Module, images: int, epochs: int, learning_rate: float = 1e-3
    ) -> nn.Module:
        """A network that has seen this many digits, each turned by an angle of its own."""
        inputs, labels = self._for_base[:images], self.labels[:images][None]
        return self._train(start, inputs, labels, epochs, learning_rate)[0]

    def tune(self, start: nn.Module, groups: Sequence[Sequence[int]]) -> list[nn.Module]:
        """A model for each group of angles (as many in each), all tuned from the same start."""
        rows = self._rows["train"]
        inputs = self.turned[torch.tensor(groups), rows].flatten(0, 2)
        labels = self.labels[rows].repeat(len(groups), len(groups[0]))
        return self._train(start, inputs, labels, self.parts.epochs, self.parts.learning_rate)

    def best_merge(
        self,
        start: nn.Module,
        experts: Sequence[Mapping[str, Tensor]],
        tasks: Sequence[int],
        method: str,
        lams: Sequence[float],
        **settings: Any,
    ) -> tuple[nn.Module, float]:
        """The merge whose λ is best on validation images of these angles, and that λ."""
        found = []
        for lam in (1.0,) if method == "average" else lams:
            model = self.network(len(start[1].bias))  # type: ignore[index]
            state = merge(experts, method, base=start.state_dict(), lam=lam, **settings)
            model.load_state_dict(state)
            found.append((self.accuracy(model, "validation", tasks), model, lam))
        return max(found, key=lambda each: each[0])[1:]

    @torch.inference_mode()
    def accuracy(self, model: nn.Module, part: str, tasks: Sequence[int]) -> float:
        """Mean over angles, in [0, 1]; `part` is "train", "validation" or "test"."""
        inputs = self.turned[torch.tensor(tasks), self._rows[part]]
        right = model(inputs.flatten(0, 1)).argmax(-1).view(len(tasks), -1)
        return float((right == self.labels[self._rows[part]]).float().mean())

    def examples(
        self, part: str, tasks: Sequence[int], count: int
    ) -> tuple[Float[Tensor, "n pixels"], Int[Tensor, " n"]]:
        """The first `count` images of a part at each of these angles, and their classes."""
        rows = slice(self._rows[part].start, self._rows[part].start + count)
        return self.turned[torch.tensor(tasks), rows].flatten(0, 1), self.labels[rows].repeat(
            len(tasks)
        )

    def train(
        self,
        start: nn.Module,
        inputs: Float[Tensor, "n pixels"],
        targets: Float[Tensor, "models n classes"],
        epochs: int,
        learning_rate: float,
    ) -> list[nn.Module]:
        """A model for each set of targets of the same images, all from the same start."""
        trained = replicate(
            start, inputs, targets, seeds=[self.seed] * len(targets), epochs=epochs,
            learning_rate=learning_rate, optimizer="adam",
        )  # fmt: skip
        return [trained.module(number) for number in range(len(targets))]

    def _train(
        self, start: nn.Module, inputs: Tensor, labels: Tensor, epochs: int, rate: float
    ) -> list[nn.Module]:
        targets = nn.functional.one_hot(labels, 10).float()
        trained = replicate(
            start, inputs, targets, rows=torch.arange(len(inputs)).view(labels.shape),
            seeds=[self.seed] * len(labels), epochs=epochs, learning_rate=rate, optimizer="adam",
        )  # fmt: skip
        return [trained.module(number) for number in range(len(labels))]
