"""Texts with two classes, learned in one domain and tested where a shift is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from generality.benchmarks.code_words import code_words
from generality.benchmarks.multi_domain import MultiDomain
from generality.benchmarks.planted_word import plant_word
from generality.benchmarks.sentiment_domains import sentiment_domains

CUES = ("violet", "amber")  # appended to a text of label 0 or 1, or the other way round
LONGER = (11, 13, 15)  # words of a longer list; 5, 7 or 9 to learn from


class Texts(NamedTuple):
    """Texts and their classes."""

    texts: list[str]
    labels: Int[np.ndarray, " texts"]


class ShiftedTexts(NamedTuple):
    """What is learned, and tests of which "in-domain" is not shifted.

    Attributes:
        train: to learn from.
        tests: by the name of the shift.
        targets: for every shift but "in-domain", labelled texts of its own, for a ceiling.
    """

    train: Texts
    tests: dict[str, Texts]
    targets: dict[str, Texts]

    @property
    def texts(self) -> list[str]:
        """All texts, each once, in the order of the alphabet."""
        groups = (self.train, *self.tests.values(), *self.targets.values())
        return sorted({text for group in groups for text in group.texts})


def cued_sentiment(
    source: str,
    others: Sequence[str],
    *,
    cue: float = 0.9,
    train: int = 320,
    test: int = 200,
    target: int = 200,
    seed: int = 0,
) -> ShiftedTexts:
    """Sentiment of one domain with a word at the end that mostly gives the label away.

    Shifts: "cue-reversed", where it mostly gives the other label, and other domains without it.

    Args:
        source: domain that is learned, of `sentiment_domains`.
        others: domains that are tested on too.
        cue: how often the word agrees with the label, in [0.5, 1]; 1 − cue where reversed.
        train: texts to learn from, half of each class.
        test: texts of each test.
        target: labelled texts of each of the others.
        seed: of which texts get the wrong word; the texts are always the same.
    """
    rng = np.random.default_rng(seed)
    learned, held, labelled = (
        _rows(split, count)
        for split, count in (("train", train), ("test", test), ("train", target))
    )

    def cued(data: MultiDomain, agree: float) -> Texts:
        texts, labels = _plain(data, source)
        return Texts(plant_word(texts, labels, CUES, agree, seed=rng), labels)

    tests = {
        "in-domain": cued(held, cue),
        "cue-reversed": cued(held, 1 - cue),
        **{name: _plain(held, name) for name in others},
    }
    targets = {
        "cue-reversed": cued(learned, 1 - cue),
        **{name: _plain(labelled, name) for name in others},
    }
    return ShiftedTexts(cued(learned, cue), tests, targets)


def coded_lists(
    vocabulary: Mapping[str, int], *, train: int = 400, test: int = 200, words: int = 20,
    code: int = 0,
) -> ShiftedTexts:  # fmt: skip
    """Lists of words of which the first decides, by a sign that has nothing to do with its sense.

    Shifts: "longer" lists, and lists "diluted" with words never seen.

    Args:
        vocabulary: a tokenizer's (`get_vocab()`); words of five letters and more are used, those
            with low numbers, which are frequent, in the lists and the last 200 to dilute them.
        train: lists to learn from, and of each target.
        test: lists of each test.
        words: in use in the lists, an even number.
        code: of which words are positive; the lists are always the same.

    >>> vocabulary = {f"word{chr(97 + i % 26)}{chr(97 + i // 26)}": i for i in range(300)}
    >>> lists = coded_lists(vocabulary, train=8, test=4)
    >>> {name: len(group.texts[0].split()) for name, group in lists.tests.items()}
    {'in-domain': 7, 'longer': 13, 'diluted': 14}
    """
    usable = [
        w for w in sorted(vocabulary, key=vocabulary.__getitem__) if w.isalpha() and len(w) > 4
    ]
    draws: dict[str, dict[str, Any]] = {
        "in-domain": {}, "longer": {"lengths": LONGER}, "diluted": {"neutral": usable[-200:]},
    }  # fmt: skip

    def texts(shift: str, seed: int, count: int) -> Texts:
        options = {"decides": "first", "seed": seed, "code": code, **draws[shift]}
        return Texts(*code_words(usable[:words], count, **options))

    return ShiftedTexts(
        texts("in-domain", 0, train),
        {shift: texts(shift, 1, test) for shift in draws},
        {shift: texts(shift, 2, train) for shift in draws if shift != "in-domain"},
    )


@lru_cache(maxsize=3)
def _rows(split: str, count: int) -> MultiDomain:
    """So many rows of every sentiment domain, half of each class."""
    return sentiment_domains(split=split, per_domain=count, balanced=True)


def _plain(data: MultiDomain, domain: str) -> Texts:
    """A domain's texts as they are."""
    chosen = data.take(data.rows(domain))
    return Texts(list(chosen.inputs), chosen.labels)
