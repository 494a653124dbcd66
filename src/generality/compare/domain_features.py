"""What a comparison over domains learns from: features of texts and images, or the numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from generality.benchmarks.image_folders import load_images
from generality.compare.crafted_shifts import craft_columns, craft_images, craft_texts
from generality.compare.domain_table import DomainTable, Kind
from generality.compare.students import Recipe
from generality.errors import UserError
from generality.lab import Lab
from generality.lab.features import embed
from generality.lab.fingerprint import file_fingerprint, fingerprint
from generality.models import fetch_model, load_model
from generality.models.identity import model_identity

BACKBONES = {"text": "minilm-l6", "image": "efficientnet-lite0", "numeric": ""}
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
_SPREAD = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]


@dataclass(frozen=True)
class FeatureRecipe:
    """The frozen backbone and how it is read.

    Attributes:
        model: name, `hf:org/name` or path; "" where the inputs are numbers already.
        layer: hidden state read; None is the last.
        pooling: "mean", "last", "cls" or None for the model's own.
        max_length: tokens of a text that are read.
        image_size: side in pixels to which images are brought; None is the model's own.
    """

    model: str
    layer: int | None = None
    pooling: str | None = None
    max_length: int = 256
    image_size: int | None = None

    @classmethod
    def of(cls, kind: Kind, model: str | None = None, **options: Any) -> FeatureRecipe:
        """The recipe for a kind of input; None is its usual backbone.

        Raises:
            UserError: a backbone for numbers.
        """
        if kind == "numeric" and model:
            raise UserError(f"--model {model}: columns of numbers need no backbone; leave it out.")
        return cls(BACKBONES[kind] if model is None else model, **options)

    def check(self, kind: Kind) -> None:
        """Raise a `UserError` for a backbone that does not read such inputs."""
        if kind == "text":
            Recipe(
                self.model, layer=self.layer, pooling=self.pooling, max_length=self.max_length
            ).check()
        elif kind == "image":
            folder = fetch_model(self.model)
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if "vocab_size" in config:
                raise UserError(f"'{self.model}' reads text, not images; name an image backbone.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def feature_views(
    table: DomainTable, recipe: FeatureRecipe, lab: Lab, *, crafted: bool = True
) -> dict[str, Float[np.ndarray, "n dim"]]:
    """Features of every row: under "" as it is, and under the name of each crafted shift."""
    views = {"": features_of(table.kind, table.inputs, recipe, lab)}
    if not crafted:
        return views
    if table.kind == "numeric":
        changed: dict[str, Any] = dict(craft_columns(table.inputs))
    elif table.kind == "text":
        changed = dict(craft_texts(table.inputs))
    else:
        changed = dict(craft_images(pixels(table.inputs, image_side(recipe))))
    named = {name: features_of(table.kind, each, recipe, lab) for name, each in changed.items()}
    return {**views, **named}


def features_of(
    kind: Kind, inputs: Any, recipe: FeatureRecipe, lab: Lab
) -> Float[np.ndarray, "n dim"]:
    """Features of texts, images or numbers; those of a backbone are computed once and kept."""
    if kind == "numeric":
        return np.asarray(inputs, dtype=np.float32)
    if kind == "text":
        return lab.embed(
            recipe.model, list(inputs), layer=recipe.layer, pooling=recipe.pooling,
            max_length=recipe.max_length,
        )  # fmt: skip
    lab.fetch(recipe.model)
    encoder = ImageEncoder(recipe)
    named = (
        inputs if isinstance(inputs, np.ndarray) else [file_fingerprint(Path(p)) for p in inputs]
    )
    with lab.progress.task(f"Embedding {len(inputs)} images with {recipe.model}") as report:
        return embed(lab.steps, encoder, inputs, content=named, progress=report)


class ImageEncoder:
    """An image backbone's features; loaded when there is something to encode."""

    def __init__(self, recipe: FeatureRecipe) -> None:
        self.recipe, self.side = recipe, image_side(recipe)
        self.fingerprint = fingerprint(model_identity(recipe.model), recipe.layer, self.side)
        self._model: Any = None

    def prepare(self, examples: Sequence[Any]) -> list[Any]:
        """As they are: paths or arrays (3, h, w) in [0, 1]."""
        return list(examples)

    def size(self, prepared: Any) -> int:
        """All alike."""
        return 1

    @torch.inference_mode()
    def encode(self, prepared: list[Any]) -> Float[np.ndarray, "batch dim"]:
        """Features of a batch of images."""
        if self._model is None:
            self._model = load_model(self.recipe.model)
        images = torch.from_numpy((pixels(prepared, self.side) - _MEAN) / _SPREAD)
        parameter = next(self._model.parameters())
        images = images.to(parameter.device, parameter.dtype)
        features: Any = self._model.features if hasattr(self._model, "features") else self._model
        found = features(images)
        if not isinstance(found, torch.Tensor):  # a transformers vision model
            found = found.pooler_output if found.get("pooler_output") is not None else found[0]
            found = found.mean(1) if found.ndim == 3 else found
        return np.asarray(found.flatten(1).float().cpu().numpy())


def image_side(recipe: FeatureRecipe) -> int:
    """Pixels of an image's side as the backbone reads it."""
    if recipe.image_size:
        return recipe.image_size
    config = json.loads((fetch_model(recipe.model) / "config.json").read_text(encoding="utf-8"))
    size = config.get("image_size", 224)
    return int(size if isinstance(size, int) else size[0])


def readable(path: str | Path) -> bool:
    """Whether an image can be read."""
    try:
        load_images([path], 1)
    except UserError:
        return False
    return True


def pixels(
    images: Sequence[str | Path] | np.ndarray, side: int
) -> Float[np.ndarray, "n 3 side side"]:
    """Images from files, or arrays (3, h, w) in [0, 1], as RGB of one size in [0, 1]."""
    if not all(isinstance(image, np.ndarray) for image in images):
        return load_images([str(image) for image in images], side)
    batch = torch.from_numpy(np.asarray(images, dtype=np.float32))
    if batch.shape[-2:] != (side, side):
        batch = torch.nn.functional.interpolate(batch, (side, side), mode="bilinear")
    return batch.numpy()
