"""The matrices of a model changed block by block, each on the inputs that the changed ones give."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from generality.measures.weight_importance import (
    BLOCK_LINEARS,
    Batch,
    InputMoments,
    beside,
    evaluation,
    linear_layers,
)
from generality.weights.column_sweep import gptq, sparsegpt

Change = Callable[[Tensor, Tensor], Tensor]
"""From a matrix (out, inputs) and its inputs' E[x xᵀ] to the new matrix."""


def prune_sparsegpt(
    model: nn.Module,
    batches: Iterable[Batch],
    sparsity: float,
    *,
    targets: str = BLOCK_LINEARS,
    block: int = 128,
) -> dict[str, Tensor]:
    """A model's weights with a share of every matrix cut by SparseGPT, layer by layer.

    Unlike `prune` with `hessian_importance` it changes the weights that stay, and scores each layer
    on the inputs that the layers before it give once they are cut.

    Args:
        batches: calibration texts, what `model(**batch)` takes.
    """
    return layer_by_layer(
        model, batches, lambda w, moments: sparsegpt(w, moments, sparsity, block=block)[0],
        targets=targets,
    )  # fmt: skip


def quantize_gptq(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    bits: int = 4,
    group: int = 128,
    targets: str = BLOCK_LINEARS,
) -> dict[str, Tensor]:
    """A model's weights rounded by GPTQ, layer by layer, and back; compare `quantize_rtn`."""
    return layer_by_layer(
        model, batches, lambda w, moments: gptq(w, moments, bits=bits, group=group),
        targets=targets,
    )  # fmt: skip


@torch.no_grad()
def layer_by_layer(
    model: nn.Module, batches: Iterable[Batch], change: Change, *, targets: str = BLOCK_LINEARS
) -> dict[str, Tensor]:
    """A model's weights with its matrices changed block by block, each seeing its changed inputs.

    A block is a member of the `nn.ModuleList` that holds all the targets. Every block runs twice on
    the calibration data, and nothing else does. The model itself stays as it is; memory: a copy of
    it and the hidden states of all batches.

    Raises:
        ValueError: the targets are not all in one list of blocks.
    """
    model = copy.deepcopy(model)
    layers = linear_layers(model, targets)
    blocks = _blocks(model, layers)
    with evaluation(model):
        states = list(_states(model, next(iter(blocks.values())), batches))
        for place, block in blocks.items():
            mine = {name: layer for name, layer in layers.items() if name.startswith(f"{place}.")}
            with InputMoments(mine) as moments:
                for args, kwargs, moments.real in states:
                    block(*args, **kwargs)
            for name, mean in (moments.means() if mine else {}).items():
                weight = layers[name].weight
                weight.copy_(change(weight, mean.to(weight.device)))
            states = [
                ((_hidden(block(*args, **kwargs)), *args[1:]), kwargs, real)
                for args, kwargs, real in states
            ]
    return model.state_dict()


def _blocks(model: nn.Module, layers: Mapping[str, nn.Linear]) -> dict[str, nn.Module]:
    for place, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and all(n.startswith(f"{place}.") for n in layers):
            return {f"{place}.{number}": block for number, block in module.named_children()}
    raise ValueError("the layers to change are not all in one list of blocks")


class _Stop(Exception):  # noqa: N818 - not an error
    """The first block has been reached."""


def _states(
    model: nn.Module, first: nn.Module, batches: Iterable[Batch]
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], Tensor | None]]:
    """What the first block is called with for every batch, and where it is no padding."""
    caught: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append((args, {n: v for n, v in kwargs.items() if not n.startswith("past_key")}))
        raise _Stop

    handle = first.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for batch in batches:
            here = beside(model, batch)
            try:
                model(**here)
            except _Stop:
                mask = here.get("attention_mask")
                yield *caught.pop(), None if mask is None else mask.bool()
    finally:
        handle.remove()


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
