"""What is wrong with labelled rows from several domains, said before anything is trained."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from generality.benchmarks.splits import leaks, normalised
from generality.errors import UserError, unknown

Kind = Literal["no labels", "few rows", "one class", "unseen classes", "duplicates"]
_SHOWN = 8  # classes named in a message


@dataclass(frozen=True)
class DomainFinding:
    """One thing that is wrong.

    Attributes:
        kind: what.
        domain: where; None if it is about several.
        rows: which rows, by their number from 0.
        fatal: whether nothing sensible can be measured.
        message: a sentence that says so and what to do.
    """

    kind: Kind
    domain: str | None
    rows: tuple[int, ...]
    fatal: bool
    message: str


@dataclass(frozen=True)
class DomainReport:
    """What was found, and which rows are left.

    Attributes:
        findings: the fatal ones first.
        kept: all rows, or all but the dropped duplicates, in order.
        testable: domains that can be left out and tested on.
    """

    findings: tuple[DomainFinding, ...]
    kept: Int[np.ndarray, " kept"]
    testable: tuple[str, ...]


def check_domains(
    labels: Sequence[Any] | np.ndarray,
    domains: Sequence[Any] | np.ndarray,
    content: Sequence[Any] | np.ndarray | None = None,
    *,
    target: str | None = None,
    folds: int = 2,
    on_duplicates: Literal["report", "drop", "refuse"] = "report",
    refuse: bool = True,
) -> DomainReport:
    """Look for what makes leaving a domain out say nothing, or the wrong thing.

    - "no labels": a domain without a labelled row can only be the target, unscored.
    - "few rows": fewer labelled rows than `folds`. "one class": nothing to tell apart. Such a
      domain can be trained on, not tested on: fatal if it is the target, or if none is left.
    - "unseen classes": rows of a domain (of the target, if one is named) whose class no other
      domain has. A model trained without it gets them wrong, whatever the method. Fatal where
      fewer than two classes are left to train on.
    - "duplicates": rows that are also in another domain. Trained on one, a model has seen the
      other. The copy in the target stays, else the one in the first row.

    Args:
        labels: the class of each row; None, NaN, "" or a negative number where it is not known.
        domains: the domain of each row.
        content: texts (compared by their words, see `normalised`), arrays (exactly), or `Path`s
            (the files' content); None looks for no duplicates.
        target: the domain to be left out; None looks at each as if it were.
        folds: parts that a domain is to be split into, at least 1.
        on_duplicates: "drop" leaves them out of `kept`; "refuse" makes them fatal.
        refuse: raise the first fatal finding; False only reports it.

    Raises:
        UserError: fatal findings, or an unknown target.
        ValueError: columns of different lengths, no rows, folds below 1.

    >>> texts = ["Good film.", "Bad film.", "good film", "Slow.", "Fun!"]
    >>> report = check_domains([1, 0, 1, 0, 1], list("aabbc"), texts)
    >>> [finding.kind for finding in report.findings], report.testable
    (['duplicates', 'few rows'], ('a', 'b'))
    >>> print(report.findings[0].message)
    1 row is also in another domain (0 to the letter), so what is trained on one has seen the
    other; drop such rows or say that scores may flatter.
    """
    names = np.array([str(domain) for domain in domains])
    classes = np.array([_class(label) for label in labels], dtype=object)
    if not 0 < len(names) == len(classes) == (len(names) if content is None else len(content)):
        raise ValueError("labels, domains and content are as long, and not empty")
    if folds < 1 or on_duplicates not in ("report", "drop", "refuse"):
        raise ValueError(f"folds {folds} is below 1, or on_duplicates is {on_duplicates!r}")
    order = list(dict.fromkeys(names.tolist()))
    if target is not None and target not in order:
        raise unknown("domain", target, order)

    kept = np.arange(len(names))
    found: list[DomainFinding] = []
    if content is not None:
        copies = _copies(content, names, target)
        if len(copies):
            found.append(_duplicates(content, copies, on_duplicates))
        if on_duplicates == "drop":
            kept = np.setdiff1d(kept, copies)
    names, classes = names[kept], classes[kept]

    known = np.array([label is not None for label in classes])
    present = {name: set(classes[known & (names == name)]) for name in order}
    testable = []
    for name in order:
        rows = np.flatnonzero(known & (names == name))
        here = tuple(int(row) for row in kept[rows])
        if not len(rows):
            few = DomainFinding("no labels", name, (), False, _no_labels(name, name == target))
        elif len(rows) < folds:
            few = _untestable(
                "few rows", name, here, target, f"{_rows(len(rows))} to split in {folds}"
            )
        elif len(present[name]) == 1:
            few = _untestable(
                "one class", name, here, target, f"one class only ({classes[rows[0]]})"
            )
        else:
            testable.append(name)
            few = None
        if few is not None:
            found.append(few)
        elif target in (None, name):
            found += _unseen(name, classes[rows], here, present)
    if not testable and not any(finding.fatal for finding in found):
        message = "No domain can be left out: each has too few labelled rows or one class only."
        found.append(DomainFinding("few rows", None, (), target is None, message))
    found.sort(key=lambda finding: not finding.fatal)
    if refuse and found and found[0].fatal:
        raise UserError(found[0].message)
    return DomainReport(tuple(found), kept, tuple(testable))


def _class(label: Any) -> Hashable | None:
    """The class as something to compare; None where it is not known."""
    if label is None or label == "" or label != label:  # only NaN differs from itself
        return None
    if isinstance(label, int | float | np.number) and label < 0:
        return None
    return label.item() if isinstance(label, np.generic) else label


def _copies(
    content: Sequence[Any] | np.ndarray, names: np.ndarray, target: str | None
) -> Int[np.ndarray, " copies"]:
    """Rows whose content is in another domain: in the target, or further up."""
    keys = [_key(item) for item in content]
    rows = sorted(range(len(keys)), key=lambda row: names[row] != target)
    home: dict[Hashable, str] = {}
    for row in rows:
        home.setdefault(keys[row], names[row])
    return np.array([row for row in range(len(keys)) if home[keys[row]] != names[row]], dtype=int)


def _key(item: Any) -> Hashable:
    if isinstance(item, str):
        return normalised(item)
    if isinstance(item, Path):
        from generality.lab.fingerprint import file_fingerprint

        return file_fingerprint(item)
    array = np.ascontiguousarray(item)
    return array.shape, array.dtype.str, array.tobytes()


def _duplicates(
    content: Sequence[Any] | np.ndarray, copies: Int[np.ndarray, " copies"], what: str
) -> DomainFinding:
    exact = ""
    if isinstance(content[0], str):
        others = np.setdiff1d(np.arange(len(content)), copies)
        same = leaks((content[row] for row in others), (content[row] for row in copies)).exact
        exact = f" ({same:,} to the letter)"
    also = "1 row is" if len(copies) == 1 else f"{len(copies):,} rows are"
    advice = (
        "they are dropped" if what == "drop" else "drop such rows or say that scores may flatter"
    )
    return DomainFinding(
        "duplicates",
        None,
        tuple(copies.tolist()),
        what == "refuse",
        f"{also} also in another domain{exact}, so what is trained on one has seen the other; "
        f"{advice}.",
    )


def _no_labels(name: str, is_target: bool) -> str:
    if is_target:
        return f"The domain '{name}' has no labelled rows: it can be predicted, not scored."
    return f"The domain '{name}' has no labelled rows: it takes no part unless it is the target."


def _untestable(
    kind: Kind, name: str, rows: tuple[int, ...], target: str | None, what: str
) -> DomainFinding:
    advice = (
        "nothing can be said about it; choose another target"
        if name == target
        else "it can be trained on, but not tested on"
    )
    message = f"The domain '{name}' has {what}: {advice}."
    return DomainFinding(kind, name, rows, name == target, message)


def _unseen(
    name: str, classes: np.ndarray, rows: tuple[int, ...], present: dict[str, set[Any]]
) -> list[DomainFinding]:
    """Classes that are missing when this domain is left out."""
    others = set().union(*(found for other, found in present.items() if other != name))
    if len(others) < 2:
        left = "one class is" if others else "no labelled rows are"
        message = f"Without the domain '{name}' {left} left to train on; add another domain."
        return [DomainFinding("unseen classes", name, rows, True, message)]
    new = sorted(set(classes) - others, key=str)
    if not new:
        return []
    where = tuple(row for row, label in zip(rows, classes, strict=True) if label in new)
    named = ", ".join(map(str, new[:_SHOWN]))
    named += f" and {len(new) - _SHOWN} more" if new[_SHOWN:] else ""
    return [
        DomainFinding(
            "unseen classes",
            name,
            where,
            False,
            f"The domain '{name}' has {_rows(len(where))} of classes that no other domain has "
            f"({named}): trained without it, every method gets them wrong.",
        )
    ]


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
