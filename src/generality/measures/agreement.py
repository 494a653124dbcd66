"""How much a student repeats its supervisor, errors included."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from generality.measures.predictions import Predictions, same_length


@dataclass(frozen=True)
class Agreement:
    """Shares in [0, 1] of the examples on which student and supervisor say the same.

    Attributes:
        overall: of all examples.
        where_right: of those on which the supervisor is right.
        where_wrong: of those on which it is wrong: the share of its errors that the student
            repeats exactly (another wrong class is not a repetition).

    A share of an empty group is NaN.
    """

    overall: float
    where_right: float
    where_wrong: float


def student_supervisor_agreement(
    student: Predictions, supervisor: Predictions, truth: Predictions | None = None
) -> Agreement:
    """Whether a student trained on a supervisor's labels copies its errors.

    A student that generalizes beyond its supervisor agrees with it much more where it is right
    than where it is wrong; one that imitates it agrees alike on both.

    Args:
        student: class ids (n,) or probabilities (n, classes); likewise the others.
        supervisor: what it said of the same examples.
        truth: their true classes; without it only `overall` is known.

    Raises:
        ValueError: for shapes that do not fit together.

    Source: Burns et al. 2023 (arXiv 2312.09390), section 5.1.3.

    >>> student_supervisor_agreement([0, 0, 1, 1], [0, 1, 1, 0], truth=[0, 0, 1, 1])
    Agreement(overall=0.5, where_right=1.0, where_wrong=0.0)
    """
    if truth is None:
        said, told = same_length(student=student, supervisor=supervisor)
        return Agreement(_share(said == told), math.nan, math.nan)
    said, told, true = same_length(student=student, supervisor=supervisor, truth=truth)
    same, right = said == told, told == true
    return Agreement(_share(same), _share(same[right]), _share(same[~right]))


def _share(group: np.ndarray) -> float:
    return float(group.mean()) if len(group) else math.nan
