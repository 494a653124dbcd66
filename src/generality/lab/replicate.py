"""Many small trainings over the same inputs, run as one batched training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from generality.lab.schedules import Schedule, learning_rate_factor
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

Loss = Callable[[Tensor, Tensor, float], Tensor]

_TOGETHER_BYTES = 2**30  # what one batch of all replicas and their optimiser state may take


@dataclass(frozen=True)
class Replicas:
    """Trained copies of one module, as stacked tensors.

    Attributes:
        skeleton: a module of the replicas' architecture; its own weights mean nothing.
        parameters: each parameter by name, with a leading dimension of replicas.
        buffers: each buffer by name, likewise.
        losses: mean training loss of each replica over each epoch, shape (replicas, epochs).
    """

    skeleton: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    losses: Float[Tensor, "replicas epochs"]

    def __len__(self) -> int:
        return len(self.losses)

    @torch.inference_mode()
    def logits(
        self, inputs: Tensor | np.ndarray, *, chunk: int = 4096
    ) -> Float[Tensor, "replicas n classes"]:
        """Every replica's output for every input, on the CPU; `chunk` inputs are done at a time."""
        state = {**self.parameters, **self.buffers}
        first = next(iter(self.parameters.values()))
        skeleton = copy.deepcopy(self.skeleton).eval()

        def call(state: dict[str, Tensor], batch: Tensor) -> Tensor:
            return functional_call(skeleton, state, (batch,))

        call_all = vmap(call, in_dims=(0, None))
        shared = as_tensor(inputs)
        batches = (shared[start : start + chunk] for start in range(0, len(shared), chunk))
        return torch.cat([call_all(state, prepared(x, first)).cpu() for x in batches], dim=1)

    def predict_proba(
        self, inputs: Tensor | np.ndarray, *, chunk: int = 4096
    ) -> Float[Tensor, "replicas n classes"]:
        """Softmax of `logits`: every replica's class probabilities."""
        return self.logits(inputs, chunk=chunk).softmax(-1)

    def module(self, replica: int) -> nn.Module:
        """One replica as an ordinary module of its own."""
        module = copy.deepcopy(self.skeleton)
        state = {**self.parameters, **self.buffers}
        with torch.no_grad():
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                tensor.copy_(state[name][replica])
        return module

    def state_dict(self) -> dict[str, Tensor]:
        """All there is as plain tensors, ready for safetensors; see `from_state`."""
        return {
            **{
                f"parameters.{name}": tensor.contiguous()
                for name, tensor in self.parameters.items()
            },
            **{f"buffers.{name}": tensor.contiguous() for name, tensor in self.buffers.items()},
            "losses": self.losses,
        }

    @classmethod
    def from_state(cls, skeleton: nn.Module, state: dict[str, Tensor]) -> Replicas:
        """The replicas whose `state_dict` this is; `skeleton` gives their architecture."""
        return cls(skeleton, _part(state, "parameters."), _part(state, "buffers."), state["losses"])


def soft_targets_loss(logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
    """Cross-entropy against soft targets, in nats: what `replicate` trains with by default."""
    return nn.functional.cross_entropy(logits, targets)


def zero_head(dim: int, classes: int, bias: bool = False) -> nn.Linear:
    """A linear layer from features to logits whose weights are all 0."""
    head = nn.Linear(dim, classes, bias=bias)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head


def replicate(
    module: nn.Module | Callable[[int], nn.Module],
    inputs: Tensor | np.ndarray,
    targets: Float[Tensor, "*replicas n classes"] | np.ndarray,
    *,
    rows: Int[Tensor, "*replicas n"] | np.ndarray | None = None,
    loss: Loss = soft_targets_loss,
    seeds: Sequence[int],
    learning_rate: float | Sequence[float] = 1e-3,
    weight_decay: float | Sequence[float] = 0.0,
    epochs: int = 1,
    batch_size: int = 32,
    optimizer: Optimizer = "adamw",
    momentum: float = 0.0,
    schedule: Schedule = "constant",
    warmup: float = 0.0,
    together: int | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Replicas:
    """Train one small module per seed, all at once, as if each had been trained alone.

    Every replica takes the steps that `torch.optim` would take with its own seed, learning rate
    and weight decay: equal to training them one by one up to float rounding (within 1e-4 on every
    weight). A replica's order is a fresh permutation per epoch from its own
    `torch.Generator().manual_seed(seed)`; the last, smaller batch is kept, so all replicas have the
    same number of examples. The module stays in the mode (train or eval) it comes in; dropout
    works, but draws other numbers than a training alone would.

    Args:
        module: called with a replica's seed (torch's generator freshly seeded with it) for its
            start, or one module that all of them start from. Parameters that do not require
            gradients stay as they are.
        inputs: (examples, ...), shared by all replicas; may be a read-only memory map, of which
            only the rows of a batch are read. Half precision is widened batch by batch.
        targets: soft targets, (replicas, n, classes) or (n, classes) for all.
        rows: which inputs the targets belong to, (replicas, n) or (n,); None: all, in order.
        loss: scalar from (logits (batch, classes), targets (batch, classes), progress), where
            progress in [0, 1) is step / total steps at the start of the step. It runs under
            `torch.func.vmap`.
        seeds: one per replica; repeat a seed to compare settings on the same start and order.
        learning_rate: at its highest; one for all, or one per replica.
        weight_decay: decoupled for "adamw", an L2 term in the gradient for "adam" and "sgd".
        epochs: passes over the n examples.
        batch_size: examples of each replica per step.
        optimizer: "adamw", "adam" or "sgd", with torch's default betas and epsilon.
        momentum: of SGD.
        schedule: of the learning rate, see `learning_rate_factor`.
        warmup: share of the steps over which the learning rate grows, in [0, 1).
        together: replicas trained at a time. None: as many as keep one batch of inputs, the
            parameters, gradients and optimiser state under 1 GiB (activations not counted).
        device: where to train; None: where the inputs are. Inputs that fit into half of the free
            memory of a CUDA device are moved there whole, others batch by batch.
        progress: called after each step with (steps done, steps in all, {"loss": mean}).

    Raises:
        ValueError: for shapes that do not fit together, or unknown options.

    >>> features = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> truth = nn.functional.one_hot((features[:, 0] > 0).long(), 2).float()
    >>> probes = replicate(lambda seed: nn.Linear(8, 2), features, truth, seeds=[0, 1, 2],
    ...                    learning_rate=[0.001, 0.01, 0.1], epochs=5)
    >>> [round(loss, 2) for loss in probes.losses[:, -1].tolist()]
    [0.73, 0.69, 0.33]
    >>> probes.predict_proba(features).shape
    torch.Size([3, 64, 2])
    """
    count = len(seeds)
    if count == 0:
        raise ValueError("seeds is empty: give one seed per replica")
    if optimizer not in ("adamw", "adam", "sgd"):
        raise ValueError(f"optimizer is 'adamw', 'adam' or 'sgd', not '{optimizer}'")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size are at least 1, not {epochs} and {batch_size}")
    shared = as_tensor(inputs)
    soft = as_tensor(targets).float()
    chosen = torch.arange(len(shared)) if rows is None else as_tensor(rows).long()
    if soft.ndim not in (2, 3) or (soft.ndim == 3 and len(soft) != count):
        raise ValueError(
            f"targets of shape {tuple(soft.shape)} are neither (n, classes) nor "
            f"(replicas, n, classes) for {count} replicas"
        )
    n = soft.shape[-2]
    if chosen.shape not in ((n,), (count, n)):
        raise ValueError(
            f"rows (or, without rows, the inputs) of shape {tuple(chosen.shape)} do not fit "
            f"targets for {n} examples and {count} replicas: every replica needs the same number"
        )
    if n == 0 or int(chosen.min()) < 0 or int(chosen.max()) >= len(shared):
        raise ValueError(f"rows must name at least one of the {len(shared)} inputs, from 0 on")
    plan = _Plan(loss, epochs, batch_size, optimizer, momentum, schedule, warmup, n)
    rates = per_replica("learning_rate", learning_rate, count)
    decays = per_replica("weight_decay", weight_decay, count)
    place = torch.device(device) if device is not None else shared.device
    if place.type == "cuda" and shared.device.type != "cuda":
        free_bytes = torch.cuda.mem_get_info(place)[0]
        shared = shared.to(place) if shared.nbytes < free_bytes / 2 else shared

    skeleton = start(module, seeds[0])
    if together is None:
        batch_bytes = min(batch_size, n) * math.prod(shared.shape[1:]) * 4
        state_bytes = sum(p.nbytes for p in skeleton.parameters()) * 5
        together = max(1, _TOGETHER_BYTES // (batch_bytes + state_bytes))
    parts: list[Replicas] = []
    for first in range(0, count, together):
        part = slice(first, first + together)
        done_before = plan.steps * len(parts)
        all_steps = plan.steps * math.ceil(count / together)

        def report(step: int, mean: float, before: int = done_before, of: int = all_steps) -> None:
            assert progress is not None
            progress(before + step, of, {"loss": mean})

        parts.append(
            _train(
                [start(module, seed) for seed in seeds[part]],
                shared,
                (soft[part] if soft.ndim == 3 else soft).to(place),
                chosen[part] if chosen.ndim == 2 else chosen,
                seeds[part],
                rates[part],
                decays[part],
                plan,
                report if progress is not None else None,
            )
        )
    replicas = parts[0] if len(parts) == 1 else _joined(parts)
    warn_of_divergence(replicas.losses)
    return replicas


@dataclass(frozen=True)
class _Plan:
    """What all replicas share."""

    loss: Loss
    epochs: int
    batch_size: int
    optimizer: Optimizer
    momentum: float
    schedule: Schedule
    warmup: float
    n: int

    @property
    def steps(self) -> int:
        return self.epochs * math.ceil(self.n / self.batch_size)


def _train(
    modules: list[nn.Module],
    shared: Tensor,
    targets: Tensor,
    rows: Tensor,
    seeds: Sequence[int],
    rates: Float[Tensor, "replicas 1"],
    decays: Float[Tensor, "replicas 1"],
    plan: _Plan,
    report: Callable[[int, float], None] | None,
) -> Replicas:
    count, place, skeleton = len(modules), targets.device, modules[0]
    stacked = StackedModules(modules, place)
    flat = stacked.flat

    def one(state: dict[str, Tensor], batch: Tensor, soft: Tensor, progress: float) -> Tensor:
        return plan.loss(functional_call(skeleton, state, (batch,)), soft, progress)

    every = vmap(one, in_dims=(0, 0, 0, None), randomness="different")
    update = _optimizer(plan, flat, rates, decays)
    losses = torch.zeros(count, plan.epochs, device=place)
    # A fresh batch per step would spend more on page faults than on the gathering itself.
    gathered = shared.new_empty(count * min(plan.batch_size, plan.n), *shared.shape[1:])
    step = 0
    with torch.random.fork_rng():
        torch.manual_seed(seeds[0])  # only dropout draws from it
        for epoch, (order, soft) in enumerate(_epochs(plan, rows, targets, seeds)):
            for start in range(0, plan.n, plan.batch_size):
                positions = order[:, start : start + plan.batch_size].to(shared.device)
                picked = gathered[: positions.numel()]
                torch.index_select(shared, 0, positions.flatten(), out=picked)
                batch = prepared(picked, flat).view(*positions.shape, *shared.shape[1:])
                wanted = soft[:, start : start + plan.batch_size]
                each = every(stacked.state(), batch, wanted, step / plan.steps)
                (gradient,) = torch.autograd.grad(each.sum(), flat)
                update(gradient, step)
                losses[:, epoch] += each.detach() * (wanted.shape[1] / plan.n)
                step += 1
                if report is not None:
                    report(step, each.mean().item())
    final = {name: tensor.detach() for name, tensor in stacked.parameters().items()}
    return Replicas(skeleton, {**final, **stacked.fixed}, stacked.buffers, losses)


def _epochs(
    plan: _Plan, rows: Tensor, targets: Tensor, seeds: Sequence[int]
) -> Iterator[tuple[Int[Tensor, "replicas n"], Float[Tensor, "replicas n classes"]]]:
    """Each epoch's rows and targets, every replica in its own order."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _ in range(plan.epochs):
        order = torch.stack([torch.randperm(plan.n, generator=g) for g in generators])
        positions = rows[order] if rows.ndim == 1 else rows.gather(1, order)
        order = order.to(targets.device)
        yield (
            positions,
            targets[order] if targets.ndim == 2 else targets.take_along_dim(order[..., None], 1),
        )


def _optimizer(
    plan: _Plan,
    flat: Float[Tensor, "replicas numbers"],
    rates: Float[Tensor, "replicas 1"],
    decays: Float[Tensor, "replicas 1"],
) -> Callable[[Tensor, int], None]:
    """The optimiser and its schedule: (gradient, step) -> None, in place."""
    optimizer = StackedOptimizer(plan.optimizer, flat, rates, decays, plan.momentum)

    def update(gradient: Tensor, step: int) -> None:
        factor = learning_rate_factor(plan.schedule, step, plan.steps, warmup=plan.warmup)
        optimizer.update(gradient, step, factor)

    return update


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _joined(parts: list[Replicas]) -> Replicas:
    states = [part.state_dict() for part in parts]
    joined = {name: torch.cat([state[name] for state in states]) for name in states[0]}
    return Replicas.from_state(parts[0].skeleton, joined)
