"""What `generality select` and `generality distill` ask alike about records, judges and pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from generality.errors import unknown

if TYPE_CHECKING:
    from generality.selection.record_screen import Screen

BAD = "Bad records"
JUDGES = ("number", "exact", "world", "tests")

Prompt = Annotated[
    str | None, typer.Option(help="Column of prompts, where it has an unusual name.")
]
Response = Annotated[
    str | None, typer.Option(help="Column of the response, or of a list of several.")
]
OnBad = Annotated[
    str,
    typer.Option(help="skip bad records, or refuse the data at the first.", rich_help_panel=BAD),
]
Rejected = Annotated[
    Path | None,
    typer.Option(help="JSONL file for bad records, each with its reason.", rich_help_panel=BAD),
]
Duplicates = Annotated[
    str,
    typer.Option(
        help="drop records that differ in case, spaces and punctuation only, drop exact ones, or "
        "keep all.",
        rich_help_panel=BAD,
    ),
]
OtherLanguages = Annotated[
    str,
    typer.Option(
        help="keep or drop records in another script than Latin, or with the function words of "
        "another language than English.",
        rich_help_panel=BAD,
    ),
]


def make_screen(
    data: str, *, on_bad: str, duplicates: str, other_languages: str, prompt: str | None = None,
    response: str | None = None, source_column: str = "source",
) -> Any:  # fmt: skip
    """Makes the screens that records meet, as the options describe them."""
    from generality.selection.record_screen import Screen
    from generality.selection.training_files import Columns

    one_of("--on-bad", on_bad, ("skip", "refuse"))
    one_of("--duplicates", duplicates, ("drop", "exact", "keep"))
    one_of("--other-languages", other_languages, ("keep", "drop"))

    def screen() -> Screen:
        return Screen(
            Columns(prompt, response, source_column), duplicates=duplicates,
            other_languages=other_languages, on_bad=on_bad, source=data,
        )  # fmt: skip

    return screen


def make_judge(name: str) -> Any:
    """A judge by its short name."""
    from generality.selection.judge import ExactMatch, NumberMatch, UnitTests, WorldCheck

    judges = dict(zip(JUDGES, (NumberMatch, ExactMatch, WorldCheck, UnitTests), strict=True))
    if name not in judges:
        raise unknown("judge", name, JUDGES)
    return judges[name]()


def report_path(out: Path | None, data: str, command: str) -> Path:
    """Where a page goes by default: beside the output, or here."""
    if out is not None:
        name = out.name.removesuffix(".gz")
        return out.with_name(f"{name.rpartition('.')[0] or name}.report.html")
    return Path(f"{Path(data.removeprefix('hf:')).name}.{command}.report.html")


def one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    """The value, if it is one of those known."""
    if value not in known:
        raise unknown(f"choice for {option}", value, known)
    return value
