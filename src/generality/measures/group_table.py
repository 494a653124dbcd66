"""A model's quality in every group of its examples, with intervals."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import stats

from generality.claims import holm
from generality.errors import import_extra

Metric = Callable[[NDArray, NDArray], float]


@dataclass(frozen=True)
class GroupAudit:
    """Whom a binary classifier serves worse: a metric per group, its interval, and what confounds.

    Values per group are fairlearn's (`MetricFrame`); the intervals, the comparison of each group
    with all others and the correction for how many were compared are added here. Groups below
    `min_n` are shown and marked, and never called the worst: an AUC of 0.51 at 100 examples may be
    noise. Needs the extra `audit`.

    Source: the audit of Jiang et al. 2024 (arXiv 2402.10965), with intervals after DeLong et al.
    1988 (for the AUC) or the percentile bootstrap, and Holm 1979.

    Args:
        y: true labels (n,), 0 or 1.
        score: what the model says (n,): higher means class 1; probabilities where calibration is
            to mean anything.
        metadata: one column per property; numbers with more than ten values are cut into bins.
        metric: "roc_auc", "average_precision", "accuracy" (at 0.5), "brier", or a function of
            (y, score).
        greater_is_better: of the metric; None knows the named ones and takes True for others.
        bins: for a numeric column its edges, or in how many quantiles to cut it (default 4).
        intersections: pairs (or more) of columns to cross as well.
        min_n: smallest group that is compared.
        resamples: bootstrap samples, for metrics other than the AUC.
        random_state: of the bootstrap.

    Raises:
        ValueError: for lengths that differ, labels other than 0 and 1, scores that are not finite,
            or a column that is not there.

    >>> rng = np.random.default_rng(0)
    >>> site = np.repeat(["large", "small"], [400, 100])
    >>> y = rng.integers(2, size=500)
    >>> score = np.where(site == "large", 2.0, 0.2) * y + rng.normal(size=500)
    >>> audit = GroupAudit(y, score, pd.DataFrame({"site": site}))
    >>> audit.table()[["feature", "group", "n", "value", "low", "high"]].round(2)
      feature  group    n  value   low  high
    0     all    all  500   0.83  0.80  0.87
    1    site  large  400   0.91  0.87  0.93
    2    site  small  100   0.55  0.44  0.66
    >>> audit.worst()["group"], audit.simpson()
    ('small', [])
    """

    y: Int[Any, " n"]
    score: Float[Any, " n"]
    metadata: pd.DataFrame
    metric: str | Metric = "roc_auc"
    greater_is_better: bool | None = None
    bins: Mapping[str, int | Sequence[float]] = field(default_factory=dict)
    intersections: Sequence[Sequence[str]] = ()
    min_n: int = 50
    resamples: int = 1000
    random_state: int = 0

    def __post_init__(self) -> None:
        truth, score = np.asarray(self.y), np.asarray(self.score, dtype=float)
        if not len(truth) == len(score) == len(self.metadata):
            raise ValueError(
                f"y, score and metadata are of the same examples, not {len(truth)}, {len(score)}"
                f" and {len(self.metadata)}"
            )
        if len(truth) == 0 or not np.isin(truth, (0, 1)).all():
            raise ValueError("y holds labels 0 and 1, at least one")
        if score.ndim != 1 or not np.isfinite(score).all():
            raise ValueError("score is one finite number per example")
        if isinstance(self.metric, str) and self.metric not in METRICS:
            raise ValueError(f"metric is a function or one of {', '.join(METRICS)}")
        unknown = {*self.bins, *itertools.chain(*self.intersections)} - set(self.metadata.columns)
        if unknown:
            raise ValueError(f"metadata has no column {', '.join(sorted(unknown))}")
        object.__setattr__(self, "y", truth.astype(int))
        object.__setattr__(self, "score", score)

    def table(self) -> pd.DataFrame:
        """One row per group, the whole first.

        Columns: feature, group, n, prevalence (share of label 1), value (the metric), low and high
        (its 95 % interval), gap (value less the whole's), gap_to_best (less the best compared group
        of the feature), roc_auc, average_precision, brier and calibration (mean score less
        prevalence; NaN, as brier, for scores outside [0, 1]), p (two-sided, this group against all
        other examples), p_holm (corrected over the table), small (fewer than `min_n`: not
        compared). What a group of one class cannot tell is NaN.
        """
        return self._table.copy()

    @functools.cached_property
    def _table(self) -> pd.DataFrame:
        frame = import_extra("fairlearn.metrics", "audit").MetricFrame
        asked = METRICS[self.metric] if isinstance(self.metric, str) else self.metric
        functions = {"value": asked, **METRICS, "calibration": _calibration}
        del functions["accuracy"]
        guarded = {name: _where_defined(function) for name, function in functions.items()}
        rows: list[dict[str, Any]] = []
        for feature, groups in {"all": np.full(len(self.y), "all"), **self._groupings()}.items():
            found = frame(
                metrics=guarded, y_true=self.y, y_pred=self.score, sensitive_features=groups
            )
            for group, values in found.by_group.iterrows():
                inside = groups == group
                low, high = self._interval(inside, float(values["value"]))
                compared = feature != "all" and inside.sum() >= self.min_n
                rows.append(
                    {
                        "feature": feature, "group": group, "n": int(inside.sum()),
                        "prevalence": float(self.y[inside].mean()), "low": low, "high": high,
                        **{name: float(value) for name, value in values.items()},
                        "p": self._against_rest(inside) if compared else math.nan,
                        "small": bool(inside.sum() < self.min_n),
                    }
                )  # fmt: skip
        table = pd.DataFrame(rows)
        table["gap"] = table["value"] - table["value"].iloc[0]
        candidates = table["value"].where(~table["small"])
        best = candidates.groupby(table["feature"]).transform("max" if self._up else "min")
        table["gap_to_best"] = table["value"] - best
        table["p_holm"] = holm(table["p"].tolist())
        return table[list(_COLUMNS)]

    def worst(self, feature: str | None = None) -> dict[str, Any]:
        """The table's row of the worst group that is large enough, of one feature or of all.

        Raises ValueError when no group is.
        """
        table = self.table().iloc[1:]
        table = table[~table["small"] & table["value"].notna()]
        if feature is not None:
            table = table[table["feature"] == feature]
        if table.empty:
            raise ValueError(f"no group has {self.min_n} examples and both classes")
        row = table.sort_values("value", ascending=self._up).iloc[0]
        return {str(name): value for name, value in row.items()}

    def simpson(self) -> list[str]:
        """Features for which the whole's value lies outside the range of its groups' values.

        The score then separates the groups from each other, not (only) the classes within them.
        """
        table = self.table()
        whole, groups = table["value"].iloc[0], table.iloc[1:]
        groups = groups[~groups["small"] & groups["value"].notna()]
        flagged = []
        for feature, values in groups.groupby("feature", sort=False)["value"]:
            if len(values) > 1 and not values.min() - 1e-9 <= whole <= values.max() + 1e-9:
                flagged.append(str(feature))
        return flagged

    @property
    def _up(self) -> bool:
        if self.greater_is_better is not None:
            return self.greater_is_better
        return self.metric != "brier"

    def _groupings(self) -> dict[str, NDArray]:
        cut = {str(column): self._cut(str(column)) for column in self.metadata.columns}
        crossed = {
            " × ".join(columns): np.array(
                [", ".join(each) for each in zip(*(cut[c] for c in columns), strict=True)]
            )
            for columns in self.intersections
        }
        return {**cut, **crossed}

    def _cut(self, column: str) -> NDArray:
        values = self.metadata[column]
        numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        if numeric and (column in self.bins or values.nunique() > 10):
            edges = self.bins.get(column, 4)
            if isinstance(edges, int):
                values = pd.qcut(values, edges, duplicates="drop", precision=6)
            else:
                values = pd.cut(values, list(edges), include_lowest=True)
        return np.asarray(values.astype(object).where(values.notna(), "missing").astype(str))

    def _interval(self, inside: NDArray, value: float) -> tuple[float, float]:
        if math.isnan(value):
            return math.nan, math.nan
        if self.metric == "roc_auc":
            return auc_interval(self.y[inside], self.score[inside])
        low, high = np.nanquantile(self._resampled(inside), [0.025, 0.975])
        return float(low), float(high)

    def _against_rest(self, inside: NDArray) -> float:
        if inside.all():
            return math.nan
        if self.metric == "roc_auc":
            (a, v), (b, w) = (delong(self.y[side], self.score[side]) for side in (inside, ~inside))
            if not v + w > 0:
                return math.nan
            return float(2 * stats.norm.sf(abs(a - b) / math.sqrt(v + w)))
        differences = self._resampled(inside) - self._resampled(~inside)
        differences = differences[np.isfinite(differences)]
        if len(differences) == 0:
            return math.nan
        least = min((differences <= 0).sum(), (differences >= 0).sum())
        return float(min(1.0, 2 * (1 + least) / (1 + len(differences))))

    def _resampled(self, inside: NDArray) -> NDArray:
        asked = METRICS[self.metric] if isinstance(self.metric, str) else self.metric
        metric, rng = _where_defined(asked), np.random.default_rng(self.random_state)
        y, score = self.y[inside], self.score[inside]
        drawn = rng.integers(len(y), size=(self.resamples, len(y)))
        return np.array([metric(y[rows], score[rows]) for rows in drawn])


_COLUMNS = (
    "feature", "group", "n", "prevalence", "value", "low", "high", "gap", "gap_to_best", "roc_auc",
    "average_precision", "brier", "calibration", "p", "p_holm", "small",
)  # fmt: skip


def delong(y: Int[NDArray, " n"], score: Float[NDArray, " n"]) -> tuple[float, float]:
    """The area under the ROC curve and the variance of its estimate; NaN with one class only.

    Source: DeLong, DeLong and Clarke-Pearson 1988, by midranks (Sun and Xu 2014).

    >>> delong(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    (0.75, 0.125)
    """
    y, score = np.asarray(y), np.asarray(score, dtype=float)
    positive, negative = score[y == 1], score[y == 0]
    m, n = len(positive), len(negative)
    if m == 0 or n == 0:
        return math.nan, math.nan
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - stats.rankdata(positive)) / n  # share of negatives below each positive
    below = 1 - (ranks[m:] - stats.rankdata(negative)) / m
    spread = sum(
        np.var(each, ddof=1) / len(each) if len(each) > 1 else 0 for each in (above, below)
    )
    return float(above.mean()), float(spread)


def auc_interval(
    y: Int[NDArray, " n"], score: Float[NDArray, " n"], *, confidence: float = 0.95
) -> tuple[float, float]:
    """DeLong's interval of the AUC, on the logit scale, which keeps it in [0, 1].

    Where classes are separated without error the variance is 0; the bound is then that of as many
    successes (or failures) in a row as the rarer class has members.

    >>> [round(bound, 3) for bound in auc_interval(np.array([0] * 5 + [1] * 5), np.arange(10.0))]
    [0.478, 1.0]
    """
    auc, variance = delong(y, score)
    if math.isnan(auc):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    if auc in (0.0, 1.0) or variance == 0:
        rarer = int(min((np.asarray(y) == 1).sum(), (np.asarray(y) == 0).sum()))
        reach = tail ** (1 / rarer)
        return (reach, 1.0) if auc > 0.5 else (0.0, 1 - reach)
    middle = math.log(auc / (1 - auc))
    half = float(stats.norm.ppf(1 - tail)) * math.sqrt(variance) / (auc * (1 - auc))
    return 1 / (1 + math.exp(half - middle)), 1 / (1 + math.exp(-half - middle))


def _average_precision(y: NDArray, score: NDArray) -> float:
    """Precision averaged over recall, ties taken together; NaN without a positive."""
    if not y.any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    found = np.cumsum(y[order])[last]
    return float((np.diff(found, prepend=0) * found / (np.flatnonzero(last) + 1)).sum() / y.sum())


def _brier(y: NDArray, score: NDArray) -> float:
    return float(((score - y) ** 2).mean()) if _are_shares(score) else math.nan


def _calibration(y: NDArray, score: NDArray) -> float:
    return float(score.mean() - y.mean()) if _are_shares(score) else math.nan


def _are_shares(score: NDArray) -> bool:
    return bool(((score >= 0) & (score <= 1)).all())


def _where_defined(metric: Metric) -> Metric:
    """The metric as fairlearn calls it, NaN where a group lacks a class that it needs."""

    def guarded(y_true: Any, y_pred: Any) -> float:
        try:
            return float(metric(np.asarray(y_true), np.asarray(y_pred)))
        except ValueError:
            return math.nan

    return guarded


METRICS: dict[str, Metric] = {
    "roc_auc": lambda y, score: delong(y, score)[0],
    "average_precision": _average_precision,
    "accuracy": lambda y, score: float(((score >= 0.5) == y).mean()),
    "brier": _brier,
}
"""Metrics by name, of labels (n,) and scores (n,)."""
