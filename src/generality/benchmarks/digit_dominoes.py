"""Dominoes: a handwritten digit, the shortcut, above what gives the label."""

from __future__ import annotations

from generality.benchmarks.hub_classes import hub_classes
from generality.benchmarks.spurious_mixture import SpuriousMixture, spur_above
from generality.benchmarks.two_digits import two_digits


def digit_dominoes(ratio: float = 1.0, *, count: int | None = None) -> SpuriousMixture:
    """A handwritten 0 or 1 over a printed 4 or 9, 28×14 pixels; the label is the printed one's.

    Args:
        ratio: share of the unlabelled data in which both show the same class, in [0, 1].
        count: printed digits of all ten kinds to choose from, of which a fifth is a 4 or a 9; None
            for all.

    Source: MNIST-CIFAR of Shah et al. 2020 (arXiv 2006.07710), with an easier harder block.

    >>> digit_dominoes(count=100).training(4).inputs.shape  # doctest: +SKIP
    (4, 1, 28, 14)
    """
    printed = two_digits("fonts", 4, 9, count=count)
    return SpuriousMixture(printed, two_digits("mnist", 0, 1), ratio, spur_above)


def mnist_cifar() -> SpuriousMixture:
    """A handwritten 0 or 1 over a car or a truck, 64×32 pixels in colour, from the hub.

    Source: Shah et al. 2020 (arXiv 2006.07710).

    >>> mnist_cifar().training(4).inputs.shape  # doctest: +SKIP
    (4, 3, 64, 32)
    """
    vehicles = hub_classes("uoft-cs/cifar10", "img", (1, 9))
    handwritten = hub_classes("ylecun/mnist", "image", (0, 1))
    return SpuriousMixture(vehicles, handwritten, 1.0, spur_above)
