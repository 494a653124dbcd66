"""Weak labels handed up through intermediate models before the student learns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from generality.compare.students import Recipe, make_students
from generality.lab import Lab
from generality.objectives import soft_cross_entropy


class Bootstrap:
    """A chain of models, each taught by the labels of the one before it.

    All learn the same rows by the student's recipe and cross-entropy, and label these very rows
    for the next, as the source does.

    Source: Burns et al. 2023 (arXiv 2312.09390), section 4.3.1.

    Args:
        lab: where the work is done.
        texts: of all rows.
        recipe: of the student; only the backbone differs, read at its last hidden state.
        via: the models between the weak labels and the student, weakest first.

    Raises:
        UserError: a model that cannot follow the recipe.
    """

    def __init__(self, lab: Lab, texts: list[str], recipe: Recipe, via: Sequence[str]) -> None:
        self.lab, self.texts = lab, texts
        self.recipes = [replace(recipe, model=name, layer=None, pooling=None) for name in via]
        for each in self.recipes:
            each.check()

    def labels(
        self,
        rows: Int[np.ndarray, "seeds n"],
        weak: Float[np.ndarray, "seeds n classes"],
    ) -> Float[np.ndarray, "seeds n classes"]:
        """What the last model of the chain says of the rows, for each seed."""
        for recipe in self.recipes:
            students = make_students(self.lab, self.texts, recipe, weak.shape[-1])
            weak = students.predict(soft_cross_entropy, rows, weak, rows)
        return weak.astype(np.float32)
