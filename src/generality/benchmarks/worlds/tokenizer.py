"""One vocabulary for all procedural worlds: words between spaces."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
WORDS = (
    *map(str, range(21)),
    *string.ascii_lowercase,
    *"+ - * = ; ? : . , ( ) < > |".split(),
    "=>",
)
"""Numbers, letters, signs, and the word that opens an answer."""


def world_tokenizer(extra: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers that knows the words of the worlds, and `extra` ones.

    Each word is a token; unknown ones become `<unk>`; every text begins with `<bos>`. Tokens 0, 1
    and 2 pad, begin and end. Equal `extra` give equal tokenizers.

    Args:
        extra: further words, such as the names of tasks and styles; repeated ones count once.

    >>> tokenizer = world_tokenizer(["reverse"])
    >>> tokenizer.tokenize("reverse : c a b ?"), len(tokenizer)
    (['reverse', ':', 'c', 'a', 'b', '?'], 67)
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys([*SPECIAL, *WORDS, *extra])
    core = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", **names)
