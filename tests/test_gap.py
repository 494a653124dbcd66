import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from generality.gap import RecoveredShare, gap_recovered, ratio_to_ceiling, recovered_interval

FLOOR = np.array([0.71, 0.72, 0.70, 0.73, 0.72])
METHOD = np.array([0.77, 0.78, 0.76, 0.78, 0.77])
CEILING = np.array([0.81, 0.80, 0.82, 0.81, 0.80])

score = st.floats(-100, 100)
seeds = st.integers(3, 12)


@pytest.fixture(autouse=True)
def _no_numpy_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("floor", "method", "ceiling", "expected"),
    [
        (56.6, 61.9, 64.5, 0.670886),  # AlexNet to ResNet-50, Burns et al.
        (56.6, 66.6, 74.0, 0.574713),  # AlexNet to ViT-B/8
        (29.93, 46.09, 47.79, 0.904815),  # dynamic logit fusion from 7B
    ],
)
def test_published_shares(floor: float, method: float, ceiling: float, expected: float) -> None:
    share = gap_recovered(floor, method, ceiling)
    assert isinstance(share, float)
    assert share == pytest.approx(expected, abs=1e-6)


def test_the_ratio_to_the_ceiling_is_another_number() -> None:
    assert ratio_to_ceiling(46.09, 47.79) == pytest.approx(0.964, abs=5e-4)
    np.testing.assert_allclose(ratio_to_ceiling([1.0, 1.0], [2.0, 0.0]), [0.5, np.nan])


@pytest.mark.parametrize(
    ("floor", "method", "ceiling"),
    [(0.5, 0.6, 0.5), (0.6, 0.55, 0.5), (math.nan, 0.5, 0.6), (0.5, math.nan, 0.6), (0, 0, 0)],
)
def test_no_gap_or_a_missing_score_is_nan(floor: float, method: float, ceiling: float) -> None:
    assert math.isnan(gap_recovered(floor, method, ceiling))


def test_lower_is_better_turns_the_scores_around() -> None:
    assert gap_recovered(2.0, 1.5, 1.0, lower_is_better=True) == 0.5
    assert math.isnan(gap_recovered(1.0, 1.5, 2.0, lower_is_better=True))


def test_anything_like_an_array_broadcasts() -> None:
    expected = (METHOD - 0.7) / (CEILING - 0.7)
    for kind in (list, pd.Series, torch.tensor):
        share = gap_recovered(0.7, kind(METHOD), kind(CEILING))
        assert isinstance(share, np.ndarray)
        np.testing.assert_allclose(share, expected)
    assert gap_recovered(np.zeros((2, 1)), np.ones(3), 2).shape == (2, 3)
    nullable = pd.Series([0.5, None], dtype="Float64")
    np.testing.assert_allclose(gap_recovered(nullable, 0.75, 1), [0.5, np.nan])


@given(score, score, score, st.floats(-100, 100), st.floats(0.01, 100))
def test_share_ignores_shift_and_scale(f: float, m: float, c: float, a: float, b: float) -> None:
    assume(c - f > 1e-3)
    share = gap_recovered(f, m, c)
    assert gap_recovered(a + b * f, a + b * m, a + b * c) == pytest.approx(
        share, rel=1e-6, abs=1e-6
    )
    assert gap_recovered(-f, -m, -c, lower_is_better=True) == share


@given(score, score)
def test_the_floor_recovers_nothing_and_the_ceiling_all(f: float, c: float) -> None:
    assume(c > f)
    assert gap_recovered(f, f, c) == 0
    assert gap_recovered(f, c, c) == 1


def test_estimate_is_the_ratio_of_the_means() -> None:
    share = recovered_interval(FLOOR, METHOD, CEILING)
    assert share.estimate == pytest.approx((METHOD - FLOOR).sum() / (CEILING - FLOOR).sum())
    assert share.gap_p == pytest.approx(
        stats.ttest_rel(CEILING, FLOOR, alternative="greater").pvalue, rel=1e-9
    )
    assert (share.gap, share.seeds, share.kind) == (True, 5, "percentile")
    assert str(share) == "0.61 [0.50, 0.75]"


@pytest.mark.parametrize(("kind", "method"), [("percentile", "percentile"), ("bca", "BCa")])
def test_interval_is_scipys_bootstrap_of_the_widened_seeds(kind: str, method: str) -> None:
    rng = np.random.default_rng(3)
    floor = rng.normal(0.70, 0.01, 12)
    gain, gap = rng.normal(0.06, 0.02, 12), rng.exponential(0.05, 12) + 0.05
    stretch = math.sqrt(12 / 11) * stats.t.ppf(0.975, 11) / stats.norm.ppf(0.975)
    wide = [x.mean() + stretch * (x - x.mean()) for x in (gain, gap)]

    ours = recovered_interval(floor, floor + gain, floor + gap, kind=kind, resamples=49_999)
    theirs = stats.bootstrap(
        wide,
        lambda a, b, axis: a.mean(axis) / b.mean(axis),
        paired=True,
        vectorized=True,
        method=method,
        n_resamples=49_999,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours.high - ours.low > 0.2


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(0, 10_000), st.floats(-1, 2), st.sampled_from(["percentile", "bca"]))
def test_interval_contains_the_estimate_and_repeats(n, seed, share, kind) -> None:
    rng = np.random.default_rng(seed)
    floor, method, ceiling = (m + rng.standard_t(2, n) for m in (0, 3 * share, 3))
    first = recovered_interval(floor, method, ceiling, kind=kind, resamples=299)
    assert repr(first) == repr(recovered_interval(floor, method, ceiling, kind=kind, resamples=299))
    if first.gap:
        assert first.low <= first.estimate <= first.high
        assert first.gap_p < 0.05
    else:
        assert str(first) == "no gap"
        assert all(math.isnan(x) for x in (first.estimate, first.low, first.high))


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(0, 10_000), st.floats(-10, 10), st.floats(0.1, 10))
def test_interval_ignores_shift_scale_and_direction(n, seed, a, b) -> None:
    rng = np.random.default_rng(seed)
    scores = [m + rng.normal(0, 0.5, n) for m in (0, 1, 2)]

    def numbers(share: RecoveredShare) -> tuple[float, ...]:
        return share.estimate, share.low, share.high, share.gap_p

    plain = numbers(recovered_interval(*scores, resamples=299))
    moved = recovered_interval(*(a + b * s for s in scores), resamples=299)
    losses = recovered_interval(*(-s for s in scores), resamples=299, lower_is_better=True)
    np.testing.assert_allclose(numbers(moved), plain, rtol=1e-6)
    np.testing.assert_allclose(numbers(losses), plain, rtol=1e-9)


def test_a_wider_level_gives_a_wider_interval() -> None:
    narrow, wide = (recovered_interval(FLOOR, METHOD, CEILING, level=p) for p in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_no_gap_when_the_ceiling_is_not_significantly_above() -> None:
    noisy = np.array([0.90, 0.55, 0.88, 0.60, 0.85])
    share = recovered_interval(FLOOR, METHOD, noisy)
    assert share.gap_p > 0.05
    assert not share.gap
    assert not recovered_interval(CEILING, METHOD, FLOOR).gap


def test_an_uncertain_gap_leaves_the_share_unbounded() -> None:
    ceiling = FLOOR + np.array([0.001, 0.30, 0.02, 0.25, 0.004])
    share = recovered_interval(FLOOR, METHOD, ceiling, level=0.9)
    assert share.gap
    assert (share.low, share.high) == (-math.inf, math.inf)


def test_few_seeds_are_not_bounded() -> None:
    one = recovered_interval([0.7], [0.75], [0.8])
    assert one.estimate == pytest.approx(0.5)
    assert (one.low, one.high, one.gap) == (-math.inf, math.inf, True)
    assert math.isnan(one.gap_p)
    two = recovered_interval(FLOOR[:2], METHOD[:2], CEILING[:2] + 0.1)
    assert (two.low, two.high, two.gap, two.seeds) == (-math.inf, math.inf, True, 2)
    none = recovered_interval([], [], [])
    assert (none.gap, none.seeds) == (False, 0)


def test_fixed_floor_and_ceiling_are_believed() -> None:
    share = recovered_interval(0.7, METHOD, 0.8)
    assert (share.gap, share.gap_p) == (True, 0.0)
    assert share.estimate == pytest.approx(0.72)
    assert share.low < 0.72 < share.high
    assert not recovered_interval(0.8, METHOD, 0.8).gap
    assert recovered_interval(0.7, 0.75 + 0 * METHOD, 0.8, kind="bca").low == pytest.approx(0.5)


def test_incomplete_seeds_are_left_out() -> None:
    gappy = METHOD.copy()
    gappy[1] = np.nan
    kept = [0, 2, 3, 4]
    assert recovered_interval(FLOOR, gappy, CEILING) == recovered_interval(
        FLOOR[kept], METHOD[kept], CEILING[kept]
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": METHOD[:4]},
        {"floor": FLOOR.reshape(1, 5)},
        {"level": 95},
        {"kind": "studentised"},
    ],
)
def test_arguments_that_make_no_sense(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"per seed|level|kind"):
        recovered_interval(**{"floor": FLOOR, "method": METHOD, "ceiling": CEILING, **arguments})


@pytest.mark.parametrize("n", [3, 5, 10])
def test_interval_covers_the_true_share(n: int) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(500):
        floor, method, ceiling = (m + rng.normal(0, 0.015, n) for m in (0.72, 0.774, 0.81))
        share = recovered_interval(floor, method, ceiling, resamples=499, seed=seed)
        covered.append(share.low <= 0.6 <= share.high)
    assert 0.92 <= np.mean(covered) <= 0.98
