"""What a choice is worth that was made on other seeds: never looked at twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from generality.claims import Row


def chosen_elsewhere(
    rows: Iterable[Row],
    *,
    choice: str = "network",
    factor: str = "ratio",
    within: Sequence[str] = ("method",),
) -> Iterator[Row]:
    """Each seed's rows of the option that the other seeds' mean score ranks first, and second.

    The rows are those of the options chosen, with `choice` replaced by "best elsewhere", "second
    elsewhere" and, where the factor has several values, "best at another <factor>": chosen by the
    other seeds' rows at its other values. The best on the very rows it is scored on would look
    better than it is. With fewer than two options or two seeds there is nothing to choose.

    Args:
        rows: with a `score` and a `seed`; for one combination of `within`, `factor`, seed and
            option one row.
        choice: the column that names the options.
        factor: the column whose values an option is chosen at.
        within: the other columns that tell rows apart; the choice is made anew in each.

    >>> rows = [Row(method="a", network=net, ratio=0.5, seed=seed, score=score, floor=None)
    ...         for net, scores in {"wide": (0.9, 0.7), "deep": (0.8, 0.8)}.items()
    ...         for seed, score in enumerate(scores)]
    >>> [(row["network"], row["score"]) for row in chosen_elsewhere(rows) if row["seed"] == 0]
    [('best elsewhere', 0.8), ('second elsewhere', 0.9)]
    """
    every = list(rows)
    table = pd.DataFrame(every)
    if not every or min(table[choice].nunique(), table["seed"].nunique()) < 2:
        return
    names = [*within, factor, "seed", choice]
    by_name = {tuple(row[name] for name in names): row for row in every}
    for key, arm in table.groupby(list(within)):
        for value, seed in itertools.product(arm[factor].unique(), arm["seed"].unique()):
            others = arm[arm["seed"] != seed]
            here = _ranked(others[others[factor] == value], choice)
            named = {"best elsewhere": here[0], "second elsewhere": here[1]}
            if arm[factor].nunique() > 1:
                best = _ranked(others[others[factor] != value], choice)[0]
                named[f"best at another {factor}"] = best
            for name, option in named.items():
                yield Row({**by_name[(*key, value, seed, option)], choice: name})


def _ranked(rows: pd.DataFrame, choice: str) -> list[str]:
    """Options from the best mean score down."""
    return list(rows.groupby(choice)["score"].mean().sort_values(ascending=False).index)
