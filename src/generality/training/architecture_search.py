"""Weights and architecture of a network learned in turns, each on its own half of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from generality.lab.cosine_power import CosinePowerAnnealingLR
from generality.measures.rank_correlation import RankCorrelation, rank_correlation
from generality.modules.mixed_op import architecture_parameters
from generality.training.train_steps import shuffled_batches


@dataclass(frozen=True)
class SearchPlan:
    """How DARTS searches, with its defaults; SGD for the weights, Adam for the architecture.

    Attributes:
        steps: of the weights, and as many of the architecture.
        batch: examples a step.
        learning_rate, eta_min, order, warmup: of the weights' cosine power annealing, which moves
            after every step; warm-up in steps (the paper searches with 5 of its 120 epochs; none
            here, as a search may be short).
        momentum, weight_decay, clip: of the weights' SGD.
        architecture_rate, architecture_betas, architecture_decay: of the architecture's Adam.
    """

    steps: int = 1000
    batch: int = 64
    learning_rate: float = 0.025
    eta_min: float = 1e-4
    order: float = 2.0
    warmup: int = 0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0
    architecture_rate: float = 3e-4
    architecture_betas: tuple[float, float] = (0.5, 0.999)
    architecture_decay: float = 1e-3


def search_architecture(
    model: nn.Module,
    inputs: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    plan: SearchPlan = SearchPlan(),
    *,
    seed: int = 0,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
) -> list[float]:
    """Train a model with mixtures in it (`MixedOp`, `DartsCell`, `DifferentiableGrid`) in place.

    Half of the rows train the weights, the other half the architecture's logits, a batch each in
    turn (first order: the architecture's gradient is taken at the present weights). Read the answer
    with `decoded`, `genotype` or `decode`.

    Returns:
        The architecture's loss at each step.

    Source: Liu, Simonyan and Yang 2019 (DARTS, arXiv 1806.09055), algorithm 1 with ξ = 0, with the
    schedule of sharpDARTS (arXiv 1903.09900). The second-order step is left out.

    Raises:
        ValueError: the model has nothing to search.

    >>> from generality.modules import MixedOp
    >>> torch.manual_seed(0) and None
    >>> x = torch.randn(200, 2)
    >>> net = MixedOp({"line": nn.Linear(2, 2), "nothing": nn.Threshold(1e9, 0.0)}, "max_w")
    >>> losses = search_architecture(net, x, (x[:, 0] > 0).long(),
    ...                              SearchPlan(steps=60, batch=32, architecture_rate=0.05))
    >>> net.heaviest()
    'line'
    """
    logits = architecture_parameters(model)
    if not logits:
        raise ValueError("the model has no mixture (MixedOp, DifferentiableGrid) to search")
    known = {id(p) for p in logits}
    weights = [p for p in model.parameters() if id(p) not in known]
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    mine, held = order[: len(order) // 2], order[len(order) // 2 :]
    batch = min(plan.batch, len(mine))
    sgd = torch.optim.SGD(
        weights, plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay
    )
    rate = CosinePowerAnnealingLR(sgd, plan.steps, plan.eta_min, plan.order, plan.warmup)
    adam = torch.optim.Adam(
        logits, plan.architecture_rate, betas=plan.architecture_betas,
        weight_decay=plan.architecture_decay,
    )  # fmt: skip
    model.train()
    losses = []
    batches = zip(
        shuffled_batches(len(held), batch, seed), shuffled_batches(len(mine), batch, seed + 1),
        range(plan.steps), strict=False,
    )  # fmt: skip
    for judging, training, _ in batches:
        rows = held[judging]
        value = loss(model(inputs[rows]), labels[rows])
        for parameter, gradient in zip(logits, torch.autograd.grad(value, logits), strict=True):
            parameter.grad = gradient
        adam.step()
        losses.append(value.item())
        rows = mine[training]
        value = loss(model(inputs[rows]), labels[rows])
        for parameter, slope in zip(
            weights, torch.autograd.grad(value, weights, allow_unused=True), strict=True
        ):
            parameter.grad = slope
        nn.utils.clip_grad_norm_(weights, plan.clip)
        sgd.step()
        rate.step()
    model.eval()
    return losses


def search_ranking_gap(
    one_shot: Callable[[Any], float],
    alone: Callable[[Any], float],
    architectures: Sequence[Any],
) -> RankCorrelation:
    """Does the score with shared weights rank architectures as training each alone does?

    Args:
        one_shot: an architecture's score in the trained supernet.
        alone: its score when trained by itself.
        architectures: three or more, not chosen by either score.

    >>> search_ranking_gap(float, lambda a: float(a) ** 3, [1, 2, 3, 4]).tau
    1.0
    """
    import numpy as np

    return rank_correlation(
        np.array([one_shot(a) for a in architectures]), np.array([alone(a) for a in architectures])
    )


def recalibrated_accuracy(
    model: nn.Module,
    calibration: Float[Tensor, "m ..."],
    inputs: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    *,
    batch: int = 256,
    predict: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> float:
    """Accuracy after the batch norms' running statistics are made anew on `calibration`.

    Those of a supernet are averages over many paths and mean nothing for one of them.

    >>> recalibrated_accuracy(nn.Identity(), torch.eye(2), torch.eye(2), torch.tensor([0, 1]))
    1.0
    """
    update_bn(calibration.split(batch), model)
    model.eval()
    with torch.inference_mode():
        said = predict(model(inputs)).argmax(-1)
    return float((said == labels).float().mean())
