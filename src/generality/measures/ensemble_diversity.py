"""How differently the members of an ensemble answer."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from generality.measures.operator_diversity import jensen_shannon


@dataclass(frozen=True)
class EnsembleDiversity:
    """Averages over all pairs of members.

    Attributes:
        disagreement: share in [0, 1] of the examples on which two members name different classes.
        error_correlation: Pearson's correlation in [−1, 1] of two members' errors (right or wrong
            by example); NaN without truth, or where no pair of members both have right and wrong
            answers. Members that err together are no better than one of them.
        member_accuracy: mean accuracy of a member; NaN without truth.
        js_divergence: Jensen-Shannon divergence of two members' probabilities, in nats, mean over
            examples, in [0, ln 2].
        q_statistic: Yule's Q of two members' being right, in [−1, 1]: 0 where they err
            independently, 1 where together; NaN as `error_correlation`.
        gain: accuracy of the mean of probabilities less `member_accuracy`; NaN without truth.
        ambiguity: mean squared distance of members from their mean: what the mean's Brier score is
            better by than the members' (Krogh and Vedelsby 1995).
    """

    disagreement: float
    error_correlation: float = math.nan
    member_accuracy: float = math.nan
    js_divergence: float = math.nan
    q_statistic: float = math.nan
    gain: float = math.nan
    ambiguity: float = math.nan


def ensemble_diversity(
    probabilities: Float[np.ndarray, "members n classes"],
    truth: Int[np.ndarray, " n"] | None = None,
) -> EnsembleDiversity:
    """Mean pairwise disagreement of an ensemble's members, and how far their errors coincide.

    Args:
        probabilities: each member's class probabilities of the same examples; two members or more.
        truth: the true classes.

    Raises:
        ValueError: fewer than two members, no example, probabilities that are no numbers, or truth
            of another length or not of class numbers.

    Source: Skalak 1996 (disagreement), Kuncheva and Whitaker 2003 (correlation).

    >>> said = np.eye(2)[[[0, 0, 1, 1], [0, 1, 1, 0]]]
    >>> found = ensemble_diversity(said, np.array([0, 0, 1, 0]))
    >>> found.disagreement, round(found.error_correlation, 3), found.member_accuracy
    (0.5, -0.333, 0.75)
    """
    said = np.asarray(probabilities)
    if said.ndim != 3 or len(said) < 2 or not said.shape[1]:
        raise ValueError(
            "diversity takes the probabilities (members, n, classes) of two members or more, not "
            f"an array of shape {said.shape}"
        )
    if not np.isfinite(said).all():
        raise ValueError("probabilities are finite numbers")
    classes = said.argmax(-1)
    pairs = list(itertools.combinations(range(len(classes)), 2))
    disagreement = float(np.mean([(classes[i] != classes[j]).mean() for i, j in pairs]))
    members = torch.tensor(said, dtype=torch.float64)
    divergences = [float(jensen_shannon(members[[i, j]]).mean()) for i, j in pairs]
    apart = float(np.mean([max(0.0, each) for each in divergences]))
    ambiguity = float(((said - said.mean(0)) ** 2).sum(-1).mean())
    if truth is None:
        return EnsembleDiversity(disagreement, js_divergence=apart, ambiguity=ambiguity)
    if len(truth) != classes.shape[1]:
        raise ValueError(f"{classes.shape[1]} examples, but true classes of {len(truth)}")
    if np.asarray(truth).dtype.kind not in "iuf":
        raise ValueError("true classes are numbers, those of the probabilities' last axis")
    wrong = classes != np.asarray(truth)
    mixed = [0 < errors.mean() < 1 for errors in wrong]
    correlations = [
        np.corrcoef(wrong[i], wrong[j])[0, 1] for i, j in pairs if mixed[i] and mixed[j]
    ]
    together = [_yule(~wrong[i], ~wrong[j]) for i, j in pairs if mixed[i] and mixed[j]]
    return EnsembleDiversity(
        disagreement,
        float(np.mean(correlations)) if correlations else math.nan,
        float(1 - wrong.mean()),
        apart,
        float(np.mean(together)) if together else math.nan,
        float((said.mean(0).argmax(-1) == np.asarray(truth)).mean() - (1 - wrong.mean())),
        ambiguity,
    )


def _yule(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> float:
    """Q of two members, of which each is sometimes right and sometimes wrong."""
    both, neither = (first & second).sum(), (~first & ~second).sum()
    one, other = (first & ~second).sum(), (~first & second).sum()
    return float((both * neither - one * other) / (both * neither + one * other))
