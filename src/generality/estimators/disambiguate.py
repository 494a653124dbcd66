"""Choose among hypotheses with a handful of labels from where they will be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from generality.measures import accuracy

Strategy = Literal["active", "random", "oracle"]
Pick = Literal["active", "random", "oracle", "ensemble"]


@dataclass(frozen=True)
class Disambiguation:
    """The hypothesis chosen, and what it took.

    Attributes:
        chosen: index of the hypothesis; ties go to the lowest.
        asked: (m,) rows whose labels were asked for.
        accuracies: (hypotheses,) on those rows.
    """

    chosen: int
    asked: Int[NDArray, " m"]
    accuracies: Float[NDArray, " hypotheses"]


def disambiguate(
    probabilities: Float[Any, "hypotheses n classes"],
    labels: Int[Any, " n"] | Callable[[Int[NDArray, " m"]], Int[Any, " m"]],
    *,
    strategy: Strategy = "active",
    budget: int = 16,
    seed: int = 0,
) -> Disambiguation:
    """The hypothesis that is right most often on a few target examples whose labels are asked for.

    Args:
        probabilities: of every hypothesis (a head, a model, any classifier) for the same n target
            examples.
        labels: their true classes, of which only the rows asked for are looked at; or a function
            that gets row numbers and returns their classes, such as a prompt to a person.
        strategy: "active" asks where the hypotheses differ most (mean L1 distance of a pair's
            probabilities), "random" anywhere, "oracle" everywhere: an upper bound, not a method.
        budget: labels to ask for, ≥ 1; "oracle" takes all.
        seed: of "random".

    Raises:
        ValueError: for shapes or options that do not fit.

    Source: Lee, Yao and Finn 2022 (arXiv 2202.03418), section 3.3.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2))
    >>> by_first, by_second = (X > 0).astype(float).T
    >>> said = np.stack([np.stack([1 - p, p], 1) for p in (by_first, by_second)])
    >>> ask = lambda rows: (X[rows, 1] > 0).astype(int)
    >>> answer = disambiguate(said, ask, budget=4)
    >>> answer.chosen, answer.accuracies
    (1, array([0., 1.]))
    """
    said = np.asarray(probabilities, float)
    if said.ndim != 3 or 0 in said.shape:
        raise ValueError(f"probabilities are (hypotheses, n, classes), not {said.shape}")
    if strategy not in ("active", "random", "oracle"):
        raise ValueError(f"strategy is 'active', 'random' or 'oracle', not '{strategy}'")
    if budget < 1:
        raise ValueError(f"a budget of at least one label, not {budget}")
    n = said.shape[1]
    if strategy == "oracle":
        asked = np.arange(n)
    elif strategy == "random":
        asked = np.random.default_rng(seed).permutation(n)[:budget]
    else:
        asked = np.argsort(-disagreement(said), kind="stable")[:budget]
    truth = np.asarray(labels(asked) if callable(labels) else np.asarray(labels)[asked])
    if truth.shape != asked.shape:
        raise ValueError(f"{len(asked)} labels were asked for; {truth.shape} came")
    accuracies = (said[:, asked].argmax(-1) == truth).mean(1)
    return Disambiguation(int(accuracies.argmax()), asked, accuracies)


def disagreement(
    probabilities: Float[NDArray, "hypotheses n classes"],
) -> Float[NDArray, " n"]:
    """Mean L1 distance of two hypotheses' probabilities for each example, in [0, 2]."""
    i, j = np.triu_indices(len(probabilities), 1)
    if len(i) == 0:
        return np.zeros(probabilities.shape[1])
    distance: NDArray = np.abs(probabilities[i] - probabilities[j]).sum(-1).mean(0)
    return distance


def picked_accuracy(
    pick: Pick,
    asked: Float[NDArray, "hypotheses n classes"],
    asked_labels: Int[NDArray, " n"],
    test: Float[NDArray, "hypotheses m classes"],
    labels: Int[NDArray, " m"],
    *,
    budget: int = 16,
    seed: int = 0,
) -> float:
    """Test accuracy, in [0, 1], of the hypothesis that a strategy picks, or of all averaged.

    "oracle" picks the best on the test data themselves, "ensemble" averages the hypotheses; the
    others `disambiguate` by `budget` labels of the examples `asked`.

    >>> said = np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.6, 0.4], [0.1, 0.9]]])
    >>> truth = np.array([0, 1])
    >>> [picked_accuracy(pick, said, truth, said, truth) for pick in ("oracle", "active")]
    [1.0, 1.0]
    """
    if pick == "ensemble":
        return accuracy(test.mean(0), labels)
    if pick == "oracle":
        return max(accuracy(each, labels) for each in test)
    answer = disambiguate(asked, asked_labels, strategy=pick, budget=budget, seed=seed)
    return accuracy(test[answer.chosen], labels)
