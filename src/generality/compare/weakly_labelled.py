"""A table of texts with weak labels, and perhaps true ones, made ready for a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from jaxtyping import Float, Int

from generality.benchmarks import encode_labels, read_probabilities
from generality.compare.label_sources import about_sources, averaged, class_names, listed
from generality.compare.weak_models import align, judged_by
from generality.compare.winner import about_blank, is_sequence_classifier, read_texts, saved_folder
from generality.errors import UserError, unknown
from generality.lab import Lab

FEWEST_ROWS = 40
FEWEST_TRUE = 100
"""Rows with truth below which nothing is measured: 30 of them would report, ±18 points."""


@dataclass(frozen=True)
class WeaklyLabelled:
    """Rows that take part in a comparison.

    Attributes:
        texts: what a student reads.
        weak: its teacher's labels, as distributions.
        truth: true class of each row; −1 where it is not known.
        label_names: of the classes.
        soft: whether the weak labels are more than one-hot.
        notes: sentences about what was done with the table.
        old: what an old model says of the rows, where there is one whose answers should be kept.
        true_teacher: whether the labels to learn from are the true ones.
    """

    texts: list[str]
    weak: Float[np.ndarray, "rows classes"]
    truth: Int[np.ndarray, " rows"]
    label_names: list[str]
    soft: bool
    notes: list[str] = field(default_factory=list)
    old: Float[np.ndarray, "rows classes"] | None = None
    true_teacher: bool = False

    @property
    def true_rows(self) -> Int[np.ndarray, " known"]:
        """Rows whose true class is known."""
        return np.flatnonzero(self.truth >= 0)

    def one_hot(self, rows: Int[np.ndarray, "*n"]) -> Float[np.ndarray, "*n classes"]:
        """True classes of rows that have one, as distributions."""
        return np.eye(len(self.label_names), dtype=np.float32)[self.truth[rows]]


def weakly_labelled(
    data: Dataset,
    *,
    text: str,
    label: str | None,
    weak_label: str | Sequence[str] | None,
    weak_probabilities: str | Sequence[str] | None,
    weak_model: str | Sequence[str] | None,
    old_model: str | Sequence[str] | None = None,
    max_length: int,
    lab: Lab,
) -> WeaklyLabelled:
    """Read a table with exactly one kind of weak labels; several of that kind are averaged.

    With an old model there may be no weak labels: the true ones teach then.

    Raises:
        UserError: for anything in the table that would make the comparison meaningless.
    """
    sources_given = weak_label or weak_probabilities or weak_model
    true_teacher = bool(old_model) and not sources_given
    if true_teacher:
        if label is None:
            raise UserError("Name the column of labels to learn from with --label.")
        weak_label = [label]
    _one_source(weak_label, weak_probabilities, weak_model)
    columns = listed(weak_label, data.column_names)
    for column in [*columns, *listed(weak_probabilities, data.column_names)]:
        if column == text or (column == label and not true_teacher):
            role = "text" if column == text else "true label"
            raise UserError(f"Column '{column}' is the {role}, and cannot be the weak one as well.")
    if text == label:
        raise UserError(f"Column '{text}' cannot be both the text and the label.")
    for named in (text, label, *columns):
        if named is not None and named not in data.column_names:
            raise unknown("column", named, data.column_names)
    if len(data) < FEWEST_ROWS:
        raise UserError(f"There are {len(data)} rows; a comparison needs at least {FEWEST_ROWS}.")
    texts = read_texts(data, text)
    notes = about_blank(texts)
    truth, names = _truth(data, label)

    if len(columns) == 1 and _holds_numbers_between_classes(data, columns[0]):
        columns, weak_probabilities = [], columns[0]
    sources: list[str] = []
    kept = np.arange(len(texts))
    if columns:
        sources, names = columns, names or class_names(data, columns)
        members = [_weak_classes(data, column, names) for column in columns]
    elif weak_probabilities is not None:
        weak, names = _weak_columns(data, weak_probabilities, names)
        members = [weak]
    else:
        sources, members, learned_from = listed(weak_model), [], np.empty(0, dtype=int)
        for name in sources:
            judged = judged_by(name, texts, truth, names, max_length=max_length, lab=lab)
            weak, names, more = align(judged, names)
            members.append(weak)
            notes += more
            learned_from = np.union1d(learned_from, judged.learned_from)
        kept = _without_their_own(learned_from, len(texts))
        members = [weak[kept] for weak in members]
    assert names is not None
    old = None
    if old_model:
        old, more = old_answers(old_model, data, texts, names, max_length=max_length, lab=lab)
        old, notes = old[kept].astype(np.float32), [*notes, *more]
    texts, truth = [texts[row] for row in kept], truth[kept]
    weak = averaged(members)
    if len(sources) > 1:
        notes = [*about_sources(sources, np.stack(members), truth), *notes]
    if len(names) > len(texts) / 2:
        raise UserError(
            f"There are {len(names)} classes in {len(texts)} rows; that looks like free text or an "
            "id. Name a column of classes."
        )
    if len(np.unique(weak.argmax(1))) == 1:
        only = names[int(weak[0].argmax())]
        raise UserError(
            f"The weak labels say '{only}' for every row, so there is nothing to learn from them."
        )
    soft = bool((weak.max(1) < 1).any())
    return WeaklyLabelled(
        texts, weak.astype(np.float32), truth, names, soft, notes, old, true_teacher
    )


def old_answers(
    asked: str | Sequence[str],
    data: Dataset,
    texts: list[str],
    names: list[str],
    *,
    max_length: int,
    lab: Lab,
) -> tuple[Float[np.ndarray, "rows classes"], list[str]]:
    """What the model in use says of every row, and notes: from a column, columns, or the model.

    Raises:
        UserError: there is neither such a column nor such a model, or it has other classes.
    """
    columns = listed(asked, data.column_names)
    if all(column in data.column_names for column in columns):
        if len(columns) == 1 and not _holds_numbers_between_classes(data, columns[0]):
            return _weak_classes(data, columns[0], names), []
        return _weak_columns(data, columns, names)[0], []
    if len(columns) > 1:
        missing = next(column for column in columns if column not in data.column_names)
        raise unknown("column", missing, data.column_names)
    name = columns[0]
    if saved_folder(name) is None and not is_sequence_classifier(name):
        raise UserError(
            f"'{name}' has no classes of its own, so it is no model that has been in use. Give the "
            "folder `best` of a comparison, a sequence classifier, or a column of its answers."
        )
    nothing = np.full(len(texts), -1)
    judged = judged_by(name, texts, nothing, names, max_length=max_length, lab=lab)
    said, _, notes = align(judged, names)
    return said, notes


def _one_source(*sources: Any) -> None:
    given = [
        name
        for name, source in zip(
            ("--weak-label", "--weak-probabilities", "--weak-model"), sources, strict=True
        )
        if source
    ]
    if not given:
        raise UserError(
            "Nothing says what the weak labels are: give --weak-label COLUMN, "
            "--weak-probabilities COLUMN,… or --weak-model MODEL. If rows come from several places "
            "and the question is what holds up at another, say --domain COLUMN instead."
        )
    if len(given) > 1:
        raise UserError(f"Give one source of weak labels, not {' and '.join(given)}.")


def _truth(data: Dataset, label: str | None) -> tuple[np.ndarray, list[str] | None]:
    if label is None:
        return np.full(len(data), -1), None
    codes, names = encode_labels(data, label)
    truth = np.array([-1 if code is None else code for code in codes])
    known = truth[truth >= 0]
    present = np.unique(known)
    if len(present) == 0:
        return truth, None
    if len(present) == 1:
        raise UserError(
            f"Column '{label}' has one class only, '{names[present[0]]}'; a classifier needs two "
            "or more."
        )
    if len(present) > max(2, len(known) / 2):
        raise UserError(
            f"Column '{label}' has {len(present)} different values in {len(known)} rows; that "
            "looks like free text or an id. Name a column of classes."
        )
    return truth, names


def _weak_classes(data: Dataset, column: str, names: list[str]) -> np.ndarray:
    codes, names = encode_labels(data, column, names)
    missing = [row for row, code in enumerate(codes) if code is None]
    if missing:
        rows = f"{len(missing)} rows, first in row" if missing[1:] else "row"
        raise UserError(
            f"Column '{column}' has no weak label in {rows} {missing[0] + 1}; drop such rows or "
            "label them."
        )
    return np.eye(len(names))[np.array(codes)]


def _weak_columns(
    data: Dataset, asked: str | Sequence[str], names: list[str] | None
) -> tuple[np.ndarray, list[str]]:
    columns = [asked] if isinstance(asked, str) else list(asked)
    weak = np.asarray(read_probabilities(data, columns))
    classes = weak.shape[1]
    own = [column.removeprefix("p_") for column in columns]
    if names is None:
        return weak, own if len(columns) == classes else [str(k) for k in range(classes)]
    if len(names) != classes:
        raise UserError(
            f"There are probabilities of {classes} classes, and {len(names)} classes among the "
            f"true labels ({', '.join(names)}); they must be the same."
        )
    if sorted(own) == sorted(names):
        weak = weak[:, [own.index(name) for name in names]]
    return weak, names


def _holds_numbers_between_classes(data: Dataset, column: str) -> bool:
    """Whether a column holds probabilities: lists, or numbers that are not whole."""
    values = [value for value in data[column][:] if value is not None]
    return any(
        isinstance(value, list) or (isinstance(value, float) and not value.is_integer())
        for value in values
    )


def _without_their_own(learned_from: np.ndarray, rows: int) -> np.ndarray:
    """The rows that no weak model learned from: its labels are too good there."""
    kept = np.setdiff1d(np.arange(rows), learned_from)
    if len(kept) < FEWEST_ROWS:
        raise UserError(
            f"Without the rows that the weak model learns from, {len(kept)} are left; a comparison "
            f"needs at least {FEWEST_ROWS}."
        )
    return kept
