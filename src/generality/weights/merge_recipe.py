"""How models are merged: the rules, their settings, the groups that have their own weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from generality.errors import UserError, unknown

METHODS = (
    "average", "task-arithmetic", "ties", "dare", "dare-ties", "slerp", "layerwise", "fisher",
)  # fmt: skip
VARIANTS = ("paper", "mergekit", "peft")
GRANULARITIES = ("block", "layer", "tensor")
FROM_BASE = ("task-arithmetic", "ties", "dare", "dare-ties", "layerwise")
"""Methods that add to a base what the experts learned."""
SPARSE = ("ties", "dare", "dare-ties")
"""Those that keep a share of it."""
USERS = {
    "lam": FROM_BASE, "variant": FROM_BASE, "density": SPARSE, "seed": ("dare", "dare-ties"),
    "fisher": ("fisher",),
}  # fmt: skip
"""Settings that say nothing to some rules → the rules that they say something to."""

BLOCKS = {
    "attention": re.compile(r"attn|attention|[qkvo]_proj"),
    "mlp": re.compile(r"mlp|feed_forward|ffn|fc[12]|dense|experts"),
}
LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")


@dataclass(frozen=True)
class Recipe:
    """How models are merged.

    Attributes:
        method: one of `METHODS`.
        weights: one for each model; None: equal ones, 1/n for averages and 1 for task vectors.
            Averages, slerp and Fisher divide by their sum.
        density: share of a task vector's numbers that is kept, in (0, 1]; None: 0.2 for TIES, 0.1
            for DARE, as in their papers; DARE's is rounded to a multiple of 1/65536.
        lam: scale of the merged task vector; None: 0.4 for task arithmetic and DARE in the variant
            "paper" (what their authors take without data to choose by), else 1.
        seed: of DARE's draws.
        variant: whose reading of TIES and DARE:
            "paper": numbers are trimmed over the whole model, kept ones are divided by the density,
            and where signs cancel exactly the model's more frequent sign wins;
            "mergekit": trimmed tensor by tensor, rescaled to the tensor's old sum of magnitudes,
            cancelled signs are +, DARE-TIES is not divided by how many agree;
            "peft": trimmed tensor by tensor, divided by the density, cancelled signs are +, signs
            are elected before weighting, and the sum is divided by the count that agrees.
        inner: of "layerwise": the method it applies group by group.
        groups: of "layerwise": group (see `group_of`) → weights; others have the equal ones.
        granularity: of "layerwise": "block", "layer" or "tensor".

    Raises:
        UserError: an unknown method, variant or granularity, or a setting out of its range.
    """

    method: str = "average"
    weights: tuple[float, ...] | None = None
    density: float | None = None
    lam: float | None = None
    seed: int = 0
    variant: str = "paper"
    inner: str = "task-arithmetic"
    groups: Mapping[str, Sequence[float]] = field(default_factory=dict)
    granularity: str = "block"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("way to merge", self.method, METHODS)
        if self.variant not in VARIANTS:
            raise unknown("variant", self.variant, VARIANTS)
        if self.inner not in FROM_BASE[:-1]:
            raise unknown("way to merge groups", self.inner, FROM_BASE[:-1])
        if self.granularity not in GRANULARITIES:
            raise unknown("granularity", self.granularity, GRANULARITIES)
        if self.density is not None and not 0 < self.density <= 1:
            raise UserError(f"The density is above 0 and at most 1, not {self.density}.")

    @property
    def kept(self) -> float:
        """The density that applies."""
        return self.density or (0.2 if self.rule == "ties" else 0.1)

    @property
    def scale(self) -> float:
        """The lambda that applies."""
        if self.lam is not None:
            return self.lam
        untuned = self.variant == "paper" and self.method in ("task-arithmetic", "dare")
        return 0.4 if untuned else 1.0

    @property
    def rule(self) -> str:
        """The method, or what "layerwise" applies."""
        return self.inner if self.method == "layerwise" else self.method


def group_of(name: str, granularity: str = "block") -> str:
    """The group of tensors that has weights of its own in a layer-wise merge.

    "block": attention, mlp and the rest of each layer apart; "layer": each layer; "tensor": each
    tensor. What is in no layer is "other".

    >>> group_of("model.layers.3.self_attn.q_proj.weight"), group_of("model.norm.weight")
    ('3.attention', 'other')
    """
    if granularity == "tensor":
        return name
    layer = LAYER.search(name)
    if layer is None:
        return "other"
    if granularity == "layer":
        return layer[1]
    inside = name[layer.end() :]
    if re.search(r"norm|(^|\.)ln", inside):
        return f"{layer[1]}.rest"
    kind = next((kind for kind, form in BLOCKS.items() if form.search(inside)), "rest")
    return f"{layer[1]}.{kind}"
