"""Models that read demonstrations without being language models: neighbours and prototypes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from generality.selection.demonstration_optimizer import Answerer, Demonstrations

Features = Mapping[str, Float[np.ndarray, " dim"]]
"""The embedding of each text, of length 1."""


def neighbour_answerer(features: Features, k: int = 1) -> Answerer:
    """Answers with the class of the k demonstrations nearest by cosine, the closest deciding ties.

    >>> features = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0]), "c": np.array([0.8, 0.6])}
    >>> neighbour_answerer(features)((("a", 0), ("b", 1)), ["c"])
    [0]
    """

    def decide(alike: np.ndarray, labels: np.ndarray) -> np.ndarray:
        order = np.argsort(-alike, axis=1, kind="stable")[:, :k]
        votes = np.zeros((len(alike), labels.max() + 1))
        nearer = 1 + 1e-6 * np.arange(order.shape[1], 0, -1)
        for rank in range(order.shape[1]):
            votes[np.arange(len(alike)), labels[order[:, rank]]] += nearer[rank]
        return votes.argmax(1)

    return _answerer(features, decide)


def prototype_answerer(features: Features) -> Answerer:
    """Answers with the class whose demonstrations have the most similar mean.

    >>> features = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0]), "c": np.array([0.8, 0.6])}
    >>> prototype_answerer(features)((("a", 0), ("b", 1)), ["c"])
    [0]
    """

    def decide(alike: np.ndarray, labels: np.ndarray) -> np.ndarray:
        classes = np.unique(labels)
        means = np.stack([alike[:, labels == each].mean(1) for each in classes], 1)
        return classes[means.argmax(1)]

    return _answerer(features, decide)


def _answerer(
    features: Features, decide: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Answerer:
    def answer(demonstrations: Demonstrations, texts: list[str]) -> list[int]:
        shown = np.stack([features[text] for text, _ in demonstrations])
        labels = np.array([label for _, label in demonstrations])
        alike = np.stack([features[text] for text in texts]) @ shown.T
        found: list[int] = decide(alike, labels).tolist()
        return found

    return answer
