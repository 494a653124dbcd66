"""Train on one domain, test on every other: all pairs, and how much accuracy swings over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from generality.measures.accuracy import accuracy

Predict = Callable[[Any], np.ndarray]


def single_source_matrix(
    train: Callable[[Any, np.ndarray], Predict], domains: Mapping[str, tuple[Any, np.ndarray]]
) -> pd.DataFrame:
    """Accuracy on each domain (columns) of what was trained on each (rows); NaN on the diagonal.

    Column "mean" is over the targets; "fluctuation" is their standard deviation, 0 where all
    targets come out alike. Source: Zhang et al. 2023 (arXiv 2301.12643), single-source protocol.

    Args:
        train: from inputs and class numbers of one domain to a function from inputs to class
            probabilities, (n, classes).
        domains: inputs and class numbers of two domains or more, by name.

    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(200) % 2
    >>> blobs = {shift: labels[:, None] * 2 + rng.normal(size=(200, 2)) + shift for shift in (0, 9)}
    >>> domains = {f"at {shift}": (points, labels) for shift, points in blobs.items()}
    >>> train = lambda x, y: LogisticRegression().fit(x, y).predict_proba
    >>> single_source_matrix(train, domains)["mean"].round(1).tolist()
    [0.5, 0.5]
    """
    if len(domains) < 2:
        raise ValueError("a matrix of sources and targets needs two domains")
    table = pd.DataFrame(np.nan, index=list(domains), columns=list(domains))
    for source in domains:
        predict = train(*domains[source])
        for target, (inputs, labels) in domains.items():
            if target != source:
                table.loc[source, target] = accuracy(predict(inputs), labels)
    return table.assign(mean=table.mean(axis=1), fluctuation=table.std(axis=1, ddof=0))
