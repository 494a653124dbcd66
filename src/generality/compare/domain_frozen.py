"""Heads on frozen features: every draw and seed of an algorithm trained together, and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from generality.compare.domain_arms import Answer, Arm, Fold, candidate, mean, rows_of, sure
from generality.compare.domain_methods import ALGORITHMS, DOMAIN_METHODS, SHARED, DomainMethod
from generality.estimators import evaluate_online
from generality.estimators.soft_probe import moments, standardised
from generality.lab.replicate import Replicas
from generality.lab.replicate_domains import replicate_domains
from generality.lab.threads import threads
from generality.measures import accuracy
from generality.models.featurized import Featurized, mlp

Views = Mapping[str, Float[np.ndarray, "n dim"]]
"""Features of the same rows: "" as they are, and one entry per kind of crafted shift."""
Hyper = Mapping[str, float]


@dataclass(frozen=True)
class Network:
    """The network that every method trains, and for how long.

    Attributes:
        hidden: width of the one hidden layer between features and head.
        steps: of the optimiser (Adam).
        per_domain: rows of each domain in a step.
        stream: rows that come at a time where a method adapts at test time.
    """

    hidden: int = 64
    steps: int = 300
    per_domain: int = 32
    stream: int = 32

    def module(self, dim: int, outputs: int) -> Featurized:
        """The network before training; torch's generator decides its weights."""
        body = nn.Sequential(mlp(dim, self.hidden), nn.ReLU())
        return Featurized(body, nn.Linear(self.hidden, outputs))


def train_arms(
    algorithm: str,
    hypers: Sequence[Hyper],
    inputs: Float[np.ndarray, "n dim"],
    labels: Int[np.ndarray, " n"],
    arms: Sequence[Arm],
    classes: int,
    network: Network,
) -> Replicas:
    """One trained network per arm, all at once; arms train on as many domains each."""
    mine = [hypers[arm.draw] for arm in arms]
    own = {name for name in hypers[0] if name not in SHARED}
    outputs = classes * (len(arms[0].rows) + 1 if algorithm == "drm" else 1)
    with threads(1):
        return replicate_domains(
            lambda _seed: network.module(inputs.shape[1], outputs),
            inputs,
            np.maximum(labels, 0),  # rows without a label are in no arm
            [arm.rows for arm in arms],
            algorithm=ALGORITHMS[algorithm],
            seeds=[arm.seed for arm in arms],
            learning_rate=[each["learning_rate"] for each in mine],
            weight_decay=[each["weight_decay"] for each in mine],
            hyper={name: [each[name] for each in mine] for name in own},
            steps=network.steps,
            per_domain=network.per_domain,
        )


def measure(
    views: Views,
    labels: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    fold: Fold,
    methods: Mapping[str, Sequence[Hyper]],
    hypers: Sequence[Hyper],
    network: Network,
    inner: bool,
) -> dict[str, list[dict[str, float]]]:
    """Train one algorithm on a fold and measure every method that builds on it: a memoised step.

    Args:
        views: see `Views`.
        labels: class of each row; −1 where unknown.
        groups: group of each row, of which the worst is reported.
        fold: the target and its sources.
        methods: method → its own hyper-parameters in each draw; all of one algorithm.
        hypers: the algorithm's hyper-parameters in each draw.
        network: what is trained.
        inner: whether to leave out each source in turn as well, to choose by.

    Returns:
        For each method one dict per seed and draw: `draw`, `seed`, the criteria (`held-out-source`,
        `leave-one-domain-out`, `crafted-shift`, `target-sample`, `oracle`) and the scores on the
        target.
    """
    algorithm = DOMAIN_METHODS[next(iter(methods))].algorithm
    known = np.isin(np.arange(len(labels)), rows_of(fold))
    centre = moments(np.asarray(views[""])[known])
    inputs = {name: standardised(view, *centre) for name, view in views.items()}
    arms = fold.arms(labels, len(hypers), inner=False)
    main = train_arms(algorithm, hypers, inputs[""], labels, arms, fold.classes, network)
    inner_arms = fold.arms(labels, len(hypers), inner=True) if inner else []
    found: dict[str, list[dict[str, float]]] = {}
    nested = (
        train_arms(algorithm, hypers, inputs[""], labels, inner_arms, fold.classes, network)
        if inner
        else None
    )
    for name, own in methods.items():
        method = DOMAIN_METHODS[name]
        answer = _answers(method, own, main, arms, inputs, labels, fold.classes, network)
        candidates = [
            candidate(answer, place, arm, fold, labels, groups, list(inputs))
            for place, arm in enumerate(arms)
        ]
        if nested is not None:
            plain = {"": inputs[""]}
            answer = _answers(method, own, nested, inner_arms, plain, labels, fold.classes, network)
            left_out: dict[tuple[int, int], list[float]] = {}
            for place, arm in enumerate(inner_arms):
                values = left_out.setdefault((arm.draw, arm.seed), [])
                if len(rows := fold.splits[arm.seed][arm.without].held):
                    values.append(accuracy(answer(place, rows, ""), labels[rows]))
            for each, arm in zip(candidates, arms, strict=True):
                each["leave-one-domain-out"] = mean(left_out[arm.draw, arm.seed])
        found[name] = candidates
    return found


def ceiling(
    views: Views,
    labels: Int[np.ndarray, " n"],
    fold: Fold,
    hypers: Sequence[Hyper],
    network: Network,
) -> list[float]:
    """Accuracy on the target, for each seed, of plain training with its labels: a memoised step.

    Trained on four fifths of the target's known half, alone and beside the sources, with every
    draw; the other fifth chooses among these.
    """
    known = np.isin(np.arange(len(labels)), rows_of(fold))
    inputs = standardised(views[""], *moments(np.asarray(views[""])[known]))
    best: dict[int, tuple[float, float]] = {}
    for arms in fold.ceiling_arms(labels, len(hypers)):
        trained = train_arms("erm", hypers, inputs, labels, arms, fold.classes, network)
        said = [sure(each) for each in trained.logits(inputs).softmax(-1).numpy()]
        for place, arm in enumerate(arms):
            held = fold.target_part(labels, arm.seed).held
            score = fold.splits[arm.seed][fold.target].score
            value = accuracy(said[place][held], labels[held])
            if arm.seed not in best or value > best[arm.seed][0]:
                best[arm.seed] = value, accuracy(said[place][score], labels[score])
    return [best[seed][1] for seed in sorted(best)]


def _answers(
    method: DomainMethod,
    own: Sequence[Hyper],
    trained: Replicas,
    arms: Sequence[Arm],
    inputs: Views,
    labels: np.ndarray,
    classes: int,
    network: Network,
) -> Answer:
    if method.adapter is None:
        said = {view: trained.logits(x).softmax(-1).numpy() for view, x in inputs.items()}
        return lambda place, rows, view: sure(said[view][place][rows])
    modules: dict[int, tuple[Any, Any]] = {}
    sound = torch.stack([p.flatten(1).isfinite().all(1) for p in trained.parameters.values()]).all(
        0
    )

    def fitted(place: int) -> tuple[Any, Any]:
        """The network of an arm, and its adapter."""
        if place not in modules:
            module: Any = trained.module(place).eval().requires_grad_(False)
            seen = np.concatenate(arms[place].rows)
            features = module.featurizer(torch.from_numpy(inputs[""][seen]))
            truth, hyper = torch.from_numpy(labels[seen]), own[arms[place].draw]
            assert method.adapter is not None
            adapter = method.adapter(module, features, truth, hyper, classes)
            modules[place] = module, adapter
        return modules[place]

    def answer(place: int, rows: np.ndarray, view: str) -> np.ndarray:
        if not sound[place]:  # it diverged, and has no features to adapt to
            return np.full((len(rows), classes), 1 / classes)
        module, adapter = fitted(place)
        asked = torch.from_numpy(inputs[view][rows])
        if not method.on_inputs:
            asked = module.featurizer(asked)
        return sure(stream(adapter, asked, labels[rows], network.stream, arms[place].seed))

    return answer


def stream(
    adapter: Any, features: torch.Tensor, labels: np.ndarray, size: int, seed: int
) -> Float[np.ndarray, "n classes"]:
    """What an adapter says of rows that come in a random order, in the order of the rows."""
    if not len(labels):
        return np.zeros((0, 1), dtype=np.float32)
    went = evaluate_online(adapter, {"": (features, labels)}, batch_size=size, seed=seed)[""]
    said = np.empty_like(went.probabilities)
    said[went.order] = went.probabilities
    return said
