"""`generality report`: the page of a run, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from generality.cli import options


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    json: options.Json = False,
) -> None:
    """Show runs and write their reports (report.html, one self-contained file each)."""
    from generality.lab import read_run
    from generality.report import show_claims, show_summary, to_json, write_report

    records = [read_run(directory) for directory in runs]
    pages = [write_report(record.directory) for record in records]
    if json:
        options.print_json(
            [
                {**to_json(record), "report": str(page)}
                for record, page in zip(records, pages, strict=True)
            ]
        )
        return
    console = options.console()
    for record, page in zip(records, pages, strict=True):
        show_summary(console, record)
        show_claims(console, record.claims)
        console.print(f"Report: {page}", soft_wrap=True)
