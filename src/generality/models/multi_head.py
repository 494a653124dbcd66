"""One body with several heads, and rules that make one prediction of theirs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Rule = Literal["uniform", "entropy", "argmin_entropy", "weights", "logits", "vote"]


class MultiHead(nn.Module):
    """Every head's logits on one body's features.

    Args:
        body: (batch, …) to (batch, features); None: the inputs are features already.
        heads: each (batch, features) to (batch, classes).

    Raises:
        ValueError: without a head.

    >>> model = MultiHead(nn.Linear(8, 4), [nn.Linear(4, 3), nn.Linear(4, 3)])
    >>> model(torch.zeros(5, 8)).shape
    torch.Size([2, 5, 3])
    """

    def __init__(self, body: nn.Module | None, heads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.body = body if body is not None else nn.Identity()
        self.heads = nn.ModuleList(heads)
        if len(self.heads) == 0:
            raise ValueError("MultiHead needs at least one head")

    @classmethod
    def from_wide_head(cls, body: nn.Module | None, head: nn.Linear, classes: int) -> MultiHead:
        """Take one linear head of several · classes outputs apart, `classes` outputs each; copied.

        Several heads train as one wide one wherever a trainer knows only one, as under
        `generality.objectives.drm_algorithm.DRMAlgorithm`; afterwards they are read apart.

        Raises:
            ValueError: the number of outputs is no multiple of `classes`.

        >>> wide = nn.Linear(4, 6)
        >>> heads = MultiHead.from_wide_head(None, wide, classes=3)(torch.ones(1, 4))
        >>> torch.allclose(heads.flatten(), wide(torch.ones(4)))
        True
        """
        if classes < 1 or head.out_features % classes:
            raise ValueError(f"{head.out_features} outputs are no multiple of {classes} classes")
        heads = []
        for start in range(0, head.out_features, classes):
            own = nn.Linear(head.in_features, classes, bias=head.bias is not None)
            part = slice(start, start + classes)
            state = {name: tensor[part] for name, tensor in head.state_dict().items()}
            own.load_state_dict(state)
            heads.append(own.to(head.weight))
        return cls(body, heads)

    def features(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
        """What the heads read."""
        features: Tensor = self.body(inputs)
        return features

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "heads batch classes"]:
        """Logits of every head."""
        features = self.features(inputs)
        return torch.stack([head(features) for head in self.heads])


def combine_heads(
    logits: Float[Tensor, "heads batch classes"],
    rule: Rule = "entropy",
    gamma: float = 1.0,
    weights: Float[Tensor, "*batch heads"] | None = None,
    *,
    last_votes: bool = True,
) -> Float[Tensor, "batch classes"]:
    """One class distribution of several heads': Σ_i w_i softmax(logits_i), for every example.

    Rules: "uniform", w = 1/heads; "entropy", w_i ∝ H_i^−γ with H_i the entropy of head i on that
    example; "argmin_entropy", the head of least entropy alone (γ → ∞); "weights", as given. Source:
    Zhang et al. 2023 (DRM, arXiv 2208.08661), which picks one head for a whole batch where we pick
    for each example. Two more do not weigh: "logits", the softmax of the heads' mean logits (as
    NEAS, arXiv 2104.00597; "uniform" may name another class and is less sure); "vote", the share of
    heads that name each class.

    Args:
        logits: of every head, a global one last if there is one.
        rule: see above.
        gamma: exponent of "entropy", at least 0 (uniform).
        weights: of rule "weights", for all examples (heads,) or for each (batch, heads), ≥ 0; they
            are brought to a sum of 1.
        last_votes: False leaves the last head out of the sum but not out of the weights' sum, as
            DRM's released code does: the result then sums to less than 1.

    >>> heads = torch.tensor([[[0.9, 0.1]], [[0.6, 0.4]]]).log()
    >>> combine_heads(heads, "entropy", gamma=1.0)
    tensor([[0.8023, 0.1977]])
    """
    if rule == "logits":
        return logits.mean(0).softmax(-1)
    if rule == "vote":
        return nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits).mean(0)
    if rule == "uniform":
        share = logits.new_ones(logits.shape[1], logits.shape[0])
    elif rule == "weights":
        if weights is None:
            raise ValueError("rule 'weights' needs weights")
        share = weights.expand(logits.shape[1], logits.shape[0]).to(logits)
    elif rule == "entropy":
        share = entropy_weights(logits, gamma)
    elif rule == "argmin_entropy":
        share = entropy_weights(logits, float("inf"))
    else:
        raise ValueError(
            f"rule is uniform, entropy, argmin_entropy, weights, logits or vote, not '{rule}'"
        )
    share = share / share.sum(-1, keepdim=True)
    voting = len(logits) if last_votes else len(logits) - 1
    return torch.einsum("bh,hbc->bc", share[:, :voting], logits.softmax(-1)[:voting])


def entropy_weights(
    logits: Float[Tensor, "heads batch classes"], gamma: float = 1.0
) -> Float[Tensor, "batch heads"]:
    """H_i^−γ over its sum for every example, H_i the entropy of head i; γ = ∞: one for the least.

    >>> heads = torch.tensor([[[0.9, 0.1]], [[0.6, 0.4]], [[0.5, 0.5]]]).log()
    >>> entropy_weights(heads)
    tensor([[0.5123, 0.2474, 0.2403]])
    """
    if not gamma >= 0:
        raise ValueError(f"gamma is at least 0, not {gamma}")
    chances = logits.softmax(-1)
    # A class that a mask rules out (−inf) adds nothing; 0 · −∞ would be NaN.
    surprise = -logits.log_softmax(-1).masked_fill(chances == 0, 0)
    entropy = (chances * surprise).sum(-1).T
    if gamma == float("inf"):
        return nn.functional.one_hot(entropy.argmin(-1), len(logits)).to(logits)
    # In logarithms: a head that is certain has an entropy whose power would overflow.
    smallest = torch.finfo(entropy.dtype).tiny
    return (-gamma * entropy.clamp(min=smallest).log()).softmax(-1)
