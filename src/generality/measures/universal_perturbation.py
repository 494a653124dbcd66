"""Attacks on inputs: projected gradient descent on each, and one perturbation for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Norm = Literal["l2", "linf"]


def pgd_attack(
    model: Callable[[Tensor], Tensor],
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    *,
    eps: float,
    step: float,
    steps: int = 20,
    norm: Norm = "l2",
    low: float | None = None,
    high: float | None = None,
) -> Float[Tensor, "batch ..."]:
    """Inputs moved by at most `eps` so that the cross-entropy grows: projected gradient ascent.

    Starts at the inputs themselves, without a random start, so it is the same each time; the
    gradient is normalised per example ("l2") or its sign taken ("linf"). No gradient flows through
    the result. Works inside `torch.func.vmap`, so adversarial training of many replicas can run it.

    Args:
        model: from inputs to logits (batch, classes); a module in eval mode, or any function.
        inputs: where to start.
        labels: classes to move away from.
        eps: largest distance, in the units of the inputs.
        step: length of one step, in the same units.
        steps: of them.
        norm: "l2" over all entries of an example, or "linf".
        low: smallest value an input may take; None: any.
        high: largest.

    Source: Madry et al. 2018 (arXiv 1706.06083).

    >>> linear = torch.nn.Linear(2, 2)
    >>> linear.weight.data = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    >>> x = torch.zeros(1, 2)
    >>> pgd_attack(linear, x, torch.tensor([1]), eps=1.0, step=0.3)
    tensor([[-0.6000, -0.8000]])
    """
    if eps < 0 or step < 0 or norm not in ("l2", "linf"):
        raise ValueError(f"eps and step are ≥ 0 and norm 'l2' or 'linf': {eps}, {step}, '{norm}'")

    def loss(moved: Tensor) -> Tensor:
        # log(exp(cross-entropy) - 1): the same direction, but a sure model does not round it away
        logits = model(moved)
        true = torch.arange(logits.shape[-1], device=logits.device) == labels[:, None]
        others = logits.masked_fill(true, -torch.inf).logsumexp(-1)
        return (others - logits.masked_fill(~true, 0.0).sum(-1)).sum()

    slope = torch.func.grad(loss)
    delta = torch.zeros_like(inputs)
    for _ in range(steps):
        gradient = slope(inputs + delta).detach()
        if norm == "linf":
            delta = (delta + step * gradient.sign()).clamp(-eps, eps)
        else:
            scaled = gradient / _largest(gradient)
            delta = delta + step * scaled / _length(scaled)
            delta = delta * (eps / _length(delta)).clamp_max(1.0)
        if low is not None or high is not None:
            delta = (inputs + delta).clamp(low, high) - inputs
    return (inputs + delta).detach()


@dataclass(frozen=True)
class UniversalPerturbation:
    """One direction that changes the predictions of many examples.

    Attributes:
        direction: shaped as one input, of length `eps`.
        signs: (classes,) −1 or 1: which way each class is moved.
        own: (n, ...) the perturbation that L2-PGD found for each example; the direction is the
            first right singular vector of these.
    """

    direction: Float[Tensor, ...]
    signs: Float[Tensor, " classes"]
    own: Float[Tensor, "n ..."]

    def apply(
        self, inputs: Float[Tensor, "batch ..."], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch ..."]:
        """Inputs moved along the direction, each class its way."""
        signs = self.signs[labels].view(-1, *[1] * self.direction.ndim)
        return inputs + signs * self.direction

    def share_in(self, basis: Float[Tensor, "entries k"]) -> float:
        """Mean share, in [0, 1], of the examples' own perturbations that lies in a subspace.

        The length of the projection over the length of the whole; `basis` has orthonormal columns,
        over the flattened inputs. Examples without a perturbation do not count.
        """
        own = self.own.flatten(1)
        length = own.norm(dim=1)
        moved = length > 0
        return float(((own @ basis).norm(dim=1)[moved] / length[moved]).mean())


def universal_perturbation(
    model: Callable[[Tensor], Tensor],
    inputs: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    *,
    eps: float,
    step: float | None = None,
    steps: int = 20,
) -> UniversalPerturbation:
    """The direction that moves most examples at once: the top singular vector of their own attacks.

    Two classes are moved oppositely; of more, each gets the sign of its examples' mean projection.
    A singular vector has no sign of its own: of the two ways, the one that leaves fewer of `inputs`
    right is taken. The universal perturbation is as long as the examples' own may be. More is not
    always worse: one that is too long carries a point past the region where it is misread.

    Args:
        model: from inputs to logits (n, classes).
        inputs: examples to attack; others can be moved by the result.
        labels: their classes.
        eps: length of the perturbations, in the units of the inputs.
        step: of an attack; None: eps / 10.
        steps: of an attack.

    Source: Shah et al. 2020 (arXiv 2006.07710), section 4.2 (the SVD-UAP of Deshpande et al.). The
    released code lets the examples' own attacks go as far as half the range of the data.

    >>> linear = torch.nn.Linear(3, 2, bias=False)
    >>> linear.weight.data = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> found = universal_perturbation(linear, x, y, eps=4.0)
    >>> bool((linear(found.apply(x, y)).argmax(1) == y).any())
    False
    >>> found.share_in(torch.eye(3)[:, :1])
    1.0
    """
    pace = eps / 10 if step is None else step
    moved = pgd_attack(model, inputs, labels, eps=eps, step=pace, steps=steps, norm="l2")
    own = moved - inputs
    flat = own.flatten(1)
    direction = torch.linalg.svd(flat, full_matrices=False).Vh[0]
    along = flat @ direction
    classes = int(labels.max()) + 1
    sums = torch.zeros(classes, dtype=along.dtype, device=along.device)
    signs = sums.index_add(0, labels, along).sign()
    if classes == 2:
        signs = torch.tensor([-1.0, 1.0]).to(along)
    shaped = eps * direction.view(inputs.shape[1:])
    both = [UniversalPerturbation(shaped, way * signs, own) for way in (1, -1)]
    with torch.no_grad():
        right = [(model(each.apply(inputs, labels)).argmax(-1) == labels).sum() for each in both]
    return both[int(right[1] < right[0])]


def _length(batch: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """L2 length of each example, shaped to divide by."""
    flat = batch.flatten(1).norm(dim=1).clamp_min(1e-12)
    return flat.view(-1, *[1] * (batch.ndim - 1))


def _largest(batch: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Largest absolute entry of each example, shaped to divide by."""
    flat = batch.flatten(1).abs().amax(1).clamp_min(1e-37)
    return flat.view(-1, *[1] * (batch.ndim - 1))
