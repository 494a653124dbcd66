"""`generality distill`: training data from a teacher, for a student."""

from __future__ import annotations

import os
import shlex
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from generality.cli import options
from generality.cli.data_options import (
    Duplicates,
    OnBad,
    OtherLanguages,
    Prompt,
    Rejected,
    Response,
    make_judge,
    make_screen,
    report_path,
)
from generality.errors import UserError

ENDPOINT, RECIPE = "Endpoints", "Of some recipes"
KEY = "OPENAI_API_KEY"


def distill(
    prompts: Annotated[
        str,
        typer.Argument(help="JSONL (.gz), Parquet, CSV, .txt (one a line), or hf:org/name."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write: .jsonl, .jsonl.gz or .parquet.")
    ],
    teacher: Annotated[
        str | None,
        typer.Option(
            help="MODEL@http://host/v1 for an endpoint that speaks OpenAI's chat completions, or "
            "a local model: a name, hf:org/name or path."
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="explain, rationale, self-sampled or tailored.")
    ] = "explain",
    student: Annotated[
        str | None,
        typer.Option(help="self-sampled, tailored: the model that will be trained."),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=1,
            help="Answers to each prompt: examples of explain, attempts of rationale and "
            "self-sampled.",
        ),
    ] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 512,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="0 takes the likeliest words; by default 0.8 for further draws."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")] = 0,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Of answers: number, exact, tests or world. By default the final answer is "
            "compared, and programs of self-sampled are run."
        ),
    ] = None,
    reference: Annotated[
        str, typer.Option(help="Column of right answers; by default reference, or the response.")
    ] = "",
    wrong_steps: Annotated[
        str,
        typer.Option(
            help="rationale: drop those with a sum that does not add up, or keep them marked.",
            rich_help_panel=RECIPE,
        ),
    ] = "drop",
    exam: Annotated[
        str | None,
        typer.Option(
            help="tailored: questions with references that explanations are to help with; they "
            "are not trained on.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    exam_size: Annotated[
        int, typer.Option(min=1, help="tailored: questions taken.", rich_help_panel=RECIPE)
    ] = 20,
    pairs: Annotated[
        Path | None,
        typer.Option(help="tailored: file for preference pairs.", rich_help_panel=RECIPE),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts taken, at most.")] = None,
    prompt: Prompt = None,
    response: Response = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub or saved data set.")] = None,
    write_as: Annotated[
        str, typer.Option("--format", help="messages or prompt-completion.")
    ] = "messages",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Prompts that a local model answers together.")
    ] = 16,
    plain_template: Annotated[
        bool,
        typer.Option(
            "--plain-template", help="Ask a local model without chat template: Question, Answer."
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Questions asked at once.", rich_help_panel=ENDPOINT)
    ] = 8,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for an answer.", rich_help_panel=ENDPOINT)
    ] = 120.0,
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            help="Further attempts at a busy or failing server.",
            rich_help_panel=ENDPOINT,
        ),
    ] = 5,
    give_up: Annotated[
        int,
        typer.Option(min=1, help="Failures in a row that end the job.", rich_help_panel=ENDPOINT),
    ] = 20,
    key_variable: Annotated[
        str,
        typer.Option(help="Environment variable with the key.", rich_help_panel=ENDPOINT),
    ] = KEY,
    failed: Annotated[
        Path | None,
        typer.Option(help="JSONL file for prompts without example: reason and answer."),
    ] = None,
    on_bad: OnBad = "skip",
    rejected: Rejected = None,
    duplicates: Duplicates = "drop",
    other_languages: OtherLanguages = "keep",
    report: Annotated[
        Path | None, typer.Option(help="The page; by default OUT with .report.html.")
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Make training data with a teacher: explanations, rationales, programs that run, or tailored.

    Every answer is kept when it is there: the same command goes on where a killed one was.
    Refusals, failures and wrong answers are counted, and written to --failed with their reasons.
    """
    from generality.report.data_report import show_data_report, write_data_report
    from generality.selection.distillation import Recipe
    from generality.selection.distillation import distill as make
    from generality.selection.teacher import make_teacher
    from generality.selection.training_files import (
        Example,
        check_outputs,
        prompt_of,
        read_records,
    )

    settings: dict[str, Any] = {
        "plain": plain_template, "workers": workers, "batch": batch_size, "timeout": timeout,
        "retries": retries, "give_up": give_up, "key": os.environ.get(key_variable, ""),
    }  # fmt: skip
    if key_variable != KEY and not settings["key"]:
        raise UserError(f"The environment variable {key_variable} holds no key.")
    name = teacher or (student if recipe == "self-sampled" else None)
    if name is None:
        raise UserError("Name who answers by --teacher MODEL@http://host/v1 or a local model.")
    if wrong_steps not in ("drop", "keep"):
        raise UserError("--wrong-steps is drop or keep.")
    page = report or report_path(out, prompts, "distill")
    check_outputs(
        {"the prompts": prompts, "--exam": exam},
        {"--out": out, "--failed": failed, "--rejected": rejected, "--pairs": pairs,
         "--report": page},
    )  # fmt: skip
    lab = options.make_lab(device)
    screen = make_screen(
        prompts, on_bad=on_bad, duplicates=duplicates, other_languages=other_languages,
        prompt=prompt, response=response,
    )  # fmt: skip
    questions: list[Example] = []
    if exam is not None:
        found = screen().examples(
            read_records(exam), lambda record, columns: [prompt_of(record, columns)]
        )
        questions = list(islice(found, exam_size))
    made = make(
        prompts, out,
        Recipe(
            recipe, samples, max_tokens, temperature, seed, make_judge(judge) if judge else None,
            reference, wrong_steps, tuple(questions),
        ),
        teacher=make_teacher(name, **settings), lab=lab,
        student=make_teacher(student, **settings) if student else None,
        screen=screen, split=split, limit=limit, shape=write_as, failed=failed, rejected=rejected,
        pairs=pairs,
    )  # fmt: skip
    write_data_report(page, made.report, command=shlex.join(["generality", *sys.argv[1:]]))
    if json:
        told = {**made.report, "written": made.written, "out": out, "page": page,
                "steps": lab.environment()["steps"]}  # fmt: skip
        options.print_json(told)
        return
    console = options.console()
    show_data_report(console, made.report)
    console.print(f"{made.written} examples written to {out}", soft_wrap=True)
    if made.failures and failed is None:
        console.print("What became no example, with its answer: --failed FILE")
    console.print(f"Report: {page}", soft_wrap=True)
