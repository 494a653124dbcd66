"""Batches of texts that are tokens already, and a causal language model's losses on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.measures.response_logprob import token_logprobs


def token_batches(texts: Sequence[Sequence[int]], size: int) -> list[dict[str, Tensor]]:
    """Texts of like length together, padded on the right; those of one token are left out.

    >>> token_batches([[5, 6, 7], [8, 9], [4]], 2)[0]["input_ids"].tolist()
    [[8, 9, 0], [5, 6, 7]]
    """
    ordered = sorted((list(text) for text in texts if len(text) > 1), key=len)
    made = []
    for start in range(0, len(ordered), size):
        rows = [torch.tensor(text) for text in ordered[start : start + size]]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        made.append({"input_ids": ids, "attention_mask": mask})
    return made


@torch.inference_mode()
def text_loss(model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> float:
    """Mean −log p of every token after the first of its text, nats."""
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        real = batch["attention_mask"][:, 1:].bool()
        total += float(token_losses(model, batch)[real].double().sum())
        count += int(real.sum())
    return total / count


def token_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch length-1"]:
    """−log p of every token after the first, nats; padded places hold something too."""
    here = {name: column.to(next(model.parameters()).device) for name, column in batch.items()}
    said = token_logprobs(model(**here).logits[:, :-1], here["input_ids"][:, 1:])
    return -said.to(batch["input_ids"].device)


def mean_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Mean −log p of the batch's tokens after the first of each text, nats."""
    real = batch["attention_mask"][:, 1:].bool()
    return token_losses(model, batch)[real].mean()
