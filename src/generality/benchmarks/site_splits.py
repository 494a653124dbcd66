"""Rows of several sites, split at random or by time: what is trained on and what is tested on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from generality.benchmarks.hospital_notes import hospital_notes
from generality.benchmarks.splits import holdout
from generality.errors import UserError, unknown

_CODES_FROM = 547  # of 730 days: codes are in use in hospital notes from then on


def read_sites(path: str) -> pd.DataFrame:
    """A CSV with the columns text, label (0 or 1), site and date, and any metadata.

    Raises UserError where there is none, or a column lacks.

    >>> read_sites("missing.csv")
    Traceback (most recent call last):
    generality.errors.UserError: There is no table at missing.csv: name a CSV file.
    """
    try:
        rows = pd.read_csv(path)
    except OSError as error:
        raise UserError(f"There is no table at {path}: name a CSV file.") from error
    lacking = {"text", "label", "site", "date"} - set(rows.columns)
    if lacking or not rows["label"].isin([0, 1]).all():
        raise UserError(f"{path} needs text, label (0 or 1), site and date.")
    return rows


def split_sites(
    rows: pd.DataFrame, split: str, *, share: float = 0.3, drawn: float = 1.0, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test rows of a table with a date; both splits have as many test rows.

    Args:
        rows: with a column `date` that sorts.
        split: "temporal": the latest rows are the test; "random": any.
        share: of the test rows.
        drawn: share of the training rows that a seed draws.
        seed: of the random split, and of what is drawn.

    >>> table = pd.DataFrame({"date": [3, 1, 4, 2], "site": list("abab")})
    >>> train, test = split_sites(table, "temporal", share=0.25)
    >>> test["date"].tolist(), len(train)
    ([4], 3)
    """
    _check(split)
    rng = np.random.default_rng(seed)
    train, test = holdout(rows["date"].to_numpy(), by="time", share=share)
    if split == "random":
        order = rng.permutation(len(rows))
        train, test = order[: len(train)], order[len(train) :]
    kept = np.sort(rng.permutation(train)[: round(drawn * len(train))])
    return rows.iloc[kept], rows.iloc[np.sort(test)]


def hospital_splits(
    split: str,
    *,
    notes: int = 2000,
    test_notes: int = 600,
    ceiling_notes: int = 1000,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """`hospital_notes` to train on, to test on, and more of each hospital for a ceiling.

    The random split trains on as many notes as the temporal one, of any day, and tests on fresh
    ones of any day; the temporal split trains before codes come into use and tests after.

    Args:
        split: see above.
        notes: for training, over four hospitals of 60, 25, 12 and 3 %.
        test_notes: of each hospital; the temporal split draws four times as many and keeps those
            that are late enough.
        ceiling_notes: most that are added to a hospital, else nine times its own.
        seed: of all of it.

    >>> train, test, more = hospital_splits("random", notes=60, test_notes=5, ceiling_notes=4)
    >>> test["site"].value_counts().tolist(), "hospital" in train
    ([5, 5, 5, 5], False)
    """
    _check(split)
    rng = np.random.default_rng(seed)
    pool = hospital_notes(notes * 4 // 3, seed=10 * seed)
    early, _ = holdout(pool["day"].to_numpy(), by="time", held=_CODES_FROM)
    chosen = early if split == "temporal" else rng.permutation(len(pool))[: len(early)]
    tests, more = [], []
    for place, name in enumerate(np.unique(pool["hospital"])):
        size = test_notes * (4 if split == "temporal" else 1)
        fresh = hospital_notes(size, seed=10 * seed + 1 + place, hospital=name)
        tests.append(fresh[fresh["day"] >= _CODES_FROM] if split == "temporal" else fresh)
        own = int((pool.iloc[chosen]["hospital"] == name).sum())
        extra = hospital_notes(
            min(9 * max(own, 1), ceiling_notes), seed=10 * seed + 5 + place, hospital=name
        )
        more.append(extra[extra["day"] < _CODES_FROM] if split == "temporal" else extra)
    train, test, added = (
        frame.rename(columns={"hospital": "site"})
        for frame in (pool.iloc[np.sort(chosen)], pd.concat(tests), pd.concat(more))
    )
    return train, test, added


def _check(split: str) -> None:
    if split not in ("random", "temporal"):
        raise unknown("split", split, ("random", "temporal"))
