"""Ways to train a network that should not lean on a feature which you know to be a shortcut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int, Real
from torch import Tensor, nn

from generality.estimators.hypotheses import fit_dbat
from generality.estimators.rich_features import split_by_correctness
from generality.lab.replicate import Replicas
from generality.lab.train_streams import Batch, train_streams
from generality.measures import pgd_attack
from generality.objectives import DBATLoss

Remedy = Literal[
    "sgd", "ensemble", "adversarial", "dbat", "discovery", "feature-dropout", "without"
]

_SEEDS_APART = 2**20  # the networks of an ensemble start from weights of their own


def fit_remedy(
    remedy: Remedy | str,
    module: Callable[[int], nn.Module],
    inputs: Real[np.ndarray, "replicas n ..."],
    labels: Int[np.ndarray, "replicas n"],
    shuffled: Real[np.ndarray, "replicas n ..."],
    *,
    seeds: Sequence[int],
    members: int = 3,
    first_steps: int = 500,
    alpha: float = 1.0,
    ball: dict[str, Any] | None = None,
    **training: Any,
) -> list[Replicas]:
    """Train by one remedy, all seeds together; the mean of the networks' logits is its answer.

    - "sgd": none, the floor. "without": on the shuffled examples, the ceiling.
    - "ensemble": `members` networks that differ by their seed: the control of equal kind.
    - "adversarial": on inputs attacked within `ball` in 7 steps.
    - "dbat": a second network that disagrees with a first where the shortcut is shuffled.
    - "discovery": the worse counts of what a first network, trained for `first_steps`, gets right
      and what it gets wrong, as in Rich Feature Construction. It needs errors to learn from: a
      shortcut that is always right leaves the second group empty, and all examples stand for it.
    - "feature-dropout": on every example as it is and once more with the shortcut shuffled.

    "adversarial", "ensemble" and "discovery" make no use of `shuffled`: they know no shortcut.

    Args:
        remedy: see above.
        module: builds a network from a seed; logits (batch, classes).
        inputs: for each seed.
        labels: class numbers.
        shuffled: the same examples with the shortcut taken from others, as by
            `benchmarks.shuffle_block`.
        seeds: one per replica.
        alpha: of D-BAT's disagreement.
        ball: of "adversarial": eps, norm and bounds as `measures.pgd_attack` takes them.
        training: steps, learning_rate, batch_size {"labelled": …, "unlabelled": …} and what else
            `lab.train_streams` takes.

    Raises:
        ValueError: an unknown remedy, or "adversarial" without a ball.

    Source: the attempts at mitigation of Shah et al. 2020 (arXiv 2006.07710), section 5, and later
    ones; D-BAT: arXiv 2202.04414; discovery: arXiv 2203.15516.

    >>> from generality.benchmarks import shuffle_block, slab_dataset
    >>> data = slab_dataset(400, linear=1, slabs={3: 1}, rotate=False)
    >>> shortcut = np.array([True, False])  # the linear column; the other one is in slabs
    >>> shuffled = shuffle_block(data.inputs, shortcut)
    >>> from generality.models import mlp
    >>> [trained] = fit_remedy(
    ...     "feature-dropout", lambda seed: mlp(2, 16, 2), data.inputs[None], data.labels[None],
    ...     shuffled[None], seeds=[0], steps=300, learning_rate=0.3, optimizer="sgd",
    ...     batch_size={"labelled": 64, "unlabelled": 64})
    >>> said = trained.module(0)(torch.tensor(shuffled)).argmax(1).numpy()
    >>> bool((said == data.labels).mean() > 0.9)
    True
    """
    if remedy not in get_args(Remedy):
        raise ValueError(f"a remedy is one of {', '.join(get_args(Remedy))}, not '{remedy}'")
    if remedy == "adversarial" and not ball:
        raise ValueError("the remedy 'adversarial' needs a ball to attack in")
    x, y = inputs, labels
    if remedy == "dbat":
        found = fit_dbat(module, x, y, shuffled, loss=DBATLoss(alpha), seeds=seeds, **training)
        return [found.members[1]]
    if remedy == "without":
        x = shuffled
    elif remedy == "feature-dropout":
        x, y = np.concatenate([x, shuffled], 1), np.concatenate([y, y], 1)
    streams: dict[str, tuple[Tensor, ...]] = {"labelled": (torch.as_tensor(x), torch.as_tensor(y))}
    loss: Any = _adversarial(ball) if remedy == "adversarial" and ball else _plain
    if remedy == "discovery":
        first = train_streams(
            module, streams, loss, seeds=seeds, **{**training, "steps": first_steps}
        )
        streams, loss = _by_correctness(first, x, y, seeds), _worst_group
        sizes = dict.fromkeys(streams, training["batch_size"]["labelled"])
        training = {**training, "batch_size": sizes}
    return [
        train_streams(
            module, streams, loss, seeds=[seed + k * _SEEDS_APART for seed in seeds], **training
        )
        for k in range(members if remedy == "ensemble" else 1)
    ]


def _plain(model: Any, batch: Batch, progress: float) -> Tensor:
    inputs, labels = batch["labelled"]
    return nn.functional.cross_entropy(model(inputs), labels)


def _adversarial(ball: dict[str, Any]) -> Callable[[Any, Batch, float], Tensor]:
    def loss(model: Any, batch: Batch, progress: float) -> Tensor:
        inputs, labels = batch["labelled"]
        # batch statistics are those of the clean data while an attack is looked for
        switches = isinstance(model, nn.Module) and model.eval() is model
        inputs = pgd_attack(model, inputs, labels, step=ball["eps"] / 3, steps=7, **ball)
        if switches:
            model.train()
        return nn.functional.cross_entropy(model(inputs), labels)

    return loss


def _worst_group(model: Any, batch: Batch, progress: float) -> Tensor:
    losses = [nn.functional.cross_entropy(model(x), y) for x, y in batch.values()]
    return torch.stack(losses).amax()


def _by_correctness(
    first: Replicas, x: np.ndarray, y: np.ndarray, seeds: Sequence[int]
) -> dict[str, tuple[Tensor, ...]]:
    """What a first network gets right and what it gets wrong, each drawn anew to one size."""
    streams: dict[str, list[np.ndarray]] = {"right": [], "wrong": []}
    for i, seed in enumerate(seeds):
        right = split_by_correctness(first.module(i), x[i], y[i])
        rng = np.random.default_rng(seed)
        for name, members in (("right", right), ("wrong", ~right)):
            rows = np.flatnonzero(members) if members.any() else np.arange(len(right))
            streams[name].append(np.resize(rng.permutation(rows), len(right)))
    return {
        name: tuple(
            torch.as_tensor(np.stack([array[i][rows[i]] for i in range(len(seeds))]))
            for array in (x, y)
        )
        for name, rows in streams.items()
    }
