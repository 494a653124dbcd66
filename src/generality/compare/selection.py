"""Choosing among trained candidates without looking at the domain they will meet.

A criterion is a number for each candidate (a method with one draw of its hyper-parameters, one
target, one seed), computed while training; the candidate with the highest is taken. How well a
criterion chooses can be measured afterwards, on targets whose labels are known: what was the
accuracy of its choice, how far is that below the oracle's, and does it rank candidates as the
target does?
"""

from __future__ import annotations

import pandas as pd

from generality.measures.selection_report import CriterionReport, chosen, selection_report

__all__ = ["CELL", "CRITERIA", "CriterionReport", "chosen", "report_criteria"]

CRITERIA = {
    "held-out-source": "accuracy on held-out rows of the training domains",
    "leave-one-domain-out": "accuracy on each training domain of a model trained without it",
    "crafted-shift": "accuracy on corrupted held-out rows of the training domains",
    "target-sample": "accuracy on a fifth of the few labelled rows of the target that one has",
    "oracle": "accuracy on labelled rows of the target itself, which one would not have",
}
"""By name, what each measures. "oracle" peeks: it says what perfect selection would be worth."""

CELL = ["target", "seed"]


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
    return selection_report(scored, known, within=CELL, oracle="oracle")
