"""What a comparison allows to be said, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int
from scipy import stats

from generality.compare.leaderboard import Standing, winner

CONTROL = "label-smoothing"


def with_truth(
    standings: Sequence[Standing],
    rows: pd.DataFrame,
    report_truth: Int[np.ndarray, "seeds n"],
    label_names: Sequence[str],
) -> list[str]:
    """The winner, what choosing it cost, and how far to trust it."""
    best = max(standings, key=lambda each: each.score)
    won = next(each for each in standings if each.chosen)
    counts = np.bincount(report_truth.ravel(), minlength=len(label_names))
    majority = float(counts.max() / counts.sum())
    n = report_truth.shape[1]
    spread = math.sqrt(won.score * (1 - won.score) / n)
    said = [
        f"Saved: {won.method}, chosen by its mean accuracy on the select parts ({won.select:.3f}); "
        f"on the report parts it scored {won.score:.3f}. "
        + (
            "No method scored higher there."
            if best.score <= won.score
            else f"{best.method} scored highest there ({best.score:.3f}): choosing without looking "
            f"cost {best.score - won.score:.3f}."
        ),
        f"Chosen anew in each seed, the winner scored {seedwise(rows)['score'].mean():.3f}.",
        f"Always answering '{label_names[int(counts.argmax())]}' would score {majority:.3f}.",
        f"A report part has {n} rows, so an accuracy on one has a standard error of about "
        f"{spread:.3f}. Seeds draw their parts from the same rows: intervals over seeds say how "
        "much the split and the training matter, and are narrower than new data would show.",
    ]
    if won.score <= won.floor:
        said.insert(
            1,
            f"It does not beat the weak labels themselves ({won.floor:.3f}): keep labelling with "
            "the weak source, if it is at hand where the model would be used.",
        )
    if won.floor < majority:
        said.append(
            f"The weak labels ({won.floor:.3f}) are worse than always giving that answer; if they "
            "are probabilities or codes, check the order of the classes."
        )
    control = next((each for each in standings if each.method == CONTROL), None)
    if won.method == "naive" and len(standings) > 1:
        said.append(
            "Naive training won: what is gained comes from the student, not from a special loss."
        )
    elif control is not None and won is not control and won.score <= control.score:
        said.append(
            f"The winner does not beat the trivial control {CONTROL} ({control.score:.3f}): what "
            "it gains may be no more than softer labels."
        )
    return said


def of_update(standings: Sequence[Standing], rows: pd.DataFrame) -> list[str]:
    """How many of an old model's right answers were lost, and what keeping them cost."""
    won = next(each for each in standings if each.chosen)
    old = float(rows["old_score"].mean())
    said = [
        f"Saved: {won.method}. Among the methods within one standard error of the most accurate on "
        "the select parts it breaks fewest of the old model's right answers there.",
        f"On the report parts the old model scores {old:.3f} and {won.method} {won.score:.3f}. It "
        f"has wrong {won.measures['negative_flips']:.1%} of all rows that the old model had right, "
        f"and right {won.measures['positive_flips']:.1%} that it had wrong. An update between "
        f"these accuracies has to break {max(0.0, old - won.score):.1%}.",
    ]
    for rival in ("naive", "distill-average"):
        each = next((each for each in standings if each.method == rival), None)
        if each is not None and each is not won:
            said.append(
                f"{rival} scores {each.score:.3f} and breaks {each.measures['negative_flips']:.1%}."
            )
    if won.score < old:
        said.append(
            "The update is less accurate than the old model: keep the old one, or find more labels."
        )
    return said


def without_truth(
    standings: Sequence[Standing],
    saved: str,
    weak: Int[np.ndarray, " known"],
    truth: Int[np.ndarray, " known"],
    fewest: int,
) -> list[str]:
    """What can and cannot be concluded when too few true labels are known.

    Args:
        standings: of the methods.
        saved: the method that is saved.
        weak: weak classes of the rows that do have truth.
        truth: their true classes.
        fewest: rows with truth from which on something is measured.
    """
    closest = max(standings, key=lambda each: each.measures["agreement"])
    said = [
        f"There are true labels for {len(truth)} rows, fewer than the {fewest} from which on "
        "accuracy is measured: no score, floor or ceiling is known."
        if len(truth)
        else "There are no true labels: no score, floor or ceiling is known.",
        "What can be concluded: how closely each student repeats the weak labels on rows it has "
        f"not seen (closest: {closest.method}, {closest.measures['agreement']:.3f}).",
        "What cannot: which method is most accurate, or whether any beats the weak labels. A "
        "student that corrects its teacher agrees with it less, and so does one that is simply "
        "worse; agreement and likelihood rank imitation, not accuracy.",
        f"Saved by default: {saved}. {DEFAULTS.get(saved, 'It is the first method asked for.')}",
        f"To rank the methods, label {fewest} rows or more (any rows, drawn at random) and run "
        "this again with --label.",
    ]
    if len(truth):
        right = int((weak == truth).sum())
        low, high = stats.binomtest(right, len(truth)).proportion_ci()
        said.insert(
            1,
            f"On the rows with truth the weak labels are right in {right} of {len(truth)} "
            f"({right / len(truth):.3f}, 95 % interval {low:.3f} to {high:.3f}).",
        )
    return said


DEFAULTS = {
    "confidence-0.5": (
        "Without truth nothing can be tuned, and its mix of the weak labels with the student's own "
        "confident guesses keeps a student from copying its teacher's errors when it trains long."
    ),
    "naive": "Without truth nothing can be tuned, and it assumes least.",
}
"""Methods saved when nothing can be measured, the first that ran, each with the reason. On movie
reviews (1200 texts, hashed words teaching MiniLM probes, 5 seeds) confidence-0.5 scored .663
against .626 for naive training over 10 epochs, and .667 against .672 over 2: little to lose."""


def seedwise(rows: pd.DataFrame) -> pd.DataFrame:
    """For each seed the row of the method that its own select part chooses.

    Unlike the overall winner, which is chosen on the select parts of all seeds, this choice has
    seen no row of the report part it is scored on.
    """
    own = [part[part["method"] == winner(part)] for _, part in rows.groupby("seed")]
    return pd.concat(own)
