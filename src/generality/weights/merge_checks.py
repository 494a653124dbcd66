"""Whether models can be merged: the first difference between them, in words, before any work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from generality.errors import UserError
from generality.weights.checkpoint_stream import AdaptedCheckpoint, Checkpoint
from generality.weights.stored_numbers import torch_name

ARITHMETIC = (
    "model_type", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
    "n_head", "activation_function", "num_experts_per_tok",
)  # fmt: skip
"""Settings that change what the same weights compute."""

ELSE = (
    "Only fine-tunes of one model merge by their weights; others can be distilled into one "
    "(--method distill), or fused while they write (generality fuse)."
)


def check_mergeable(models: Sequence[Checkpoint]) -> None:
    """Whether all have one architecture, the same tensors and one vocabulary.

    Raises:
        UserError: the first difference, between which two, and what to do.
    """
    first = models[0]
    for model in models:
        if "quantization_config" in model.config:
            raise UserError(
                f"'{model.name}' is quantised: merge the model it was made from, and quantise the "
                "result."
            )
    for other in models[1:]:
        _compare_configs(first, other)
        _compare_tensors(first, other)
        _compare_tokenizers(first, other)


def _compare_configs(first: Checkpoint, other: Checkpoint) -> None:
    for key in ARITHMETIC:
        mine, theirs = first.config.get(key), other.config.get(key)
        if mine != theirs and None not in (mine, theirs):
            raise UserError(
                f"'{first.name}' and '{other.name}' are built differently: {key} is {mine} in one "
                f"and {theirs} in the other. {ELSE}"
            )


def _compare_tensors(first: Checkpoint, other: Checkpoint) -> None:
    for name in [*first.specs, *other.specs]:
        if name not in first.specs or name not in other.specs:
            has, lacks = (first, other) if name in first.specs else (other, first)
            raise UserError(f"'{has.name}' has '{name}' and '{lacks.name}' has not. {ELSE}")
        mine, theirs = first.specs[name], other.specs[name]
        if mine.shape != theirs.shape:
            vocabulary = len(mine.shape) == 2 and mine.shape[1:] == theirs.shape[1:]
            advice = (
                "The vocabularies have different sizes: cut or pad both to one "
                "(resize_token_embeddings) and save them again."
                if vocabulary and ("embed" in name or "head" in name or "wte" in name)
                else ELSE
            )
            raise UserError(
                f"'{name}' is {_times(mine.shape)} in '{first.name}' and {_times(theirs.shape)} in "
                f"'{other.name}'. {advice}"
            )
        if mine.floating != theirs.floating:
            raise UserError(
                f"'{name}' is {torch_name(mine.dtype)} in '{first.name}' and "
                f"{torch_name(theirs.dtype)} in '{other.name}': save both in floating-point "
                "numbers."
            )


def _compare_tokenizers(first: Checkpoint, other: Checkpoint) -> None:
    mine, theirs = home(first), home(other)
    for file in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"):
        a, b = mine / file, theirs / file
        if not a.is_file() or not b.is_file():
            continue
        if a.read_bytes() == b.read_bytes():
            return
        difference = "their files differ"
        if file.endswith(".json"):
            words, others = _vocabulary(a), _vocabulary(b)
            if words == others:
                return  # normalisation or templates may differ; the rows mean the same
            if words is not None and others is not None:
                number = min(i for i in words.keys() | others if words.get(i) != others.get(i))
                difference = (
                    f"number {number} is {words.get(number)!r} in one and "
                    f"{others.get(number)!r} in the other"
                )
        raise UserError(
            f"The tokenizers of '{first.name}' and '{other.name}' differ: {difference}. A row of "
            f"the embeddings would stand for two tokens. {ELSE}"
        )


def _vocabulary(file: Path) -> dict[int, str] | None:
    """Tokens by number, of a tokenizer.json or vocab.json; None where it is another format."""
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
        words = found["model"]["vocab"] if "model" in found else found
        if isinstance(words, list):  # a unigram model: tokens in order, with their scores
            words = {token: number for number, (token, _) in enumerate(words)}
        numbered = {int(number): token for token, number in words.items()}
        for extra in found.get("added_tokens", []) if "model" in found else []:
            numbered[int(extra["id"])] = extra["content"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return numbered


def home(model: Checkpoint) -> Path:
    """The folder with a model's configuration and tokenizer: of an adapter, its base's."""
    return home(model.base) if isinstance(model, AdaptedCheckpoint) else model.folder


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a single number"
