"""Several candidate modules in one place, mixed by weights that are learned, to pick one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

Weighting = Literal["softmax", "max_w", "gumbel"]


def max_w(weights: Float[Tensor, ...], *, detach_max: bool = False) -> Float[Tensor, ...]:
    """Max-W: 1 − max_j w_j + w_k, so that the heaviest candidate is taken whole.

    Its coefficient is 1 whatever its weight: what it computes is not shrunk, and making itself
    heavier lowers the others' part instead of raising its own. Differentiable, for any mixture: it
    is no penalty to add to a loss but takes the place of the weights in Σ_k w_k·f_k(x).

    The coefficients sum to more than 1 (up to the number of candidates): normalise after the sum,
    or train with a smaller rate.

    Args:
        weights: of one mixture, in [0, 1], such as a softmax; the maximum is over all of them.
        detach_max: treat the maximum as a constant. The released code does not, though a comment
            there says it should.

    Source: Hundt, Jain and Hager 2019 (sharpDARTS, arXiv 1903.09900), equation of Max-W.

    >>> max_w(torch.tensor([0.5, 0.0, -1.0]).softmax(0))
    tensor([1.0000, 0.7849, 0.5754])
    """
    highest = weights.max()
    return 1 - (highest.detach() if detach_max else highest) + weights


def mixing_coefficients(
    alpha: Float[Tensor, ...], weighting: Weighting = "softmax", *, training: bool = True
) -> Float[Tensor, ...]:
    """What each candidate's output is multiplied by, from the logits of one mixture.

    "softmax" is DARTS, "max_w" sharpDARTS (see `max_w`), "gumbel" a Gumbel-softmax sample while
    training and the softmax otherwise. The softmax is over all entries, whatever the shape.

    >>> mixing_coefficients(torch.tensor([0.0, 0.0]))
    tensor([0.5000, 0.5000])
    """
    flat = alpha.flatten()
    if weighting == "gumbel" and training:
        return nn.functional.gumbel_softmax(flat, dim=0).view_as(alpha)
    weights = flat.softmax(0).view_as(alpha)
    return max_w(weights) if weighting == "max_w" else weights


class Searchable(nn.Module):
    """A module whose architecture is learned: it has logits and says which parameters they are."""

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The logits that an architecture step changes; all other parameters are weights."""
        raise NotImplementedError


class MixedOp(Searchable):
    """Σ_k c_k·candidate_k(x) over any named modules of equal output shape.

    Args:
        candidates: by name; names without a dot.
        weighting: how logits become coefficients, see `mixing_coefficients`.
        alpha: logits to share with another mixture, as DARTS' cells do; by default new ones, drawn
            from N(0, 1e-3²).

    Attributes:
        alpha: the logits.
        only: compute this candidate alone, with coefficient 1; None: the mixture.

    Raises:
        ValueError: no candidate, or an unknown weighting.

    >>> op = MixedOp({"wide": nn.Linear(4, 2), "none": Zero(), "deep": nn.Linear(4, 2)}, "max_w")
    >>> op.alpha.data = torch.tensor([0.5, 2.0, 0.1])
    >>> op.heaviest(), op.heaviest(exclude=["none"])
    ('none', 'wide')
    """

    def __init__(
        self,
        candidates: Mapping[str, nn.Module],
        weighting: Weighting = "softmax",
        alpha: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        check_weighting(weighting)
        if not candidates:
            raise ValueError("a mixture needs a candidate")
        self.candidates = nn.ModuleDict(candidates)
        self.weighting: Weighting = weighting
        self.alpha = nn.Parameter(1e-3 * torch.randn(len(candidates))) if alpha is None else alpha
        self.only: str | None = None

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The logits."""
        return [self.alpha]

    def forward(self, x: Tensor) -> Tensor:
        """The mixture, or the one candidate that `only` names."""
        if self.only is not None:
            alone: Tensor = self.candidates[self.only](x)
            return alone
        shares = mixing_coefficients(self.alpha, self.weighting, training=self.training)
        outputs = [
            share * op(x) for share, op in zip(shares, self.candidates.values(), strict=True)
        ]
        return torch.stack(torch.broadcast_tensors(*outputs)).sum(0)

    def weights(self) -> dict[str, float]:
        """The softmax of the logits, by candidate."""
        shares = self.alpha.detach().softmax(0).tolist()
        return dict(zip(self.candidates, shares, strict=True))

    def heaviest(self, exclude: tuple[str, ...] | list[str] = ()) -> str:
        """The candidate of largest weight, of those that are not excluded."""
        weights = {name: w for name, w in self.weights().items() if name not in exclude}
        return max(weights, key=weights.__getitem__)


class Zero(nn.Module):
    """The candidate "none": zeros, of the input's shape, or smaller by a stride.

    >>> Zero(stride=2)(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 2, 2])
    """

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Zeros."""
        return x[..., :: self.stride, :: self.stride] * 0 if self.stride > 1 else x * 0


def architecture_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The logits of every mixture in a model, each once; the rest of its parameters are weights.

    >>> body = nn.Sequential(MixedOp({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}), nn.Linear(2, 1))
    >>> [p.shape for p in architecture_parameters(body)]
    [torch.Size([2])]
    """
    found = (p for module in searchable(model) for p in module.architecture_parameters())
    return list({id(p): p for p in found}.values())


def searchable(model: nn.Module) -> Iterator[Searchable]:
    """Every module in a model whose architecture is learned."""
    return (module for module in model.modules() if isinstance(module, Searchable))


def decoded(model: nn.Module, exclude: tuple[str, ...] | list[str] = ()) -> nn.Module:
    """The model with every mixture replaced by its heaviest candidate, weights kept; not a copy.

    >>> body = nn.Sequential(MixedOp({"a": nn.Linear(2, 2), "b": nn.ReLU()}))
    >>> body[0].alpha.data = torch.tensor([0.0, 1.0])
    >>> decoded(body)
    Sequential(
      (0): ReLU()
    )
    """
    if isinstance(model, MixedOp):
        return model.candidates[model.heaviest(exclude)]
    for name, child in list(model.named_children()):
        setattr(model, name, decoded(child, exclude))
    return model


def check_weighting(weighting: str) -> None:
    """Raise ValueError for an unknown weighting."""
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting is one of {', '.join(get_args(Weighting))}, not '{weighting}'")
