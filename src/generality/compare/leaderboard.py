"""The standings of a comparison, from its rows alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from math import inf, isfinite, nan, sqrt
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from generality.claims import Row, greater
from generality.gap import RecoveredShare, recovered_interval

_BASIC = ["method", "seed", "score", "floor", "ceiling"]
_MEASURES = (
    "ece", "agreement", "copied_errors", "negative_flips", "positive_flips", "relative_flips",
    "weak_loss",
)  # fmt: skip
_CHOICE = ["select", "select_flips", "select_error"]


@dataclass(frozen=True)
class Standing:
    """One method over all seeds; numbers that are not known are NaN.

    Attributes:
        method: its name.
        seeds: how many.
        score: mean accuracy on the report parts.
        low: lower end of its 95 % t interval over seeds; −inf with one seed.
        high: upper end.
        floor: mean accuracy of the weak labels there.
        ceiling: mean accuracy of the same model trained on true labels.
        share: recovered share of the gap with its interval; None without truth.
        p_floor: one-sided paired p over seeds of "not better than the weak labels".
        p_naive: likewise of "not better than naive training"; NaN for naive itself.
        select: mean accuracy on the select parts, by which the winner is chosen.
        chosen: whether this is the winner.
        measures: means of the further columns (`ece`, `agreement`, …).
    """

    method: str
    seeds: int
    score: float
    low: float
    high: float
    floor: float
    ceiling: float
    share: RecoveredShare | None
    p_floor: float
    p_naive: float
    select: float
    chosen: bool
    measures: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for what is not a finite number."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def leaderboard(rows: pd.DataFrame | Iterable[Row]) -> list[Standing]:
    """Standings, best score first; without scores, in the order of the rows.

    The winner is the method with the best mean `select`; the first in the rows wins a tie. No
    p-value here is corrected for the number of methods.

    >>> rows = [dict(method=m, seed=s, score=x, floor=0.7 + s / 100, ceiling=0.9, select=x)
    ...         for m, x in (("naive", 0.8), ("product", 0.85)) for s in range(3)]
    >>> [(each.method, each.chosen, str(each.share)) for each in leaderboard(rows)]
    [('product', True, '0.74 [0.69, 0.77]'), ('naive', False, '0.47 [0.39, 0.54]')]
    """
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if frame.empty:
        return []
    wanted = [*_BASIC, *_CHOICE, *_MEASURES]
    numbers = frame.reindex(columns=wanted)
    numbers[wanted[1:]] = numbers[wanted[1:]].astype(float)
    chosen = winner(numbers)
    standings = [
        _standing(str(method), part, numbers[_BASIC], chosen)
        for method, part in numbers.groupby("method", sort=False)
    ]
    return sorted(standings, key=lambda each: -each.score if isfinite(each.score) else 0.0)


def winner(rows: pd.DataFrame) -> str | None:
    """The method with the best mean `select`; None without any.

    Where an old model's answers should be kept there is `select_flips`, the share that it had right
    and the method has wrong: the method with the fewest wins, among those whose mean `select` is
    within one standard error (`select_error`) of the best.
    """
    if "select" not in rows or rows["select"].isna().all():
        return None
    if "select_flips" in rows and rows["select_flips"].notna().any():
        found = rows.groupby("method", sort=False)[_CHOICE].mean()
        place = int(found["select"].to_numpy().argmax())
        least = found["select"].iloc[place] - found["select_error"].iloc[place]
        return str(found.loc[found["select"] >= least, "select_flips"].idxmin())
    means = rows.groupby("method", sort=False)["select"].mean()
    return str(means.index[int(np.nanargmax(means.to_numpy()))])


def _standing(method: str, part: pd.DataFrame, rows: pd.DataFrame, chosen: str | None) -> Standing:
    scores = part["score"].dropna().to_numpy()
    mean = float(scores.mean()) if len(scores) else nan
    half = inf if len(scores) else nan
    if len(scores) > 1:
        t = stats.t.ppf(0.975, len(scores) - 1)
        half = float(t * scores.std(ddof=1) / sqrt(len(scores)))
    whole = part.dropna(subset=_BASIC)
    share = recovered_interval(*(whole[name].to_numpy() for name in ("floor", "score", "ceiling")))
    known = len(scores) > 0
    return Standing(
        method=method,
        seeds=len(part),
        score=mean,
        low=mean - half,
        high=mean + half,
        floor=float(part["floor"].mean()),
        ceiling=float(part["ceiling"].mean()),
        share=share if len(whole) else None,
        p_floor=greater(method, "floor")(rows).p if known else nan,
        p_naive=greater(method, "naive")(rows).p if known and method != "naive" else nan,
        select=float(part["select"].mean()),
        chosen=method == chosen,
        measures={name: float(part[name].mean()) for name in _MEASURES if part[name].notna().any()},
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value
