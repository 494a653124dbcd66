"""What a leave-one-domain-out tournament allows to be said: verdicts, sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from generality.claims import Claim, Verdict, greater, judge
from generality.compare.domain_methods import FLOOR
from generality.compare.domain_table import DomainTable
from generality.compare.selection import CRITERIA, CriterionReport
from generality.gap import recovered_interval


def significance(rows: pd.DataFrame, names: Sequence[str]) -> list[Verdict]:
    """Does each method beat plain training? Paired over seeds × targets, Holm over the methods.

    A target and a seed make one pair. The pairs of one target share its rows, so the tests speak
    of these domains under other splits, not of domains drawn anew.
    """
    if rows["score"].isna().all():
        return []
    pairs = rows.groupby(["target", "seed"], sort=False).ngroup()
    judged = rows.assign(seed=pairs)
    claims = [
        Claim(f"{name} beats plain training on the domains left out", greater(name, FLOOR))
        for name in names
        if name != FLOOR
    ]
    said = "pairs of seed and domain"
    verdicts = judge(claims, judged, factors=())
    return [replace(each, note="; ".join(filter(None, (said, each.note)))) for each in verdicts]


def sentences(
    rows: pd.DataFrame,
    winner: str,
    *,
    select: str,
    criteria: Sequence[CriterionReport],
    table: DomainTable,
    targets: Sequence[int],
) -> list[str]:
    """The winner, what choosing it cost, where it is weakest, and how far to trust it."""
    if rows["score"].isna().all():
        return _unscored(rows, winner, select, table, targets)
    means = rows.groupby("method", sort=False)["score"].mean()
    own = rows[rows["method"] == winner]
    score, best = float(means[winner]), str(means.idxmax())
    said = [
        f"Saved: {winner}, chosen by {select} ({CRITERIA[select]}; mean {own['select'].mean():.3f})"
        f"; on the domains left out it scored {score:.3f}, plain training {means[FLOOR]:.3f}. "
        + (
            "No method scored higher there."
            if means[best] <= score
            else f"{best} scored highest there ({means[best]:.3f}): choosing without looking cost "
            f"{means[best] - score:.3f}."
        )
    ]
    if select == "oracle":
        said.insert(0, _PEEKED)
    if winner == FLOOR and len(means) > 1:
        said.append(
            "Plain training won: on this data no special method is preferred by the criterion."
        )
    elif winner != FLOOR and score <= means[FLOOR]:
        said.append(
            f"It does not beat plain training on the domains left out ({means[FLOOR]:.3f}): ship "
            "that one unless you have another reason (--methods erm saves it)."
        )
    by_domain = own.groupby("target", sort=False)["score"].mean()
    worst = str(by_domain.idxmin())
    group = own[own["target"] == worst]["worst_group"].mean()
    if len(by_domain) > 1:
        said.append(
            f"Its worst domain is '{worst}' ({by_domain[worst]:.3f}; the worst group there "
            f"{_number(group)}); expect a domain like it as much as the mean."
        )
    counts = np.bincount(table.labels[table.labels >= 0], minlength=len(table.label_names))
    said.append(
        f"Always answering '{table.label_names[int(counts.argmax())]}' would score "
        f"{counts.max() / counts.sum():.3f} over all domains."
    )
    said += _on_picks(rows)
    said += _on_criteria(criteria, select)
    said.append(
        f"Seeds split the same {len(table.domain_names)} domains anew: intervals say how much the "
        "split and the training matter, and not how much one unseen domain differs from the next."
    )
    said.append(
        "The saved model is trained on the rows of all domains, with the winner's settings. Its "
        "accuracy on a new domain was not measured; the scores of the domains left out estimate it."
    )
    return said


_PEEKED = (
    "--select oracle looked at labels of the domains left out: these scores cannot be had by "
    "anyone who does not know the target's labels. Use it to see what selection is worth."
)


def _unscored(
    rows: pd.DataFrame, winner: str, select: str, table: DomainTable, targets: Sequence[int]
) -> list[str]:
    own = rows[rows["method"] == winner]["select"].mean()
    names = ", ".join(f"'{table.domain_names[t]}'" for t in targets)
    return [
        f"Saved: {winner}, chosen by {select} ({CRITERIA[select]}; mean {own:.3f}).",
        f"{names} has too few labelled rows to be scored on: no score, floor or ceiling is known. "
        "Leave out --target to see how each method does on the domains whose labels you have.",
    ]


def _on_picks(rows: pd.DataFrame) -> list[str]:
    """What an oracle would take of the hypotheses of methods that train several."""
    if "oracle_pick" not in rows:
        return []
    means = rows.dropna(subset="oracle_pick").groupby("method", sort=False)
    return [
        f"{name} trains several hypotheses: the one taken scored {part['score'].mean():.3f}, the "
        f"one that labels of the domain left out would pick {part['oracle_pick'].mean():.3f} (an "
        "oracle, which nobody has)."
        for name, part in means
    ]


def _on_criteria(criteria: Sequence[CriterionReport], select: str) -> list[str]:
    mine = next((each for each in criteria if each.criterion == select), None)
    others = [each for each in criteria if each.criterion not in (select, "oracle")]
    if mine is None or select == "oracle":
        return []
    said = [
        f"Taking in every target and seed the candidate that {select} ranks first, of any method, "
        f"scores {mine.score:.3f}; the oracle's choice scores {mine.score + mine.regret:.3f}."
    ]
    best = min(others, key=lambda each: each.regret, default=None)
    if best is not None and best.regret < mine.regret:
        said.append(
            f"On these domains {best.criterion} would have chosen better (regret {best.regret:.3f} "
            f"against {mine.regret:.3f}); to pick a criterion by that is to look at the targets."
        )
    return said


def tables(
    rows: pd.DataFrame,
    winner: str,
    verdicts: Sequence[Verdict],
    criteria: Sequence[CriterionReport],
    select: str,
) -> list[dict[str, Any]]:
    """What the page and the terminal show beside the leaderboard: columns and rows of words."""
    if rows["score"].isna().all():
        return []
    p_values = {verdict.statement.split(" beats ")[0]: verdict for verdict in verdicts}
    standings = []
    means = rows.groupby("method", sort=False)
    for called, part in sorted(means, key=lambda each: -each[1]["score"].mean()):
        name = str(called)
        by_domain = part.groupby("target", sort=False)["score"].mean()
        verdict, worst = p_values.get(name), str(by_domain.idxmin())
        standings.append(
            [
                f"{name} (saved)" if name == winner else name,
                _number(part["score"].mean()),
                recovered(part),
                f"{_number(by_domain.min())} {worst}",
                _number(part["worst_group"].mean()),
                _number(part["ece"].mean()),
                _number(part["select"].mean()),
                "–" if verdict is None else _probability(verdict.p_holm),
            ]
        )
    chosen_by = [
        [
            f"{each.criterion} (used)" if each.criterion == select else each.criterion,
            _number(each.score),
            _number(each.regret),
            f"{_number(each.low)} to {_number(each.high)}",
            _number(each.rank_correlation),
        ]
        for each in criteria
    ]
    return [
        {
            "title": "Beyond the mean",
            "columns": [
                "Method", "Accuracy", "Recovered", "Worst domain", "Worst group", "ECE",
                "Criterion", "p (Holm) vs erm",
            ],
            "rows": standings,
            "note": "Means over all domains left out and seeds. Recovered: share of the mean gap "
            "over all of them, those without a gap included, with its 95 % interval. Worst group: "
            f"the lowest accuracy of a group within a domain. Criterion: {select}, by which the "
            "winner is chosen. p: one-sided paired t over seeds × domains.",
        },
        {
            "title": "How well each criterion chooses",
            "columns": ["Criterion", "Accuracy of its choice", "Regret", "95 % interval",
                        "Rank correlation"],
            "rows": chosen_by,
            "note": "Regret: accuracy of the oracle's choice minus its own, over all candidates. "
            "Rank correlation: Spearman's, with accuracy on the domain left out, within target "
            "and seed.",
        },
    ]  # fmt: skip


def recovered(part: pd.DataFrame) -> str:
    """A method's share of the mean gap over all its domains, paired by seed, in words."""
    means = part.groupby("seed")[["floor", "score", "ceiling"]].mean()
    share = recovered_interval(*(means[name].to_numpy() for name in ("floor", "score", "ceiling")))
    if not share.gap:
        return "no gap"
    ends = f" [{percent(share.low)}, {percent(share.high)}]" if np.isfinite(share.low) else ""
    return f"{percent(share.estimate)} %{ends}"


def percent(share: float) -> str:
    """A share as a whole number of percent, without the sign."""
    return f"{100 * share:.0f}".replace("-", "−").replace("inf", "∞")


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−") if np.isfinite(value) else "–"


def _probability(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
