"""`generality fuse`: a large model writes with the skill of small tuned ones."""

from __future__ import annotations

import json as json_format
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from generality.cli import options
from generality.errors import UserError

if TYPE_CHECKING:
    from generality.decoding import FusedCausalLM
    from generality.lab import Lab
    from generality.selection.training_files import Example

_EXPERT = re.compile(r"((?:hf:)?[^:]+)(?::((?:hf:)?[^:]+))?")
WRITING = "Writing"

Experts = Annotated[
    list[str] | None,
    typer.Option(
        "--expert",
        help="TUNED:BASE, a small tuned model and what it was tuned from; or REASONER, whose "
        "logits are added as they are. May be repeated.",
    ),
]
Alpha = Annotated[
    list[float] | None,
    typer.Option(help="Weight of every expert, or one for each in turn; 1 unless given."),
]
Dynamic = Annotated[
    bool,
    typer.Option(
        "--dynamic", help="Choose the weights anew at every token by matched divergences."
    ),
]
Highest = Annotated[float, typer.Option(min=0.1, help="--dynamic: greatest weight that is tried.")]
Template = Annotated[
    str,
    typer.Option(
        help="What the models see: auto (the large one's chat template if it has one), chat, or a "
        "text with {prompt}."
    ),
]


def fuse(
    large: Annotated[str, typer.Option(help="The large model: a name, hf:org/name or path.")],
    prompts: Annotated[
        str | None,
        typer.Argument(help="Prompts: JSONL (.gz), Parquet, CSV, .txt (one a line), or - (stdin)."),
    ] = None,
    expert: Experts = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="A prompt; may be repeated.")
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(help="Data with responses: how well each model and the fused one foresee."),
    ] = None,
    alpha: Alpha = None,
    dynamic: Dynamic = False,
    highest: Highest = 2.0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write: .jsonl or .parquet.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Written at most, to each.", rich_help_panel=WRITING)
    ] = 256,
    temperature: Annotated[
        float, typer.Option(min=0, help="0: the likeliest token.", rich_help_panel=WRITING)
    ] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, rich_help_panel=WRITING)] = 1.0,
    seed: Annotated[int, typer.Option(min=0, rich_help_panel=WRITING)] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts answered together.")] = 8,
    template: Template = "auto",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Move a large model's tokens as small experts moved from their bases; no weights change.

    One --prompt is answered as it is written; several, or a file, become JSON lines. All models
    must have the same tokens.
    """
    from generality.selection.teacher import Prompter
    from generality.selection.training_files import check_output

    if evaluate is None and prompts is None and not prompt:
        raise UserError("Give prompts: a file, - for standard input, or --prompt TEXT.")
    check_template(template)
    if evaluate is not None and json and (prompts or prompt):
        raise UserError("--json prints one document: evaluate and answer prompts in two commands.")
    if out is not None:
        check_output(out)
    examples = [*_given(prompt or []), *(_read(prompts) if prompts else [])]
    if prompts is not None and not examples:
        raise UserError(f"{prompts} holds no prompt.")
    lab = options.make_lab(device)
    model = fused_model(large, expert, alpha, dynamic, highest, lab)
    render = Prompter(large, template, lab)
    if evaluate is not None:
        _show_scores(_scores(model, render, evaluate, large, expert or [], batch_size, lab), json)
        if prompts is None and not prompt:
            return
    settings = {
        "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed
    }  # fmt: skip
    if len(examples) == 1 and prompts is None and out is None and not json:
        _stream(model, render, examples[0], settings)
        return
    answers = _answers(model, render, examples, batch_size, settings, lab)
    if out is not None:
        from generality.selection.training_files import write_records

        count = write_records(out, answers)
        print(f"{count} answers written to {out}", file=sys.stderr)
    elif json:
        options.print_json(list(answers))
    else:
        for answer in answers:
            print(json_format.dumps(answer, ensure_ascii=False), flush=True)


def check_template(template: str) -> None:
    """Raises `UserError` for what --template does not take."""
    if template not in ("auto", "chat") and "{prompt}" not in template:
        raise UserError("--template is auto, chat, or a text with {prompt} in it.")


def fused_model(
    large: str, expert: list[str] | None, alpha: list[float] | None, dynamic: bool,
    highest: float, lab: Lab,
) -> FusedCausalLM:  # fmt: skip
    """The models that the options name, checked and loaded."""
    from generality.decoding import FusedCausalLM, FusionStrategy, KLMatchedFusion, StaticFusion

    pairs = [parse_expert(text) for text in expert or []]
    if not pairs:
        raise UserError("Name at least one expert: --expert TUNED:BASE.")
    if dynamic and alpha:
        raise UserError("--dynamic chooses the weights: leave --alpha out.")
    if dynamic and not all(base for _, base in pairs):
        raise UserError("--dynamic compares every expert with its base: --expert TUNED:BASE.")
    if alpha and len(alpha) not in (1, len(pairs)):
        raise UserError(f"Give --alpha once, or once for each of the {len(pairs)} experts.")
    strategy: FusionStrategy = KLMatchedFusion(high=highest)
    if not dynamic:
        strategy = StaticFusion(tuple((alpha or [1.0]) * (len(pairs) // len(alpha or [1.0]))))
    for name in dict.fromkeys([large, *(name for pair in pairs for name in pair if name)]):
        lab.fetch(name)
    return FusedCausalLM.load(large, pairs, strategy, device=lab.device)


def parse_expert(text: str) -> tuple[str, str | None]:
    """Names of an expert and of its base, if any.

    >>> parse_expert("tuned:base"), parse_expert("hf:a/tuned:hf:a/base"), parse_expert("hf:a/b")
    (('tuned', 'base'), ('hf:a/tuned', 'hf:a/base'), ('hf:a/b', None))
    """
    found = _EXPERT.fullmatch(text)
    if not found:
        raise UserError(f"--expert '{text}' is not TUNED:BASE or REASONER.")
    return found[1], found[2]


def _given(prompts: list[str]) -> list[Example]:
    from generality.selection.training_files import Example

    return [
        Example(number, ({"role": "user", "content": text},), "", {"prompt": text})
        for number, text in enumerate(prompts, 1)
    ]


def _read(source: str) -> list[Example]:
    """Prompts of a file; from standard input, JSON lines or plain ones."""
    from generality.selection.training_files import BadRecord, Record, prompt_of, read_records

    if source != "-":
        records = read_records(source)
    else:
        lines = enumerate((line.strip() for line in sys.stdin if line.strip()), 1)
        records = (Record(number, _line(number, line)) for number, line in lines)
    found = []
    for record in records:
        try:
            found.append(prompt_of(record))
        except BadRecord as bad:
            raise UserError(f"{source}, record {record.number}: {bad}.") from bad
    return found


def _line(number: int, line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {"prompt": line}
    try:
        return dict(json_format.loads(line))
    except ValueError as error:
        raise UserError(f"Line {number} of standard input is not valid JSON: {error}.") from error


def _tokens(render: Any, text: str) -> list[int]:
    tokens = list(render.tokenizer(text, add_special_tokens=not render.chats)["input_ids"])
    return tokens[:-1] if tokens[-1:] == [render.tokenizer.eos_token_id] else tokens


def _stream(model: Any, render: Any, example: Example, settings: dict[str, Any]) -> None:
    from generality.decoding import TextStream

    tokens = _tokens(render, text := render(example))
    _check_room(model, [(example, text)], render, settings["max_tokens"])
    for piece in TextStream(model, render.tokenizer, tokens, **settings):
        print(piece, end="", flush=True)
    print()


def _answers(
    model: Any, render: Any, examples: list[Example], batch_size: int, settings: dict[str, Any],
    lab: Lab,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    from generality.models import generate_texts

    asked = [(example, render(example)) for example in examples]
    _check_room(model, asked, render, settings["max_tokens"])
    with lab.progress.task(f"Answering {len(asked)} prompts") as report:
        for start in range(0, len(asked), batch_size):
            part = asked[start : start + batch_size]
            texts = generate_texts(
                model, render.tokenizer, [text for _, text in part], batch_size=batch_size,
                special_tokens=not render.chats, **{**settings, "seed": settings["seed"] + start},
            )  # fmt: skip
            for (example, _), text in zip(part, texts, strict=True):
                yield {**example.record, "completion": text}
            report(start + len(part), len(asked))


def _check_room(
    model: Any, asked: list[tuple[Example, str]], render: Any, max_tokens: int
) -> None:  # fmt: skip
    from generality.decoding.openai_server import context_of

    limit = context_of(model)
    for example, text in asked:
        length = len(_tokens(render, text))
        if length + max_tokens > limit:
            raise UserError(
                f"Prompt {example.number} has {length} tokens; with --max-tokens {max_tokens} that "
                f"is more than the {limit:.0f} that these models read."
            )
        if not length:
            raise UserError(f"Prompt {example.number} is empty.")


def _scores(
    model: FusedCausalLM, render: Any, data: str, large: str, experts: list[str],
    batch_size: int, lab: Lab,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for the large model, each expert, and the fused one."""
    from generality.decoding import teacher_forced
    from generality.decoding.openai_server import context_of
    from generality.selection.training_files import BadRecord, examples_of, read_records

    examples: list[Example] = []
    for record in read_records(data):
        try:
            examples += examples_of(record)
        except BadRecord as bad:
            raise UserError(f"{data}, record {record.number}: {bad}.") from bad
    if not examples:
        raise UserError(f"{data} holds no example.")
    limit = context_of(model)
    told = {"max_length": int(limit) if limit < 2**31 else None}
    rows = []
    members: dict[str, Any] = {large: model.large}
    for place, text in enumerate(experts):
        members[parse_expert(text)[0]] = model.members.model(1 + place)
    for name, each in {**members, "fused": model}.items():
        with lab.progress.task(f"Reading with {name}") as report:
            try:
                found = teacher_forced(
                    each, render.tokenizer, [render(example) for example in examples],
                    [example.response for example in examples], batch_size=batch_size,
                    special_tokens=not render.chats, progress=report, **told,
                )  # fmt: skip
            except ValueError as error:  # nothing is left
                raise UserError(
                    f"No example of {data} is within the {limit:.0f} tokens that these models read."
                ) from error
        rows.append({"model": name, **vars(found)})
    return rows


def _show_scores(rows: list[dict[str, Any]], json: bool) -> None:
    if json:
        options.print_json(rows)
        return
    from rich.table import Table

    table = Table("model", "loss, nats a token", "token accuracy", "whole responses", "weights")
    for row in rows:
        weights = " ".join(f"{weight:.2f}" for weight in row["weights"])
        table.add_row(
            row["model"], f"{row['loss']:.4f}", f"{row['accuracy']:.4f}", f"{row['exact']:.4f}",
            weights,
        )  # fmt: skip
    console = options.console()
    console.print(table)
    first = rows[0]
    console.print(
        f"{first['tokens']} tokens of responses, each with the true ones before it; "
        f"{first['skipped']} responses skipped as too long or empty.",
        soft_wrap=True,
    )
