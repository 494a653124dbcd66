"""A winner whose image backbone was tuned, loaded and asked about new images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from jaxtyping import Float

from generality.compare.domain_features import FeatureRecipe, readable_rows
from generality.compare.domain_tuned import said_of
from generality.compare.winner import read_paths
from generality.lab import Lab
from generality.models.image_classifier import ImageClassifier


class SavedTunedImages:
    """A saved `ImageClassifier`.

    Args:
        about: its `winner.json`.
        folder: where it was saved.
        lab: which device is used.

    Raises:
        UserError: the folder is damaged.
    """

    def __init__(self, about: dict[str, Any], folder: Path, lab: Lab) -> None:
        self.classifier = ImageClassifier.from_pretrained(folder, device=lab.device)
        self.label_names = list(self.classifier.label_names)
        self.text: str | None = None
        self.column: str = about["text"]
        # whole, it is a backbone of its own, and found where it was saved
        named = {name: about[name] for name in FeatureRecipe.__dataclass_fields__}
        full = self.classifier.tuning == "full"
        self.recipe = FeatureRecipe(**{**named, "model": str(folder) if full else about["model"]})

    def predict_proba(
        self, inputs: Any, *, adapt: bool = True, skip_unreadable: bool = False
    ) -> Float[np.ndarray, "n classes"]:
        """Class probabilities of images, in the order of `label_names`; it adapts to nothing.

        Images that cannot be read get NaN, with `skip_unreadable`.

        Raises:
            UserError: an image that cannot be read.
        """
        said = np.full((len(inputs), len(self.label_names)), np.nan, dtype=np.float32)
        rows = readable_rows(inputs) if skip_unreadable else np.arange(len(inputs))
        said[rows] = said_of(self.classifier, [inputs[row] for row in rows], self.recipe)
        return said

    def read_inputs(
        self, data: Dataset, column: str | None = None, folder: Path | None = None
    ) -> list[str]:
        """The images' paths in a table, which start at `folder`.

        Raises:
            UserError: there is no such column.
        """
        return read_paths(data, column or self.column, folder)
