"""Small tables of numbers with classes or numbers to predict, standardised and divided."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from generality.errors import unknown

NUMBERS = ("diabetes", "friedman1")
"""Tables whose labels are numbers, of mean 0 and deviation 1; the others' are class ids."""


class Divided(NamedTuple):
    """A table's training and test part, features standardised on the former."""

    train: Float[np.ndarray, "n d"]
    y_train: Shaped[np.ndarray, " n"]
    test: Float[np.ndarray, "m d"]
    y_test: Shaped[np.ndarray, " m"]
    regression: bool


def feature_table(name: str) -> tuple[Float[np.ndarray, "n d"], Shaped[np.ndarray, " n"]]:
    """Features and labels of a data set.

    Args:
        name: "breast-cancer", "wine", "digits" or "diabetes", which scikit-learn ships,
            "friedman1", which it generates (600 rows), or "openml:NAME", which it fetches.

    Raises:
        UserError: for another name.

    >>> X, y = feature_table("wine")
    >>> X.shape, sorted(set(y.tolist()))
    ((178, 13), [0, 1, 2])
    """
    from sklearn import datasets

    if name.startswith("openml:"):
        table = datasets.fetch_openml(name.removeprefix("openml:"), as_frame=False, parser="auto")
        return np.asarray(table.data, dtype=np.float64), np.unique(table.target, False, True)[1]
    packaged = {
        "breast-cancer": datasets.load_breast_cancer, "wine": datasets.load_wine,
        "digits": datasets.load_digits, "diabetes": datasets.load_diabetes,
    }  # fmt: skip
    if name == "friedman1":
        X, y = datasets.make_friedman1(n_samples=600, noise=1.0, random_state=0)
    elif name in packaged:
        X, y = packaged[name](return_X_y=True)
    else:
        raise unknown("data set", name, [*packaged, "friedman1", "openml:NAME"])
    return X, (y - y.mean()) / y.std() if name in NUMBERS else y


def divided(
    X: Float[np.ndarray, "n d"],
    y: Shaped[np.ndarray, " n"],
    *,
    regression: bool,
    train_share: float = 0.7,
    seed: int = 0,
) -> Divided:
    """The table in two parts, classes at their shares; features standardised on the first.

    >>> parts = divided(*feature_table("wine"), regression=False)
    >>> parts.train.shape, parts.test.shape, bool(np.allclose(parts.train.std(0), 1))
    ((124, 13), (54, 13), True)
    """
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    train, test, y_train, y_test = train_test_split(
        X, y, train_size=train_share, random_state=seed, stratify=None if regression else y
    )
    scaler = StandardScaler().fit(train)
    return Divided(scaler.transform(train), y_train, scaler.transform(test), y_test, regression)
