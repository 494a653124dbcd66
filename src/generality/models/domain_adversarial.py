"""A classifier that shares its features with a domain discriminator."""

from __future__ import annotations

from torch import nn

from generality.models.featurized import Featurized


class DomainAdversarial(Featurized):
    """`Featurized` with a discriminator of domains beside the head; forward gives class logits.

    Args:
        featurizer: (batch, ...) to (batch, features).
        head: features to class logits.
        discriminator: features to logits of domains (two: source, target).

    >>> import torch
    >>> from generality.models import mlp
    >>> model = DomainAdversarial(mlp(8, 16), mlp(16, 3), mlp(16, 2))
    >>> model(torch.zeros(5, 8)).shape, model.discriminator(torch.zeros(5, 16)).shape
    (torch.Size([5, 3]), torch.Size([5, 2]))
    """

    def __init__(self, featurizer: nn.Module, head: nn.Module, discriminator: nn.Module) -> None:
        super().__init__(featurizer, head)
        self.discriminator = discriminator


def fedka_digits(channels: int = 3, classes: int = 10, *, width: int = 64) -> DomainAdversarial:
    """FedKA's network for 28×28 digits: two 5×5 convolutions, then two layers each for both tasks.

    64 and 50 channels at the paper's width; batch norm after every layer but the last ones, max
    pooling, dropout of whole channels after the second convolution; 800 features.

    Source: FedKA (arXiv 2203.11635), released notebook.

    Args:
        width: channels of the first convolution; the second has 50/64 of it.

    >>> import torch
    >>> fedka_digits().featurizer(torch.zeros(2, 3, 28, 28)).shape
    torch.Size([2, 800])
    """
    second = width * 50 // 64
    featurizer = nn.Sequential(
        nn.Conv2d(channels, width, 5), nn.BatchNorm2d(width), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(width, second, 5), nn.BatchNorm2d(second), nn.Dropout2d(), nn.MaxPool2d(2),
        nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    return DomainAdversarial(
        featurizer, _two_layers(second * 16, 100, classes), _two_layers(second * 16, 100, 2)
    )


def _two_layers(before: int, hidden: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(before, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, after)
    )
