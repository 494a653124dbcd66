"""How well would each criterion have chosen among trained candidates?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from generality.gap import gap_recovered


@dataclass(frozen=True)
class CriterionReport:
    """How well one criterion chose, over all cells (a target and a seed, say).

    Attributes:
        criterion: its name.
        score: mean test score of the candidate it chooses in each cell.
        regret: mean of (oracle's choice − its choice), in the score's unit; may be negative by
            luck where the oracle is not the test score itself.
        low: lower end of the 95 % t interval of the regret over seeds (over cells without seeds).
        high: upper end.
        rank_correlation: Spearman's, between criterion and test score over the candidates of a
            cell, averaged over cells; NaN where either never varies.
        cells: how many it was measured on.
        gain: relative gain of its choice over that of the first criterion, score ÷ score − 1.
        recovered: share it closes of the gap between the first criterion's choice and the
            oracle's; NaN where there is none.
    """

    criterion: str
    score: float
    regret: float
    low: float
    high: float
    rank_correlation: float
    cells: int
    gain: float = math.nan
    recovered: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def selection_report(
    candidates: pd.DataFrame,
    val_cols: Sequence[str],
    test_col: str = "score",
    *,
    within: Sequence[str] = (),
    oracle: str | None = None,
) -> list[CriterionReport]:
    """What choosing by each criterion costs, and whether it ranks candidates as the test does.

    Args:
        candidates: a row for each trained candidate. Rows without a test score are left out.
        val_cols: the criteria, higher is better; `gain` and `recovered` compare with the first.
        test_col: what the chosen candidate is worth.
        within: columns whose values make the cells; in each, every criterion chooses once. Rank
            correlations are within cells too: over backbones that differ they would mostly
            compare backbones. Without any, all candidates are one cell.
        oracle: the criterion of the perfect choice; None is the test score itself.

    Raises:
        ValueError: a column is missing, or there is no criterion.

    Source: Efthymiadis et al. 2024 (arXiv 2409.19774): correlation and relative gain; regret and
    shares of the gap are ours.

    >>> table = pd.DataFrame({"V_S": [0.97, 0.98, 0.97], "V_A": [0.5, 0.4, 0.6],
    ...                       "test": [0.55, 0.35, 0.60]})
    >>> for each in selection_report(table, ["V_S", "V_A"], "test"):
    ...     print(each.criterion, each.score, round(each.regret, 2), round(each.recovered, 2))
    V_S 0.35 0.25 0.0
    V_A 0.6 0.0 1.0
    """
    ideal = test_col if oracle is None else oracle
    lacking = {*val_cols, test_col, *within, ideal} - set(candidates.columns)
    if lacking or not val_cols:
        raise ValueError(
            f"the table of candidates lacks {', '.join(sorted(lacking)) or 'criteria'}"
        )
    scored = candidates[candidates[test_col].notna()].assign(_all=0)
    cells = [*within] or ["_all"]
    best = chosen(scored, ideal, cells).set_index(cells)[test_col]
    found = [_report(scored[scored[n].notna()], n, best, cells, test_col) for n in val_cols]
    first = found[0].score
    top = found[0].score + found[0].regret
    return [
        CriterionReport(
            **{
                **each.to_dict(),
                "gain": each.score / first - 1 if first else math.nan,
                "recovered": float(gap_recovered(first, each.score, top)),
            }
        )
        for each in found
    ]


def chosen(candidates: pd.DataFrame, by: str, within: Sequence[str]) -> pd.DataFrame:
    """The row with the highest value of criterion `by` in each group of `within`.

    The first row wins a tie; where no row has a value the first is taken.

    >>> table = pd.DataFrame({"method": ["a", "a", "b"], "draw": [0, 1, 0], "v": [0.5, 0.7, 0.6]})
    >>> chosen(table, "v", ["method"])["draw"].tolist()
    [1, 0]
    """
    values = candidates[by].astype(float).fillna(-math.inf)
    groups = [candidates[name] for name in within]
    best = values.groupby(groups, sort=False).transform("max")
    return candidates[values == best].drop_duplicates(list(within))


def _report(
    candidates: pd.DataFrame, name: str, best: pd.Series, cells: list[str], test_col: str
) -> CriterionReport:
    took = chosen(candidates, name, cells).set_index(cells)[test_col]
    regret = (best - took).dropna()
    per = regret.groupby(level="seed").mean() if "seed" in cells else regret
    seeds = per.to_numpy(dtype=float)
    half = math.inf
    if len(seeds) > 1:
        half = float(stats.t.ppf(0.975, len(seeds) - 1) * seeds.std(ddof=1) / math.sqrt(len(seeds)))
    ranks = [spearman(cell[name], cell[test_col]) for _, cell in candidates.groupby(cells)]
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


def spearman(first: Any, second: Any) -> float:
    """Rank correlation; NaN for fewer than 3 pairs or where a side never varies."""
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(stats.spearmanr(a, b).statistic)
