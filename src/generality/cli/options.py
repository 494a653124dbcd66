"""Options that several commands share."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from generality.lab import Lab


def study_names(incomplete: str) -> list[str]:
    """Names for shell completion."""
    from generality.studies.study import find_studies

    return [study.name for study in find_studies() if study.name.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Runs = Annotated[Path, typer.Option("--out", help="Folder of the runs.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
On = Annotated[
    str, typer.Option(help="Where to work: in-process, processes:N, ray or ray://host:port.")
]
StudyName = Annotated[
    str, typer.Argument(help="A study (see list), or your own file.", autocompletion=study_names)
]


def make_lab(device: str, on: str = "in-process") -> Lab:
    """A lab as the options describe it."""
    from generality.lab import Lab

    return Lab(device=device, on=on, command=shlex.join(["generality", *sys.argv[1:]]))


def console() -> Console:
    """Standard output, in colour where it can be."""
    return _Console(markup=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Left to `generality.cli.main`, as for everything else that is printed."""
        raise BrokenPipeError


def print_json(value: Any) -> None:
    """JSON for scripts, on standard output; what is no number is null, as JSON knows no NaN."""
    print(json.dumps(json_safe(value), indent=1, ensure_ascii=False, default=str))


def json_safe(value: Any) -> Any:
    """Plain values with NaN and infinities as None, for JSON."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
