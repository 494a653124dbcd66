"""Weak labels from several sources, averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from jaxtyping import Float, Int

from generality.benchmarks import encode_labels
from generality.estimators import combine_soft_labels
from generality.measures import ensemble_diversity


def listed(asked: str | Sequence[str] | None, known: Sequence[str] = ()) -> list[str]:
    """Names that may be given as a list or separated by commas; a known name is taken whole.

    >>> listed("ann,bob"), listed("yes,no", known=["yes,no"]), listed(["ann", "bob,cy"])
    (['ann', 'bob'], ['yes,no'], ['ann', 'bob', 'cy'])
    """
    given = [asked] if isinstance(asked, str) else list(asked or [])
    names = [part for name in given for part in ([name] if name in known else name.split(","))]
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def class_names(data: Dataset, columns: Sequence[str]) -> list[str]:
    """The classes of several columns of labels together, in their natural order."""
    if len(columns) == 1:
        return encode_labels(data, columns[0])[1]
    values = [value for column in columns for value in data[column]]
    return encode_labels(Dataset.from_dict({"weak": values}), "weak")[1]


def averaged(
    members: Sequence[Float[np.ndarray, "rows classes"]],
) -> Float[np.ndarray, "rows classes"]:
    """The mean of the sources' distributions: for classes, the share of sources that name each."""
    return combine_soft_labels(np.stack(members), "prob")


def about_sources(
    names: Sequence[str],
    members: Float[np.ndarray, "sources rows classes"],
    truth: Int[np.ndarray, " rows"],
) -> list[str]:
    """Sentences about how differently the sources label; accuracy where truth (≥ 0) is known."""
    apart = ensemble_diversity(members).disagreement
    said = [
        f"The weak labels average {len(names)} sources ({', '.join(names)}); two of them name "
        f"different classes in {apart:.0%} of the rows."
    ]
    known = truth >= 0
    if known.sum() < 2:
        return said
    found = ensemble_diversity(members[:, known], truth[known])
    right = (members[:, known].argmax(-1) == truth[known]).mean(1)
    together = (averaged(list(members))[known].argmax(-1) == truth[known]).mean()
    correlated = (
        ""
        if math.isnan(found.error_correlation)
        else f" Their errors correlate by {found.error_correlation:.2f} (1: they err together, and "
        "averaging gains nothing)."
    )
    said.append(
        f"On the {known.sum()} rows with truth a source is right in {right.mean():.3f} on average, "
        f"the best ({names[int(right.argmax())]}) in {right.max():.3f}, their average in "
        f"{together:.3f}.{correlated}"
    )
    return said
