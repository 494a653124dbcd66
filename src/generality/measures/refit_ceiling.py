"""How well a linear head that knew the target's labels could do on the same features."""

from __future__ import annotations

from jaxtyping import Float, Int
from numpy.typing import NDArray


def refit_ceiling(
    features: Float[NDArray, "n dim"], labels: Int[NDArray, " n"], *, seed: int = 0
) -> float:
    """Accuracy, in [0, 1], of a linear head fitted to one half and scored on the other, both ways.

    The ceiling of methods that leave the features as they are and only read them anew, as most
    test-time adaptation does: what lies above it takes other features. The head is a logistic
    regression with scikit-learn's usual penalty on standardised features; halves keep the classes'
    shares.

    Args:
        features: of the target's examples.
        labels: their true classes; one with a single example is in one half only, with a warning.
        seed: of the halves.

    Raises:
        ValueError: fewer than two classes, or none with two examples.

    >>> import numpy as np
    >>> features = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> refit_ceiling(features, np.array([0, 0, 1, 1]))
    1.0
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.max() < 2:
        raise ValueError("two classes or more, and two examples or more of one of them")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    halves = StratifiedKFold(2, shuffle=True, random_state=seed)
    return float(cross_val_score(model, features, labels, cv=halves).mean())
