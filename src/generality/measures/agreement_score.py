"""How alike models are: over hypotheses, and over trainings on one labelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from generality.measures.predictions import class_ids


def hypothesis_similarity(predictions: Any) -> Float[NDArray, "models models"]:
    """Share of examples, in [0, 1], on which each pair of models predicts the same class.

    Args:
        predictions: class ids (models, n) or probabilities (models, n, classes).

    >>> hypothesis_similarity([[0, 1, 1, 0], [0, 1, 0, 1]])
    array([[1. , 0.5],
           [0.5, 1. ]])
    """
    said = np.stack([class_ids(each) for each in predictions])
    similarity: NDArray = (said[:, None] == said[None]).mean(-1)
    return similarity


def agreement_score(
    fit_predict: Callable[[Any, Any, Any, int], Any],
    inputs: Shaped[Any, "n ..."],
    labels: Shaped[Any, " n"],
    held_out: Shaped[Any, "m ..."],
    *,
    seeds: int = 2,
) -> float:
    """Agreement, in [0, 1], on unseen examples, of trainings that differ by their seed only.

    High for labellings that the learning algorithm finds natural (the true one as a rule), near
    chance for random ones: a probe of its inductive bias that needs no held-out labels.

    Args:
        fit_predict: (inputs, labels, held_out, seed) -> class ids (m,) or probabilities of
            `held_out` by a model trained on the others with this seed.
        inputs: training examples.
        labels: a labelling of them.
        held_out: examples to compare on.
        seeds: trainings, ≥ 2: seeds 0, 1, ….

    Raises:
        ValueError: for fewer than two seeds.

    Source: Atanov et al. 2022 (arXiv 2203.03368), as used by Benoit et al. 2023 (arXiv 2312.16313),
    section 5.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> rng = np.random.default_rng(0)
    >>> X, random = rng.normal(size=(200, 5)), rng.integers(0, 2, 200)
    >>> natural = (X[:, 0] > 0).astype(int)
    >>> def tree(X, y, held_out, seed):
    ...     return DecisionTreeClassifier(splitter="random", random_state=seed).fit(X, y).predict(
    ...         held_out)
    >>> new = rng.normal(size=(500, 5))
    >>> agreement_score(tree, X, natural, new) > 0.9 > agreement_score(tree, X, random, new)
    True
    """
    if seeds < 2:
        raise ValueError(f"an agreement takes two trainings or more, not {seeds}")
    said = [fit_predict(inputs, labels, held_out, seed) for seed in range(seeds)]
    return float(hypothesis_similarity(said)[np.triu_indices(seeds, 1)].mean())
