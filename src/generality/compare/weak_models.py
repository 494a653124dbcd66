"""Weak labels from a model: one that is ready, or a small one fitted on some of the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from generality.benchmarks import halves
from generality.compare.winner import (
    classifier_identity,
    is_sequence_classifier,
    load_classifier,
    saved_folder,
)
from generality.errors import UserError
from generality.estimators.soft_probe import moments, standardised
from generality.lab import Lab
from generality.lab.replicate import zero_head
from generality.models.identity import model_identity
from generality.objectives import soft_cross_entropy

_FEWEST_TO_LEARN_FROM = 20


@dataclass(frozen=True)
class WeakModel:
    """What a weak model says of the texts.

    Attributes:
        probabilities: of its classes.
        label_names: its classes.
        learned_from: rows it was fitted on here; they must not be used again.
        notes: sentences about how it came about.
    """

    probabilities: Float[np.ndarray, "rows classes"]
    label_names: list[str]
    learned_from: Int[np.ndarray, " used"] = field(default_factory=lambda: np.empty(0, dtype=int))
    notes: list[str] = field(default_factory=list)


def judged_by(
    name: str,
    texts: list[str],
    truth: Int[np.ndarray, " rows"],
    label_names: list[str] | None,
    *,
    max_length: int,
    lab: Lab,
) -> WeakModel:
    """A weak model's opinion of every text.

    A saved classifier or one of `transformers` is asked as it is. Anything else (`bag-of-words`,
    `minilm-l6`, a backbone) has no classes of its own: a linear probe on it is fitted on half of
    the rows with truth.

    Raises:
        UserError: there is no such model, or no truth to fit it on.
    """
    if saved_folder(name) is not None or is_sequence_classifier(name):
        said = lab.step(
            _ask, name, classifier_identity(name), texts, max_length, uncached={"lab": lab}
        )
        return WeakModel(said["probabilities"], said["label_names"])
    known = np.flatnonzero(truth >= 0)
    first = known[halves(len(known), seed=0)[0]]
    if label_names is None or len(first) < _FEWEST_TO_LEARN_FROM:
        raise UserError(
            f"'{name}' has no classes of its own and must be fitted on true labels, on half of "
            f"those there are; there are {len(known)}, and it takes at least "
            f"{2 * _FEWEST_TO_LEARN_FROM}. Name their column with --label, or give a trained "
            "classifier as --weak-model."
        )
    if len(np.unique(truth[first])) < 2:
        raise UserError(
            "The half of the true labels that the weak model learns from has one class."
        )
    probabilities = _fitted(name, texts, first, truth, len(label_names), max_length, lab)
    note = (
        f"The weak model ({name}) was fitted on {len(first)} of the {len(known)} rows with truth; "
        f"they take no further part."
    )
    return WeakModel(probabilities, label_names, first, [note])


def align(
    judged: WeakModel, names: list[str] | None
) -> tuple[Float[np.ndarray, "rows classes"], list[str], list[str]]:
    """A weak model's probabilities in the order of the true classes, their names, and notes.

    Raises:
        UserError: its classes are not those of the truth.
    """
    own = judged.label_names
    if names is None or own == names:
        return judged.probabilities, own, judged.notes
    place = {name.casefold(): index for index, name in enumerate(own)}
    if len(own) == len(names) and all(name.casefold() in place for name in names):
        order = [place[name.casefold()] for name in names]
        return judged.probabilities[:, order], names, judged.notes
    if len(own) != len(names) or any(name.casefold() in place for name in names):
        raise UserError(
            f"The weak model's classes ({', '.join(own)}) are not those of the true labels "
            f"({', '.join(names)})."
        )
    pairs = ", ".join(f"{a} is {b}" for a, b in zip(own, names, strict=True))
    note = f"The weak model names its classes differently; they are matched by order: {pairs}."
    return judged.probabilities, names, [*judged.notes, note]


def _ask(name: str, identity: str, texts: list[str], max_length: int, lab: Lab) -> dict[str, Any]:
    """The memoised step; `identity` names the weights behind the name."""
    classifier = load_classifier(name, lab=lab, max_length=max_length)
    return {
        "probabilities": classifier.predict_proba(texts),
        "label_names": [str(label) for label in classifier.label_names],
    }


def _fitted(
    name: str,
    texts: list[str],
    rows: np.ndarray,
    truth: np.ndarray,
    classes: int,
    max_length: int,
    lab: Lab,
) -> Float[np.ndarray, "rows classes"]:
    model_identity(name)  # an unknown model is said before anything else
    raw = lab.embed(name, texts, max_length=max_length)
    features = standardised(raw, *moments(raw[rows]))
    trained = lab.replicate(
        zero_head(features.shape[1], classes),
        features,
        np.eye(classes, dtype=np.float32)[truth[rows]],
        rows=rows,
        loss=soft_cross_entropy,
        seeds=[0],
        learning_rate=5e-4,
        epochs=10,
        optimizer="adam",
    )
    return trained.predict_proba(features)[0].numpy()
