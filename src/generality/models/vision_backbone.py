"""A pretrained image network as the body of a classifier."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from generality.errors import UserError
from generality.models.efficientnet_lite import EfficientNetLite
from generality.models.load import fetch_model, load_model

PREPARED = ("preprocessor_config.json", "processor_config.json")
"""Files that say how a model's images are prepared; transformers 5 writes the second alone."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class VisionBackbone(nn.Module):
    """Features of images by a network that `load_model` knows; every weight can be trained.

    Args:
        name: as in `load_model` ("efficientnet-lite0", "hf:microsoft/resnet-50", a folder); with
            "scratch:" in front the same architecture with random weights. Of a model of images and
            texts (CLIP) the image tower.

    Images are normalised as the model's files `PREPARED` say, or else as on ImageNet. Where a model
    has no pooled output, its last hidden state is averaged over the image.

    Attributes:
        width: number of features.
        side: pixels of an image's side that the model was made for.

    >>> VisionBackbone("efficientnet-lite0").width  # doctest: +SKIP
    1280
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        if name.startswith("scratch:"):
            self.model = _untrained(name.removeprefix("scratch:"))
        else:
            self.model = load_model(name, device="cpu")
        mean, std = _normalisation(name.removeprefix("scratch:"))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.side = image_side(name.removeprefix("scratch:"))
        with torch.no_grad():
            self.width = self.eval()(torch.zeros(1, 3, self.side, self.side)).shape[1]
        self.train()

    @property
    def tower(self) -> nn.Module:
        """The part of the model that sees images."""
        tower: nn.Module = getattr(self.model, "vision_model", self.model)
        return tower

    def forward(
        self, images: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Features of RGB images: bytes, or floats in [0, 1]."""
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images
        pixels = (scaled - self.mean) / self.std
        if isinstance(self.model, EfficientNetLite):
            features: Tensor = self.model.features(pixels)
            return features
        try:
            output: Any = self.tower(pixel_values=pixels)
        except ValueError as error:  # transformers, of an image of another size
            raise UserError(f"The model does not read such images: {error}") from error
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            hidden = output.last_hidden_state
            pooled = hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))
        flat: Tensor = pooled.flatten(1)
        return flat


@torch.inference_mode()
def encode_images(
    network: nn.Module, pixels: np.ndarray, *, batch: int = 64
) -> Float[np.ndarray, "n features"]:
    """Features (n, features) of images (n, 3, h, w), a batch at a time where the network is.

    A function of a network and an array, to be kept: `lab.step(encode_images, network, pixels)`.

    >>> encode_images(nn.Flatten(), np.ones((3, 3, 2, 2), np.float32)).shape
    (3, 12)
    """
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    parts = [
        network(torch.from_numpy(pixels[start : start + batch]).to(device)).cpu().numpy()
        for start in range(0, len(pixels), batch)
    ]
    return np.concatenate(parts)


def image_side(name: str) -> int:
    """Pixels of an image's side that a named model was made for; 224 where it does not say."""
    config = json.loads((fetch_model(name) / "config.json").read_text(encoding="utf-8"))
    vision = config.get("vision_config") or {}
    size = config.get("image_size") or vision.get("image_size") or 224
    return int(size if isinstance(size, int) else size[0])


def _normalisation(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel that a model expects to be taken out."""
    said: dict[str, Any] = {}
    for file in (fetch_model(name) / each for each in PREPARED):
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            said = {**found.get("image_processor", found), **said}
    mean, std = said.get("image_mean", _MEAN), said.get("image_std", _STD)
    if not (isinstance(mean, list | tuple) and isinstance(std, list | tuple)):
        return list(_MEAN), list(_STD)
    return list(mean), list(std)


def _untrained(name: str) -> nn.Module:
    folder = fetch_model(name)
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model: nn.Module = AutoModel.from_config(config, trust_remote_code=False)
    return model
