"""Matrices cut or rounded one column after another, the columns still to come making up for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from generality.measures.weight_importance import inverse_factor
from generality.models.packed_linear import GroupScales
from generality.weights.group_quantizer import quantize, symmetric_scales
from generality.weights.prune import keep_masks


def sparsegpt(
    weight: Float[Tensor, "out inputs"],
    moments: Float[Tensor, "inputs inputs"],
    sparsity: float,
    *,
    block: int = 128,
    damping: float = 0.01,
) -> tuple[Float[Tensor, "out inputs"], Float[Tensor, "out inputs"]]:
    """A matrix with a share of every `block` columns cut and the others adjusted, and its scores.

    The scores w² / U_jj² are those of the weights as they stand when their block's turn comes:
    D-Pruner's general importance as its code computes it.

    Args:
        moments: E[x xᵀ] of its inputs.
        sparsity: the share to cut, in [0, 1).
        block: columns between two choices of what to cut.
        damping: of the Hessian, in shares of its mean diagonal.

    Source: Frantar and Alistarh 2023 (SparseGPT, arXiv 2301.00774), algorithm 1.

    >>> weight, inputs = torch.tensor([[0.2, 0.5]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> sparsegpt(weight, inputs.T @ inputs / 2, 0.5)[0]  # the second takes over from the first
    tensor([[0.0000, 0.6970]])
    """
    scores: list[Tensor] = []

    def cut(columns: Tensor, diagonal: Tensor) -> Callable[[Tensor, int], Tensor]:
        scores.append(columns.square() / diagonal.square())
        kept = keep_masks({"block": scores[-1]}, sparsity)["block"]
        return lambda column, j: torch.where(kept[:, j], column, 0)

    changed = _sweep(weight, inverse_factor(moments, damping), block, cut)
    return changed.to(weight), torch.cat(scores, 1).to(weight)


def gptq(
    weight: Float[Tensor, "out inputs"],
    moments: Float[Tensor, "inputs inputs"],
    *,
    bits: int = 4,
    group: int = 128,
    damping: float = 0.01,
) -> Float[Tensor, "out inputs"]:
    """A matrix rounded to `bits` bits, later columns making up for the rounding of earlier ones.

    A group's step is that of `symmetric_scales` for the weights as they stand when its turn comes.

    Source: Frantar et al. 2023 (GPTQ, arXiv 2210.17323), algorithm 1, without reordered columns.
    """

    def rounding(columns: Tensor, _: Tensor) -> Callable[[Tensor, int], Tensor]:
        step, offset = symmetric_scales(columns, bits, columns.shape[1])
        scales = GroupScales(step.double(), offset.double())
        return lambda column, _: (
            quantize(column[:, None], scales, bits, 1).double() * scales.step
        ).flatten()

    return _sweep(weight, inverse_factor(moments, damping), group, rounding).to(weight)


def _sweep(
    weight: Tensor,
    factor: Tensor,
    block: int,
    begin: Callable[[Tensor, Tensor], Callable[[Tensor, int], Tensor]],
) -> Float[Tensor, "out inputs"]:
    """The sweep of SparseGPT and GPTQ in float64; `begin` is called with every block of columns."""
    left = weight.double().clone()
    for start in range(0, left.shape[1], block):
        columns = left[:, start : start + block]
        own = factor[start : start + block, start : start + block]
        change = begin(columns.clone(), own.diagonal())
        errors = torch.zeros_like(columns)
        for j in range(columns.shape[1]):
            changed = change(columns[:, j], j)
            errors[:, j] = (columns[:, j] - changed) / own[j, j]
            columns[:, j:] -= errors[:, j : j + 1] * own[j, j:]
            columns[:, j] = changed
        left[:, start + block :] -= errors @ factor[start : start + block, start + block :]
    return left
