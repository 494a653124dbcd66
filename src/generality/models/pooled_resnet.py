"""A pretrained ResNet as a body that gives features."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from generality.models.load import load_model


class PooledResNet(nn.Module):
    """Pooled features of a ResNet that transformers loads, of images in [0, 1]; trains with them.

    ImageNet's normalisation is inside. Layers of the ResNet are found below `model`:
    "model.embedder.embedder" (the first convolution), "model.encoder.stages.0" and so on.

    Args:
        name: as in `load_model`, such as "hf:microsoft/resnet-50".
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        model: Any = load_model(name, device="cpu")
        self.model, self.features = model, int(model.config.hidden_sizes[-1])

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n features"]:
        """Features of a batch of images."""
        mean, std = images.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
        normal = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        features: Tensor = self.model(normal).pooler_output.flatten(1)
        return features
