"""Linear models with interventions, invariance on them, and how many environments that takes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks.linear_sem import LinearSEM, random_sem
from generality.estimators.invariant_projections import invariant_projections
from generality.measures.invariance import (
    Moments,
    Subsets,
    clopper_pearson,
    feature_subsets,
    invariance_residual,
    invariant_subsets,
    residuals,
    risks,
    violation_rates,
)
from generality.measures.pac import pac_environments, pac_gamma, vc_dimension


def by_hand(b: float) -> LinearSEM:
    """X1 → Y → X2 with the effect b on X2, all noise of variance 1."""
    return LinearSEM(np.array([[0, 0, 0], [1, 0, 0], [0, b, 0]], float), np.ones(3), target=1)


TWO = Moments(*map(np.stack, zip(*(by_hand(b).moments() for b in (1, -1)), strict=True)))


def test_moments_are_those_computed_by_hand() -> None:
    assert TWO.features[0].tolist() == [[1, 1], [1, 3]]
    assert TWO.cross.tolist() == [[1, 2], [1, -2]]
    assert np.linalg.solve(TWO.features[0], TWO.cross[0]).tolist() == pytest.approx([0.5, 0.5])


def test_the_predictor_of_one_environment_fails_in_another() -> None:
    one = Subsets(np.array([[0, 1]]), np.array([[0.5, 0.5]]), np.zeros(1), np.zeros(1))
    assert risks(one, TWO)[:, 0].tolist() == pytest.approx([0.5, 3.5])


def test_the_cause_is_invariant_and_the_effect_is_not() -> None:
    alone, pair = feature_subsets(TWO, max_size=2)
    assert alone.weights[:, 0].tolist() == [1, 0]
    assert alone.residual.tolist() == [0, 2]
    assert alone.risk.tolist() == [1, 2]
    # the pooled predictor is the invariant one, yet the representation is not
    assert pair.weights[0].tolist() == pytest.approx([1, 0])
    assert pair.residual.tolist() == pytest.approx([1])
    g = invariance_residual(TWO, np.eye(2), pair.weights[0])
    np.testing.assert_allclose(g, [[0, -1], [0, 1]], atol=1e-12)
    kept = invariant_subsets(TWO, max_size=2, epsilon=0.5)
    assert [each.features.tolist() for each in kept] == [[[0]], []]


def test_excess_risk_is_what_the_best_predictor_would_save() -> None:
    pair = feature_subsets(TWO, max_size=2)[1]
    saved = risks(pair, TWO)[:, 0] - 0.5  # least squares of each environment has risk 0.5
    np.testing.assert_allclose(residuals(pair, TWO, "excess")[:, 0], saved)


def test_the_third_form_is_the_distance_to_the_best_predictor() -> None:
    pair = feature_subsets(TWO, max_size=2)[1]  # w = (1, 0); the environments' are (.5, ±.5)
    np.testing.assert_allclose(residuals(pair, TWO, "weights")[:, 0], [0.5**0.5] * 2)
    alone = feature_subsets(TWO, max_size=1)[0]
    np.testing.assert_allclose(residuals(alone, TWO, "weights"), [[0, 2 / 3], [0, 2 / 3]])
    with pytest.raises(ValueError, match="'weights', not 'ols'"):
        residuals(alone, TWO, "ols")


def test_data_of_your_own_that_have_no_moments() -> None:
    X, y, where = np.eye(6)[:, :3], np.arange(6.0), list("aabbcc")
    assert Moments.of(X, y, where).features.shape == (3, 3, 3)
    with pytest.raises(ValueError, match=r"not \(6, 3\), \(5,\)"):
        Moments.of(X, y[:5], where)
    with pytest.raises(ValueError, match="drop or fill"):
        Moments.of(np.where(X > 0, np.nan, X), y, where)
    flat = Moments.of(np.c_[X, np.zeros(6)], y, where)
    with pytest.raises(ValueError, match=r"without a unit: features \[3\]"):
        flat.standardised(flat)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(3, 10))
def test_true_parents_are_invariant_under_any_intervention(seed: int, features: int) -> None:
    rng = np.random.default_rng(seed)
    sem = random_sem(features, rng)
    found = Moments(*sem.intervene(5, rng, anywhere=1).moments())
    weights = np.linalg.solve(
        found.pooled.features[0][np.ix_(sem.parents, sem.parents)],
        found.pooled.cross[0][sem.parents],
    )
    representation = np.eye(features)[sem.parents]
    np.testing.assert_allclose(invariance_residual(found, representation, weights), 0, atol=1e-9)
    assert (sem.intervene(3, rng).coefficients[:, sem.target] == sem.coefficients[sem.target]).all()


def test_samples_have_the_moments() -> None:
    sem = random_sem(4, np.random.default_rng(0))
    X, y = sem.sample(200_000, np.random.default_rng(1))
    sigma, cross, variance = sem.moments()
    np.testing.assert_allclose(X.T @ X / len(X), sigma, atol=0.1)
    np.testing.assert_allclose(X.T @ y / len(X), cross, atol=0.1)
    assert y.var() == pytest.approx(variance, rel=0.02)
    halves = np.repeat([0, 1], len(X) // 2)
    np.testing.assert_allclose(
        Moments.of(X, y, halves).pooled.features[0], X.T @ X / len(X), rtol=1e-6
    )


def test_growing_leaves_the_core_as_it_is() -> None:
    rng = np.random.default_rng(0)
    core = random_sem(5, rng)
    grown = core.grow(12, rng)
    np.testing.assert_allclose(grown.covariance()[:6, :6], core.covariance())
    assert (np.count_nonzero(grown.coefficients, axis=1) <= 2).all()


def test_violations_are_counted_over_environments() -> None:
    three = Moments(*(np.concatenate([part, part[:1]]) for part in vars(TWO).values()))
    alone = feature_subsets(TWO, max_size=1)[0]
    assert violation_rates(alone, three, 1.0).tolist() == [0, 1]
    low, high = clopper_pearson(3, 10)
    assert (round(low, 4), round(high, 4)) == (0.0667, 0.6525)


def test_projections_find_the_invariant_direction_behind_a_mixing() -> None:
    mixing = np.random.default_rng(0).normal(size=(5, 2))
    mixed = TWO.projected(mixing)
    found = invariant_projections(mixed, 1, np.random.default_rng(0), rank=2)
    best = found.residuals(mixed).max(0).argmin()
    assert found.residuals(mixed)[:, best].max() < 0.1
    assert found.risk[best] == pytest.approx(1.0, abs=0.1)  # that of X1 alone
    with pytest.raises(ValueError, match="must not fall"):
        invariant_projections(mixed, 3, np.random.default_rng(0), rank=2)


def test_bounds() -> None:
    assert pac_gamma(40, 0.05, log_class=math.log(28)) == pytest.approx(0.1582, abs=1e-4)
    assert pac_environments(0.1582, 0.05, log_class=math.log(28)) == 40
    assert pac_gamma(3, 0.05, vc=50) == 1.0
    for environments in (500, 5_000):
        gamma = pac_gamma(environments * 100, 0.05, vc=5)
        assert pac_environments(gamma * 1.001, 0.05, vc=5) <= environments * 100
    assert vc_dimension(10) > vc_dimension(5)
    with pytest.raises(ValueError, match="one of the two"):
        pac_environments(0.1, 0.05)
    with pytest.raises(ValueError, match="other than the target"):
        by_hand(1).intervene(2, np.random.default_rng(0), sites=[1])
    with pytest.raises(ValueError, match="max_size is from 1 to 2"):
        feature_subsets(TWO, max_size=3)
