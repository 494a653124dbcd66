"""Weak to strong where one class is rare: a supervisor of words, students on a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from generality.benchmarks.class_shares import evened
from generality.estimators.soft_probe import SoftProbe
from generality.objectives import ConfidenceLoss
from generality.selection import filter_weak_labels


def rare_class_ladder(
    texts: Sequence[str],
    x: Float[np.ndarray, "n dim"],
    y: Int[np.ndarray, " n"],
    *,
    supervised: int,
    transfer: int,
    test: int,
    strength: float = 1.0,
    keep: float = 0.5,
    epochs: int = 10,
    rate: float = 3e-4,
    seed: int = 0,
) -> dict[str, Any]:
    """What a supervisor, its students and the ceiling say of the same test texts.

    All weigh classes evenly, or they would find few of the rare class at all. Floor: logistic
    regression on words, taught by true labels. Students, linear on `x`, learn what it says of other
    texts: "naive", from labels that it is sure of ("filter"; "balanced-filter" within each class)
    and with the confidence loss. Ceiling: true labels of the same. "constant": never the rare one.

    Args:
        texts: of two classes.
        x: what the strong model makes of each.
        y: 1 for the rare class.
        supervised: texts for the supervisor, at most a third of all.
        transfer: texts it labels, at most half of the rest.
        test: texts, at most.
        strength: C of the supervisor: how closely it fits its labels.
        keep: share of weak labels that the filters keep.
        epochs: of students and ceiling.
        rate: of learning, AdamW in batches of 32. What a weak model of rare cases says hardly
            varies, and a rate of 1e-2 on hundreds of features is too coarse for it: students fit
            such labels worse than one answer to all would.
        seed: of the draw and of students.

    Returns:
        "truth" (test,), and class probabilities (test, 2) as "floor", "ceiling" and by student.
    """
    rows = np.random.default_rng(seed).permutation(len(texts))
    few = min(supervised, len(texts) // 3)
    known, rest = rows[:few], rows[few:]
    labelled, held = np.split(rest[: transfer + test], [min(transfer, len(rest) // 2)])
    weak = make_pipeline(
        TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=strength, class_weight="balanced")
    )
    weak.fit([texts[row] for row in known], y[known])
    soft, floor = (weak.predict_proba([texts[row] for row in part]) for part in (labelled, held))

    def taught(rows: np.ndarray, targets: np.ndarray, objective: Any = None) -> np.ndarray:
        rows = rows[evened(targets[rows].argmax(1))]
        probe = SoftProbe(
            fit_intercept=True, epochs=epochs, learning_rate=rate, random_state=seed,
            objective=objective,
        )  # fmt: skip
        said: np.ndarray = probe.fit(x[labelled][rows], targets[rows]).predict_proba(x[held])
        return said

    everything = np.arange(len(labelled))
    return {
        "truth": y[held],
        "floor": floor,
        "ceiling": taught(everything, np.eye(2)[y[labelled]]),
        "naive": taught(everything, soft),
        "filter": taught(filter_weak_labels(soft, top_frac=keep, per_class=False), soft),
        "balanced-filter": taught(filter_weak_labels(soft, top_frac=keep), soft),
        "confidence": taught(everything, soft, ConfidenceLoss(alpha_max=0.5)),
        "constant": np.tile([1.0, 0.0], (len(held), 1)),
    }
