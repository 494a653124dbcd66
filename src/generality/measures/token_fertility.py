"""Vocabularies of a corpus's own, and how much text a token of one holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def train_bpe(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer (`tokenizers.Tokenizer`) of at most so many tokens.

    Nothing is unknown to it: what it has no merge for becomes bytes. Tokens do not cross white
    space, but for one blank before a word; signs, digits and letters may join in one, as they do
    with SentencePiece and fastBPE.

    Raises:
        ValueError: fewer than the 256 bytes.

    >>> tokenizer = train_bpe(["%1 = add i32 %0, 7"] * 3, 300)
    >>> tokenizer.decode(tokenizer.encode("%1 = mul é").ids)
    '%1 = mul é'
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary < 256:
        raise ValueError(f"a byte-level vocabulary has 256 tokens or more, not {vocabulary}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\S+|\s+(?!\S)|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def tokenizer_fertility(
    tokenizers: Mapping[str, Callable[[str], Sequence[Any]]], texts: Sequence[str]
) -> dict[str, float]:
    """Bytes of text that a token of each tokenizer holds on average; more is shorter text.

    Use texts that none of them was made from. Bits per token cannot be compared across tokenizers,
    bits per byte can.

    Args:
        tokenizers: name → a function from a text to its tokens.
        texts: at least one that is not empty.

    Raises:
        ValueError: all are empty.

    >>> tokenizer_fertility({"words": str.split, "letters": list}, ["ab cd"])
    {'words': 2.5, 'letters': 1.0}
    """
    total = sum(len(text.encode()) for text in texts)
    if not total:
        raise ValueError("give at least one text that is not empty")
    return {
        name: total / sum(len(tokens(text)) for text in texts)
        for name, tokens in tokenizers.items()
    }
