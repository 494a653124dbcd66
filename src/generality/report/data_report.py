"""What became of training data: a page and tables in the terminal, from the same plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.console import Console
from rich.table import Table

from generality.lab.runs import write_atomically
from generality.report.terminal import plain


def write_data_report(path: Path, report: Mapping[str, Any], *, command: str = "") -> Path:
    """Write a report on training data as one self-contained page and return where it is.

    Args:
        path: the file; its folder is there.
        report: title, subtitle, answer, notes, tables and perhaps a picture, as
            `generality.selection.example_choice` gives them.
        command: what was typed.

    Raises:
        UserError: the page cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("generality.report", "."),
        autoescape=True,  # by extension would miss .jinja
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("data_report.html.jinja").render(
        report=report,
        tables=[table for table in report["tables"] if table["rows"]],
        command=command,
    )
    content = (re.sub(r"\n\s*\n+", "\n", page) + "\n").encode("utf-8", "backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return path


def show_data_report(console: Console, report: Mapping[str, Any]) -> None:
    """Print a report's tables, then its answer and notes."""
    console.print(plain(report["title"], "bold"))
    for each in report["tables"]:
        if not each["rows"]:
            continue
        table = Table(
            title=plain(each["title"], "bold"), title_justify="left", title_style="",
            box=box.SIMPLE_HEAD, pad_edge=False,
        )  # fmt: skip
        for place, name in enumerate(each["columns"]):
            table.add_column(name, overflow="fold", justify="left" if place < 2 else "right")
        for row in each["rows"]:
            table.add_row(*(plain(word) for word in row))
        console.print(table)
        if each["note"]:
            console.print(plain(each["note"], "dim"))
    console.print(plain(report["answer"], "bold"))
    for note in report["notes"]:
        console.print(plain(note, "dim"))
