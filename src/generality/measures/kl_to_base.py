"""How far tuning moved a language model from the one it started as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from generality.models.generation import generate_texts
from generality.models.prompt_response import encode_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class KLToBase:
    """An estimate of KL(tuned ‖ base), in nats.

    Attributes:
        per_response: mean over responses of the summed KL of their tokens: KL of whole responses.
        per_token: the same sum over all tokens, divided by their number.
        stderr: standard error of `per_response` over responses; NaN for one.
        responses: how many there were.
    """

    per_response: float
    per_token: float
    stderr: float
    responses: int


@torch.no_grad()
def kl_to_base(
    model: nn.Module,
    base: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    samples: int = 1,
    max_tokens: int = 64,
    seed: int = 0,
    batch_size: int = 8,
) -> KLToBase:
    """KL(tuned ‖ base) on responses that the tuned model draws, the next-token KL taken exactly.

    Responses are drawn at temperature 1; at each of their positions, the one that ends the text
    included, the divergence of the two next-token distributions is summed over the whole
    vocabulary. The sum over a response has the expectation of log p(y) − log p₀(y) and less
    variance, and is never negative. Texts are tokenised anew after they are written, which a rare
    text survives in other tokens; responses cut at `max_tokens` count as far as they go.

    Args:
        model: the tuned causal language model, in eval mode.
        base: the one it started as, with the same vocabulary.
        tokenizer: of both.
        prompts: one or more.
        samples: responses to each prompt.
        max_tokens: of a response.
        seed: of the draws.
        batch_size: responses at a time; memory is twice their logits.

    Raises:
        ValueError: no prompts.

    Source: the drift of S3FT (arXiv 2502.08130), measured there by log-probabilities.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> base, tuned = (tiny_decoder("0.05M", seed, vocabulary=len(tokenizer)) for seed in (0, 1))
    >>> kl_to_base(base, base, tokenizer, ["a ?"], max_tokens=4).per_response
    0.0
    >>> kl_to_base(tuned, base, tokenizer, ["a ?"], max_tokens=4).per_response > 0
    True
    """
    if not prompts:
        raise ValueError("kl_to_base needs at least one prompt")
    asked = [prompt for prompt in prompts for _ in range(samples)]
    written = generate_texts(
        model, tokenizer, asked, max_tokens=max_tokens, temperature=1.0, seed=seed
    )
    pairs = [encode_response(tokenizer, *pair) for pair in zip(asked, written, strict=True)]
    device = next(model.parameters()).device
    sums: list[Tensor] = []
    tokens = 0
    for first in range(0, len(pairs), batch_size):
        batch = pairs[first : first + batch_size]
        padded = torch.zeros(len(batch), max(len(row) for row, _ in batch), dtype=torch.long)
        counted = torch.zeros(padded.shape, dtype=torch.bool)
        for i, (row, start) in enumerate(batch):
            padded[i, : len(row)] = torch.tensor(row)
            last = min(len(row) - 1, start - 1 + max_tokens)  # where it was cut nothing followed
            counted[i, start - 1 : last] = True
        ours, theirs = (
            network(input_ids=padded.to(device)).logits.float().log_softmax(-1)
            for network in (model, base)
        )
        each = (ours.exp() * (ours - theirs)).sum(-1).clamp(min=0).cpu()
        sums.append((each * counted).sum(1).double())
        tokens += int(counted.sum())
    total = torch.cat(sums)
    stderr = total.std().item() / len(total) ** 0.5 if len(total) > 1 else float("nan")
    return KLToBase(total.mean().item(), total.sum().item() / tokens, stderr, len(total))
