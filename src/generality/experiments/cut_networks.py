"""Networks of one hidden layer on a table: boosted or trained whole, then cut unit by unit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from generality.benchmarks.feature_tables import Divided
from generality.estimators.gradient_boosted_head import (
    GradientBoostedHead,
    GradientBoostedHeadRegressor,
)
from generality.measures import truncation_curve
from generality.modules import TruncatableMLP


def boosted_and_cut(
    parts: Divided, *, units: int, units_per_step: int, kept: Sequence[float] = (), seed: int = 0,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Test scores of a network boosted a few units at a time.

    Args:
        parts: of a table.
        units: hidden units, a multiple of `units_per_step`.
        units_per_step: trained at a time.
        kept: shares of units to keep.
        seed: of the network, and of the random order.
        options: further ones of `GradientBoostedHead`.

    Returns:
        "whole": accuracy, or R². "in_order" and "in_random_order": the same at each share of units
        kept, the first in training order. "merge_error": the largest difference between the merged
        network and the sum of its steps.

    >>> from generality.benchmarks.feature_tables import divided, feature_table
    >>> parts = divided(*feature_table("wine"), regression=False)
    >>> found = boosted_and_cut(parts, units=8, units_per_step=2, kept=(0.5,), max_iter=10)
    >>> found["whole"] > 0.9, found["merge_error"] < 1e-10
    (True, True)
    """
    head = (GradientBoostedHeadRegressor if parts.regression else GradientBoostedHead)(
        total_units=units, units_per_step=units_per_step, random_state=seed, **options
    ).fit(parts.train, parts.y_train)
    network = head.to_torch()
    order = np.random.default_rng(seed).permutation(units // units_per_step)
    last = head.predict(parts.test) if parts.regression else head.decision_function(parts.test)
    scale = 2 if getattr(head, "loss_", "") == "binary" else 1
    merged = network(torch.as_tensor(parts.test)).detach().numpy()
    return {
        "whole": _scores(network, parts, [1.0])[0],
        "in_order": _scores(network, parts, kept),
        "in_random_order": _scores(network.reordered(order), parts, kept),
        "merge_error": float(np.abs(merged.reshape(last.shape) - scale * last).max()),
    }


def joint_and_cut(
    parts: Divided, *, units: int, solver: str, max_iter: int, kept: Sequence[float] = (),
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Test scores of a network trained as a whole, whose units go by their output weights.

    Args:
        parts: of a table.
        units: hidden units.
        solver: of scikit-learn's `MLPClassifier`: "adam", "lbfgs" or "sgd".
        max_iter: epochs in batches of 64, or iterations of L-BFGS.
        kept: shares of units to keep, those with the largest weights.
        seed: of the network.

    Returns:
        "whole": accuracy, or R². "zeros" and "means": the same at each share of units kept, with
        the others at 0 or at their mean over the training part.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    model = (MLPRegressor if parts.regression else MLPClassifier)(
        hidden_layer_sizes=(units,), activation="logistic", solver=solver, max_iter=max_iter,
        batch_size=min(64, len(parts.train)), random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(parts.train, parts.y_train)
    means = expit(parts.train @ model.coefs_[0] + model.intercepts_[0]).mean(0)
    order = np.argsort(-np.linalg.norm(model.coefs_[1], axis=1), kind="stable")
    zeros = TruncatableMLP.from_sklearn(model, order=order)
    filled = TruncatableMLP.from_sklearn(model, order=order, means=torch.as_tensor(means))
    return {
        "whole": _scores(zeros, parts, [1.0])[0],
        "zeros": _scores(zeros, parts, kept),
        "means": _scores(filled, parts, kept),
    }


def linear_score(parts: Divided) -> float:
    """Test accuracy of logistic, or R² of ridge regression, as scikit-learn sets them."""
    from sklearn.linear_model import LogisticRegression, Ridge

    model = Ridge() if parts.regression else LogisticRegression(max_iter=1000)
    return float(model.fit(parts.train, parts.y_train).score(parts.test, parts.y_test))


def _scores(network: TruncatableMLP, parts: Divided, kept: Sequence[float]) -> list[float]:
    """Test accuracy, or R², at each share of units kept."""
    from sklearn.metrics import r2_score

    metric = (lambda outputs, y: r2_score(y, outputs[:, 0])) if parts.regression else None
    curve = truncation_curve(network, parts.test, parts.y_test, kept, metric=metric)
    return [point.value for point in curve]
