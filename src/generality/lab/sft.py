"""Supervised tuning of a causal language model on prompts and responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generality.lab.progress import Report
from generality.lab.threads import threads
from generality.lab.train import Example, TrainConfig, train


@dataclass(frozen=True)
class TunedLM:
    """A tuned language model.

    Attributes:
        weights: its `state_dict()`; load it into `network(seed)`.
        losses: of each step.
        tokens: how many it read in training, padding not counted.
        kept: the weights at the shares of training that were asked for, as "0.25".
    """

    weights: dict[str, Tensor]
    losses: list[float]
    tokens: int
    kept: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def sft(
    *,
    network: Callable[[int], nn.Module],
    tokens: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    config: TrainConfig,
    seed: int,
    weights: Mapping[str, Tensor] | None = None,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
    extra: Mapping[str, Sequence[Any]] | None = None,
    keep: Sequence[float] = (),
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Train a language model by `generality.lab.train.train` on tokens and labels, on one thread.

    Args:
        network: called with the seed; a causal language model of transformers.
        tokens: of each example.
        labels: of each example, as long; -100 where there is no loss. They are the tokens
            themselves: the model shifts them.
        weights: to begin with; None leaves the network as it comes.
        wrap: from the model to a module around it that is called with `input_ids`,
            `attention_mask`, `labels` and every column of `extra`, and returns the mean loss over
            the labels of a micro-batch, or an output with `.loss`. None: the model's own loss.
        extra: further columns, a number or a list of numbers per example (lists are padded with 0).
        keep: shares of training, in (0, 1), after which the weights are kept too. Checkpoints of a
            killed training do not hold them, so with `keep` it begins anew.

    Returns:
        The fields of `TunedLM`.

    Raises:
        ValueError: tokens, labels and extra columns differ in length.
    """
    columns = {"input_ids": tokens, "labels": labels, **(extra or {})}
    if len({len(column) for column in columns.values()}) != 1:
        raise ValueError(
            "columns differ in length: "
            + ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        )
    with threads(1):
        model = network(seed)
        if weights is not None:
            model.load_state_dict(dict(weights))
        examples: list[Example] = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        steps = config.steps(len(examples))
        wanted = {max(1, round(share * steps)): f"{share:g}" for share in keep}
        kept: dict[str, dict[str, Tensor]] = {}

        def watch(done: int, total: int, report: dict[str, Any]) -> None:
            if done in wanted:
                kept[wanted[done]] = _copy(model)
            if progress is not None:
                progress(done, total, report)

        result = train(
            model if wrap is None else wrap(model),
            examples,
            None,
            config,
            seed=seed,
            device=device,
            checkpoint=None if keep else checkpoint,
            progress=watch,
        )
    return {
        "weights": _copy(model),
        "losses": [float(loss) for loss in result.history],
        "tokens": round(config.epochs * sum(map(len, tokens))),
        "kept": kept,
    }


def _copy(model: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
