"""Targets from several language models of any architecture and tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import nn

from generality.measures import response_logprob
from generality.models import teacher_topk

Targets = tuple[list[str], list[dict[str, float]]]
"""Tokens of a response, and at each the likeliest tokens with their probabilities."""


def fused_topk(
    sources: Sequence[tuple[nn.Module, Any]],
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    k: int = 10,
    per: Literal["character", "token"] = "character",
    batch_size: int = 16,
) -> tuple[list[Targets], Int[NDArray, " texts"], Float[NDArray, "sources texts"]]:
    """Of each response the likeliest tokens of the source that finds it least surprising (MinCE).

    What `generality.models.topk_columns` turns into columns on the tokens of a student
    with a tokenizer of its own, for `TopkDistillation`. The student may be among the sources.

    Source: Wan et al. 2024 (FuseLLM, arXiv 2401.10491), section 3.3. The released code compares
    cross-entropies per token, which longer tokens raise; by default they count per character here.

    Args:
        sources: causal language models of transformers with their tokenizers.
        prompts: what comes before each response.
        responses: texts with which the student will be trained.
        k: tokens at each place.
        per: what cross-entropies are divided by.
        batch_size: texts run together.

    Returns:
        The targets of each response, which source they are from, and every source's cross-entropy
        in nats.

    Raises:
        ValueError: no sources.
    """
    if not sources:
        raise ValueError("there are no sources to fuse")
    entropies = [
        surprise(*source, prompts, responses, per=per, batch_size=batch_size) for source in sources
    ]
    table = np.stack(entropies)
    best = least_surprised(table)
    targets: list[Targets] = [([], []) for _ in responses]
    for number, (model, tokenizer) in enumerate(sources):
        rows = np.flatnonzero(best == number).tolist()
        likely = teacher_topk(
            model, tokenizer, [prompts[i] for i in rows], [responses[i] for i in rows], k=k,
            batch_size=batch_size,
        )  # fmt: skip
        for i, each in zip(rows, likely, strict=True):
            targets[i] = each
    return targets, best, table


def surprise(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    per: Literal["character", "token"] = "character",
    batch_size: int = 16,
) -> Float[NDArray, " texts"]:
    """Cross-entropy of each response in nats a character or a token; NaN where it does not fit.

    Only the one per character compares models with different tokenizers.
    """
    reduce: Literal["sum", "mean"] = "sum" if per == "character" else "mean"
    found = response_logprob(
        model, tokenizer, prompts, responses, reduce=reduce, include_eos=False,
        batch_size=batch_size,
    )  # fmt: skip
    lengths = [max(1, len(text)) if per == "character" else 1 for text in responses]
    return -np.asarray(found.cpu(), dtype=float) / lengths


def least_surprised(table: Float[NDArray, "sources texts"]) -> Int[NDArray, " texts"]:
    """Of each text the source with the lowest cross-entropy, the first of equals (MinCE).

    >>> least_surprised(np.array([[1.2, np.nan], [0.9, 1.0], [1.05, 1.0]]))
    array([1, 1])
    """
    return np.nan_to_num(table, nan=np.inf).argmin(0)


def with_gold(
    ids: Int[NDArray, "tokens k"],
    probabilities: Float[NDArray, "tokens k"],
    tokens: Sequence[int],
    lam: float = 0.9,
) -> tuple[Int[NDArray, "tokens k+1"], Float[NDArray, "tokens k+1"]]:
    """The targets of `FusionLoss` as columns: λ on the true token, the rest as it was.

    Tokens without a target (all zero, such as the prompt's) stay without one.

    Raises:
        ValueError: lam is not in [0, 1].

    >>> ids, probabilities = with_gold(np.array([[4, 7]]), np.array([[0.5, 0.5]]), [4], lam=0.8)
    >>> ids.tolist(), probabilities.round(2)
    ([[4, 4, 7]], array([[0.8, 0.1, 0.1]], dtype=float32))
    """
    if not 0 <= lam <= 1:
        raise ValueError(f"lam is in [0, 1], not {lam}")
    told = probabilities.sum(-1, keepdims=True) > 0
    total = np.where(told, probabilities.sum(-1, keepdims=True), 1)
    gold = np.where(told, lam, 0.0)
    mixed = np.concatenate([gold, (1 - lam) * probabilities / total], -1)
    return np.concatenate([np.asarray(tokens)[:, None], ids], -1), mixed.astype(np.float32)
