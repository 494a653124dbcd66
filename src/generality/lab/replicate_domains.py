"""Many small trainings over several domains, each its own way, run as one batched training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.lab.replicate import Optimizer, Replicas

State = dict[str, Tensor]


class DomainAlgorithm(Protocol):
    """What `replicate_domains` asks of an algorithm; `generality.objectives.ALGORITHMS` has many.

    All but `draws` run under `torch.func.vmap`, once per replica. A hyper-parameter named "anneal"
    is the share of the steps after which the objective changes: the optimiser then starts afresh.
    """

    @property
    def average_from(self) -> float | None:
        """Share of the steps from which on the weights are averaged, or None."""

    def initial_state(self, domains: int, features: int, classes: int) -> State:
        """What the algorithm remembers from step to step, at the start."""

    def draws(
        self, rng: np.random.Generator, hyper: Mapping[str, float], steps: int, domains: int
    ) -> dict[str, np.ndarray]:
        """Random numbers of one replica's whole training, each of shape (steps, ...)."""

    def transform(
        self,
        inputs: Float[Tensor, "domains batch ..."],
        targets: Float[Tensor, "domains batch classes"],
        draw: State,
    ) -> tuple[Tensor, Tensor]:
        """The inputs and soft targets to train on, from a batch and this step's draws."""

    def loss(
        self,
        logits: Float[Tensor, "domains batch classes"],
        targets: Float[Tensor, "domains batch classes"],
        features: Float[Tensor, "domains batch features"],
        state: State,
        hyper: State,
        progress: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], State]:
        """The loss and the new state; `hyper` has one number per name, `progress` is in [0, 1)."""


@dataclass(frozen=True)
class DomainReplicas(Replicas):
    """Replicas, and what they were at the checkpoints asked for.

    Attributes:
        snapshots: parameters and buffers by the number of steps done.
    """

    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def at(self, step: int) -> Replicas:
        """The replicas as they were after this many steps, one of the `checkpoints`."""
        raise NotImplementedError


def replicate_domains(
    module: nn.Module | Callable[[int], nn.Module],
    inputs: Tensor | np.ndarray,
    labels: Int[Tensor, " examples"] | np.ndarray,
    rows: Sequence[Sequence[Int[Tensor, " rows"] | np.ndarray]],
    *,
    algorithm: DomainAlgorithm,
    seeds: Sequence[int],
    learning_rate: float | Sequence[float] = 1e-3,
    weight_decay: float | Sequence[float] = 0.0,
    hyper: Mapping[str, float | Sequence[float]] | None = None,
    steps: int,
    per_domain: int = 32,
    optimizer: Optimizer = "adam",
    average_from: float | None = None,
    checkpoints: Sequence[int] = (),
    together: int | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> DomainReplicas:
    """Train one small module per seed on batches with the same number of rows of each domain.

    Args:
        module: called with a replica's seed for its start, or one module that all start from;
            has `.featurizer` and `.head` (see `generality.models.Featurized`).
        inputs: (examples, ...), shared by all replicas.
        labels: (examples,), class ids; or (examples, classes), soft targets.
        rows: rows[r][d]: the training rows of replica r's d-th source domain. Every replica has
            the same number of source domains; domains may differ in size.
        algorithm: what is minimised, see `DomainAlgorithm`.
        seeds: one per replica, for its start, its order and its draws.
        learning_rate: one for all, or one per replica.
        weight_decay: likewise; decoupled for "adamw", in the gradient for "adam" and "sgd".
        hyper: the algorithm's own hyper-parameters by name, one for all or one per replica; those
            left out have the algorithm's defaults.
        steps: optimiser steps.
        per_domain: rows of each domain per step.
        optimizer: "adam", "adamw" or "sgd".
        average_from: share of the steps from which on weights are averaged; None: as the
            algorithm says.
        checkpoints: numbers of steps after which to keep a snapshot.
        together: replicas trained at a time; None: as many as fit into memory.
        device: where to train; None: where the inputs are.
        progress: called after each step with (steps done, steps in all, {"loss": mean}).
    """
    raise NotImplementedError
