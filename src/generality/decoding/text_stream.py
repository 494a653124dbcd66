"""Text of a language model, piece by piece as it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from generality.models.generation import stream_tokens


class TextStream:
    """Pieces of what a model writes after a prompt; joined they are the whole text.

    A piece comes when no further token can change its characters, and never holds a part of a
    stop text.

    Args:
        model: as in `generality.models.stream_tokens`.
        tokenizer: its tokenizer.
        prompt: tokens of the prompt.
        max_tokens: written at most.
        stop: texts before which the answer ends.
        options: temperature, top_p and seed of `stream_tokens`.

    Attributes:
        written: how many tokens were written, that which ends the text included.
        finish: "stop" for an end or a stop text, "length"; "" while it goes on.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> model = tiny_decoder("0.05M", vocabulary=len(tokenizer))
    >>> stream = TextStream(model, tokenizer, tokenizer("a ?")["input_ids"], max_tokens=4)
    >>> text = "".join(stream)
    >>> stream.written, stream.finish
    (4, 'length')
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, prompt: Sequence[int], *, max_tokens: int,
        stop: Sequence[str] = (), **options: Any,
    ) -> None:  # fmt: skip
        self._ends = end_tokens(model, tokenizer)
        self._tokens = stream_tokens(
            model, prompt, max_tokens=max_tokens, ends=self._ends, **options
        )
        self._tokenizer, self._stop = tokenizer, [text for text in stop if text]
        self.written, self.finish = 0, ""

    def __iter__(self) -> Iterator[str]:
        """The pieces; some are empty, so that a caller gets its turn at every token."""
        held = ""
        for piece in self._texts():
            held += piece
            cut = min((at for s in self._stop if (at := held.find(s)) >= 0), default=None)
            if cut is not None:
                self.finish = "stop"
                self._tokens.close()
                yield held[:cut]
                return
            keep = max((_overlap(held, s) for s in self._stop), default=0)
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
        self.finish = self.finish or "length"
        yield held

    def _texts(self) -> Iterator[str]:
        """What each token adds, "" while a character is incomplete."""
        tokens: list[int] = []
        start = done = 0  # decode from the last break: spaces depend on the token before
        for token in self._tokens:
            self.written += 1
            if token in self._ends:
                self.finish = "stop"
                break
            tokens.append(token)
            before, now = self._decode(tokens[start:done]), self._decode(tokens[start:])
            if now.endswith("\ufffd"):
                yield ""
                continue
            yield now[len(before) :]
            start, done = done, len(tokens)
        yield self._decode(tokens[start:])[len(self._decode(tokens[start:done])) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text, by the tokenizer and by the model's own settings."""
    settings = getattr(model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    return {int(token) for token in (tokenizer.eos_token_id, *several) if token is not None}


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of the text begin the stop text."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
