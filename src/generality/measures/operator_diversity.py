"""How different the features are that two operators make of the same inputs."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Distance = Literal["cosine", "js", "cka"]


@torch.no_grad()
def operator_diversity(
    first: Float[Tensor, "batch channels ..."],
    second: Float[Tensor, "batch channels ..."],
    how: Distance = "cosine",
) -> float:
    """Distance of two operators' outputs for the same batch, averaged over places first.

    - "cosine": mean over the batch of 1 − cosine, in [0, 2].
    - "js": mean Jensen-Shannon divergence of the softmaxed features, in nats, [0, ln 2].
    - "cka": 1 − linear centred kernel alignment over the batch, in [0, 1]; the numbers of channels
      may differ, and rotations of the features do not count as a difference.

    Source: Chen et al. 2021 (NEAS, arXiv 2104.00597) scores operators by such a distance; Kornblith
    et al. 2019 (CKA). Compare operators at the same depth on the same inputs.

    Raises:
        ValueError: batches that differ, channels that differ (but for "cka"), an unknown distance.

    >>> torch.manual_seed(0) and None
    >>> x = torch.randn(16, 4, 3, 3)
    >>> abs(round(operator_diversity(x, x), 4)), round(operator_diversity(x, -x), 4)
    (0.0, 2.0)
    """
    a, b = (x.double().flatten(2).mean(-1) if x.ndim > 2 else x.double() for x in (first, second))
    if len(a) != len(b) or (how != "cka" and a.shape != b.shape):
        raise ValueError(f"features of the same inputs, not {tuple(a.shape)} and {tuple(b.shape)}")
    if how == "cosine":
        return float(1 - torch.cosine_similarity(a, b, dim=1).mean())
    if how == "js":
        return float(jensen_shannon(torch.stack([a.softmax(-1), b.softmax(-1)])).mean())
    if how == "cka":
        a, b = a - a.mean(0), b - b.mean(0)
        scale = (a.T @ a).norm() * (b.T @ b).norm()
        return float(1 - (a.T @ b).square().sum() / scale) if scale > 0 else 0.0
    raise ValueError(f"how is 'cosine', 'js' or 'cka', not '{how}'")


def jensen_shannon(
    probabilities: Float[Tensor, "members batch classes"],
) -> Float[Tensor, " batch"]:
    """Jensen-Shannon divergence of several distributions, equally weighted, in nats.

    >>> members = torch.tensor([[[2.0, 0.0, -1.0]], [[0.0, 1.5, -1.0]]]).softmax(-1)
    >>> jensen_shannon(members)
    tensor([0.2579])
    """
    mean = probabilities.mean(0)
    entropy = -torch.xlogy(probabilities, probabilities).sum(-1).mean(0)
    return -torch.xlogy(mean, mean).sum(-1) - entropy
