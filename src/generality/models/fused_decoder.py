"""A small decoder whose projections are fused, as large training frameworks keep them."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn


class FusedDecoder(nn.Module):
    """Layers of fused grouped-query attention and SwiGLU; one table of embeddings, in and out.

    Queries, keys and values are one projection, in the proportions 2, 1 and 1; gate and up another.

    Args:
        vocabulary: tokens; width: divisible by 8; layers: how many.

    >>> import torch
    >>> FusedDecoder(20, 16)(torch.zeros(2, 5, dtype=torch.long)).shape
    torch.Size([2, 5, 20])
    """

    def __init__(self, vocabulary: int, width: int, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.layers = nn.ModuleList(FusedLayer(width) for _ in range(layers))
        self.norm = nn.RMSNorm(width)

    def forward(self, ids: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n vocabulary"]:
        """Logits of the next token."""
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return nn.functional.linear(self.norm(x), self.embedding.weight)


class FusedLayer(nn.Module):
    """Eight query heads, four of keys and values; no places but the causal mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n width"]:
        """The residual stream after the layer."""
        heads = self.qkv(self.norm1(x)).unflatten(-1, (16, -1)).transpose(1, 2)
        q, k, v = heads.split((8, 4, 4), 1)
        k, v = (side.repeat_interleave(2, 1) for side in (k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        down: Tensor = self.down(nn.functional.silu(gate) * up)
        return x + down
