"""What is wrong with a table of domains, said before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from generality.compare.domain_table import (
    FEWEST_IN_DOMAIN,
    DomainTable,
    copies_across_domains,
    drop_copies,
)
from generality.errors import UserError, unknown


def check_table(
    table: DomainTable, target: str | None, *, drop_duplicates: bool = False
) -> tuple[DomainTable, list[int], list[str]]:
    """The rows that take part, the domains to leave out, and notes on what was found.

    Rows without a label take no part, unless they are the target's. A domain of few labelled rows
    or of one class is trained on but not left out.

    Raises:
        UserError: nothing is left to train on, or to leave out.
    """
    notes = list(table.notes)
    names = table.domain_names
    if target is not None and target not in names:
        raise unknown("domain", target, names)
    if drop_duplicates:
        table, dropped = drop_copies(table)
        notes.append(f"{dropped} rows that also occur in an earlier domain are dropped.")
    elif copies := len(copies_across_domains(table)):
        notes.append(
            f"{copies} rows also occur in another domain: what is trained on the one has seen the "
            "other, and scores may flatter. --drop-duplicates leaves them out."
        )
    named = None if target is None else names.index(target)
    unlabelled = (table.labels < 0) & (table.domains != (-1 if named is None else named))
    if unlabelled.any():
        notes.append(f"{int(unlabelled.sum())} rows have no label; they take no part.")
        table = table.take(np.flatnonzero(~unlabelled))
    good, few = _testable(table)
    for domain, why in few.items():
        notes.append(f"Domain '{names[domain]}' {why}: it is trained on, but not left out.")
    if named is not None:
        if named in few and table.labelled(named) >= FEWEST_IN_DOMAIN:
            raise UserError(f"Domain '{target}' {few[named]}, so nothing can be said about it.")
        notes = [note for note in notes if not note.startswith(f"Domain '{target}'")]
        targets: Sequence[int] = [named]
    else:
        targets = good
    if not targets:
        raise UserError(
            "No domain can be left out: each has one class only, or fewer than "
            f"{FEWEST_IN_DOMAIN} labelled rows. Merge small domains in the file."
        )
    for domain in targets:
        sources = (table.domains != domain) & (table.labels >= 0)
        present = np.unique(table.labels[sources])
        if len(present) < 2:
            raise UserError(
                f"Without domain '{names[domain]}' "
                f"{'one class is' if len(present) else 'no labelled rows are'} left to train on."
            )
        own = table.labels[(table.domains == domain) & (table.labels >= 0)]
        unseen = ~np.isin(own, present)
        if unseen.any():
            words = ", ".join(f"'{table.label_names[k]}'" for k in np.unique(own[unseen]))
            notes.append(
                f"Domain '{names[domain]}' has {int(unseen.sum())} rows of classes that no other "
                f"domain has ({words}): trained without it, every method gets them wrong."
            )
    return replace(table, notes=[]), list(targets), notes


def _testable(table: DomainTable) -> tuple[list[int], dict[int, str]]:
    """Domains that can be left out, and why each of the others cannot."""
    good, few = [], {}
    for domain in range(len(table.domain_names)):
        labels = table.labels[(table.domains == domain) & (table.labels >= 0)]
        classes = np.unique(labels)
        if len(labels) < FEWEST_IN_DOMAIN:
            few[domain] = f"has {len(labels)} labelled rows, fewer than {FEWEST_IN_DOMAIN}"
        elif len(classes) == 1:
            few[domain] = f"has one class only ('{table.label_names[int(classes[0])]}')"
        else:
            good.append(domain)
    return good, few
