"""Linear layers whose weights are stored in a few bits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn


class GroupScales(NamedTuple):
    """w ≈ step · q + offset, with q an integer of `bits` bits, for every group of a matrix.

    Groups run along the inputs of each output row; the last may be short.
    """

    step: Float[Tensor, "out groups"]
    offset: Float[Tensor, "out groups"]


def levels(bits: int) -> tuple[int, int]:
    """The smallest and the largest integer of `bits` bits, (−2^(bits−1), 2^(bits−1) − 1).

    Raises:
        ValueError: fewer than 2 bits or more than 8.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"weights take 2 to 8 bits, not {bits}")
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


class PackedLinear(nn.Module):
    """A linear layer whose weights are stored in a few bits and unpacked where they are used.

    >>> layer = PackedLinear(64, 8, bits=3, group=32)
    >>> layer.packed.numel()  # bytes: 64 · 8 weights of 3 bits
    192
    """

    packed: Tensor
    step: Tensor
    offset: Tensor
    bias: Tensor | None

    def __init__(
        self, outputs: int, inputs: int, *, bits: int, group: int, bias: bool = False
    ) -> None:
        super().__init__()
        levels(bits)
        self.shape, self.bits, self.group = (outputs, inputs), bits, group
        groups = -(-inputs // group)
        size = -(-outputs * inputs * bits // 8)
        self.register_buffer("packed", torch.zeros(size, dtype=torch.uint8))
        self.register_buffer("step", torch.ones(outputs, groups))
        self.register_buffer("offset", torch.zeros(outputs, groups))
        self.register_buffer("bias", torch.zeros(outputs) if bias else None)

    def fill(self, integers: Tensor, scales: GroupScales, bias: Tensor | None) -> None:
        """Takes the integers (outputs, inputs) and their scales."""
        self.packed = pack(integers, self.bits)
        self.step, self.offset = scales
        self.bias = bias

    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The weights, in the dtype of the steps."""
        integers = unpack(self.packed, self.bits, self.shape)
        return dequantize(integers, GroupScales(self.step, self.offset), self.group)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """x Wᵀ + bias."""
        return nn.functional.linear(x, self.weight().to(x.dtype), self.bias)

    def dequantized(self, dtype: torch.dtype | None = None) -> nn.Linear:
        """An ordinary linear layer with the quantised weights, by default of the steps' type."""
        weight = self.weight()
        linear = nn.Linear(self.shape[1], self.shape[0], bias=self.bias is not None)
        linear.weight = nn.Parameter(weight.to(dtype or weight.dtype))
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().to(dtype or weight.dtype, copy=True))
        return linear

    def extra_repr(self) -> str:
        """What printing the layer shows."""
        outputs, inputs = self.shape
        return f"outputs={outputs}, inputs={inputs}, bits={self.bits}, group={self.group}"


def dequantize(
    integers: Int[Tensor, "out inputs"], scales: GroupScales, group: int
) -> Float[Tensor, "out inputs"]:
    """step · q + offset, in the dtype of the scales."""
    step, offset = spread(scales, integers.shape[1], group)
    return integers.to(step.dtype) * step + offset


def pack(integers: Int[Tensor, "out inputs"], bits: int) -> UInt8[Tensor, " bytes"]:
    """The integers one after the other, `bits` bits each, the lowest bits first.

    >>> pack(torch.tensor([[-2, 1, 0, -1]], dtype=torch.int8), 2)
    tensor([108], dtype=torch.uint8)
    """
    low, _ = levels(bits)
    unsigned = (integers.flatten().to(torch.int16) - low).to(torch.uint8)
    spots = torch.arange(8, dtype=torch.uint8, device=integers.device)
    stream = (unsigned[:, None] >> spots[:bits] & 1).flatten()
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    return (stream << spots).sum(1, dtype=torch.uint8)


def unpack(packed: UInt8[Tensor, " bytes"], bits: int, shape: tuple[int, int]) -> Tensor:
    """What `pack` packed, int8 of this shape."""
    low, _ = levels(bits)
    count = shape[0] * shape[1]
    spots = torch.arange(8, dtype=torch.uint8, device=packed.device)
    stream = (packed[:, None] >> spots & 1).flatten()[: count * bits].view(count, bits)
    weights = stream << spots[:bits]
    return (weights.sum(1, dtype=torch.int16) + low).to(torch.int8).view(shape)


def spread(scales: GroupScales, inputs: int, group: int) -> tuple[Tensor, Tensor]:
    """Step and offset for every weight, (out, inputs) each."""
    step, offset = (s.repeat_interleave(group, 1)[:, :inputs] for s in scales)
    return step, offset
