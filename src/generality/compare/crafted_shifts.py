"""Validation inputs made harder on purpose, so that choosing on them favours what withstands shift.

Held-out rows of the training domains say little about a domain nobody has seen: there most
candidates look alike. Accuracy on strongly changed copies of these rows tells them apart without
looking at the target. Each kind of change is one category; a candidate's value is the mean over
categories (Efthymiadis et al. 2024, arXiv 2409.19774). Labels are taken to survive the change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def with_typos(text: str, rng: np.random.Generator) -> str:
    """A third of the words with one letter dropped, doubled, replaced or swapped with the next."""
    words = text.split()
    for place in np.flatnonzero(rng.random(len(words)) < 1 / 3):
        word = words[place]
        at, kind = int(rng.integers(len(word))), int(rng.integers(4))
        middle = ("", 2 * word[at], str(rng.choice(_LETTERS)), word[at + 1 : at + 2] + word[at])
        words[place] = word[:at] + middle[kind] + word[at + 1 + (kind == 3) :]
    return " ".join(words)


def with_words_dropped(text: str, rng: np.random.Generator) -> str:
    """The text without three in ten of its words (at least one is kept)."""
    words = text.split()
    kept = rng.random(len(words)) >= 0.3
    if words and not kept.any():
        kept[int(rng.integers(len(words)))] = True
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)


def first_half(text: str, rng: np.random.Generator) -> str:
    """The first half of the words."""
    words = text.split()
    return " ".join(words[: (len(words) + 1) // 2])


TEXT_SHIFTS: dict[str, Callable[[str, np.random.Generator], str]] = {
    "typos": with_typos,
    "dropped words": with_words_dropped,
    "first half": first_half,
}
IMAGE_SHIFTS = {"blur": 3, "noise": 3, "contrast": 3}
"""Kinds of `benchmarks.corrupt_inputs` and their strength, 1 to 5."""


def craft_texts(texts: Sequence[str], seed: int = 0) -> dict[str, list[str]]:
    """Every text changed in each of the ways of `TEXT_SHIFTS`.

    >>> crafted = craft_texts(["the plot was thin but the cast was good"])
    >>> crafted["first half"]
    ['the plot was thin but']
    """
    return {
        name: [change(text, np.random.default_rng((seed, row))) for row, text in enumerate(texts)]
        for name, change in TEXT_SHIFTS.items()
    }


def craft_columns(
    table: Float[np.ndarray, "n columns"], seed: int = 0
) -> dict[str, Float[np.ndarray, "n columns"]]:
    """A table of numbers changed in three ways.

    "noise" adds half a standard deviation of noise to every number; "lost columns" puts the mean
    in place of a fifth of each row's numbers; "moved columns" shifts whole columns, each by its
    own amount of about half a standard deviation, as another site's calibration would.

    >>> crafted = craft_columns(np.random.default_rng(0).normal(size=(100, 4)))
    >>> sorted(crafted), crafted["noise"].shape
    (['lost columns', 'moved columns', 'noise'], (100, 4))
    """
    rng = np.random.default_rng(seed)
    mean, spread = table.mean(0), table.std(0)
    lost = rng.random(table.shape) < 0.2
    return {
        "noise": table + 0.5 * spread * rng.normal(size=table.shape),
        "lost columns": np.where(lost, mean, table),
        "moved columns": table + 0.5 * spread * rng.normal(size=table.shape[1]),
    }


def craft_images(
    images: Float[np.ndarray, "n channels height width"], seed: int = 0
) -> dict[str, Float[np.ndarray, "n channels height width"]]:
    """Every image changed in each of the ways of `IMAGE_SHIFTS`."""
    from generality.benchmarks import corrupt_inputs

    craft: Callable[..., Any] = corrupt_inputs
    return {
        kind: craft(images, kind, strength, seed=seed) for kind, strength in IMAGE_SHIFTS.items()
    }
