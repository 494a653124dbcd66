"""Distributions of several teachers made one target, and the loss towards it."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn


def fuse_distributions(
    distributions: Float[Tensor, "sources ... classes"],
    cross_entropy: Float[Tensor, "sources ..."],
    how: Literal["min_ce", "avg_ce"] = "min_ce",
) -> Float[Tensor, "... classes"]:
    """One target out of several sources' distributions over the same classes or tokens.

    "min_ce" takes at each position the source with the lowest cross-entropy there, the first of
    equals; "avg_ce" averages with weights proportional to exp(−cross-entropy). For text, give each
    position its sequence's cross-entropy, as FuseLLM does; between tokenizers count it by
    characters, since per-token numbers of different vocabularies do not compare.

    Source: Wan et al. 2024 (FuseLLM, arXiv 2401.10491), section 3.3, on which "Unconstrained Model
    Merging" (arXiv 2410.13699) builds. Computed in float32: in half precision ties are common.

    Raises:
        ValueError: shapes that do not fit, or another `how`.

    >>> import torch
    >>> distributions = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]]])
    >>> fuse_distributions(distributions, torch.tensor([[1.2], [0.9]]))
    tensor([[0.2000, 0.8000]])
    """
    if distributions.shape[:-1] != cross_entropy.shape:
        raise ValueError(
            f"cross-entropies {tuple(cross_entropy.shape)} for distributions "
            f"{tuple(distributions.shape)}"
        )
    if how == "avg_ce":
        weights = (-cross_entropy.float()).softmax(0)
        return (weights[..., None] * distributions).sum(0)
    if how != "min_ce":
        raise ValueError(f"how is 'min_ce' or 'avg_ce', not '{how}'")
    best = cross_entropy.float().argmin(0)[None, ..., None]
    return distributions.gather(0, best.expand(1, *distributions.shape[1:]))[0]


class FusionLoss(nn.Module):
    """λ · cross-entropy to the true class + (1 − λ) · cross-entropy to a fused target.

    Targets are detached. Where no distribution is to be had (tokens that do not align), give the
    true class's one-hot as the target.

    Source: Wan et al. 2024 (arXiv 2401.10491), equation 4, λ = 0.9.

    Args:
        lam: weight of the true class, in [0, 1].

    >>> import torch
    >>> loss = FusionLoss(lam=0.5)
    >>> logits = torch.zeros(1, 2)
    >>> round(loss(logits, torch.tensor([0]), torch.tensor([[0.5, 0.5]])).item(), 4)
    0.6931
    """

    def __init__(self, lam: float = 0.9) -> None:
        super().__init__()
        if not 0 <= lam <= 1:
            raise ValueError(f"lam is in [0, 1], not {lam}")
        self.lam = lam

    def forward(
        self,
        logits: Float[Tensor, "*positions classes"],
        gold: Int[Tensor, "*positions"],
        target: Float[Tensor, "*positions classes"],
        mask: Float[Tensor, "*positions"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean over the positions where `mask` is not 0. Raises ValueError for other shapes."""
        if logits.shape[:-1] != gold.shape or logits.shape != target.shape:
            raise ValueError(
                f"classes {tuple(gold.shape)} and targets {tuple(target.shape)} for logits "
                f"{tuple(logits.shape)}"
            )
        logs = logits.float().log_softmax(-1)
        own = -logs.gather(-1, gold[..., None])[..., 0]
        fused = -(target.detach() * logs).sum(-1)
        each = self.lam * own + (1 - self.lam) * fused
        if mask is None:
            return each.mean()
        return (each * mask).sum() / mask.sum().clamp_min(1)
