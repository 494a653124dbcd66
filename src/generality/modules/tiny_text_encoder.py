"""A small transformer that reads texts from nothing: the view that knows only the task."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.models import HiddenStatePooler


class TinyTextEncoder(nn.Module):
    """Token ids to one vector per text; random at first, a few hundred thousand weights.

    Pre-norm transformer blocks over token embeddings and fixed sinusoidal positions (so that
    texts longer than those trained on have positions too), mean over the tokens.

    Args:
        vocab: rows of the embedding table. Ids are taken modulo it (the hashing trick), so that
            any tokenizer's ids will do and the table stays small.
        dim: width, even; also that of the output.
        layers: blocks.
        heads: attention heads; divides `dim`.
        dropout: in the blocks, in [0, 1).

    Raises:
        ValueError: for sizes that do not fit together.

    >>> encoder = TinyTextEncoder(vocab=100, dim=8, layers=1, heads=2).eval()
    >>> ids = torch.tensor([[5, 7, 0], [5, 7, 9]])
    >>> one, two = encoder(ids, torch.tensor([[1, 1, 0], [1, 1, 1]]))
    >>> one.shape, torch.allclose(one, encoder(ids[:1, :2])[0], atol=1e-6), one.equal(two)
    (torch.Size([8]), True, False)
    """

    def __init__(
        self,
        vocab: int = 4096,
        dim: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if min(vocab, dim, layers, heads) < 1 or dim % 2 or dim % heads:
            raise ValueError("sizes are positive, and dim is even and a multiple of heads")
        self.vocab, self.dim = vocab, dim
        self.table = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, heads, 2 * dim, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.pooler = HiddenStatePooler("mean")

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Mean of the tokens' last states; `attention_mask` is 1 where there is a token."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.table(input_ids % self.vocab)
        states = states + _positions(input_ids.shape[1], self.dim).to(states)
        for block in self.blocks:
            states = block(states, src_key_padding_mask=mask == 0)
        return self.pooler(self.norm(states), mask)


def _positions(tokens: int, dim: int) -> Float[Tensor, "tokens dim"]:
    """Sines and cosines of falling frequency (Vaswani et al. 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(1e4) / dim))
    angles = torch.arange(tokens)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
