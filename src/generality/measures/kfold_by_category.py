"""Cross-validation over kinds of augmentation, so that the same kinds can train in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pandas as pd

Setting = Mapping[str, Any]


class Folded(Protocol):
    """What has categories that can be cut into folds: `generality.benchmarks.AugmentationBank`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The categories."""

    def folds(self, k: int) -> Sequence[Any]:
        """The bank in k parts with whole categories."""


def kfold_by_category(
    search_space: Sequence[Setting],
    evaluate: Callable[[Setting, tuple[str, ...], tuple[str, ...]], Mapping[str, float]],
    bank: Folded,
    *,
    k: int = 2,
) -> tuple[Setting, pd.DataFrame]:
    """Score every setting by accuracy on categories of changes that its training did not see.

    For each of k folds of the bank's categories: train with the categories of all other folds, and
    measure on this fold's. A setting's score is the mean over all categories. Where several are
    best, the middle one of them in the order given is taken. The model to ship is then trained
    with the best setting and *all* categories; accuracy of that model on them is no longer honest.

    Args:
        search_space: settings, in an order in which neighbours are alike (learning rates rising).
        evaluate: trains with a setting and the originals plus copies of the categories given
            first, and returns the accuracy on held-out copies of each category given second.
        bank: its categories, cut by `folds`.
        k: folds, 2 to the number of categories.

    Returns:
        The best setting, and a table with a row for each setting: its columns, one for each
        category, and `score`.

    Raises:
        ValueError: no setting, k < 2, or `evaluate` left out a category.

    Source: Efthymiadis et al. 2024 (arXiv 2409.19774), section 3, and its released selection.

    >>> from generality.benchmarks import text_bank
    >>> def evaluate(setting, trained, measured):
    ...     return {name: 1 - abs(setting["lr"] - 0.1) for name in measured}
    >>> best, table = kfold_by_category([{"lr": 0.01}, {"lr": 0.1}, {"lr": 1.0}],
    ...                                 evaluate, text_bank())
    >>> best, table["score"].round(2).tolist()
    ({'lr': 0.1}, [0.91, 1.0, 0.1])
    """
    if not search_space or k < 2:
        raise ValueError("there is at least one setting and k is at least 2")
    folds = [tuple(fold.names) for fold in bank.folds(k)]
    rows = []
    for setting in search_space:
        found: dict[str, float] = {}
        for measured in folds:
            trained = tuple(name for name in bank.names if name not in measured)
            values = evaluate(setting, trained, measured)
            found.update({name: float(values[name]) for name in measured if name in values})
        if missing := set(bank.names) - set(found):
            raise ValueError(f"no accuracy was given for {', '.join(sorted(missing))}")
        rows.append({**setting, **found, "score": sum(found.values()) / len(found)})
    table = pd.DataFrame(rows)
    best = table.index[table["score"] >= table["score"].max() - 1e-12]
    return search_space[int(best[(len(best) - 1) // 2])], table
