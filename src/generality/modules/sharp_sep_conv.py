"""Separable convolutions of equal depth, whatever their kernel, width and dilation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from generality.modules.mixed_op import Zero


class SharpSepConv(nn.Sequential):
    """ReLU, depthwise k×k, 1×1 to the middle width, batch norm; again to the output width.

    The first half has the stride and the dilation, the second neither. DARTS' dilated convolution
    has one half only, so that a search compares depths instead of operators; here all candidates
    are equally deep.

    Args:
        channels: of the input.
        out: channels of the output.
        kernel: odd.
        stride: of the first half.
        dilation: of the first half.
        expand: middle width over `out`; 4 is the paper's "flood".
        middle: middle width as a number instead; 32 is the paper's "choke".
        affine: whether batch norms have scales and shifts; DARTS searches without.

    Source: Hundt, Jain and Hager 2019 (sharpDARTS, arXiv 1903.09900), figure 2 and released code.

    Raises:
        ValueError: an even kernel.

    >>> import torch
    >>> SharpSepConv(8, 16, kernel=5, stride=2, expand=4)(torch.zeros(2, 8, 7, 7)).shape
    torch.Size([2, 16, 4, 4])
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        *,
        expand: float = 1,
        middle: int | None = None,
        affine: bool = True,
    ) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"the kernel's side is odd, not {kernel}")
        inner = round(out * expand) if middle is None else middle
        super().__init__(
            nn.ReLU(),
            _depthwise(channels, kernel, stride, dilation),
            nn.Conv2d(channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner, affine=affine),
            nn.ReLU(),
            _depthwise(inner, kernel, 1, 1),
            nn.Conv2d(inner, out, 1, bias=False),
            nn.BatchNorm2d(out, affine=affine),
        )


class DilConv(nn.Sequential):
    """DARTS' dilated separable convolution: ReLU, depthwise k×k, 1×1, batch norm; half as deep.

    Source: Liu, Simonyan and Yang 2019 (DARTS, arXiv 1806.09055).

    >>> import torch
    >>> DilConv(4, 8)(torch.zeros(1, 4, 7, 7)).shape
    torch.Size([1, 8, 7, 7])
    """

    def __init__(
        self, channels: int, out: int, kernel: int = 3, stride: int = 1, dilation: int = 2
    ) -> None:
        super().__init__(
            nn.ReLU(),
            _depthwise(channels, kernel, stride, dilation),
            nn.Conv2d(channels, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )


class ResizablePool(nn.Sequential):
    """Pooling of 3×3 places, then a 1×1 convolution where the width changes, and batch norm.

    Args:
        channels: of the input.
        out: channels of the output.
        stride: of the pooling.
        kind: "max" or "average" (of the places inside the image).
        affine: whether the batch norm has scales and shifts; DARTS searches without, since a scale
            that is learned can undo a mixture's weight.

    Raises:
        ValueError: another kind.

    >>> import torch
    >>> ResizablePool(4, 8, stride=2, kind="average")(torch.zeros(1, 4, 7, 7)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(
        self, channels: int, out: int, stride: int = 1, kind: str = "max", *, affine: bool = True
    ) -> None:
        if kind not in ("max", "average"):
            raise ValueError(f"kind is 'max' or 'average', not '{kind}'")
        pool: nn.Module = (
            nn.MaxPool2d(3, stride, 1)
            if kind == "max"
            else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        )
        resized = [] if channels == out else [nn.Conv2d(channels, out, 1, bias=False)]
        super().__init__(pool, *resized, nn.BatchNorm2d(out, affine=affine))


def sharp_operators(channels: int, *, affine: bool = True) -> dict[str, Callable[[], nn.Module]]:
    """The paper's nine candidates for an edge, as name → what builds it; width and size are kept.

    "flood" widens fourfold between its halves, "choke" goes through 32 channels.

    >>> list(sharp_operators(8))[:4]
    ['none', 'max_pool_3x3', 'skip', 'sep_conv_3x3']
    """

    def sharp(dilation: int = 1, expand: float = 1, middle: int | None = None) -> nn.Module:
        return SharpSepConv(
            channels, channels, 3, 1, dilation, expand=expand, middle=middle, affine=affine
        )

    return {
        "none": Zero,
        "max_pool_3x3": lambda: ResizablePool(channels, channels, affine=affine),
        "skip": nn.Identity,
        "sep_conv_3x3": sharp,
        "dil_conv_3x3": lambda: sharp(2),
        "flood_conv_3x3": lambda: sharp(expand=4),
        "dil_flood_conv_3x3": lambda: sharp(2, expand=4),
        "choke_conv_3x3": lambda: sharp(middle=32),
        "dil_choke_conv_3x3": lambda: sharp(2, middle=32),
    }


def _depthwise(channels: int, kernel: int, stride: int, dilation: int) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(
        channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False
    )
