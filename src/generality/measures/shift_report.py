"""How models answer under a shift: by domain and label, against each other, and when they fail."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import stats

from generality.measures.randomized_score import roc_auc


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same cases.

    Attributes:
        difference: accuracy of the first − accuracy of the second.
        only_first: share of the cases, in [0, 1], that only the first has right.
        only_second: share that only the second has right.
        p: exact two-sided McNemar p of "both shares are alike"; 1 where the models never differ.
    """

    difference: float
    only_first: float
    only_second: float
    p: float


class ShiftReport:
    """What several models said about the same cases from several domains.

    A missing answer (None: refused, or nothing that could be read as a class) is a wrong one, and
    its share is reported apart. Answers of another kind than the truth are refused rather than
    counted wrong.

    Args:
        truth: the label of each of n cases, as class ids or names.
        said: for each model its n answers, None where there is none.
        domains: the domain of each case; None for one domain, "all".
        confidence: for each model (or some) how sure it said it was, in [0, 1]; None or NaN where
            it did not say.

    Raises:
        ValueError: lengths differ, there are no cases or models, a confidence lies outside [0, 1],
            or no answer of a model is of the truth's kind.

    Source: the evaluation of Han et al. 2023 (arXiv 2312.07424, section 2), which gives points
    without intervals; Wilson 1927, McNemar 1947.

    >>> report = ShiftReport(
    ...     truth=["dog", "cat", "dog", "cat"],
    ...     said={"clip": ["dog", "dog", "dog", "cat"], "chat": ["dog", "cat", None, "cat"]},
    ...     domains=["photo", "photo", "sketch", "sketch"],
    ... )
    >>> report.by("domain")[["model", "domain", "n", "accuracy", "unanswered"]]
      model  domain  n  accuracy  unanswered
    0  clip   photo  2       0.5         0.0
    1  clip  sketch  2       1.0         0.0
    2  chat   photo  2       1.0         0.0
    3  chat  sketch  2       0.5         0.5
    >>> report.rescue_rate("chat", "clip"), report.paired("chat", "clip").p
    (1.0, 1.0)
    """

    def __init__(
        self,
        truth: Sequence[Hashable] | NDArray,
        said: Mapping[str, Sequence[Hashable | None] | NDArray],
        domains: Sequence[Hashable] | NDArray | None = None,
        confidence: Mapping[str, Sequence[float | None] | NDArray] | None = None,
    ) -> None:
        n = len(truth)
        places = ["all"] * n if domains is None else list(domains)
        stated = dict(confidence or {})
        if not n or not said:
            raise ValueError("a report needs at least one case and one model")
        for name, values in {"domains": places, **said, **stated}.items():
            if len(values) != n:
                raise ValueError(f"there are {n} cases and {len(values)} entries of {name}")
        if unknown := stated.keys() - said.keys():
            raise ValueError(f"confidence of models that said nothing: {sorted(unknown)}")
        labels = [_plain(label) for label in truth]
        self.cases = pd.DataFrame({"domain": [_plain(p) for p in places], "label": labels})
        self.models = tuple(said)
        self._hit: dict[str, Bool[NDArray, " n"]] = {}
        self._answered: dict[str, Bool[NDArray, " n"]] = {}
        self._sure: dict[str, Float[NDArray, " n"]] = {}
        for model, answers in said.items():
            plain = [_plain(answer) for answer in answers]
            given = [answer for answer in plain if answer is not None]
            kind = isinstance(labels[0], str)
            if any(isinstance(answer, str) != kind for answer in given):
                raise ValueError(f"{model} answers in another kind than that of the truth")
            self._answered[model] = np.array([answer is not None for answer in plain])
            pairs = zip(plain, labels, strict=True)
            self._hit[model] = np.array([said is not None and said == true for said, true in pairs])
        for model, values in stated.items():
            sure = np.array([math.nan if v is None else float(v) for v in values])
            if ((sure < 0) | (sure > 1)).any():
                raise ValueError(f"the confidence of {model} lies outside [0, 1]")
            self._sure[model] = sure

    def by(self, *columns: str) -> pd.DataFrame:
        """Accuracy in every cell of "domain", "label" or both; without any, over all cases.

        Columns: model, those asked for, n, accuracy, low and high (Wilson's 95 % interval) and
        unanswered (share in [0, 1]). Cells without cases do not appear.
        """
        if wrong := set(columns) - {"domain", "label"}:
            raise ValueError(f"cells are by 'domain' and 'label', not {sorted(wrong)}")
        found = []
        for model in self.models:
            cells = (
                self.cases.groupby(list(columns), sort=False).indices.items()
                if columns
                else [((), np.arange(len(self.cases)))]
            )
            for key, rows in cells:
                names = key if isinstance(key, tuple) else (key,)
                hits = self._hit[model][rows]
                low, high = wilson_interval(int(hits.sum()), len(rows))
                found.append(
                    {
                        "model": model,
                        **dict(zip(columns, names, strict=True)),
                        "n": len(rows),
                        "accuracy": float(hits.mean()),
                        "low": low,
                        "high": high,
                        "unanswered": float(1 - self._answered[model][rows].mean()),
                    }
                )
        return pd.DataFrame(found)

    def summary(self) -> pd.DataFrame:
        """One row for each model.

        Columns: those of `by()`; by_domain (the mean over domains) and by_cell (over domain ×
        label, where domains lack labels or sizes differ); worst_domain, worst (its accuracy) and
        spread (best − worst domain); ece and auroc of the stated confidence (see `calibration`).
        """
        rows = []
        for overall in self.by().to_dict("records"):
            model = overall["model"]
            means = self.by("domain").query("model == @model").set_index("domain")["accuracy"]
            cells = self.by("domain", "label").query("model == @model")["accuracy"]
            ece, auroc = self.calibration(str(model))
            rows.append(
                {
                    **overall,
                    "by_domain": means.mean(),
                    "by_cell": cells.mean(),
                    "worst_domain": means.idxmin(),
                    "worst": means.min(),
                    "spread": means.max() - means.min(),
                    "ece": ece,
                    "auroc": auroc,
                }
            )
        return pd.DataFrame(rows)

    def calibration(self, model: str, *, bins: int = 10) -> tuple[float, float]:
        """Error and use of a model's stated confidence, over the answers that came with one.

        Returns:
            The expected calibration error in [0, 1], over equal-width bins of confidence; and the
            AUROC with which confidence tells right answers from wrong ones. NaN where there is
            nothing to compute either from.
        """
        if model not in self._sure:
            return math.nan, math.nan
        known = np.isfinite(self._sure[model]) & self._answered[model]
        sure, hit = self._sure[model][known], self._hit[model][known]
        if not len(sure):
            return math.nan, math.nan
        place = np.minimum((sure * bins).astype(int), bins - 1)
        surplus = np.bincount(place, sure - hit, minlength=bins)
        both = 0 < hit.sum() < len(hit)
        return float(np.abs(surplus).sum() / len(sure)), roc_auc(hit, sure) if both else math.nan

    def paired(self, first: str, second: str) -> PairedComparison:
        """Two models on the same cases, by McNemar's exact test."""
        a, b = self._hit[first], self._hit[second]
        only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
        differ = only_a + only_b
        p = float(stats.binomtest(only_a, differ).pvalue) if differ else 1.0
        n = len(a)
        return PairedComparison((only_a - only_b) / n, only_a / n, only_b / n, p)

    def all_pairs(self) -> pd.DataFrame:
        """`paired` for every two models: first, second and the entries of the comparison."""
        return pd.DataFrame(
            [
                {"first": a, "second": b, **vars(self.paired(a, b))}
                for a, b in itertools.combinations(self.models, 2)
            ]
        )

    def rescue_rate(self, model: str, reference: str) -> float:
        """Share of the reference's failures that the model has right, in [0, 1].

        NaN where the reference has none. Of cases that were chosen because the reference fails,
        only this may be compared, not the reference's own accuracy: that is 0 by construction.
        """
        failed = ~self._hit[reference]
        return float(self._hit[model][failed].mean()) if failed.any() else math.nan


def wilson_interval(hits: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share.

    Args:
        hits: how often it happened, 0 to n.
        n: how often it could have, at least 1.
        level: coverage, in (0, 1).

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    >>> [round(bound, 4) for bound in wilson_interval(15, 31)]
    [0.3197, 0.6516]
    """
    if not 0 <= hits <= n or n < 1 or not 0 < level < 1:
        raise ValueError(f"a share is of n ≥ 1 cases, at a level in (0, 1): {hits}, {n}, {level}")
    bounds = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    return float(bounds.low), float(bounds.high)


def _plain(value: Any) -> Any:
    """A Python value in place of numpy's; None for pandas' NA and a float that is not a number."""
    if value is pd.NA:
        return None
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and math.isnan(plain) else plain
