"""Language models small enough to be trained from nothing, many times, on one core."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

SIZES = {
    "0.05M": (48, 2, 2),
    "0.15M": (80, 2, 4),
    "0.25M": (96, 2, 4),
    "0.6M": (128, 3, 4),
    "1M": (160, 3, 5),
    "5M": (320, 4, 8),
}
"""Width, layers and heads by name; the name is about the number of parameters."""


def tiny_decoder(
    size: str = "0.25M", seed: int = 0, *, vocabulary: int, context: int = 256
) -> LlamaForCausalLM:
    """A decoder of transformers' Llama architecture with random weights drawn by `seed`.

    Weights have a standard deviation of 1/sqrt(width) (transformers' fixed 0.02 is made for widths
    of thousands), embeddings in and out are one table, and tokens 0, 1 and 2 pad, begin and end, as
    in `generality.benchmarks.worlds.world_tokenizer`.

    Args:
        size: a key of `SIZES`.
        vocabulary: how many tokens there are: `len(tokenizer)`.
        context: longest sequence, in tokens.

    Raises:
        ValueError: there is no such size.

    >>> model = tiny_decoder("0.05M", vocabulary=50)
    >>> model(torch.tensor([[1, 7, 9]])).logits.shape
    torch.Size([1, 3, 50])
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if size not in SIZES:
        raise ValueError(f"there is no size '{size}'; known: {', '.join(SIZES)}")
    width, layers, heads = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8 * width // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        initializer_range=width**-0.5,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()
