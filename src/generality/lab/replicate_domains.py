"""Many small trainings over several domains, each its own way, run as one batched training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from generality.lab.replicate import Replicas
from generality.lab.stacked import (
    Optimizer,
    StackedModules,
    StackedOptimizer,
    as_tensor,
    per_replica,
    prepared,
    start,
    warn_of_divergence,
)

State = dict[str, Tensor]

_TOGETHER_BYTES = 2**30  # what batches, streams and optimiser state of all replicas may take


class DomainAlgorithm(Protocol):
    """What `replicate_domains` asks of an algorithm; `generality.objectives.ALGORITHMS` has many.

    All but `draws` run under `torch.func.vmap`, once per replica. A hyper-parameter named "anneal"
    is the share of the steps after which the objective changes: the optimiser then starts afresh.
    """

    @property
    def min_domains(self) -> int:
        """Source domains without which the algorithm is not itself."""

    @property
    def average_from(self) -> float | None:
        """Share of the steps from which on the weights are averaged, or None."""

    def defaults(self) -> dict[str, float]:
        """The usual value of every hyper-parameter."""

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

    `losses` has one column for each tenth of the training (one per step if there are fewer steps).

    Attributes:
        snapshots: "parameters.…" and "buffers.…" by the number of steps done.
    """

    snapshots: dict[int, State] = field(default_factory=dict)

    def at(self, step: int) -> Replicas:
        """The replicas as they were after this many steps, one of the `checkpoints`.

        Raises:
            ValueError: for a step of which there is no snapshot.
        """
        if step not in self.snapshots:
            raise ValueError(f"no snapshot after {step} steps; there are {sorted(self.snapshots)}")
        return Replicas.from_state(self.skeleton, {**self.snapshots[step], "losses": self.losses})

    def state_dict(self) -> State:
        """All there is as plain tensors, snapshots included; see `from_state`."""
        return {
            **super().state_dict(),
            **{
                f"snapshots.{step}.{name}": tensor.contiguous()
                for step, snapshot in self.snapshots.items()
                for name, tensor in snapshot.items()
            },
        }

    @classmethod
    def from_state(cls, skeleton: nn.Module, state: State) -> DomainReplicas:
        """The replicas whose `state_dict` this is; `skeleton` gives their architecture."""
        plain = Replicas.from_state(skeleton, state)
        snapshots: dict[int, State] = {}
        for key, tensor in state.items():
            if key.startswith("snapshots."):
                _, step, name = key.split(".", 2)
                snapshots.setdefault(int(step), {})[name] = tensor
        return cls(skeleton, plain.parameters, plain.buffers, plain.losses, snapshots)


def replicate_domains(
    module: nn.Module | Callable[[int], nn.Module],
    inputs: Tensor | np.ndarray,
    labels: Int[Tensor, " examples"] | Float[Tensor, "examples classes"] | np.ndarray,
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
    precision: Literal["float32", "bfloat16"] = "float32",
    together: int | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> DomainReplicas:
    """Train one small module per seed on batches with equally many rows of each of its domains.

    Every replica has its own source domains, seed, learning rate, weight decay and
    hyper-parameters, and takes the steps that `torch.optim` would take with them alone: equal to
    training them one by one up to float rounding (within 1e-4 on every weight). A domain's rows
    come in one fresh permutation after another, cut into batches without regard to where a
    permutation ends, so a domain may be smaller than a batch. The permutations are drawn from the
    replica's `torch.Generator().manual_seed(seed)`, all of the first domain's before the second's;
    the algorithm's random numbers from `numpy.random.default_rng(seed)`. The module stays in the
    mode (train or eval) it comes in; dropout works, but draws other numbers than alone.

    Where the algorithm has a hyper-parameter "anneal", a replica's optimiser starts afresh at the
    first step whose progress (step / steps) reaches it, as DomainBed does.

    Args:
        module: called with a replica's seed (torch's generator freshly seeded with it) for its
            start, or one module that all start from; its output is `head(featurizer(x))` of its
            parts of these names, see `generality.models.Featurized`.
        inputs: (examples, ...), shared by all replicas; may be a read-only memory map.
        labels: (examples,), class ids, or one column for a binary logit; or (examples, classes),
            soft targets.
        rows: rows[r][d]: the training rows of replica r's d-th source domain. Every replica has
            the same number of source domains; domains may differ in size.
        algorithm: what is minimised, one of `generality.objectives.ALGORITHMS` for example.
        seeds: one per replica, for its start, its order and its draws.
        learning_rate: one for all, or one per replica.
        weight_decay: likewise; decoupled for "adamw", an L2 term in the gradient for the others.
        hyper: the algorithm's own hyper-parameters by name, one for all or one per replica; those
            left out have the algorithm's defaults.
        steps: optimiser steps.
        per_domain: rows of each domain per step.
        optimizer: "adam", "adamw" or "sgd", with torch's default betas and epsilon.
        average_from: share of the steps in [0, 1) from which on the weights after every step are
            averaged, into what is returned (buffers are the last ones); None: as the algorithm
            says.
        checkpoints: numbers of steps after which to keep a snapshot (of the average, once there is
            one).
        precision: "bfloat16" runs the network under `torch.autocast`: about three times faster for
            convolutions on processors and devices that have it, with weights, losses and the
            optimiser as before; not equal to float32 within 1e-4 any more.
        together: replicas trained at a time; 1 for convolutions on a CPU, which gain nothing from
            company. None: as many as keep batches, streams of rows,
            parameters and optimiser state under 1 GiB (activations not counted).
        device: where to train; None: where the inputs are.
        progress: called after each step with (steps done, steps in all, {"loss": mean}).

    Raises:
        ValueError: for shapes that do not fit together, an empty domain, fewer domains than the
            algorithm needs, or unknown options.

    >>> from generality.models import Featurized, mlp
    >>> from generality.objectives import ALGORITHMS
    >>> features = torch.randn(90, 8, generator=torch.Generator().manual_seed(0))
    >>> labels, domains = (features[:, 0] > 0).long(), [np.arange(30), np.arange(30, 90)]
    >>> nets = replicate_domains(lambda seed: Featurized(mlp(8, 16), nn.Linear(16, 2)), features,
    ...     labels, [domains] * 3, algorithm=ALGORITHMS["vrex"], seeds=[0, 0, 1],
    ...     hyper={"weight": [1.0, 100.0, 1.0]}, steps=50, per_domain=16, learning_rate=0.01)
    >>> nets.predict_proba(features).shape, nets.losses.shape
    (torch.Size([3, 90, 2]), torch.Size([3, 10]))
    """
    count = len(seeds)
    if count == 0 or len(rows) != count:
        raise ValueError(f"one seed and one list of domains per replica: {count} and {len(rows)}")
    if optimizer not in ("adamw", "adam", "sgd"):
        raise ValueError(f"optimizer is 'adamw', 'adam' or 'sgd', not '{optimizer}'")
    if steps < 1 or per_domain < 1:
        raise ValueError(f"steps and per_domain are at least 1, not {steps} and {per_domain}")
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision is 'float32' or 'bfloat16', not '{precision}'")
    if any(not 1 <= step <= steps for step in checkpoints):
        raise ValueError(f"checkpoints are from 1 to {steps} steps, not {list(checkpoints)}")
    shared, truth = as_tensor(inputs), as_tensor(labels)
    if len(truth) != len(shared):
        raise ValueError(f"{len(shared)} inputs have {len(truth)} labels")
    picked = [[as_tensor(np.asarray(domain)).long() for domain in domains] for domains in rows]
    _check(picked, len(shared), algorithm)
    averaging = algorithm.average_from if average_from is None else average_from
    if averaging is not None and not 0 <= averaging < 1:
        raise ValueError(f"average_from is a share of the steps in [0, 1), not {averaging}")
    settings = _settings(algorithm, hyper or {}, count)
    rates = per_replica("learning_rate", learning_rate, count)
    decays = per_replica("weight_decay", weight_decay, count)
    place = torch.device(device) if device is not None else shared.device
    plan = _Plan(algorithm, steps, per_domain, optimizer, averaging, tuple(checkpoints), precision)

    skeleton = start(module, seeds[0])
    if together is None:
        batch = len(picked[0]) * per_domain
        each = batch * (math.prod(shared.shape[1:]) * 4 + steps * 4)
        each += sum(p.nbytes for p in skeleton.parameters()) * 5
        together = max(1, _TOGETHER_BYTES // each)
    parts: list[DomainReplicas] = []
    for first in range(0, count, together):
        part = slice(first, first + together)

        def report(step: int, mean: float, before: int = steps * len(parts)) -> None:
            assert progress is not None
            progress(before + step, steps * math.ceil(count / together), {"loss": mean})

        parts.append(
            _train(
                [start(module, seed) for seed in seeds[part]],
                shared,
                truth,
                picked[part],
                seeds[part],
                rates[part],
                decays[part],
                {name: values[part] for name, values in settings.items()},
                plan,
                place,
                report if progress is not None else None,
            )
        )
    replicas = parts[0] if len(parts) == 1 else _joined(parts)
    warn_of_divergence(replicas.losses)
    return replicas


@dataclass(frozen=True)
class _Plan:
    """What all replicas share."""

    algorithm: DomainAlgorithm
    steps: int
    per_domain: int
    optimizer: Optimizer
    averaging: float | None
    checkpoints: tuple[int, ...]
    precision: str


class _WithFeatures(nn.Module):
    """Features and logits, both."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        parts: Any = self.module
        features = parts.featurizer(inputs)
        return features, parts.head(features)


def _train(
    modules: list[nn.Module],
    shared: Tensor,
    truth: Tensor,
    rows: list[list[Tensor]],
    seeds: Sequence[int],
    rates: Float[Tensor, "replicas 1"],
    decays: Float[Tensor, "replicas 1"],
    settings: dict[str, Float[Tensor, " replicas"]],
    plan: _Plan,
    place: torch.device,
    report: Callable[[int, float], None] | None,
) -> DomainReplicas:
    count, domains, algorithm = len(modules), len(rows[0]), plan.algorithm
    stacked = StackedModules([_WithFeatures(module) for module in modules], place)
    skeleton, flat = _WithFeatures(modules[0]), stacked.flat
    width, classes = _sizes(modules[0], prepared(shared[:1], flat))
    wanted = _soft(truth, classes).to(flat)
    streams = [_stream(own, seed, plan) for own, seed in zip(rows, seeds, strict=True)]
    positions = torch.stack(streams, 1)  # (steps, replicas, domains, batch)
    draws = _draws(algorithm, seeds, settings, plan.steps, domains, place)
    numbers = {name: values.to(flat) for name, values in settings.items()}
    restarts = _restarts(numbers, plan.steps)
    memory = {
        name: tensor.to(flat).expand(count, *tensor.shape)
        for name, tensor in algorithm.initial_state(domains, width, classes).items()
    }

    def one(
        state: State,
        batch: Tensor,
        targets: Tensor,
        memory: State,
        hyper: State,
        draw: State,
        progress: Tensor,
    ) -> tuple[Tensor, State]:
        batch, targets = algorithm.transform(batch, targets, draw)
        with torch.autocast(place.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
            both = functional_call(skeleton, state, (batch.flatten(0, 1),))
        features, logits = (x.to(flat.dtype).unflatten(0, (domains, -1)) for x in both)
        return algorithm.loss(logits, targets, features, memory, hyper, progress)

    every = vmap(one, in_dims=(0, 0, 0, 0, 0, 0, None), randomness="different")
    if count == 1:
        every = _unbatched(one)
    optimizer = StackedOptimizer(plan.optimizer, flat, rates, decays)
    tenths = min(10, plan.steps)
    losses = torch.zeros(count, tenths, device=place)
    tenth_of = np.arange(plan.steps) * tenths // plan.steps
    in_tenth = np.bincount(tenth_of)
    averaged_from = plan.steps if plan.averaging is None else math.ceil(plan.averaging * plan.steps)
    average = torch.zeros_like(flat, requires_grad=False) if averaged_from < plan.steps else None
    # A fresh batch per step would spend more on page faults than on the gathering itself.
    gathered = shared.new_empty(positions[0].numel(), *shared.shape[1:])
    snapshots: dict[int, State] = {}

    def trained() -> State:
        final = flat.detach() if average is None or done <= averaged_from else average
        state = {**stacked.parameters(final), **stacked.fixed}
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}

    def buffers() -> State:
        return {n.removeprefix("module."): tensor for n, tensor in stacked.buffers.items()}

    with torch.random.fork_rng():
        torch.manual_seed(seeds[0])  # only dropout draws from it
        for step in range(plan.steps):
            if step in restarts:
                optimizer.restart(restarts[step].to(place), step)
            these = positions[step].long()
            torch.index_select(shared, 0, these.flatten().to(shared.device), out=gathered)
            batch = prepared(gathered, flat).view(*these.shape, *shared.shape[1:])
            targets = wanted[these.to(place)]
            draw = {name: values[:, step] for name, values in draws.items()}
            progress = torch.tensor(step / plan.steps, dtype=flat.dtype, device=place)
            each, memory = every(stacked.state(), batch, targets, memory, numbers, draw, progress)
            (gradient,) = torch.autograd.grad(each.sum(), flat)
            memory = {name: tensor.detach() for name, tensor in memory.items()}
            optimizer.update(gradient, step)
            tenth = tenth_of[step]
            losses[:, tenth] += each.detach() / in_tenth[tenth]
            done = step + 1
            if average is not None and done > averaged_from:
                average.lerp_(flat.detach(), 1 / (done - averaged_from))
            if done in plan.checkpoints:
                state = {f"parameters.{n}": tensor.clone() for n, tensor in trained().items()}
                kept = {f"buffers.{n}": tensor.clone() for n, tensor in buffers().items()}
                snapshots[done] = {**state, **kept}
            if report is not None:
                report(done, each.mean().item())
    return DomainReplicas(modules[0], trained(), buffers(), losses, snapshots)


def _unbatched(one: Callable[..., tuple[Tensor, State]]) -> Callable[..., tuple[Tensor, State]]:
    """What `vmap` would return for a single replica, by a plain call."""

    def first(value: Any) -> Any:
        return (
            {n: tensor[0] for n, tensor in value.items()} if isinstance(value, dict) else value[0]
        )

    def every(*batched: Any) -> tuple[Tensor, State]:
        loss, memory = one(*(first(value) for value in batched[:-1]), batched[-1])
        return loss[None], {name: tensor[None] for name, tensor in memory.items()}

    return every


def _stream(rows: list[Tensor], seed: int, plan: _Plan) -> Int[Tensor, "steps domains batch"]:
    """The rows of every step: each domain's permutations, end to end."""
    generator = torch.Generator().manual_seed(seed)
    needed = plan.steps * plan.per_domain

    def endless(own: Tensor) -> Tensor:
        passes = math.ceil(needed / len(own))
        order = [torch.randperm(len(own), generator=generator) for _ in range(passes)]
        return own[torch.cat(order)[:needed]].int().view(plan.steps, plan.per_domain)

    return torch.stack([endless(own) for own in rows], 1)


def _draws(
    algorithm: DomainAlgorithm,
    seeds: Sequence[int],
    settings: dict[str, Tensor],
    steps: int,
    domains: int,
    place: torch.device,
) -> State:
    """Each replica's random numbers, (replicas, steps, ...)."""
    each = [
        algorithm.draws(
            np.random.default_rng(seed),
            {name: values[r].item() for name, values in settings.items()},
            steps,
            domains,
        )
        for r, seed in enumerate(seeds)
    ]
    return {n: torch.as_tensor(np.stack([own[n] for own in each])).to(place) for n in each[0]}


def _restarts(numbers: State, steps: int) -> dict[int, Tensor]:
    """At which steps the optimisers of which replicas start afresh."""
    if "anneal" not in numbers:
        return {}
    # In the precision of the loss, so that both see the same step as the first.
    anneal = numbers["anneal"].cpu()
    progress = torch.tensor([step / steps for step in range(steps)], dtype=anneal.dtype)
    first = (progress < anneal[:, None]).sum(1)
    return {int(step): first == step for step in first.unique() if 0 < step < steps}


def _sizes(module: nn.Module, example: Tensor) -> tuple[int, int]:
    """Features and classes of a module."""
    with torch.no_grad():
        quiet = copy.deepcopy(_WithFeatures(module)).to(example.device).eval()
        features, logits = quiet(example)
    return features.shape[-1], logits.shape[-1]


def _soft(truth: Tensor, classes: int) -> Float[Tensor, "examples classes"]:
    if truth.ndim == 2:
        if truth.shape[1] != classes:
            raise ValueError(f"soft targets of {truth.shape[1]} classes, logits of {classes}")
        return truth.float()
    if classes == 1:
        return truth[:, None].float()
    if int(truth.min()) < 0 or int(truth.max()) >= classes:
        raise ValueError(f"labels are class ids from 0 to {classes - 1}, as the module has outputs")
    return nn.functional.one_hot(truth.long(), classes).float()


def _check(rows: list[list[Tensor]], examples: int, algorithm: DomainAlgorithm) -> None:
    counts = {len(domains) for domains in rows}
    if len(counts) > 1:
        raise ValueError(f"every replica has as many source domains as the others, not {counts}")
    if max(counts) < algorithm.min_domains:
        raise ValueError(f"this algorithm needs {algorithm.min_domains} domains, not {max(counts)}")
    for domain in (domain for domains in rows for domain in domains):
        if len(domain) == 0 or int(domain.min()) < 0 or int(domain.max()) >= examples:
            raise ValueError(f"a domain's rows name at least one of the {examples} inputs, from 0")


def _settings(
    algorithm: DomainAlgorithm, given: Mapping[str, float | Sequence[float]], count: int
) -> dict[str, Float[Tensor, " replicas"]]:
    """Every hyper-parameter of every replica."""
    defaults = algorithm.defaults()
    if unknown := sorted(set(given) - set(defaults)):
        raise ValueError(f"the algorithm has no hyper-parameter {unknown}; it has {[*defaults]}")
    return {
        name: per_replica(name, given.get(name, value), count)[:, 0]
        for name, value in defaults.items()
    }


def _joined(parts: list[DomainReplicas]) -> DomainReplicas:
    states = [part.state_dict() for part in parts]
    joined = {name: torch.cat([state[name] for state in states]) for name in states[0]}
    return DomainReplicas.from_state(parts[0].skeleton, joined)
