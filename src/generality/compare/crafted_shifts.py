"""Validation inputs made harder on purpose, so that choosing on them favours what withstands shift.

Held-out rows of the training domains say little about a domain nobody has seen: there most
candidates look alike. Accuracy on strongly changed copies of these rows tells them apart without
looking at the target. Each kind of change is one category; a candidate's value is the mean over
categories (Efthymiadis et al. 2024, arXiv 2409.19774). Labels are taken to survive the change.

The copies come from the banks of `generality.benchmarks`; a frozen backbone has to embed every
category, so images and texts get three of them here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from generality.benchmarks import image_bank, table_bank, text_bank

TEXT_SHIFTS = ("typos", "dropped words", "first half")
IMAGE_SHIFTS = ("arithmetic", "blur", "contrast")


def craft_texts(texts: Sequence[str], seed: int = 0) -> dict[str, list[str]]:
    """Every text changed in each of the ways of `TEXT_SHIFTS`.

    >>> crafted = craft_texts(["the plot was thin but the cast was good"])
    >>> crafted["first half"]
    ['the plot was thin but']
    """
    return text_bank(seed).only(TEXT_SHIFTS).craft_all(list(texts))


def craft_columns(
    table: Float[np.ndarray, "n columns"], seed: int = 0
) -> dict[str, Float[np.ndarray, "n columns"]]:
    """A table of numbers changed in the three ways of `table_bank`.

    >>> crafted = craft_columns(np.random.default_rng(0).normal(size=(100, 4)))
    >>> sorted(crafted), crafted["noise"].shape
    (['lost columns', 'moved columns', 'noise'], (100, 4))
    """
    return table_bank(table, seed).craft_all(table)


@dataclass(frozen=True)
class CraftedImage:
    """An image that is changed when it is read, so that the copies take no memory.

    Attributes:
        image: a path, an array, or what names the image.
        shift: one of `IMAGE_SHIFTS`.
        row: its number, by which its change is known.
    """

    image: Any
    shift: str
    row: int

    def change(
        self, pixels: Float[np.ndarray, "3 height width"], seed: int = 0
    ) -> Float[np.ndarray, "3 height width"]:
        """The image's pixels, changed."""
        changed: np.ndarray = image_bank(seed).craft(pixels[None], self.shift, ids=[self.row])[0]
        return changed
