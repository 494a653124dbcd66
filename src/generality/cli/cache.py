"""`generality cache ls|gc|verify`: kept results, and what they cost."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

import typer
from rich.table import Table

from generality.cli import options
from generality.errors import UserError

app = typer.Typer(help="Kept results of steps: list, verify, clean.", no_args_is_help=True)


@app.command("ls")
def list_entries(json: options.Json = False) -> None:
    """What is kept, by kind of step."""
    from generality.home import steps_home
    from generality.lab.steps import StepStore

    store = StepStore(steps_home())
    ordered = sorted(store.entries(), key=lambda entry: entry.step)
    groups = [(step, list(group)) for step, group in groupby(ordered, key=lambda e: e.step)]
    kinds = [
        {
            "step": step,
            "entries": len(group),
            "bytes": sum(entry.size for entry in group),
            "seconds_saved_each": round(sum(entry.seconds for entry in group) / len(group), 2),
            "last_used_days": round(min(entry.age_days for entry in group), 2),
        }
        for step, group in groups
    ]
    if json:
        options.print_json({"home": str(store.root), "steps": kinds})
        return
    table = Table("step", "entries", "MB", "seconds each", "last used (days)", box=None)
    for kind in kinds:
        table.add_row(
            str(kind["step"]), str(kind["entries"]), f"{float(str(kind['bytes'])) / 1e6:.1f}",
            str(kind["seconds_saved_each"]), str(kind["last_used_days"]),
        )  # fmt: skip
    console = options.console()
    console.print(table)
    console.print(f"Below {store.root}", soft_wrap=True)


@app.command()
def gc(
    older_than: Annotated[
        float | None, typer.Option(help="Remove what was not used for this many days.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Keep at most this much, such as 500MB or 20GB.")
    ] = None,
) -> None:
    """Remove damaged entries, leftovers of killed runs, and what the options say."""
    from generality.benchmarks.table import forget_tables
    from generality.home import steps_home
    from generality.lab.steps import StepStore

    limit = None if max_size is None else parse_size(max_size)
    freed = StepStore(steps_home()).gc(older_than_days=older_than, max_bytes=limit)
    if older_than is not None:
        freed += forget_tables(older_than_days=older_than)
    options.console().print(f"Freed {freed / 1e6:.1f} MB.")


@app.command()
def verify(json: options.Json = False) -> None:
    """Check every entry against its checksums; exit code 2 when one is damaged."""
    from generality.home import steps_home
    from generality.lab.steps import StepStore

    store = StepStore(steps_home())
    damaged = [
        {"key": entry.key, "step": entry.step, "problem": problem}
        for entry, problem in store.verify()
    ]
    if json:
        options.print_json({"entries": len(store.entries()), "damaged": damaged})
    else:
        for entry in damaged:
            options.console().print(f"{entry['key']} ({entry['step']}) {entry['problem']}")
        options.console().print(f"{len(store.entries())} entries, {len(damaged)} damaged.")
    if damaged:
        raise typer.Exit(2)


def parse_size(text: str) -> int:
    """Bytes in a size such as 500MB.

    >>> parse_size("20GB"), parse_size("1.5 kb")
    (20000000000, 1500)
    """
    units = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "B": 1.0}
    upper = text.strip().upper()
    for unit, factor in units.items():
        number = upper.removesuffix(unit).strip()
        if upper.endswith(unit) and number.replace(".", "", 1).isdigit():
            return int(float(number) * factor)
    raise UserError(f"--max-size {text}: write a size such as 500MB or 20GB.")
