"""Whether a language model would write exactly the right response, without writing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from generality.models.prompt_response import encode_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@torch.no_grad()
def greedy_match(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    batch_size: int = 128,
) -> Bool[Tensor, " pairs"]:
    """Whether greedy decoding after each prompt gives this response and then ends.

    It does exactly when every token of the response is the most probable one after those before
    it, which one forward pass tells; nothing is generated. For responses of which there is one
    right form only: of a longer solution it demands every word.

    Args:
        model: a causal language model of transformers; it is put in eval mode.
        tokenizer: its tokenizer.
        prompts: what comes before each response.
        responses: as many.
        batch_size: pairs at a time.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> model = tiny_decoder("0.05M", vocabulary=len(tokenizer))
    >>> greedy_match(model, tokenizer, ["a = 3 ; a ?"], ["=> 3"])
    tensor([False])
    """
    model.eval()
    place = next(model.parameters()).device
    pairs = [encode_response(tokenizer, *pair) for pair in zip(prompts, responses, strict=True)]
    order = sorted(range(len(pairs)), key=lambda row: len(pairs[row][0]))
    right = torch.zeros(len(pairs), dtype=torch.bool)
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        tokens = nn.utils.rnn.pad_sequence(
            [torch.tensor(pairs[row][0]) for row in rows], batch_first=True
        )  # padded on the right, which nothing before it can see
        guess = model(input_ids=tokens.to(place), use_cache=False).logits.argmax(-1).cpu()
        for row, said, wanted in zip(rows, guess, tokens, strict=True):
            start, end = pairs[row][1], len(pairs[row][0])
            right[row] = bool((said[start - 1 : end - 1] == wanted[start:end]).all())
    return right
