"""Where penalised training starts, compared on coloured digits: random, plain, rich features."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import stack_module_state

from generality.benchmarks.colored_panel import ColoredPanel
from generality.estimators.rich_features import (
    discover,
    distill_multi_head,
    fit_group_dro,
    fit_penalised,
    hand_over,
    own_logits,
    predict_then_interpolate,
)
from generality.models import Featurized
from generality.models.named_networks import hidden_network

Accuracies = tuple[
    Float[np.ndarray, "seeds weights environments"], Float[np.ndarray, "seeds weights tests"]
]
"""On held-out digits of each training environment, and on each colouring of the test."""


@dataclass(frozen=True)
class RichPlan:
    """How long everything is trained, full batches of Adam.

    Attributes:
        width: of two hidden layers.
        rounds: of discovery, round 0 being plain training.
        learning_rate: of Adam.
        l2: penalty on the weights.
        first_steps: of round 0, few, so that it does not remember wrong labels.
        discover_steps: of each later round.
        distill_steps: of the synthesis of all rounds.
        penalised_steps: of a whole network on rich features.
        frozen_steps: of a head on them.
        oracle_steps: of plain training where the colour says nothing.
    """

    width: int = 100
    rounds: int = 2
    learning_rate: float = 1e-3
    l2: float = 1.1e-3
    first_steps: int = 30
    discover_steps: int = 250
    distill_steps: int = 250
    penalised_steps: int = 300
    frozen_steps: int = 1000
    oracle_steps: int = 200

    @property
    def training(self) -> dict[str, Any]:
        """What all trainings share."""
        return {"learning_rate": self.learning_rate, "l2": self.l2}

    @property
    def total(self) -> int:
        """Steps that all take together, so that no start has more."""
        later = (self.rounds - 1) * self.discover_steps + self.distill_steps
        return self.first_steps + later + self.penalised_steps

    def network(self, seed: int) -> Featurized:
        """Two hidden layers and one logit; Xavier weights, no biases to start with."""
        model = hidden_network(2 * 14 * 14, (self.width, self.width), 1)
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        return model


def train_plain(plan: RichPlan, panel: ColoredPanel, seeds: Sequence[int]) -> dict[str, Accuracies]:
    """Plain training ("erm"), the same where the colour says nothing ("oracle"), and "pi".

    "pi" is `predict_then_interpolate`.
    """
    own = panel.draw(seeds)
    everyone = np.ones((*own["y"].shape, 1))
    trained = {
        "erm": fit_group_dro(
            plan.network, own["x"], own["y"], everyone, seeds=seeds, steps=plan.total,
            **plan.training,
        ),
        "oracle": fit_group_dro(
            plan.network, own["even_x"], own["even_y"], everyone, seeds=seeds,
            steps=plan.oracle_steps, **plan.training,
        ),
        "pi": predict_then_interpolate(
            plan.network, own["x"], own["y"], own["domains"], seeds=seeds,
            first_steps=plan.first_steps, steps=plan.discover_steps, **plan.training,
        ),
    }  # fmt: skip
    return {
        name: _accuracies(functools.partial(own_logits, nets), own)
        for name, nets in trained.items()
    }


def construct_starts(plan: RichPlan, panel: ColoredPanel, seeds: Sequence[int]) -> dict[str, Any]:
    """Rounds of discovery and their synthesis.

    Returns:
        `found`: accuracies of "round-0", … and of their mean belief, "ensemble"; `starts`: weights
        to start from, of round 0 ("erm-init") and of the synthesis ("rfc"), stacked over seeds.
    """
    own = panel.draw(seeds)
    rounds = discover(
        plan.network, own["x"], own["y"], rounds=plan.rounds, seeds=seeds,
        first_steps=plan.first_steps, steps=plan.discover_steps, **plan.training,
    )  # fmt: skip
    heads = distill_multi_head(
        plan.network, rounds, own["x"], own=True, seeds=seeds, steps=plan.distill_steps,
        **plan.training,
    )  # fmt: skip

    def together(x: np.ndarray) -> Tensor:
        beliefs = [own_logits(r.networks, x).sigmoid() for r in rounds]
        return torch.stack(beliefs).mean(0) - 0.5

    found = {
        f"round-{k}": _accuracies(functools.partial(own_logits, r.networks), own)
        for k, r in enumerate(rounds)
    }
    starts = [rounds[0].networks.module(i) for i in range(len(seeds))], hand_over(heads)
    erm, rfc = (
        {n: t.detach() for n, t in stack_module_state(list(start))[0].items()} for start in starts
    )
    return {
        "found": {**found, "ensemble": _accuracies(together, own)},
        "starts": {"erm-init": erm, "rfc": rfc},
    }


def train_from(
    plan: RichPlan,
    panel: ColoredPanel,
    penalty: str | None,
    start: str,
    state: dict[str, Tensor] | None,
    weights: Sequence[float],
    seeds: Sequence[int],
) -> Accuracies:
    """A penalty from one start at every weight.

    Args:
        penalty: as in `fit_penalised`; None for plain training.
        start: "random", "erm-init", "rfc" or "rfc-frozen" (a head on the features as they are).
        state: the start's weights as `construct_starts` returns them; None at random.
        weights: of the penalty.
        seeds: one network each.
    """
    own = panel.draw(seeds)
    steps = {
        "random": plan.total, "erm-init": plan.total - plan.first_steps,
        "rfc": plan.penalised_steps, "rfc-frozen": plan.frozen_steps,
    }[start]  # fmt: skip
    models: Any = [plan.network(seed) for seed in seeds] if state else plan.network
    for i, model in enumerate(models if state else ()):
        model.load_state_dict({name: tensor[i] for name, tensor in (state or {}).items()})
    found = []
    for weight in weights:
        nets = fit_penalised(
            models, own["x"], own["y"], own["domains"], weight=weight, seeds=seeds, steps=steps,
            penalty=penalty, frozen=start == "rfc-frozen", **plan.training,
        )  # fmt: skip
        found.append(_accuracies(functools.partial(own_logits, nets), own))
    held_out, test = (np.concatenate(part, 1) for part in zip(*found, strict=True))
    return held_out, test


def _accuracies(logits: Callable[[Any], Tensor], own: dict[str, np.ndarray]) -> Accuracies:
    """(seeds, 1, environments) on held-out digits and in the test, from a function of inputs."""
    held, test = (
        ((logits(own[f"{name}_x"])[..., 0] > 0).numpy() == own[f"{name}_y"])
        .reshape(len(own["y"]), 1, environments, -1)
        .mean(-1)
        for name, environments in (("held", 2), ("test", 3))
    )
    return held, test
