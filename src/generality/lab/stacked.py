"""Several copies of one small module as stacked tensors, and torch's optimisers on all at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import stack_module_state

Optimizer = Literal["adamw", "adam", "sgd"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # torch.optim's defaults


def start(module: nn.Module | Callable[[int], nn.Module], seed: int) -> nn.Module:
    """A replica's start: the module itself, or what `module(seed)` builds with that seed."""
    if isinstance(module, nn.Module):
        return module
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return module(seed)


def warn_of_divergence(losses: Float[Tensor, "replicas epochs"]) -> None:
    """Warn the caller's caller of replicas whose loss is not finite."""
    diverged = int((~losses.isfinite()).any(1).sum())
    if diverged:
        warnings.warn(
            f"{diverged} of {len(losses)} replicas diverged (non-finite loss): lower their learning"
            " rate",
            stacklevel=3,
        )


class StackedModules:
    """The weights of modules of one architecture, those to train in one row per module.

    Attributes:
        flat: (modules, trainable numbers), a leaf that requires gradients: an optimiser is a few
            operations on it, in place.
        fixed: parameters that do not require gradients, by name, stacked.
        buffers: buffers by name, stacked.

    Raises:
        ValueError: where nothing requires gradients.
    """

    def __init__(self, modules: list[nn.Module], place: torch.device) -> None:
        count = len(modules)
        names = {name for name, p in modules[0].named_parameters() if p.requires_grad}
        if not names:
            raise ValueError("no parameter of the module requires gradients: nothing to train")
        stacked, buffers = stack_module_state(modules)
        stacked = {name: tensor.detach().to(place) for name, tensor in stacked.items()}
        self.buffers = {name: tensor.detach().to(place) for name, tensor in buffers.items()}
        self.fixed = {name: tensor for name, tensor in stacked.items() if name not in names}
        trained = {name: tensor for name, tensor in stacked.items() if name in names}
        self.flat = torch.cat([tensor.reshape(count, -1) for tensor in trained.values()], 1)
        self.flat.requires_grad_()
        self._shapes = {name: tensor.shape for name, tensor in trained.items()}
        self._sizes = [tensor[0].numel() for tensor in trained.values()]

    def parameters(self, flat: Tensor | None = None) -> dict[str, Tensor]:
        """The trainable parameters by name, views into `flat` (by default the module's own)."""
        parts = (self.flat if flat is None else flat).split_with_sizes(self._sizes, 1)
        named = zip(self._shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}

    def state(self) -> dict[str, Tensor]:
        """All there is by name, for `functional_call`."""
        return {**self.parameters(), **self.fixed, **self.buffers}


class StackedOptimizer:
    """torch.optim's arithmetic on one row per replica, in place.

    Args:
        kind: "adamw", "adam" or "sgd", with torch's default betas and epsilon.
        flat: (replicas, numbers).
        rates: (replicas, 1), each replica's learning rate.
        decays: (replicas, 1), decoupled for "adamw", in the gradient for the others.
        momentum: of SGD.
    """

    def __init__(
        self,
        kind: Optimizer,
        flat: Float[Tensor, "replicas numbers"],
        rates: Float[Tensor, "replicas 1"],
        decays: Float[Tensor, "replicas 1"],
        momentum: float = 0.0,
    ) -> None:
        self.kind, self.flat, self.rates, self.decays = kind, flat, rates, decays
        self.momentum = momentum
        self._first = torch.zeros_like(flat, requires_grad=False)
        self._second = torch.zeros_like(flat, requires_grad=False)
        self._decaying = bool(decays.any())
        self._l2 = decays.to(flat)
        self._since: int | Tensor = 0

    @torch.no_grad()
    def update(self, gradient: Tensor, step: int, factor: float = 1.0) -> None:
        """One step, the `step`-th from 0; `factor` multiplies the learning rates."""
        rate = self.rates * factor
        if self._decaying and self.kind == "adamw":
            self.flat.mul_((1 - rate * self.decays).to(self.flat))
        elif self._decaying:
            gradient = torch.addcmul(gradient, self.flat, self._l2)
        if self.kind == "sgd":
            if self.momentum:
                gradient = self._first.mul_(self.momentum).add_(gradient)
            self.flat.sub_(gradient * rate.to(self.flat))
        else:
            self._adam(gradient, step, rate)

    @torch.no_grad()
    def restart(self, which: Bool[Tensor, " replicas"], step: int) -> None:
        """Forget the moments of these replicas before the `step`-th step."""
        self._first[which] = 0
        self._second[which] = 0
        since = torch.as_tensor(self._since, dtype=torch.float64)
        self._since = torch.where(which[:, None], float(step), since)

    def _adam(self, gradient: Tensor, step: int, rate: Tensor) -> None:
        first, second, age = self._first, self._second, step + 1 - self._since
        first.lerp_(gradient, 1 - _BETA1)
        second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        root = (1 - _BETA2**age) ** 0.5
        root = root if isinstance(root, float) else root.to(second)
        scale = second.sqrt().div_(root).add_(_EPSILON)
        rate = (rate / (1 - _BETA1**age)).to(self.flat)
        self.flat.sub_(torch.div(first, scale, out=scale).mul_(rate))


def as_tensor(array: Tensor | np.ndarray) -> Tensor:
    """The same memory as a tensor; read-only memory maps too, which are never written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.as_tensor(array)


def prepared(batch: Tensor, like: Tensor) -> Tensor:
    """A batch on the parameters' device; floats in their precision."""
    return batch.to(like.device, like.dtype if batch.is_floating_point() else batch.dtype)


def per_replica(
    name: str, value: float | Sequence[float], count: int
) -> Float[Tensor, "replicas 1"]:
    """One number ≥ 0 for each replica.

    Raises:
        ValueError: for a negative number, or another count of them.
    """
    values = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    if len(values) not in (1, count) or not bool((values >= 0).all()):
        raise ValueError(f"{name} is one number ≥ 0, or one for each of the {count} replicas")
    return values.expand(count)[:, None]
