"""`generality compress`: a smaller language model for a domain, and what that cost."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from generality.cli import options
from generality.cli.data_options import OnBad, one_of
from generality.errors import UserError, unknown

if TYPE_CHECKING:
    from generality.selection.record_screen import Screen
    from generality.selection.training_files import Record
    from generality.training.compression import Size

TUNING = "Tuning (d-pruner, otov2, l4q)"


def compress(
    model: Annotated[str, typer.Argument(help="A causal language model: name, hf:org/name, path.")],
    domain: Annotated[
        str,
        typer.Option(help="Texts of the domain: JSONL (.gz), Parquet, CSV, .txt, hf:org/name."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the smaller model.")],
    method: Annotated[
        str, typer.Option(help="magnitude, wanda, sparsegpt, d-pruner, otov2 or l4q.")
    ] = "d-pruner",
    general: Annotated[
        str | None, typer.Option(help="General texts: what the model should not forget.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="The column of texts, where records are no conversations.")
    ] = None,
    sparsity: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of weights, or of channels, to remove.")
    ] = 0.5,
    heads: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="otov2: share of heads to remove in each layer."),
    ] = 0.0,
    bits: Annotated[int, typer.Option(min=2, max=8, help="l4q: bits a weight.")] = 4,
    group: Annotated[int, typer.Option(min=1, help="l4q: inputs that share a step.")] = 128,
    rank: Annotated[int, typer.Option(min=1, help="l4q: rank of LoRA while tuning.")] = 4,
    plain: Annotated[
        bool, typer.Option("--plain", help="l4q: write ordinary layers that hold rounded weights.")
    ] = False,
    steps: Annotated[int, typer.Option(min=0, rich_help_panel=TUNING)] = 100,
    learning_rate: Annotated[float | None, typer.Option(rich_help_panel=TUNING)] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts together.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=2, help="Texts are cut here.")] = 256,
    limit: Annotated[int, typer.Option(min=2, help="Records read of each file, at most.")] = 1000,
    on_bad: OnBad = "skip",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Make a language model smaller, keeping what it can do in one domain.

    Every tenth text is held out; the table shows size, speed and loss before and after on them.
    Records without a text are left out and counted by what is wrong with them. OUT appears when it
    is whole: transformers loads it (l4q without --plain: after `import
    generality.models.packed_checkpoint`, or by generality's load_model).
    """
    from generality.selection.record_screen import Screen
    from generality.training.compression import METHODS, Compression, compress_checkpoint

    one_of("--on-bad", on_bad, ("skip", "refuse"))
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if method == "otov2" and steps < 20:
        raise UserError("--method otov2 empties channels while it trains: give it --steps 20.")
    if heads and method != "otov2":
        raise UserError(f"--heads is of --method otov2; {method} removes no heads.")
    if plain and method != "l4q":
        raise UserError(f"--plain is of --method l4q; {method} writes ordinary layers anyway.")
    try:
        how: Any = Compression(
            method, sparsity, bits, group, rank, steps, learning_rate, batch_size, seed=seed,
            heads=heads,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"Check the options: {error}.") from error
    lab = options.make_lab(device)
    lab.fetch(model)
    screens = [Screen(source=source, on_bad=on_bad) for source in (domain, general) if source]
    texts, *rest = (read_texts(screen, text, limit) for screen in screens)
    others = rest[0] if rest else []
    if not json:
        _show_bad(screens)
    with lab.progress.task(f"Making {Path(model).name} smaller") as bar:
        sizes = compress_checkpoint(
            model, out, how, texts, others, plain=plain, max_tokens=max_tokens,
            device=lab.device, command=shlex.join(["generality", *sys.argv[1:]]), progress=bar,
        )  # fmt: skip
    if json:
        options.print_json(
            {
                "out": out,
                **{name: asdict(size) for name, size in sizes.items()},
                "records": {screen.source: screen.summary() for screen in screens},
            }
        )
        return
    _show(sizes)
    options.console().print(f"Written to {out}", soft_wrap=True)


def read_texts(screen: Screen, column: str | None, limit: int) -> list[str]:
    """The texts of `screen.source`: of `column`, of a column "text", or whole conversations.

    Among its first `limit` records; the screen counts those that have none, or refuses them.
    """
    from itertools import islice

    from generality.selection.training_files import BadRecord, read_records

    texts = []
    for record in islice(read_records(screen.source), limit):
        screen.read += 1
        try:
            texts.append(_text_of(record, column))
        except BadRecord as bad:
            screen.reject(record, bad.kind, str(bad))
    screen.kept = len(texts)
    if not texts and column is not None and screen.lacking:
        raise unknown("column", column, screen.lacking)
    if len(texts) < 2:
        bad_ones = ", ".join(f"{count} {kind}" for kind, count in screen.dropped.items())
        columns = f" Its columns: {', '.join(screen.lacking)}." if screen.lacking else ""
        told = " Name the column of texts with --text." if screen.lacking else ""
        raise UserError(
            f"{screen.source} holds {len(texts)} texts{f' ({bad_ones})' if bad_ones else ''}: it "
            f"takes some to work on, some to hold out.{columns}{told}"
        )
    return texts


def _text_of(record: Record, column: str | None) -> str:
    from generality.selection.training_files import BadRecord, prompt_of

    content = record.content or {}
    if record.problem:
        raise BadRecord(record.problem)
    if column is not None and column not in content:
        raise BadRecord("missing field", f"it has no column '{column}'")
    text = content.get(column or "text")
    if column is None and not isinstance(text, str):
        example = prompt_of(record)
        text = f"{example.prompt}\n{example.response}".strip()
    if not isinstance(text, str):
        raise BadRecord("not text")
    if not text.strip():
        raise BadRecord("empty text")
    return text


def _show_bad(screens: list[Screen]) -> None:
    for screen in screens:
        for kind, count in screen.dropped.items():
            places = screen.places[kind]
            more = ", …" if count > len(places) else ""
            options.console().print(
                f"{screen.source}: {count} of {screen.read} records left out: {kind} "
                f"({', '.join(map(str, places))}{more})",
                soft_wrap=True, markup=False, highlight=False,
            )  # fmt: skip


def _show(sizes: dict[str, Size]) -> None:
    from rich.table import Table

    table = Table("", *sizes)
    before = sizes["before"]
    lines = {
        "parameters": lambda s: f"{s.parameters:,}",
        "not zero": lambda s: f"{s.nonzero:,}",
        "megabytes": lambda s: f"{s.bytes / 1e6:,.1f}",
        "tokens read a second": lambda s: f"{s.tokens_per_second:,.0f}",
        "loss on the domain": lambda s: f"{s.domain_loss:.3f}",
    }
    if before.general_loss is not None:
        lines["loss in general"] = lambda s: f"{s.general_loss:.3f}"
    for name, told in lines.items():
        table.add_row(name, *(told(size) for size in sizes.values()))
    options.console().print(table)
