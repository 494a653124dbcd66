"""A table of labelled examples from several domains, made ready for a comparison."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from jaxtyping import Float, Int

from generality.benchmarks import MultiDomain, encode_labels, read_rows
from generality.benchmarks.image_folders import is_image_folder, read_images
from generality.compare.winner import read_texts
from generality.errors import UserError, unknown

Kind = Literal["text", "image", "numeric"]
FEWEST_IN_DOMAIN = 10
"""Labelled rows below which a domain is trained on, but never left out to be tested on."""
_SHOWN = 5  # columns named in a message


@dataclass(frozen=True)
class DomainTable:
    """Examples, their classes and where they come from.

    Attributes:
        kind: what an input is.
        inputs: texts, paths of images, images (n, 3, h, w) in [0, 1], or numbers (n, columns).
        labels: class of each row; −1 where it is not known.
        domains: domain of each row.
        label_names: of the classes.
        domain_names: of the domains.
        groups: group of each row, of which the worst is reported; the classes unless others are
            named.
        columns: what to read from a new table to have the same inputs.
        notes: sentences about what was done with the table.
    """

    kind: Kind
    inputs: Any
    labels: Int[np.ndarray, " n"]
    domains: Int[np.ndarray, " n"]
    label_names: list[str]
    domain_names: list[str]
    groups: Int[np.ndarray, " n"]
    columns: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, rows: Int[np.ndarray, " m"]) -> DomainTable:
        """Some of the rows."""
        inputs = (
            self.inputs[rows]
            if isinstance(self.inputs, np.ndarray)
            else [self.inputs[row] for row in rows]
        )
        labels, domains, groups = (each[rows] for each in (self.labels, self.domains, self.groups))
        return replace(self, inputs=inputs, labels=labels, domains=domains, groups=groups)

    @classmethod
    def of(cls, data: MultiDomain) -> DomainTable:
        """The table of data in memory: texts, images (n, 3, h, w), or features (n, columns)."""
        inputs: Any = data.inputs
        kind: Kind = "text"
        if isinstance(inputs, np.ndarray):
            kind = "image" if inputs.ndim == 4 else "numeric"
        columns: list[str] = [kind]
        if kind == "numeric":
            columns = [f"x{place}" for place in range(inputs.shape[1])]
        names = list(data.label_names), list(data.domain_names)
        return cls(kind, inputs, data.labels, data.domains, *names, data.labels, columns)

    def labelled(self, domain: int) -> int:
        """How many rows of a domain have a label."""
        return int(((self.domains == domain) & (self.labels >= 0)).sum())


def read_domain_table(
    data: Dataset,
    *,
    domain: str,
    label: str,
    text: str | None = None,
    image: str | None = None,
    features: Sequence[str] | None = None,
    group: str | None = None,
) -> DomainTable:
    """The columns of a table as inputs, classes and domains.

    With none of `text`, `image` and `features`, a column called text is taken, or else one called
    image, or else all columns of numbers. Rows of numbers of which one is missing are left out.

    Raises:
        UserError: a column that is not there or holds something else.
    """
    for name in (domain, label, *filter(None, (text, image, group)), *(features or ())):
        if name not in data.column_names:
            raise unknown("column", name, data.column_names)
    if sum(each is not None for each in (text, image, features)) > 1:
        raise UserError("Give one kind of input: --text, --image or --features.")
    if text is None and image is None and features is None:
        text = "text" if "text" in data.column_names else None
        image = "image" if text is None and "image" in data.column_names else None
    domains, domain_names = _domains(data, domain)
    codes, label_names = encode_labels(data, label)
    labels = np.array([-1 if code is None else code for code in codes], dtype=np.int64)
    if len(label_names) < 2:
        raise UserError(
            f"Column '{label}' has one class only, '{label_names[0]}'; a classifier needs two."
        )
    groups = labels.copy()
    if group is not None:
        values = [str(value) for value in data[group][:]]
        groups = np.unique(values, return_inverse=True)[1].astype(np.int64)
    names = (labels, domains, label_names, domain_names, groups)
    if text is not None:
        return DomainTable("text", read_texts(data, text), *names, [text])
    if image is not None:
        return DomainTable("image", read_texts(data, image), *names, [image])
    apart = [name for name in (domain, label, group) if name is not None]
    columns = list(features or numeric_columns(data, leave_out=apart))
    return _without_holes(DomainTable("numeric", read_numbers(data, columns), *names, columns))


def open_domain_table(
    source: str,
    *,
    domain: str | None,
    label: str | None,
    text: str | None = None,
    image: str | None = None,
    layout: str | None = None,
    features: Sequence[str] | None = None,
    group: str | None = None,
    split: str | None = None,
    skip_unreadable: bool = False,
) -> DomainTable:
    """What a person names on the command line: a table, or a folder of images.

    A folder needs neither `domain` nor `label`: its folders say both. See `read_domain_table` and
    `read_image_table`.

    Raises:
        UserError: for anything wrong with it.
    """
    folder = is_image_folder(source) and domain is None
    if folder or image is not None or layout is not None:
        if text is not None or features is not None:
            raise UserError("These inputs are images; leave out --text and --features.")
        columns = {"image": image, "label": label, "domain": domain}
        named = {name: column for name, column in columns.items() if column is not None}
        return read_image_table(
            source, layout=layout, skip_unreadable=skip_unreadable, group=group, split=split,
            **named,
        )  # fmt: skip
    if domain is None or label is None:
        raise UserError(
            "Say where rows come from and what they are: --domain COLUMN --label COLUMN."
        )
    words = [name for name in (domain, label, text, group) if name is not None]
    data = read_rows(source, split=split, as_text=words)
    return read_domain_table(
        data, domain=domain, label=label, text=text, features=features, group=group
    )


def read_image_table(
    source: str | Path,
    *,
    layout: str | None = None,
    image: str = "path",
    label: str = "label",
    domain: str = "domain",
    skip_unreadable: bool = False,
    group: str | None = None,
    split: str | None = None,
) -> DomainTable:
    """Images of a folder (domain/class/image), of a public set, or named in a table.

    Args:
        source: the folder or the table.
        layout: name of a public set, see `benchmarks.image_folders.LAYOUTS`.
        image: column of paths, from the table's folder.
        label: column of classes.
        domain: column of domains.
        skip_unreadable: leave out images that cannot be read, rather than refuse.
        group: column of groups of which the worst is reported; of some public sets there is one
            called group.
        split: only this one of a public set's splits.

    Raises:
        UserError: see `benchmarks.image_folders.read_images`; an unknown column of groups.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = read_images(
            source, layout=layout, image=image, label=label, domain=domain, check="decode",
            on_unreadable="skip" if skip_unreadable else "refuse", split=split, unlabelled=True,
        )  # fmt: skip
    table = read_domain_table(rows, domain="domain", label="label", image="path")
    if group is not None:
        table = replace(table, groups=_groups_of_images(rows, source, image, group))
    named = "path" if Path(source).expanduser().is_dir() else image
    return replace(table, columns=[named], notes=[str(each.message) for each in caught])


def _groups_of_images(
    rows: Dataset, source: str | Path, image: str, group: str
) -> Int[np.ndarray, " n"]:
    """The group of each image, from the reader's own columns or from the table by path."""
    if Path(source).expanduser().is_dir():
        if group not in rows.column_names:
            raise unknown("column", group, rows.column_names)
        values = [str(value) for value in rows[group][:]]
    else:
        data = read_rows(source, as_text=[image, group])
        if group not in data.column_names:
            raise unknown("column", group, data.column_names)
        start = Path(source).expanduser().parent
        cells = zip(data[image][:], data[group][:], strict=True)
        named = {str(start / path): str(value) for path, value in cells}
        values = [named[path] for path in rows["path"][:]]
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def numeric_columns(data: Dataset, leave_out: Sequence[str]) -> list[str]:
    """The columns of numbers.

    Raises:
        UserError: there is none.
    """
    numeric = [
        name
        for name, kind in data.features.items()
        if name not in leave_out
        and str(getattr(kind, "dtype", "")).startswith(("int", "uint", "float", "double"))
    ]
    if not numeric:
        raise UserError(
            "There is no column of numbers to learn from; name a column of texts with --text, of "
            "image paths with --image, or columns with --features."
        )
    return numeric


def read_numbers(data: Dataset, columns: Sequence[str]) -> Float[np.ndarray, "n columns"]:
    """Columns as float32; NaN where a value is missing.

    Raises:
        UserError: an unknown column, or one that holds something else.
    """
    numbers = np.empty((len(data), len(columns)), dtype=np.float32)
    for place, name in enumerate(columns):
        if name not in data.column_names:
            raise unknown("column", name, data.column_names)
        try:
            numbers[:, place] = np.array(data[name][:], dtype=np.float64)
        except (TypeError, ValueError):
            raise UserError(f"Column '{name}' holds something that is no number.") from None
    return numbers


def _domains(data: Dataset, column: str) -> tuple[np.ndarray, list[str]]:
    values = [None if value is None else str(value).strip() for value in data[column][:]]
    missing = [row for row, value in enumerate(values) if not value]
    if missing:
        raise UserError(
            f"Column '{column}' names no domain in {len(missing)} rows, first in row "
            f"{missing[0] + 1}; say where they come from, or drop them."
        )
    names = list(dict.fromkeys(str(value) for value in values))
    if len(names) < 2:
        raise UserError(
            f"Column '{column}' has one domain only, '{names[0]}'; leaving one out takes two."
        )
    if len(names) > max(2, len(values) / 4):
        raise UserError(
            f"Column '{column}' has {len(names)} different values in {len(values)} rows; that "
            "looks like an id. Name a column that says where a row comes from."
        )
    return np.array([names.index(str(value)) for value in values], dtype=np.int64), names


def _without_holes(table: DomainTable) -> DomainTable:
    """The rows whose numbers are all there, with notes on which columns cost which rows."""
    known = np.isfinite(table.inputs)
    whole = known.all(1)
    if whole.all():
        return table
    lacking = [name for name, full in zip(table.columns, known.all(0), strict=True) if not full]
    where = ", ".join(f"'{name}'" for name in lacking[:_SHOWN])
    where += f" and {len(lacking) - _SHOWN} more" if lacking[_SHOWN:] else ""
    if not whole.any():
        raise UserError(
            f"Every row lacks a number in some column ({where}); name the others with --features."
        )
    holes = np.flatnonzero(~whole)
    notes = [
        f"{len(holes)} of {len(whole)} rows lack a number or hold an infinite one in {where}, "
        f"first row {int(holes[0]) + 1}; they are left out."
    ]
    lost = [name for place, name in enumerate(table.domain_names)
            if not (whole & (table.domains == place)).any()]  # fmt: skip
    if lost:
        every = " and ".join(f"'{name}'" for name in lost)
        notes.append(
            f"That is every row of {every}, which takes no part; to keep it, name the columns that "
            "it has with --features."
        )
    return replace(table.take(np.flatnonzero(whole)), notes=notes)
