"""The `generality` command: its subcommands, and how errors reach the person."""

from __future__ import annotations

import difflib
import errno
import inspect
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from generality import __version__
from generality.cli import (
    cache,
    claims,
    compare,
    compress,
    distill,
    fuse,
    ir,
    listing,
    merge,
    predict,
    report,
    reshard,
    results,
    run,
    select,
    serve,
    steer,
)
from generality.errors import UserError


class SuggestingGroup(TyperGroup):
    """Says which command was probably meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Click's own, with a suggestion when the command is unknown."""
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            near = difflib.get_close_matches(args[0], known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UserError(f"There is no command '{args[0]}'.{hint} Known: {', '.join(known)}.")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Click's own, but an interruption and a closed pipe are for `main` to put into words."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise InterruptedRun from error
        except BrokenPipeError as error:
            raise ClosedPipe from error


class FiniteCommand(TyperCommand):
    """A command whose numbers are numbers: NaN passes every comparison with a least or greatest."""

    def invoke(self, ctx: Any) -> Any:
        """Click's own, once no option is NaN or infinite."""
        for option in self.params:
            given = ctx.params.get(option.name)
            for value in given if isinstance(given, list | tuple) else [given]:
                if isinstance(value, float) and not math.isfinite(value):
                    raise UserError(f"{option.opts[0]} is a finite number, not {value}.")
        return super().invoke(ctx)


class InterruptedRun(Exception):  # noqa: N818
    """Ctrl-C."""


class ClosedPipe(Exception):  # noqa: N818
    """The reader of our output (head, less) has seen enough."""


app = typer.Typer(
    name="generality",
    cls=SuggestingGroup,
    help="Measure how far a model's skill reaches beyond its supervision, and push it further.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    "list": listing.list_studies,
    "show": listing.show,
    "claims": claims.claims,
    "compare": compare.compare,
    "predict": predict.predict,
    "select": select.select,
    "distill": distill.distill,
    "fuse": fuse.fuse,
    "serve": serve.serve,
    "merge": merge.merge,
    "ir": ir.ir,
    "compress": compress.compress,
    "reshard": reshard.reshard,
    "steer": steer.steer,
    "results": results.results,
    "report": report.report,
}


def help_of(command: Callable[..., None]) -> str:
    """A command's docstring with a line for each paragraph: terminals break lines themselves."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


for name, command in COMMANDS.items():
    app.command(name, cls=FiniteCommand, help=help_of(command))(command)
app.add_typer(cache.app, name="cache")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"generality {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 our bug, 2 something to fix, 130 interrupted."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    warnings.showwarning = _show_warning
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (InterruptedRun, KeyboardInterrupt):
        print(
            "Stopped. Finished steps are kept: the same command goes on from here.", file=sys.stderr
        )
        sys.exit(130)
    except (ClosedPipe, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(0)
    except Exception as error:
        if not _disk_is_full(error):
            raise
        print(
            f"Error: the disk is full ({getattr(error, 'filename', None) or 'no space left'}). "
            "Finished steps are kept: free space and run the same command again.",
            file=sys.stderr,
        )
        sys.exit(2)


def _disk_is_full(error: Exception) -> bool:
    """By its number, or, as safetensors has it, in words."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(os.strerror(n) in str(error) for n in full)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        print(f"Warning: {message}", file=sys.stderr)
