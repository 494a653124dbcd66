"""Linear probes on a ladder of models, where lower rungs label data for higher ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from generality.benchmarks import TransferTask
from generality.estimators.soft_probe import moments, standardised
from generality.lab import Lab
from generality.objectives import soft_cross_entropy

Labels = Float[np.ndarray, "seeds rows classes"]
Predictions = Float[np.ndarray, "seeds texts classes"]


class ProbeLadder:
    """Supervisors taught by true labels on one half of the data, students on the other.

    Features are embedded once a model and standardised over the training texts; a probe is a
    linear layer without bias that starts at zero, and all seeds of an arm train together.

    Args:
        task: the texts, and each seed's halves.
        lab: where the work is done.
        ladder: each model's name and the hidden state it is probed at, weakest first.
        seeds: how many.
        learning_rate: of Adam, batch 32.
        supervisor_epochs: how long supervisors learn from true labels.
        max_length: tokens of a text that are read.

    Attributes:
        supervised: rows each seed's supervisors learn from, (seeds, supervised).
        transfer: rows they label, (seeds, transfer).
    """

    def __init__(
        self,
        task: TransferTask,
        lab: Lab,
        ladder: Mapping[str, int],
        *,
        seeds: int,
        learning_rate: float = 5e-4,
        supervisor_epochs: int = 10,
        max_length: int = 256,
    ) -> None:
        self.task, self.lab, self.rungs = task, lab, tuple(ladder)
        self.learning_rate, self.supervisor_epochs = learning_rate, supervisor_epochs
        halves = [task.halves(seed) for seed in lab.seeds(seeds)]
        self.supervised, self.transfer = map(np.stack, zip(*halves, strict=True))
        self.features = {
            model: self._standardised(model, layer, max_length) for model, layer in ladder.items()
        }
        self._supervisors: dict[str, Predictions] = {}

    def supervisor(self, model: str) -> Predictions:
        """What the model says of every text after learning from its half's true labels."""
        if model not in self._supervisors:
            truth = self.task.one_hot(self.supervised)
            self._supervisors[model] = self.train(
                model, self.supervised, truth, self.supervisor_epochs
            )
        return self._supervisors[model]

    def labels(self, model: str) -> Labels:
        """What the model's supervisor says of the transfer half."""
        return _of_rows(self.supervisor(model), self.transfer)

    def student(
        self,
        model: str,
        labels: Labels,
        epochs: int,
        objective: Callable[..., Any] = soft_cross_entropy,
    ) -> Predictions:
        """What the model says of every text after learning from labels of the transfer half."""
        return self.train(model, self.transfer, labels, epochs, objective)

    def bootstrapped(self, weak: str, strong: str, epochs: int) -> Predictions:
        """The strong student, where each rung from the weak one up teaches the next."""
        labels = self.labels(weak)
        for model in self.between(weak, strong):
            labels = _of_rows(self.student(model, labels, epochs), self.transfer)
        return self.student(strong, labels, epochs)

    def ceiling(self, model: str, epochs: int) -> Predictions:
        """What the model says of every text after learning the transfer half's true labels."""
        return self.student(model, self.task.one_hot(self.transfer), epochs)

    def between(self, weak: str, strong: str) -> tuple[str, ...]:
        """The rungs above one and below the other."""
        return self.rungs[self.rungs.index(weak) + 1 : self.rungs.index(strong)]

    def _standardised(
        self, model: str, layer: int, max_length: int
    ) -> Float[np.ndarray, "texts dim"]:
        texts, train = self.task.texts, self.task.train
        features = self.lab.embed(model, texts, layer=layer, max_length=max_length)
        return standardised(features, *moments(features[train]))

    def train(
        self,
        model: str,
        rows: np.ndarray,
        targets: Labels,
        epochs: int,
        objective: Callable[..., Any] = soft_cross_entropy,
    ) -> Predictions:
        """What a model's probes say of every text, trained on each seed's rows and targets."""
        return self.lab.probe(
            self.features[model], rows, targets, loss=objective, epochs=epochs,
            learning_rate=self.learning_rate, optimizer="adam",
        )  # fmt: skip


def _of_rows(predictions: Predictions, rows: np.ndarray) -> Labels:
    """Each seed's predictions for its own rows."""
    return np.take_along_axis(predictions, rows[..., None], axis=1)
