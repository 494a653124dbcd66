"""Sequences of tokens to classify: look up a key, work out a nested list, read a digit."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

_OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}
_SYMBOLS = {symbol: 2 + i for i, symbol in enumerate([*"0123456789", *_OPERATORS, "]"])}


@dataclass(frozen=True)
class SequenceTask:
    """Token sequences with labels, for training and for testing.

    Attributes:
        tokens: (n, length); 0 is padding, which comes last.
        labels: (n,).
        test_tokens, test_labels: the same, of other sequences.
        vocabulary: tokens are below it.
        classes: labels are below it.
    """

    tokens: Int[np.ndarray, "n length"]
    labels: Int[np.ndarray, " n"]
    test_tokens: Int[np.ndarray, "m length"]
    test_labels: Int[np.ndarray, " m"]
    vocabulary: int
    classes: int


def lookup(
    train: int, test: int, *, keys: int = 32, values: int = 4, seed: int = 0
) -> SequenceTask:
    """A key, then one token for each pair of a key and its value, in any order: which value?

    Only attention to one of the `keys` pairs, found by its content, solves it; chance is
    1 / values.

    >>> task = lookup(100, 10, keys=3, values=2)
    >>> asked, pairs = task.tokens[0, 0] - 1, task.tokens[0, 1:] - 4
    >>> bool(task.labels[0] == next(pair % 2 for pair in pairs if pair // 2 == asked))
    True
    """
    rng = np.random.default_rng(seed)
    count = train + test
    held = rng.integers(values, size=(count, keys))
    pairs = 1 + keys + np.arange(keys) * values + held
    asked = rng.integers(keys, size=count)
    tokens = np.column_stack([1 + asked, rng.permuted(pairs, axis=1)])
    labels = held[np.arange(count), asked]
    return SequenceTask(
        tokens[:train], labels[:train], tokens[train:], labels[train:],
        vocabulary=1 + keys + keys * values, classes=values,
    )  # fmt: skip


def list_ops(
    train: int, test: int, *, depth: int = 3, length: int = 48, seed: int = 0
) -> SequenceTask:
    """Nested prefix lists such as [MAX 2 [MIN 4 7 ] 0 ]: which digit do they come to?

    Minimum, maximum, median (rounded down) and sum modulo 10 of 2 to 5 digits or lists, nested at
    most `depth` deep; longer ones than `length` tokens are drawn anew. Token 1 comes first.

    Source: Nangia and Bowman 2018; Long Range Arena's has lists of up to 2000 tokens.

    >>> list_ops(5, 5, depth=2, length=16).tokens.shape
    (5, 16)
    """
    rng = np.random.default_rng(seed)
    tokens = np.zeros((train + test, length), np.int64)
    labels: list[int] = []
    while len(labels) < train + test:
        symbols, value = _list(rng, depth)
        if len(symbols) < length:
            row = [1, *(_SYMBOLS[symbol] for symbol in symbols)]
            tokens[len(labels), : len(row)] = row
            labels.append(value)
    answers = np.array(labels)
    return SequenceTask(
        tokens[:train], answers[:train], tokens[train:], answers[train:],
        vocabulary=2 + len(_SYMBOLS), classes=10,
    )  # fmt: skip


def pixel_digits(train: int, test: int, *, seed: int = 0) -> SequenceTask:
    """Scikit-learn's handwritten digits of 8 × 8 pixels, one token a pixel after a first token 1.

    Raises:
        ValueError: more than the 1797 there are.

    >>> pixel_digits(100, 50).tokens.shape
    (100, 65)
    """
    from sklearn.datasets import load_digits  # slow to import

    images, labels = load_digits(return_X_y=True)
    if train + test > len(labels):
        raise ValueError(f"there are {len(labels)} digits, not {train + test}")
    rows = np.random.default_rng(seed).permutation(len(labels))[: train + test]
    tokens = np.column_stack([np.ones(len(rows), np.int64), 2 + images[rows].astype(np.int64)])
    labels = labels[rows]
    return SequenceTask(
        tokens[:train], labels[:train], tokens[train:], labels[train:], vocabulary=19, classes=10
    )


def _list(rng: np.random.Generator, depth: int) -> tuple[list[str], int]:
    operator = str(rng.choice(list(_OPERATORS)))
    symbols, values = [operator], []
    for _ in range(rng.integers(2, 6)):
        if depth > 1 and rng.random() < 0.3:
            inner, value = _list(rng, depth - 1)
        else:
            value = int(rng.integers(10))
            inner = [str(value)]
        symbols += inner
        values.append(value)
    return [*symbols, "]"], _OPERATORS[operator](values)
