"""Which of two responses a language model prefers, by their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import nn

from generality.measures.response_logprob import response_logprob


def margin_labels(
    policy: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    *,
    kind: Literal["sum", "mean"] = "sum",
    reference: nn.Module | None = None,
    batch_size: int = 64,
) -> Float[np.ndarray, " pairs"]:
    """log p(first | prompt) − log p(second | prompt) in nats; its sign is the policy's preference.

    Args:
        policy: a causal language model of transformers.
        tokenizer: its own.
        prompts: one a pair.
        first: a response to each; present the better one first as often as second.
        second: the other.
        kind: "sum" over tokens, as DPO sees responses, or "mean" per token, as SimPO does.
        reference: subtract the margin of this model: DPO's implicit reward.
        batch_size: pairs of prompt and response at a time.

    Raises:
        ValueError: an unknown kind, or columns that differ in length.

    Source: Yang et al. 2025 (arXiv 2406.11431), weak preferences from a policy.

    >>> import functools
    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> model = tiny_decoder("0.05M", vocabulary=len(tokenizer))
    >>> there, back = (margin_labels(model, tokenizer, ["a = 3 ; a ?"], [one], [two])[0]
    ...                for one, two in (("=> 3", "=> 4"), ("=> 4", "=> 3")))
    >>> bool(abs(there + back) < 1e-5), bool(there != 0)
    (True, True)
    """
    if kind not in ("sum", "mean"):
        raise ValueError(f"kind is sum or mean, not '{kind}'")
    if not len(prompts) == len(first) == len(second):
        raise ValueError(f"{len(prompts)} prompts, {len(first)} and {len(second)} responses")
    asked = [prompt for prompt in prompts for _ in range(2)]
    said = [response for pair in zip(first, second, strict=True) for response in pair]
    margins = np.zeros(len(prompts))
    for model, sign in ((policy, 1), (reference, -1)):
        if model is not None:
            found = response_logprob(
                model, tokenizer, asked, said, reduce=kind, batch_size=batch_size
            )
            margins += sign * (found[::2] - found[1::2]).double().cpu().numpy()
    return margins
