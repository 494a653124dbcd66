"""Predictions as class ids, whether they come as ids or as probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Real
from numpy.typing import NDArray

Predictions = Real[Any, " n"] | Real[Any, "n classes"] | Sequence[Any]
"""Class ids (n,), or scores of which the highest is the prediction (n, classes)."""


def class_ids(predictions: Any, name: str = "predictions") -> Int[NDArray[np.int64], " n"]:
    """The predicted class of each example; ties go to the lower class.

    Args:
        predictions: class ids (n,), or probabilities, or logits (n, classes); an array, a list, a
            Series or a CPU tensor.
        name: what to call them in an error.

    Raises:
        ValueError: for any other shape, or values that are missing or no class ids.

    >>> class_ids([[0.2, 0.8], [0.9, 0.1]]), class_ids([1, 0])
    (array([1, 0]), array([1, 0]))
    """
    values = np.asarray(predictions)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] == 0):
        raise ValueError(f"{name} are (n,) class ids or (n, classes), not {values.shape}")
    if not np.issubdtype(values.dtype, np.number) and values.dtype != bool:
        raise ValueError(f"{name} are numbers, not {values.dtype}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contain values that are not finite")
    if values.ndim == 2:
        return values.argmax(1)
    if (values != np.round(values)).any():
        raise ValueError(f"{name} of one dimension are class ids; give probabilities as (n, 2)")
    return values.astype(np.int64)


def same_length(**groups: Any) -> list[Int[NDArray[np.int64], " n"]]:
    """`class_ids` of each group.

    Raises:
        ValueError: their lengths differ, or there is nothing.
    """
    ids = [class_ids(values, name) for name, values in groups.items()]
    if len({len(each) for each in ids}) > 1:
        lengths = ", ".join(f"{len(i)} {name}" for name, i in zip(groups, ids, strict=True))
        raise ValueError(f"predictions and truth are of the same examples; there are {lengths}")
    return ids
