"""Per-example gradients of every linear layer, projected as they arise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.measures.per_example_gradients import Batch, ExampleLoss
from generality.measures.rademacher_projector import random_signs


class ProjectedGradients:
    """Random projections of each example's gradient in one forward and one backward pass.

    An example's gradient of a linear layer is a sum over its tokens t of outer products of what
    went in (a_t) and the gradient at what came out (g_t). Both sides are projected by small
    matrices of signs, A and B, before they are multiplied:

        z = Σ_layers fold(Σ_t (B g_t) (A a_t)ᵀ)

    and `fold` adds the numbers of that small matrix up to `dim` sums with random signs. No gradient
    and no projection of all parameters is ever formed, weights' own gradients are not computed,
    and memory does not depend on the number of examples seen. Inner products of gradients are kept
    in expectation. A side that is no longer than `side` is taken as it is: then only the fold is
    random, with a standard deviation of about √(1/dim) for unit vectors, as the dense
    `RademacherProjector`; a projected side adds up to √(4/side) within a layer, which the number of
    layers averages out.

    Left out are the parameters of embeddings and normalisations, and weights that are used
    otherwise than by a linear layer (a tied table counts as the output layer that it is).

    Args:
        model: any module with `nn.Linear` (or GPT-2's `Conv1D`) layers whose inputs have the
            examples along the first axis. Put it in eval mode first.
        loss: loss(model, batch) → (batch,), each of its own row only.
        dim: numbers of a projection.
        seed: of all signs; layers are told apart by their names' order.
        side: projected length of each side, at least 1.
        layers: a regular expression that layers' names must contain; "" all of them.

    Raises:
        ValueError: no such layer; a layer whose input does not have the examples first.

    Source: the gradients of Jung et al. 2025 (arXiv 2505.20161), section 3, whose dense projection
    this replaces; outer products: Goodfellow 2015 (arXiv 1510.01799); two-sided projections: Choe
    et al. 2024 (arXiv 2405.13954), section 3.

    >>> model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    >>> loss = lambda model, batch: nn.functional.cross_entropy(
    ...     model(batch["x"]), batch["y"], reduction="none")
    >>> project = ProjectedGradients(model, loss, dim=64)
    >>> project({"x": torch.randn(5, 6), "y": torch.tensor([0, 1, 2, 0, 1])}).shape
    torch.Size([5, 64])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: ExampleLoss,
        *,
        dim: int = 1024,
        seed: int = 0,
        side: int = 128,
        layers: str = "",
    ) -> None:
        self.model, self.loss, self.dim = model, loss, dim
        generator = torch.Generator().manual_seed(seed)
        self._layers = {
            name: _Layer(module, dim, side, generator)
            for name, module in model.named_modules()
            if _is_linear(module) and re.search(layers, name)
        }
        if not self._layers:
            raise ValueError(f"the model has no linear layer whose name contains '{layers}'")

    def __call__(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """The projected gradient of each example, float32; not normalised."""
        size = len(next(iter(batch.values())))
        place = next(self.model.parameters()).device
        total = torch.zeros(size, self.dim, device=place)

        def watch(name: str, layer: _Layer) -> Any:
            def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                entering = inputs[0].detach()
                if len(entering) != size:
                    raise ValueError(
                        f"layer {name} gets {len(entering)} rows for {size} examples: name the "
                        "layers whose inputs have the examples first by `layers`"
                    )
                if not output.requires_grad:
                    output.requires_grad_()

                def backward(gradient: Tensor) -> None:
                    total.add_(layer.project(entering, gradient))

                output.register_hook(backward)

            return forward

        with ExitStack() as stack:
            stack.enter_context(_frozen(self.model))
            for name, layer in self._layers.items():
                handle = layer.module.register_forward_hook(watch(name, layer))
                stack.callback(handle.remove)
            stack.enter_context(torch.enable_grad())
            losses = self.loss(self.model, batch)
            if losses.shape != (size,):
                raise ValueError(f"losses of {size} examples have shape {tuple(losses.shape)}")
            losses.sum().backward()
        return total


class _Layer:
    """The signs by which one layer's gradients are projected."""

    def __init__(self, module: nn.Module, dim: int, side: int, generator: torch.Generator) -> None:
        weight: Any = module.weight
        self.module = module
        outward, inward = weight.shape if isinstance(module, nn.Linear) else weight.shape[::-1]
        self.biased = module.bias is not None
        inward += self.biased  # a bias is a weight of a constant 1
        self.a = _side(inward, side, generator, weight)
        self.b = _side(outward, side, generator, weight)
        numbers = min(inward, side) * min(outward, side)
        self.signs = random_signs(numbers, generator=generator).to(weight.device)
        # Every place gets equally many numbers, in an order of chance.
        order = torch.randperm(-(-numbers // dim) * dim, generator=generator)
        self.order = order.clamp(max=numbers).to(weight.device)
        self.numbers = numbers
        self.dim = dim

    def project(
        self, entering: Float[Tensor, "batch *tokens inward"], gradient: Tensor
    ) -> Float[Tensor, "batch dim"]:
        size = len(entering)
        a, g = (
            entering.reshape(size, -1, entering.shape[-1]),
            gradient.reshape(size, -1, gradient.shape[-1]),
        )
        if self.biased and self.a is None:
            a = nn.functional.pad(a, (0, 1), value=1.0)
        elif self.a is not None:
            a = a @ self.a[: a.shape[-1]] + (self.a[-1] if self.biased else 0)
        if self.b is not None:
            g = g @ self.b
        small = torch.bmm(g.float().mT, a.float()).reshape(size, -1) * self.signs
        if len(self.order) > self.numbers:
            small = nn.functional.pad(small, (0, 1))  # one 0 for the places that are left over
        return small[:, self.order].view(size, -1, self.dim).sum(1)


def _side(
    length: int, side: int, generator: torch.Generator, weight: Tensor
) -> Float[Tensor, "length side"] | None:
    if length <= side:
        return None
    return (random_signs(length, side, generator=generator) / side**0.5).to(weight)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient: autograd then skips the weights' own."""
    required = [p for p in model.parameters() if p.requires_grad]
    for parameter in required:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in required:
            parameter.requires_grad_(True)
