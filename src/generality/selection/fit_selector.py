"""Which of several right responses to train on: the one that fits the model, and its rivals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from jaxtyping import Float
from torch import nn

from generality.measures.response_logprob import response_logprob
from generality.selection.record_screen import words_in
from generality.selection.response_pool import ResponsePool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class ResponseSelector(Protocol):
    """From a pool to the pool of what is chosen of each prompt; `score` adds what it went by."""

    def score(self, pool: ResponsePool) -> ResponsePool:
        """The pool with this selector's column."""

    def select(self, pool: ResponsePool, k: int | str = 1) -> ResponsePool:
        """At most k responses to each prompt; `k` as in `ResponsePool.select`."""


class FitSelector:
    """GRAPE: the responses that the model to be trained already finds most probable.

    Score with the base model that will be trained, not with its chat version, and with the
    template that it will be trained with. Verify the pool first, or the most probable wrong answer
    wins. Rows longer than the model's context are NaN and never chosen.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        template: what the model sees: a text with {prompt}, or a function from the prompt, such
            as one that applies a chat template; the paper's is "Question: {prompt}\\nAnswer:".
        reduce: "mean" is lowest perplexity, the paper's rule; "sum" favours short responses.
        include_eos: whether the end token is part of a response; as in training.
        special_tokens: as in `response_logprob`; False where the template writes them.
        batch_size: responses scored at a time.

    Source: Zhang et al. 2025 (arXiv 2502.04194), section 3.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> model = tiny_decoder("0.05M", vocabulary=len(tokenizer))
    >>> rows = [{"prompt": "a = 3 ; a ?", "response": r} for r in ("=> 3", "a = 3 => 3")]
    >>> chosen = FitSelector(model, tokenizer).select(ResponsePool(rows))
    >>> len(chosen), "fit" in chosen.dataset.column_names
    (1, True)
    """

    column = "fit"
    order: Literal["max", "min", "random"] = "max"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerFast,
        template: str | Callable[[str], str] = "{prompt}",
        *,
        reduce: Literal["mean", "sum"] = "mean",
        include_eos: bool = True,
        special_tokens: bool = True,
        batch_size: int = 16,
    ) -> None:
        if isinstance(template, str) and "{prompt}" not in template:
            raise ValueError(f"the template has no {{prompt}} in it: {template!r}")
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.options: dict[str, Any] = {
            "reduce": reduce, "include_eos": include_eos, "special_tokens": special_tokens,
            "batch_size": batch_size,
        }  # fmt: skip

    def score(self, pool: ResponsePool) -> ResponsePool:
        """The pool with the column `fit`: nats per token, or in all for "sum"."""
        return pool.score(self.column, self._logprobs)

    def select(self, pool: ResponsePool, k: int | str = 1) -> ResponsePool:
        """The k of each prompt that fit best; a pool that has the column is not scored again."""
        scored = pool if self.column in pool.dataset.column_names else self.score(pool)
        return scored.select(self.column, k, self.order)

    def _logprobs(self, prompts: list[str], responses: list[str]) -> Any:
        text = self.template
        frame = (lambda p: text.replace("{prompt}", p)) if isinstance(text, str) else text
        framed = [frame(prompt) for prompt in prompts]
        return response_logprob(self.model, self.tokenizer, framed, responses, **self.options)


class ReverseFit(FitSelector):
    """The responses that the model finds least probable: GRAPE's control, turned around."""

    order = "min"


class StrongestSource:
    """What the strongest teacher wrote; prompts that it did not answer are left out.

    Args:
        source: its name in the pool's column `source`.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def score(self, pool: ResponsePool) -> ResponsePool:
        """The pool with the column `strongest`: 1, or NaN for other sources."""
        own = [1.0 if source == self.source else np.nan for source in pool.column("source")]
        return pool.with_column("strongest", own)

    def select(self, pool: ResponsePool, k: int | str = 1) -> ResponsePool:
        """Its first k responses to each prompt."""
        return self.score(pool).select("strongest", k)


class RandomResponse:
    """Any of a prompt's responses, drawn by the seed and the prompt's id."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def score(self, pool: ResponsePool) -> ResponsePool:
        """The pool as it is."""
        return pool

    def select(self, pool: ResponsePool, k: int | str = 1) -> ResponsePool:
        """k of each prompt at random."""
        return pool.select(None, k, "random", self.seed)


class LongestResponse:
    """The longest responses, in words, or in what `length` counts."""

    order: Literal["max", "min"] = "max"

    def __init__(self, length: Callable[[str], int] = words_in) -> None:
        self.length = length

    def score(self, pool: ResponsePool) -> ResponsePool:
        """The pool with the column `length`."""
        return pool.score("length", lambda _, responses: [self.length(r) for r in responses])

    def select(self, pool: ResponsePool, k: int | str = 1) -> ResponsePool:
        """The k longest of each prompt."""
        return self.score(pool).select("length", k, self.order)


class ShortestResponse(LongestResponse):
    """The shortest responses."""

    order = "min"


class EmbeddingNearest:
    """The responses nearest, by cosine, to examples of what the model is wanted for.

    Args:
        encode: from texts to vectors (texts, dim), such as `lab.encoders.NamedEncoder.encode`.
        targets: texts to be near to; a response counts its greatest similarity to any of them.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Float[np.ndarray, "texts dim"]],
        targets: Sequence[str],
    ) -> None:
        if not targets:
            raise ValueError("EmbeddingNearest needs at least one target text")
        self.encode, self.targets = encode, list(targets)

    def score(self, pool: ResponsePool) -> ResponsePool:
        """The pool with the column `nearness`, in [-1, 1]."""
        targets = _unit(np.asarray(self.encode(self.targets), dtype=float))

        def nearness(prompts: list[str], responses: list[str]) -> Any:
            pairs = [
                f"{prompt}\n{response}" for prompt, response in zip(prompts, responses, strict=True)
            ]
            return (_unit(np.asarray(self.encode(pairs), dtype=float)) @ targets.T).max(1)

        return pool.score("nearness", nearness)

    def select(self, pool: ResponsePool, k: int | str = 1) -> ResponsePool:
        """The k nearest of each prompt."""
        return self.score(pool).select("nearness", k)


def selection_overlap(left: ResponsePool, right: ResponsePool) -> float:
    """How alike two choices from one pool are: mean over prompts of the Jaccard index, in [0, 1].

    1 says that the choice does not depend on the model; for re-selecting per model, look here.

    >>> one = ResponsePool([{"prompt": "p", "response": r} for r in ("a", "b")])
    >>> two = ResponsePool([{"prompt": "p", "response": r} for r in ("b", "c")])
    >>> round(selection_overlap(one, two), 3)
    0.333
    """
    chosen = [_chosen(pool) for pool in (left, right)]
    prompts = set(chosen[0]) | set(chosen[1])
    if not prompts:
        raise ValueError("nothing was chosen in either")
    shares = []
    for prompt in prompts:
        a, b = (side.get(prompt, set()) for side in chosen)
        shares.append(len(a & b) / len(a | b))
    return float(np.mean(shares))


def _chosen(pool: ResponsePool) -> dict[str, set[str]]:
    chosen: dict[str, set[str]] = {}
    for prompt, response in zip(pool.column("prompt_id"), pool.column("response"), strict=True):
        chosen.setdefault(prompt, set()).add(response)
    return chosen


def _unit(rows: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
