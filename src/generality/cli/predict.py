"""`generality predict`: a saved winner on new rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from generality.cli import options


def predict(
    model: Annotated[Path, typer.Argument(help="A winner: runs/…/best.")],
    data: Annotated[
        str,
        typer.Argument(help="CSV, TSV, JSONL, Parquet, Arrow, hf:org/name, or a folder of images."),
    ],
    text: Annotated[
        str | None,
        typer.Option(help="Column of texts or image paths; by default the one compare used."),
    ] = None,
    adapt: Annotated[
        bool,
        typer.Option(help="Let a winner that adapts at test time learn from the rows, in order."),
    ] = True,
    skip_unreadable: Annotated[
        bool,
        typer.Option("--skip-unreadable", help="No prediction for images that cannot be read."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "--out", "-o", help="File to write: .csv, .jsonl or .parquet."),
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Add a prediction and its probability to every row."""
    from generality.benchmarks import read_rows
    from generality.benchmarks.image_folders import is_image_folder, list_images
    from generality.compare import predict as predict_rows
    from generality.compare.winner import input_of
    from generality.errors import UserError
    from generality.lab.runs import write_atomically
    from generality.selection.self_supervised_data import without_bars
    from generality.selection.training_files import check_output, check_outputs

    writers = {".csv": "to_csv", ".jsonl": "to_json", ".parquet": "to_parquet"}
    if output is not None:
        check_output(output, tuple(writers))
        check_outputs({"the data": data}, {"--output": output})
    kind, column = input_of(model)
    if kind != "image" and skip_unreadable:
        raise UserError("--skip-unreadable is for images, and this winner reads none.")
    if kind == "numeric" and text is not None:
        raise UserError("--text: this winner reads columns of numbers, and finds them by name.")
    images = is_image_folder(data)
    if images and kind != "image":
        raise UserError(f"{data} is a folder, and this winner reads tables; name a file.")
    if images and text is not None:
        raise UserError("--text names a column of a table, and this is a folder of images.")
    words = [] if kind == "numeric" else [text or column or "text"]
    rows = predict_rows(
        model,
        list_images(data) if images else read_rows(data, as_text=words),
        text="path" if images else text,
        adapt=adapt,
        skip_unreadable=skip_unreadable,
        folder=None if images or data.startswith("hf:") else Path(data).expanduser().parent,
        lab=options.make_lab(device),
    )
    if output is not None:
        with without_bars():
            write_atomically(
                output, lambda path: getattr(rows, writers[output.suffix.lower()])(str(path))
            )
        if json:
            options.print_json({"rows": len(rows), "out": output})
            return
        options.console().print(f"{len(rows)} predictions written to {output}", soft_wrap=True)
    elif json:
        options.print_json(rows.to_list())
    else:
        print(rows.to_pandas().to_csv(index=False), end="")
