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
from generality.compare.winner import about_blank, read_texts
from generality.errors import UserError, unknown

Kind = Literal["text", "image", "numeric"]
FEWEST_IN_DOMAIN = 10
"""Labelled rows below which a domain is trained on, but never left out to be tested on."""
_SHOWN = 5  # columns named in a message
_NUMBERS = ("int", "uint", "float", "double", "decimal", "bool")


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
        notes: sentences about rows that were left out.
        remarks: sentences about its columns.
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
    remarks: list[str] = field(default_factory=list)

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
    image, or else all columns of numbers and of true and false. Rows of numbers of which one is
    missing are left out; `remarks` says which columns are not learned from.

    Raises:
        UserError: a column that is not there, is asked for as two things or holds something else;
            classes that look like an id.
    """
    for name in (domain, label, *filter(None, (text, image, group)), *(features or ())):
        if name not in data.column_names:
            raise unknown("column", name, data.column_names)
    if sum(each is not None for each in (text, image, features)) > 1:
        raise UserError("Give one kind of input: --text, --image or --features.")
    if text is None and image is None and features is None:
        free = [name for name in data.column_names if name not in (domain, label)]
        text = "text" if "text" in free else None
        image = "image" if text is None and "image" in free else None
    _refuse_shared(domain, label, [*filter(None, (text, image)), *(features or ())])
    domains, domain_names = _domains(data, domain)
    codes, label_names = encode_labels(data, label)
    labels = np.array([-1 if code is None else code for code in codes], dtype=np.int64)
    present, known = np.unique(labels[labels >= 0]), int((labels >= 0).sum())
    if len(present) < 2:
        only = label_names[int(present[0]) if len(present) else 0]
        raise UserError(f"Column '{label}' has one class only, '{only}'; a classifier needs two.")
    if len(present) > max(2, known / 2):
        raise UserError(
            f"Column '{label}' has {len(present)} different values in {known} rows; that looks "
            "like a measurement, free text or an id. Name a column of classes."
        )
    groups = labels.copy()
    if group is not None:
        values = [str(value) for value in data[group][:]]
        groups = np.unique(values, return_inverse=True)[1].astype(np.int64)
    names = (labels, domains, label_names, domain_names, groups)
    twins = [*_twins("domains", domain_names), *_twins("classes", label_names)]
    if text is not None:
        texts = read_texts(data, text)
        return DomainTable("text", texts, *names, [text], remarks=[*twins, *about_blank(texts)])
    if image is not None:
        return DomainTable("image", read_texts(data, image), *names, [image], remarks=twins)
    apart = [name for name in (domain, label, group) if name is not None]
    columns = list(features or numeric_columns(data, leave_out=apart))
    remarks = [
        *twins,
        *_ids(data, columns),
        *([] if features else _not_numbers(data, columns, apart)),
    ]
    numbers = read_numbers(data, columns)
    return _without_holes(DomainTable("numeric", numbers, *names, columns, remarks=remarks))


def _refuse_shared(domain: str, label: str, inputs: Sequence[str]) -> None:
    if domain == label:
        raise UserError(f"Column '{label}' cannot be both the label and the domain.")
    for name in inputs:
        if name in (domain, label):
            role = "label" if name == label else "domain"
            raise UserError(f"Column '{name}' is the {role}, and cannot be learned from as well.")
        if inputs.count(name) > 1:
            raise UserError(f"Column '{name}' is named twice; name it once.")


def _twins(what: str, names: Sequence[str]) -> list[str]:
    """A remark on names that are probably one."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(" ".join(name.casefold().split()), name), name) for name in names]
    found = [f"'{one}' and '{other}'" for one, other in pairs if one != other]
    if not found:
        return []
    return [
        f"The {what} {', '.join(found)} differ in case or spaces only, and are taken as different: "
        "spell them alike if they are the same."
    ]


def _ids(data: Dataset, columns: Sequence[str]) -> list[str]:
    """A remark on columns that number the rows."""
    found = [
        name
        for name in columns
        if str(getattr(data.features[name], "dtype", "")).startswith(("int", "uint"))
        and len(set(data[name][:])) == len(data)
    ]
    return [
        f"Column '{name}' has another whole number in every row, as an id has. It is learned from: "
        "if it says nothing, name the others with --features."
        for name in found
    ]


def _not_numbers(data: Dataset, columns: Sequence[str], apart: Sequence[str]) -> list[str]:
    """Remarks on the columns that are not learned from, as they hold no numbers."""
    words, said = [], []
    for name in data.column_names:
        if name in columns or name in apart:
            continue
        kind = getattr(data.features[name], "dtype", "")
        cells = data[name][:] if kind in ("string", "large_string") else []
        odd = [row for row, cell in enumerate(cells) if cell is not None and not _is_number(cell)]
        if 0 < len(odd) < len(cells) / 2:
            more = f" and {len(odd) - 1} more" if odd[1:] else ""
            said.append(
                f"Column '{name}' is not learned from: it would be numbers, but for '"
                f"{cells[odd[0]]}' in row {odd[0] + 1}{more}. Mend it, or blank it, to use it."
            )
        else:
            words.append(f"'{name}'")
    if words:
        listing = ", ".join(words[:_SHOWN]) + (", …" if words[_SHOWN:] else "")
        said.append(f"Not learned from, as they hold no numbers: {listing}.")
    return said


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell.strip()
    return True


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
    folder = is_image_folder(source)
    if folder:
        told = {"--domain": domain, "--label": label, "--image": image}
        if given := [option for option, column in told.items() if column is not None]:
            raise UserError(
                f"{source} is a folder of images: its folders say what each shows and where it is "
                f"from. Leave out {' and '.join(given)}."
            )
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
    if skip_unreadable:
        raise UserError("--skip-unreadable is for images.")
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
    only = set(rows["domain"])
    if len(only) < 2 and Path(source).expanduser().is_dir():
        raise UserError(
            f"The images in '{source}' come from one domain, '{only.pop()}', and leaving one out "
            "takes two: name the folder above, or sort them as domain/class/image."
        )
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
    """The columns of numbers, and of true and false.

    Raises:
        UserError: there is none.
    """
    numeric = [
        name
        for name, kind in data.features.items()
        if name not in leave_out and str(getattr(kind, "dtype", "")).startswith(_NUMBERS)
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
        cells = data[name][:]
        try:
            numbers[:, place] = np.array(cells, dtype=np.float64)
        except (TypeError, ValueError):
            odd = [row for row, cell in enumerate(cells) if not _may_be_number(cell)]
            where = f", such as {cells[odd[0]]!r} in row {odd[0] + 1}" if odd else ""
            raise UserError(f"Column '{name}' holds what is no number{where}.") from None
    return numbers


def _may_be_number(cell: Any) -> bool:
    return (
        cell is None
        or isinstance(cell, float | int)
        or (isinstance(cell, str) and bool(cell.strip()) and _is_number(cell))
    )


def _domains(data: Dataset, column: str) -> tuple[np.ndarray, list[str]]:
    values = [None if value is None else str(value).strip() for value in data[column][:]]
    missing = [row for row, value in enumerate(values) if not value]
    if missing:
        rows = f"{len(missing)} rows, first in row" if missing[1:] else "row"
        raise UserError(
            f"Column '{column}' names no domain in {rows} {missing[0] + 1}; say where it comes "
            "from, or drop it."
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
