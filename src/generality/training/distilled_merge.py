"""Models of any architecture and tokenizer made one: their distributions, distilled into one."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import nn

from generality.errors import UserError
from generality.lab.generate import writer
from generality.lab.train import TrainConfig
from generality.models import (
    encode_response,
    load_model,
    load_tokenizer,
    teacher_topk,
    topk_columns,
)
from generality.models.atomic_folder import atomic_folder
from generality.models.hub_card import merged_card
from generality.models.identity import model_identity
from generality.models.quiet import quiet
from generality.objectives import TopkDistillation
from generality.selection.training_files import plain_pair, read_records
from generality.training.fused_teachers import Targets, least_surprised, surprise, with_gold
from generality.weights.checkpoint_stream import open_checkpoint, refuse_existing
from generality.weights.stored_numbers import torch_dtype

if TYPE_CHECKING:
    from generality.lab import Lab

CHUNK = 64
"""Examples between two places where a killed run goes on."""


@dataclass(frozen=True)
class Fusion:
    """How distributions become a model. The defaults are FuseLLM's, but for the counting of `per`.

    Args:
        lam: share of the true token in every target, in [0, 1].
        k: tokens of a source's distribution that are kept.
        per: what cross-entropies are counted by when a response's source is chosen; those by token
            do not compare between tokenizers.
        epochs: passes over the examples.
        learning_rate: at its highest.
        batch_size: examples a step.
        max_tokens: of prompt and response, for the pivot; longer ones are cut.
        seed: of the order of examples.
    """

    lam: float = 0.9
    k: int = 10
    per: Literal["character", "token"] = "character"
    epochs: float = 1.0
    learning_rate: float = 1e-5
    batch_size: int = 16
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam is in [0, 1], not {self.lam}")
        if self.k < 1:
            raise ValueError(f"k is at least 1, not {self.k}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is above 0, not {self.learning_rate}")

    @property
    def training(self) -> TrainConfig:
        """AdamW with a cosine schedule, 0.8 % of warm-up, weight decay 0.1 and clipping at 1.

        Torch's second moment decays by 0.999 where FuseLLM has 0.95.
        """
        return TrainConfig(
            self.epochs, self.batch_size, learning_rate=self.learning_rate, optimizer="adamw",
            weight_decay=0.1, warmup=0.008, max_grad_norm=1.0,
        )  # fmt: skip


def read_pairs(data: str | Path, *, limit: int | None = None) -> tuple[list[str], list[str]]:
    """Prompts (the messages before a response, line by line) and responses of a file.

    Raises:
        UserError: a record that is no example, or fewer than ten.
    """
    pairs = [plain_pair(record, data) for record in itertools.islice(read_records(data), limit)]
    prompts, responses = [prompt for prompt, _ in pairs], [response for _, response in pairs]
    if len(prompts) < 10:
        raise UserError(f"{data} has {len(prompts)} examples; ten are the least: one is held out.")
    return prompts, responses


def merge_by_distillation(
    models: Sequence[str],
    out: Path,
    prompts: Sequence[str],
    responses: Sequence[str],
    how: Fusion | None = None,
    *,
    lab: Lab,
    control: bool = False,
    dtype: torch.dtype | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Tunes the first model on what the least surprised of all predicts for each response.

    Every model, the pivot included, reads every response in its own tokens; the one with the lowest
    cross-entropy gives its k likeliest tokens at each place. They are put on the pivot's tokens
    where the two tokenizations align one to one, elsewhere the true token stands alone. The pivot
    is tuned towards `lam` of the true token and the rest of that distribution (`FusionLoss`). One
    model is in memory at a time; every chunk of answers and the training itself go on where a
    killed run was. Every tenth example is held out.

    Source: Wan et al. 2024 (FuseLLM, arXiv 2401.10491), on which "Unconstrained Model Merging"
    (arXiv 2410.13699) builds. Differences: tokens that are not the same string in both
    vocabularies are dropped from a distribution (FuseLLM maps them to the nearest by edit
    distance), and the choice of a source counts cross-entropy by character.

    Args:
        models: the pivot, then the others: names as `load_model` takes them, causal language
            models all.
        out: a folder that is not there yet.
        prompts: what comes before each response, as the models are to see it.
        responses: texts to be tuned on.
        how: settings.
        lab: keeps what was computed.
        control: tune the pivot on the responses alone too, which shows what fusing adds.
        dtype: of the result; None: what the pivot's files have.
        command: told in the model card.

    Returns:
        "models": of each the share of examples that it gave and its held-out cross-entropy, nats a
        character; "before" and "after" of the pivot, "control" of the same training without
        sources; "examples", "held_out", and "left_out" of texts that are too long for the pivot.

    Raises:
        UserError: `out` is there, fewer than two models, one that does not write text, or fewer
            than ten examples.
    """
    how = how or Fusion()
    refuse_existing(out)
    if len(models) < 2:
        raise UserError("Name the model to tune first, and at least one more to learn from.")
    if len(prompts) < 10:
        raise UserError(f"There are {len(prompts)} examples; ten are the least: one is held out.")
    for name in models:
        lab.fetch(name)
    table = np.stack([_surprises(lab, name, prompts, responses, how.per) for name in models])
    readable = np.isfinite(table[0])
    held = readable & (np.arange(len(prompts)) % 10 == 0)
    if not held.any() or held.sum() == readable.sum():
        raise UserError(
            f"'{models[0]}' can read too few of these examples whole: give shorter ones."
        )
    rows, exams = (np.flatnonzero(which).tolist() for which in (readable & ~held, held))
    best = least_surprised(table)
    tokenizer = load_tokenizer(models[0])
    columns = _columns(lab, models, prompts, responses, rows, best, tokenizer, how)
    texts, exam = (
        ([prompts[i] for i in which], [responses[i] for i in which]) for which in (rows, exams)
    )
    network = functools.partial(pivot, models[0], model_identity(models[0]))
    tuning: dict[str, Any] = {
        "tokenizer": tokenizer, "config": how.training, "seed": how.seed,
        "max_length": how.max_tokens,
    }  # fmt: skip
    told = {}
    if control:
        alone = lab.sft(network, *texts, **tuning)
        told["control"] = _held_out(_loaded(models[0], alone.weights, lab.device), tokenizer, exam)
    ids, probabilities = columns
    fused = lab.sft(
        network, *texts, **tuning, wrap=TopkDistillation,
        extra={"topk_ids": ids, "topk_probs": probabilities},
    )  # fmt: skip
    model = _loaded(models[0], fused.weights, lab.device)
    losses = [float(np.nanmean(table[n][held])) for n in range(len(models))]
    if how.per == "token":
        losses = [float(np.nanmean(_surprises(lab, name, *exam, "character"))) for name in models]
    report: dict[str, Any] = {
        "models": [
            {"model": name, "gave": float((best[rows] == n).mean()), "loss": losses[n]}
            for n, name in enumerate(models)
        ],
        "before": losses[0], "after": _held_out(model, tokenizer, exam), **told,
        "examples": len(rows), "held_out": len(exams), "left_out": int((~readable).sum()),
    }  # fmt: skip
    with quiet(), atomic_folder(out) as folder:
        model.to(dtype or _dtype(models[0])).save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
        card = _card(out.name, models, how, report, command)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return report


def pivot(name: str, identity: str, seed: int) -> nn.Module:
    """The model itself, whatever the seed; `identity` names its weights, for the key of a step."""
    return load_model(name, device="cpu")


def _dtype(name: str) -> torch.dtype:
    specs = open_checkpoint(name).specs.values()
    return torch_dtype(next(spec.dtype for spec in specs if spec.floating))


def _loaded(name: str, weights: Any, device: str) -> nn.Module:
    model = load_model(name, device=device)
    model.load_state_dict(weights)
    return model.eval()


def _held_out(model: nn.Module, tokenizer: Any, exam: tuple[list[str], list[str]]) -> float:
    return float(np.nanmean(surprise(model, tokenizer, *exam)))


def _surprises(
    lab: Lab, name: str, prompts: Sequence[str], responses: Sequence[str], per: str
) -> Float[NDArray, " texts"]:
    """`surprise` of a model, chunk by chunk."""
    identity, found = model_identity(name), []
    with lab.progress.task(f"Reading {len(prompts)} responses with {Path(name).name}") as report:
        for at in range(0, len(prompts), CHUNK):
            part = (list(prompts[at : at + CHUNK]), list(responses[at : at + CHUNK]))
            found.append(lab.step(surprises_of, name, identity, *part, per, lab.device))
            report(min(at + CHUNK, len(prompts)), len(prompts))
    return np.concatenate(found)


def surprises_of(
    name: str, identity: str, prompts: list[str], responses: list[str],
    per: Literal["character", "token"], device: str,
) -> Float[NDArray, " texts"]:  # fmt: skip
    """A chunk of `surprise`: the memoised step."""
    return surprise(*writer(name, device), prompts, responses, per=per)


def _columns(
    lab: Lab, models: Sequence[str], prompts: Sequence[str], responses: Sequence[str],
    rows: Sequence[int], best: Int[NDArray, " texts"], tokenizer: Any, how: Fusion,
) -> tuple[list[Any], list[Any]]:  # fmt: skip
    """Targets of every token of every example, on the pivot's tokens: ids and probabilities."""
    soft: dict[int, Targets] = {}
    for number, name in enumerate(models):
        mine, identity = [i for i in rows if best[i] == number], model_identity(name)
        with lab.progress.task(f"Asking {Path(name).name} for {len(mine)} targets") as report:
            for at in range(0, len(mine), CHUNK):
                part = mine[at : at + CHUNK]
                given = lab.step(
                    targets_of, name, identity, [prompts[i] for i in part],
                    [responses[i] for i in part], how.k, lab.device,
                )  # fmt: skip
                soft |= dict(zip(part, given, strict=True))
                report(at + len(part), len(mine))
    made = []
    for i in rows:
        tokens, start = encode_response(tokenizer, prompts[i], responses[i])
        ids, told = topk_columns(tokenizer, tokens, start, soft[i], k=how.k)
        ids, told = with_gold(ids, told, tokens, how.lam)
        made.append((ids[: how.max_tokens], told[: how.max_tokens]))
    return [ids for ids, _ in made], [told for _, told in made]


def targets_of(
    name: str, identity: str, prompts: list[str], responses: list[str], k: int, device: str
) -> list[Targets]:
    """A chunk of `teacher_topk`: the memoised step."""
    return teacher_topk(*writer(name, device), prompts, responses, k=k, batch_size=16)


def _card(
    title: str, models: Sequence[str], how: Fusion, report: dict[str, Any], command: str
) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in asdict(how).items())
    lines = "\n".join(
        f"| {each['model']} | {each['gave']:.0%} | {each['loss']:.4f} |"
        for each in report["models"]
    )
    body = f"""`{models[0]}`, tuned on {report["examples"]} responses towards the distributions of the models below
(each response's from the model that finds it least surprising).

| model | responses it gave targets for | held-out loss, nats a character |
|---|---|---|
{lines}

The result has {report["after"]:.4f} on the same {report["held_out"]} held-out responses.

Settings: {settings}."""  # noqa: E501 - lines of the card
    return merged_card(title, models, body, command=command)
