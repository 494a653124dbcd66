"""Hashed word counts: the lowest rung of the ladder of models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import nn


class BagOfWords(nn.Module):
    """Which words a text has, hashed into a vector of length 1.

    Nothing is fitted: no vocabulary, no document frequencies, so features of a text never depend
    on other texts. Words are lower-cased runs of two or more letters or digits. Each occurrence
    of a word or run of words adds +1 or −1 (its hash says which, so collisions cancel on average)
    at the place it hashes to; a sum c becomes sign(c)·log(1+|c|), and the vector is scaled to
    length 1. A text without words is all zeros.

    It is an `nn.Module` without parameters, so that it stands where any model does.

    Source: Weinberger et al. 2009 (arXiv 0902.2206), feature hashing with signs.

    Args:
        num_features: length of the vector. Short ones cost accuracy: words that share a place
            cannot be told apart.
        ngrams: longest run of words that counts as one feature.

    Raises:
        ValueError: either is below 1.

    >>> features = BagOfWords(num_features=64).encode(["good film", "film", ""])
    >>> features.shape, features.dtype, (features**2).sum(1).round(4).tolist()
    ((3, 64), dtype('float32'), [1.0, 1.0, 0.0])
    """

    def __init__(self, num_features: int = 16_384, *, ngrams: int = 1) -> None:
        super().__init__()
        if num_features < 1 or ngrams < 1:
            raise ValueError(
                f"num_features and ngrams are at least 1, not {num_features} and {ngrams}"
            )
        from sklearn.feature_extraction.text import HashingVectorizer  # slow; few need it

        self.num_features, self.ngrams = num_features, ngrams
        self._vectorizer = HashingVectorizer(
            n_features=num_features, ngram_range=(1, ngrams), norm=None, dtype=np.float32
        )

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "texts num_features"]:
        """The features of each text, float32, of length 1 (or 0)."""
        from sklearn.preprocessing import normalize

        if not len(texts):
            return np.zeros((0, self.num_features), dtype=np.float32)
        counts = self._vectorizer.transform(texts)
        counts.data = np.sign(counts.data) * np.log1p(np.abs(counts.data))
        return normalize(counts, copy=False).toarray()

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"num_features={self.num_features}, ngrams={self.ngrams}"
