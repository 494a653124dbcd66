"""`generality compare`: which method makes the most of the labels you have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from generality.cli import options
from generality.errors import UserError

if TYPE_CHECKING:
    from generality.lab import RunRecord

LABELS, DOMAINS = "For weak labels", "For domains"
SELECT, DRAWS = "held-out-source", 4


def compare(
    data: Annotated[
        str,
        typer.Argument(help="CSV, TSV, JSONL, Parquet, Arrow, hf:org/name, or a folder of images."),
    ],
    text: Annotated[str | None, typer.Option(help="Column of texts; by default text.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of true labels; may be blank in some rows.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The student, or the frozen backbone: a name, hf:org/name or path."),
    ] = None,
    tuning: Annotated[str, typer.Option(help="probe, lora or full.")] = "probe",
    layer: Annotated[int | None, typer.Option(help="Hidden state that is read.")] = None,
    pooling: Annotated[str | None, typer.Option(help="mean, last or cls.")] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Only these, separated by commas: naive,confidence-0.5,… for weak labels, "
            "erm,coral,adanpc,… for domains (a name that there is not lists them all)."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, 2, ….")] = 5,
    max_length: Annotated[int, typer.Option(min=1, help="Tokens of a text that are read.")] = 256,
    split: Annotated[str | None, typer.Option(help="Split of a hub data set.")] = None,
    weak_label: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of weak labels; several (COL,COL or repeated) are averaged.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    weak_probabilities: Annotated[
        str | None,
        typer.Option(
            help="Column(s) of the weak model's probabilities: COL[,COL…].", rich_help_panel=LABELS
        ),
    ] = None,
    weak_model: Annotated[
        list[str] | None,
        typer.Option(
            help="A saved classifier, or a ladder name such as bag-of-words; several are averaged.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    via: Annotated[
        list[str] | None,
        typer.Option(
            help="Model(s) to bootstrap through: each learns from the one before, weakest first.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    old_model: Annotated[
        str | None,
        typer.Option(
            help="The model in use (a saved classifier, or a column of its answers): keep what it "
            "has right.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data.", rich_help_panel=LABELS)
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            help="Column that says where a row comes from: each value is left out in turn.",
            rich_help_panel=DOMAINS,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Leave out this domain only.", rich_help_panel=DOMAINS)
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Column of paths of images.", rich_help_panel=DOMAINS)
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Folder of a public set: PACS, VLCS, OfficeHome, TerraIncognita, DomainNet, "
            "camelyon17, fmow, iwildcam.",
            rich_help_panel=DOMAINS,
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Columns of numbers to learn from: COL[,COL…]; by default all.",
            rich_help_panel=DOMAINS,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Column of groups of which the worst is reported; by default the classes.",
            rich_help_panel=DOMAINS,
        ),
    ] = None,
    select: Annotated[
        str,
        typer.Option(
            help="Choose by held-out-source, leave-one-domain-out, crafted-shift, target-sample "
            "or oracle (which peeks).",
            rich_help_panel=DOMAINS,
        ),
    ] = SELECT,
    draws: Annotated[
        int,
        typer.Option(
            min=1, help="Draws of each method's hyper-parameters.", rich_help_panel=DOMAINS
        ),
    ] = DRAWS,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of each training.", rich_help_panel=DOMAINS)
    ] = None,
    hidden: Annotated[
        int | None,
        typer.Option(min=1, help="Units between features and head.", rich_help_panel=DOMAINS),
    ] = None,
    target_labels: Annotated[
        int,
        typer.Option(
            min=0,
            help="Labelled rows of the target that you have: trained on as one more domain.",
            rich_help_panel=DOMAINS,
        ),
    ] = 0,
    drop_duplicates: Annotated[
        bool,
        typer.Option(
            "--drop-duplicates",
            help="Leave out rows that also occur in another domain.",
            rich_help_panel=DOMAINS,
        ),
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Pixels of the side to which images are brought; by default the backbone's own.",
            rich_help_panel=DOMAINS,
        ),
    ] = None,
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable",
            help="Leave out images that cannot be read.",
            rich_help_panel=DOMAINS,
        ),
    ] = False,
    on: options.On = "in-process",
    device: options.Device = "auto",
    out: options.Runs = Path("runs"),
    json: options.Json = False,
) -> None:
    """Try every method that applies to your data, and keep the best.

    With weak labels (--weak-label and its kin) a stronger model learns from them, by every method;
    true labels for some rows say what each recovers. With domains (--domain, or a folder of images)
    each domain is left out in turn, and methods are scored on the one they never saw. The winner
    lands in the run's folder, ready for predict.
    """
    from generality.benchmarks.image_folders import is_image_folder
    from generality.report import show_claims, show_summary, to_json, write_report

    lab = options.make_lab(device, on)
    names = _listed(methods)
    weak = weak_label or weak_probabilities or weak_model or old_model
    record: RunRecord
    if domain is None and layout is None and (weak or not is_image_folder(data)):
        _refuse(
            "goes with --domain COLUMN",
            {"--target": target, "--image": image, "--features": features, "--group": group,
             "--steps": steps, "--hidden": hidden, "--drop-duplicates": drop_duplicates or None,
             "--skip-unreadable": skip_unreadable or None,
             "--select": None if select == SELECT else select,
             "--draws": None if draws == DRAWS else draws,
             "--target-labels": target_labels or None, "--image-size": image_size},
        )  # fmt: skip
        from generality.benchmarks import read_rows
        from generality.compare import compare_weak_labels

        record = compare_weak_labels(
            read_rows(data, split=split, as_text=[text or "text"]),
            text=text or "text",
            label=label,
            weak_label=",".join(weak_label or []) or None,
            weak_probabilities=weak_probabilities.split(",") if weak_probabilities else None,
            weak_model=",".join(weak_model or []) or None,
            via=",".join(via or []) or None,
            old_model=old_model,
            model=model or "minilm-l6",
            tuning=tuning,
            layer=layer,
            pooling=pooling,
            methods=names,
            seeds=seeds,
            epochs=epochs,
            max_length=max_length,
            lab=lab,
            root=out,
            source=data,
        )
    else:
        _refuse(
            "does not go with domains",
            {"--weak-label": weak_label or None, "--weak-probabilities": weak_probabilities,
             "--weak-model": weak_model or None, "--via": via or None, "--epochs": epochs,
             "--old-model": old_model},
        )  # fmt: skip
        from generality.compare import compare_domains
        from generality.compare.domain_features import FeatureRecipe
        from generality.compare.domain_frozen import Network
        from generality.compare.domain_table import open_domain_table
        from generality.compare.domain_tuned import TUNED_NETWORK

        table = open_domain_table(
            data, domain=domain, label=label, text=text, image=image, layout=layout,
            features=_listed(features), group=group, split=split,
            skip_unreadable=skip_unreadable,
        )  # fmt: skip
        if hidden is not None and tuning in ("lora", "full"):
            raise UserError(
                "--hidden is the width of a network on frozen features (--tuning probe)."
            )
        usual = Network() if tuning == "probe" else TUNED_NETWORK
        sizes = {"hidden": hidden, "steps": steps}
        record = compare_domains(
            table,
            target=target,
            recipe=FeatureRecipe.of(
                table.kind,
                model,
                layer=layer,
                pooling=pooling,
                max_length=max_length,
                image_size=image_size,
            ),
            tuning=tuning,
            methods=names,
            select=select,
            seeds=seeds,
            draws=draws,
            network=replace(usual, **{name: size for name, size in sizes.items() if size}),
            drop_duplicates=drop_duplicates,
            target_labels=target_labels,
            lab=lab,
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


def _listed(names: str | None) -> list[str] | None:
    """Names between commas."""
    if names is None:
        return None
    found = [name.strip() for name in names.split(",") if name.strip()]
    if not found:
        raise UserError(f"'{names}' names nothing; write names separated by commas.")
    return found


def _refuse(why: str, given: dict[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{name} {why}.")
