"""What an update broke and what it mended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Real
from scipy import stats

from generality.measures.predictions import Predictions, same_length


@dataclass(frozen=True)
class FlipReport:
    """What changed between an old and a new model on the same examples.

    All but the last three are shares of all examples, in [0, 1].

    Attributes:
        negative: the old model had them right and the new one has them wrong (negative flips, NFR).
        positive: the old one had them wrong and the new one has them right (PFR).
        both_right: both have them right.
        same_wrong: both give the same wrong answer.
        other_wrong: both are wrong, in different ways. These five sum to 1.
        mcnemar_p: exact two-sided McNemar p of "breaking is as likely as mending"; 1 if nothing
            changed.
        floor: the least `negative` that any update between these two accuracies can have,
            max(0, accuracy of the old − accuracy of the new). negative − positive is the loss in
            accuracy, so an update that gains could break nothing at all; what `negative` has
            above the floor is churn, however good the accuracy.
        interval: 95 % bootstrap interval of `negative` over examples (the ideal one: no draws).
    """

    negative: float
    positive: float
    both_right: float
    same_wrong: float
    other_wrong: float
    mcnemar_p: float
    floor: float
    interval: tuple[float, float]

    @property
    def old_accuracy(self) -> float:
        """Of the old model, in [0, 1]."""
        return self.both_right + self.negative

    @property
    def new_accuracy(self) -> float:
        """Of the new model, in [0, 1]."""
        return self.both_right + self.positive

    @property
    def inconsistent(self) -> float:
        """Share that the new model has wrong, and otherwise than the old one (NFR_mc)."""
        return self.negative + self.other_wrong

    @property
    def relative(self) -> float:
        """`negative` over what it would be if the two models erred independently of each other."""
        return relative_nfr(self.negative, self.old_accuracy, self.new_accuracy)

    @property
    def quadrants(self) -> dict[str, float]:
        """The shares of both right, mended, broken, both wrong; they sum to 1."""
        both_wrong = self.same_wrong + self.other_wrong
        return {
            "both right": self.both_right,
            "positive flip": self.positive,
            "negative flip": self.negative,
            "both wrong": both_wrong,
        }


def flip_report(old: Predictions, new: Predictions, truth: Predictions) -> FlipReport:
    """How many examples an update broke and mended, and how many it had to break.

    Args:
        old: class ids (n,), answers as texts (n,) or probabilities (n, classes) of the old model;
            likewise the others. Texts are one answer where they are the same, letter by letter.
        new: of the model after, on the same examples.
        truth: the true classes.

    Raises:
        ValueError: for shapes that do not fit together, or no examples.

    Source: Yan et al. 2021 (arXiv 2011.09161), negative flip rate; Echterhoff et al. 2024 (arXiv
    2407.09435), section 3, inconsistency and quadrants; McNemar 1947.

    >>> found = flip_report(old=[0, 0, 1, 1], new=[0, 1, 0, 0], truth=[0, 1, 0, 1])
    >>> found.negative, found.positive, found.floor, found.mcnemar_p
    (0.25, 0.5, 0.0, 1.0)
    """
    before, after, true = same_length(**_numbered({"old": old, "new": new, "truth": truth}))
    n = len(true)
    if n == 0:
        raise ValueError("there are no examples to compare the two models on")
    was_right, is_right = before == true, after == true
    broken = int((was_right & ~is_right).sum())
    mended = int((~was_right & is_right).sum())
    wrong, same = ~was_right & ~is_right, before == after
    changed = broken + mended
    low, high = (float(stats.binom.ppf(q, n, broken / n)) / n for q in (0.025, 0.975))
    return FlipReport(
        negative=broken / n,
        positive=mended / n,
        both_right=float((was_right & is_right).mean()),
        same_wrong=float((wrong & same).mean()),
        other_wrong=float((wrong & ~same).mean()),
        mcnemar_p=float(stats.binomtest(broken, changed).pvalue) if changed else 1.0,
        floor=max(0, broken - mended) / n,
        interval=(low, high),
    )


def _numbered(groups: dict[str, Any]) -> dict[str, Any]:
    """The same groups, with a number in the place of each text where all of them are texts."""
    told = {name: [*values] for name, values in groups.items()}
    if not all(isinstance(each, str) for values in told.values() for each in values):
        return groups
    numbers: dict[str, int] = {}
    return {
        name: [numbers.setdefault(text, len(numbers)) for text in values]
        for name, values in told.items()
    }


def flip_rows(
    old: Predictions, versions: Mapping[str, Predictions], truth: Predictions, *, plain: str
) -> list[dict[str, Any]]:
    """What every version of a new model broke and mended, as rows of a study or a table.

    Args:
        old: as in `flip_report`.
        versions: what each version of the new model says, by name.
        truth: as in `flip_report`.
        plain: the version that is the floor of all: the update one would have made anyway. Its own
            least possible flips are the ceiling.

    >>> versions = {"plain": [0, 1, 0], "ours": [0, 0, 0]}
    >>> rows = flip_rows([0, 0, 1], versions, [0, 0, 0], plain="plain")
    >>> [(row["method"], round(row["score"], 2), round(row["accuracy"], 2)) for row in rows]
    [('plain', 0.33, 0.67), ('ours', 0.0, 1.0)]
    """
    floor = flip_report(old, versions[plain], truth)
    rows = []
    for method, new in versions.items():
        found = flip_report(old, new, truth)
        both_wrong = found.same_wrong + found.other_wrong
        rows.append(
            {
                "method": method, "score": found.negative,
                "floor": floor.negative, "ceiling": floor.floor,
                "accuracy": found.new_accuracy, "old_accuracy": found.old_accuracy,
                "positive_flips": found.positive, "inconsistent": found.inconsistent,
                "relative_flips": found.relative, "mcnemar_p": found.mcnemar_p,
                "same_when_wrong": found.same_wrong / max(both_wrong, 1e-9),
            }
        )  # fmt: skip
    return rows


@dataclass(frozen=True)
class ScoreFlipReport:
    """What changed between two models in a score of each example, such as ROUGE.

    Attributes:
        negative: share of examples whose score fell, in [0, 1].
        positive: share whose score rose.
        gain: mean rise over those that rose, in the score's unit; NaN without any.
        regression: mean fall over those that fell, positive; NaN without any.
    """

    negative: float
    positive: float
    gain: float
    regression: float


def score_flip_report(
    old: Real[Any, " n"], new: Real[Any, " n"], *, tolerance: float = 0.0
) -> ScoreFlipReport:
    """How many examples an update made better and worse, by a score where higher is better.

    Args:
        old: each example's score under the model before.
        new: under the model after.
        tolerance: changes of at most this size count as none, ≥ 0; scores of texts move with every
            word.

    Raises:
        ValueError: no examples, unequal numbers of them, a score that is not finite, or a negative
            tolerance.

    Source: Echterhoff et al. 2024 (arXiv 2407.09435), section 3.

    >>> score_flip_report([0, 0, 0, 0, 0], [0.2, -0.1, 0, 0.3, -0.4])
    ScoreFlipReport(negative=0.4, positive=0.4, gain=0.25, regression=0.25)
    """
    before, after = np.asarray(old, dtype=float), np.asarray(new, dtype=float)
    if before.shape != after.shape or before.ndim != 1 or not len(before) or tolerance < 0:
        raise ValueError(
            f"scores are (n,) of the same examples and tolerance at least 0, not {before.shape}, "
            f"{after.shape} and {tolerance}"
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError("scores contain values that are not finite: leave these examples out")
    change = after - before
    up, down = change > tolerance, change < -tolerance
    return ScoreFlipReport(
        negative=float(down.mean()),
        positive=float(up.mean()),
        gain=float(change[up].mean()) if up.any() else math.nan,
        regression=float(-change[down].mean()) if down.any() else math.nan,
    )


def nfr_floor(old_accuracy: float, new_accuracy: float) -> float:
    """The least negative flip rate that an update between these accuracies can have.

    >>> nfr_floor(0.75, 0.5), nfr_floor(0.5, 0.75)
    (0.25, 0.0)
    """
    return max(0.0, old_accuracy - new_accuracy)


def relative_nfr(nfr: float, old_accuracy: float, new_accuracy: float) -> float:
    """A negative flip rate over that of two models whose errors are independent.

    That is nfr / (old_accuracy · (1 − new_accuracy)): 1 for no more agreement than chance, 0 for an
    update that breaks nothing; comparable between updates of different size, while the rate itself
    falls as the new model gets better. NaN where the product is 0.

    >>> round(relative_nfr(0.1, old_accuracy=0.5, new_accuracy=0.8), 6)
    1.0
    """
    chance = old_accuracy * (1 - new_accuracy)
    return nfr / chance if chance > 1e-12 else math.nan
