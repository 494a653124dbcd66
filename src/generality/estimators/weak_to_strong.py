"""The weak-to-strong protocol for any pair of scikit-learn classifiers."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.base import clone
from sklearn.utils.validation import _num_samples

from generality.claims import Row
from generality.measures import student_supervisor_agreement

Features = Any
"""(n, d) features, dense or sparse, or n texts, for both models, or a tuple (for the weak one, for
the student). An ensemble's may be a list of views, see `SoftLabelEnsemble`."""


class WeakToStrong:
    """How much of a student's skill a weak supervisor's labels elicit.

    The supervisor learns from true labels of one set of examples and labels another; the student
    learns from those labels alone. Floor: the supervisor's test accuracy. Ceiling: the same
    student on the same examples with their true labels. The supervisor never labels what it
    learned from: those labels would be better than any it gives to new examples.

    Source: Burns et al. 2023 (arXiv 2312.09390), section 4.

    Args:
        weak: the supervisor, with fit(X, y) and predict_proba.
        student: the stronger model, likewise. One that learns from soft targets (n, K) says so by
            an attribute `takes_soft_targets = True`, as `SoftProbe` does; any other gets the
            supervisor's most probable class, with a warning and "hard" in its rows.
        objective: set as the student's `objective`, not the ceiling's; None leaves both as they
            are.
        soft: False gives hard labels to every student.

    Raises:
        ValueError: `objective` for a student that has none.

    >>> from generality.estimators import SoftProbe
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(900, 8))
    >>> y = (X @ rng.normal(size=8) + rng.normal(size=900) > 0).astype(int)
    >>> few = (X[:, :3], X)  # the supervisor sees three of the eight features
    >>> gt, transfer, test = ([part[rows] for part in (X[:, :3], X)]
    ...                       for rows in (slice(300), slice(300, 600), slice(600, 900)))
    >>> rows = WeakToStrong(SoftProbe(), SoftProbe()).run(
    ...     tuple(gt), y[:300], tuple(transfer), y[300:600], tuple(test), y[600:], seeds=range(2))
    >>> [row["method"] for row in rows[:3]], rows[1]["floor"] < rows[1]["ceiling"]
    (['weak', 'student', 'ceiling'], True)
    """

    def __init__(
        self,
        weak: Any,
        student: Any,
        *,
        objective: Callable[..., Any] | None = None,
        soft: bool = True,
    ) -> None:
        if objective is not None and "objective" not in student.get_params():
            raise ValueError(f"{type(student).__name__} has no parameter 'objective' to set")
        self.weak, self.student, self.objective = weak, student, objective
        self.soft = soft and takes_soft_targets(student)
        if soft and not self.soft:
            warnings.warn(
                f"{type(student).__name__} takes no soft targets (it has no attribute "
                "takes_soft_targets = True): it learns from the supervisor's hard labels.",
                stacklevel=2,
            )

    def run(
        self,
        x_gt: Features,
        y_gt: Shaped[Any, " gt"],
        x_transfer: Features,
        y_transfer: Shaped[Any, " transfer"],
        x_test: Features,
        y_test: Shaped[Any, " test"],
        seeds: Iterable[int] = range(5),
    ) -> list[Row]:
        """Rows of the methods "weak", "student" and "ceiling" for every seed.

        A seed is set as every `random_state` of both models. `score`, `floor` and `ceiling` are
        test accuracies; `agreement` is the share of test examples on which the model says what the
        supervisor says, `copied_errors` that share among the supervisor's errors (None: it has
        none); `labels` is "soft", "hard" or "true".

        Raises:
            ValueError: a class of the later parts that `y_gt` does not have, or different lengths.
        """
        parts = [np.asarray(y) for y in (y_gt, y_transfer, y_test)]
        classes, codes = _encode(parts)
        weak_gt, _ = _pair(x_gt)
        weak_transfer, student_transfer = _pair(x_transfer)
        weak_test, student_test = _pair(x_test)
        _warn_of_overlap(weak_gt, weak_transfer)
        rows = []
        for seed in seeds:
            weak = seeded(self.weak, seed).fit(weak_gt, codes[0])
            labels = probabilities(weak, weak_transfer, len(classes))
            student = seeded(self.student, seed)
            if self.objective is not None:
                student.set_params(objective=self.objective)
            student.fit(student_transfer, labels if self.soft else labels.argmax(1))
            best = seeded(self.student, seed).fit(student_transfer, codes[1])
            said = {
                "weak": probabilities(weak, weak_test, len(classes)),
                "student": probabilities(student, student_test, len(classes)),
                "ceiling": probabilities(best, student_test, len(classes)),
            }
            scores = {name: float((p.argmax(1) == codes[2]).mean()) for name, p in said.items()}
            learned = {"weak": "true", "student": "soft" if self.soft else "hard"}
            for name, predictions in said.items():
                agreement = student_supervisor_agreement(predictions, said["weak"], codes[2])
                copied = agreement.where_wrong
                rows.append(
                    Row(
                        method=name,
                        seed=int(seed),
                        score=scores[name],
                        floor=scores["weak"],
                        ceiling=scores["ceiling"],
                        agreement=agreement.overall,
                        copied_errors=None if np.isnan(copied) else copied,
                        labels=learned.get(name, "true"),
                    )
                )
        return rows


def bootstrap_chain(
    models: Sequence[Any],
    x: Float[Any, "n d"] | Sequence[Float[Any, "n _"]],
    first_labels: Float[Any, "n classes"],
) -> list[Any]:
    """Each model learns from the labels of the one before it; the first from `first_labels`.

    Args:
        models: unfitted classifiers, weakest first; they are cloned. Those that take no soft
            targets get hard ones.
        x: the same examples for all: one matrix, or a list with a matrix per model.
        first_labels: the supervisor's soft labels of these examples.

    Returns:
        The fitted models, in order; the last is the student.

    Raises:
        ValueError: not one matrix per model, or not one label per example.

    Source: Burns et al. 2023 (arXiv 2312.09390), section 4.3.1.

    >>> from generality.estimators import SoftProbe
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> weak = np.where(X[:, :1] > 0, [[0.4, 0.6]], [[0.6, 0.4]])
    >>> chain = bootstrap_chain([SoftProbe(), SoftProbe()], [X[:, :2], X], weak)
    >>> [model.n_features_in_ for model in chain]
    [2, 3]
    """
    features = list(x) if isinstance(x, list | tuple) else [x] * len(models)
    if len(features) != len(models):
        raise ValueError(f"{len(models)} models, but {len(features)} matrices of features")
    labels = np.asarray(first_labels)
    fitted = []
    for model, X in zip(models, features, strict=True):
        if len(X) != len(labels):
            raise ValueError(f"{len(X)} examples, but labels for {len(labels)}")
        targets = labels if takes_soft_targets(model) else labels.argmax(1)
        fitted.append(clone(model).fit(X, targets))
        labels = probabilities(fitted[-1], X, labels.shape[1])
    return fitted


def takes_soft_targets(model: Any) -> bool:
    """Whether a classifier (or the last step of a pipeline) learns from distributions."""
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    return bool(getattr(last, "takes_soft_targets", False))


def seeded(model: Any, seed: int) -> Any:
    """A fresh clone with every `random_state` set."""
    fresh = clone(model)
    names = [n for n in fresh.get_params() if n == "random_state" or n.endswith("__random_state")]
    return fresh.set_params(**dict.fromkeys(names, int(seed)))


def probabilities(model: Any, X: Any, classes: int) -> Float[NDArray[np.float64], "n classes"]:
    """Of every class code, also of those that the model has never seen (0)."""
    known = np.asarray(model.predict_proba(X))
    result = np.zeros((len(known), classes))
    result[:, np.asarray(model.classes_, dtype=int)] = known
    return result


def has_views(X: Any) -> bool:
    """Whether X is a list of views of the same examples: matrices, or lists of texts.

    >>> has_views([np.ones((2, 3))] * 4), has_views([["a", "b"]] * 4), has_views([[1.0, 2.0]] * 4)
    (True, True, False)
    """
    if not isinstance(X, list) or not X or isinstance(X[0], str):
        return False
    return len(getattr(X[0], "shape", np.shape(X[0]))) >= 2 or isinstance(next(iter(X[0]), 0), str)


def _pair(x: Features) -> tuple[Any, Any]:
    if not isinstance(x, tuple):
        return x, x
    if len(x) != 2 or _count(x[0]) != _count(x[1]):
        raise ValueError("a tuple of features is (for the weak model, for the student), same rows")
    return x


def _encode(parts: list[NDArray[Any]]) -> tuple[NDArray[Any], list[Int[NDArray[Any], " n"]]]:
    classes = np.unique(parts[0])
    for part in parts[1:]:
        if unseen := set(np.unique(part).tolist()) - set(classes.tolist()):
            raise ValueError(f"y_gt has no example of {', '.join(map(str, sorted(unseen)))}")
    return classes, [np.searchsorted(classes, part) for part in parts]


def _count(x: Any) -> int:
    return int(_num_samples(x[0] if has_views(x) else x))


def _rows(x: Any) -> list[bytes]:
    """Each example's features, the first view's, as bytes."""
    x = x[0] if has_views(x) else x
    if issparse(x):
        sparse: Any = x
        rows = csr_array(sparse)
        ends = itertools.pairwise(rows.indptr)
        return [rows.indices[a:b].tobytes() + rows.data[a:b].tobytes() for a, b in ends]
    return [row.tobytes() for row in np.ascontiguousarray(x)]


def _warn_of_overlap(x_gt: Any, x_transfer: Any) -> None:
    learned, labelled = set(_rows(x_gt)), _rows(x_transfer)
    again = sum(row in learned for row in labelled)
    if again:
        warnings.warn(
            f"{again} of {len(labelled)} transfer examples have the features of one that the "
            "supervisor learned from; its labels there are better than it is on new ones.",
            stacklevel=3,
        )
