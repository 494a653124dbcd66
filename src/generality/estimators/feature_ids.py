"""Class numbers by the plainest classifiers over frozen features, to be kept as steps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from generality.benchmarks import MultiDomain


def logistic_ids(
    known: Float[np.ndarray, "n dim"],
    labels: Int[np.ndarray, " n"],
    seen: Float[np.ndarray, "m dim"],
    *,
    strength: float = 0.01,
) -> Int[np.ndarray, " m"]:
    """Classes by logistic regression on standardised features.

    Args:
        strength: C of scikit-learn, the inverse of the penalty.

    >>> logistic_ids(np.array([[0.0], [1.0]]), np.array([0, 1]), np.array([[0.1], [0.8]]))
    array([0, 1])
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    return np.asarray(fitted.fit(known, labels).predict(seen))


def own_domain_ids(known: MultiDomain, seen: MultiDomain) -> Int[np.ndarray, " m"]:
    """`logistic_ids` of each domain's examples, trained on others of the same domain: a ceiling.

    Args:
        known: features, with labels.
        seen: features of the same domains; their labels are not looked at.

    >>> known = MultiDomain(np.array([[0.0], [1.0], [0.0], [1.0]]), np.array([0, 1, 1, 0]),
    ...                     np.array([0, 0, 1, 1]), ("no", "yes"), ("here", "there"))
    >>> own_domain_ids(known, known)
    array([0, 1, 1, 0])
    """
    found = np.zeros(len(seen), np.int64)
    for name in seen.domain_names:
        rows, mine = known.rows(name), seen.rows(name)
        if len(mine):
            features = np.asarray(known.inputs)[rows], np.asarray(seen.inputs)[mine]
            found[mine] = logistic_ids(features[0], known.labels[rows], features[1])
    return found


def nearest_mean_ids(
    known: Float[np.ndarray, "n dim"],
    labels: Int[np.ndarray, " n"],
    seen: Float[np.ndarray, "m dim"],
) -> Int[np.ndarray, " m"]:
    """Classes by the cosine to the mean feature of each class.

    >>> nearest_mean_ids(np.eye(2), np.array([3, 5]), np.array([[0.2, 0.9]]))
    array([5])
    """
    classes = np.unique(labels)
    means = np.stack([known[labels == label].mean(0) for label in classes])
    cosines = seen @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    return np.asarray(classes[cosines.argmax(1)])
