"""What a comparison over domains learns from: features of texts and images, or the numbers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from generality.benchmarks.image_folders import load_images
from generality.compare.crafted_shifts import (
    IMAGE_SHIFTS,
    CraftedImage,
    craft_columns,
    craft_texts,
)
from generality.compare.domain_table import DomainTable, Kind
from generality.compare.students import Recipe
from generality.errors import UserError
from generality.lab import Lab
from generality.lab.features import embed
from generality.lab.fingerprint import file_fingerprint, fingerprint
from generality.models import fetch_model, resolve_device
from generality.models.identity import model_identity
from generality.models.vision_backbone import VisionBackbone
from generality.models.vision_backbone import image_side as usual_side

BACKBONES = {"text": "minilm-l6", "image": "efficientnet-lite0", "numeric": ""}


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
        if kind == "numeric" and (self.layer is not None or self.pooling is not None):
            raise UserError("--layer and --pooling are for texts; numbers go through no backbone.")
        if kind != "text" and self.max_length != FeatureRecipe.max_length:
            raise UserError("--max-length is for texts.")
        if kind == "image" and (self.layer is not None or self.pooling is not None):
            raise UserError("--layer and --pooling are for texts; images have one pooled feature.")
        if kind != "image" and self.image_size is not None:
            raise UserError("--image-size is for images.")
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
        changed = {name: crafted_images(table.inputs, name) for name in IMAGE_SHIFTS}
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
    encoder = ImageEncoder(recipe, lab.device)
    with lab.progress.task(f"Embedding {len(inputs)} images with {recipe.model}") as report:
        return embed(lab.steps, encoder, inputs, content=image_names(inputs), progress=report)


def crafted_images(inputs: Any, shift: str) -> list[CraftedImage]:
    """The images, to be changed in one of the ways of `IMAGE_SHIFTS` when they are read."""
    return [CraftedImage(image, shift, row) for row, image in enumerate(inputs)]


def image_names(inputs: Any) -> Any:
    """What names images in the key of kept work: the content of files, pixels, how changed."""
    if isinstance(inputs, np.ndarray):
        return inputs
    return [
        replace(image, image=_content(image.image))
        if isinstance(image, CraftedImage)
        else _content(image)
        for image in inputs
    ]


def _content(image: Any) -> Any:
    if not isinstance(image, str | Path):
        return image
    try:
        return file_fingerprint(Path(image))
    except OSError as error:
        raise UserError(
            f"The image {image} cannot be read ({error.strerror}); repair it, or leave such images "
            "out with --skip-unreadable."
        ) from error


class ImageEncoder:
    """An image backbone's features; loaded when there is something to encode."""

    def __init__(self, recipe: FeatureRecipe, device: str = "auto") -> None:
        self.recipe, self.side, self.device = recipe, image_side(recipe), device
        code = (VisionBackbone, pixels)
        self.fingerprint = fingerprint(code, model_identity(recipe.model), self.side)
        self._model: VisionBackbone | None = None

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
            self._model = VisionBackbone(self.recipe.model).to(resolve_device(self.device)).eval()
        images = torch.from_numpy(pixels(prepared, self.side)).to(self._model.mean.device)
        return self._model(images).float().cpu().numpy()


def image_side(recipe: FeatureRecipe) -> int:
    """Pixels of an image's side as the backbone reads it."""
    return recipe.image_size or usual_side(recipe.model)


def readable_rows(paths: Sequence[str]) -> Int[np.ndarray, " m"]:
    """The rows whose image can be read; of the others a warning names the first."""

    def readable(path: str) -> bool:
        try:
            load_images([path], 1)
        except UserError:
            return False
        return True

    found = np.array([readable(path) for path in paths], dtype=bool)
    if not found.all():
        warnings.warn(
            f"{(~found).sum()} of {len(paths)} images cannot be read, first "
            f"{paths[int(found.argmin())]}: they get no prediction.",
            stacklevel=3,
        )
    return np.flatnonzero(found)


def pixels(images: Sequence[Any] | np.ndarray, side: int) -> Float[np.ndarray, "n 3 side side"]:
    """Images from files, or arrays (3, h, w) in [0, 1], as RGB of one size in [0, 1]."""
    if any(isinstance(image, CraftedImage) for image in images):
        plain = pixels([getattr(image, "image", image) for image in images], side)
        changed = [
            image.change(own) if isinstance(image, CraftedImage) else own
            for image, own in zip(images, plain, strict=True)
        ]
        return np.stack(changed)
    if not all(isinstance(image, np.ndarray) for image in images):
        return load_images([str(image) for image in images], side)
    batch = torch.from_numpy(np.asarray(images, dtype=np.float32))
    if batch.shape[-2:] != (side, side):
        batch = torch.nn.functional.interpolate(batch, (side, side), mode="bilinear")
    return batch.numpy()
