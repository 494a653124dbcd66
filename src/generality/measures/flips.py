"""What an update broke and what it mended."""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats

from generality.measures.predictions import Predictions, same_length


@dataclass(frozen=True)
class FlipReport:
    """What changed between an old and a new model on the same examples.

    Attributes:
        negative: share of all examples, in [0, 1], that the old model had right and the new one
            has wrong.
        positive: share that the old one had wrong and the new one has right.
        mcnemar_p: exact two-sided McNemar p of "breaking is as likely as mending"; 1 if nothing
            changed.
        floor: the least `negative` that any update between these two accuracies can have,
            max(0, accuracy of the old − accuracy of the new). negative − positive is the loss in
            accuracy, so an update that gains could break nothing at all; what `negative` has
            above the floor is churn, however good the accuracy.
    """

    negative: float
    positive: float
    mcnemar_p: float
    floor: float


def flip_report(old: Predictions, new: Predictions, truth: Predictions) -> FlipReport:
    """How many examples an update broke and mended, and how many it had to break.

    Args:
        old: class ids (n,) or probabilities (n, classes) of the model before; likewise the others.
        new: of the model after, on the same examples.
        truth: the true classes.

    Raises:
        ValueError: for shapes that do not fit together, or no examples.

    Source: Yan et al. 2021 (arXiv 2011.09161), negative flip rate; McNemar 1947.

    >>> flip_report(old=[0, 0, 1, 1], new=[0, 1, 0, 0], truth=[0, 1, 0, 1])
    FlipReport(negative=0.25, positive=0.5, mcnemar_p=1.0, floor=0.0)
    """
    before, after, true = same_length(old=old, new=new, truth=truth)
    n = len(true)
    if n == 0:
        raise ValueError("there are no examples to compare the two models on")
    was_right, is_right = before == true, after == true
    broken = int((was_right & ~is_right).sum())
    mended = int((~was_right & is_right).sum())
    changed = broken + mended
    p = float(stats.binomtest(broken, changed).pvalue) if changed else 1.0
    return FlipReport(broken / n, mended / n, p, max(0, broken - mended) / n)
