"""One-shot search for an ensemble: a supernet trained while its space shrinks, then evolution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.measures.operator_diversity import Distance
from generality.models.multi_head import combine_heads
from generality.modules.supernet import EnsembleArchitecture, Supernet
from generality.objectives.member_cross_entropy import member_cross_entropy
from generality.training.architecture_search import recalibrated_accuracy
from generality.training.evolution_search import evolution_search
from generality.training.shrinking_sampler import ShrinkingSampler, combo_diversity
from generality.training.train_steps import shuffled_batches

Shrink = Literal["never", "accuracy", "diversity"]


@dataclass(frozen=True)
class SupernetPlan:
    """How a supernet is trained.

    Attributes:
        steps: of SGD, an ensemble drawn at random in each.
        batch: examples a step.
        learning_rate: at first; it falls along a half cosine.
        momentum, weight_decay, clip: of SGD.
        label_smoothing: of every member's cross-entropy.
        shrink: "never", by "accuracy" alone, or by accuracy and "diversity".
        shrink_at: steps after which the space shrinks.
        drop: share of every block's combinations that goes each time.
        weight: of diversity against potentiality, both standardised.
        distance: of operators' features.
        probes: ensembles whose held-out loss gives the potentiality.
    """

    steps: int = 1500
    batch: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0
    label_smoothing: float = 0.1
    shrink: Shrink = "diversity"
    shrink_at: tuple[int, ...] = (500, 1000)
    drop: float = 0.25
    weight: float = 1.0
    distance: Distance = "cosine"
    probes: int = 96


def train_supernet(
    supernet: Supernet,
    sampler: ShrinkingSampler,
    inputs: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    held: tuple[Float[Tensor, "m ..."], Int[Tensor, " m"]],
    plan: SupernetPlan = SupernetPlan(),
    *,
    seed: int = 0,
) -> list[float]:
    """Train all ensembles of a space together, dropping its worst combinations on the way.

    Both are changed in place: the supernet's weights, and the sampler's combinations. At a shrink,
    `plan.probes` ensembles that share nothing are drawn and their mean member's loss on the
    held-out rows (batch statistics, no gradient) is the combinations' potentiality.

    Returns:
        The loss of each step.

    Source: Chen et al. 2021 (NEAS, arXiv 2104.00597), algorithm 1; see `ShrinkingSampler` for what
    is reconstructed.
    """
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.SGD(
        supernet.parameters(), plan.learning_rate, momentum=plan.momentum,
        weight_decay=plan.weight_decay,
    )  # fmt: skip
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.steps)
    supernet.train()
    losses = []
    batches = shuffled_batches(len(inputs), min(plan.batch, len(inputs)), seed)
    for step, rows in zip(range(1, plan.steps + 1), batches, strict=False):
        network = supernet.network(sampler.sample(rng))
        loss = member_cross_entropy(network(inputs[rows]), labels[rows], plan.label_smoothing)
        optimizer.zero_grad()  # to None: operators that were not drawn do not move
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        optimizer.step()
        rate.step()
        losses.append(loss.item())
        if plan.shrink != "never" and step in plan.shrink_at:
            _probe(supernet, sampler, held, plan.probes, rng)
            apart = (
                combo_diversity(supernet, sampler, held[0][:256], rng, how=plan.distance)
                if plan.shrink == "diversity"
                else None
            )
            sampler.shrink(plan.drop, apart, plan.weight)
    supernet.eval()
    return losses


def one_shot_accuracy(
    supernet: Supernet,
    architecture: EnsembleArchitecture,
    calibration: Float[Tensor, "m ..."],
    held: tuple[Float[Tensor, "n ..."], Int[Tensor, " n"]],
) -> float:
    """An ensemble's accuracy with the supernet's weights, its batch norms recalibrated.

    Logits are averaged, as the paper does.
    """
    network = supernet.network(architecture)
    mean = partial(combine_heads, rule="logits")
    return recalibrated_accuracy(network, calibration, *held, predict=mean)


def search_ensemble(
    supernet: Supernet,
    sampler: ShrinkingSampler,
    calibration: Float[Tensor, "m ..."],
    held: tuple[Float[Tensor, "n ..."], Int[Tensor, " n"]],
    *,
    limit: int | None = None,
    split: int | None = None,
    population: int = 50,
    generations: int = 20,
    parents: int = 10,
    rate: float = 0.1,
    seed: int = 0,
) -> EnsembleArchitecture:
    """The ensemble of best one-shot accuracy that evolution finds within a limit of arithmetic.

    Args:
        supernet: trained.
        sampler: the space; `sampler.single()` searches single paths.
        calibration: for batch norms.
        held: rows to score on, which trained nothing.
        limit: floating-point operations for one input, as `Supernet.flops` counts; None: no limit.
        split: blocks shared, where it is not searched.
        population, generations, parents: of `evolution_search`.
        rate: probability that a mutation changes a gene.
        seed: of the evolution.
    """
    costs = supernet.costs(calibration[:1])

    def fits(one: EnsembleArchitecture) -> bool:
        return limit is None or supernet.flops(one, costs) <= limit

    found = evolution_search(
        draw=partial(sampler.sample, split=split, fits=fits),
        mutate=partial(sampler.mutate, rate=rate, split=split),
        cross=sampler.cross,
        fitness=lambda one: one_shot_accuracy(supernet, one, calibration, held),
        allowed=fits,
        population=population,
        generations=generations,
        parents=parents,
        seed=seed,
    )
    return found[0][0]


def _probe(
    supernet: Supernet,
    sampler: ShrinkingSampler,
    held: tuple[Tensor, Tensor],
    count: int,
    rng: np.random.Generator,
) -> None:
    """Tell the sampler the held-out loss of ensembles that share nothing."""
    inputs, labels = held
    state = {name: buffer.clone() for name, buffer in supernet.named_buffers()}
    with torch.no_grad():
        for _ in range(count):
            drawn = sampler.sample(rng, split=0)
            loss = member_cross_entropy(supernet(inputs, drawn), labels, 0.0)
            sampler.observe(drawn, loss.item() / supernet.members)
        for name, buffer in supernet.named_buffers():
            buffer.copy_(state[name])
