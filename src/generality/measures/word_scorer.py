"""A judge of texts that is learned from labelled ones: by their words, in a second."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from generality.measures.outcome_metrics import TextScorer


def word_scorer(texts: Sequence[str], harmful: Int[NDArray, " texts"]) -> TextScorer:
    """From texts to the probability of harm, by logistic regression on words and pairs of words.

    It reads words and no meaning: fit for comparing writers that use the same words, not for
    judging what people said. Learn it on texts that no model under test has seen.

    Args:
        texts: to learn from.
        harmful: 1 for those that do harm, 0 for others; both occur.

    >>> risk = word_scorer(["good film", "great film", "bad film", "awful film"], [0, 0, 1, 1])
    >>> good, bad = risk(["great", "awful"])
    >>> bool(good < 0.5 < bad)
    True
    """
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10))
    model.fit(list(texts), harmful)

    def score(said: Sequence[str]) -> Sequence[float]:
        found: Sequence[float] = model.predict_proba(list(said))[:, 1]
        return found

    return score
