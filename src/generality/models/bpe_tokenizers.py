"""A byte-level BPE tokenizer of your own texts, for models trained from nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>")


def bpe_tokenizer(texts: Iterable[str], vocabulary: int = 1024) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers whose pieces are those frequent in `texts`.

    Bytes are the smallest pieces, so that any text can be written and read back. Tokens 0, 1 and 2
    pad, begin and end, as `tiny_decoder` has them; every text begins with `<bos>`. The same texts
    in the same order give the same tokenizer.

    Args:
        vocabulary: number of tokens at most, 259 (the bytes and three more) or larger.

    Raises:
        ValueError: a smaller vocabulary.

    >>> tokenizer = bpe_tokenizer(["the cat and the dog and the bird"] * 2, 270)
    >>> tokenizer.tokenize("the"), tokenizer.decode(tokenizer.encode("ünseen")[1:])
    (['the'], 'ünseen')
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary < len(alphabet) + len(SPECIAL):
        raise ValueError(f"the bytes alone take {len(alphabet) + len(SPECIAL)} tokens")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[*SPECIAL], initial_alphabet=sorted(alphabet),
        show_progress=False,
    )  # fmt: skip
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)
