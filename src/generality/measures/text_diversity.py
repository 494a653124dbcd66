"""Numbers about a set of texts, with one call: metric(texts) or metric(records)."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from generality.measures.vendi import vendi_score

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Data = Iterable[Any]
"""Texts, or records (mappings, rows of a `datasets.Dataset`) that hold one in `column`."""


@dataclass(frozen=True)
class NGramEntropy:
    """Shannon entropy of the n-grams of words of all texts together, in bits.

    Between 0 and log2 of how many there are, so it grows with the amount of text: compare sets of
    equal size. Texts are lower-cased and cut at white space; 0 without an n-gram.

    >>> NGramEntropy(1)(["a b", "a B"]), NGramEntropy(2)(["a b", "b a"])
    (1.0, 1.0)
    """

    n: int = 2
    column: str = "text"

    def __call__(self, data: Data) -> float:
        """Of these texts or records."""
        counts = np.array(list(_ngrams(texts_of(data, self.column), self.n).values()), float)
        return entropy(counts)


@dataclass(frozen=True)
class DistinctN:
    """Distinct n-grams of words as a share of all, in [0, 1]; falls with the amount of text.

    Source: Li et al. 2016 (arXiv 1510.03055).

    >>> DistinctN(1)(["a b", "a c"])
    0.75
    """

    n: int = 2
    column: str = "text"

    def __call__(self, data: Data) -> float:
        """Of these texts or records."""
        counts = _ngrams(texts_of(data, self.column), self.n)
        return len(counts) / counts.total() if counts else 0.0


@dataclass(frozen=True)
class CompressionRatio:
    """Bytes of all texts, a line each, over what zlib makes of them: more is more repetitive.

    Source: Shaib et al. 2024 (arXiv 2403.00553), who find it a good stand-in for slower numbers.

    >>> CompressionRatio()(["the same again"] * 50) > 10
    True
    """

    column: str = "text"

    def __call__(self, data: Data) -> float:
        """Of these texts or records."""
        raw = "\n".join(texts_of(data, self.column)).encode()
        return len(raw) / len(zlib.compress(raw, 9))


def word_variety(texts: Iterable[str]) -> dict[str, float]:
    """What a set of texts shows of its variety by words alone; more is more, in each.

    `ngram_entropy` and `distinct_n` are of pairs of words, `compression` is minus the ratio.

    >>> found = word_variety(["a b c", "a b d"])
    >>> found["ngram_entropy"], found["distinct_n"]
    (1.5, 0.75)
    """
    read = list(texts)
    return {
        "ngram_entropy": NGramEntropy(2)(read),
        "distinct_n": DistinctN(2)(read),
        "compression": -CompressionRatio()(read),
    }


@dataclass(frozen=True)
class LabelEntropy:
    """Shannon entropy of labels in bits: of skills, topics, classes.

    Args:
        tagger: from texts to a label each; None takes the records' own column `labels`.
        labels: that column.
        column: the texts' column.

    >>> LabelEntropy(lambda texts: [text[0] for text in texts])(["ab", "ac", "b", "bb"])
    1.0
    """

    tagger: Callable[[list[str]], Sequence[Any]] | None = None
    labels: str = "label"
    column: str = "text"

    def __call__(self, data: Data) -> float:
        """Of these texts or records."""
        if self.tagger is None:
            found: Iterable[Any] = [record[self.labels] for record in data]
        else:
            found = self.tagger(texts_of(data, self.column))
        return entropy(np.array(list(Counter(found).values()), float))


@dataclass(frozen=True)
class EmbeddingVendi:
    """The Vendi score of texts' embeddings: the number of different texts, as an encoder sees them.

    Args:
        encoder: from texts to a row of numbers each, such as `SentenceTransformer.encode`.
        q: order, see `vendi_score`.
        column: the texts' column.

    Source: Friedman and Dieng 2023 (arXiv 2210.02410).

    >>> EmbeddingVendi(lambda texts: np.eye(len(texts)))(["a", "b", "c"])
    3.0
    """

    encoder: Callable[[list[str]], Float[Any, "n dim"]]
    q: float = 1.0
    column: str = "text"

    def __call__(self, data: Data) -> float:
        """Of these texts or records."""
        return round(vendi_score(self.encoder(texts_of(data, self.column)), q=self.q), 9)


@dataclass(frozen=True)
class MeanPerplexity:
    """exp of a language model's mean loss over all response tokens (nats): how strange the data is.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        columns: names of prompt and response; for plain texts the prompt is empty.
        batch_size: texts at a time.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> metric = MeanPerplexity(tiny_decoder("0.05M", vocabulary=len(tokenizer)), tokenizer)
    >>> metric([{"prompt": "a = 1 ; a ?", "response": "=> 1"}]) > 1
    True
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    columns: tuple[str, str] = ("prompt", "response")
    batch_size: int = 16

    def __call__(self, data: Data) -> float:
        """Of these texts or records."""
        from generality.measures.response_logprob import response_logprob

        pairs = [
            ("", record) if isinstance(record, str) else tuple(record[c] for c in self.columns)
            for record in data
        ]
        found = response_logprob(
            self.model, self.tokenizer, *zip(*pairs, strict=True), reduce="none",
            batch_size=self.batch_size,
        )  # fmt: skip
        return float((-found.nanmean()).exp())


def texts_of(data: Data, column: str) -> list[str]:
    """The texts, whether they come bare or in records."""
    return [record[column] if isinstance(record, Mapping) else record for record in data]


def entropy(counts: Float[np.ndarray, " kinds"]) -> float:
    """Shannon entropy of counts, in bits; 0 for none.

    >>> entropy(np.array([2.0, 1.0, 1.0]))
    1.5
    """
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def _ngrams(texts: Iterable[str], n: int) -> Counter[tuple[str, ...]]:
    if n < 1:
        raise ValueError(f"n-grams have at least 1 word, not {n}")
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = text.lower().split()
        counts.update(zip(*(words[i:] for i in range(n)), strict=False))
    return counts
