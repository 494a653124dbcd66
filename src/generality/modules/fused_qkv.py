"""Fused attention projections taken apart, so that adapters can be put on some of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

FUSED = ("qkv", "c_attn")


class SplitQKV(nn.Module):
    """Query, key and value as three linear layers, their outputs side by side as before.

    The query is the first third of the fused layer's outputs and the value the last.
    """

    def __init__(self, fused: nn.Linear | Conv1D) -> None:
        super().__init__()
        weight = fused.weight.detach()
        weight = weight.T if isinstance(fused, Conv1D) else weight
        if len(weight) % 3:
            raise ValueError(f"{len(weight)} outputs are not query, key and value of one size")
        biases = (None,) * 3 if fused.bias is None else fused.bias.detach().chunk(3)
        parts = zip(weight.chunk(3), biases, strict=True)
        self.query, self.key, self.value = (
            _linear(w, b, fused.weight.requires_grad) for w, b in parts
        )

    def forward(self, inputs: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch three_dims"]:
        """What the fused layer gave."""
        return torch.cat([self.query(inputs), self.key(inputs), self.value(inputs)], dim=-1)


def split_qkv(model: nn.Module, names: Sequence[str] = FUSED) -> list[str]:
    """Replace every fused layer of these names, in place; the paths of those replaced.

    The model computes the same. Only layers whose outputs are [all of q; all of k; all of v] of
    one size may be named: timm's and DINO's "qkv", GPT-2's "c_attn"; not GPT-NeoX's
    "query_key_value", in which heads interleave, nor layers with fewer keys than queries.

    Raises:
        ValueError: a layer of that name that is not three of one size.

    >>> block = nn.ModuleDict({"qkv": nn.Linear(4, 12)})
    >>> before = block["qkv"](torch.ones(4))
    >>> split_qkv(block), torch.allclose(block["qkv"](torch.ones(4)), before)
    (['qkv'], True)
    """
    found = [
        (path, layer)
        for path, layer in model.named_modules()
        if path.rpartition(".")[2] in names and isinstance(layer, (nn.Linear, Conv1D))
    ]
    for path, layer in found:
        model.set_submodule(path, SplitQKV(layer))
    return [path for path, _ in found]


def _linear(weight: Tensor, bias: Tensor | None, trained: bool) -> nn.Linear:
    layer = nn.utils.skip_init(
        nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None,
        device=weight.device, dtype=weight.dtype,
    )  # fmt: skip
    layer.weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(bias)
    return layer.requires_grad_(trained)
