"""Ensembles whose members share their first layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.models.multi_head import MultiHead


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.factor, None


class GradScale(nn.Module):
    """The identity, whose gradient is multiplied by a factor.

    >>> x = torch.ones(2, requires_grad=True)
    >>> GradScale(0.5)(x).sum().backward()
    >>> x.grad
    tensor([0.5000, 0.5000])
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """The same numbers."""
        scaled: Tensor = _Scale.apply(x, self.factor)
        return scaled

    def extra_repr(self) -> str:
        """The factor."""
        return f"{self.factor:g}"


def shared_trunk_ensemble(
    trunk: nn.Module, members: Sequence[nn.Module], gradient: Literal["mean", "sum"] = "mean"
) -> MultiHead:
    """An ensemble that runs `trunk` once and each member on its output: (members, batch, classes).

    With `gradient="mean"` the gradient that enters the trunk is divided by the number of members:
    under a sum of losses (`generality.objectives.member_cross_entropy`) the trunk sees their mean
    while each member sees its own in full.

    Source: Chen et al. 2021 (NEAS, arXiv 2104.00597), released code.

    >>> model = shared_trunk_ensemble(nn.Linear(3, 4), [nn.Linear(4, 2), nn.Linear(4, 2)])
    >>> model(torch.zeros(5, 3)).shape
    torch.Size([2, 5, 2])
    """
    if not members:
        raise ValueError("an ensemble has a member or more")
    if gradient not in ("mean", "sum"):
        raise ValueError(f"gradient is 'mean' or 'sum', not '{gradient}'")
    if gradient == "mean":
        trunk = nn.Sequential(trunk, GradScale(1 / len(members)))
    return MultiHead(trunk, members)


def split_backbone(
    model: nn.Module, at: str, members: int = 2, gradient: Literal["mean", "sum"] = "mean"
) -> MultiHead:
    """Any traceable classifier as an ensemble: shared up to the module `at`, then split.

    The first member keeps the model's weights after `at`; the others start from new ones
    (`reset_parameters`), for equal members that see equal batches stay equal. Nothing is copied
    but what is split. Traced with torch.fx; torchvision's and timm's networks can be.

    Args:
        model: from inputs to logits.
        at: name of the last module that is shared, as in `model.named_modules()`.
        members: how many.
        gradient: see `shared_trunk_ensemble`.

    Raises:
        ValueError: no such module, nothing after it, no member, or more than its output crosses
            the cut: cut at the end of a block.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> ensemble = split_backbone(net, at="1", members=3)
    >>> ensemble(torch.zeros(5, 3)).shape
    torch.Size([3, 5, 2])
    """
    from torch.fx import symbolic_trace
    from torch.fx.passes.split_module import split_module

    traced = symbolic_trace(model)
    last = next((n for n in traced.graph.nodes if n.op == "call_module" and n.target == at), None)
    if last is None:
        called = [str(n.target) for n in traced.graph.nodes if n.op == "call_module"]
        # `at` may name a block: its last call is where the cut is.
        inside = [n for n in traced.graph.nodes if _of(n, at)]
        if not inside:
            raise ValueError(f"no module '{at}' is called; the last ones are {called[-5:]}")
        last = inside[-1]
    before = set()
    for node in traced.graph.nodes:
        before.add(node)
        if node is last:
            break
    if all(node in before or node.op == "output" for node in traced.graph.nodes):
        raise ValueError(f"nothing comes after '{at}': cut earlier")
    if members < 1:
        raise ValueError("an ensemble has a member or more")
    crossing = {n for n in before for user in n.users if user not in before and n.op != "output"}
    if crossing - {last}:
        names = ", ".join(sorted(n.name for n in crossing - {last}))
        raise ValueError(f"{names} cross the cut after '{at}' too: cut at the end of a block")
    parts = split_module(traced, model, lambda node: 0 if node in before else 1)
    trunk, first = parts.get_submodule("submod_0"), parts.get_submodule("submod_1")
    heads = [first, *(_reset(copy.deepcopy(first)) for _ in range(members - 1))]
    return shared_trunk_ensemble(trunk, heads, gradient)


def _of(node: Any, block: str) -> bool:
    stack = node.meta.get("nn_module_stack") or {}
    owners = [entry[0] for entry in stack.values()]
    return block in owners


def _reset(model: nn.Module) -> nn.Module:
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return model
