"""Supernets of small convolutions for small images, as one-shot search is tried on."""

from __future__ import annotations

from functools import partial

from torch import nn

from generality.modules.cell_network import conv_stem
from generality.modules.supernet import Choices, Supernet


def conv_supernet(
    width: int, *, blocks: int, head: int, channels: int = 1, classes: int = 10
) -> Supernet:
    """Ensembles of two paths through blocks that keep width and size, after a stem of stride 2.

    Args:
        width: channels of every block.
        blocks: how many; each is one of `conv_choices`.
        head: channels of a member's head.
        channels: of the image.
        classes: of the answer.

    >>> import torch
    >>> from generality.modules.supernet import EnsembleArchitecture
    >>> net = conv_supernet(4, blocks=1, head=8)
    >>> net(torch.zeros(2, 1, 8, 8), EnsembleArchitecture(0, (("conv3", "skip"),))).shape
    torch.Size([2, 2, 10])
    """
    return Supernet(
        partial(_stem, channels, width),
        [conv_choices(width)] * blocks,
        partial(conv_head, width, head, classes),
    )


def conv_choices(width: int) -> Choices:
    """3×3, 5×5 or depthwise 3×3 convolution, or nothing, by name; all keep width and size."""

    def convolution(kernel: int, groups: int = 1) -> nn.Module:
        layers: list[nn.Module] = [
            nn.Conv2d(width, width, kernel, 1, kernel // 2, groups=groups, bias=False)
        ]
        if groups > 1:
            layers.append(nn.Conv2d(width, width, 1, bias=False))
        return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.SiLU())

    return {
        "conv3": partial(convolution, 3),
        "conv5": partial(convolution, 5),
        "depthwise3": partial(convolution, 3, width),
        "skip": nn.Identity,
    }


def conv_head(width: int, head: int, classes: int = 10) -> nn.Sequential:
    """1×1 convolution to `head` channels, mean over places, classifier."""
    return nn.Sequential(
        nn.Conv2d(width, head, 1, bias=False), nn.BatchNorm2d(head), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(head, classes),
    )  # fmt: skip


def _stem(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(*conv_stem(channels, width), nn.SiLU())
