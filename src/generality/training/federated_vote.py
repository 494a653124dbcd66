"""Labels for data that no client has seen, by the clients' majority."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100
"""What torch's cross-entropy skips."""


def federated_vote(
    probabilities: Float[Tensor, "clients n classes"],
    *,
    tie: Literal["mean_prob", "lowest_index"] = "mean_prob",
    min_agree: float | None = None,
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The class that most clients choose for each example, and the share of them that do.

    Source: FedKA (arXiv 2203.11635), federated voting.

    Args:
        probabilities: of each client; only the order of classes counts, so logits do as well for
            `tie="lowest_index"`.
        tie: between classes of as many votes, the one of the larger mean probability, or the first.
        min_agree: examples on which a smaller share agrees are labelled −100, which torch's
            cross-entropy skips; None keeps all.

    Raises:
        ValueError: no clients, or an unknown `tie`.

    >>> votes = torch.nn.functional.one_hot(torch.tensor([[3], [3], [5], [3]]), 6).float()
    >>> federated_vote(votes)
    (tensor([3]), tensor([0.7500]))
    """
    if probabilities.ndim != 3 or len(probabilities) == 0:
        raise ValueError("probabilities are (clients, n, classes), of one client at least")
    if tie not in ("mean_prob", "lowest_index"):
        raise ValueError(f"tie is 'mean_prob' or 'lowest_index', not '{tie}'")
    classes = probabilities.shape[-1]
    votes = torch.nn.functional.one_hot(probabilities.argmax(-1), classes).sum(0).double()
    most = votes.amax(-1)
    if tie == "mean_prob":  # probabilities sum to 1, so this never outweighs a vote
        votes = votes + probabilities.double().mean(0) / 2
    labels = votes.argmax(-1)
    agreement = most.to(probabilities.dtype) / len(probabilities)
    if min_agree is not None:
        labels = labels.masked_fill(agreement < min_agree, IGNORED)
    return labels, agreement
