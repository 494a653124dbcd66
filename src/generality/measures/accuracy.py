"""Accuracy, and the hard labels it looks at."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from generality.measures.predictions import Predictions, same_length


def accuracy(predictions: Predictions, truth: Predictions) -> float:
    """Share of examples, in [0, 1], whose predicted class is the true one.

    Args:
        predictions: class ids (n,) or probabilities (n, classes).
        truth: likewise.

    Raises:
        ValueError: for shapes that do not fit together.

    >>> accuracy([[0.2, 0.8], [0.9, 0.1]], [1, 1])
    0.5
    """
    said, true = same_length(predictions=predictions, truth=truth)
    return float((said == true).mean())


def harden(probabilities: Float[Any, "*n classes"]) -> Float[np.ndarray, "*n classes"]:
    """All the probability on the most probable class; ties go to the lower class.

    >>> harden(np.array([[0.2, 0.8], [0.9, 0.1]]))
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    """
    given = np.asarray(probabilities)
    return np.eye(given.shape[-1], dtype=np.float32)[given.argmax(-1)]
