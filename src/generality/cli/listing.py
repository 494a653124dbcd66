"""`generality list` and `generality show`: what can be run."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from generality.cli import options


def list_studies(json: options.Json = False) -> None:
    """List the studies."""
    from generality.studies.study import find_studies

    studies = find_studies()
    if json:
        options.print_json(
            [
                {
                    "study": study.name,
                    "family": study.family,
                    "title": study.title,
                    "paper": dataclasses.asdict(study.paper),
                }
                for study in studies
            ]
        )
        return
    table = Table("study", "family", "question", "year", box=None)
    for study in studies:
        table.add_row(study.name, study.family, study.title, str(study.paper.year))
    options.console().print(table)


def show(
    study: options.StudyName,
    scale: Annotated[str, typer.Option(help="Whose settings to show.")] = "small",
    json: options.Json = False,
) -> None:
    """Show what a study does, its knobs and its claims."""
    from generality.studies.study import configure, find_study

    found = find_study(study)
    config = dataclasses.asdict(configure(found, scale))
    if json:
        claims = [
            {
                "statement": claim.statement,
                "test": claim.test.description,
                "expected_at": claim.expected_at,
            }
            for claim in found.claims
        ]
        paper = dataclasses.asdict(found.paper)
        options.print_json(
            {
                "study": found.name,
                "paper": paper,
                "scale": scale,
                "config": config,
                "claims": claims,
            }
        )
        return
    console = options.console()
    console.print((found.module.__doc__ or "").strip(), markup=False)
    console.print(
        f"\n{found.paper.title} (arXiv {found.paper.arxiv}, {found.paper.year})", markup=False
    )
    settings = Table("setting (--set)", f"at {scale}", box=None)
    for name, value in config.items():
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        settings.add_row(name, shown)
    console.print(settings)
    claims_table = Table("claim", "test", "should show at", box=None)
    for claim in found.claims:
        claims_table.add_row(claim.statement, claim.test.description, claim.expected_at)
    console.print(claims_table)
