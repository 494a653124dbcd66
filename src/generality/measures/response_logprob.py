"""How probable a language model finds a given response to a given prompt."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.models.packing import pack_candidates, takes_packed
from generality.models.prompt_response import encode_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Reduce = Literal["mean", "sum", "none"]


@torch.no_grad()
def response_logprob(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    reduce: Reduce = "mean",
    batch_size: int = 16,
    include_eos: bool = True,
    shared_prefix: bool = True,
    special_tokens: bool = True,
    max_length: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, " pairs"] | Float[Tensor, "pairs longest"]:
    """log p(response | prompt) in nats, in float32, over the tokens of the response alone.

    Prompt and response are tokenised together, as `lab.sft` does for training (`encode_response`),
    and a token belongs to the response when it holds any of its characters. The numbers do not
    depend on the batch size or the tokenizer's padding side: rows are padded on the right, which a
    causal model cannot see, and logits are computed at response tokens only where the model allows
    it (`logits_to_keep`). Memory: one batch's logits, batch_size · longest response · vocabulary.

    Neither reduction is neutral: the mean favours text whose later tokens are cheap, such as
    repetition, the sum favours short text. Report lengths beside either.

    Args:
        model: a causal language model of transformers. Scored in eval mode and left as it was.
        tokenizer: its tokenizer.
        prompts: what comes before each response, template applied.
        responses: as many, each to be scored after its prompt.
        reduce: "mean" over response tokens, their "sum", or "none": every token's, padded on the
            right with NaN.
        batch_size: pairs at a time.
        include_eos: whether the token that ends a text is part of the response.
        shared_prefix: run a prompt once for all its candidates, where several pairs have the same
            prompt and tokenise alike up to the response's first token. They are read as one
            sequence in which no candidate sees another (`pack_candidates`); models that cannot, and
            sequences of over 2,048 tokens or the model's window, reuse the prompt's keys and
            values. Other pairs, and models without such a cache, are scored from scratch.
        special_tokens: let the tokenizer put its opening token first; False for prompts in
            which a chat template has written it already.
        max_length: tokens; a longer pair is NaN, since a truncated text has no fair score. None:
            what the model's configuration allows.
        progress: called with (pairs done, pairs in all).

    Raises:
        ValueError: unequal numbers of prompts and responses; an unknown `reduce`; no token before
            the first one of a response; no end token where one is asked for.

    Source: the score of GRAPE (Zhang et al. 2025, arXiv 2502.04194), section 3; also the
    log-probabilities of S3FT (arXiv 2502.08130).

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> model = tiny_decoder("0.05M", vocabulary=len(tokenizer))
    >>> prompts = ["a = 3 ; a ?"] * 2
    >>> response_logprob(model, tokenizer, prompts, ["=> 3", "a = 3 => 3"]).shape
    torch.Size([2])
    """
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts and {len(responses)} responses")
    if reduce not in ("mean", "sum", "none"):
        raise ValueError(f"reduce is 'mean', 'sum' or 'none', not '{reduce}'")
    pairs = [
        _pair(tokenizer, prompt, response, include_eos, special_tokens)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    limit = _context(model) if max_length is None else max_length
    scored = [i for i, pair in enumerate(pairs) if pair.response and len(pair.tokens) <= limit]
    lengths = torch.tensor([len(pair.response) for pair in pairs])
    width = int(lengths[scored].max()) if scored else 0
    values = torch.full((len(pairs), width), torch.nan)
    reuse = shared_prefix and not getattr(model, "_is_stateful", False)
    done = len(pairs) - len(scored)
    with _evaluating(model):
        for score, rows in _jobs(model, pairs, scored, batch_size, reuse):
            for i, row in zip(rows, score(model, [pairs[i] for i in rows]), strict=True):
                values[i, : len(row)] = row
            done += len(rows)
            if progress is not None:
                progress(done, len(pairs))
    if reduce == "none":
        return values
    beyond = torch.arange(width) >= lengths[:, None]
    total = values.masked_fill(beyond, 0.0).sum(1)  # NaN where the model says NaN
    total[[i for i, pair in enumerate(pairs) if len(pair.tokens) > limit]] = torch.nan
    return total if reduce == "sum" else total / lengths


def choice_logprobs(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    choices: Sequence[str],
    *,
    reduce: Literal["mean", "sum"] = "sum",
    normalize: bool = True,
    batch_size: int = 16,
    **options: Any,
) -> Float[Tensor, "prompts choices"]:
    """Log-probabilities of the same choices after each prompt, in nats.

    Args:
        model: as in `response_logprob`.
        tokenizer: its tokenizer.
        prompts: one a row.
        choices: continuations, one a column.
        reduce: "sum", or "mean" over a choice's tokens so that long ones are not punished.
        normalize: each row sums to 1 as probabilities; False: as the model has them.
        batch_size: pairs at a time.
        options: further ones of `response_logprob`; the end token is not part of a choice unless
            `include_eos=True`.
    """
    options = {"include_eos": False, **options}
    scores = response_logprob(
        model, tokenizer, [prompt for prompt in prompts for _ in choices],
        [*choices] * len(prompts), reduce=reduce, batch_size=batch_size, **options,
    ).view(len(prompts), len(choices))  # fmt: skip
    return scores.log_softmax(-1) if normalize else scores


def expected_over_choices(
    logprobs: Float[Tensor, "prompts choices"], values: Sequence[float] | Float[Tensor, " choices"]
) -> Float[Tensor, " prompts"]:
    """The mean of `values` under the choices' probabilities: a number without parsing a text.

    Finer than the number of one sampled answer, and defined where no answer parses.

    >>> logprobs = torch.tensor([[0.5, 0.25, 0.25]]).log()
    >>> expected_over_choices(logprobs, [1, 2, 5])
    tensor([2.2500])
    """
    weights = torch.as_tensor(values, dtype=logprobs.dtype, device=logprobs.device)
    if weights.shape != logprobs.shape[-1:]:
        raise ValueError(f"{logprobs.shape[-1]} choices and {len(weights)} values")
    return logprobs.softmax(-1) @ weights


@dataclass(frozen=True)
class _Pair:
    tokens: tuple[int, ...]
    start: int  # of the response

    @property
    def prefix(self) -> tuple[int, ...]:
        return self.tokens[: self.start]

    @property
    def response(self) -> tuple[int, ...]:
        return self.tokens[self.start :]


def _pair(
    tokenizer: PreTrainedTokenizerFast, prompt: str, response: str, eos: bool, special: bool
) -> _Pair:
    if eos and tokenizer.eos_token_id is None:
        raise ValueError("this tokenizer has no end token; pass include_eos=False")
    tokens, start = encode_response(tokenizer, prompt, response, eos=eos, special_tokens=special)
    if start == 0:
        opening = tokenizer.bos_token_id
        if opening is None:
            raise ValueError(
                "nothing comes before the response: give a prompt, or a tokenizer that opens with "
                "a token of its own"
            )
        tokens, start = [opening, *tokens], 1
    return _Pair(tuple(tokens), start)


def _context(model: nn.Module) -> float:
    config = getattr(model, "config", None)
    return getattr(config, "max_position_embeddings", None) or float("inf")


def _window(model: nn.Module) -> float:
    """Tokens that every layer can look back, which a mask of four dimensions would override."""
    config = getattr(model, "config", None)
    named = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((each for each in named if each), default=float("inf"))


LONGEST_PACKED = 2048
"""Tokens of a sequence beyond which attention to what the mask hides costs more than it saves."""


def _jobs(
    model: nn.Module, pairs: list[_Pair], rows: list[int], batch_size: int, reuse: bool
) -> Iterator[tuple[Callable[[nn.Module, list[_Pair]], list[Tensor]], list[int]]]:
    """Batches of pairs, each with how to score it: candidates of a prompt together, and others.

    All are sorted by length. Without packing only prompts of the same length go together.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in rows:
        groups.setdefault(pairs[i].prefix, []).append(i)
    shared = [group for group in groups.values() if reuse and len(group) > 1]
    alone = [i for group in groups.values() if not (reuse and len(group) > 1) for i in group]
    alone.sort(key=lambda i: len(pairs[i].tokens))
    for start in range(0, len(alone), batch_size):
        yield _from_scratch, alone[start : start + batch_size]
    room = min(LONGEST_PACKED, _context(model), _window(model))
    packs = bool(shared) and takes_packed(model)
    packed: list[list[int]] = []
    continued: list[list[int]] = []
    for group in shared:
        for piece in (group[i : i + batch_size] for i in range(0, len(group), batch_size)):
            length = pairs[piece[0]].start + sum(len(pairs[i].response) for i in piece)
            (packed if packs and length <= room else continued).append(piece)
    for score, pieces in ((_packed, packed), (_continue, continued)):
        pieces.sort(key=lambda piece: pairs[piece[0]].start)
        batch: list[int] = []
        for piece in pieces:
            if batch:
                apart = score is _continue and pairs[piece[0]].start != pairs[batch[0]].start
                if apart or len(batch) + len(piece) > batch_size:
                    yield score, batch
                    batch = []
            batch = batch + piece
        if batch:
            yield score, batch


def _from_scratch(model: nn.Module, pairs: list[_Pair]) -> list[Tensor]:
    """Every response token's log-probability, one pass over the whole of each pair."""
    device = _device(model)
    tokens = _padded([pair.tokens[:-1] for pair in pairs], device)
    first = min(pair.start for pair in pairs) - 1
    logits = _logits(model, {"input_ids": tokens}, first)
    targets = _padded([pair.tokens[first + 1 :] for pair in pairs], device)
    found = token_logprobs(logits, targets).cpu()
    return [
        row[pair.start - 1 - first : len(pair.tokens) - 1 - first]
        for row, pair in zip(found, pairs, strict=True)
    ]


def _packed(model: nn.Module, pairs: list[_Pair]) -> list[Tensor]:
    """The same for candidates of a few prefixes, each prefix with all its candidates in one row."""
    device = _device(model)
    groups = [list(group) for _, group in itertools.groupby(pairs, lambda pair: pair.prefix)]
    batch = pack_candidates(
        [group[0].prefix for group in groups],
        [[pair.response[:-1] for pair in group] for group in groups],
        dtype=getattr(model, "dtype", torch.float32),
    )
    first = max(pair.start for pair in pairs) - 1  # the column in which every prefix ends
    logits = _logits(model, {name: each.to(device) for name, each in batch.items()}, first).float()
    normaliser = logits.logsumexp(-1)
    found = []
    for row, group in enumerate(groups):
        column = 0
        for pair in group:
            further = len(pair.response) - 1
            columns = torch.tensor([0, *range(column + 1, column + 1 + further)], device=device)
            chosen = logits[row, columns, torch.tensor(pair.response, device=device)]
            found.append((chosen - normaliser[row, columns]).cpu())
            column += further
    return found


def _continue(model: nn.Module, pairs: list[_Pair]) -> list[Tensor]:
    """The same for pairs of prefixes of one length, each distinct prefix run once."""
    device = _device(model)
    prefixes = list(dict.fromkeys(pair.prefix for pair in pairs))
    which = torch.tensor([prefixes.index(pair.prefix) for pair in pairs], device=device)
    keep = {"logits_to_keep": 1} if _takes(model, "logits_to_keep") else {}
    out = model(input_ids=torch.tensor(prefixes, device=device), use_cache=True, **keep)
    targets = _padded([pair.response for pair in pairs], device)
    found = token_logprobs(out.logits[which, -1:], targets[:, :1])
    if targets.shape[1] > 1:
        cache = out.past_key_values
        cache.reorder_cache(which)
        further = model(input_ids=targets[:, :-1], past_key_values=cache, use_cache=True)
        found = torch.cat([found, token_logprobs(further.logits, targets[:, 1:])], 1)
    return [row[: len(pair.response)].cpu() for row, pair in zip(found, pairs, strict=True)]


def _logits(model: nn.Module, inputs: dict[str, Tensor], first: int) -> Tensor:
    """Logits from position `first` on; the others are not computed where the model allows it."""
    width = inputs["input_ids"].shape[1]
    if _takes(model, "logits_to_keep"):
        return model(**inputs, use_cache=False, logits_to_keep=width - first).logits
    return model(**inputs, use_cache=False).logits[:, first:]


def token_logprobs(
    logits: Float[Tensor, "rows length vocabulary"], targets: Int[Tensor, "rows length"]
) -> Float[Tensor, "rows length"]:
    """log p of each target under the logits at its place, in nats, in float32; with gradients.

    >>> round(token_logprobs(torch.zeros(1, 1, 4), torch.tensor([[2]])).item(), 4)
    -1.3863
    """
    logits = logits.float()
    return logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "rows longest"]:
    """Padded on the right with token 0, which nothing before it can see."""
    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for into, row in zip(padded, rows, strict=True):
        into[: len(row)] = torch.tensor(row)
    return padded.to(device)


def _takes(model: Any, argument: str) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(inner.forward).parameters


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
