"""`generality select`: which examples to fine-tune a model on."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from generality.cli import options
from generality.cli.data_options import (
    BAD,
    Duplicates,
    OnBad,
    OtherLanguages,
    Prompt,
    Rejected,
    Response,
    make_judge,
    make_screen,
    one_of,
    report_path,
)
from generality.errors import UserError, unknown

METHOD = "Of some methods"


def select(
    data: Annotated[
        str, typer.Argument(help="JSONL (.gz), Parquet, CSV, a saved data set, or hf:org/name.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write: .jsonl, .jsonl.gz or .parquet."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="grape, reverse-fit, random, longest, shortest, strongest (choose among the "
            "responses to a prompt), g-vendi, prismatic (spread over gradients), s2l (some of "
            "each kind, by a small model's losses in training), s3ft (own answers where they are "
            "right), dedup."
        ),
    ] = "grape",
    model: Annotated[
        str | None,
        typer.Option(help="The model that will be trained: a name, hf:org/name or path."),
    ] = None,
    keep: Annotated[
        float | None, typer.Option(help="Keep this many examples in all, or this share below 1.")
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write no data, only the report.")
    ] = False,
    prompt: Prompt = None,
    response: Response = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub or saved data set.")] = None,
    write_as: Annotated[
        str, typer.Option("--format", help="same, messages or prompt-completion.")
    ] = "same",
    judge: Annotated[
        str | None,
        typer.Option(
            help="Leave out wrong responses: number, exact, tests (assertions, run in a sandbox) "
            "or world, against --reference."
        ),
    ] = None,
    reference: Annotated[str, typer.Option(help="Column that --judge compares with.")] = (
        "reference"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples read together.")] = 16,
    template: Annotated[
        str,
        typer.Option(
            help="What the model sees: auto (its chat template if it has one), chat, or a text "
            "with {prompt}. Score with the template that you will train with."
        ),
    ] = "auto",
    per_prompt: Annotated[
        int, typer.Option(min=1, help="Responses kept for each prompt.", rich_help_panel=METHOD)
    ] = 1,
    reduce: Annotated[
        str, typer.Option(help="grape: mean or sum over tokens.", rich_help_panel=METHOD)
    ] = "mean",
    source: Annotated[
        str | None, typer.Option(help="strongest: whose responses.", rich_help_panel=METHOD)
    ] = None,
    source_column: Annotated[
        str, typer.Option(help="Column that says who wrote it.", rich_help_panel=METHOD)
    ] = "source",
    clusters: Annotated[
        float,
        typer.Option(
            help="g-vendi, prismatic, s2l: regions or kinds, a number or a share (s2l: at most "
            "100 by a share).",
            rich_help_panel=METHOD,
        ),
    ] = 0.1,
    sparse: Annotated[
        float,
        typer.Option(
            help="prismatic: share of regions that counts as sparse.", rich_help_panel=METHOD
        ),
    ] = 0.5,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="prismatic: new examples; those that fill regions of which DATA have few are "
            "kept.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="prismatic: who writes new examples of regions with few, in place of "
            "--candidates: MODEL@http://host/v1 or a local model.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    new: Annotated[
        int,
        typer.Option(min=1, help="prismatic: problems the teacher writes.", rich_help_panel=METHOD),
    ] = 100,
    plain_template: Annotated[
        bool,
        typer.Option(
            "--plain-template",
            help="Ask a local teacher without chat template: Question, Answer.",
            rich_help_panel=METHOD,
        ),
    ] = False,
    dim: Annotated[
        int,
        typer.Option(
            min=2, help="g-vendi, prismatic: numbers of a gradient.", rich_help_panel=METHOD
        ),
    ] = 512,
    looks: Annotated[
        int,
        typer.Option(
            min=2, help="s2l: how often losses are recorded in training.", rich_help_panel=METHOD
        ),
    ] = 4,
    proxy_examples: Annotated[
        int,
        typer.Option(
            min=1, help="s2l: examples that the small model is trained on.", rich_help_panel=METHOD
        ),
    ] = 1000,
    max_tokens: Annotated[
        int,
        typer.Option(
            min=1, help="s3ft: of an own answer; prismatic: of a teacher's.", rich_help_panel=METHOD
        ),
    ] = 256,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens (words without --model); longer ones are bad.",
            rich_help_panel=BAD,
        ),
    ] = None,
    on_bad: OnBad = "skip",
    rejected: Rejected = None,
    duplicates: Duplicates = "drop",
    other_languages: OtherLanguages = "keep",
    scores: Annotated[
        Path | None,
        typer.Option(help="File for the score and fate of every example: .jsonl or .parquet."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="The page; by default OUT with .report.html.")
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Choose the examples to fine-tune a model on, and say why and what that changes.

    Data are read as a stream: messages, prompt and completion, prompt and response(s), instruction
    and output. Scores are kept, so that the same command goes on where a killed one was.
    """
    from generality.report.data_report import show_data_report, write_data_report
    from generality.selection.example_choice import METHODS, Choice, select_examples
    from generality.selection.training_files import check_outputs

    if (out is None) != report_only:
        raise UserError("Name the file to write by -o OUT, or ask for --report-only.")
    if method != "prismatic" and (candidates is not None or teacher is not None):
        raise UserError("--candidates and --teacher go with --method prismatic.")
    if method == "dedup" and duplicates == "keep":
        raise UserError("--method dedup leaves duplicates out, and --duplicates keep would not.")
    page = report or report_path(out, data, "select")
    check_outputs(
        {"the data": data, "--candidates": candidates},
        {"--out": out, "--scores": scores, "--rejected": rejected, "--report": page},
    )
    lab = options.make_lab(device)
    screen = make_screen(
        data, on_bad=on_bad, duplicates=duplicates, other_languages=other_languages, prompt=prompt,
        response=response, source_column=source_column,
    )  # fmt: skip
    if method == "s3ft":
        from generality.selection.self_supervised_data import write_self_supervised

        if model is None or judge is None:
            raise UserError("s3ft needs --model, whose answers are tried, and --judge for them.")
        if keep is not None or scores is not None:
            raise UserError("s3ft keeps every prompt and scores none: leave --keep and --scores.")
        chosen = write_self_supervised(
            data, out, model=model, judge=make_judge(judge), lab=lab, screen=screen, split=split,
            shape=write_as, rejected=rejected, reference=reference, max_tokens=max_tokens,
            template=template, max_length=max_length, batch_size=batch_size,
        )  # fmt: skip
    else:
        if method not in METHODS:
            raise unknown("method", method, sorted([*METHODS, "s3ft"]))
        choice = Choice(
            method, model=model, per_prompt=per_prompt, keep=keep, template=template,
            reduce=one_of("--reduce", reduce, ("mean", "sum")), source=source, clusters=clusters,
            sparse=sparse, dim=dim, looks=looks, proxy_examples=proxy_examples,
            max_length=max_length, seed=seed, batch_size=batch_size,
            judge=make_judge(judge) if judge else None, reference=reference,
        )  # fmt: skip
        added: Any = candidates
        if teacher is not None:
            from generality.selection.teacher import make_teacher
            from generality.selection.written_candidates import CandidateWriter

            if out is None or candidates is not None:
                raise UserError("--teacher needs -o OUT, and takes the place of --candidates.")
            added = CandidateWriter(
                make_teacher(
                    teacher, plain=plain_template, batch=batch_size,
                    key=os.environ.get("OPENAI_API_KEY", ""),
                ),
                lab, out.with_name(f"{out.name.partition('.')[0]}.candidates.jsonl"), new,
                max_tokens=max_tokens, seed=seed,
            )  # fmt: skip
        chosen = select_examples(
            data, out, choice, lab=lab, screen=screen, split=split, candidates=added,
            shape=write_as, rejected=rejected, scores=scores,
        )  # fmt: skip
    command = shlex.join(["generality", *sys.argv[1:]])
    write_data_report(page, chosen.report, command=command)
    if json:
        told = {**chosen.report, "reasons": chosen.reasons, "written": chosen.written,
                "out": out, "page": page, "steps": lab.environment()["steps"]}  # fmt: skip
        options.print_json(told)
        return
    console = options.console()
    show_data_report(console, chosen.report)
    if out is not None:
        console.print(f"{chosen.written} records written to {out}", soft_wrap=True)
    console.print(f"Report: {page}", soft_wrap=True)
