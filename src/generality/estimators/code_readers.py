"""What can be learned from texts of code in seconds: how to compress more of it, what it does."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from generality.benchmarks.llvm_ir import ir_counts
from generality.measures.ngram_bits import NGramBits


@dataclass(frozen=True)
class CodeCompressor:
    """How many times smaller an n-gram model of some texts makes others.

    That is 8 bits a byte over the model's bits a byte, so tokenizers can be compared.

    Attributes:
        encode: a text's token ids.
        vocabulary: how many there are.
        order: tokens looked at, the predicted one included.

    >>> compressor = CodeCompressor(lambda text: list(text.encode()), 256, order=3)
    >>> compressor(["add add add"] * 9, ["add add"]) > compressor(["mul"], ["add add"])
    True
    """

    encode: Callable[[str], Sequence[int]]
    vocabulary: int
    order: int = 5

    def __call__(self, train: Sequence[str], test: Sequence[str]) -> float:
        """Learn from the first texts, compress the others."""
        model = NGramBits(self.vocabulary, order=self.order).fit(map(self.encode, train))
        bits = sum(model.bits(self.encode(text)) for text in test)
        return 8 * sum(len(text.encode()) for text in test) / bits


def first_bytes(texts: Sequence[str], size: int) -> list[str]:
    """The first texts that hold `size` bytes, the last one included; all where there are fewer.

    >>> first_bytes(["ab", "cd", "ef"], 3)
    ['ab', 'cd']
    """
    ends = np.cumsum([len(text.encode()) for text in texts])
    return list(texts[: int(np.searchsorted(ends, size)) + 1])


def code_words(text: str) -> list[str]:
    """Words and signs of source code or IR; numbered values and symbols become % and @.

    >>> code_words("%12 = add i64 %3, 7")
    ['%', '=', 'add', 'i64', '%', ',', '7']
    """
    return re.findall(r"[%@](?=\d)|[%@]?[A-Za-z_][\w.]*|(?<![%@\w])\d+|[^\s\w]", text)


def read_labels(
    train: Sequence[str],
    labels: Sequence[str],
    test: Sequence[str],
    truth: Sequence[str],
    *,
    features: int = 4000,
    sizes: bool = False,
) -> float:
    """Accuracy of logistic regression on what texts of code are made of.

    Args:
        train: texts to learn from, with `labels`.
        test: texts to be judged on, with `truth`.
        features: runs of one to three `code_words`, the most frequent ones.
        sizes: look at the logarithms of instructions, blocks and loops of IR instead.

    >>> read_labels(["a + b", "a * b"] * 5, ["sum", "product"] * 5, ["c + d"], ["sum"])
    1.0
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    if sizes:
        look = make_pipeline(FunctionTransformer(_sizes), StandardScaler())
    else:
        look = TfidfVectorizer(
            analyzer=_runs_of_words, max_features=features, sublinear_tf=True, dtype=np.float32
        )
    model = make_pipeline(look, LogisticRegression(C=30.0, max_iter=200))
    model.fit(list(train), list(labels))
    return float((model.predict(list(test)) == np.asarray(truth)).mean())


def _sizes(texts: Sequence[str]) -> np.ndarray:
    counts = [ir_counts(text) for text in texts]
    return np.log1p([[c.instructions, c.blocks, c.loops] for c in counts])


def _runs_of_words(text: str) -> list[str]:
    words = code_words(text)
    return [" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)]
