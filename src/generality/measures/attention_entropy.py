"""How spread out attention is, and of what rank."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def attention_entropy(
    weights: Float[Tensor, "... sinks sources"], *, relative: bool = True
) -> Float[Tensor, "... sinks"]:
    """Entropy of each row of attention weights, scaled to sum to 1.

    Relative entropy (the default) is in [0, 1]: 1 is uniform over the sources that a row gives any
    weight, which is degenerate attention; 0 is a single source. Otherwise nats. A row of zeros
    gives NaN.

    Raises:
        ValueError: a negative weight.

    >>> attention_entropy(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    if bool((weights < 0).any()):
        raise ValueError("attention weights must not be negative")
    rows = weights.double() / weights.double().sum(-1, keepdim=True)
    entropy = torch.special.entr(rows).sum(-1)
    if not relative:
        return entropy
    most = (weights > 0).sum(-1).double().log()
    return torch.where(most > 0, entropy / most, entropy).round(decimals=12).abs()


def attention_rank(weights: Float[Tensor, "... sinks sources"]) -> Float[Tensor, " *batch"]:
    """Effective rank of attention: exp of the entropy of its normalised singular values.

    Between 1 (all rows alike) and the number of tokens. Source: Roy and Vetterli 2007.

    >>> attention_rank(torch.eye(4)).item(), round(attention_rank(torch.ones(4, 4)).item(), 6)
    (4.0, 1.0)
    """
    values = torch.linalg.svdvals(weights.double())
    shares = values / values.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()
