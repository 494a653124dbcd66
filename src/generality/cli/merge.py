"""`generality merge`: several models of one architecture made one."""

from __future__ import annotations

import json as _json
import math
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from generality.cli import options
from generality.errors import UserError, unknown

DTYPES = ("float32", "bfloat16", "float16")
SETTINGS, OUTPUT, EXAM = "Of some methods", "Output", "Choosing settings on data"
DISTIL = "distill: models of any architecture and tokenizer, into the first"
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def merge(
    models: Annotated[
        list[str],
        typer.Argument(help="Models or LoRA adapters: a name, hf:org/name or a folder each."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    method: Annotated[
        str,
        typer.Option(
            help="average, task-arithmetic, ties, dare, dare-ties, slerp, layerwise or fisher; "
            "distill for models that are built differently."
        ),
    ] = "average",
    base: Annotated[
        str | None,
        typer.Option(help="What they were tuned from; that of adapters is known."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="One for each model, as 0.7,0.3; of layerwise: a JSON file, group → weights."
        ),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            help="ties, dare, dare-ties: share of each task vector that is kept, in (0, 1]; by "
            "default 0.2 (ties) or 0.1."
        ),
    ] = None,
    lam: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            help="Scale of the merged task vector; by default 0.4 for task-arithmetic and dare "
            "of the variant paper, else 1. Of distill: the true token's share, by default 0.9.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what dare draws.")] = 0,
    variant: Annotated[
        str,
        typer.Option(help="Whose reading of trimming, rescaling and signs: paper, mergekit, peft."),
    ] = "paper",
    fisher: Annotated[
        list[str] | None,
        typer.Option(
            help="fisher: a folder of safetensors, once for each model.", rich_help_panel=SETTINGS
        ),
    ] = None,
    inner: Annotated[
        str,
        typer.Option(help="layerwise: what is applied in a group.", rich_help_panel=SETTINGS),
    ] = "task-arithmetic",
    granularity: Annotated[
        str, typer.Option(help="layerwise: block, layer or tensor.", rich_help_panel=SETTINGS)
    ] = "block",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16; by default what the base or first model has.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    shard_size: Annotated[
        str, typer.Option(help="Most that a file holds: 5GB, 500MB.", rich_help_panel=OUTPUT)
    ] = "5GB",
    as_adapter: Annotated[
        bool,
        typer.Option(
            "--as-adapter",
            help="Of adapters: write their exact weighted mean as one adapter, whose rank is the "
            "sum of theirs.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    evaluate: Annotated[
        str | None,
        typer.Option(
            help="Prompts and responses with a column task: settings that are not given are chosen "
            "on half of them, and the result is compared with its models on the other half.",
            rich_help_panel=EXAM,
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(help="Tasks, with commas, that nothing is chosen by.", rich_help_panel=EXAM),
    ] = None,
    task_column: Annotated[
        str, typer.Option(help="Column with the name of the task.", rich_help_panel=EXAM)
    ] = "task",
    multitask: Annotated[
        str | None,
        typer.Option(
            help="A model tuned on all tasks at once, to compare with.", rich_help_panel=EXAM
        ),
    ] = None,
    search: Annotated[
        int,
        typer.Option(
            min=0,
            help="Merges that a search for layer-wise weights may try (CMA-ES); 0: none.",
            rich_help_panel=EXAM,
        ),
    ] = 0,
    examples: Annotated[
        int,
        typer.Option(min=2, help="Of each task in each half, at most.", rich_help_panel=EXAM),
    ] = 200,
    data: Annotated[
        str | None,
        typer.Option(
            help="Prompts and responses to tune the first model on.", rich_help_panel=DISTIL
        ),
    ] = None,
    epochs: Annotated[float, typer.Option(min=0.01, rich_help_panel=DISTIL)] = 1.0,
    learning_rate: Annotated[float, typer.Option(rich_help_panel=DISTIL)] = 1e-5,
    batch_size: Annotated[int, typer.Option(min=1, rich_help_panel=DISTIL)] = 16,
    control: Annotated[
        bool,
        typer.Option(
            "--control", help="Tune on the responses alone too, to compare.", rich_help_panel=DISTIL
        ),
    ] = False,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Make one model of several that were tuned from one, without training; or of any, by distill.

    Models are read a few megabytes at a time. OUT appears when it is whole, with config, tokenizer
    and a card that says what was merged how; the same command goes on where a killed one was.
    """
    from generality.lab.progress import ProgressBars
    from generality.weights.merge_models import merge_models
    from generality.weights.merge_recipe import Recipe

    if dtype is not None and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    command = shlex.join(["generality", *sys.argv[1:]])
    if method == "distill":
        if base or weights or density or fisher or evaluate or as_adapter or search:
            raise UserError(
                "distill trains and has no use for --base, --weights, --density, --fisher, "
                "--evaluate, --search or --as-adapter: leave them out."
            )
        _distill(
            models, out, data, control, json, device, dtype, command,
            {"lam": 0.9 if lam is None else lam, "epochs": epochs, "learning_rate": learning_rate,
             "batch_size": batch_size, "seed": seed},
        )  # fmt: skip
        return
    if data or control:
        raise UserError("--data and --control are for --method distill.")
    if as_adapter:
        if method != "average" or evaluate or density or lam or fisher:
            raise UserError("--as-adapter is for the method average, and chooses no settings.")
        from generality.weights.merge_adapter import merge_adapters

        merged = merge_adapters(models, weights=_numbers(weights, len(models)), base=base)
        merged.save(out, command=command)
        report: dict[str, Any] = {"method": "cat", "models": models, "ranks": merged.ranks}
    else:
        per_group = method == "layerwise"
        recipe = Recipe(
            method, None if per_group else _numbers(weights, len(models)), density, lam, seed,
            variant, inner, _groups(weights) if per_group else {}, granularity,
        )  # fmt: skip
        searched = bool(search) and method == "average"
        rule = inner if searched else recipe.rule
        _refuse_unused(rule, density=density, lam=lam, fisher=fisher)
        if not (per_group or search) and (inner, granularity) != ("task-arithmetic", "block"):
            raise UserError("--inner and --granularity are for layerwise, and for --search.")
        evaluation: dict[str, Any] = {}
        if evaluate is not None:
            recipe, evaluation = _choose(
                models, recipe, out, evaluate, task_column, held_out, examples, base, multitask,
                fisher or (), search, device,
            )  # fmt: skip
        elif search or multitask or held_out:
            raise UserError("--search, --multitask and --held-out need --evaluate DATA.")
        with ProgressBars(enabled=True).task(f"Merging {len(models)} models") as bar:
            report = merge_models(
                models, out, recipe, base=base, fisher=fisher or (), progress=bar,
                dtype=dtype, shard_bytes=_bytes(shard_size), command=command,
            )  # fmt: skip
        report |= {"evaluation": evaluation} if evaluation else {}
    if json:
        options.print_json({**report, "out": out})
        return
    console = options.console()
    if "parameters" in report:
        again = f", {report['resumed']} tensors of them before" if report["resumed"] else ""
        console.print(
            f"{len(models)} models merged by {method}: {report['parameters']:,} parameters in "
            f"{report['tensors']} tensors, {report['bytes'] / 1e6:,.0f} MB{again}"
        )
    if "evaluation" in report:
        _show(console, report["evaluation"])
    console.print(f"Written to {out}", soft_wrap=True)


def _distill(
    models: list[str], out: Path, data: str | None, control: bool, json: bool, device: str,
    dtype: str | None, command: str, settings: dict[str, Any],
) -> None:  # fmt: skip
    """Models that are built differently, by their distributions."""
    import torch

    from generality.training.distilled_merge import Fusion, merge_by_distillation, read_pairs

    if data is None:
        raise UserError(
            "--method distill tunes the first model: name prompts and responses, --data."
        )
    try:
        how = Fusion(**settings)
    except ValueError as error:
        said = str(error).replace("lam is", "--lambda is")
        raise UserError(f"{said.replace('learning_rate', '--learning-rate')}.") from error
    report = merge_by_distillation(
        models, out, *read_pairs(data), how, lab=options.make_lab(device), control=control,
        dtype=getattr(torch, dtype) if dtype else None, command=command,
    )  # fmt: skip
    if json:
        options.print_json({**report, "out": out})
        return
    from rich.table import Table

    console = options.console()
    table = Table("model", "gave targets for", "held-out loss")
    for each in report["models"]:
        table.add_row(Path(each["model"]).name, f"{each['gave']:.0%}", f"{each['loss']:.4f}")
    if control:
        table.add_row("the first, tuned on responses alone", "", f"{report['control']:.4f}")
    table.add_row("merged", "", f"{report['after']:.4f}")
    console.print(table)
    left = f" {report['left_out']} were too long." if report["left_out"] else ""
    console.print(
        f"Nats a character of {report['held_out']} held-out responses; {report['examples']} were "
        f"tuned on.{left}"
    )
    console.print(f"Written to {out}", soft_wrap=True)


def _choose(
    models: list[str], recipe: Any, out: Path, data: str, column: str, held_out: str | None,
    examples: int, base: str | None, multitask: str | None, fisher: Sequence[str], search: int,
    device: str,
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """Settings chosen on half of the data, and the table of the other half."""
    from generality.lab.progress import ProgressBars
    from generality.training.merge_sweep import read_exam, sweep_merges
    from generality.weights.checkpoint_stream import refuse_existing

    refuse_existing(out)
    outside = held_out.split(",") if held_out else []
    exam = read_exam(data, task=column, held_out=outside, limit=examples)
    with ProgressBars(enabled=True).task("Trying settings") as bar:
        return sweep_merges(
            models, exam, recipe, base=base, multitask=multitask, fisher=fisher, search=search,
            device=device, progress=bar,
        )  # fmt: skip


def _show(console: Any, evaluation: dict[str, Any]) -> None:
    """The table of an evaluation."""
    from rich.table import Table

    table = Table("model", "held in", "held out", "recovered")
    for line in evaluation["table"]:
        numbers = [line["held_in"], line["held_out"]]
        share = "" if line["recovered"] is None else f"{line['recovered']:.0%}"
        shown = ["" if number != number else f"{number:.3f}" for number in numbers]
        table.add_row(Path(line["model"]).name, *shown, share)
    console.print(table)
    console.print(
        f"Mean log-probability of a response's token; {evaluation['merges']} merges tried."
    )


def _refuse_unused(rule: str, **given: Any) -> None:
    """Settings that say nothing to a method would be taken for heard."""
    from generality.weights.merge_recipe import USERS

    for name, value in given.items():
        if value and rule not in USERS[name]:
            option = "--lambda" if name == "lam" else f"--{name}"
            raise UserError(f"{rule} has no use for {option}: leave it out.")


def _numbers(text: str | None, count: int) -> tuple[float, ...] | None:
    """Weights as they are typed."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--weights is numbers with commas, as 0.7,0.3, not '{text}'.") from error
    if not all(map(math.isfinite, found)):
        raise UserError(f"--weights are finite numbers, not '{text}'.")
    if len(found) != count:
        raise UserError(f"--weights has {len(found)} numbers for {count} models.")
    return found


def _groups(file: str | None) -> dict[str, list[float]]:
    """Weights by group from a JSON file."""
    if file is None:
        return {}
    try:
        found = _json.loads(Path(file).read_text(encoding="utf-8"))
        return {str(group): [float(w) for w in weights] for group, weights in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f'--weights of layerwise is a JSON file like {{"0.attention": [0.7, 0.3]}}; '
            f"'{file}' is not: {error}"
        ) from error


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB|)", text.strip().upper())
    if found is None or not float(found[1]):
        raise UserError(f"--shard-size is a size like 5GB or 500MB, not '{text}'.")
    return int(float(found[1]) * UNITS[found[2]])
