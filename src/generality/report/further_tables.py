"""Tables of words that a run brings along, beside those made of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from generality.lab.runs import RunRecord


@dataclass(frozen=True)
class FurtherTable:
    """A table ready to be shown: a title, columns, rows of as many words, a note under it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "note": self.note,
        }


def further_tables(run: RunRecord) -> list[FurtherTable]:
    """The `tables` of a run's configuration; rows that do not fit their columns are left out.

    >>> from pathlib import Path
    >>> asked = {"tables": [{"title": "Costs", "columns": ["Method", "s"], "rows": [["irm", 2]]}]}
    >>> further_tables(RunRecord(Path("runs/x"), asked, rows=None))[0].rows
    (('irm', '2'),)
    """
    found = []
    for each in run.config.get("tables") or []:
        if not isinstance(each, Mapping):
            continue
        columns = tuple(map(str, each.get("columns") or ()))
        rows = [tuple(map(str, row)) for row in each.get("rows") or [] if len(row) == len(columns)]
        if columns and rows:
            title, note = str(each.get("title") or ""), str(each.get("note") or "")
            found.append(FurtherTable(title, columns, tuple(rows), note))
    return found
