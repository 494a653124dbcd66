"""Learnt token vectors among an image's patches, alone or beside a prompt of the class names."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from generality.models.two_towers import TwoTowers
from generality.modules.soft_prompt import SoftPrompt


class VisualPrompt(nn.Module):
    """A frozen image tower that reads `num_tokens` learnt vectors beside the patches.

    They stand after the last patch, without a position, where the tower's first block begins;
    `tokens` is the one parameter that learns.

    Args:
        towers: images and texts; its image tower is a vision transformer, as CLIP's.
        num_tokens: learnt vectors, at least 1.
        std: of their random start, around 0.

    Raises:
        ValueError: num_tokens below 1, or a tower without patches.

    Source: visual prompt tuning, shallow (Jia et al. 2022, arXiv 2203.12119), the visual host of
    GRAM (Li et al. 2023, arXiv 2303.06571).

    >>> prompt = VisualPrompt(TwoTowers("hf:openai/clip-vit-base-patch16"))  # doctest: +SKIP
    >>> prompt(pixels).shape  # doctest: +SKIP
    torch.Size([8, 512])
    """

    def __init__(self, towers: TwoTowers, num_tokens: int = 4, *, std: float = 0.02) -> None:
        super().__init__()
        if num_tokens < 1:
            raise ValueError(f"num_tokens is at least 1, not {num_tokens}")
        tower: Any = towers.backbone.tower
        if not hasattr(getattr(tower, "embeddings", None), "patch_embedding"):
            raise ValueError("the image tower is no vision transformer with patch embeddings")
        self.towers = towers
        width = tower.config.hidden_size
        self.tokens = nn.Parameter(std * torch.randn(num_tokens, width).to(towers.backbone.mean))

    def train(self, mode: bool = True) -> VisualPrompt:
        """The tower stays in eval mode: it is frozen."""
        super().train(mode)
        self.towers.eval()
        return self

    def forward(
        self,
        pixels: Float[Tensor, "images 3 side side"],
        tokens: Float[Tensor, "num_tokens width"] | None = None,
    ) -> Float[Tensor, "images dim"]:
        """Unit vectors of images with the prompt; `tokens` stands in for the parameter."""
        tokens = self.tokens if tokens is None else tokens

        def append(_module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
            vectors = tokens.to(embedded.dtype).expand(len(embedded), -1, -1)
            return torch.cat([embedded, vectors], 1)

        tower: Any = self.towers.backbone.tower
        handle = tower.embeddings.register_forward_hook(append)
        try:
            return self.towers.images(pixels)
        finally:
            handle.remove()


class DualPrompt(nn.Module):
    """UNIGRAM's prompt: learnt vectors on both sides, of class names and of images, as one matrix.

    `tokens` has the text prompt's rows first, then the visual ones; the narrower tower's rows end
    in entries that nothing reads, so that one matrix goes through `meta_train`, `adapt` and a
    `GradientRegulator` of width `tokens.shape[1]`.

    Args:
        towers: CLIP or its kin.
        text_tokens, visual_tokens: learnt vectors of each side, at least 1.

    Source: Li et al. 2023 (arXiv 2303.06571), UNIGRAM: both prompts meta-learnt together.

    >>> prompt = DualPrompt(TwoTowers("hf:openai/clip-vit-base-patch16"))  # doctest: +SKIP
    >>> prompt.logits(pixels, *towers.tokens(["a dog", "a cat"])).shape  # doctest: +SKIP
    torch.Size([8, 2])
    """

    def __init__(self, towers: TwoTowers, text_tokens: int = 4, visual_tokens: int = 4) -> None:
        super().__init__()
        self.text = SoftPrompt(towers.model, text_tokens)
        self.visual = VisualPrompt(towers, visual_tokens)
        parts = [part.tokens.detach() for part in (self.text, self.visual)]
        width = max(part.shape[1] for part in parts)
        padded = [functional.pad(part, (0, width - part.shape[1])) for part in parts]
        self.tokens = nn.Parameter(torch.cat(padded))
        for part in (self.text, self.visual):  # their own starts, which are not learnt
            part.tokens.requires_grad_(False)

    def logits(
        self,
        pixels: Float[Tensor, "images 3 side side"],
        input_ids: Int[Tensor, "classes length"],
        attention_mask: Int[Tensor, "classes length"],
        tokens: Float[Tensor, "rows width"] | None = None,
        *,
        scale: float = 100.0,
    ) -> Float[Tensor, "images classes"]:
        """`scale` · cosine of each image with each class name, both behind their prompts."""
        tokens = self.tokens if tokens is None else tokens
        count = len(self.text.tokens)
        text = tokens[:count, : self.text.tokens.shape[1]]
        visual = tokens[count:, : self.visual.tokens.shape[1]]
        seen = self.visual(pixels, visual)
        return self.text.logits(seen, input_ids, attention_mask, text, scale=scale)
