"""The rows of a table that take part in a comparison over domains, and the domains to leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from generality.benchmarks.domain_checks import check_domains
from generality.compare.domain_table import FEWEST_IN_DOMAIN, DomainTable
from generality.errors import UserError, unknown


def check_table(
    table: DomainTable,
    target: str | None,
    *,
    drop_duplicates: bool = False,
    keep_unlabelled: bool = False,
) -> tuple[DomainTable, list[int], list[str]]:
    """The table without rows that take no part, the domains to leave out, and what was found.

    A domain with fewer than `FEWEST_IN_DOMAIN` labelled rows, or of one class, is trained on and
    not left out. Rows without a label take no part, unless with `keep_unlabelled`; a `target` with
    too few labels keeps its rows and is not scored on.

    Raises:
        UserError: the target or all domains but one lost every row when the table was read; see
            also `benchmarks.domain_checks.check_domains`.
    """
    notes = list(table.notes)
    if target is not None and target not in table.domain_names and notes:  # it was left out whole
        raise UserError(" ".join([str(unknown("domain", target, table.domain_names)), *notes]))
    present = np.bincount(table.domains, minlength=len(table.domain_names)) > 0
    if target in table.domain_names and not present[table.domain_names.index(str(target))]:
        raise UserError(" ".join(notes))
    if present.sum() < 2:
        raise UserError(" ".join([*notes, "One domain is left; leaving one out takes two."]))
    if target in table.domain_names:
        domain = table.domain_names.index(str(target))
        own = table.domains == domain
        if 0 < table.labelled(domain) < min(FEWEST_IN_DOMAIN, int(own.sum())):
            notes.append(
                f"'{target}' has {table.labelled(domain)} labelled rows, too few to be scored on: "
                "they are taken as unlabelled."
            )
            table = replace(table, labels=np.where(own, -1, table.labels))
    named = [None if code < 0 else table.label_names[code] for code in table.labels]
    content = (
        [Path(path) for path in table.inputs]
        if table.kind == "image" and not isinstance(table.inputs, np.ndarray)
        else table.inputs
    )
    report = check_domains(
        named,
        [table.domain_names[code] for code in table.domains],
        content,
        target=target,
        folds=FEWEST_IN_DOMAIN,
        on_duplicates="drop" if drop_duplicates else "report",
    )
    for finding in report.findings:
        if keep_unlabelled and finding.kind == "no labels" and finding.domain != target:
            notes.append(f"The domain '{finding.domain}' has no labelled rows: it is not scored.")
            continue
        more = " (--drop-duplicates drops them.)" if finding.kind == "duplicates" else ""
        notes.append(finding.message + ("" if drop_duplicates else more))
    table = replace(table.take(report.kept), notes=[])
    chosen = report.testable if target is None else (target,)
    targets = [table.domain_names.index(name) for name in chosen]
    silent = (table.labels < 0) & ~np.isin(table.domains, targets if target else [])
    if keep_unlabelled and (table.labels < 0).any():
        notes.append(
            f"{int((table.labels < 0).sum())} rows have no label; only methods that learn from "
            "unlabelled rows of the domain to come make use of them."
        )
    elif silent.any():
        notes.append(f"{int(silent.sum())} rows have no label; they take no part.")
        table = table.take(np.flatnonzero(~silent))
    return replace(table, remarks=[]), targets, [*notes, *table.remarks]
