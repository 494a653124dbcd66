"""Nearest neighbours as a classifier: their vote, and the loss that trains features for it."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

_FLOOR = 1e-5  # what a class without a neighbour scores, so that its logarithm is finite


def neighbour_vote(
    similarities: Float[Tensor, "batch k"],
    labels: Int[Tensor, "batch k"],
    classes: int,
    temperature: float = 0.1,
) -> Float[Tensor, "batch classes"]:
    """Class distribution Σ_j softmax(similarities / T)_j · one_hot(label_j) of each row.

    Source: Zhang et al. 2023 (AdaNPC, arXiv 2304.12566). A label of −1 stands for no neighbour and
    goes with a similarity of −inf.

    >>> import torch
    >>> similar = torch.tensor([[0.96, 0.80, 0.60]])
    >>> neighbour_vote(similar, torch.tensor([[0, 1, 0]]), classes=2)
    tensor([[0.8358, 0.1642]])
    """
    weights = (similarities / temperature).softmax(-1)
    votes = weights.new_zeros(len(weights), classes)
    return votes.scatter_add(1, labels.clamp(min=0), weights)


def knn_nll(
    features: Float[Tensor, "batch dim"],
    labels: Int[Tensor, " batch"],
    memory: Float[Tensor, "stored dim"],
    memory_labels: Int[Tensor, " stored"],
    *,
    classes: int,
    k: int = 150,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """−log of the neighbours' vote for the true class, in nats, averaged over the batch.

    The gradient goes through `features` alone. Source: Zhang et al. 2023 (arXiv 2304.12566), the
    KNN loss that stands in for a linear head: the memory is a queue of the last 3500 examples
    (`generality.estimators.FeatureMemory(capacity=3500)`), to which each batch is added after its
    step, and T falls linearly from 1 to 0.1 over 5000 steps.

    Args:
        features: of the batch; any scale.
        labels: their classes.
        memory: stored features; any scale, no gradient.
        memory_labels: theirs.
        classes: how many there are.
        k: neighbours that vote, at most as many as are stored.
        temperature: of the softmax over similarities, above 0.

    >>> import torch
    >>> memory = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    >>> z = torch.tensor([[0.6, 0.8]], requires_grad=True)
    >>> loss = knn_nll(z, torch.tensor([0]), memory, torch.tensor([0, 0, 1, 1]), classes=2, k=3)
    >>> round(loss.item(), 4)
    0.1794
    """
    similar = normalize(features, dim=-1) @ normalize(memory.detach(), dim=-1).T
    nearest, slots = similar.topk(min(k, similar.shape[1]), dim=-1)
    votes = neighbour_vote(nearest, memory_labels[slots], classes, temperature)
    own = votes.gather(1, labels[:, None])
    return -(own + _FLOOR).clamp(max=1).log().mean()
