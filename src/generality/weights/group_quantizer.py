"""Low-bit weights: a step and an offset for every group of inputs, rounding, packed storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


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


def symmetric_scales(weight: Float[Tensor, "out inputs"], bits: int, group: int) -> GroupScales:
    """The smallest steps that clip nothing, offsets 0: the initial scales of L4Q, and RTN's.

    step = max(|min W / Qn|, |max W / Qp|) over each group; a group of zeros has step 1.
    """
    low, high = levels(bits)
    grouped = in_groups(weight.float(), group)
    step = torch.maximum(grouped.amin(-1).clamp_max(0) / low, grouped.amax(-1).clamp_min(0) / high)
    step = torch.where(step == 0, torch.ones_like(step), step)
    return GroupScales(step, torch.zeros_like(step))


def quantize(
    weight: Float[Tensor, "out inputs"], scales: GroupScales, bits: int, group: int
) -> Int[Tensor, "out inputs"]:
    """The integers of a matrix: round(clamp((W − offset) / step)), as int8."""
    low, high = levels(bits)
    step, offset = spread(scales, weight.shape[1], group)
    return ((weight - offset) / step).clamp(low, high).round().to(torch.int8)


def dequantize(
    integers: Int[Tensor, "out inputs"], scales: GroupScales, group: int
) -> Float[Tensor, "out inputs"]:
    """step · q + offset, in the dtype of the scales."""
    step, offset = spread(scales, integers.shape[1], group)
    return integers.to(step.dtype) * step + offset


def quantize_rtn(
    weights: Mapping[str, Tensor], names: Iterable[str], *, bits: int = 4, group: int = 128
) -> dict[str, Tensor]:
    """Round to nearest: the named matrices in `bits` bits and back, the others as they are.

    Args:
        names: which to round; linear layers of the blocks, not embeddings, head or norms.
        group: how many inputs share a step.

    Raises:
        ValueError: a name that is not there or not a matrix.

    >>> weights = {"w": torch.tensor([[0.9, -1.2, 0.1, 0.5]]), "norm": torch.ones(4)}
    >>> quantize_rtn(weights, ["w"], bits=3, group=4)["w"]
    tensor([[ 0.9000, -1.2000,  0.0000,  0.6000]])
    """
    rounded = dict(weights)
    for name in names:
        if name not in rounded or rounded[name].dim() != 2:
            raise ValueError(f"'{name}' is not a matrix of this model")
        weight = rounded[name]
        scales = symmetric_scales(weight, bits, group)
        integers = quantize(weight.float(), scales, bits, group)
        rounded[name] = dequantize(integers, scales, group).to(weight.dtype)
    return rounded


def pack(integers: Int[Tensor, "out inputs"], bits: int) -> UInt8[Tensor, " bytes"]:
    """The integers one after the other, `bits` bits each, the lowest bits first.

    >>> pack(torch.tensor([[-2, 1, 0, -1]], dtype=torch.int8), 2)
    tensor([108], dtype=torch.uint8)
    """
    low, _ = levels(bits)
    unsigned = (integers.flatten().to(torch.int16) - low).to(torch.uint8)
    spots = torch.arange(bits, dtype=torch.uint8)
    stream = (unsigned[:, None] >> spots & 1).flatten()
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    return (stream << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def unpack(packed: UInt8[Tensor, " bytes"], bits: int, shape: tuple[int, int]) -> Tensor:
    """What `pack` packed, int8 of this shape."""
    low, _ = levels(bits)
    count = shape[0] * shape[1]
    spots = torch.arange(8, dtype=torch.uint8, device=packed.device)
    stream = (packed[:, None] >> spots & 1).flatten()[: count * bits].view(count, bits)
    weights = stream << spots[:bits]
    return (weights.sum(1, dtype=torch.int16) + low).to(torch.int8).view(shape)


def in_groups(matrix: Float[Tensor, "out inputs"], group: int) -> Float[Tensor, "out groups size"]:
    """The matrix with its inputs in groups; a short last group repeats its last input."""
    short = -matrix.shape[1] % group
    if short:
        matrix = torch.cat([matrix, matrix[:, -1:].expand(-1, short)], 1)
    return matrix.unflatten(1, (-1, group))


def spread(scales: GroupScales, inputs: int, group: int) -> tuple[Tensor, Tensor]:
    """Step and offset for every weight, (out, inputs) each."""
    step, offset = (s.repeat_interleave(group, 1)[:, :inputs] for s in scales)
    return step, offset
