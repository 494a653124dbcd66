"""Tuning a text classifier on soft labels: the expensive step of most text studies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from generality.lab.progress import Report
from generality.lab.train import TrainConfig, train
from generality.models import TextClassifier


@dataclass(frozen=True)
class FineTuned:
    """What a tuned classifier said of the texts it was asked about."""

    probabilities: dict[str, Float[np.ndarray, "texts classes"]]
    losses: list[float]
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """Trained parameters, when they were asked for."""


def finetune(
    *,
    model: str,
    identity: str,
    texts: Sequence[str],
    targets: Float[np.ndarray, "examples classes"],
    objective: Any,
    config: TrainConfig,
    predict: Mapping[str, Sequence[str]],
    seed: int,
    device: str,
    tuning: str = "full",
    pooling: str | None = None,
    layer: int = -1,
    lora_rank: int = 8,
    max_length: int = 256,
    generative_epochs: float = 0.0,
    generative_texts: Sequence[str] = (),
    keep_weights: bool = False,
    classes: int | None = None,
    checkpoint: Path | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Train `model` on texts and soft targets, then give class probabilities of other texts.

    Args:
        identity: names the model's weights, so that a kept result is not another model's.
        objective: loss(logits, soft targets, progress) of a whole optimisation batch; see
            `train` for one with buffers.
        predict: groups of texts to give probabilities for, by name.
        tuning: "probe", "lora" or "full".
        generative_epochs: epochs of next-token training on `generative_texts` (no labels) first;
            decoders only, and not under "probe". The learning rate is that of `config`.
        keep_weights: also return the trained parameters.
        classes: how many there are, for an objective whose targets have further columns.

    Returns:
        The fields of `FineTuned`.
    """
    classifier = TextClassifier.from_name(
        model, classes or targets.shape[1], pooling=pooling, layer=layer, tuning=tuning,
        lora_rank=lora_rank, device=device, seed=seed,
    )  # fmt: skip
    if generative_epochs > 0:
        unlabelled = classifier.tokenize(generative_texts, max_length=max_length)
        train(
            classifier.model, [{"input_ids": ids} for ids in unlabelled], None,
            dataclasses.replace(config, epochs=generative_epochs), seed=seed, device=device,
            collate=classifier.collate,
        )  # fmt: skip
    examples = [
        {"input_ids": ids, "targets": target}
        for ids, target in zip(
            classifier.tokenize(texts, max_length=max_length), targets, strict=True
        )
    ]
    result = train(
        classifier, examples, objective, config, seed=seed, collate=classifier.collate,
        device=device, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    probabilities = {
        name: classifier.predict_proba(list(group), max_length=max_length)
        for name, group in predict.items()
    }
    trained = {
        name: parameter.detach().cpu()
        for name, parameter in classifier.named_parameters()
        if parameter.requires_grad
    }
    return {
        "probabilities": probabilities,
        "losses": [float(loss) for loss in result.history],
        "weights": trained if keep_weights else {},
    }
