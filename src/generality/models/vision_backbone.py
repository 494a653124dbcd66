"""A pretrained image network as the body of a classifier."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from generality.models.efficientnet_lite import EfficientNetLite
from generality.models.load import fetch_model, load_model

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class VisionBackbone(nn.Module):
    """Features of images by a network that `load_model` knows; every weight can be trained.

    Args:
        name: as in `load_model` ("efficientnet-lite0", "hf:microsoft/resnet-50", a folder); with
            "scratch:" in front the same architecture with random weights.

    Attributes:
        width: number of features.

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
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1))
        size = int(getattr(getattr(self.model, "config", None), "image_size", 0) or 224)
        with torch.no_grad():
            self.width = self.eval()(torch.zeros(1, 3, size, size)).shape[1]
        self.train()

    def forward(
        self, images: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Features of RGB images: bytes, or floats in [0, 1]."""
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images
        pixels = (scaled - self.mean) / self.std
        if isinstance(self.model, EfficientNetLite):
            features: Tensor = self.model.features(pixels)
            return features
        output: Any = self.model(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            pooled = output.last_hidden_state[:, 0]
        flat: Tensor = pooled.flatten(1)
        return flat


def _untrained(name: str) -> nn.Module:
    folder = fetch_model(name)
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model: nn.Module = AutoModel.from_config(config, trust_remote_code=False)
    return model
