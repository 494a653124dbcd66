"""`generality run`: a study, its table, its verdicts, its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from generality.cli import options


def run(
    study: options.StudyName,
    scale: Annotated[str, typer.Option(help="smoke, small or full.")] = "small",
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds: 0, 1, 2, ….")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A knob of the study: key=value. Repeatable.")
    ] = None,
    on: options.On = "in-process",
    device: options.Device = "auto",
    track: Annotated[str | None, typer.Option(help="Also log to mlflow, wandb or trackio.")] = None,
    out: options.Runs = Path("runs"),
    json: options.Json = False,
) -> None:
    """Run a study and say which of its paper's claims hold.

    A run that was stopped, or killed, goes on where it was when the same command is given again.
    """
    from generality.lab.sinks import make_sink
    from generality.report import show_claims, show_summary, to_json, write_report
    from generality.studies import configure, find_study, run_study

    found = find_study(study)
    changes = [*(settings or []), *([f"seeds={seeds}"] if seeds else [])]
    config = configure(found, scale, changes)
    sink = make_sink(track) if track else None
    lab = options.make_lab(device, on)
    record = run_study(found, config, lab, scale=scale, root=out, sink=sink)
    page = write_report(record.directory)
    if json:
        options.print_json({**to_json(record), "report": str(page)})
        return
    console = options.console()
    show_summary(console, record)
    show_claims(console, record.claims)
    steps = record.environment["steps"]
    console.print(
        f"{len(record.rows)} rows in {record.environment['seconds']:.0f} s; "
        f"{steps['computed']} steps computed, {steps['reused']} reused."
    )
    console.print(f"Report: {page}", soft_wrap=True)
