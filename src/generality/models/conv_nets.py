"""Two small convolutional networks that turn images into features."""

from __future__ import annotations

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

Norm = Literal["batch", "group"] | None


class MnistCNN(nn.Module):
    """The network of DomainBed for 28×28 images: four 3×3 convolutions, then the mean over places.

    64, 128 (stride 2), 128 and 128 channels; after each convolution ReLU, then GroupNorm of 8
    groups, in this order. 128 features.

    Source: Gulrajani and Lopez-Paz 2020 (arXiv 2007.01434), appendix D and its released
    `MNIST_CNN`.

    Args:
        channels: of the image, 2 for coloured MNIST, 1 for rotated MNIST.

    >>> import torch
    >>> MnistCNN(2)(torch.zeros(5, 2, 28, 28)).shape
    torch.Size([5, 128])
    """

    features = 128

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block1 = _mnist_block(channels, 64, 1)
        self.block2 = _mnist_block(64, 128, 2)
        self.block3 = _mnist_block(128, 128, 1)
        self.block4 = _mnist_block(128, 128, 1)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 128"]:
        """Features of a batch of images."""
        maps: Tensor = self.block4(self.block3(self.block2(self.block1(images))))
        return maps.mean((-2, -1))


class TinyConvNet(nn.Module):
    """Three 3×3 convolutions of stride 2, then the mean over places: for images of 14 to 64 pixels.

    Each convolution is followed by the normalisation and ReLU; the widths are width, 2·width and
    4·width, so there are 4·width features. `block1`, `block2` and `block3` are places at which a
    module can be inserted.

    Args:
        channels: of the image.
        width: channels after the first block.
        norm: "batch", "group" (the same for an image alone and in a batch) or None.
        side: pixels a side of the images; the features are then all places of the last maps, not
            their mean, and 4·width·⌈side/8⌉² in number. The mean forgets where strokes lie, which
            digits of another hand or size are told by.

    >>> import torch
    >>> net = TinyConvNet(3, width=8, norm="group")
    >>> net.features, net(torch.zeros(5, 3, 28, 28)).shape
    (32, torch.Size([5, 32]))
    >>> TinyConvNet(3, width=8, side=28)(torch.zeros(5, 3, 28, 28)).shape
    torch.Size([5, 512])
    """

    def __init__(
        self, channels: int, width: int = 16, norm: Norm = "batch", side: int | None = None
    ) -> None:
        super().__init__()
        if norm not in ("batch", "group", None):
            raise ValueError(f"norm is 'batch', 'group' or None, not '{norm}'")
        self.side = side
        self.features = 4 * width * (1 if side is None else math.ceil(side / 8) ** 2)
        self.block1 = _tiny_block(channels, width, norm)
        self.block2 = _tiny_block(width, 2 * width, norm)
        self.block3 = _tiny_block(2 * width, 4 * width, norm)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        """Features of a batch of images."""
        maps: Tensor = self.block3(self.block2(self.block1(images)))
        return maps.mean((-2, -1)) if self.side is None else maps.flatten(1)


def _mnist_block(before: int, after: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1)
    return nn.Sequential(convolution, nn.ReLU(), nn.GroupNorm(8, after))


def _tiny_block(before: int, after: int, norm: Norm) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride=2, padding=1)
    if norm is None:
        return nn.Sequential(convolution, nn.ReLU())
    kept = nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(min(8, after), after)
    return nn.Sequential(convolution, kept, nn.ReLU())
