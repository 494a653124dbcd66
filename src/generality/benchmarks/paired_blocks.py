"""Dominoes: examples made of one from each of two labelled sets, joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

Labelled = tuple[Any, Sequence[int] | np.ndarray]
"""Examples, an array (n, …) or a list of n texts, and the class of each."""


@dataclass(frozen=True)
class PairedBlocks:
    """Joined examples and what each of their two blocks shows.

    Attributes:
        inputs: array (n, …), or list of n texts.
        first: (n,) class of the first block.
        second: (n,) class of the second block.
        blocks: "first" and "second" -> where the block is in one example, as an index of it; for
            `measures.randomized_score`. Empty for texts.
    """

    inputs: np.ndarray | list[str]
    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    blocks: dict[str, tuple[slice, ...]]


def paired_blocks(
    first: Labelled,
    second: Labelled,
    *,
    axis: int = -2,
    agreement: float = 1.0,
    count: int | None = None,
    seed: int = 0,
) -> PairedBlocks:
    """Join examples of two sets such that both blocks show the same class as often as you say.

    Which block is the true cue and which the shortcut is up to whoever takes the labels. To train
    on what the test never shows, split both sets before.

    Args:
        first: images, feature vectors or texts, and their classes 0, 1, …
        second: the same kind; all axes but `axis` are as long. It has every class that `first` has.
        axis: of an example, along which they are joined: −2 puts the first image above the second,
            −1 beside it (feature vectors: −1). Texts are joined by a space.
        agreement: share in [0, 1] of each class's pairs in which both blocks show the same class;
            in the others the second shows another class, at random. 1/classes makes them
            independent.
        count: pairs in all, the classes in equal shares; None for as many as the rarest class of
            `first` allows without using an example twice.
        seed: of who is paired with whom, and of the order.

    Returns:
        The pairs. An example is used twice only where a class has too few.

    Raises:
        ValueError: sets that cannot be joined, a class that `second` lacks, an agreement out of
            range.

    Source: Shah et al. 2020 (arXiv 2006.07710), MNIST-CIFAR; Pagliardini et al. 2022 (arXiv
    2202.04414), dominoes.

    >>> zeros_and_ones = (np.zeros((6, 4, 4)), [0, 1, 0, 1, 0, 1])
    >>> pairs = paired_blocks(zeros_and_ones, (np.ones((8, 2, 4)), [0, 1] * 4))
    >>> pairs.inputs.shape, bool((pairs.first == pairs.second).all())
    ((6, 6, 4), True)
    >>> pairs.blocks["second"]
    (slice(4, 6, None), slice(0, 4, None))
    >>> paired_blocks((["good", "bad"], [1, 0]), (["warm", "cold"], [1, 0])).inputs[0].count(" ")
    1
    """
    if not 0 <= agreement <= 1:
        raise ValueError(f"agreement is a share in [0, 1], not {agreement}")
    of_first, of_second = (_by_class(labels) for _, labels in (first, second))
    classes = np.array(list(of_first))
    if missing := set(of_first) - set(of_second):
        raise ValueError(f"the second set has no examples of the classes {sorted(missing)}")
    if agreement < 1 and len(classes) < 2:
        raise ValueError("blocks of a single class cannot disagree")
    rng = np.random.default_rng(seed)
    if count is None:
        count = min(map(len, of_first.values())) * len(classes)

    place = rng.permutation(np.arange(count) % len(classes))
    other = (place + rng.integers(1, max(len(classes), 2), count)) % len(classes)
    agree = np.zeros(count, dtype=bool)
    for which in range(len(classes)):
        rows = rng.permutation(np.flatnonzero(place == which))
        agree[rows[: round(agreement * len(rows))]] = True
    shown_first, shown_second = classes[place], classes[np.where(agree, place, other)]
    rows_first, rows_second = (
        _draw(shown, of, rng) for shown, of in ((shown_first, of_first), (shown_second, of_second))
    )
    inputs, blocks = _joined(first[0], rows_first, second[0], rows_second, axis)
    return PairedBlocks(inputs, shown_first, shown_second, blocks)


def _by_class(labels: Sequence[int] | np.ndarray) -> dict[int, np.ndarray]:
    codes = np.asarray(labels)
    return {int(code): np.flatnonzero(codes == code) for code in np.unique(codes)}


def _draw(shown: np.ndarray, of: dict[int, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """For each pair a row of the class to be shown, all of them once before any a second time."""
    drawn = np.empty(len(shown), dtype=np.int64)
    for code in np.unique(shown):
        places = np.flatnonzero(shown == code)
        members = of[int(code)]
        rounds = -(-len(places) // len(members))
        order = np.concatenate([rng.permutation(members) for _ in range(rounds)])
        drawn[places] = order[: len(places)]
    return drawn


def _joined(
    first: Any, rows_first: np.ndarray, second: Any, rows_second: np.ndarray, axis: int
) -> tuple[np.ndarray | list[str], dict[str, tuple[slice, ...]]]:
    if not isinstance(first, np.ndarray):
        pairs = zip(rows_first, rows_second, strict=True)
        return [f"{first[i]} {second[j]}" for i, j in pairs], {}
    along = axis if axis < 0 else axis + 1
    inputs = np.concatenate([first[rows_first], second[rows_second]], axis=along)
    end = first.shape[along]
    blocks = {}
    for name, part in (("first", slice(0, end)), ("second", slice(end, inputs.shape[along]))):
        where = [slice(0, length) for length in inputs.shape]
        where[along] = part
        blocks[name] = tuple(where[1:])
    return inputs, blocks
