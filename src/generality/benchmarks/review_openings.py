"""Reviews to be continued from their first words, and others by which to judge how."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from generality.benchmarks.benchmark import load_benchmark

Judged = tuple[list[str], Int[np.ndarray, " texts"]]
"""Texts, and 1 for those that are negative."""


class ReviewOpenings(NamedTuple):
    """Movie snippets in three parts that share none.

    Attributes:
        judge: a third, to learn what is negative from.
        selector: further ones, for a second opinion.
        texts: the rest, whole, in plain words.
        pairs: of each its first words and what follows.
    """

    judge: Judged
    selector: Judged
    texts: list[str]
    pairs: list[tuple[str, str]]


def review_openings(words: int, *, selector: int = 300) -> ReviewOpenings:
    """Snippets that have at least three words after their opening, in an order of chance.

    Args:
        words: of an opening.
        selector: texts for the second opinion.
    """
    train = load_benchmark("sentiment", domain="movie").splits["train"].shuffle(seed=0)
    texts = [plain_words(text) for text in train["text"]]
    negative = 1 - np.array(train["label"][:])
    third = len(texts) // 3
    parts = np.split(np.arange(len(texts)), [third, third + selector])
    judge, second = (([texts[row] for row in rows], negative[rows]) for rows in parts[:2])
    read = [text for text in texts[third + selector :] if len(text.split()) > words + 2]
    split = [text.split() for text in read]
    pairs = [(" ".join(each[:words]), " ".join(each[words:])) for each in split]
    return ReviewOpenings(judge, second, read, pairs)


def plain_words(text: str) -> str:
    """Lower case, words and signs apart, as tiny writers read.

    >>> plain_words("It's GREAT, really!")
    "it's great , really !"
    """
    return " ".join(re.findall(r"[a-z']+|[.,!?]", text.lower()))
