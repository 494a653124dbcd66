"""`generality results`: SQL over every run."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from generality.cli import options

_EXAMPLE = (
    "SELECT study, method, count(*) AS rows, avg(score) AS score, avg(recovered) AS recovered "
    "FROM rows GROUP BY ALL ORDER BY ALL"
)


def results(
    sql: Annotated[str, typer.Argument(help="A query over the table `rows`.")] = _EXAMPLE,
    out: Annotated[
        str, typer.Option(help="Folder of the runs, or any address fsspec knows (s3://…).")
    ] = "runs",
    json: options.Json = False,
) -> None:
    """Ask the rows of all runs: every run's columns, plus `study` and `run`."""
    from generality.lab.runs import query

    frame = query(sql, out)
    if json:
        print(frame.to_json(orient="records", force_ascii=False, indent=1))
        return
    table = Table(*map(str, frame.columns), box=None)
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    options.console().print(table)
