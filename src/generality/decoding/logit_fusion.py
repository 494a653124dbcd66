"""Next-token logits of a large model, moved as small experts have moved from their bases."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, "batch vocabulary"]
_BLOCK = 2**16  # logits that a processor works on together, so that they stay in its cache


class FusionStrategy(Protocol):
    """How strongly each expert's shift counts, for each row."""

    def weights(
        self, large: Logits, experts: Sequence[Logits], bases: Sequence[Logits | None]
    ) -> Float[Tensor, "batch experts"]:
        """One weight per row and expert; all logits are float32 and as wide."""


@dataclass(frozen=True)
class StaticFusion:
    """The same weights everywhere: proxy tuning at 1, UniR's sum where experts have no bases.

    Source: Liu et al. 2024 (arXiv 2401.08565) for experts with bases; Kim et al. 2025
    (arXiv 2505.19075) for reasoners whose logits are added as they are.

    Args:
        alphas: one weight for every expert, or one each.
    """

    alphas: float | tuple[float, ...] = 1.0

    def weights(
        self, large: Logits, experts: Sequence[Logits], bases: Sequence[Logits | None]
    ) -> Float[Tensor, "batch experts"]:
        """`alphas` for every row. Raises ValueError where there are not as many as experts."""
        alphas = self.alphas if isinstance(self.alphas, tuple) else (self.alphas,) * len(experts)
        if len(alphas) != len(experts):
            raise ValueError(f"{len(alphas)} weights for {len(experts)} experts")
        return large.new_tensor(alphas).expand(len(large), len(alphas))


@dataclass(frozen=True)
class KLMatchedFusion:
    """The weights with which the large model moves as far as the experts moved.

    For the large model's distribution P, the fused P~, an expert's Q_t and its base's Q, the chosen
    weights minimise Σ_t (KL(P~‖P) − KL(Q_t‖Q))² + (KL(P‖P~) − KL(Q‖Q_t))² over a grid, at every
    row anew. With several experts one is active in a row and the others have weight 0; the sum runs
    over all of them all the same. Ties go to the first expert and the smaller weight, so experts
    that moved nowhere leave P as it is.

    Source: Fan et al. 2024 (arXiv 2406.15480), equation 8 and algorithm 1.

    Both divergences are read off the cumulant generating function of the shift under P, so a
    weight costs two sums over the vocabulary, and no exponential.

    Args:
        low: least weight of the grid.
        high: greatest; a task may ask for narrower bounds.
        step: of the grid.
        active: "one", as the paper; "all" tries every combination, in (grid)^experts evaluations.
    """

    low: float = 0.0
    high: float = 2.0
    step: float = 0.1
    active: Literal["one", "all"] = "one"

    def __post_init__(self) -> None:
        if not (self.low <= self.high and self.step > 0):
            raise ValueError("a grid has low at most high, and a step above 0")
        if self.active not in ("one", "all"):
            raise ValueError(f"active is 'one' or 'all', not '{self.active}'")

    @property
    def grid(self) -> list[float]:
        """The weights that are tried."""
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return [self.low + k * self.step for k in range(count)]

    @torch.no_grad()
    def weights(
        self, large: Logits, experts: Sequence[Logits], bases: Sequence[Logits | None]
    ) -> Float[Tensor, "batch experts"]:
        """The best of the grid for each row. Raises ValueError for an expert without a base."""
        known = [base for base in bases if base is not None]
        if not experts or len(known) < len(experts):
            raise ValueError("matched divergences need experts, and the base of every expert")
        rows = max(_BLOCK // large.shape[-1], 1) if large.is_cpu else max(len(large), 1)
        blocks = zip(*(each.split(rows) for each in (large, *experts, *known)), strict=True)
        count = len(experts)
        return torch.cat([self._best(p, both[:count], both[count:]) for p, *both in blocks])

    def _best(
        self, large: Logits, experts: Sequence[Logits], bases: Sequence[Logits]
    ) -> Float[Tensor, "batch experts"]:
        moved = [_divergences(q, base) for q, base in zip(experts, bases, strict=True)]
        log_p = large.log_softmax(-1)
        shifts = [shift(q, base) for q, base in zip(experts, bases, strict=True)]
        tried, losses = [], []
        for weights, out, back in self._candidates(log_p, shifts):
            tried += weights
            apart = torch.stack([(out - o) ** 2 + (back - b) ** 2 for o, b in moved])
            losses.append(apart.sum(0))
        return large.new_tensor(tried)[torch.cat(losses).argmin(0)]

    def _candidates(
        self, log_p: Logits, shifts: Sequence[Logits]
    ) -> Iterator[tuple[list[list[float]], Tensor, Tensor]]:
        """Weights that are tried, and for each of them, (tried, batch), KL(P~‖P) and KL(P‖P~)."""
        if self.active == "all" and len(shifts) > 1:
            for weights in itertools.product(self.grid, repeat=len(shifts)):
                pairs = zip(weights, shifts, strict=True)
                fused = log_p + sum(weight * moved for weight, moved in pairs)
                out, back = _divergences(fused, log_p)
                yield [[*weights]], out[None], back[None]
            return
        for place, moved in enumerate(shifts):
            alone = [[w * (place == t) for t in range(len(shifts))] for w in self.grid]
            yield alone, *_along(log_p, moved, self.low, self.step, len(alone))


def fuse_logits(
    large: Logits,
    experts: Sequence[Logits],
    bases: Sequence[Logits | None] | None = None,
    strategy: FusionStrategy | None = None,
) -> Logits:
    """large + Σ_t α_t (expert_t − base_t), in float32, with the α of a strategy.

    A token that the large model rules out (−inf) stays ruled out; where expert and base rule one
    out it does not move. Vocabularies padded to different widths are compared on the tokens that
    all have, and the large model's further ones are ruled out.

    Args:
        large: next-token logits, one row per sequence (or the class logits of a classifier).
        experts: as many rows each.
        bases: what each expert was tuned from; None for one whose logits are added as they are.
            Without the argument all are.
        strategy: `StaticFusion(1.0)` unless given.

    Raises:
        ValueError: experts and bases differ in number, or logits in rows; logits that are NaN; what
            the strategy refuses.

    >>> large, base = torch.tensor([[4.0, 0.5, 0.0, -1.0]]), torch.tensor([[1.5, 1.0, 0.5, -1.0]])
    >>> expert = torch.tensor([[0.5, 2.5, 0.0, -1.0]])
    >>> fuse_logits(large, [expert], [base]).softmax(-1).numpy().round(4)
    array([[0.706 , 0.2597, 0.0213, 0.0129]], dtype=float32)
    >>> fuse_logits(large, [expert], [base], KLMatchedFusion()).softmax(-1).numpy().round(4)
    array([[0.6016, 0.3649, 0.0201, 0.0135]], dtype=float32)
    """
    return fuse_weighted(large, experts, bases, strategy)[0]


def fuse_weighted(
    large: Logits,
    experts: Sequence[Logits],
    bases: Sequence[Logits | None] | None = None,
    strategy: FusionStrategy | None = None,
) -> tuple[Logits, Float[Tensor, "batch experts"]]:
    """`fuse_logits`, and the weights that were used."""
    bases = [None] * len(experts) if bases is None else list(bases)
    if len(bases) != len(experts):
        raise ValueError(f"{len(experts)} experts and {len(bases)} bases")
    given = [each for each in (large, *experts, *bases) if each is not None]
    if any(each.ndim != 2 or len(each) != len(large) for each in given):
        shapes = ", ".join(str(tuple(each.shape)) for each in given)
        raise ValueError(f"logits are (batch, vocabulary) with as many rows each, not {shapes}")
    if len(large) and any(each.amax().isnan() for each in given):
        raise ValueError("logits that are not numbers (NaN): a model is broken, or overflows")
    width, shared = large.shape[-1], min(each.shape[-1] for each in given)
    large, *experts = (each[..., :shared].float() for each in (large, *experts))
    bases = [None if base is None else base[..., :shared].float() for base in bases]
    weights = (strategy or StaticFusion()).weights(large, experts, bases)
    fused = large
    for place, (expert, base) in enumerate(zip(experts, bases, strict=True)):
        fused = fused + weights[:, place, None] * shift(expert, base)
    if shared < width:
        fused = torch.nn.functional.pad(fused, (0, width - shared), value=-torch.inf)
    return fused, weights


def shift(expert: Logits, base: Logits | None) -> Logits:
    """expert − base, and 0 where that is no number because a token is ruled out."""
    moved = expert if base is None else expert - base
    return moved.nan_to_num(0.0, posinf=0.0, neginf=0.0)


def _divergences(a: Logits, b: Logits) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """KL(a‖b) and KL(b‖a) of the distributions with these logits, in nats."""
    log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
    apart = (log_a - log_b).nan_to_num(0.0, posinf=0.0, neginf=0.0)
    return (log_a.exp() * apart).sum(-1), -(log_b.exp() * apart).sum(-1)


def _along(
    log_p: Logits, moved: Logits, low: float, step: float, count: int
) -> tuple[Float[Tensor, "weights batch"], Float[Tensor, "weights batch"]]:
    """KL(P~‖P) and KL(P‖P~) for P~ ∝ P·exp(α·moved) at `count` values of α.

    With the shift centred under P, KL(P‖P~) = K(α) and KL(P~‖P) = α K'(α) − K(α) for
    K(α) = log E_P exp(α·moved), which is never below 0.
    """
    p = log_p.exp()
    summed = p.new_ones(len(p), 2, p.shape[-1])  # 1 and the centred shift
    centred = torch.sub(moved, (p * moved).sum(-1, keepdim=True), out=summed[:, 1])
    tilted, factor = p * (low * centred).exp(), (step * centred).exp()
    found = p.new_empty(count, len(p), 2)
    for k in range(count):
        if k:
            tilted.mul_(factor)
        torch.matmul(summed, tilted[:, :, None], out=found[k, :, :, None])
    total, weighted = found.unbind(-1)
    back = total.log()
    alphas = low + step * torch.arange(count, dtype=p.dtype, device=p.device)[:, None]
    out = alphas * weighted / total - back
    if p.dtype == torch.float32 and not (torch.isfinite(out) & torch.isfinite(back)).all():
        out, back = _along(log_p.double(), moved.double(), low, step, count)
        return out.float(), back.float()  # exp(88) and beyond
    return out, back
