"""How far a classifier's probabilities can be believed, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from generality.measures.accuracy import accuracy
from generality.measures.aurc import aurc, excess_aurc
from generality.measures.calibration import ece
from generality.measures.proper_scores import brier, nll, temperature_scale


@dataclass(frozen=True)
class CalibrationReport:
    """Accuracy, likelihood, calibration and ranking of errors; see the functions of these names.

    `ece` is with ten groups of equal width, as most papers have it.
    """

    accuracy: float
    nll: float
    brier: float
    ece: float
    aurc: float
    excess_aurc: float


def calibration_report(
    probabilities: Float[Any, "n classes"], truth: Int[Any, " n"]
) -> CalibrationReport:
    """All of it at once.

    Raises:
        ValueError: for no examples, or shapes that do not fit together.

    >>> round(calibration_report([[0.9, 0.1], [0.8, 0.2]], [0, 1]).brier, 3)
    0.65
    """
    said, true = np.asarray(probabilities, dtype=float), np.asarray(truth)
    return CalibrationReport(
        nll=nll(said, true),
        accuracy=accuracy(said, true),
        brier=brier(said, true),
        ece=ece(said, true, binning="width"),
        aurc=aurc(said, true),
        excess_aurc=excess_aurc(said, true),
    )


def temperature_scaled(
    probabilities: Float[Any, "n classes"],
    held_out: Float[Any, "m classes"],
    held_out_truth: Int[Any, " m"],
) -> Float[np.ndarray, "n classes"]:
    """Probabilities at the temperature that makes held-out labels likeliest.

    >>> held, labels = [[0.99, 0.01]] * 4, [0, 0, 0, 1]
    >>> temperature_scaled([[0.99, 0.01]], held, labels).round(2).tolist()
    [[0.75, 0.25]]
    """
    logits = [
        np.log(np.maximum(np.asarray(each, float), 1e-12)) for each in (probabilities, held_out)
    ]
    temperature = temperature_scale(logits[1], held_out_truth)
    scaled: np.ndarray = special.softmax(logits[0] / temperature, axis=1)
    return scaled
