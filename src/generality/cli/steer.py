"""`generality steer`: learn a direction in a model's activations, and write with it."""

from __future__ import annotations

import json as jsonlib
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
    max_tokens: Annotated[int, typer.Option(min=1, help="Written at most.")] = 64,
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
    if vector is not None and prompt is None:
        raise UserError("Say by --prompt what to write after.")
    if control not in (None, "shuffled", "random"):
        raise UserError("--control is shuffled or random.")
    from generality.models import load_model, load_tokenizer

    lab = options.make_lab(device)
    lab.fetch(model)
    network, tokenizer = load_model(model, device=lab.device).eval(), load_tokenizer(model)
    if learn is not None:
        told = _learned(network, tokenizer, read_weighted(learn), layer, out)
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
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = jsonlib.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number} is no JSON: {error}.") from error
        fine = isinstance(record, dict) and isinstance(record.get("prompt"), str)
        weight = record.get("weight") if fine else None
        choices = record.get("choices") if fine else None
        if not fine or not (isinstance(weight, int | float) or isinstance(choices, list)):
            raise UserError(
                f'{path}, line {number} needs a "prompt" and a "weight" (a number) or "choices" '
                "(a list of texts)."
            )
        records.append(record)
    if not records:
        raise UserError(f"{path} is empty.")
    return records


def _learned(
    network: Any, tokenizer: Any, records: list[dict[str, Any]], layer: int | None, out: Any
) -> dict[str, Any]:
    from generality.decoding import SteeringVector, collect_activations, weighted_steering_vector
    from generality.decoding.steering_vector import blocks_of
    from generality.measures import choice_logprobs

    weights = []
    for record in records:
        if "weight" in record:
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
    norm = float(states.norm(dim=-1).mean())
    SteeringVector(direction, place, norm).save(out)
    length = float(direction.norm())
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
