"""How much a weight update reads the input directions that the weight itself reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor


def subspace_overlap(
    weight: Float[Tensor, "outputs inputs"], update: Float[Tensor, "other_outputs inputs"]
) -> float:
    """‖W Δᵀ‖_F / (‖W‖_F ‖Δ‖_F), in [0, 1]: 0 where no row of the update is along any of the weight.

    A random update of rank r has about 1/√inputs. NaN where either is zero: nothing to compare.

    Source: the quantity in PEGO's first loss (arXiv 2407.15085), normalised.

    >>> import torch
    >>> weight = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    >>> [subspace_overlap(weight, torch.tensor([row])) for row in ([0.0, 3.0], [5.0, 0.0])]
    [0.0, 1.0]
    """
    weight, update = weight.detach(), update.detach()
    scale = weight.norm() * update.norm()
    return float((weight @ update.T).norm() / scale)
