"""A run in the terminal, and as JSON for scripts; the same words as on the page."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from generality.lab.runs import RunRecord
from generality.report.further_tables import FurtherTable, further_tables
from generality.report.summary import Line, Summary, percent, score, summarise_run
from generality.report.verdicts import shown

_SETTINGS = 8  # tables printed; the page has them all
_WORD = 12  # letters up to which a word stays whole in a narrow table
_COLOURS = {"holds": "green", "fails": "red", "inconclusive": "yellow"}


def show_summary(console: Console, run: RunRecord) -> None:
    """Print the answer and one table for each setting (the mean first, if there are several)."""
    summary = summarise_run(run)
    title = run.config.get("title") or run.config.get("study")
    if title:
        console.print(plain(title, "bold"))
    if summary.compared and len(summary.groups) > 1:
        name = f"Mean over {len(summary.compared)} settings"
        if len(summary.compared) > 1:
            console.print(_table(name, list(summary.overall), summary))
    rank = {line.method: place for place, line in enumerate(summary.overall)}
    for group in summary.groups[:_SETTINGS]:
        lines = [line for line in summary.lines if line.group == group]
        lines.sort(key=lambda line: rank.get(line.method, len(rank)))
        console.print(_table(group, lines, summary))
    if len(summary.groups) > _SETTINGS:
        more = len(summary.groups) - _SETTINGS
        console.print(plain(f"{more} more settings are in report.html.", "dim"))
    for further in further_tables(run):
        console.print(_further(further, console.width))
        if further.note:
            console.print(plain(further.note, "dim"))
    console.print(plain(summary.answer, "bold"))
    for caveat in summary.caveats:
        console.print(plain(caveat, "dim"))
    for conclusion in run.config.get("conclusions") or []:
        console.print(plain(conclusion))


def show_claims(console: Console, verdicts: Iterable[Any]) -> None:
    """Print verdicts, each a dict as `claims.json` holds it or a `Verdict`."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("Verdict", no_wrap=True)
    table.add_column("Claim", overflow="fold", min_width=24)
    for name in ("Effect", "p (Holm)"):
        table.add_column(name, justify="right", no_wrap=True)
    for verdict in verdicts:
        claim = shown(verdict if isinstance(verdict, Mapping) else verdict.to_dict())
        statement = plain(claim.statement)
        if claim.note:
            statement.append_text(plain(f"\n{claim.note}", "dim"))
        table.add_row(
            plain(f"{claim.symbol} {claim.verdict}", _COLOURS.get(claim.verdict, "")),
            statement,
            plain(claim.effect if claim.interval == "–" else f"{claim.effect}\n{claim.interval}"),
            plain(claim.p_holm if claim.seeds == "–" else f"{claim.p_holm}\n{claim.seeds} seeds"),
        )
    if table.row_count:
        console.print(table)


def to_json(run: RunRecord) -> dict[str, Any]:
    """A run as plain JSON values, NaN and infinities as null: for `--json`."""
    summary = summarise_run(run)
    best = summary.best
    value = {
        "directory": str(run.directory),
        **{key: run.config.get(key) for key in ("study", "title", "scale", "seeds", "config")},
        "kind": summary.kind,
        "answer": summary.answer,
        "caveats": list(summary.caveats),
        "conclusions": list(run.config.get("conclusions") or []),
        "best": _line(best) if best else None,
        "overall": [_line(line) for line in summary.overall],
        "settings": list(summary.groups),
        "compared": list(summary.compared),
        "methods": [_line(line) for line in summary.lines],
        "claims": run.claims,
        "tables": [table.to_dict() for table in further_tables(run)],
        "rows": run.rows.astype(object).to_dict("records"),
        "environment": run.environment,
    }
    return _safe(value)


def plain(text: Any, style: str = "") -> Text:
    """Text as it is: no markup in it is obeyed, and no control character reaches the terminal."""
    kept = (
        char if char == "\n" or unicodedata.category(char) not in ("Cc", "Cs") else "\ufffd"
        for char in str(text)
    )
    return Text("".join(kept), style=style)


def _table(name: str, lines: list[Line], summary: Summary) -> Table:
    known = max(lines, key=lambda line: len(line.seeds))
    title = plain(name, "bold")
    if known.seeds:
        levels = f"floor {score(known.floor)}, ceiling {score(known.ceiling)}"
        title.append_text(plain(f"  {levels}" if name else levels, "dim"))
    table = Table(
        title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("Method", overflow="fold", min_width=12)
    for column in ("Seeds", "Score", "Recovered", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    best = summary.best.method if summary.best else None
    for line in lines:
        style = "bold" if line.method == best else "dim" if line.reference else ""
        if line.reference:
            found = "reference", ""
        elif line.share is None or not line.gap:
            found = line.recovered, ""
        else:
            ends = f"{percent(line.share.low)} to {percent(line.share.high)} %"
            found = f"{percent(line.share.estimate)} %", ends if line.bounded else "–"
        cells = (line.method, len(line.seeds), score(line.score), *found)
        table.add_row(*(plain(cell, style) for cell in cells))
    return table


def _further(further: FurtherTable, width: int) -> Table:
    table = Table(
        title=plain(further.title, "bold"), title_justify="left", title_style="",
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True,
    )  # fmt: skip
    every = zip(further.columns, *further.rows, strict=True)
    words = [[word for cell in cells for word in str(cell).split()] for cells in every]
    least = [min(_WORD, max(map(len, each), default=1)) for each in words]
    whole = sum(least) + 2 * len(least) <= width  # no word is cut that need not be
    for place, name in enumerate(further.columns):
        table.add_column(
            name, justify="right" if place else "left", overflow="fold",
            min_width=least[place] if whole else None if place else _WORD,
        )  # fmt: skip
    for row in further.rows:
        table.add_row(*map(plain, row))
    return table


def _line(line: Line) -> dict[str, Any]:
    found = line.share
    return {
        "method": line.method,
        "setting": line.group,
        "seeds": [seed.seed for seed in line.seeds],
        "score": line.score,
        "floor": line.floor,
        "ceiling": line.ceiling,
        "recovered": found.estimate if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "gap": found.gap if found else None,
        "reference": line.reference,
    }


def _safe(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _safe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if isinstance(value, bool | int | str) else str(value)
