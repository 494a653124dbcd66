"""Train small networks on all of their examples in every step, one network or many together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from generality.lab.replicate import Replicas
from generality.lab.stacked import (
    Optimizer,
    StackedModules,
    StackedOptimizer,
    per_replica,
    prepared,
    start,
)

Memory = dict[str, Tensor]
FullLoss = Callable[[Callable[[Tensor], Any], tuple[Tensor, ...], Memory], tuple[Tensor, Memory]]
"""(scalar, memory) from (the network as a function, the examples, memory of the last step)."""


def full_batch(
    module: nn.Module | Callable[[int], nn.Module] | Sequence[nn.Module],
    tensors: tuple[Tensor, ...],
    loss: FullLoss,
    *,
    seeds: Sequence[int],
    steps: int,
    learning_rate: float | Sequence[float] = 1e-3,
    weight_decay: float | Sequence[float] = 0.0,
    optimizer: Optimizer = "adam",
    memory: Memory | None = None,
    batch_size: int | None = None,
    odds: Float[Tensor, "replicas n"] | None = None,
    device: str | torch.device | None = None,
) -> Replicas:
    """Train one network per seed on the same tensors in every step.

    Several train together under `torch.func.vmap`, equal up to float rounding to each alone. A
    single one is called plainly, so that batch normalisation in training mode works too.

    Args:
        module: called with a seed for its start; one module, or one per seed, to start from. None
            of them is changed.
        tensors: of the same examples, each (replicas, n, ...).
        loss: see `FullLoss`. What it returns as memory it gets in the next step.
        seeds: one per replica; repeat one to compare settings on the same start.
        steps: of the optimiser, ≥ 1.
        weight_decay: decoupled for "adamw", an L2 term in the gradient for "adam" and "sgd": twice
            the factor of a squared norm in the loss.
        memory: what the first step's loss gets, each tensor (replicas, ...).
        batch_size: None takes all examples; else this many are drawn for each step with
            replacement, by the replica's own generator.
        odds: relative probability of an example to be drawn, ≥ 0; None: all alike.

    Raises:
        ValueError: for tensors or starts that do not fit the seeds.

    >>> x = torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(0))
    >>> y = (x[..., 0] > 0).long()
    >>> def fit(network, examples, memory):
    ...     return nn.functional.cross_entropy(network(examples[0]), examples[1]), memory
    >>> nets = full_batch(lambda seed: nn.Linear(3, 2), (x, y), fit, seeds=[0], steps=200,
    ...                   learning_rate=0.1)
    >>> bool((nets.logits(x[0])[0].argmax(-1) == y[0]).float().mean() > 0.95)
    True
    """
    count = len(seeds)
    if count == 0 or steps < 1:
        raise ValueError(f"give at least one seed and one step, not {count} and {steps}")
    if any(t.shape[:2] != (count, tensors[0].shape[1]) for t in tensors):
        shapes = [tuple(t.shape) for t in tensors]
        raise ValueError(f"{count} replicas need tensors (replicas, n, ...), not {shapes}")
    place = torch.device(device) if device is not None else tensors[0].device
    modules = [copy.deepcopy(m) for m in starts(module, seeds)]
    stacked = StackedModules(modules, place)
    update = StackedOptimizer(
        optimizer,
        stacked.flat,
        per_replica("learning_rate", learning_rate, count).to(place),
        per_replica("weight_decay", weight_decay, count).to(place),
    )

    def one(state: Memory, examples: tuple[Tensor, ...], memory: Memory) -> tuple[Tensor, Memory]:
        return loss(lambda x: functional_call(modules[0], state, (x,)), examples, memory)

    every = vmap(one, randomness="different") if count > 1 else _alone(one)
    like = torch.empty(0, device=place)
    whole = tuple(prepared(t, like) for t in tensors)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    if odds is None:
        odds = torch.ones(count, tensors[0].shape[1])
    kept = {name: tensor.to(place) for name, tensor in (memory or {}).items()}
    losses = torch.zeros(count, steps, device=place)
    with torch.random.fork_rng():
        torch.manual_seed(seeds[0])  # only dropout draws from it
        for step in range(steps):
            examples = whole
            if batch_size is not None:
                draws = zip(odds.cpu(), generators, strict=True)
                rows = torch.stack(
                    [torch.multinomial(p, batch_size, True, generator=g) for p, g in draws]
                ).to(place)
                index = torch.arange(count, device=place)[:, None], rows
                examples = tuple(t[index] for t in whole)
            each, kept = every(stacked.state(), examples, kept)
            kept = {name: tensor.detach() for name, tensor in kept.items()}
            (gradient,) = torch.autograd.grad(each.sum(), stacked.flat)
            update.update(gradient, step)
            losses[:, step] = each.detach()
    final = {name: tensor.detach() for name, tensor in stacked.parameters().items()}
    return Replicas(modules[0], {**final, **stacked.fixed}, stacked.buffers, losses.cpu())


def starts(
    module: nn.Module | Callable[[int], nn.Module] | Sequence[nn.Module], seeds: Sequence[int]
) -> list[nn.Module]:
    """One start per seed: the modules given, or the one module, or what it builds of the seed."""
    if isinstance(module, nn.Module) or not isinstance(module, Sequence):
        return [start(module, seed) for seed in seeds]
    if len(module) != len(seeds):
        raise ValueError(f"{len(module)} modules to start from, but {len(seeds)} seeds")
    return list(module)


def _alone(one: Callable[..., tuple[Tensor, Memory]]) -> Callable[..., tuple[Tensor, Memory]]:
    """A batch of one replica by a plain call."""

    def every(state: Memory, examples: tuple[Tensor, ...], memory: Memory) -> tuple[Tensor, Memory]:
        value, kept = one(
            {name: tensor[0] for name, tensor in state.items()},
            tuple(tensor[0] for tensor in examples),
            {name: tensor[0] for name, tensor in memory.items()},
        )
        return value[None], {name: tensor[None] for name, tensor in kept.items()}

    return every
