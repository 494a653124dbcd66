"""Training texts that repeat a piece of the test texts."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool

from generality.selection.record_screen import SPACELESS

_WORD = re.compile(rf"[{SPACELESS}]|[^\W{SPACELESS}]+")


class NGramIndex:
    """The n-grams of words of some texts, as hashes of 8 bytes each.

    Words are runs of letters and digits in lower case, and single letters of Chinese and Japanese.
    A text shorter than n is one n-gram as a whole, so that short ones are caught when they are
    repeated exactly.

    Args:
        texts: those that must not be trained on.
        n: words; 10 in the paper, 13 elsewhere. Smaller numbers catch more innocent phrases.

    Source: Jung et al. 2025 (arXiv 2505.20161), section 4.

    >>> index = NGramIndex(["What is the capital of France?"], n=4)
    >>> index.hit("Tell me: what is the CAPITAL, please"), index.hit("the capital of Spain")
    (True, False)
    """

    def __init__(self, texts: Iterable[str], n: int = 10) -> None:
        if n < 1:
            raise ValueError(f"n-grams have at least 1 word, not {n}")
        self.n = n
        self._seen = {gram for text in texts for gram in _ngrams(text, n)}

    def hit(self, text: str) -> bool:
        """Whether the text shares an n-gram with those of the index."""
        return not self._seen.isdisjoint(_ngrams(text, self.n))


def ngram_overlap(
    train: Iterable[str], test: Iterable[str], n: int = 10
) -> Bool[np.ndarray, " train"]:
    """Whether each training text shares an n-gram of words with any test text.

    >>> ngram_overlap(["a b c d", "x y z"], ["b c d e"], n=3).tolist()
    [True, False]
    """
    index = NGramIndex(test, n)
    return np.array([index.hit(text) for text in train], dtype=bool)


def _ngrams(text: str, n: int) -> list[int]:
    words = _WORD.findall(text.lower())
    if not words:
        return []
    size = min(n, len(words))
    return [hash(tuple(words[i : i + size])) for i in range(len(words) - size + 1)]
