"""Cuts the weights that matter least, wherever the scores came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

Scope = Literal["matrix", "row", "block", "global"]


@dataclass(frozen=True)
class SparsityReport:
    """Shares of zeros, in [0, 1].

    Attributes:
        pruned: over the matrices that were pruned.
        whole: over all parameters of the model.
        by_matrix: each pruned matrix's.
    """

    pruned: float
    whole: float
    by_matrix: Mapping[str, float]


def prune(
    weights: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    sparsity: float,
    *,
    scope: Scope = "matrix",
    block: int = 128,
) -> dict[str, Tensor]:
    """The weights with the lowest-scored share set to zero; those without a score are left.

    Args:
        weights: a `state_dict`, or an open checkpoint.
        scores: under the same names, of the same shapes.
        sparsity: the share to cut, in [0, 1).
        scope: what the share is counted over: every matrix (D-Pruner), every row (Wanda), every
            `block` columns of a matrix (D-Pruner's iterative blocking), or all matrices together.
        block: columns a block.

    Raises:
        ValueError: a sparsity outside [0, 1), another scope, scores of another shape than their
            weights, of no matrix, or with a NaN.

    >>> prune({"w": torch.tensor([[3.0, -1.0], [0.5, 2.0]])},
    ...       {"w": torch.tensor([[3.0, 1.0], [0.5, 2.0]])}, 0.5)
    {'w': tensor([[3., 0.],
            [0., 2.]])}
    """
    masks = keep_masks(scores, sparsity, scope=scope, block=block)
    pruned = dict(weights)
    for name, kept in masks.items():
        if name not in pruned or pruned[name].shape != kept.shape:
            raise ValueError(f"there are no weights '{name}' of shape {tuple(kept.shape)}")
        pruned[name] = torch.where(kept.to(pruned[name].device), pruned[name], 0)
    return pruned


def keep_masks(
    scores: Mapping[str, Tensor], sparsity: float, *, scope: Scope = "matrix", block: int = 128
) -> dict[str, Bool[Tensor, "out inputs"]]:
    """True where a weight stays. The masks keep pruned weights at zero in later training.

    Exactly round(sparsity · n) of every n that are counted together go; of equal scores the first.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"the sparsity is a share in [0, 1), not {sparsity}")
    if scope not in get_args(Scope):
        raise ValueError(f"scope is one of {', '.join(get_args(Scope))}, not '{scope}'")
    for name, score in scores.items():
        if score.dim() != 2 or bool(score.isnan().any()):
            what = "a NaN" if score.dim() == 2 else f"the shape {tuple(score.shape)}, no matrix's"
            raise ValueError(f"the scores of '{name}' have {what}")
    if scope == "global" and scores:
        joined = torch.cat([s.flatten() for s in scores.values()])[None]
        kept = _keep(joined, sparsity).flatten().split([s.numel() for s in scores.values()])
        return {n: k.view_as(s) for (n, s), k in zip(scores.items(), kept, strict=True)}
    return {name: _masked(score, sparsity, scope, block) for name, score in scores.items()}


def sparsity_report(weights: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> SparsityReport:
    """How much of a model, and of each scored matrix, is zero."""
    zeros = {name: int((tensor == 0).sum()) for name, tensor in weights.items()}
    size = {name: tensor.numel() for name, tensor in weights.items()}
    scored = [name for name in scores if name in weights]
    return SparsityReport(
        sum(zeros[n] for n in scored) / sum(size[n] for n in scored),
        sum(zeros.values()) / sum(size.values()),
        {name: zeros[name] / size[name] for name in scored},
    )


def _masked(score: Tensor, sparsity: float, scope: Scope, block: int) -> Tensor:
    if scope == "row":
        return _keep(score, sparsity)
    parts = score.split(block, 1) if scope == "block" else (score,)
    return torch.cat([_keep(p.reshape(1, -1), sparsity).view_as(p) for p in parts], 1)


def _keep(lines: Tensor, sparsity: float) -> Tensor:
    """(lines, n) booleans, False at the lowest round(sparsity · n) of each line."""
    order = lines.argsort(dim=1, stable=True)[:, : round(sparsity * lines.shape[1])]
    return torch.ones_like(lines, dtype=torch.bool).scatter(1, order, False)
