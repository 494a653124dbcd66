"""The residual network with activations first, for images of 32 pixels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class PreActResNet18(nn.Module):
    """Four stages of two blocks of 64, 128, 256 and 512 channels: 11 million weights.

    Source: He et al. 2016 (arXiv 1603.05027), in the layout for CIFAR that most papers share.

    Args:
        classes: of the output.
        channels: of the image.
        width: channels of the first stage.

    >>> import torch
    >>> PreActResNet18(10, width=4)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, classes: int, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        blocks, before = [], width
        for stage in range(4):
            for stride in (1 if stage == 0 else 2, 1):
                blocks.append(_Block(before, width << stage, stride))
                before = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, classes)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """The logits."""
        maps: Tensor = self.norm(self.blocks(self.stem(images))).relu()
        logits: Tensor = self.head(maps.mean((-2, -1)))
        return logits


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        same = stride == 1 and before == after
        self.skip = None if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        active = F.relu(self.norm1(maps))
        skipped: Tensor = maps if self.skip is None else self.skip(active)
        found: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return skipped + found
