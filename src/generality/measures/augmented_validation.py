"""Accuracy on strongly changed validation inputs, category by category."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from generality.measures.accuracy import accuracy

Predict = Callable[[Any], Float[np.ndarray, "n classes"] | Int[np.ndarray, " n"]]


class Bank(Protocol):
    """What crafts the copies: `generality.benchmarks.AugmentationBank` or a like thing."""

    @property
    def names(self) -> tuple[str, ...]:
        """The categories."""

    def craft(self, inputs: Any, category: str) -> Any:
        """A changed copy of every input."""


def augmented_validation(
    predict: Predict,
    inputs: Any,
    labels: Int[np.ndarray, " n"],
    bank: Bank,
    *,
    categories: Sequence[str] | None = None,
) -> pd.DataFrame:
    """How a model does on copies of validation inputs changed in each category's way.

    V_A of the paper is the mean over categories, `table["accuracy"].mean()`, so that a category
    with many operations counts no more than others. For an honest number the inputs are held out,
    and the categories are none that the model was trained on.

    Args:
        predict: from inputs to class probabilities (n, classes) or classes (n,).
        inputs: validation inputs, as the bank takes them.
        labels: their true classes, which the changes are taken to keep.
        bank: crafts the copies.
        categories: those to measure; None for all of the bank.

    Returns:
        Columns `category` and `accuracy`, in [0, 1]; one row for each category.

    Raises:
        ValueError: no inputs, or not as many as labels.

    Source: Efthymiadis et al. 2024 (arXiv 2409.19774), section 3.

    >>> from generality.benchmarks import table_bank
    >>> X = np.random.default_rng(0).normal(size=(400, 2)); y = (X[:, 0] > 0).astype(int)
    >>> table = augmented_validation(lambda X: X[:, 0] > 0, X, y, table_bank(X))
    >>> table.round(2).values.tolist()
    [['noise', 0.87], ['lost columns', 0.9], ['moved columns', 0.98]]
    """
    if not len(labels) or len(labels) != len(inputs):
        raise ValueError(f"{len(inputs)} inputs and {len(labels)} labels cannot be compared")
    names = bank.names if categories is None else categories
    return by_category({name: predict(bank.craft(inputs, name)) for name in names}, labels)


def by_category(
    predictions: dict[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    labels: Int[np.ndarray, " n"],
) -> pd.DataFrame:
    """The same table from predictions that are there already, (n, classes) or (n,) by category."""
    rows = [
        (name, accuracy(said, labels) if said.ndim == 2 else float(np.mean(said == labels)))
        for name, said in dict(predictions).items()
    ]
    return pd.DataFrame(rows, columns=["category", "accuracy"])
