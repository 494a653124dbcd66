"""Texts of a causal language model, written in batches, kept chunk by chunk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from generality.errors import UserError
from generality.lab.threads import threads
from generality.models.generation import generate_texts

Network = Callable[[int], nn.Module]
"""From a seed to a causal language model with random weights, as `functools.partial(tiny_decoder,
"0.25M", vocabulary=60)` is."""


def generate_chunk(
    network: Network,
    weights: Mapping[str, Tensor],
    tokenizer: Any,
    prompts: Sequence[str],
    options: dict[str, Any],
) -> list[str]:
    """One chunk by a network and its weights: the memoised step behind `Lab.generate`."""
    with threads(1):
        model = network(0)
        model.load_state_dict(dict(weights))
        return generate_texts(model.eval(), tokenizer, prompts, **options)


def generate_named_chunk(
    name: str, identity: str, prompts: Sequence[str], options: dict[str, Any], device: str
) -> list[str]:
    """One chunk by a model with a name; `identity` names its weights, for the key."""
    model, tokenizer = writer(name, device)
    return generate_texts(model, tokenizer, prompts, **options)


@functools.lru_cache(maxsize=1)
def writer(name: str, device: str) -> tuple[nn.Module, Any]:
    """A causal language model and its tokenizer, by name. Raises UserError where it is none."""
    from generality.models.load import load_model, load_tokenizer

    model = load_model(name, device=device)
    if not hasattr(model, "generate"):
        raise UserError(f"The model '{name}' does not write text.")
    with torch.no_grad():
        return model.eval(), load_tokenizer(name)
