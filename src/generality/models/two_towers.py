"""An image tower and a text tower that share a space: CLIP and its kin, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.errors import UserError
from generality.models.device import resolve_device
from generality.models.load import load_tokenizer
from generality.models.vision_backbone import VisionBackbone


class TwoTowers(nn.Module):
    """Images and texts as unit vectors of one space, each with the model's own projection.

    Args:
        name: as in `load_model`: "hf:openai/clip-vit-base-patch16", or its folder.
        device: "auto", "cpu", "cuda" or "mps".

    Attributes:
        model: what `transformers` loads, frozen and in eval mode.
        tokenizer: of the text tower.
        side: pixels of an image's side that the image tower reads.

    Raises:
        UserError: there is no such model, or it has one tower only.

    >>> towers = TwoTowers("hf:openai/clip-vit-base-patch16")  # doctest: +SKIP
    >>> towers.encode_texts(["a dog"]) @ towers.encode_images(pixels).T  # doctest: +SKIP
    """

    def __init__(self, name: str, *, device: str = "auto") -> None:
        super().__init__()
        self.backbone = VisionBackbone(name)
        self.model: Any = self.backbone.model
        if not hasattr(self.model, "get_text_features"):
            raise UserError(
                f"The model '{name}' does not see both images and texts; name one such as "
                "hf:openai/clip-vit-base-patch16."
            )
        self.tokenizer = load_tokenizer(name)
        self.side = self.backbone.side
        self.to(resolve_device(device)).eval().requires_grad_(False)

    def images(self, pixels: Tensor) -> Float[Tensor, "batch dim"]:
        """Unit vectors of RGB images of `side` pixels: bytes, or floats in [0, 1]."""
        features = self.backbone(pixels)
        projection = getattr(self.model, "visual_projection", None)
        return nn.functional.normalize(
            features if projection is None else projection(features), dim=-1
        )

    def tokens(
        self, texts: Sequence[str]
    ) -> tuple[Int[Tensor, "texts length"], Int[Tensor, "texts length"]]:
        """Ids and mask, padded on the right, cut to what the tower can read."""
        reach = self.model.config.text_config.max_position_embeddings
        found = self.tokenizer(
            list(texts), padding=True, padding_side="right", truncation=True, max_length=reach,
            return_tensors="pt",
        ).to(self.backbone.mean.device)  # fmt: skip
        return found["input_ids"], found["attention_mask"]

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "batch dim"]:
        """Unit vectors of texts."""
        ids, mask = self.tokens(texts)
        features = self.model.get_text_features(input_ids=ids, attention_mask=mask)
        return nn.functional.normalize(getattr(features, "pooler_output", features), dim=-1)

    @torch.inference_mode()
    def encode_images(
        self, pixels: Float[np.ndarray, "n 3 side side"], *, batch_size: int = 32
    ) -> Float[np.ndarray, "n dim"]:
        """Unit vectors of many images, float32."""
        place, parts = self.backbone.mean.device, []
        for start in range(0, len(pixels), batch_size):
            batch = torch.from_numpy(np.asarray(pixels[start : start + batch_size]))
            parts.append(self.images(batch.to(place).float()).float().cpu().numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def encode_texts(
        self, texts: Sequence[str], *, batch_size: int = 32
    ) -> Float[np.ndarray, "n dim"]:
        """Unit vectors of many texts, float32."""
        starts = range(0, len(texts), batch_size)
        parts = [self.texts(texts[s : s + batch_size]).float().cpu().numpy() for s in starts]
        return np.concatenate(parts)


def encode_either(
    name: str, identity: str, device: str, items: Float[np.ndarray, "n 3 side side"] | list[str]
) -> Float[np.ndarray, "n dim"]:
    """Images or texts in the space of a named model, as a function of plain values to be kept.

    `identity` (`model_identity`) names the weights where the result is kept under its arguments.

    >>> encode_either(name, model_identity(name), "cpu", ["a dog"]).shape  # doctest: +SKIP
    (1, 512)
    """
    towers = TwoTowers(name, device=device)
    return towers.encode_texts(items) if isinstance(items, list) else towers.encode_images(items)
