"""Which properties of an example predict that a model fails on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Real
from scipy import stats

from generality.claims import holm


def failure_drivers(
    errors: Real[Any, " n"],
    metadata: pd.DataFrame,
    *,
    model: Literal["gbdt", "logistic"] = "gbdt",
    grouped: Mapping[str, Sequence[str]] | None = None,
    folds: int = 5,
    repeats: int = 4,
    random_state: int = 0,
) -> pd.DataFrame:
    """Permutation importance of metadata for a model's errors, on rows held out, with intervals.

    A small model learns to tell errors from metadata. The importance of a driver is what its
    prediction loses, on rows it was not fitted to, when the driver's columns are shuffled together.
    Columns that go together (age and number of illnesses) share their importance: put them in one
    group, or each looks as if it did not matter. This is an observation, not a cause.

    Args:
        errors: 0 and 1 (the AUC is what is lost), or a loss per example (R² is).
        metadata: one column per property: numbers, dates or categories. What is missing is a
            category of its own, and among numbers the median with a mark.
        model: "gbdt" (boosted trees) or "logistic" (linear on standardised and one-hot columns;
            ridge for losses).
        grouped: drivers of several columns, by name; other columns are drivers of their own.
        folds: of cross-validation.
        repeats: of the cross-validation, on shuffled rows.
        random_state: of folds and shuffles.

    Returns:
        One row per driver, the most important first: driver, importance, low and high (95 %), p
        (one-sided: it matters at all) and p_holm. The intervals allow for the overlap of training
        sets between folds. `attrs["skill"]` is the small model's own held-out AUC or R²: when it is
        near 0.5 or 0 there is nothing to explain.

    Raises:
        ValueError: for lengths that differ, no columns, errors that are not finite, too few errors
            for the folds, or unknown columns.

    Source: Breiman 2001 (permutation importance); Nadeau and Bengio 2003 (variance over folds);
    the question is that of Jiang et al. 2024 (arXiv 2402.10965).

    >>> rng = np.random.default_rng(0)
    >>> words, ward = rng.integers(900, size=600), rng.choice(["A", "B"], size=600)
    >>> notes = pd.DataFrame({"words": words, "ward": ward})
    >>> failed = rng.random(600) < np.where(notes["words"] > 512, 0.6, 0.1)
    >>> failure_drivers(failed, notes, repeats=1)["driver"].tolist()
    ['words', 'ward']
    """
    wrong = np.asarray(errors)
    if len(wrong) != len(metadata):
        raise ValueError(f"errors and metadata have {len(wrong)} and {len(metadata)} rows")
    if not len(metadata.columns) or not np.isfinite(wrong.astype(float)).all():
        raise ValueError("there is at least one column of metadata, and errors are finite numbers")
    drivers = _drivers(metadata, grouped or {})
    metadata = _readable(metadata)
    binary = bool(np.isin(wrong, (0, 1)).all())
    if binary and min((wrong == 0).sum(), (wrong == 1).sum()) < 2 * folds:
        raise ValueError(f"{folds} folds need at least {2 * folds} errors and as many successes")
    from sklearn.metrics import r2_score, roc_auc_score
    from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold

    wrong = wrong.astype(int) if binary else wrong.astype(float)
    splitter = (RepeatedStratifiedKFold if binary else RepeatedKFold)(
        n_splits=folds, n_repeats=repeats, random_state=random_state
    )
    rng = np.random.default_rng(random_state)
    lost: list[list[float]] = []
    skills: list[float] = []
    for train, test in splitter.split(metadata, wrong):
        fitted = _pipeline(model, binary, metadata).fit(metadata.iloc[train], wrong[train])

        def skill(rows: pd.DataFrame, fitted: Any = fitted, test: Any = test) -> float:
            if binary:
                return float(roc_auc_score(wrong[test], fitted.predict_proba(rows)[:, 1]))
            return float(r2_score(wrong[test], fitted.predict(rows)))

        rows = metadata.iloc[test].reset_index(drop=True)
        skills.append(skill(rows))
        lost.append([])
        for columns in drivers.values():
            shuffled = rows.copy()
            order = rng.permutation(len(rows))
            for column in columns:
                shuffled[column] = rows[column].iloc[order].reset_index(drop=True)
            lost[-1].append(skills[-1] - skill(shuffled))
    losses = np.array(lost)
    means, draws = losses.mean(0), len(losses)
    error = losses.std(0, ddof=1) * np.sqrt(1 / draws + 1 / (folds - 1))
    half = stats.t.ppf(0.975, draws - 1) * error
    ratio = np.divide(means, error, out=np.zeros_like(means), where=error > 0)
    p = stats.t.sf(ratio, draws - 1)
    table = pd.DataFrame(
        {
            "driver": list(drivers), "importance": means, "low": means - half, "high": means + half,
            "p": p, "p_holm": holm(p.tolist()),
        }
    )  # fmt: skip
    table = table.sort_values("importance", ascending=False, ignore_index=True)
    table.attrs["skill"] = float(np.mean(skills))
    return table


def _drivers(
    metadata: pd.DataFrame, grouped: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    taken = [column for columns in grouped.values() for column in columns]
    unknown = set(taken) - set(metadata.columns)
    if unknown or len(taken) != len(set(taken)):
        raise ValueError(f"grouped names each column of metadata at most once, not {sorted(taken)}")
    return {**grouped, **{str(c): [c] for c in metadata.columns if c not in taken}}


def _readable(metadata: pd.DataFrame) -> pd.DataFrame:
    """Dates as days, numbers and truth values as floats, all else as words; None becomes NaN."""
    columns = {}
    for name, values in metadata.items():
        if pd.api.types.is_datetime64_any_dtype(values):
            columns[name] = (values - values.min()) / pd.Timedelta(days=1)
        elif pd.api.types.is_numeric_dtype(values):  # truth values are, too
            columns[name] = values.astype("float64")
        else:
            columns[name] = values.astype(object).where(values.notna(), "missing").astype(str)
    return pd.DataFrame(columns, index=metadata.index)


def _pipeline(model: str, binary: bool, metadata: pd.DataFrame) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if model not in ("gbdt", "logistic"):
        raise ValueError(f"model is 'gbdt' or 'logistic', not '{model}'")
    numbers = metadata.select_dtypes("number").columns.tolist()
    others = [column for column in metadata.columns if column not in numbers]
    encode = ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(
                    SimpleImputer(strategy="median", add_indicator=True), StandardScaler()
                ),
                numbers,
            ),
            ("others", OneHotEncoder(handle_unknown="ignore", sparse_output=False), others),
        ]
    )
    if model == "logistic":
        return make_pipeline(encode, LogisticRegression(max_iter=1000) if binary else Ridge())
    trees = GradientBoostingClassifier if binary else GradientBoostingRegressor
    return make_pipeline(encode, trees(n_estimators=50, max_depth=2, random_state=0))
