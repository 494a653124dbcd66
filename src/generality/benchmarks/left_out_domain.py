"""Leave one domain out: what is learned from the others, and tests on both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from generality.benchmarks.multi_domain import MultiDomain
from generality.benchmarks.sentiment_domains import sentiment_domains
from generality.benchmarks.splits import stratified

Labelled = tuple[Any, Int[np.ndarray, " n"]]
"""Inputs (texts, or images in one array) and their classes."""


class LeftOut(NamedTuple):
    """A target domain that is not learned from.

    Attributes:
        sources: training rows of the other domains.
        own: as many training rows of the target, for a ceiling.
        tests: "source" and "target", none of them among training rows.
    """

    sources: Labelled
    own: Labelled
    tests: dict[str, Labelled]


def left_out_texts(
    target: str, domains: Sequence[str], *, train: int, validation: int, test: int
) -> LeftOut:
    """Texts of `sentiment_domains`, half of each class.

    Args:
        target: the domain left out.
        domains: all that take part, the target among them.
        train: training texts of each source; the target has as many as all sources together.
        validation: held-out texts of each source.
        test: of the target.
    """

    def rows(names: Sequence[str], split: str, count: int) -> Labelled:
        # drawn, half of each class: the file of movie snippets is sorted by rating
        data = sentiment_domains(split=split, per_domain=count, balanced=True)
        chosen = data.take(np.concatenate([data.rows(name) for name in names]))
        return list(chosen.inputs), chosen.labels

    return _left_out(rows, target, domains, train, validation, test)


def left_out_images(
    data: MultiDomain, target: str, domains: Sequence[str], *, train: int, validation: int,
    test: int,
) -> LeftOut:  # fmt: skip
    """Images by domain, four fifths of each for training, classes in proportion.

    Args:
        data: images of one size.
        target: the domain left out.
        domains: all that take part, the target among them.
        train: training images of each source, at most; the target has as many as all together.
        validation: held-out images of each source, at most.
        test: of the target, at most.

    >>> inputs = np.zeros((40, 3, 2, 2), np.float32)
    >>> data = MultiDomain(
    ...     inputs, np.arange(40) % 2, np.arange(40) // 20, ("cat", "dog"), ("photo", "sketch")
    ... )
    >>> found = left_out_images(data, "sketch", ["photo", "sketch"], train=8, validation=2, test=4)
    >>> len(found.sources[1]), len(found.own[1]), {k: len(y) for k, (_, y) in found.tests.items()}
    (8, 8, {'source': 2, 'target': 4})
    """

    def rows(names: Sequence[str], split: str, count: int) -> Labelled:
        chosen = []
        for name in names:
            mine = data.rows(name)
            train = mine[stratified(data.labels[mine], len(mine) * 4 // 5, 0)]
            part = train if split == "train" else np.setdiff1d(mine, train)
            chosen.append(part[stratified(data.labels[part], min(count, len(part)), 0)])
        found = np.concatenate(chosen)
        return np.asarray(data.inputs)[found].astype(np.float32), data.labels[found]

    return _left_out(rows, target, domains, train, validation, test)


def _left_out(
    rows: Callable[[Sequence[str], str, int], Labelled], target: str, domains: Sequence[str],
    train: int, validation: int, test: int,
) -> LeftOut:  # fmt: skip
    sources = [name for name in domains if name != target]
    tests = {
        "source": rows(sources, "test", validation),
        "target": rows([target], "test", test),
    }
    own = rows([target], "train", train * len(sources))  # as many, so as many steps
    return LeftOut(rows(sources, "train", train), own, tests)
