"""`generality compress`: a smaller language model for a domain, and what that cost."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from generality.cli import options
from generality.errors import UserError, unknown

if TYPE_CHECKING:
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
    limit: Annotated[int, typer.Option(min=2, help="Texts read of each file, at most.")] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Make a language model smaller, keeping what it can do in one domain.

    Every tenth text is held out; the table shows size, speed and loss before and after on them.
    OUT appears when it is whole: transformers loads it (l4q without --plain: after `import
    generality.models.packed_checkpoint`, or by generality's load_model).
    """
    from generality.training.compression import METHODS, Compression, compress_checkpoint

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
    texts = read_texts(domain, text, limit)
    others = read_texts(general, text, limit) if general else []
    with lab.progress.task(f"Making {Path(model).name} smaller") as bar:
        sizes = compress_checkpoint(
            model, out, how, texts, others, plain=plain, max_tokens=max_tokens,
            device=lab.device, command=shlex.join(["generality", *sys.argv[1:]]), progress=bar,
        )  # fmt: skip
    if json:
        options.print_json({"out": out, **{name: asdict(size) for name, size in sizes.items()}})
        return
    _show(sizes)
    options.console().print(f"Written to {out}", soft_wrap=True)


def read_texts(source: str, column: str | None, limit: int) -> list[str]:
    """The texts of a file: of `column`, of a column "text", or whole conversations."""
    from itertools import islice

    from generality.selection.training_files import BadRecord, prompt_of, read_records

    texts = []
    for record in islice(read_records(source), limit):
        content = record.content or {}
        if column is not None and column not in content:
            raise unknown("column", column, content)
        plain = content.get(column or "text")
        try:
            if isinstance(plain, str):
                texts.append(plain)
            else:
                example = prompt_of(record)
                texts.append(f"{example.prompt}\n{example.response}".strip())
        except BadRecord as bad:
            told = "Name the column of texts with --text." if record.content else "Mend that line."
            raise UserError(f"{source}, record {record.number}: {bad}. {told}") from bad
    if len(texts) < 2:
        raise UserError(f"{source} holds {len(texts)} texts: some to work on, some to hold out.")
    return texts


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
