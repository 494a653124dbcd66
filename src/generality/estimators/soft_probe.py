"""A linear probe that learns from soft labels with any objective."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Real, Shaped
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from generality.lab.replicate import replicate, soft_targets_loss, zero_head

_SUM_TOLERANCE = 1e-3


class SoftProbe(ClassifierMixin, BaseEstimator):
    """Softmax regression on standardised features, trained with AdamW on any objective.

    Targets may be class labels or soft targets, so that a weaker model's probabilities can be
    learned from. The weights start at 0; training follows `generality.lab.replicate`.

    Args:
        objective: loss(logits (B, K), soft targets (B, K), progress in [0, 1]) -> scalar, as in
            `generality.objectives`; None is cross-entropy.
        learning_rate: of AdamW, constant. A step moves a logit by up to learning_rate · Σ|x|: with
            hundreds of features and soft labels that hardly vary, 1e-3 or less.
        epochs: passes over the examples.
        batch_size: examples per step.
        weight_decay: decoupled.
        fit_intercept: also learn a bias per class.
        random_state: seed of the order of the examples.

    Attributes:
        classes_: (K,) the labels; 0 … K−1 when fitted on soft targets.
        coef_: (K, d) weights on the standardised features.
        intercept_: (K,) biases; 0 without `fit_intercept`.
        mean_: (d,) of the training features.
        scale_: (d,) their standard deviations; 1 for a constant feature.
        losses_: (epochs,) mean training loss.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 5))
    >>> weak = np.where(X[:, :1] > 0, [[0.3, 0.7]], [[0.7, 0.3]])
    >>> probe = SoftProbe(epochs=20).fit(X, weak)
    >>> bool(probe.score(X, X[:, 0] > 0) > 0.95), probe.predict_proba(X).shape
    (True, (200, 2))
    """

    takes_soft_targets = True

    def __init__(
        self,
        *,
        objective: Callable[..., Any] | None = None,
        learning_rate: float = 1e-2,
        epochs: int = 10,
        batch_size: int = 32,
        weight_decay: float = 0.0,
        fit_intercept: bool = False,
        random_state: Any = 0,
    ) -> None:
        self.objective = objective
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.fit_intercept = fit_intercept
        self.random_state = random_state

    def fit(
        self, X: Float[Any, "n d"], y: Shaped[Any, " n"] | Float[Any, "n classes"]
    ) -> SoftProbe:
        """Learn from labels or soft targets.

        Args:
            X: features.
            y: class labels (n,), or soft targets (n, K): rows in [0, 1] that sum to 1.

        Warns (ConvergenceWarning) where cross-entropy ends above the ln K that it began with:
        `learning_rate` is too high.

        Raises:
            ValueError: for shapes, features or targets that do not fit.
        """
        X = validate_data(self, X, dtype=np.float32)
        targets = self._targets(y)
        if len(targets) != len(X):
            raise ValueError(f"X and y are of the same examples, not {len(X)} and {len(targets)}")
        self.mean_, self.scale_ = moments(X)
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        head = functools.partial(zero_head, X.shape[1], targets.shape[1], self.fit_intercept)
        trained = replicate(
            lambda _seed: head(),
            standardised(X, self.mean_, self.scale_),
            targets,
            seeds=[int(seed)],
            loss=self.objective or soft_targets_loss,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            epochs=self.epochs,
            batch_size=self.batch_size,
        )
        self.coef_ = trained.parameters["weight"][0].numpy().copy()
        self.intercept_ = np.zeros(len(self.coef_), dtype=np.float32)
        if self.fit_intercept:
            self.intercept_ = trained.parameters["bias"][0].numpy().copy()
        self.losses_ = trained.losses[0].numpy().copy()
        began = np.log(targets.shape[1])  # of the zero start
        if self.objective is None and self.losses_[-1] > began:
            warnings.warn(
                f"the loss ended at {self.losses_[-1]:.3f}, above the {began:.3f} it began with: "
                "lower learning_rate",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def predict_proba(self, X: Float[Any, "n d"]) -> Float[NDArray[np.float64], "n classes"]:
        """Probability of each class, in the order of `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        features = (X.astype(np.float64) - self.mean_) / self.scale_
        probabilities: NDArray[np.float64] = softmax(
            features @ self.coef_.T.astype(np.float64) + self.intercept_, axis=1
        )
        return probabilities

    def predict(self, X: Float[Any, "n d"]) -> Shaped[NDArray[Any], " n"]:
        """The most probable class of each example."""
        best = self.predict_proba(X).argmax(1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def _targets(self, y: Any) -> Float[NDArray[np.float32], "n classes"]:
        if y is None:
            raise ValueError("SoftProbe requires y to be passed, but the target y is None")
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] > 1:
            soft = check_array(y, dtype=np.float32, input_name="y")
            if (soft < 0).any() or (np.abs(soft.sum(1) - 1) > _SUM_TOLERANCE).any():
                raise ValueError("soft targets are rows of probabilities in [0, 1] that sum to 1")
            self.classes_ = np.arange(soft.shape[1])
            return soft
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        return np.eye(len(self.classes_), dtype=np.float32)[codes]


def standardised(
    features: Real[Any, "n d"], mean: Float[Any, " d"], scale: Float[Any, " d"]
) -> Float[NDArray[np.float32], "n d"]:
    """(features − mean) / scale, in float32; `moments` gives the two."""
    result = np.subtract(features, mean, dtype=np.float32)
    result /= scale.astype(np.float32)
    return result


def moments(
    features: Float[NDArray[Any], "n d"],
) -> tuple[Float[NDArray[np.float64], " d"], Float[NDArray[np.float64], " d"]]:
    """Mean and standard deviation of each feature; 1 instead of a deviation of (nearly) 0.

    Features of which most entries are exactly zero (word counts) are not centred and share one
    scale: divided by deviations of their own, the rarest words would speak loudest.

    >>> moments(np.array([[1.0, 5.0], [3.0, 5.0]]))
    (array([2., 5.]), array([1., 1.]))
    >>> moments(np.array([[0.0, 3.0], [0.0, 0.0], [0.0, 0.0]]))[1].round(3)
    array([1.118, 1.118])
    """
    if 2 * np.count_nonzero(features) < features.size:
        common = float(np.std(features, dtype=np.float64)) or 1.0
        return np.zeros(features.shape[1]), np.full(features.shape[1], common)
    mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    scale[scale <= 1e-6 * np.abs(mean)] = 1.0
    return mean, scale


def probe_beliefs(
    X: Float[NDArray, "n features"],
    y: Shaped[NDArray, " n"],
    Z: Float[NDArray, "m features"],
    *,
    classes: int = 2,
    seed: int = 0,
) -> Float[NDArray, "m classes"]:
    """Class probabilities of Z by a `SoftProbe` trained on X and its class numbers y.

    A function of arrays, to be kept: `lab.step(probe_beliefs, X, y, Z)`.

    >>> X = np.array([[-1.0], [-2.0], [1.0], [2.0]] * 8)
    >>> probe_beliefs(X, (X[:, 0] > 0).astype(int), X[:4]).argmax(1)
    array([0, 0, 1, 1])
    """
    found: NDArray = SoftProbe(random_state=seed).fit(X, np.eye(classes)[y]).predict_proba(Z)
    return found
