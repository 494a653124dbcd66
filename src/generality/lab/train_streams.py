"""Train small networks on several streams of batches at once, one network or many together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.func import functional_call, vmap

from generality.lab.replicate import Replicas, _optimizer, _Plan, soft_targets_loss
from generality.lab.schedules import Schedule, learning_rate_factor
from generality.lab.stacked import Optimizer, StackedModules, per_replica, prepared, start

Batch = dict[str, tuple[Tensor, ...]]
StreamLoss = Callable[[Callable[[Tensor], Any], Batch, float], Tensor]
"""Scalar from (the network as a function, one batch of each stream, progress in [0, 1))."""


def train_streams(
    module: nn.Module | Callable[[int], nn.Module],
    streams: Mapping[str, tuple[Tensor, ...]],
    loss: StreamLoss,
    *,
    seeds: Sequence[int],
    steps: int,
    batch_size: Mapping[str, int],
    learning_rate: float | Sequence[float] = 1e-3,
    weight_decay: float | Sequence[float] = 0.0,
    optimizer: Optimizer = "adamw",
    momentum: float = 0.0,
    schedule: Schedule = "constant",
    warmup: float = 0.0,
    device: str | torch.device | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Replicas:
    """Train one network per seed on batches from several streams (labelled and unlabelled, say).

    What `replicate` is for one stream and a loss over logits: here the loss gets the network
    itself, so that it may run it on several batches, or on inputs that it perturbs. Several seeds
    train together under `torch.func.vmap`, equal up to float rounding to training each alone; a
    single seed takes the plain path through `torch.optim`, so that any module works, batch
    normalisation in training mode included.

    A stream's batches are cut from one fresh permutation of its examples after another, drawn from
    the replica's own `torch.Generator().manual_seed(seed)`; the streams draw in their given order.

    Args:
        module: called with a seed for its start, or one module that all start from (a copy).
        streams: name -> tensors of the same examples, each (replicas, n, ...); what all replicas
            share is `tensor.expand(replicas, ...)`, which takes no memory.
        loss: scalar from (network, {name: tensors of its batch}, progress in [0, 1)).
        seeds: one per replica.
        steps: of the optimiser, ≥ 1.
        batch_size: name -> examples a step; at most all of them.
        learning_rate: at its highest; one for all, or one per replica.
        weight_decay: decoupled for "adamw", an L2 term in the gradient for "adam" and "sgd".
        optimizer: "adamw", "adam" or "sgd".
        momentum: of SGD.
        schedule: of the learning rate, see `learning_rate_factor`.
        warmup: share of the steps over which the learning rate grows, in [0, 1).
        device: where to train; None: where the first stream is.
        progress: called after each step with (steps done, steps in all, {"loss": mean}).

    Returns:
        The trained networks; `losses` has one column per step.

    Raises:
        ValueError: for streams that do not fit the seeds, or options out of range.

    >>> x = torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(0))
    >>> y = (x[..., 0] > 0).long()
    >>> def supervised(model, batch, progress):
    ...     inputs, labels = batch["labelled"]
    ...     return nn.functional.cross_entropy(model(inputs), labels)
    >>> nets = train_streams(lambda seed: nn.Linear(3, 2), {"labelled": (x, y)}, supervised,
    ...                      seeds=[0], steps=200, batch_size={"labelled": 16}, learning_rate=0.1)
    >>> bool((nets.logits(x[0]).argmax(-1) == y).float().mean() > 0.95)
    True
    """
    count = len(seeds)
    if count == 0 or steps < 1:
        raise ValueError(f"give at least one seed and one step, not {count} and {steps}")
    for name, tensors in streams.items():
        if name not in batch_size or batch_size[name] < 1:
            raise ValueError(f"batch_size says how many examples of '{name}' a step takes")
        if any(t.shape[:2] != (count, tensors[0].shape[1]) for t in tensors):
            shapes = [tuple(t.shape) for t in tensors]
            raise ValueError(f"stream '{name}' of {count} replicas has tensors of shapes {shapes}")
    if optimizer not in ("adamw", "adam", "sgd"):
        raise ValueError(f"optimizer is 'adamw', 'adam' or 'sgd', not '{optimizer}'")
    place = torch.device(device) if device is not None else next(iter(streams.values()))[0].device
    modules = [start(module, seed) for seed in seeds]
    batches = _batches(streams, batch_size, seeds, place)
    plan = _Plan(soft_targets_loss, steps, 1, optimizer, momentum, schedule, warmup, n=1)
    rates = per_replica("learning_rate", learning_rate, count)
    decays = per_replica("weight_decay", weight_decay, count)
    train = _train_one if count == 1 else _train_all
    with torch.random.fork_rng():
        torch.manual_seed(seeds[0])  # only dropout draws from it
        return train(modules, batches, loss, plan, rates, decays, place, progress)


def _train_one(
    modules: list[nn.Module],
    batches: Iterator[Batch],
    loss: StreamLoss,
    plan: _Plan,
    rates: Tensor,
    decays: Tensor,
    place: torch.device,
    progress: Callable[[int, int, dict[str, float]], None] | None,
) -> Replicas:
    module = copy.deepcopy(modules[0]).to(place)
    rate, decay = float(rates), float(decays)
    trainable = [p for p in module.parameters() if p.requires_grad]
    update: torch.optim.Optimizer
    if plan.optimizer == "sgd":
        update = torch.optim.SGD(trainable, rate, momentum=plan.momentum, weight_decay=decay)
    else:
        kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
        update = kind(trainable, rate, weight_decay=decay)
    losses = torch.zeros(1, plan.steps)
    for step in range(plan.steps):
        factor = learning_rate_factor(plan.schedule, step, plan.steps, warmup=plan.warmup)
        update.param_groups[0]["lr"] = rate * factor
        batch = {
            name: tuple(tensor[0] for tensor in tensors) for name, tensors in next(batches).items()
        }
        value = loss(module, batch, step / plan.steps)
        update.zero_grad()
        value.backward()
        update.step()
        losses[0, step] = value.detach()
        if progress is not None:
            progress(step + 1, plan.steps, {"loss": value.item()})
    parameters = {name: p.detach()[None] for name, p in module.named_parameters()}
    buffers = {name: b.detach()[None] for name, b in module.named_buffers()}
    return Replicas(module, parameters, buffers, losses)


def _train_all(
    modules: list[nn.Module],
    batches: Iterator[Batch],
    loss: StreamLoss,
    plan: _Plan,
    rates: Tensor,
    decays: Tensor,
    place: torch.device,
    progress: Callable[[int, int, dict[str, float]], None] | None,
) -> Replicas:
    stacked = StackedModules(modules, place)
    flat = stacked.flat

    def one(state: dict[str, Tensor], batch: Batch, progress: float) -> Tensor:
        return loss(lambda inputs: functional_call(modules[0], state, (inputs,)), batch, progress)

    every = vmap(one, in_dims=(0, 0, None), randomness="different")
    update = _optimizer(plan, flat, rates, decays)
    losses = torch.zeros(len(modules), plan.steps)
    for step in range(plan.steps):
        each = every(stacked.state(), next(batches), step / plan.steps)
        (gradient,) = torch.autograd.grad(each.sum(), flat)
        update(gradient, step)
        losses[:, step] = each.detach().cpu()
        if progress is not None:
            progress(step + 1, plan.steps, {"loss": each.mean().item()})
    final = {name: tensor.detach() for name, tensor in stacked.parameters().items()}
    return Replicas(modules[0], {**final, **stacked.fixed}, stacked.buffers, losses)


def _batches(
    streams: Mapping[str, tuple[Tensor, ...]],
    batch_size: Mapping[str, int],
    seeds: Sequence[int],
    place: torch.device,
) -> Iterator[Batch]:
    """Batches without end, every replica in its own order."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    replicas = torch.arange(len(seeds))[:, None]
    orders = {
        name: [_rows(tensors[0].shape[1], batch_size[name], g) for g in generators]
        for name, tensors in streams.items()
    }
    like = torch.empty(0, device=place)
    while True:
        batch = {}
        for name, tensors in streams.items():
            rows = torch.stack([next(order) for order in orders[name]])
            index = replicas.to(tensors[0].device), rows.to(tensors[0].device)
            # contiguous: torch's CPU convolutions can crash on other layouts in the backward pass
            batch[name] = tuple(prepared(t[index], like).contiguous() for t in tensors)
        yield batch


def _rows(n: int, size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " size"]]:
    """Rows of one batch after another, through one permutation after another."""
    size, left = min(size, n), torch.empty(0, dtype=torch.long)
    while True:
        if len(left) < size:
            left = torch.cat([left, torch.randperm(n, generator=generator)])
        yield left[:size]
        left = left[size:]
