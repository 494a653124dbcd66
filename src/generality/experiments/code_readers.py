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


class CodeReader:
    """Linear classification by what texts of code are made of.

    Args:
        texts: all that will be looked at, once.
        features: runs of one to three `code_words` are hashed to so many places.
        sizes: look at the logarithms of instructions, blocks and loops of IR instead.

    >>> reader = CodeReader(["a + b", "a * b", "c + d", "c * d", "e + f"])
    >>> reader.accuracy(["sum", "product", "sum", "product", "sum"], range(4), [4])
    1.0
    """

    def __init__(self, texts: Sequence[str], *, features: int = 4096, sizes: bool = False) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self.sizes = sizes
        hashed = HashingVectorizer(
            analyzer=_runs_of_words, n_features=features, alternate_sign=False, norm=None
        )
        self.found = _sizes(texts) if sizes else hashed.transform(texts)

    def accuracy(self, labels: Sequence[str], train: Sequence[int], test: Sequence[int]) -> float:
        """Share of the rows `test` whose label a support vector machine trained on `train` says."""
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import LinearSVC

        look = StandardScaler() if self.sizes else TfidfTransformer(sublinear_tf=True)
        model = make_pipeline(look, LinearSVC(random_state=0))
        truth, rows, held = np.asarray(labels), np.asarray(train), np.asarray(test)
        model.fit(self.found[rows], truth[rows])
        return float((model.predict(self.found[held]) == truth[held]).mean())


def _sizes(texts: Sequence[str]) -> np.ndarray:
    counts = [ir_counts(text) for text in texts]
    return np.log1p([[c.instructions, c.blocks, c.loops] for c in counts])


def _runs_of_words(text: str) -> list[str]:
    words = code_words(text)
    return [" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)]
