"""`generality claims`: the verdicts of the runs there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from generality.cli import options
from generality.errors import unknown


def claims(
    studies: Annotated[
        list[str] | None,
        typer.Argument(help="Which studies; all by default.", autocompletion=options.study_names),
    ] = None,
    scale: Annotated[str, typer.Option(help="The scale of the runs to look at.")] = "small",
    write: Annotated[
        Path | None, typer.Option(help="Also write <study>.json into this folder, with provenance.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Judge the rows anew, by the claims as they are now.")
    ] = False,
    out: options.Runs = Path("runs"),
    json: options.Json = False,
) -> None:
    """Show which claims hold, fail or stay open in the latest run of each study."""
    from generality.lab import write_json
    from generality.report import show_claims
    from generality.studies.study import SCALES

    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    records = [_latest(name, scale, out, again) for name in studies or _names()]
    found = [record for record in records if record is not None]
    if write:
        write.mkdir(parents=True, exist_ok=True)
        for record in found:
            write_json(write / f"{record['study']}.json", record)
    if json:
        options.print_json(found)
        return
    console = options.console()
    for record in found:
        console.print(f"{record['title']} ({record['study']}, {record['scale']})", markup=False)
        show_claims(console, record["claims"])
    missing = len(records) - len(found)
    if missing:
        console.print(f"{missing} studies have no finished run at {scale} below {out}.")


def _names() -> list[str]:
    from generality.studies.study import find_studies

    return [study.name for study in find_studies()]


def _latest(name: str, scale: str, root: Path, again: bool) -> dict[str, Any] | None:
    """The latest finished run's verdicts and where they come from."""
    from generality.claims import judge
    from generality.lab import find_runs, read_run
    from generality.studies.study import find_study

    study = find_study(name)
    for directory in find_runs(root, study.name):
        record = read_run(directory)
        if record.claims and record.config.get("scale") == scale:
            verdicts = record.claims
            if again:
                judged = judge(study.claims, record.rows, factors=study.factors)
                verdicts = [verdict.to_dict() for verdict in judged]
            return {
                **record.config,
                "rows": len(record.rows),
                "claims": verdicts,
                "environment": record.environment,
            }
    return None
