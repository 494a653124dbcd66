"""DivDis: heads that fit the labels and say independent things about unlabelled data."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class DivDisLoss(nn.Module):
    """Cross-entropy of every head, plus how much the heads tell of each other without labels.

    L = mean_k CE(head_k; labelled) + repulsion · mean_{i<j} MI(head_i, head_j; unlabelled)
        + regularisation · mean_k KL(p̄_k || p̄ˢ), in nats,

    where MI is the mutual information of two heads' predictions over the unlabelled batch, p̄_k the
    mean prediction of head k on it and p̄ˢ the mean prediction over heads and the labelled batch (no
    gradient through it). The last term keeps a head from saying one class only. It needs unlabelled
    batches of about 64 or more to mean anything.

    Source: Lee, Yao and Finn 2022 (arXiv 2202.03418), equations 2 to 4, as used by Benoit et al.
    2023 (arXiv 2312.16313). The released code drops pairs whose MI is exactly 0 from the mean; here
    every pair counts.

    Args:
        repulsion: weight of the mutual information, ≥ 0; 10 for Waterbirds, 1 for the 2D toy.
        regularisation: weight of the KL term, ≥ 0; 10 for Waterbirds, 0 for the 2D toy.
        kind: "mi", or "l1": minus the mean L1 distance of two heads' probabilities.

    Raises:
        ValueError: for negative weights or an unknown kind; from a call, for a single head.

    >>> heads = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [2.0, 0.0]]])  # (2, 2, 2)
    >>> labelled, labels = heads, torch.tensor([0, 1])
    >>> round(DivDisLoss(repulsion=1.0, regularisation=0.0)(labelled, labels, heads).item(), 4)
    0.6269
    """

    def __init__(
        self,
        repulsion: float = 10.0,
        regularisation: float = 10.0,
        kind: Literal["mi", "l1"] = "mi",
    ) -> None:
        super().__init__()
        if repulsion < 0 or regularisation < 0:
            raise ValueError(f"weights are ≥ 0, not {repulsion} and {regularisation}")
        if kind not in ("mi", "l1"):
            raise ValueError(f"kind is 'mi' or 'l1', not '{kind}'")
        self.repulsion, self.regularisation, self.kind = repulsion, regularisation, kind

    def forward(
        self,
        labelled: Float[Tensor, "heads batch classes"],
        labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        unlabelled: Float[Tensor, "heads others classes"],
    ) -> Float[Tensor, ""]:
        """The loss of the heads' logits on a labelled and on an unlabelled batch."""
        _at_least_two(labelled)
        fit = torch.stack([cross_entropy(logits, labels) for logits in labelled]).mean()
        beliefs = unlabelled.softmax(-1)
        if self.kind == "mi":
            apart = pairwise_mutual_information(beliefs)
        else:
            i, j = torch.triu_indices(len(beliefs), len(beliefs), 1)
            apart = -(beliefs[i] - beliefs[j]).abs().sum(-1).mean()
        prior = labelled.detach().softmax(-1).mean((0, 1)).clamp_min(1e-12)
        mean = beliefs.mean(1)
        skew = (mean * (mean.clamp_min(1e-12).log() - prior.log())).sum(-1).mean()
        return fit + self.repulsion * apart + self.regularisation * skew

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"repulsion={self.repulsion}, regularisation={self.regularisation}, kind={self.kind!r}"
        )


def pairwise_mutual_information(
    beliefs: Float[Tensor, "heads batch classes"],
) -> Float[Tensor, ""]:
    """Mutual information of two heads' predictions over a batch, in nats, mean over the pairs.

    The joint distribution of a pair is the batch mean of the outer product of their probabilities,
    its marginals the batch means of each; the value lies in [0, ln classes].

    Raises:
        ValueError: for a single head, which has no pair.

    >>> opposite = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    >>> round(pairwise_mutual_information(opposite).item(), 6)  # ln 2
    0.693147
    """
    _at_least_two(beliefs)
    i, j = torch.triu_indices(len(beliefs), len(beliefs), 1)
    joint = torch.einsum("hba,hbc->hac", beliefs[i], beliefs[j]) / beliefs.shape[1]
    mean = beliefs.mean(1)
    apart = mean[i][:, :, None] * mean[j][:, None, :]
    ratio = joint.clamp_min(1e-12).log() - apart.clamp_min(1e-12).log()
    return (joint * ratio).sum((-2, -1)).mean()


def _at_least_two(heads: Tensor) -> None:
    if heads.ndim != 3 or len(heads) < 2:
        raise ValueError(f"two heads or more, as (heads, batch, classes), not {tuple(heads.shape)}")
