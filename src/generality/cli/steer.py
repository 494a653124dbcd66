"""`generality steer`: learn a direction in a model's activations, and write with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from generality.cli import options
from generality.errors import UserError


def steer(
    model: Annotated[str, typer.Argument(help="A name, hf:org/name or path.")],
    learn: Annotated[
        Path | None,
        typer.Option(
            help='JSONL to learn a vector from: {"prompt": …} with "weight", or with "choices", '
            "between which the model's own indecision is the weight; optionally the run it is of, "
            '"group".'
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The vector's file, .safetensors.")
    ] = None,
    vector: Annotated[
        Path | None, typer.Option(help="A vector learned before, to write with.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What to write after, steered and not.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Output of this block; by default the middle one.")
    ] = None,
    beta: Annotated[float, typer.Option(help="How many times the vector is added.")] = 2.0,
    control: Annotated[
        str | None,
        typer.Option(help="Write with a control of the vector too: shuffled or random."),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest.")] = 1.0,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Written at most, or until the context is full.")
    ] = 64,
    samples: Annotated[int, typer.Option(min=1, help="Texts of each kind.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Steer a model by adding a vector to its activations, such as one that follows its doubts.

    With --learn and -o a vector is made of weighted prompts, centred within groups. With --vector
    and --prompt the model writes with it and without.
    """
    if (learn is None) == (vector is None):
        raise UserError("Say what to learn from by --learn, or which --vector to write with.")
    if learn is not None and out is None:
        raise UserError("Name the vector's file by -o OUT.safetensors.")
    if vector is not None and not _is_text(prompt):
        raise UserError("Say by --prompt what to write after.")
    if control not in (None, "shuffled", "random"):
        raise UserError("--control is shuffled or random.")
    from generality.models import load_model, load_tokenizer
    from generality.selection.teacher import context_of
    from generality.selection.training_files import check_output

    records = read_weighted(learn) if learn is not None else []
    if out is not None:
        check_output(out, ())
    lab = options.make_lab(device)
    lab.fetch(model)
    network, tokenizer = load_model(model, device=lab.device).eval(), load_tokenizer(model)
    if not hasattr(network, "generate"):
        raise UserError(f"The model '{model}' does not write text: name a causal language model.")
    room = context_of(model)
    for text in [record["prompt"] for record in records] or [str(prompt)]:
        length = len(tokenizer(text)["input_ids"])
        if length > room or (vector is not None and length == room):
            raise UserError(f"A prompt is longer than the {room:.0f} tokens that '{model}' reads.")
        max_tokens = int(min(max_tokens, max(room - length, 1)))
    if learn is not None:
        told = _learned(network, tokenizer, records, layer, out)
    else:
        told = _written(
            network, tokenizer, vector, prompt, beta=beta, control=control, seed=seed,
            temperature=temperature, max_tokens=max_tokens, samples=samples,
        )  # fmt: skip
    if json:
        options.print_json(told)
        return
    console = options.console()
    for name, value in told.items():
        for line in value if isinstance(value, list) else [value]:
            console.print(f"{name}: {line}", soft_wrap=True, markup=False)


def read_weighted(path: Path) -> list[dict[str, Any]]:
    """Records with a prompt and a weight or choices, checked."""
    from generality.selection.record_screen import KINDS
    from generality.selection.training_files import read_records

    records = []
    for record in read_records(path):
        content = record.content or {}
        if record.problem:
            raise UserError(f"{path}, record {record.number} is {KINDS[record.problem]}.")
        if not _is_text(content.get("prompt")) or not (
            _is_number(content.get("weight")) or _are_choices(content.get("choices"))
        ):
            raise UserError(
                f'{path}, record {record.number} needs a "prompt" and a "weight" (a number) or '
                '"choices" (a list of two texts or more).'
            )
        records.append(content)
    return records


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_choices(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(map(_is_text, value))


def _learned(
    network: Any, tokenizer: Any, records: list[dict[str, Any]], layer: int | None, out: Any
) -> dict[str, Any]:
    from generality.decoding import SteeringVector, collect_activations, weighted_steering_vector
    from generality.decoding.steering_vector import blocks_of
    from generality.measures import choice_logprobs

    weights = []
    for record in records:
        if _is_number(record.get("weight")):
            weights.append(float(record["weight"]))
            continue
        logs = choice_logprobs(network, tokenizer, [record["prompt"]], record["choices"])[0]
        weights.append(float(-(logs.exp() * logs).sum()))
    place = len(blocks_of(network)) // 2 if layer is None else layer
    tokens = [tokenizer(record["prompt"])["input_ids"] for record in records]
    groups = [str(record.get("group", "")) for record in records]
    try:
        states = collect_activations(network, tokens, [place])[0]
        direction = weighted_steering_vector(states, weights, groups)
    except ValueError as error:
        raise UserError(f"No vector can be learned: {error}.") from error
    norm, length = float(states.norm(dim=-1).mean()), float(direction.norm())
    if length < 1e-6 * norm:
        raise UserError(
            "No vector can be learned: in each group all weights, or all activations, are alike."
        )
    SteeringVector(direction, place, norm).save(out)
    return {
        "vector": str(out), "layer": place, "prompts": len(records), "length": round(length, 4),
        "share of an activation's length": round(length / norm, 4),
        "mean weight": round(sum(weights) / len(weights), 4),
    }  # fmt: skip


def _written(
    network: Any, tokenizer: Any, file: Any, prompt: Any, *, beta: float, control: str | None,
    seed: int, samples: int, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    from generality.decoding import (
        SteeringHook,
        SteeringVector,
        random_control,
        shuffled_control,
    )
    from generality.models import generate_texts

    kept = SteeringVector.load(file)
    vectors = {"steered": kept.vector}
    if control:
        make = {"shuffled": shuffled_control, "random": random_control}[control]
        vectors[control] = make(kept.vector, seed=seed)
    prompts = [prompt] * samples
    told: dict[str, Any] = {
        "unsteered": generate_texts(network, tokenizer, prompts, seed=seed, **settings)
    }
    for name, direction in vectors.items():
        try:
            with SteeringHook(network, kept.layer, direction, beta):
                told[name] = generate_texts(network, tokenizer, prompts, seed=seed, **settings)
        except ValueError as error:
            raise UserError(f"{file} does not fit this model: {error}.") from error
    return told
