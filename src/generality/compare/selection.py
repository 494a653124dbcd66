"""Choosing among trained candidates without looking at the domain they will meet.

A criterion is a number for each candidate (a method with one draw of its hyper-parameters, one
target, one seed), computed while training; the candidate with the highest is taken. How well a
criterion chooses can be measured afterwards, on targets whose labels are known: what was the
accuracy of its choice, how far is that below the oracle's, and does it rank candidates as the
target does?
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

CRITERIA = {
    "held-out-source": "accuracy on held-out rows of the training domains",
    "leave-one-domain-out": "accuracy on each training domain of a model trained without it",
    "crafted-shift": "accuracy on corrupted held-out rows of the training domains",
    "oracle": "accuracy on labelled rows of the target itself, which one would not have",
}
"""By name, what each measures. "oracle" peeks: it says what perfect selection would be worth."""

CELL = ["target", "seed"]


def chosen(candidates: pd.DataFrame, by: str, within: list[str]) -> pd.DataFrame:
    """The row with the highest value of criterion `by` in each group of `within`.

    The first row wins a tie; where no row has a value the first is taken (draw 0 is a method's
    defaults).

    >>> table = pd.DataFrame({"method": ["a", "a", "b"], "draw": [0, 1, 0], "v": [0.5, 0.7, 0.6]})
    >>> chosen(table, "v", ["method"])["draw"].tolist()
    [1, 0]
    """
    values = candidates[by].astype(float).fillna(-math.inf)
    groups = [candidates[name] for name in within]
    best = values.groupby(groups, sort=False).transform("max")
    return candidates[values == best].drop_duplicates(within)


@dataclass(frozen=True)
class CriterionReport:
    """How well one criterion chose, over all targets and seeds.

    Attributes:
        criterion: its name.
        score: mean accuracy on the target of the candidate it chooses in each cell.
        regret: mean of (oracle's choice − its choice), in accuracy; may be negative by luck.
        low: lower end of the 95 % t interval of the regret over seeds.
        high: upper end.
        rank_correlation: Spearman's, between criterion and target accuracy over the candidates of
            a cell, averaged over cells; NaN where either never varies.
        cells: targets × seeds it was measured on.
    """

    criterion: str
    score: float
    regret: float
    low: float
    high: float
    rank_correlation: float
    cells: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def report_criteria(candidates: pd.DataFrame) -> list[CriterionReport]:
    """How every criterion that was computed would have chosen among all candidates.

    Args:
        candidates: columns `target`, `seed`, `score` and one per criterion of `CRITERIA`; the
            oracle's must be there. Rows without a score are left out.

    >>> table = pd.DataFrame({"target": "t", "seed": 0, "score": [0.5, 0.6, 0.8],
    ...     "held-out-source": [0.9, 0.8, 0.7], "oracle": [0.5, 0.6, 0.8]})
    >>> [(r.criterion, round(r.regret, 2), r.rank_correlation) for r in report_criteria(table)]
    [('held-out-source', 0.3, -1.0), ('oracle', 0.0, 1.0)]
    """
    scored = candidates[candidates["score"].notna()]
    known = [name for name in CRITERIA if name in scored and scored[name].notna().any()]
    if scored.empty or "oracle" not in known:
        return []
    best = chosen(scored, "oracle", CELL).set_index(CELL)["score"]
    return [_report(scored[scored[name].notna()], name, best) for name in known]


def _report(candidates: pd.DataFrame, name: str, best: pd.Series) -> CriterionReport:
    took = chosen(candidates, name, CELL).set_index(CELL)["score"]
    regret = (best - took).dropna()
    seeds = regret.groupby(level="seed").mean().to_numpy()
    half = math.inf
    if len(seeds) > 1:
        half = float(stats.t.ppf(0.975, len(seeds) - 1) * seeds.std(ddof=1) / math.sqrt(len(seeds)))
    ranks = [_spearman(cell[name], cell["score"]) for _, cell in candidates.groupby(CELL)]
    known = [rank for rank in ranks if math.isfinite(rank)]
    return CriterionReport(
        criterion=name,
        score=float(took.mean()),
        regret=float(regret.mean()),
        low=float(regret.mean()) - half,
        high=float(regret.mean()) + half,
        rank_correlation=float(np.mean(known)) if known else math.nan,
        cells=len(took),
    )


def _spearman(first: pd.Series, second: pd.Series) -> float:
    a, b = first.to_numpy(dtype=float), second.to_numpy(dtype=float)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(stats.spearmanr(a, b).statistic)
