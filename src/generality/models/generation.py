"""Writing with a causal language model, many prompts at a time."""

from __future__ import annotations

from collections.abc import Container, Generator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@torch.inference_mode()
def generate_texts(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    special_tokens: bool = True,
) -> list[str]:
    """What the model writes after each prompt, until its end-of-sequence token or `max_tokens`.

    Prompts of similar length are run together, padded on the left, with one key-value cache; those
    that have ended leave the batch, so the rest goes faster. At temperature 0 the answer does not
    depend on the batch (up to float rounding). Otherwise every prompt draws from its own generator,
    seeded by `seed` and its place in `prompts`.

    Args:
        model: a causal language model of transformers, in eval mode, or one that is called like it
            and makes its own caches (`new_cache()`, as `generality.decoding.FusedCausalLM` does).
        tokenizer: its tokenizer.
        max_tokens: written at most, per prompt.
        temperature: 0 takes the likeliest token.
        top_p: draw from the fewest tokens that together have this probability, in (0, 1].
        batch_size: prompts run together.
        special_tokens: add what the tokenizer puts before a text; not for rendered chat templates.

    Raises:
        ValueError: an empty prompt (no token), a temperature below 0, top_p outside (0, 1].

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> model = tiny_decoder("0.05M", vocabulary=len(tokenizer))
    >>> texts = generate_texts(model, tokenizer, ["a = 3 ; a ?", "a ?"], max_tokens=5)
    >>> texts == [generate_texts(model, tokenizer, [p], max_tokens=5)[0]
    ...           for p in ("a = 3 ; a ?", "a ?")]
    True
    """
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError("temperature is at least 0, and top_p in (0, 1]")
    tokens = [list(tokenizer(p, add_special_tokens=special_tokens)["input_ids"]) for p in prompts]
    ends = tokenizer.eos_token_id
    tokens = [row[:-1] if special_tokens and row and row[-1] == ends else row for row in tokens]
    if not all(tokens):
        raise ValueError(f"prompt {[bool(row) for row in tokens].index(False)} has no token")
    texts = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(tokens[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        noise = [draws(seed, place) for place in places] if temperature else None
        written = generate_tokens(
            model, [tokens[place] for place in places], max_tokens, temperature, top_p, noise,
            pad=tokenizer.pad_token_id or 0, end=ends,
        )  # fmt: skip
        for place, row in zip(places, written, strict=True):
            texts[place] = tokenizer.decode(row, skip_special_tokens=True).strip()
    return texts


@torch.inference_mode()
def stream_tokens(
    model: nn.Module,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    ends: Container[int] = (),
) -> Generator[int]:
    """Tokens after a prompt, each as it is written, the one that ends the text included.

    Nothing is computed beyond the tokens that are asked for: stop when you have seen enough.

    Args:
        model: as in `generate_texts`.
        prompt: its tokens, at least one.
        max_tokens: written at most.
        ends: tokens after which nothing follows.

    >>> from generality.models import tiny_decoder
    >>> model = tiny_decoder("0.05M", vocabulary=60)
    >>> len(list(stream_tokens(model, [1, 7, 9], max_tokens=5)))
    5
    """
    from transformers import DynamicCache

    place = next(model.parameters()).device
    noise = [draws(seed, 0)] if temperature else None
    cache: Any = getattr(model, "new_cache", DynamicCache)()
    tokens = torch.tensor([list(prompt)], device=place)
    for length in range(len(prompt), len(prompt) + max_tokens):
        output = model(
            input_ids=tokens, attention_mask=torch.ones(1, length, dtype=torch.long, device=place),
            position_ids=torch.arange(length - tokens.shape[1], length, device=place)[None],
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        following = _next(output.logits[:, -1].float(), temperature, top_p, noise)
        yield (token := int(following))
        if token in ends:
            return
        tokens = following[:, None]


@torch.inference_mode()
def generate_tokens(
    model: nn.Module, prompts: Sequence[Sequence[int]], max_tokens: int, temperature: float = 0.0,
    top_p: float = 1.0, noise: list[torch.Generator] | None = None, *, pad: int = 0,
    end: int | None = None,
) -> list[list[int]]:  # fmt: skip
    """Tokens written after each prompt, without the end token; all prompts in one batch.

    Args as in `generate_texts`, but for tokens, and a generator of `draws` for each prompt where
    the temperature is above 0. A row of `max_tokens` was cut; a shorter one ended.
    """
    from transformers import DynamicCache

    place = next(model.parameters()).device
    width = max(map(len, prompts))
    tokens = torch.tensor([[pad] * (width - len(row)) + [*row] for row in prompts], device=place)
    mask = torch.tensor(
        [[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=place
    )
    written: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    cache: Any = getattr(model, "new_cache", DynamicCache)()
    for _ in range(max_tokens):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        following = _next(output.logits[:, -1].float(), temperature, top_p, noise)
        going = []
        for row, token in enumerate(following.tolist()):
            if token != end:
                written[alive[row]].append(token)
                going.append(row)
        if not going:
            break
        if len(going) < len(alive):
            kept = torch.tensor(going, device=place)
            cache.batch_select_indices(kept)
            mask, following = mask[kept], following[kept]
            alive = [alive[row] for row in going]
            noise = [noise[row] for row in going] if noise else None
        tokens = following[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return written


def _next(
    logits: Float[Tensor, "batch vocabulary"], temperature: float, top_p: float,
    noise: list[torch.Generator] | None,
) -> Int[Tensor, " batch"]:  # fmt: skip
    if noise is None:
        return logits.argmax(-1)
    probabilities = (logits / temperature).softmax(-1)
    if top_p < 1:
        ranked, order = probabilities.sort(-1, descending=True)
        beyond = ranked.cumsum(-1) - ranked >= top_p
        probabilities = probabilities.scatter(-1, order, ranked.masked_fill(beyond, 0.0))
    drawn = [torch.empty(probabilities.shape[1]).exponential_(generator=g) for g in noise]
    return (probabilities / torch.stack(drawn).to(probabilities)).argmax(-1)


def draws(*seed: int) -> torch.Generator:
    """What one prompt draws its tokens from, by numbers that name it."""
    # torch's generator on the CPU reads 32 bits of a seed only
    mixed = np.random.SeedSequence(seed).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))
