"""Several weak supervisors whose soft labels are combined into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from generality.estimators.weak_to_strong import has_views, probabilities, seeded
from generality.measures.ensemble_diversity import EnsembleDiversity, ensemble_diversity

Combine = Literal["prob", "logit", "vote"]
_LEAST = 1e-30  # a probability of 0 as a logarithm sees it
_APART = 1009  # between the seeds of members, so that seeds 0, 1, 2, … share none


def combine_soft_labels(
    members: Float[Any, "members *n classes"], combine: Combine = "prob"
) -> Float[NDArray[np.float64], "*n classes"]:
    """One distribution out of several.

    Args:
        members: each member's class probabilities.
        combine: "prob" is the mean of probabilities, "logit" the softmax of the mean of
            log-probabilities (a geometric mean, which one member's zero decides), "vote" the share
            of members whose most probable class it is.

    Raises:
        ValueError: no member, or an unknown `combine`.

    >>> members = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]]
    >>> [combine_soft_labels(members, how).round(3).tolist() for how in ("prob", "logit", "vote")]
    [[0.55, 0.45], [0.578, 0.422], [0.5, 0.5]]
    """
    said = np.asarray(members, dtype=np.float64)
    if combine not in get_args(Combine):
        raise ValueError(f"combine is {' or '.join(get_args(Combine))}, not '{combine}'")
    if said.ndim < 2 or not len(said):
        raise ValueError(f"there is no member in an array of shape {said.shape}")
    if combine == "prob":
        return np.asarray(said.mean(0))
    if combine == "vote":
        return np.asarray(np.eye(said.shape[-1])[said.argmax(-1)].mean(0))
    logs = np.log(np.maximum(said, _LEAST))
    return np.asarray(softmax(logs.mean(0), axis=-1))


class SoftLabelEnsemble(ClassifierMixin, BaseEstimator):
    """Several classifiers, fitted apart, whose soft labels are averaged.

    As the `weak` of `WeakToStrong` it makes the supervisor an ensemble. Every member may see
    features of its own: then X is a list with one matrix a member, or one list of texts (the
    questions, each with that member's debate).

    Args:
        models: unfitted classifiers; they are cloned, and member i gets `random_state` + 1009·i, so
            that the first is what it would be alone. A single classifier and a number of
            `members` makes copies that differ by seed only.
        members: how many copies of a single classifier.
        combine: see `combine_soft_labels`; the paper averages probabilities.
        random_state: an int.

    Attributes:
        classes_: the labels, in the order of the columns of `predict_proba`.
        models_: the fitted members.

    Raises:
        ValueError: no model, an unknown `combine`, or not one matrix a member.

    Source: Lang et al. 2025 (arXiv 2501.13124), section on ensembles.

    >>> from generality.estimators import SoftProbe
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 4))
    >>> y = (X.sum(1) > 0).astype(int)
    >>> views = [X[:, :2], X[:, 2:]]  # each member reads half of the features
    >>> ensemble = SoftLabelEnsemble([SoftProbe(), SoftProbe()]).fit(views, y)
    >>> ensemble.predict_proba(views).shape, round(ensemble.diversity(views, y).member_accuracy, 1)
    ((200, 2), 0.8)
    """

    def __init__(
        self, models: Any, *, members: int = 1, combine: Combine = "prob", random_state: int = 0
    ) -> None:
        self.models = models
        self.members = members
        self.combine = combine
        self.random_state = random_state

    def fit(self, X: Any, y: Shaped[Any, " n"]) -> SoftLabelEnsemble:
        """Fit every member on the same labels, and on its own features where X is a list."""
        several = isinstance(self.models, Sequence)
        models = list(self.models) if several else [self.models] * self.members
        if not models:
            raise ValueError("an ensemble needs a model")
        combine_soft_labels(np.ones((1, 1, 1)), self.combine)  # an unknown one is said now
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        self.models_ = [
            seeded(model, self.random_state + _APART * i).fit(own, codes)
            for i, (model, own) in enumerate(zip(models, _views(X, len(models)), strict=True))
        ]
        return self

    def member_probabilities(self, X: Any) -> Float[NDArray[np.float64], "members n classes"]:
        """Each member's class probabilities."""
        check_is_fitted(self)
        classes = len(self.classes_)
        views = _views(X, len(self.models_))
        return np.stack(
            [probabilities(m, own, classes) for m, own in zip(self.models_, views, strict=True)]
        )

    def predict_proba(self, X: Any) -> Float[NDArray[np.float64], "n classes"]:
        """The combined soft labels."""
        return combine_soft_labels(self.member_probabilities(X), self.combine)

    def predict(self, X: Any) -> Shaped[NDArray[Any], " n"]:
        """The most probable class."""
        labels: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(1)]
        return labels

    def diversity(self, X: Any, y: Shaped[Any, " n"] | None = None) -> EnsembleDiversity:
        """How differently the members answer; see `ensemble_diversity`."""
        truth = None if y is None else np.searchsorted(self.classes_, np.asarray(y))
        return ensemble_diversity(self.member_probabilities(X), truth)


def _views(X: Any, members: int) -> list[Any]:
    if not has_views(X):
        return [X] * members
    if len(X) != members:
        raise ValueError(f"{members} members, but {len(X)} views of the examples")
    return list(X)
