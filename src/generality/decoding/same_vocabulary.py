"""Whether models can share tokens, and the first one at which they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generality.errors import UserError


def check_same_vocabulary(tokenizers: Mapping[str, Any]) -> None:
    """Nothing, if all tokenizers write each token under the same number.

    Logits are added number by number, and what one model wrote is what the others read, so this is
    what fusion needs. Embeddings padded to different sizes are no difference: tokenizers are
    compared, not models.

    Args:
        tokenizers: by the name of their model; the others are compared with the first.

    Raises:
        UserError: two differ; it names the first token at which they do.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> check_same_vocabulary({"a": world_tokenizer(), "b": world_tokenizer()})
    >>> check_same_vocabulary({"a": world_tokenizer(["up"]), "b": world_tokenizer(["down"])})
    Traceback (most recent call last):
    generality.errors.UserError: 'a' and 'b' do not share a vocabulary: token 66 is 'up' in the
    first and 'down' in the second. ...
    """
    (first, reference), *others = tokenizers.items()
    expected = _by_number(reference)
    for name, tokenizer in others:
        found = _by_number(tokenizer)
        differing = [n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)]
        if differing:
            number = min(differing)
            raise UserError(
                f"'{first}' and '{name}' do not share a vocabulary: token {number} is "
                f"{_told(expected, number)} in the first and {_told(found, number)} in the second. "
                "Fuse models of one family; across families, train on the other model's answers."
            )


def _by_number(tokenizer: Any) -> dict[int, str]:
    return {number: token for token, number in tokenizer.get_vocab().items()}


def _told(tokens: Mapping[int, str], number: int) -> str:
    return f"'{tokens[number]}'" if number in tokens else "missing"
