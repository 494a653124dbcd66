"""A language model of counts, for comparing corpora in seconds."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence


class NGramBits:
    """An interpolated n-gram model with Witten and Bell's smoothing; gives bits, never infinity.

    p(w | h) = (c(h w) + d(h) p(w | shorter h)) / (c(h) + d(h)), d(h) the number of different
    tokens seen after h; below single tokens all are equally likely.

    Args:
        vocabulary: how many tokens there are.
        order: tokens that are looked at, the predicted one included.

    Source: Witten and Bell 1991; Chen and Goodman 1999, section 2.

    >>> model = NGramBits(4, order=2).fit([[0, 1, 0, 1, 0, 1]])
    >>> model.bits([0, 1, 0, 1]) < model.bits([1, 1, 1, 1]) < model.bits([3, 3, 3, 3])
    True
    """

    def __init__(self, vocabulary: int, *, order: int = 5) -> None:
        if vocabulary < 1 or order < 1:
            raise ValueError("vocabulary and order are at least 1")
        self.vocabulary, self.order = vocabulary, order
        self.counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self.totals: Counter[tuple[int, ...]] = Counter()

    def fit(self, texts: Iterable[Sequence[int]]) -> NGramBits:
        """Count these token ids too; returns self."""
        for text in texts:
            for place, token in enumerate(text):
                for length in range(min(self.order - 1, place) + 1):
                    self.counts[tuple(text[place - length : place])][token] += 1
        self.totals = Counter({history: c.total() for history, c in self.counts.items()})
        return self

    def bits(self, text: Sequence[int]) -> float:
        """Bits that the model needs for this text."""
        total = 0.0
        for place, token in enumerate(text):
            probability = 1 / self.vocabulary
            for length in range(min(self.order - 1, place) + 1):
                history = tuple(text[place - length : place])
                seen = self.counts.get(history)
                if seen is None:
                    break
                kinds = len(seen)
                probability = (seen[token] + kinds * probability) / (self.totals[history] + kinds)
            total -= math.log2(probability)
        return total
