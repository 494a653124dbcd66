"""Two cues for one label: together in training, apart in the data without labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from numpy.typing import NDArray

Cue = Callable[[NDArray, np.random.Generator], NDArray] | tuple[Any, Any]
"""What shows a class: a function (classes (n,), generator) -> (n, ...), or (examples, classes)."""

_PARTS = {"training": 0, "unlabelled": 1, "test": 2}


@dataclass(frozen=True)
class CueSample:
    """Examples with both cues.

    Attributes:
        inputs: (n, ...) the two cues joined.
        labels: (n,) the class of the core cue, which is the true label.
        spurious: (n,) the class that the other cue shows.
    """

    inputs: Shaped[NDArray, "n ..."]
    labels: Int[NDArray[np.int64], " n"]
    spurious: Int[NDArray[np.int64], " n"]


def side_by_side(core: NDArray, spur: NDArray) -> NDArray:
    """The two cues along the first axis of an example: columns of a table, rows of an image.

    >>> side_by_side(np.zeros((5, 2)), np.ones((5, 3))).shape
    (5, 5)
    """
    return np.concatenate([core, spur], axis=1)


def spur_above(core: NDArray, spur: NDArray) -> NDArray:
    """The two cues as one image (n, channels, height, width), the spurious one on top.

    >>> spur_above(np.zeros((5, 1, 2, 3)), np.ones((5, 1, 4, 3)))[0, 0, :, 0]
    array([1., 1., 1., 1., 0., 0.])
    """
    return np.concatenate([spur, core], axis=2)


@dataclass(frozen=True)
class SpuriousMixture:
    """Data in which a core cue and a spurious one agree as often as you say.

    The training data has them always agree, so that they cannot be told apart; the unlabelled data
    has them agree in a share `ratio` of the examples; in the test data they are independent.
    Classes are balanced. Where a cue is a set of examples, training, unlabelled and test data take
    theirs from disjoint parts of it (a half, a quarter, a quarter of each class), with replacement
    where more are asked for.

    Args:
        core: the cue that decides the label: a function (classes, generator) -> examples, or
            (examples (m, ...), their classes (m,)).
        spur: the other one.
        ratio: share of the unlabelled data, in [0, 1], in which both show the same class: 0
            inversely correlated, 1/classes independent, 1 as in training.
        join: (core (n, ...), spur (n, ...)) -> inputs (n, ...).
        classes: 0 … classes − 1.

    Raises:
        ValueError: for a ratio out of range, or a cue that lacks a class.

    Source: Benoit et al. 2023 (arXiv 2312.16313), section 3.

    >>> rng = np.random.default_rng(0)
    >>> shape = (rng.normal(size=(90, 4)), np.arange(90) % 3)
    >>> colour = lambda classes, rng: np.eye(3)[classes]
    >>> mixture = SpuriousMixture(shape, colour, ratio=0.25, classes=3)
    >>> found = mixture.unlabelled(200)
    >>> found.inputs.shape, float((found.labels == found.spurious).mean())
    ((200, 7), 0.25)
    """

    core: Cue
    spur: Cue
    ratio: float = 0.5
    join: Callable[[NDArray, NDArray], NDArray] = side_by_side
    classes: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1 or self.classes < 2:
            raise ValueError(
                f"a ratio in [0, 1] of two classes or more, not {self.ratio}, {self.classes}"
            )
        for name, cue in (("core", self.core), ("spur", self.spur)):
            if callable(cue):
                continue
            counts = np.bincount(np.asarray(cue[1]), minlength=self.classes)[: self.classes]
            if counts.min() < 4:
                raise ValueError(f"cue '{name}' needs 4 examples of each class, not {counts}")

    def training(self, n: int, *, seed: int = 0) -> CueSample:
        """Both cues always agree."""
        return self._draw("training", n, 1.0, seed)

    def unlabelled(self, n: int, *, seed: int = 0) -> CueSample:
        """They agree in a share `ratio`; the labels are for measuring, not for training."""
        return self._draw("unlabelled", n, self.ratio, seed)

    def test(self, n: int, *, seed: int = 0) -> CueSample:
        """They are independent."""
        return self._draw("test", n, 1 / self.classes, seed)

    def aligned_test(self, n: int, *, seed: int = 0) -> CueSample:
        """Test examples in which they agree as they do in training."""
        return self._draw("test", n, 1.0, seed)

    def decoupled(self, n: int, *, seed: int = 0) -> CueSample:
        """Training examples in which they are independent: what a ceiling is trained on."""
        return self._draw("training", n, 1 / self.classes, seed)

    def parts(
        self, labelled: int, unlabelled: int, test: int, *, seed: int = 0
    ) -> list[tuple[NDArray, NDArray]]:
        """(inputs, labels) to train on, without labels, to test on, and with cues apart."""
        samples = (
            self.training(labelled, seed=seed), self.unlabelled(unlabelled, seed=seed),
            self.test(test, seed=seed), self.decoupled(labelled, seed=seed),
        )  # fmt: skip
        return [(sample.inputs, sample.labels) for sample in samples]

    def _draw(self, part: str, n: int, agreement: float, seed: int) -> CueSample:
        rng = np.random.default_rng((seed, _PARTS[part]))
        labels = rng.permutation(np.arange(n) % self.classes)
        agree = np.zeros(n, bool)
        for k in range(self.classes):
            rows = rng.permutation(np.flatnonzero(labels == k))
            agree[rows[: round(agreement * len(rows))]] = True
        others = (labels + rng.integers(1, self.classes, n)) % self.classes
        spurious = np.where(agree, labels, others)
        core = _show(self.core, labels, part, seed, rng)
        spur = _show(self.spur, spurious, part, seed, rng)
        return CueSample(self.join(core, spur), labels, spurious)


def spurious_2d(ratio: float = 0.5) -> SpuriousMixture:
    """Two numbers: the sign of the first is the label, the sign of the wider second goes along.

    x₁ is uniform in (−1, 0) for class 1 and in (0, 1) for class 0; x₂ = ±5·(0.2 + 0.8·U), negative
    for class 1. x₂ is the simpler cue by its margin; without one plain training learns the
    diagonal.

    Source: the toy of DivDis (arXiv 2202.03418) and of Benoit et al. 2023 (arXiv 2312.16313), with
    the spurious coordinate stretched.

    >>> spurious_2d(0.0).unlabelled(4).inputs.shape
    (4, 2)
    """
    return SpuriousMixture(_near_line, _far_from_line, ratio)


def _near_line(classes: NDArray, rng: np.random.Generator) -> NDArray:
    return (np.where(classes == 1, -1.0, 1.0) * rng.random(len(classes)))[:, None].astype("float32")


def _far_from_line(classes: NDArray, rng: np.random.Generator) -> NDArray:
    size = 5 * (0.2 + 0.8 * rng.random(len(classes)))
    return (np.where(classes == 1, -1.0, 1.0) * size)[:, None].astype("float32")


def _show(cue: Cue, classes: NDArray, part: str, seed: int, rng: np.random.Generator) -> NDArray:
    """Examples of a cue that show these classes."""
    if callable(cue):
        return np.asarray(cue(classes, rng))
    examples, shown = np.asarray(cue[0]), np.asarray(cue[1])
    shuffled = np.random.default_rng((seed, 3)).permutation(len(shown))
    rows = np.empty(len(classes), np.int64)
    for k in np.unique(classes):
        own = shuffled[shown[shuffled] == k]
        half, quarter = len(own) // 2, len(own) // 4
        bounds = {"training": (0, half), "unlabelled": (half, half + quarter)}
        low, high = bounds.get(part, (half + quarter, len(own)))
        wanted = np.flatnonzero(classes == k)
        pool = rng.permutation(own[low:high])
        rows[wanted] = np.resize(pool, len(wanted))
    return examples[rows]
