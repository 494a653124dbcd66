"""From a study's rows to one number per seed for each of the things a claim compares.

Within a seed the arms are paired on every factor that they share, then averaged over the factors,
so that an arm which lacks a combination (a run cut short, an arm left out) is not compared with
arms that have it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

Row = dict
"""One result of a study: `method` (str), `seed` (int), `score`, `floor`, `ceiling`, `recovered`
(float or None), and one entry per factor (`weak`, `epochs`, …) or further measurement
(`agreement`, …). Values are str, int, float, bool or None.

Which columns are factors is declared (`FACTORS` of a study). Of rows without such a declaration, a
further column counts as one when no seed shows a value that the fullest seed lacks, as settings do
and measurements do not; a measurement of a handful of values (`best_epoch`) is then mistaken for a
setting, so declare them."""

Factors = Collection[str] | None
"""The columns that were set, or None where nobody declared them; `method` always is one."""

Where = Mapping[str, Any]
"""Which rows to look at: column → a value, a list of values, or a function of the column."""

_NEVER_FACTORS = {"seed", "score", "floor", "ceiling", "recovered"}


class Missing(Exception):  # noqa: N818 - not an error: a study may leave an arm out
    """What the rows lack for a test to be made."""


def select(rows: pd.DataFrame, where: Where | None, columns: Iterable[str]) -> pd.DataFrame:
    """The rows that `where` asks for; `Missing` without any, or without these columns."""
    lacking = sorted({*columns, *(where or {})} - set(rows.columns))
    if lacking:
        raise Missing("column " + ", ".join(lacking))
    for column, wanted in (where or {}).items():
        values = rows[column]
        if callable(wanted):
            rows = rows[wanted(values)]
        else:
            rows = rows[values.isin(wanted if pd.api.types.is_list_like(wanted) else [wanted])]
    if rows.empty:
        raise Missing("rows" + filtered(where).removeprefix(","))
    return rows


def filtered(where: Where | None, by: str = "method") -> str:
    """What a description says about the rows looked at.

    >>> filtered({"epochs": 2, "weak": ["a", "b"]})
    ', where epochs=2, where weak=a or b'
    """
    shown = [] if by == "method" else [f"by {by}"]
    for column, wanted in (where or {}).items():
        several = " or ".join(map(str, wanted)) if pd.api.types.is_list_like(wanted) else wanted
        shown.append(f"where {column}" + (" is chosen" if callable(wanted) else f"={several}"))
    return "".join(f", {part}" for part in shown)


def arm(rows: pd.DataFrame, value: str | float, only: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with these values, and in column "_value" the column or number that is compared."""
    named = ", ".join(f"{column} '{wanted}'" for column, wanted in only.items())
    for column, wanted in only.items():
        rows = rows[rows[column] == wanted]
    if rows.empty:
        raise Missing(named)
    if isinstance(value, str) and value not in rows:
        raise Missing(f"column {value}")
    values = pd.to_numeric(rows[value], errors="coerce") if isinstance(value, str) else value
    found = rows.assign(_value=values).dropna(subset="_value")
    if found.empty:
        raise Missing(f"{value} of {named}" if named else str(value))
    return found


def per_seed(
    rows: pd.DataFrame, arms: Sequence[pd.DataFrame], taken: set[str], declared: Factors
) -> tuple[Float[NDArray, "seeds arms"], str]:
    """Each arm's mean for each seed, over the combinations of factors that have all arms.

    Columns in `taken` are what is compared, not factors; `declared` ones are the factors. The
    string is a note on what had to be left out.
    """
    if "seed" not in rows or rows["seed"].isna().all():
        raise Missing("column seed")
    others = rows.columns.difference([*_NEVER_FACTORS, *taken])
    factors = [
        column for column in others if _is_set(column, rows, declared) and _is_shared(column, arms)
    ]
    long = pd.concat([found.assign(_arm=i) for i, found in enumerate(arms)], ignore_index=True)
    cell = long.groupby(["seed", *factors], dropna=False, sort=False, observed=True).ngroup()
    table = long.groupby(["seed", cell, "_arm"])["_value"].mean().unstack()
    complete = table.dropna()
    if complete.empty:
        raise Missing("a seed in which the arms can be paired")
    lost = len(table) - len(complete)
    note = f"{lost} of {len(table)} cells lack an arm and are left out" if lost else ""
    return complete.groupby(level="seed").mean().to_numpy(dtype=float), note


def _is_set(column: str, rows: pd.DataFrame, declared: Factors) -> bool:
    """Whether this column is a setting: declared as one, or one by the look of it (see `Row`)."""
    if declared is not None:
        return column == "method" or column in declared
    fullest = rows[rows["seed"] == rows["seed"].mode()[0]]
    return set(rows[column].dropna()) <= set(fullest[column].dropna())


def _is_shared(column: str, arms: Sequence[pd.DataFrame]) -> bool:
    return bool(set.intersection(*(set(found[column].dropna()) for found in arms)))


def differences(
    rows: pd.DataFrame,
    left: Any,
    right: Any,
    *,
    on: str,
    by: str,
    where: Where | None,
    declared: Factors,
) -> tuple[Float[NDArray, " seeds"], str]:
    """left − right for every seed, and a note; the sides are what `claims.paired` takes."""

    def own(side: Any) -> dict[str, Any] | None:
        is_level = side not in ("floor", "ceiling") and (by != "method" or isinstance(side, str))
        return {by: side} if is_level else None

    rows = select(rows, where, {on, by} if own(left) or own(right) else ())
    arms = [
        arm(rows, on if own(side) else side, own(side) or own(other) or {})
        for side, other in ((left, right), (right, left))
    ]
    means, note = per_seed(rows, arms, {on, by}, declared)
    return minus(means[:, 0], means[:, 1]), note


def minus(a: NDArray, b: NDArray) -> NDArray:
    """a − b, exactly 0 where they differ by rounding only."""
    return np.where(np.isclose(a, b, rtol=1e-12, atol=0), 0.0, a - b)
