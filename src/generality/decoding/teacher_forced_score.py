"""How well a single or fused model foresees given responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from generality.decoding.fused_lm import FusedCausalLM, ResponseScore
from generality.decoding.logit_fusion import StaticFusion
from generality.models.prompt_response import encode_response, response_labels


@dataclass(frozen=True)
class Foreseen:
    """Averages over responses, each read with the true tokens before it.

    Attributes:
        loss: nats per token.
        accuracy: share of tokens that were the likeliest.
        exact: share of responses of which every token was.
        weights: mean weight of each expert; empty for a single model.
        tokens: how many were counted.
        skipped: responses that are longer than the limit, or empty.
    """

    loss: float
    accuracy: float
    exact: float
    weights: tuple[float, ...]
    tokens: int
    skipped: int


def teacher_forced(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    special_tokens: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Foreseen:
    """Loss and accuracy on responses, one pass over each batch.

    Prompt and response are tokenised as one text with an end token, as `Lab.sft` does.

    Args:
        model: a `FusedCausalLM`, or any causal language model of transformers.
        tokenizer: its tokenizer.
        prompts: what comes before each response.
        responses: as many.
        batch_size: pairs of similar length read together.
        max_length: tokens; longer pairs are skipped.
        special_tokens: False for prompts in which a chat template has written them.
        progress: called with (pairs done, pairs in all).

    Raises:
        ValueError: nothing is left to score.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> model = tiny_decoder("0.05M", vocabulary=len(tokenizer))
    >>> teacher_forced(model, tokenizer, ["a = 3 ; a ?"], ["=> 3"]).tokens
    3
    """
    single = not isinstance(model, FusedCausalLM)
    reader = (  # a single model: its own logits, moved by nothing, read once
        model
        if isinstance(model, FusedCausalLM)
        else FusedCausalLM(model, [model], None, StaticFusion(0.0))
    )
    pairs = [
        encode_response(tokenizer, prompt, response, special_tokens=special_tokens)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    limit = max_length or max((len(tokens) for tokens, _ in pairs), default=0)
    kept = sorted(
        (pair for pair in pairs if len(pair[0]) <= limit and 0 < pair[1] < len(pair[0])),
        key=lambda pair: len(pair[0]),
    )
    if not kept:
        raise ValueError("there is no response to score")
    scores: list[ResponseScore] = []
    for start in range(0, len(kept), batch_size):
        batch = kept[start : start + batch_size]
        width = len(batch[-1][0])
        pad = tokenizer.pad_token_id or 0
        tokens, labels, mask = (
            torch.tensor(rows, device=reader.device)
            for rows in (
                [row + [pad] * (width - len(row)) for row, _ in batch],
                [response_labels(row, at) + [-100] * (width - len(row)) for row, at in batch],
                [[1] * len(row) + [0] * (width - len(row)) for row, _ in batch],
            )
        )
        scores.append(reader.score(tokens, labels, mask))
        if progress is not None:
            progress(start + len(batch), len(kept))
    logprobs = torch.cat([score.logprobs for score in scores])
    correct = torch.cat([score.correct for score in scores]).float()
    exact = sum(score.exact * len(score.rows.unique()) for score in scores) / len(kept)
    weights = torch.cat([score.weights for score in scores]).mean(0).tolist()
    return Foreseen(
        -float(logprobs.mean()), float(correct.mean()), exact, () if single else tuple(weights),
        len(logprobs), len(pairs) - len(kept),
    )  # fmt: skip
