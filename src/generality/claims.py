"""A paper's claim as a statistical hypothesis, and the verdict that a study's rows allow.

A claim pairs a sentence with a test. A test looks at tidy rows and returns an `Outcome`: an effect
with its 95 % interval, the p of "the claim is not true" and the p of "the claim is true". `judge`
turns the outcomes of one study into verdicts:

- *holds*: p is at most alpha after Holm's correction over the study's claims;
- *fails*: the opposite is shown, or the effect is shown to be smaller than what matters
  (`p_opposite` at most alpha/2, which is the interval lying on the wrong side);
- *inconclusive*: neither, or too few seeds, or an arm is missing from the rows.

The replicate is the seed. Within a seed the things compared are first paired on every factor that
they share, then averaged over those factors, and only the seeds' averages are tested. One seed
concludes nothing. When every seed shows exactly the same value there is no variance to test
against and p is that of a sign test, 2^−seeds. Intervals are unadjusted: they describe one effect,
the corrected p decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from generality import pairing
from generality.pairing import Factors, Missing, Row, Where

_RESAMPLES = 4999


@dataclass(frozen=True)
class Outcome:
    """What a test found.

    Attributes:
        effect: the quantity the claim is about, in `unit`; NaN when it could not be computed.
        low: lower end of its unadjusted 95 % interval; NaN when there is none.
        high: upper end.
        p: of the null hypothesis that the claim is not true; small speaks for the claim.
        p_opposite: of the null hypothesis that the claim is true; small speaks against it.
        seeds: replicates it rests on.
        unit: of the effect.
        note: what a reader should know, such as what is missing.
    """

    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_opposite: float = math.nan
    seeds: int = 0
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Test:
    """A function from rows and their factors to an `Outcome`; missing arms become a note."""

    __test__ = False  # pytest: this is not one of yours

    description: str
    run: Callable[[pd.DataFrame, Factors], Outcome] = field(repr=False)

    def __call__(self, rows: pd.DataFrame, factors: Factors = None) -> Outcome:
        """What the rows say, whose columns `factors` were set; None: as many as look like it."""
        try:
            return self.run(rows, factors)
        except Missing as missing:
            return Outcome(note=f"missing: {missing}")


@dataclass(frozen=True)
class Claim:
    """A paper's claim: the sentence, its test, and the smallest scale at which it should show."""

    statement: str
    test: Test
    expected_at: Literal["smoke", "small", "full"] = "small"
    paper_says: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a study concluded about one claim; see `Outcome` for the numbers."""

    statement: str
    verdict: Literal["holds", "fails", "inconclusive"]
    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    seeds: int
    expected_at: str
    test: str
    note: str = ""
    unit: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields, with None for what is not a finite number, as JSON wants it."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_dict` wrote; None becomes NaN, unknown entries are ignored."""
        known = [f.name for f in fields(cls) if f.name in values]
        filled: dict[str, Any] = {k: math.nan if values[k] is None else values[k] for k in known}
        return cls(**filled)


def judge(
    claims: Iterable[Claim],
    rows: pd.DataFrame | Iterable[Row],
    *,
    factors: Factors = None,
    alpha: float = 0.05,
) -> list[Verdict]:
    """The verdict on each claim, Holm-corrected over all of them.

    Args:
        claims: of one study.
        rows: see `generality.pairing.Row`.
        factors: the columns that were set rather than measured, on which arms are paired. None:
            those whose values come back from seed to seed.
        alpha: level of the tests.

    >>> scores = [(0.70, 0.77), (0.72, 0.78), (0.71, 0.79), (0.70, 0.76), (0.73, 0.80)]
    >>> rows = [
    ...     Row(method="naive", seed=seed, score=score, floor=floor)
    ...     for seed, (floor, score) in enumerate(scores)
    ... ]
    >>> claim = Claim("students outperform their supervisors", greater("naive", "floor"))
    >>> [verdict] = judge([claim], rows)
    >>> verdict.verdict, round(verdict.effect, 3), verdict.test
    ('holds', 0.068, 'score: naive > floor')
    """
    claims = tuple(claims)
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    outcomes = [claim.test(table, factors) for claim in claims]
    adjusted = holm([outcome.p for outcome in outcomes])
    return [
        Verdict(
            claim.statement,
            _conclusion(outcome, p_holm, alpha),
            *(outcome.effect, outcome.low, outcome.high, outcome.p),
            p_holm=float(p_holm),
            seeds=outcome.seeds,
            expected_at=claim.expected_at,
            test=claim.test.description,
            note=outcome.note,
            unit=outcome.unit,
        )
        for claim, outcome, p_holm in zip(claims, outcomes, adjusted, strict=True)
    ]


def _conclusion(
    outcome: Outcome, p_holm: float, alpha: float
) -> Literal["holds", "fails", "inconclusive"]:
    # "fails" first: an effect may be there beyond doubt and yet be too small to matter
    if outcome.p_opposite <= alpha / 2:
        return "fails"
    return "holds" if p_holm <= alpha else "inconclusive"


def holm(p_values: Sequence[float]) -> Float[NDArray[np.float64], " claims"]:
    """Holm's step-down adjustment of p values; NaNs stay NaN and do not count.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm([0.01, 0.04, 0.03, float("nan")])
    array([0.03, 0.06, 0.06,  nan])
    """
    p = np.array(p_values, dtype=float)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    weighted = p[order] * np.arange(len(order), 0, -1)
    p[order] = np.minimum(np.maximum.accumulate(weighted), 1)
    return p


# Shapes of claims ---------------------------------------------------------------------------------


def paired(
    left: str | float,
    op: Literal[">", "<"],
    right: str | float,
    *,
    on: str = "score",
    by: str = "method",
    where: Where | None = None,
    margin: float = 0.0,
) -> Test:
    """`left` is above (or below) `right`: a one-sided paired t-test over seeds.

    Args:
        left: a value of column `by`; or "floor" or "ceiling", meaning those columns of the rows
            it is compared with; or, when `by` is "method", a number.
        op: ">" or "<"; the effect is left − right in both cases.
        right: as `left`.
        on: the column compared. For a comparison over cells of which some have tiny gaps, "score"
            is safer than "recovered".
        by: the column that names the two sides.
        where: the rows to look at.
        margin: smallest difference that matters, ≥ 0. The claim holds when there is a difference
            of the right sign, and fails when it is shown to be smaller than `margin`.

    >>> paired("student", ">", "supervisor", on="accuracy", where={"epochs": 2}).description
    'accuracy: student > supervisor, where epochs=2'
    """
    if op not in (">", "<") or margin < 0:
        raise ValueError(f"op is '>' or '<' and margin at least 0, not '{op}' and {margin}")
    sign = 1 if op == ">" else -1
    least = f" by {margin:g}" if margin else ""
    description = f"{on}: {left} {op} {right}" + least + pairing.filtered(where, by)

    def run(rows: pd.DataFrame, factors: Factors) -> Outcome:
        gains, note = pairing.differences(
            rows, left, right, on=on, by=by, where=where, declared=factors
        )
        return _beyond(gains, sign, margin, on, note)

    return Test(description, run)


def greater(left: str | float, right: str | float, **options: Any) -> Test:
    """`paired(left, ">", right, **options)`."""
    return paired(left, ">", right, **options)


def less(left: str | float, right: str | float, **options: Any) -> Test:
    """`paired(left, "<", right, **options)`."""
    return paired(left, "<", right, **options)


def equivalent(
    left: str | float,
    right: str | float,
    *,
    margin: float,
    on: str = "score",
    by: str = "method",
    where: Where | None = None,
) -> Test:
    """`left` and `right` differ by less than `margin`: two one-sided paired t-tests (TOST).

    Arguments as in `paired`. Fails when the interval of the difference lies outside ±margin.
    Source: Schuirmann 1987.
    """
    if margin <= 0:
        raise ValueError(f"equivalence needs a margin above 0, not {margin}")

    def run(rows: pd.DataFrame, factors: Factors) -> Outcome:
        gains, note = pairing.differences(
            rows, left, right, on=on, by=by, where=where, declared=factors
        )
        return _within(gains, -margin, margin, on, note)

    return Test(f"{on}: {left} = {right} within ±{margin:g}" + pairing.filtered(where, by), run)


def monotone(
    factor: str,
    *,
    on: str = "score",
    direction: Literal["increasing", "decreasing"] = "increasing",
    order: Sequence[Any] | None = None,
    where: Where | None = None,
) -> Test:
    """`on` rises (or falls) with `factor`: mean over seeds of Spearman's correlation of the two.

    Within a seed, `on` is averaged for each level of the factor over the other factors (only
    combinations that have every level count) and rank-correlated with the levels. p is from
    shuffling the levels within each seed, as in Page's trend test, so that two levels or ties are
    no special case; with few seeds and levels it cannot be small. The interval is Student's over
    seeds. Fails when the opposite trend is significant.

    Args:
        factor: a numeric column, or any column with `order`.
        on: the column that should follow.
        direction: "increasing" or "decreasing".
        order: the levels from low to high; only these are looked at.
        where: the rows to look at.
    """
    if direction not in ("increasing", "decreasing"):
        raise ValueError(f"direction is 'increasing' or 'decreasing', not '{direction}'")
    sign = 1 if direction == "increasing" else -1

    def run(rows: pd.DataFrame, factors: Factors) -> Outcome:
        rows = pairing.select(rows, where, {factor, on})
        levels = (
            order if order is not None else sorted(_numbers(rows, factor)[factor].dropna().unique())
        )
        if len(levels) < 2:
            raise Missing(f"two levels of {factor} to put in order")
        arms = [pairing.arm(rows, on, {factor: level}) for level in levels]
        means, note = pairing.per_seed(rows, arms, {factor, on}, factors)
        ranks, steps = stats.rankdata(means, axis=1), np.arange(len(levels))
        trends = _correlation(ranks, steps)
        copies = np.tile(ranks, (_RESAMPLES, 1, 1))
        shuffled = np.random.default_rng(0).permuted(copies, axis=-1)
        chance = _correlation(shuffled, steps).mean(-1)
        p, p_opposite = (_share_beyond(chance, trends.mean(), s) for s in (sign, -sign))
        trend = _over_seeds(trends, p, p_opposite, "rank correlation", note)
        return replace(trend, low=max(trend.low, -1.0), high=min(trend.high, 1.0))

    return Test(f"{on} is {direction} in {factor}" + pairing.filtered(where), run)


def rank_correlates(
    x: str,
    y: str,
    *,
    unit: str | Sequence[str] | None = None,
    sign: Literal[1, -1] = 1,
    minimum: float = 0.0,
    partial: Sequence[str] = (),
    where: Where | None = None,
) -> Test:
    """Spearman's correlation of two columns has the sign `sign` (+1 or −1).

    Holds by a permutation test of no association, fails when the bootstrap interval (percentile,
    over units) lies on the wrong side of `sign * minimum`. The replicate is the unit, not the
    seed, and there must be at least 4. Measured on 400 simulated normal pools: the interval covers
    .95 to .98 at 6 to 40 units.

    Args:
        x: a numeric column, such as a measure.
        y: a numeric column, such as a gap.
        unit: the column or columns whose values are the things ranked (models, tasks): x and y
            are averaged within each. None takes every row for one, which is wrong when several
            rows are the same thing.
        sign: the sign claimed.
        minimum: smallest correlation that matters, in [0, 1).
        partial: columns that both may follow: the correlation is of what they leave unexplained.
        where: the rows to look at.
    """
    if sign not in (1, -1) or not 0 <= minimum < 1:
        raise ValueError(f"sign is 1 or -1 and minimum in [0, 1), not {sign} and {minimum}")
    columns = [unit] if isinstance(unit, str) else list(unit or [])

    def run(rows: pd.DataFrame, factors: Factors) -> Outcome:
        rows = pairing.select(rows, where, {x, y, *partial, *columns})
        table = _numbers(rows, x, y, *partial).dropna()
        if columns:
            table = table.groupby([rows[c] for c in columns], observed=True).mean()
        a, b, n = table[x].to_numpy(), table[y].to_numpy(), len(table)
        if n < 4 + len(partial) or np.ptp(a) == 0 or np.ptp(b) == 0:
            least = 4 + len(partial)
            raise Missing(f"at least {least} units that differ in {x} and {y} (there are {n})")
        rng, values = np.random.default_rng(0), table[[x, y, *partial]].to_numpy().T
        left = _left_over(values, len(partial))
        effect = float(_correlation(*left))
        shuffled = _correlation(rng.permuted(np.tile(left[0], (_RESAMPLES, 1)), axis=1), left[1])
        drawn = values[:, rng.integers(n, size=(_RESAMPLES, n))]
        resampled = _correlation(*_left_over(drawn, len(partial)))
        low, high = np.quantile(resampled, [0.025, 0.975])
        p = _share_beyond(shuffled, effect, sign)
        p_opposite = _share_beyond(resampled, sign * minimum, sign)
        seeds = int(rows["seed"].nunique()) if "seed" in rows else 0
        bounds = min(float(low), effect), max(float(high), effect)
        return Outcome(effect, *bounds, p, p_opposite, seeds, "rank correlation", f"{n} units")

    least = f", at least {minimum:g}" if minimum else ""
    kind = "positively" if sign == 1 else "negatively"
    given = f", given {' and '.join(partial)}" if partial else ""
    return Test(
        f"{x} and {y} correlate {kind} in rank{given}{least}" + pairing.filtered(where), run
    )


def exponent_within(x: str, y: str, *, low: float, high: float, where: Where | None = None) -> Test:
    """y grows as a power of x, the exponent in (`low`, `high`): TOST on the seeds' log-log slopes.

    The slope is least squares over a seed's rows with x > 0 and y > 0; choose rows that lie on one
    curve with `where`. Holds when both one-sided
    t-tests reject (the 90 % interval is inside), fails when the 95 % interval is outside.
    """
    if not low < high:
        raise ValueError(f"the exponent's bounds must rise, not {low} to {high}")

    def run(rows: pd.DataFrame, factors: Factors) -> Outcome:
        rows = pairing.select(rows, where, {x, y, "seed"})
        table = _numbers(rows, x, y)
        logs = table[(table > 0).all(axis=1)].apply(np.log)
        slopes = [
            np.polyfit(points[x], points[y], 1)[0]
            for _, points in logs.groupby(rows["seed"])
            if points[x].nunique() > 1
        ]
        if not slopes:
            raise Missing(f"a seed with two values of {x} and positive {y}")
        dropped = len(table) - len(logs)
        note = f"{dropped} of {len(table)} rows lack a positive {x} and {y} and are left out"
        return _within(np.array(slopes), low, high, "exponent", note if dropped else "")

    return Test(f"{y} ∝ {x}^b with b in ({low:g}, {high:g})" + pairing.filtered(where), run)


def interacts(
    a: tuple[str, Any, Any],
    b: tuple[str, Any, Any],
    *,
    on: str = "score",
    sign: Literal[1, -1] = 1,
    where: Where | None = None,
    margin: float = 0.0,
) -> Test:
    """The effect of a depends on b: (a₁ − a₂ at b₁) − (a₁ − a₂ at b₂) has the sign `sign`.

    A paired t-test over seeds of that difference of differences; `on`, `where` and `margin` as in
    `paired`. Each of a and b is (column, first value, second value).

    >>> interacts(("method", "confidence", "naive"), ("epochs", 10, 2)).description
    'score: confidence − naive is more at epochs=10 than at epochs=2'
    """
    if sign not in (1, -1) or margin < 0:
        raise ValueError(f"sign is 1 or -1 and margin at least 0, not {sign} and {margin}")

    def run(rows: pd.DataFrame, factors: Factors) -> Outcome:
        rows = pairing.select(rows, where, {a[0], b[0], on})
        arms = [pairing.arm(rows, on, {a[0]: i, b[0]: j}) for j in b[1:] for i in a[1:]]
        means, note = pairing.per_seed(rows, arms, {a[0], b[0], on}, factors)
        first, second = (
            pairing.minus(means[:, 0], means[:, 1]),
            pairing.minus(means[:, 2], means[:, 3]),
        )
        return _beyond(pairing.minus(first, second), sign, margin, on, note)

    more = "more" if sign == 1 else "less"
    contrast = f"{on}: {a[1]} − {a[2]} is {more} at {b[0]}={b[1]} than at {b[0]}={b[2]}"
    return Test(contrast + pairing.filtered(where, a[0]), run)


# A number that should predict another -------------------------------------------------------------


@dataclass(frozen=True)
class MetricValidity:
    """Whether a number about data or a model predicts an outcome.

    Attributes:
        units: how many.
        correlation: Spearman's, over units; in [-1, 1].
        low: lower end of its 95 % interval (percentile bootstrap over units).
        high: upper end.
        p: two-sided, by permutation.
        partial: the correlation of what is left of both ranks once the ranks of the confounders
            are regressed out; NaN without confounders.
        partial_low: lower end of its interval.
        partial_high: upper end.
        partial_p: two-sided, by permutation of what is left.
    """

    units: int
    correlation: float
    low: float
    high: float
    p: float
    partial: float
    partial_low: float
    partial_high: float
    partial_p: float


def metric_validity(
    metric: Float[Any, " units"],
    outcome: Float[Any, " units"],
    *,
    partial: Sequence[Float[Any, " units"]] = (),
    seed: int = 0,
) -> MetricValidity:
    """Does this number predict that gap? Rank correlation over models, subsets or tasks.

    Do not pool units of different sizes without `partial`: a number that grows with size then
    correlates with whatever else grows with size.

    Args:
        metric: the number, one a unit.
        outcome: what it should predict, such as accuracy under a shift.
        partial: confounders, one a unit each: size, quality, in-domain accuracy.
        seed: of permutations and resamples.

    Raises:
        ValueError: fewer than 4 units (plus one for each confounder), different lengths, numbers
            that are not finite, or a side that is the same everywhere.

    >>> quality = np.arange(10.0)
    >>> found = metric_validity(quality, quality**3 + 1)
    >>> found.correlation, found.p < 0.01, found.units
    (1.0, True, 10)
    """
    columns = [np.asarray(each, dtype=float) for each in (metric, outcome, *partial)]
    n = len(columns[0])
    if any(each.shape != (n,) or not np.isfinite(each).all() for each in columns):
        raise ValueError("metric, outcome and confounders are finite numbers, one a unit each")
    if n < 4 + len(partial) or any(np.ptp(each) == 0 for each in columns[:2]):
        raise ValueError(f"{n} units: at least {4 + len(partial)} that differ on both sides")
    rng = np.random.default_rng(seed)
    values = np.stack(columns)
    drawn = values[:, rng.integers(n, size=(_RESAMPLES, n))]
    found = []
    for confounders in (0, len(partial)):
        a, b = _left_over(values, confounders)
        effect = float(_correlation(a, b))
        chance = _correlation(rng.permuted(np.tile(a, (_RESAMPLES, 1)), axis=1), b)
        low, high = np.quantile(_correlation(*_left_over(drawn, confounders)), [0.025, 0.975])
        p = _share_beyond(np.abs(chance), abs(effect), 1)
        found.append((effect, min(float(low), effect), max(float(high), effect), p))
    return MetricValidity(n, *found[0], *(found[1] if partial else (math.nan,) * 4))


def _left_over(values: NDArray, confounders: int) -> tuple[NDArray, NDArray]:
    """Ranks of the first two rows, without what those of the confounders explain of them."""
    ranks = stats.rankdata(values, axis=-1)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    a, b = ranks[:2]
    if not confounders:
        return a, b
    others = np.moveaxis(ranks[2:], 0, -1)
    explain = others @ np.linalg.pinv(others)
    a, b = (side - (explain @ side[..., None])[..., 0] for side in (a, b))
    return a, b


# From one number per seed to an outcome -----------------------------------------------------------


def _beyond(values: NDArray, sign: int, margin: float, unit: str, note: str) -> Outcome:
    """Is the mean above 0 (below, for sign −1), and does it reach the margin?"""
    p, p_opposite = _p_above(sign * values, 0.0), _p_below(sign * values, margin)
    return _over_seeds(values, p, p_opposite, unit, note)


def _within(values: NDArray, low: float, high: float, unit: str, note: str) -> Outcome:
    """Is the mean between low and high (two one-sided tests), or surely outside?"""
    p = max(_p_above(values, low), _p_below(values, high))
    p_opposite = min(_p_above(values, high), _p_below(values, low))
    return _over_seeds(values, p, p_opposite, unit, note)


def _over_seeds(values: NDArray, p: float, p_opposite: float, unit: str, note: str) -> Outcome:
    """The mean with its t interval, and a note where the seeds are too few or all the same."""
    n, effect = len(values), float(values.mean())
    if n < 2:
        notes = filter(None, ("one seed concludes nothing", note))
        return Outcome(effect, seeds=n, unit=unit, note="; ".join(notes))
    same = _constant(values)
    half = 0.0 if same else float(stats.t.ppf(0.975, n - 1) * stats.sem(values))
    notes = filter(None, ("the same on every seed, so a sign test" if same else "", note))
    return Outcome(effect, effect - half, effect + half, p, p_opposite, n, unit, "; ".join(notes))


def _p_above(values: NDArray, bound: float) -> float:
    """One-sided p for a mean above the bound; a sign test where the values are all the same."""
    if len(values) < 2:
        return math.nan
    if _constant(values):
        return 0.5 ** len(values) if values[0] > bound else 1.0
    return float(stats.ttest_1samp(values, bound, alternative="greater").pvalue)


def _p_below(values: NDArray, bound: float) -> float:
    """One-sided p for a mean below the bound, or at it where the values are all the same."""
    if _constant(values) and values[0] == bound:
        bound = math.inf
    return _p_above(-values, -bound)


def _constant(values: NDArray) -> bool:
    """Equal but for rounding."""
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def _numbers(rows: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """These columns as floats, NaN where they are not numbers."""
    return rows[list(columns)].apply(pd.to_numeric, errors="coerce").astype(float)


def _correlation(a: NDArray, b: NDArray) -> NDArray:
    """Pearson's correlation along the last axis; 0 where a side is constant."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), scale, out=np.zeros_like(scale), where=scale > 0)


def _share_beyond(samples: NDArray, bound: float, sign: int) -> float:
    """Monte Carlo p: the share of samples at or beyond the bound, the observed one included."""
    return float((1 + (sign * samples >= sign * bound - 1e-9).sum()) / (1 + len(samples)))
