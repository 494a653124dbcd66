"""SCE: fused models merged by where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from generality.errors import UserError
from generality.weights.merging import task_vectors


def sce_merge(
    experts: Sequence[Mapping[str, Tensor]], base: Mapping[str, Tensor], *, topk: float = 0.1
) -> dict[str, Tensor]:
    """Select, Calculate, Erase: weights of the experts from the numbers on which they differ most.

    Tensor by tensor: (select) the `topk` share of the numbers that differ at all, by the variance
    of the experts' task vectors; (calculate) an expert's weight is the mean square of its task
    vector there, over the sum of all; (erase) numbers whose sign is not that of the plain sum (0
    counts as +) go, and what is left is divided by the weights of who is left. The selection enters
    only the weights, as in the released code.

    Source: Wan et al. 2024 (FuseChat, arXiv 2408.07990), section 3.3, and its released code.

    Raises:
        ValueError: no experts, names or shapes differ, or topk is not in (0, 1].
        UserError: a number that is not finite (named).

    >>> base = {"w": torch.zeros(2)}
    >>> sce_merge([{"w": torch.tensor([2.0, 1])}, {"w": torch.tensor([1.0, -1])}], base, topk=1.0)
    {'w': tensor([1.7143, 1.0000])}
    """
    if not 0 < topk <= 1:
        raise ValueError(f"topk is in (0, 1], not {topk}")
    if not experts:
        raise ValueError("there is nothing to merge")
    vectors = task_vectors(experts, base)
    merged = {name: tensor.clone() for name, tensor in base.items()}
    for name in vectors[0]:
        deltas = torch.stack([vector[name].float() for vector in vectors])
        if not bool(deltas.isfinite().all()):
            raise UserError(f"'{name}' has numbers that are not finite in the base or an expert.")
        merged[name] = (base[name].float() + _sce(deltas, topk)).to(base[name].dtype)
    return merged


def _sce(deltas: Tensor, topk: float) -> Tensor:
    variance = deltas.var(0, unbiased=False).flatten()
    k = max(1, int(topk * int(variance.count_nonzero())))
    selected = torch.zeros_like(variance)
    selected[variance.topk(min(k, variance.numel())).indices] = 1
    squares = (deltas.reshape(len(deltas), -1) * selected).square().mean(1)
    total = squares.sum()
    weights = squares / total if total > 0 else torch.full_like(squares, 1 / len(squares))
    shaped = weights.view(-1, *[1] * (deltas.dim() - 1))
    sign = (deltas.sum(0) >= 0).float() * 2 - 1
    left = (deltas.sign() == sign).float() * shaped
    divisor = left.sum(0)
    return (deltas * left).sum(0) / divisor.masked_fill(divisor == 0, 1)
