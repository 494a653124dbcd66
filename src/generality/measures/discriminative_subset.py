"""The questions of an exam that tell models apart best, by item response theory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize
from scipy.special import expit

_SPREAD = 0.5  # standard deviation of log alpha a priori


@dataclass(frozen=True)
class ItemResponse:
    """A fitted two-parameter logistic model, P(correct) = σ(alpha_j (theta_i − beta_j)).

    Attributes:
        indices: the k most discriminative items, largest alpha first.
        alpha: discrimination of each item, > 0.
        beta: difficulty of each item.
        theta: ability of each respondent.
    """

    indices: Int[np.ndarray, " k"]
    alpha: Float[np.ndarray, " items"]
    beta: Float[np.ndarray, " items"]
    theta: Float[np.ndarray, " respondents"]


def discriminative_subset(
    correct: Bool[np.ndarray, "respondents items"] | Float[np.ndarray, "respondents items"],
    k: int,
) -> ItemResponse:
    """The k items whose discrimination alpha is largest, from who answered what correctly.

    A short exam of these items orders respondents nearly as the whole one does. Respondents are
    models, checkpoints, or one model with 0, 1, 2 examples in context; a dozen is the least that
    says something. The two-parameter model is fitted to the maximum a posteriori, with
    alpha ~ lognormal(0, 0.5) and beta, theta ~ N(0, 1); ties keep the items' order.

    Source: Liu et al. 2024 (arXiv 2406.19227), section 3.2, who keep 40 of about 100 items by a
    Bayesian fit; the priors are ours.

    Args:
        correct: 1 or True where a respondent answered an item correctly; NaN where it was not
            asked.
        k: items to keep, from 1 to their number.

    Raises:
        ValueError: not a matrix of 0, 1 and NaN, or a k out of range.

    >>> rng = np.random.default_rng(0)
    >>> ability, alpha = rng.normal(size=(40, 1)), np.array([4.0, 4.0, 0.2, 0.2])
    >>> correct = rng.random((40, 4)) < 1 / (1 + np.exp(-alpha * ability))
    >>> sorted(discriminative_subset(correct, 2).indices.tolist())
    [0, 1]
    """
    answers = np.asarray(correct, dtype=float)
    known = ~np.isnan(answers)
    if answers.ndim != 2 or not np.isin(answers[known], (0.0, 1.0)).all():
        raise ValueError("correct is a matrix of 0, 1 and NaN: respondents by items")
    people, items = answers.shape
    if not 1 <= k <= items:
        raise ValueError(f"k is from 1 to the number of items, {items}, not {k}")
    answers = np.where(known, answers, 0.0)

    def split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return x[:people], x[people : people + items], x[people + items :]

    def negative_log_posterior(x: np.ndarray) -> tuple[float, np.ndarray]:
        theta, beta, log_alpha = split(x)
        alpha, away = np.exp(log_alpha), theta[:, None] - beta
        z = alpha * away
        fit = known * (answers * z - np.logaddexp(0, z))
        left = known * (answers - expit(z))  # what the model leaves unexplained
        prior = (theta @ theta + beta @ beta + log_alpha @ log_alpha / _SPREAD**2) / 2
        gradient = np.concatenate(
            [
                theta - left @ alpha,
                beta + alpha * left.sum(0),
                log_alpha / _SPREAD**2 - alpha * (left * away).sum(0),
            ]
        )
        return float(prior - fit.sum()), gradient

    rate = (answers.sum(1) + 1) / (known.sum(1) + 2)
    start = np.concatenate([np.log(rate / (1 - rate)), np.zeros(2 * items)])
    found = optimize.minimize(negative_log_posterior, start, jac=True, method="L-BFGS-B")
    theta, beta, log_alpha = split(found.x)
    order = np.argsort(-np.round(log_alpha, 6), kind="stable")
    return ItemResponse(order[:k], np.exp(log_alpha), beta, theta)


def item_information(
    alpha: Float[np.ndarray, " items"] | float,
    beta: Float[np.ndarray, " items"] | float,
    theta: Float[np.ndarray, " items"] | float,
) -> Float[np.ndarray, " items"]:
    """Fisher information about theta of a two-parameter item: alpha² P (1 − P).

    >>> item_information(2.0, 0.5, 1.0).round(6).item()
    0.786448
    """
    p = expit(np.asarray(alpha) * (np.asarray(theta) - np.asarray(beta)))
    return np.asarray(alpha) ** 2 * p * (1 - p)
