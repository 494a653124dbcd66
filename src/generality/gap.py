"""How much of a generalization gap a method recovered, and how sure that is.

    recovered = (method − floor) / (ceiling − floor)

0 is what you have today, 1 is what full supervision at the target would give. Below 0 the method
made things worse, above 1 it beat the ceiling. Where the ceiling does not beat the floor there is
no gap, and no share of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from jaxtyping import Float, Real
from numpy.typing import NDArray
from scipy import stats


@overload
def gap_recovered(
    floor: float, method: float, ceiling: float, *, lower_is_better: bool = False
) -> float: ...
@overload
def gap_recovered(
    floor: Real[Any, "*shape"] | Sequence[Any],
    method: Real[Any, "*shape"] | Sequence[Any],
    ceiling: Real[Any, "*shape"] | Sequence[Any],
    *,
    lower_is_better: bool = False,
) -> Float[NDArray[np.float64], "*shape"]: ...
def gap_recovered(floor: Any, method: Any, ceiling: Any, *, lower_is_better: bool = False) -> Any:
    """Share of the gap between floor and ceiling that a method recovered; 1 is all of it.

    The three may be numbers, lists, arrays, Series or CPU tensors and broadcast against each
    other. Numbers give a float, anything else an array. NaN where the ceiling does not beat the
    floor, or where a score is missing.

    Args:
        floor: score of what you have today (weak supervisor, plain fine-tuning, base model).
        method: score of the method.
        ceiling: score with full supervision at the target, in the same unit.
        lower_is_better: True for losses, error rates, perplexities.

    Source: Burns et al. 2023 (arXiv 2312.09390), "performance gap recovered"; the example is the
    AlexNet to ResNet-50 run released with it.

    >>> round(gap_recovered(56.6, 61.9, 64.5), 6)
    0.670886
    >>> gap_recovered([0.5, 0.9], 0.75, 0.9)
    array([0.625,   nan])
    """
    low, mid, high = (np.asarray(score, dtype=float) for score in (floor, method, ceiling))
    gap = low - high if lower_is_better else high - low
    gain = low - mid if lower_is_better else mid - low
    with np.errstate(all="ignore"):
        share = np.where(gap > 0, gain / gap, np.nan)
    return share.item() if share.ndim == 0 else share


@overload
def ratio_to_ceiling(method: float, ceiling: float) -> float: ...
@overload
def ratio_to_ceiling(
    method: Real[Any, "*shape"] | Sequence[Any], ceiling: Real[Any, "*shape"] | Sequence[Any]
) -> Float[NDArray[np.float64], "*shape"]: ...
def ratio_to_ceiling(method: Any, ceiling: Any) -> Any:
    """Method's score divided by the ceiling's: what several papers call "gap closed".

    It ignores the floor, so that a method which does nothing may already score high. The 96.4 %
    of dynamic logit fusion (arXiv 2406.15480) is this ratio; with the base model as the floor it
    is a recovery of 90.5 %. Say which of the two a figure is. NaN where the ceiling is 0.

    >>> round(ratio_to_ceiling(46.09, 47.79), 3), round(gap_recovered(29.93, 46.09, 47.79), 3)
    (0.964, 0.905)
    """
    score, best = np.asarray(method, dtype=float), np.asarray(ceiling, dtype=float)
    with np.errstate(all="ignore"):
        ratio = np.where(best != 0, score / best, np.nan)
    return ratio.item() if ratio.ndim == 0 else ratio


@dataclass(frozen=True)
class RecoveredShare:
    """A recovered share with its interval over seeds; prints as "0.59 [0.41, 0.77]" or "no gap".

    Attributes:
        estimate: mean gain over mean gap; NaN with no gap.
        low: lower end of the interval; −inf where the seeds cannot bound it, NaN with no gap.
        high: upper end; +inf and NaN likewise.
        gap: whether the ceiling is significantly above the floor.
        gap_p: one-sided p of that test; NaN with one seed.
        seeds: seeds for which floor, method and ceiling are all known.
        kind: "percentile" or "bca".
    """

    estimate: float
    low: float
    high: float
    gap: bool
    gap_p: float
    seeds: int
    kind: str

    def __str__(self) -> str:
        return f"{self.estimate:.2f} [{self.low:.2f}, {self.high:.2f}]" if self.gap else "no gap"


def recovered_interval(
    floor: Real[Any, " seeds"] | Sequence[float] | float,
    method: Real[Any, " seeds"] | Sequence[float] | float,
    ceiling: Real[Any, " seeds"] | Sequence[float] | float,
    *,
    lower_is_better: bool = False,
    level: float = 0.95,
    kind: Literal["percentile", "bca"] = "percentile",
    resamples: int = 9999,
    seed: int = 0,
) -> RecoveredShare:
    """The recovered share with a bootstrap interval over paired seeds.

    The estimate is mean(method − floor) / mean(ceiling − floor): the ratio of the means, not the
    mean of the ratios, because one seed with a tiny gap would make the latter explode.

    The interval is a bootstrap of that ratio itself. Seeds are drawn with replacement, floor,
    method and ceiling of a seed together. A resample whose ceiling does not beat its floor bounds
    nothing: it counts as −inf for the lower end and as +inf for the upper one, so that an
    uncertain gap gives an unbounded interval. With few seeds a plain bootstrap is too narrow;
    deviations from the means are therefore first widened by √(n/(n−1))·t/z, the factor at which
    the interval of a mean is Student's (after Hesterberg 2015, section 5.3). Below 3 seeds the
    interval is (−inf, inf). It always includes the estimate.

    "No gap" is the answer when a one-sided paired t-test at 1 − `level` does not find the ceiling
    above the floor. One seed cannot be tested and is believed (`gap_p` is NaN); a difference that
    is the same on every seed is believed too (`gap_p` is 0 or 1), since floor and ceiling are
    often fixed numbers.

    Measured coverage of the 95 % interval (percentile / BCa) in 2000 simulated studies each, where
    0.6 is recovered and each score has normal noise of 0.015. A gap of 0.09: .956 / .943 at 3
    seeds, .946 / .940 at 5, .951 / .949 at 10. A gap of 0.03, in the studies that found it:
    .973 / .960, .955 / .956, .952 / .955.

    Args:
        floor: one score per seed, paired by position; a single number is used for every seed.
            Seeds with a score that is not finite are left out.
        method: likewise.
        ceiling: likewise.
        lower_is_better: True for losses, error rates, perplexities.
        level: of the interval, in (0, 1).
        kind: "percentile", or "bca" (bias-corrected and accelerated), which follows a skewed
            ratio more closely and covers slightly less.
        resamples: number of bootstrap resamples.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: for scores that are not one per seed, or a level or kind that does not exist.

    >>> floor, ceiling = [0.71, 0.72, 0.70, 0.73, 0.72], [0.81, 0.80, 0.82, 0.81, 0.80]
    >>> print(recovered_interval(floor, [0.77, 0.78, 0.76, 0.78, 0.77], ceiling))
    0.61 [0.50, 0.75]
    >>> print(recovered_interval(ceiling, [0.77, 0.78, 0.76, 0.78, 0.77], floor))
    no gap
    """
    if not 0 < level < 1:
        raise ValueError(f"level is a probability in (0, 1), not {level}")
    if kind not in ("percentile", "bca"):
        raise ValueError(f"kind is 'percentile' or 'bca', not '{kind}'")
    gain, gap = _gains_and_gaps(floor, method, ceiling, -1 if lower_is_better else 1)
    n = len(gap)
    gap_p = _gap_p(gap)
    found = n > 0 and (gap.mean() > 0 if n == 1 else gap_p < 1 - level)
    if not found:
        return RecoveredShare(math.nan, math.nan, math.nan, False, gap_p, n, kind)

    estimate = float(gain.mean() / gap.mean())
    low, high = -math.inf, math.inf
    if n >= 3:
        low, high = _bootstrap(
            _widened(gain, level), _widened(gap, level), level, kind, resamples, seed
        )
    return RecoveredShare(estimate, min(low, estimate), max(high, estimate), True, gap_p, n, kind)


def _gains_and_gaps(floor: Any, method: Any, ceiling: Any, sign: int) -> tuple[NDArray, NDArray]:
    """method − floor and ceiling − floor of the complete seeds, upwards being better."""
    scores = [np.atleast_1d(np.asarray(score, dtype=float)) for score in (floor, method, ceiling)]
    if any(score.ndim > 1 for score in scores) or len({len(s) for s in scores} - {1}) > 1:
        shapes = ", ".join(str(score.shape) for score in scores)
        raise ValueError(f"floor, method and ceiling need one score per seed; shapes are {shapes}")
    low, mid, high = np.broadcast_arrays(*scores)
    known = np.isfinite(low + mid + high)
    return sign * (mid - low)[known], sign * (high - low)[known]


def _gap_p(gap: NDArray) -> float:
    """One-sided p of a paired t-test of ceiling over floor; NaN with one seed or none."""
    if len(gap) < 2:
        return math.nan
    if np.ptp(gap) <= 1e-12 * np.abs(gap).max():
        return 0.0 if gap[0] > 0 else 1.0
    return float(stats.ttest_1samp(gap, 0, alternative="greater").pvalue)


def _widened(values: NDArray, level: float) -> NDArray:
    """The same mean, deviations stretched so that a bootstrap of it spreads like Student's t."""
    n, tail = len(values), (1 + level) / 2
    stretch = math.sqrt(n / (n - 1)) * stats.t.ppf(tail, n - 1) / stats.norm.ppf(tail)
    return values.mean() + stretch * (values - values.mean())


def _bootstrap(
    gain: NDArray, gap: NDArray, level: float, kind: str, resamples: int, seed: int
) -> tuple[float, float]:
    """Interval of mean(gain) / mean(gap) over resampled pairs."""
    n = len(gap)
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    gains, gaps = gain[drawn].mean(1), gap[drawn].mean(1)
    bounded = gaps > 0
    shares = np.divide(gains, gaps, out=np.zeros(resamples), where=bounded)
    lows, highs = np.where(bounded, shares, -np.inf), np.where(bounded, shares, np.inf)
    tails = ((1 - level) / 2, (1 + level) / 2)
    if kind == "bca":
        estimate = gain.mean() / gap.mean()
        below = np.mean([lows < estimate, lows <= estimate, highs < estimate, highs <= estimate])
        tails = _bca(tails, float(below), _jackknife(gain, gap), resamples)
    # order statistics, not interpolation: between a number and infinity there is nothing
    return (
        float(np.quantile(lows, tails[0], method="lower")),
        float(np.quantile(highs, tails[1], method="higher")),
    )


def _bca(
    tails: tuple[float, float], below: float, left_out: NDArray, resamples: int
) -> tuple[float, float]:
    """Tails corrected for bias and skew (Efron 1987): Φ(z₀ + (z₀ + z) / (1 − a(z₀ + z)))."""
    bias = stats.norm.ppf(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    deviation = left_out.mean() - left_out
    spread = (deviation**2).sum() ** 1.5
    skew = (deviation**3).sum() / (6 * spread) if spread > 0 else 0.0
    shifted = bias + stats.norm.ppf(tails)
    low, high = stats.norm.cdf(bias + shifted / (1 - skew * shifted))
    return float(low), float(high)


def _jackknife(gain: NDArray, gap: NDArray) -> NDArray:
    """The ratio with each seed left out; only where a gap is left."""
    gains, gaps = gain.sum() - gain, gap.sum() - gap
    return gains[gaps > 0] / gaps[gaps > 0]
