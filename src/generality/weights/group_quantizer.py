"""Low-bit weights: a step and an offset for every group of inputs, and rounding to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from generality.models.packed_linear import GroupScales, dequantize, levels, spread


def symmetric_scales(weight: Float[Tensor, "out inputs"], bits: int, group: int) -> GroupScales:
    """The smallest steps that clip nothing, offsets 0: the initial scales of L4Q, and RTN's.

    step = max(|min W / Qn|, |max W / Qp|) over each group; a group of zeros has step 1. They are of
    float32, also for shorter types.

    Raises:
        ValueError: other than 2 to 8 bits, or a group of no inputs.
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


def in_groups(matrix: Float[Tensor, "out inputs"], group: int) -> Float[Tensor, "out groups size"]:
    """The matrix with its inputs in groups; a short last group repeats its last input."""
    if group < 1:
        raise ValueError(f"a group has one input or more, not {group}")
    short = -matrix.shape[1] % group
    if short:
        matrix = torch.cat([matrix, matrix[:, -1:].expand(-1, short)], 1)
    return matrix.unflatten(1, (-1, group))
