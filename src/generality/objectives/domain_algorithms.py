"""The algorithms of domain generalization, with the settings DomainBed gives them.

Each is a small object that `generality.lab.replicate_domains` trains with: a loss over per-domain
logits and features, whatever it remembers from step to step, and the ranges of its
hyper-parameters. `ALGORITHMS` has them by name.

DomainBed counts the steps before a penalty sets in ("anneal") out of 5000; here it is a share of
the steps, so that a shorter training keeps its shape. 0.1 means 500 of 5000; 1 or more: never.

Source, unless said otherwise: Gulrajani and Lopez-Paz 2020 (arXiv 2007.01434) and the code released
with it, `algorithms.py` and `hparams_registry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from generality.objectives.domain_penalties import (
    Penalty,
    clove_penalty,
    coral_penalty,
    domain_risks,
    gradient_variances,
    group_dro,
    iga_penalty,
    irm_split_penalty,
    mixup,
    mmd_penalty,
    sd_penalty,
    vrex_penalty,
)

State = dict[str, Tensor]


@dataclass(frozen=True)
class Range:
    """A hyper-parameter's usual value, and where to draw others from.

    Attributes:
        default: the usual value.
        low: least value drawn.
        high: greatest value drawn.
        log: draw its logarithm uniformly; False: the value itself.

    >>> round(Range(1.0, 0.1, 10.0).draw(np.random.default_rng(0)), 4)
    1.879
    """

    default: float
    low: float
    high: float
    log: bool = True

    def draw(self, rng: np.random.Generator) -> float:
        """A value at random."""
        if not self.log:
            return float(rng.uniform(self.low, self.high))
        return float(10 ** rng.uniform(np.log10(self.low), np.log10(self.high)))


LEARNING_RATE = Range(1e-3, 10**-4.5, 10**-2.5)
"""DomainBed's for small images; for networks from scratch and heads on features alike."""

_ANNEAL = Range(0.1, 1 / 5000, 2.0)


@dataclass(frozen=True, kw_only=True)
class DomainAlgorithm:
    """Empirical risk minimisation: the mean of the domains' risks; the others build on it.

    Attributes:
        name: how the algorithm is written.
        ranges: its hyper-parameters.
        min_domains: source domains without which it is not itself.
        average_from: share of the steps from which on weights are averaged, or None.

    >>> erm = DomainAlgorithm(name="ERM")
    >>> logits = torch.zeros(2, 4, 2)
    >>> erm.loss(logits, logits.softmax(-1), logits, {}, {}, torch.tensor(0.0))
    (tensor(0.6931), {})
    """

    name: str
    ranges: Mapping[str, Range] = field(default_factory=dict)
    min_domains: int = 2
    average_from: float | None = None

    def defaults(self) -> dict[str, float]:
        """The usual value of every hyper-parameter."""
        return {name: among.default for name, among in self.ranges.items()}

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """Every hyper-parameter at random."""
        return {name: among.draw(rng) for name, among in self.ranges.items()}

    def initial_state(self, domains: int, features: int, classes: int) -> State:
        """What the algorithm remembers from step to step, at the start: nothing."""
        return {}

    def draws(
        self, rng: np.random.Generator, hyper: Mapping[str, float], steps: int, domains: int
    ) -> dict[str, np.ndarray]:
        """Random numbers of a whole training, each of shape (steps, ...): none."""
        return {}

    def transform(
        self,
        inputs: Float[Tensor, "domains batch ..."],
        targets: Float[Tensor, "domains batch classes"],
        draw: State,
    ) -> tuple[Float[Tensor, "domains batch ..."], Float[Tensor, "domains batch classes"]]:
        """What to train on, from a batch and one step's draws: the batch."""
        return inputs, targets

    def loss(
        self,
        logits: Float[Tensor, "domains batch classes"],
        targets: Float[Tensor, "domains batch classes"],
        features: Float[Tensor, "domains batch features"],
        state: State,
        hyper: State,
        progress: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], State]:
        """The loss of one step and the state after it."""
        return domain_risks(logits, targets).mean(), state


@dataclass(frozen=True, kw_only=True)
class PenaltyAlgorithm(DomainAlgorithm):
    """The mean of the risks and "weight" times a penalty.

    Attributes:
        penalty: see `generality.objectives.domain_penalty`.
        before: the penalty's weight until "anneal", where there is such a hyper-parameter.
        per_domain: divide the penalty by the number of domains.
    """

    penalty: Penalty
    before: float = 1.0
    per_domain: bool = False

    def loss(
        self,
        logits: Float[Tensor, "domains batch classes"],
        targets: Float[Tensor, "domains batch classes"],
        features: Float[Tensor, "domains batch features"],
        state: State,
        hyper: State,
        progress: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], State]:
        """The loss of one step; the state stays empty."""
        penalty = self.penalty(logits, targets, features)
        if self.per_domain:
            penalty = penalty / len(logits)
        weight = _annealed(hyper, progress, self.before)
        return domain_risks(logits, targets).mean() + weight * penalty, state


@dataclass(frozen=True, kw_only=True)
class GroupDRO(DomainAlgorithm):
    """The risks weighted by how bad they have been; see `generality.objectives.group_dro`."""

    def initial_state(self, domains: int, features: int, classes: int) -> State:
        """Equal weights."""
        return {"weights": torch.full((domains,), 1 / domains)}

    def loss(
        self,
        logits: Float[Tensor, "domains batch classes"],
        targets: Float[Tensor, "domains batch classes"],
        features: Float[Tensor, "domains batch features"],
        state: State,
        hyper: State,
        progress: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], State]:
        """The weighted risk, and the new weights."""
        risks = domain_risks(logits, targets)
        loss, weights = group_dro(risks, state["weights"], hyper["eta"])
        return loss, {"weights": weights}


@dataclass(frozen=True, kw_only=True)
class Mixup(DomainAlgorithm):
    """Training on mixes of examples of two domains; see `generality.objectives.mixup`."""

    def draws(
        self, rng: np.random.Generator, hyper: Mapping[str, float], steps: int, domains: int
    ) -> dict[str, np.ndarray]:
        """A ring of domains and a share for each, at each step."""
        order = rng.permuted(np.tile(np.arange(domains), (steps, 1)), axis=1)
        shares = rng.beta(hyper["alpha"], hyper["alpha"], (steps, domains))
        return {"order": order, "shares": shares.astype(np.float32)}

    def transform(
        self,
        inputs: Float[Tensor, "domains batch ..."],
        targets: Float[Tensor, "domains batch classes"],
        draw: State,
    ) -> tuple[Float[Tensor, "domains batch ..."], Float[Tensor, "domains batch classes"]]:
        """The mixed batch."""
        return mixup(inputs, targets, draw["order"], draw["shares"])


@dataclass(frozen=True, kw_only=True)
class Fishr(DomainAlgorithm):
    """Moving averages of the variances of the head's gradients, brought together.

    The mean over domains and entries of their squared distance to the mean, on averages divided by
    (1 − "ema") so that the gradient does not depend on it; no penalty before "anneal".
    """

    def initial_state(self, domains: int, features: int, classes: int) -> State:
        """Averages of nothing."""
        return {"variances": torch.zeros(domains, classes * (features + 1))}

    def loss(
        self,
        logits: Float[Tensor, "domains batch classes"],
        targets: Float[Tensor, "domains batch classes"],
        features: Float[Tensor, "domains batch features"],
        state: State,
        hyper: State,
        progress: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], State]:
        """The loss, and the new averages."""
        now, ema = gradient_variances(logits, targets, features), hyper["ema"]
        averages = ema * state["variances"] + (1 - ema) * now
        distances = (averages - averages.mean(0)) / (1 - ema)
        weight = _annealed(hyper, progress, 0.0)
        loss = domain_risks(logits, targets).mean() + weight * distances.square().mean()
        return loss, {"variances": averages.detach()}


def _annealed(hyper: State, progress: Tensor, before: float) -> Tensor:
    """The penalty's weight: `before` until the anneal, where there is one."""
    if "anneal" not in hyper:
        return hyper["weight"]
    return torch.where(progress >= hyper["anneal"], hyper["weight"], before)


ALGORITHMS: dict[str, DomainAlgorithm] = {
    "erm": DomainAlgorithm(name="ERM", min_domains=1),
    "irm": PenaltyAlgorithm(
        name="IRM",
        penalty=irm_split_penalty,
        ranges={"weight": Range(1e2, 1e-1, 1e5), "anneal": _ANNEAL},
    ),
    "vrex": PenaltyAlgorithm(
        name="V-REx",
        penalty=partial(vrex_penalty, ddof=0),
        ranges={"weight": Range(1e1, 1e-1, 1e5), "anneal": _ANNEAL},
    ),
    "group_dro": GroupDRO(name="GroupDRO", ranges={"eta": Range(1e-2, 1e-3, 1e-1)}),
    "coral": PenaltyAlgorithm(
        name="CORAL", penalty=coral_penalty, ranges={"weight": Range(1.0, 1e-1, 1e1)}
    ),
    "mmd": PenaltyAlgorithm(
        name="MMD", penalty=mmd_penalty, ranges={"weight": Range(1.0, 1e-1, 1e1)}
    ),
    "mixup": Mixup(name="Mixup", ranges={"alpha": Range(0.2, 1e-1, 1e1)}),
    "sd": PenaltyAlgorithm(
        name="SD",
        penalty=sd_penalty,
        per_domain=True,
        min_domains=1,
        ranges={"weight": Range(1e-1, 1e-5, 1e-1)},
    ),
    "fishr": Fishr(
        name="Fishr",
        ranges={
            "weight": Range(1e3, 1e1, 1e4),
            "anneal": Range(0.3, 0.0, 1.0, log=False),
            "ema": Range(0.95, 0.90, 0.99, log=False),
        },
    ),
    "iga": PenaltyAlgorithm(
        name="IGA", penalty=iga_penalty, ranges={"weight": Range(1e3, 1e1, 1e5)}
    ),
    "clove": PenaltyAlgorithm(
        name="CLOvE", penalty=clove_penalty, min_domains=1, ranges={"weight": Range(1.0, 1e-1, 1e3)}
    ),
    "swad": DomainAlgorithm(name="SWAD-style averaging", min_domains=1, average_from=0.5),
}
"""By name. IGA takes the head's gradients only (see `iga_penalty`); CLOvE is not in DomainBed, its
range is ours; "swad" averages every step's weights from half of the training on, where the paper
(Cha et al. 2021, arXiv 2102.08604) finds start and end by the loss on held-out source data."""
