"""The augmentation of small photographs that everybody uses."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def crop_and_flip(
    images: Float[Tensor, "n channels height width"], generator: torch.Generator, margin: int = 4
) -> Float[Tensor, "n channels height width"]:
    """Each image moved by up to `margin` pixels (zeros come in), and mirrored half the time.

    What `lab.fit` takes as `augment`.

    >>> image = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> moved = crop_and_flip(image.repeat(50, 1, 1, 1), torch.Generator().manual_seed(0), margin=0)
    >>> sorted({tuple(each.flatten().tolist()) for each in moved})  # as it is, and mirrored
    [(0.0, 1.0, 2.0, 3.0), (1.0, 0.0, 3.0, 2.0)]
    """
    n, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (margin,) * 4)
    down, right = torch.randint(2 * margin + 1, (2, n, 1), generator=generator)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    across = torch.arange(width).expand(n, -1)
    across = right + torch.where(mirrored, width - 1 - across, across)
    rows = (down + torch.arange(height))[:, None, :, None]
    which = torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None]
    return padded[(*which, rows, across[:, None, None])]
