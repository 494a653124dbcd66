"""Tokens of a prompt and a response, and where the response begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100
"""The label of tokens that no loss counts."""


def joined(prompt: str, response: str) -> tuple[str, int]:
    """The two as one text, and the place in it where the prompt ends.

    A space goes between them unless there is white space already.

    >>> joined("2 + 2 ?", "4"), joined("Answer:\\n", "4")
    (('2 + 2 ? 4', 7), ('Answer:\\n4', 8))
    """
    separate = prompt and response and not prompt[-1].isspace() and not response[0].isspace()
    return f"{prompt}{' ' if separate else ''}{response}", len(prompt)


def encode_response(
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    response: str,
    *,
    eos: bool = True,
    max_length: int | None = None,
    special_tokens: bool = True,
) -> tuple[list[int], int]:
    """Tokens of prompt and response, tokenised as one text, and the first that is the response's.

    A token over the boundary counts as the response's. What begins a sequence (such as `<bos>`, if
    the tokenizer sets one) is there, unless `special_tokens` is False, for a chat template that
    has written it already; `eos` adds the end-of-sequence token. Beyond `max_length` tokens the
    text is cut at its end.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> tokenizer = world_tokenizer()
    >>> tokens, start = encode_response(tokenizer, "a = 3 ; a ?", "=> 3")
    >>> tokenizer.convert_ids_to_tokens(tokens), start
    (['<bos>', 'a', '=', '3', ';', 'a', '?', '=>', '3', '<eos>'], 7)
    """
    text, boundary = joined(prompt, response)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=special_tokens)
    tokens, ends = list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]
    if tokens and tokens[-1] == tokenizer.eos_token_id:
        tokens, ends = tokens[:-1], ends[:-1]
    start = next((place for place, end in enumerate(ends) if end > boundary), len(tokens))
    if eos and tokenizer.eos_token_id is not None:
        tokens.append(tokenizer.eos_token_id)
    return tokens[:max_length], start


def response_labels(tokens: list[int], start: int) -> list[int]:
    """Labels for next-token training on the response alone.

    >>> response_labels([5, 6, 7, 2], 2)
    [-100, -100, 7, 2]
    """
    return [IGNORED] * min(start, len(tokens)) + tokens[start:]
