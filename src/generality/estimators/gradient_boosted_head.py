"""A one-hidden-layer network grown a few units at a time by gradient boosting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from generality.modules.truncatable_mlp import TruncatableMLP

Loss = Literal["squared", "binary", "multiclass"]
Layers = tuple[NDArray, NDArray, NDArray, NDArray]

MAX_STEP = 10.0  # of Newton's step length: it grows without bound as residuals vanish


class _GradientBoosted(BaseEstimator):
    """What the classifier and the regressor share; see `GradientBoostedHead`."""

    def __init__(
        self,
        *,
        total_units: int = 200,
        units_per_step: int = 1,
        learning_rate: float = 0.1,
        subsample: float = 0.5,
        max_iter: int = 200,
        alpha: float = 1e-4,
        standardize: bool = True,
        device: str | None = None,
        random_state: Any = 0,
    ) -> None:
        self.total_units = total_units
        self.units_per_step = units_per_step
        self.learning_rate = learning_rate
        self.subsample = subsample
        self.max_iter = max_iter
        self.alpha = alpha
        self.standardize = standardize
        self.device = device
        self.random_state = random_state

    def _boost(self, X: NDArray, targets: NDArray, start: NDArray, loss: Loss) -> None:
        """Grow the network on features (n, d) and targets (n, K) from the constant `start` (K,)."""
        if (
            self.units_per_step < 1
            or self.total_units < 1
            or self.total_units % self.units_per_step
        ):
            raise ValueError(
                f"total_units={self.total_units} is no multiple of "
                f"units_per_step={self.units_per_step}"
            )
        if not 0 < self.subsample <= 1:
            raise ValueError(f"subsample is a share in (0, 1], not {self.subsample}")
        mean, scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
        if self.standardize:
            mean, scale = X.mean(0), X.std(0)
            scale[scale <= 1e-12 * np.abs(mean)] = 1.0
        Z = (X - mean) / scale
        rng = check_random_state(self.random_state)
        taken = max(1, math.ceil(self.subsample * len(Z)))
        F = np.tile(start, (len(Z), 1))
        pieces: list[Layers] = []
        biases, steps, losses = [start], [], [mean_loss(loss, targets, F)]
        for _ in range(self.total_units // self.units_per_step):
            residuals = pseudo_residuals(loss, targets, F)
            rows = rng.permutation(len(Z))[:taken]
            W, b, V, c = fit_units(
                Z[rows], residuals[rows], self.units_per_step, alpha=self.alpha,
                max_iter=self.max_iter, random_state=rng, device=self.device,
            )  # fmt: skip
            f = expit(Z @ W + b) @ V + c
            rho = self.learning_rate * step_length(loss, targets, F, f)
            F = F + rho * f
            pieces.append((W / scale[:, None], b - (mean / scale) @ W, rho * V, rho * c))
            biases.append(biases[-1] + rho * c)
            steps.append(rho)
            losses.append(mean_loss(loss, targets, F))
        self.hidden_weights_ = np.concatenate([W.T for W, _, _, _ in pieces])
        self.hidden_biases_ = np.concatenate([b for _, b, _, _ in pieces])
        self.output_weights_ = np.concatenate([V for _, _, V, _ in pieces]).T
        self.partial_biases_ = np.array(biases)
        self.steps_, self.losses_ = np.array(steps), np.array(losses)
        self.n_iter_ = len(steps)

    def _staged(self, X: Any) -> Iterator[NDArray]:
        """F (n, K) after 0, 1, …, T steps."""
        hidden = self._hidden(X)
        J = self.units_per_step
        total = np.zeros((len(hidden), len(self.output_weights_)))
        for t, bias in enumerate(self.partial_biases_):
            piece = slice(max(t - 1, 0) * J, t * J)
            total = total + hidden[:, piece] @ self.output_weights_[:, piece].T
            yield total + bias

    def _raw(self, X: Any) -> NDArray:
        return self._hidden(X) @ self.output_weights_.T + self.partial_biases_[-1]

    def _hidden(self, X: Any) -> NDArray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        hidden: NDArray = expit(X @ self.hidden_weights_.T + self.hidden_biases_)
        return hidden

    def to_torch(self, dtype: torch.dtype = torch.float64) -> TruncatableMLP:
        """The same model as one network, from raw features to outputs, units in training order.

        Its outputs are the regression's value (n, 1), the logit of the second class (n, 1), or one
        logit per class (n, K). `active_units` keeps the first units of it.
        """
        check_is_fitted(self)
        two = 2.0 if getattr(self, "loss_", "") == "binary" else 1.0  # p = 1/(1 + exp(−2F))
        units, dim = self.hidden_weights_.shape
        outputs = len(self.output_weights_)
        hidden = nn.Linear(dim, units, dtype=dtype)
        output = nn.Linear(units, outputs, dtype=dtype)
        with torch.no_grad():
            hidden.weight.copy_(torch.as_tensor(self.hidden_weights_))
            hidden.bias.copy_(torch.as_tensor(self.hidden_biases_))
            output.weight.copy_(torch.as_tensor(two * self.output_weights_))
        biases = torch.as_tensor(two * self.partial_biases_, dtype=dtype)
        return TruncatableMLP(hidden, output, biases)


class GradientBoostedHead(ClassifierMixin, _GradientBoosted):
    """A classifier on features: one hidden layer, boosted `units_per_step` sigmoid units at a time.

    Each step fits a few hidden units to the pseudo-residuals of the logistic (two classes) or
    softmax loss by L-BFGS, takes Newton's step length on all examples, and adds the result,
    shrunk by `learning_rate`. What comes out is one ordinary network (`to_torch`) whose units are
    ordered by when they were trained, so that the last ones can be switched off at test time.

    Source: Emami and Martínez-Muñoz 2023, "Sequential Training of Neural Networks with Gradient
    Boosting" (IEEE Access 11; arXiv 1909.12098), algorithm 1. Differences: the released base
    learner, scikit-learn's `MLPRegressor`, averages its loss over outputs and sums its gradient,
    which misleads the line search when there are three classes or more; here the two agree. The
    subsample follows `random_state` (the released one does not). Step lengths are at most 10.

    Args:
        total_units: hidden units in all, a multiple of `units_per_step`; the paper uses 200.
        units_per_step: units fitted together, the paper's J.
        learning_rate: shrinkage η of each step; 0.025 to 1 in the paper, whose default is 1.
        subsample: share of examples each step sees, drawn without replacement.
        max_iter: L-BFGS iterations of each step.
        alpha: L2 penalty on a step's weights, divided by its number of examples.
        standardize: fit on features of mean 0 and deviation 1; folded into the weights kept.
        device: torch device the steps are fitted on; None is numpy on the CPU.
        random_state: seed of the subsamples and initial weights.

    Attributes:
        classes_: (K,) the labels.
        hidden_weights_: (units, d), hidden_biases_: (units,).
        output_weights_: (outputs, units), with the step lengths in them; one output for 2 classes.
        partial_biases_: (steps + 1, outputs), the output bias after each step.
        steps_: (steps,) learning rate times step length.
        losses_: (steps + 1,) mean training loss after each step, in nats.

    >>> X = np.random.default_rng(0).normal(size=(300, 4))
    >>> y = (X[:, 0] * X[:, 1] > 0).astype(int)
    >>> head = GradientBoostedHead(total_units=30, learning_rate=0.5).fit(X, y)
    >>> bool(head.score(X, y) > 0.85)
    True
    >>> network = head.to_torch()
    >>> network.active_units = 15
    >>> network(torch.as_tensor(X)).shape
    torch.Size([300, 1])
    """

    def fit(self, X: Float[Any, "n d"], y: Shaped[Any, " n"]) -> GradientBoostedHead:
        """Learn from labels. Raises ValueError for one class only, or features that do not fit."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        count = len(self.classes_)
        if count < 2:
            raise ValueError(f"{type(self).__name__} needs two classes or more; y has 1 class")
        self.loss_: Loss = "binary" if count == 2 else "multiclass"
        if count == 2:
            signs = 2.0 * codes[:, None] - 1
            self._boost(X, signs, 0.5 * np.log((1 + signs.mean(0)) / (1 - signs.mean(0))), "binary")
        else:
            self._boost(X, np.eye(count)[codes], np.zeros(count), "multiclass")
        return self

    def decision_function(self, X: Float[Any, "n d"]) -> Float[NDArray[np.float64], "n ..."]:
        """F: half the logit of the second class (n,), or one logit per class (n, K)."""
        raw = self._raw(X)
        return raw[:, 0] if self.loss_ == "binary" else raw

    def predict_proba(self, X: Float[Any, "n d"]) -> Float[NDArray[np.float64], "n classes"]:
        """Probability of each class, in the order of `classes_`."""
        return self._probabilities(self._raw(X))

    def predict(self, X: Float[Any, "n d"]) -> Shaped[NDArray[Any], " n"]:
        """The most probable class of each example."""
        return self._labels(self._raw(X))

    def staged_predict_proba(self, X: Float[Any, "n d"]) -> Iterator[NDArray[np.float64]]:
        """`predict_proba` with the units of the first 0, 1, …, T steps."""
        return map(self._probabilities, self._staged(X))

    def staged_predict(self, X: Float[Any, "n d"]) -> Iterator[NDArray[Any]]:
        """`predict` with the units of the first 0, 1, …, T steps."""
        return map(self._labels, self._staged(X))

    def _probabilities(self, raw: NDArray) -> NDArray[np.float64]:
        if self.loss_ == "binary":
            positive = expit(2 * raw)
            return np.concatenate([1 - positive, positive], axis=1)
        probabilities: NDArray[np.float64] = softmax(raw, axis=1)
        return probabilities

    def _labels(self, raw: NDArray) -> NDArray[Any]:
        best = (raw[:, 0] > 0).astype(int) if self.loss_ == "binary" else raw.argmax(1)
        labels: NDArray[Any] = self.classes_[best]
        return labels


class GradientBoostedHeadRegressor(RegressorMixin, _GradientBoosted):
    """`GradientBoostedHead` for a number: squared loss, starting from the mean, step length 1.

    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> head = GradientBoostedHeadRegressor(total_units=20, learning_rate=0.5)
    >>> bool(head.fit(X, np.sin(X[:, 0])).score(X, np.sin(X[:, 0])) > 0.9)
    True
    """

    def fit(self, X: Float[Any, "n d"], y: Float[Any, " n"]) -> GradientBoostedHeadRegressor:
        """Learn from numbers. Raises ValueError for features or targets that do not fit."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        targets = np.asarray(y, dtype=np.float64)[:, None]
        self._boost(X, targets, targets.mean(0), "squared")
        return self

    def predict(self, X: Float[Any, "n d"]) -> Float[NDArray[np.float64], " n"]:
        """The value of each example."""
        return self._raw(X)[:, 0]

    def staged_predict(self, X: Float[Any, "n d"]) -> Iterator[NDArray[np.float64]]:
        """`predict` with the units of the first 0, 1, …, T steps."""
        return (raw[:, 0] for raw in self._staged(X))


def mean_loss(loss: Loss, targets: NDArray, F: NDArray) -> float:
    """Mean loss of scores F (n, K): half the squared error, or nats; targets as `step_length`'s."""
    if loss == "squared":
        return float(((targets - F) ** 2).mean() / 2)
    if loss == "binary":
        return float(np.logaddexp(0, -2 * targets * F).mean())
    return float((np.logaddexp.reduce(F, axis=1) - (targets * F).sum(1)).mean())


def pseudo_residuals(
    loss: Loss, targets: Float[NDArray, "n outputs"], F: Float[NDArray, "n outputs"]
) -> Float[NDArray, "n outputs"]:
    """Minus the gradient of the loss in F: what a boosting step is fitted to."""
    if loss == "squared":
        return targets - F
    if loss == "binary":
        return 2 * targets * expit(-2 * targets * F)
    residuals: NDArray = targets - softmax(F, axis=1)
    return residuals


def step_length(
    loss: Loss,
    targets: Float[NDArray, "n outputs"],
    F: Float[NDArray, "n outputs"],
    f: Float[NDArray, "n outputs"],
) -> float:
    """Newton's step from F along f, one number for all classes; 0 where f does nothing, at most 10.

    Args:
        loss: "squared" (the step is 1), "binary" (ln(1 + exp(−2yF))) or "multiclass" (softmax).
        targets: numbers (n, 1), signs ±1 (n, 1), or one-hot (n, K).
        F: scores so far.
        f: what the new units say.
    """
    if loss == "squared":
        return 1.0
    residuals = pseudo_residuals(loss, targets, F)
    if loss == "binary":
        curvature = np.abs(residuals) * (2 - np.abs(residuals))
    else:
        probabilities = softmax(F, axis=1)
        curvature = probabilities * (1 - probabilities)
    slope, bend = float((residuals * f).sum()), float((curvature * f * f).sum())
    return float(np.clip(slope / bend, -MAX_STEP, MAX_STEP)) if bend > 1e-300 else 0.0


def fit_units(
    X: Float[NDArray, "n d"],
    targets: Float[NDArray, "n outputs"],
    units: int,
    *,
    alpha: float,
    max_iter: int,
    random_state: np.random.RandomState,
    device: str | None = None,
) -> Layers:
    """Least squares by `units` sigmoid units: weights (d, J), biases (J,), and (J, K), (K,).

    The initial weights and the penalty are those of scikit-learn's `MLPRegressor`: uniform within
    ±√(2/(inputs + outputs)), and alpha/2n times the squared weights.
    """
    (n, d), K = X.shape, targets.shape[1]
    bounds = math.sqrt(2 / (d + units)), math.sqrt(2 / (units + K))
    start = np.concatenate(
        [
            random_state.uniform(-bounds[0], bounds[0], size=d * units + units),
            random_state.uniform(-bounds[1], bounds[1], size=units * K + K),
        ]
    )
    cuts = np.cumsum([d * units, units, units * K])

    def parts(flat: Any) -> tuple[Any, Any, Any, Any]:
        W, b, V, c = (flat[i:j] for i, j in zip([0, *cuts], [*cuts, None], strict=True))
        return W.reshape(d, units), b, V.reshape(units, K), c

    inputs: Any = X
    wanted: Any = targets
    sigmoid: Any = expit
    if device is not None:
        inputs, wanted = (torch.as_tensor(a, device=device) for a in (X, targets))
        sigmoid = torch.sigmoid

    def objective(flat: NDArray) -> tuple[float, NDArray]:
        where = flat if device is None else torch.as_tensor(flat, device=device)
        W, b, V, c = parts(where)
        hidden = sigmoid(inputs @ W + b)
        off = (hidden @ V + c - wanted) / n
        back = (off @ V.T) * hidden * (1 - hidden)
        slopes = (
            inputs.T @ back + alpha / n * W, back.sum(0), hidden.T @ off + alpha / n * V, off.sum(0)
        )  # fmt: skip
        value = 0.5 * n * (off * off).sum() + alpha / (2 * n) * ((W * W).sum() + (V * V).sum())
        flat_slopes = [np.asarray(s if device is None else s.cpu()).ravel() for s in slopes]
        return float(value), np.concatenate(flat_slopes)

    found = minimize(
        objective, start, jac=True, method="L-BFGS-B",
        options={"maxiter": max_iter, "ftol": 0.0, "gtol": 1e-12},
    )  # fmt: skip
    return parts(found.x)
