"""Tuning a language model on one set of examples after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from generality.lab.generate import Network
from generality.lab.sft import TunedLM
from generality.lab.train import TrainConfig

if TYPE_CHECKING:
    from generality.lab.lab import Lab


@dataclass(frozen=True)
class Stage:
    """What one stage of tuning learns from.

    Attributes:
        prompts: what the model is given, the system message included.
        responses: what its teacher said.
        epochs: passes over them.
    """

    prompts: Sequence[str]
    responses: Sequence[str]
    epochs: float = 1.0


def tune_in_stages(
    lab: Lab,
    network: Network,
    stages: Sequence[Stage],
    *,
    tokenizer: Any,
    config: TrainConfig,
    seed: int,
    weights: Mapping[str, Tensor] | None = None,
) -> TunedLM:
    """Supervised tuning on each stage in turn, each from the weights that the one before left.

    Every stage is a training of its own, kept by the lab: the optimiser's state and the learning
    rate's schedule begin anew. That is a treatment in itself: two stages of the same data are not
    one of twice the length.

    Source: Mukherjee et al. 2023 (arXiv 2306.02707), section 4.1: first the answers of a teacher
    that is nearer to the student, then those of the strongest.

    Args:
        lab: where it is done and kept.
        network: from a seed to the model.
        stages: in order.
        tokenizer: of the model.
        config: of every stage, but for its epochs.
        seed: of the network and of the order of examples.
        weights: to begin with.

    Returns:
        The last stage's weights, all losses, and the tokens of all stages.

    Raises:
        ValueError: no stages.
    """
    if not stages:
        raise ValueError("there is no stage to tune in")
    losses: list[float] = []
    tokens = 0
    for stage in stages:
        tuned = lab.sft(
            network, stage.prompts, stage.responses, tokenizer=tokenizer,
            config=replace(config, epochs=stage.epochs), seed=seed, weights=weights,
        )  # fmt: skip
        weights, losses, tokens = tuned.weights, losses + tuned.losses, tokens + tuned.tokens
    return TunedLM(dict(weights or {}), losses, tokens)
