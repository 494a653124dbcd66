"""`generality compare`: which method makes the most of the labels you have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from generality.cli import options


def compare(
    data: Annotated[str, typer.Argument(help="CSV, TSV, JSONL, Parquet, Arrow or hf:org/name.")],
    text: Annotated[str, typer.Option(help="Column of texts.")] = "text",
    label: Annotated[
        str | None, typer.Option(help="Column of true labels; may be blank in some rows.")
    ] = None,
    weak_label: Annotated[str | None, typer.Option(help="Column of weak labels.")] = None,
    weak_probabilities: Annotated[
        str | None, typer.Option(help="Column(s) of the weak model's probabilities: COL[,COL…].")
    ] = None,
    weak_model: Annotated[
        str | None, typer.Option(help="A saved classifier, or a ladder name such as bag-of-words.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="The student: a name, hf:org/name or path.")
    ] = "minilm-l6",
    tuning: Annotated[str, typer.Option(help="probe, lora or full.")] = "probe",
    layer: Annotated[int | None, typer.Option(help="Hidden state of the probe.")] = None,
    pooling: Annotated[str | None, typer.Option(help="mean, last or cls.")] = None,
    methods: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, 2, ….")] = 5,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    max_length: Annotated[int, typer.Option(min=1, help="Tokens of a text that are read.")] = 256,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    on: options.On = "in-process",
    device: options.Device = "auto",
    out: options.Runs = Path("runs"),
    json: options.Json = False,
) -> None:
    """Train a stronger model on weak labels, by every method that applies, and keep the best.

    With true labels for some rows it measures what each method recovers; without, it says what
    can and cannot be concluded. The winner lands in the run's folder, ready for predict.
    """
    from generality.benchmarks import read_rows
    from generality.compare import compare_weak_labels
    from generality.report import show_claims, show_summary, to_json, write_report

    record = compare_weak_labels(
        read_rows(data, split=split, as_text=[text]),
        text=text,
        label=label,
        weak_label=weak_label,
        weak_probabilities=weak_probabilities.split(",") if weak_probabilities else None,
        weak_model=weak_model,
        model=model,
        tuning=tuning,
        layer=layer,
        pooling=pooling,
        methods=methods.split(",") if methods else None,
        seeds=seeds,
        epochs=epochs,
        max_length=max_length,
        lab=options.make_lab(device, on),
        root=out,
        source=data,
    )
    page = write_report(record.directory)
    best = record.directory / "best"
    if json:
        options.print_json({**to_json(record), "report": str(page), "best": str(best)})
        return
    console = options.console()
    show_summary(console, record)
    show_claims(console, record.claims)
    console.print(f"Report: {page}", soft_wrap=True)
    console.print(f"Winner: {best} (use it: generality predict {best} NEW.csv)", soft_wrap=True)
