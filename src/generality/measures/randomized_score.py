"""What a model still scores after a group of its inputs is shuffled across examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.stats import rankdata

Score = Callable[[NDArray, NDArray], float]


@dataclass(frozen=True)
class RandomizedScores:
    """A model's score as it is, and with groups of its inputs shuffled.

    Attributes:
        standard: nothing shuffled.
        randomized: group -> score with this group shuffled; chance level means that only it is
            used, no change that it is not needed.
        complement: group -> score with everything but this group shuffled.
    """

    standard: float
    randomized: dict[str, float]
    complement: dict[str, float]

    def reliance(self, group: str) -> float:
        """How much is lost without the group."""
        return self.standard - self.randomized[group]

    def index(self, group: str) -> float:
        """`simplicity_bias_index` with this group as the simple one."""
        return simplicity_bias_index(self.standard, self.randomized[group], self.complement[group])


def randomized_score(
    model: Callable[[NDArray], Any],
    inputs: Any,
    labels: Int[Any, " n"],
    groups: Mapping[str, Any],
    *,
    metric: str | Score = "auc",
    rotation: Float[Any, "d d"] | None = None,
    repeats: int = 1,
    seed: int = 0,
) -> RandomizedScores:
    """Score a model with each group of its inputs shuffled jointly across the examples.

    `sklearn.inspection.permutation_importance` for groups: all entries of a group move together by
    one permutation over all examples (not within a class, which would leak the label), so what the
    group says as a whole is broken from the label and its inner structure is kept. A group can be
    columns of a table, a block of an image, hidden units (with the rest of the network as model)
    or the segments of a prompt (an object array of strings).

    Args:
        model: from inputs like `inputs` to scores (n,) or logits (n, 2) (their difference counts);
            for metrics other than "auc", to whatever the metric takes.
        inputs: (n, ...) array; a tensor is turned into one, and the model gets a float32 array.
        labels: (n,) classes; 0 and 1 for "auc".
        groups: name -> where the group is in one example: what can index it, such as a list of
            columns, a boolean mask of the example's shape or `np.s_[:, :14]` for rows of an image.
        metric: "auc", "accuracy" or a function of (labels, what the model returned).
        rotation: Q, if inputs are Z·Q with orthonormal Q and the groups are columns of Z.
        repeats: permutations to average over.
        seed: of the permutations.

    Raises:
        ValueError: for shapes or options that do not fit.

    Source: Shah et al. 2020 (arXiv 2006.07710), section 3, definition of S-randomised metrics.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, 1000)
    >>> X = np.stack([labels + rng.normal(0, 0.1, 1000), 2 * labels, rng.normal(size=1000)], 1)
    >>> scores = randomized_score(lambda X: X[:, 0], X, labels, {"used": [0], "rest": [1, 2]})
    >>> scores.standard, abs(scores.randomized["used"] - 0.5) < 0.05, scores.randomized["rest"]
    (1.0, True, 1.0)
    >>> scores.index("used")
    1.0
    """
    given = np.asarray(inputs)
    truth = np.asarray(labels)
    if given.ndim < 2 or truth.shape != (len(given),):
        raise ValueError(f"inputs (n, ...) and labels (n,), not {given.shape} and {truth.shape}")
    if repeats < 1:
        raise ValueError(f"repeats is at least 1, not {repeats}")
    turn = None if rotation is None else np.asarray(rotation)
    if turn is not None and turn.shape != (given.shape[-1], given.shape[-1]):
        raise ValueError(f"a rotation of {given.shape[-1]} columns, not {turn.shape}")
    measure = _METRICS[metric] if isinstance(metric, str) else metric
    straight = given if turn is None else given @ turn.T

    def score(masks: list[NDArray]) -> float:
        rng = np.random.default_rng(seed)
        found = []
        for mask in masks:
            for _ in range(repeats):
                mixed = np.where(mask, straight[rng.permutation(len(straight))], straight)
                mixed = mixed if turn is None else mixed @ turn
                found.append(measure(truth, _outputs(model, mixed)))
        return float(np.mean(found))

    where = {name: _mask(name, place, given.shape[1:]) for name, place in groups.items()}
    return RandomizedScores(
        standard=float(measure(truth, _outputs(model, given))),
        randomized={name: score([mask]) for name, mask in where.items()},
        complement={name: score([~mask]) for name, mask in where.items()},
    )


def simplicity_bias_index(standard: float, randomized: float, complement: float) -> float:
    """Share of a model's skill that hangs on the simple features: 1 only they, 0 they are ignored.

    (A − A_S) / ((A − A_S) + (A − A_Sᶜ)), where A is the score, A_S the score with the simple
    features S shuffled and A_Sᶜ with all others shuffled. Losses below 0 (shuffling helped) count
    as 0; NaN where shuffling either loses nothing.

    >>> simplicity_bias_index(1.0, 0.5, 1.0), simplicity_bias_index(1.0, 0.75, 0.75)
    (1.0, 0.5)
    """
    simple, rest = max(standard - randomized, 0.0), max(standard - complement, 0.0)
    return simple / (simple + rest) if simple + rest > 0 else math.nan


def roc_auc(labels: Int[Any, " n"], scores: Float[Any, " n"]) -> float:
    """Probability that an example of class 1 scores above one of class 0; ties count half.

    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    positive = np.asarray(labels) == 1
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if ones == 0 or zeros == 0:
        raise ValueError("the area under the ROC curve needs examples of class 0 and of class 1")
    ranks = rankdata(np.asarray(scores, float))
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _auc(labels: NDArray, outputs: NDArray) -> float:
    if outputs.ndim == 2:
        if outputs.shape[1] != 2:
            raise ValueError(f"'auc' is for two classes; the model returned {outputs.shape}")
        outputs = outputs[:, 1] - outputs[:, 0]
    return roc_auc(labels, outputs)


def _accuracy(labels: NDArray, outputs: NDArray) -> float:
    said = outputs.argmax(1) if outputs.ndim == 2 else outputs > 0
    return float((said == labels).mean())


_METRICS: dict[str, Score] = {"auc": _auc, "accuracy": _accuracy}


def _outputs(model: Callable[[NDArray], Any], inputs: NDArray) -> NDArray:
    floats = np.issubdtype(inputs.dtype, np.floating)
    outputs = model(inputs.astype(np.float32) if floats else inputs)
    return np.asarray(outputs.detach().cpu() if hasattr(outputs, "detach") else outputs)


def _mask(name: str, place: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[place] = True
    if not mask.any():
        raise ValueError(f"group '{name}' is empty")
    return mask
