"""How exclusively a trained network leans on the simple feature of its data, in numbers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from generality.benchmarks.shuffled_block import shuffle_block
from generality.benchmarks.simple_feature import SimpleFeature
from generality.experiments.shortcut_remedies import Remedy, fit_remedy
from generality.lab.threads import available_cores, threads
from generality.measures import accuracy, randomized_score, universal_perturbation
from generality.models.named_networks import named_network


def remedy_numbers(
    remedy: Remedy | str,
    data: SimpleFeature,
    seeds: Sequence[int],
    *,
    network: str = "mlp",
    width: int = 100,
    attack_eps: float = 1.0,
    **training: Any,
) -> dict[str, list[float]]:
    """Train by one remedy for every seed and measure it: name -> one number a seed.

    Args:
        remedy: as in `fit_remedy`; "sgd" is attacked by a universal perturbation too.
        data: of all seeds.
        network: as in `named_network`; perceptrons train together, others one seed at a time.
        width: of a perceptron's two hidden layers.
        attack_eps: L2 length of the perturbation.
        training: of `fit_remedy`.

    >>> from generality.benchmarks import slab_features
    >>> data = slab_features("linear", slabs={5: 3}, linear=1, train=300, test=100)
    >>> found = remedy_numbers("sgd", data, [0], width=16, steps=300, learning_rate=0.3,
    ...                        optimizer="sgd", batch_size={"labelled": 64, "unlabelled": 64})
    >>> found["standard"][0] > 0.9 > 0.7 > found["score"][0]
    True
    """
    together = network == "mlp"  # batch statistics cannot be kept per replica
    groups = [list(range(len(seeds)))] if together else [[i] for i in range(len(seeds))]
    found: dict[str, list[float]] = {}
    with threads(1 if together else available_cores()):
        for group in groups:
            own = data.take(group)
            x = own.inputs
            shuffled = np.stack([
                shuffle_block(x[i], own.mask, rotation=own.rotation(i), seed=seeds[place])
                for i, place in enumerate(group)
            ])  # fmt: skip
            make = functools.partial(named_network, name=network, shape=x.shape[2:], width=width)
            nets = fit_remedy(
                remedy, make, x, own.labels, shuffled, seeds=[seeds[i] for i in group], **training
            )
            for i in range(len(group)):
                modules = [net.module(i).eval() for net in nets]
                attack = attack_eps if remedy == "sgd" else None
                for name, value in simplicity_numbers(modules, own, i, attack_eps=attack).items():
                    found.setdefault(name, []).append(value)
    return found


def simplicity_numbers(
    modules: Sequence[nn.Module], data: SimpleFeature, i: int, *, attack_eps: float | None = None
) -> dict[str, float]:
    """Scores of the mean logits on one seed's test data, as it is, shuffled and perturbed.

    Returns `score` (the AUC with the simple feature shuffled; .5: nothing else is used), `standard`
    (as it is), `complement` (all but it shuffled), `index` (share of skill that hangs on it),
    `accuracy`, `accuracy_without_simple`, `train_accuracy`; with `attack_eps`, a length,
    `perturbed_accuracy` under one perturbation for all, and `simple_share`, how much of it lies in
    the simple coordinates.
    """

    def model(inputs: Tensor) -> Tensor:
        return torch.stack([module(inputs) for module in modules]).mean(0)

    @torch.no_grad()
    def logits(inputs: np.ndarray) -> np.ndarray:
        return model(torch.as_tensor(inputs)).numpy()

    x, y, rotation = data.test_inputs[i], data.test_labels[i], data.rotation(i)
    groups = {"simple": data.mask}
    scores = randomized_score(logits, x, y, groups, rotation=rotation)
    right = randomized_score(logits, x, y, groups, rotation=rotation, metric="accuracy")
    found = {
        "score": scores.randomized["simple"],
        "standard": scores.standard,
        "complement": scores.complement["simple"],
        "index": scores.index("simple"),
        "accuracy": right.standard,
        "accuracy_without_simple": right.randomized["simple"],
        "train_accuracy": accuracy(logits(data.inputs[i]), data.labels[i]),
    }
    if attack_eps is not None:
        inputs, labels = torch.as_tensor(x), torch.as_tensor(y)
        basis = np.eye(data.mask.size) if rotation is None else rotation.T
        simple = torch.as_tensor(basis[:, data.mask.ravel()], dtype=torch.float32)
        hit = universal_perturbation(model, inputs, labels, eps=attack_eps)
        found["perturbed_accuracy"] = accuracy(logits(hit.apply(inputs, labels).numpy()), y)
        found["simple_share"] = hit.share_in(simple)
    return found
