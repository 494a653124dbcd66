"""Strong changes that keep what an input is, by category: to validate on, and to train on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from generality.errors import unknown

Operation = Callable[[Any, np.random.Generator], Any]
"""From one input to a changed copy of it; what is random is drawn from the generator only."""


@dataclass(frozen=True)
class AugmentationBank:
    """Operations by category; of a category, each input gets one operation at random.

    The same input number, category and seed give the same copy, whatever else is crafted, so that
    copies can be made again in part. Two banks with different categories share no operation.

    Args:
        categories: operations by the category's name, in an order that `folds` follows.
        seed: of which operation an input gets and of what that draws.

    Source: Efthymiadis et al. 2024 (arXiv 2409.19774), section 3: copies are made once, strongly,
    one random operation of a category each.

    >>> bank = AugmentationBank({"shout": [lambda text, rng: text.upper()],
    ...                          "whisper": [lambda text, rng: f"({text})"]})
    >>> bank.craft(["a plot", "no plot"], "shout")
    ['A PLOT', 'NO PLOT']
    >>> [fold.names for fold in bank.folds(2)]
    [('shout',), ('whisper',)]
    """

    categories: Mapping[str, Sequence[Operation]]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.categories or not all(self.categories.values()):
            raise ValueError("a bank has at least one category, each with at least one operation")

    @property
    def names(self) -> tuple[str, ...]:
        """The categories, in order."""
        return tuple(self.categories)

    def craft(self, inputs: Any, category: str, ids: Sequence[int] | None = None) -> Any:
        """A copy of every input, changed by one operation of the category.

        Args:
            inputs: an array (n, …), or a sequence of n texts.
            category: its name.
            ids: a number ≥ 0 for each input, by which its draws are known; None: its place.

        Returns:
            An array like `inputs`, or a list.

        Raises:
            UserError: there is no such category.
        """
        if category not in self.categories:
            raise unknown("category of augmentations", category, self.categories)
        operations = self.categories[category]
        name = zlib.crc32(category.encode())
        found = []
        for row, each in zip(range(len(inputs)) if ids is None else ids, inputs, strict=True):
            rng = np.random.default_rng((self.seed, name, int(row)))
            found.append(operations[int(rng.integers(len(operations)))](each, rng))
        if not isinstance(inputs, np.ndarray):
            return found
        return np.asarray(found, dtype=inputs.dtype).reshape(inputs.shape)

    def craft_all(self, inputs: Any, ids: Sequence[int] | None = None) -> dict[str, Any]:
        """`craft` for every category, by name."""
        return {name: self.craft(inputs, name, ids) for name in self.names}

    def only(self, names: Iterable[str]) -> AugmentationBank:
        """The bank with these categories alone; their copies stay what they are."""
        for name in (names := tuple(names)):
            if name not in self.categories:
                raise unknown("category of augmentations", name, self.categories)
        return replace(self, categories={name: self.categories[name] for name in names})

    def folds(self, k: int = 2) -> tuple[AugmentationBank, ...]:
        """The bank cut into k with whole categories, in their order; sizes differ by 1 at most.

        Raises:
            ValueError: fewer categories than folds, or k < 1.
        """
        if not 1 <= k <= len(self.names):
            raise ValueError(f"{len(self.names)} categories cannot make {k} folds")
        cuts = [len(self.names) * fold // k for fold in range(k + 1)]
        return tuple(self.only(self.names[a:b]) for a, b in pairwise(cuts))


# Texts --------------------------------------------------------------------------------------------

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


def in_capitals(text: str, rng: np.random.Generator) -> str:
    """Everything in capitals."""
    return text.upper()


def in_small_letters(text: str, rng: np.random.Generator) -> str:
    """Everything in small letters, without punctuation."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def text_bank(
    seed: int = 0, *, synonyms: Mapping[str, Sequence[str]] | None = None
) -> AugmentationBank:
    """Categories for texts: "typos", "dropped words", "first half", "case".

    Args:
        seed: of the bank.
        synonyms: words that may stand for a word (in small letters); adds the category "synonyms",
            in which every word that has some is replaced by one of them.

    >>> text_bank(synonyms={"film": ["movie"]}).craft(["a film to love"], "synonyms")
    ['a movie to love']
    """
    categories: dict[str, Sequence[Operation]] = {
        "typos": [with_typos],
        "dropped words": [with_words_dropped],
        "first half": [first_half],
        "case": [in_capitals, in_small_letters],
    }
    if synonyms:

        def replaced(text: str, rng: np.random.Generator) -> str:
            choices = [synonyms.get(word.lower()) or [word] for word in text.split()]
            return " ".join(words[int(rng.integers(len(words)))] for words in choices)

        categories["synonyms"] = [replaced]
    return AugmentationBank(categories, seed)


# Tables -------------------------------------------------------------------------------------------


def table_bank(table: Float[np.ndarray, "n columns"], seed: int = 0) -> AugmentationBank:
    """Categories for rows of numbers, in the units of a reference table's columns.

    "noise" adds half a standard deviation of noise to every number; "lost columns" puts the mean
    in place of a fifth of a row's numbers; "moved columns" shifts whole columns, each by its own
    amount of about half a standard deviation for all rows, as another site's calibration would.

    >>> table = np.random.default_rng(0).normal(size=(100, 4))
    >>> {name: copy.shape for name, copy in table_bank(table).craft_all(table).items()}
    {'noise': (100, 4), 'lost columns': (100, 4), 'moved columns': (100, 4)}
    """
    mean, spread = table.mean(0), table.std(0)
    moved = 0.5 * spread * np.random.default_rng(seed).normal(size=table.shape[1])
    return AugmentationBank(
        {
            "noise": [lambda row, rng: row + 0.5 * spread * rng.normal(size=row.shape)],
            "lost columns": [lambda row, rng: np.where(rng.random(row.shape) < 0.2, mean, row)],
            "moved columns": [lambda row, rng: row + moved],
        },
        seed,
    )
