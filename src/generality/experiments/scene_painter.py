"""A diffusion model small enough to learn in a minute to paint what captions describe."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.benchmarks.worlds.scenes import CELL, COLOURS, GRID, NUMBERS, SHAPES, SIZE

_WORDS = {
    word: place
    for place, word in enumerate(
        (*NUMBERS, *COLOURS, *SHAPES, "and", "left", "right", "of", "above", "below"), 1
    )
}
_LENGTH = 16  # words of a caption


class SceneNetwork(nn.Module):
    """From a noisy picture, its noise level and a caption to the clean picture.

    A small diffusion transformer: a token for each cell of the picture, told the caption and the
    time, which is added to every token.

    Args:
        width: numbers of a token.
        blocks: of attention and perceptron.
        heads: of attention.
    """

    def __init__(self, width: int = 48, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(len(_WORDS) + 1, 16, padding_idx=0)
        self.caption = nn.Sequential(
            nn.Linear(16 * _LENGTH, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )
        self.time = nn.Linear(32, width)
        self.places = nn.Parameter(torch.randn(GRID * GRID, width) * 0.1)
        self.enter = nn.Linear(CELL * CELL * 3, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.leave = nn.Linear(width, CELL * CELL * 3)

    def forward(
        self,
        noisy: Float[Tensor, "batch 9 9 3"],
        time: Float[Tensor, " batch"],
        words: Int[Tensor, "batch 16"],
    ) -> Float[Tensor, "batch 9 9 3"]:
        """`time` is 0 (clean) to 1 (noise); pictures are in [-1, 1]."""
        cells = noisy.reshape(-1, GRID, CELL, GRID, CELL, 3).transpose(2, 3)
        waves = time[:, None] * torch.exp(torch.linspace(0, 5, 16, device=time.device))
        told = self.time(torch.cat([waves.sin(), waves.cos()], 1))
        told = told + self.caption(self.words(words).flatten(1))
        hidden = self.enter(cells.reshape(-1, GRID * GRID, CELL * CELL * 3)) + self.places
        for block in self.blocks:
            hidden = block(hidden + told[:, None])
        cells = self.leave(hidden).reshape(-1, GRID, GRID, CELL, CELL, 3)
        return cells.transpose(2, 3).reshape(noisy.shape)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "batch cells width"]) -> Float[Tensor, "batch cells width"]:
        split = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*split)
        x = x + self.proj(seen.transpose(1, 2).flatten(2))
        return x + self.narrow(nn.functional.gelu(self.wide(self.norm2(x))))


@dataclass
class ScenePainter:
    """A `SceneNetwork` as a painter: what `skill_experts` asks of any text-to-image model.

    Attributes:
        network: what is trained, or adapted.
        steps: of DDIM (deterministic) in `paint`.
    """

    network: nn.Module
    steps: int = 20

    def paint(self, captions: Sequence[str], *, seed: int) -> Float[np.ndarray, "n 9 9 3"]:
        """One picture for each caption, in [0, 1]."""
        generator = torch.Generator().manual_seed(seed)
        words = encode_captions(captions)
        x = torch.randn(len(captions), SIZE, SIZE, 3, generator=generator)
        times = torch.linspace(1, 0, self.steps + 1)
        self.network.eval()
        with torch.no_grad():
            for now, after in itertools.pairwise(times):
                signal, noise = _levels(now)
                clean = self.network(x, now.expand(len(captions)), words).clamp(-1, 1)
                epsilon = (x - signal * clean) / noise
                signal, noise = _levels(after)
                x = signal * clean + noise * epsilon
        return ((x.clamp(-1, 1) + 1) / 2).numpy()

    def loss(
        self,
        network: nn.Module,
        captions: Sequence[str],
        pictures: Float[np.ndarray, "n 9 9 3"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Mean squared error of the clean picture, at random times with random noise."""
        clean = torch.as_tensor(pictures).float() * 2 - 1
        time = torch.rand(len(captions), generator=generator)
        signal, noise = _levels(time[:, None, None, None])
        noisy = signal * clean + noise * torch.randn(clean.shape, generator=generator)
        predicted = network(noisy, time, encode_captions(captions))
        return nn.functional.mse_loss(predicted, clean)


def encode_captions(captions: Sequence[str]) -> Int[Tensor, "n 16"]:
    """Numbers of a caption's words in their order, 0 where there is none.

    Raises:
        ValueError: an unknown word, or more than 16.
    """
    rows = []
    for caption in captions:
        words = caption.split()
        unknown = [word for word in words if word not in _WORDS]
        if unknown or len(words) > _LENGTH:
            raise ValueError(f"'{caption}' has unknown words ({unknown}) or more than {_LENGTH}")
        rows.append([_WORDS[word] for word in words] + [0] * (_LENGTH - len(words)))
    return torch.tensor(rows)


def train_painter(
    painter: ScenePainter,
    network: nn.Module,
    captions: Sequence[str],
    pictures: Float[np.ndarray, "n 9 9 3"],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    batch: int = 64,
    decay: bool = False,
) -> float:
    """Adam on what of the network asks for gradients; the mean loss of the last tenth.

    Args:
        painter: whose loss.
        network: the painter's own, or that with an adapter.
        decay: let the rate fall to 0 along a cosine; else it is constant, as for experts.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate, fused=True)
    network.train()
    losses = []
    for step in range(steps):
        if decay:
            rate = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.param_groups[0]["lr"] = rate
        rows = torch.randint(len(captions), (batch,), generator=generator).tolist()
        loss = painter.loss(network, [captions[i] for i in rows], pictures[rows], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[-max(1, steps // 10) :]))


def _levels(time: Tensor) -> tuple[Tensor, Tensor]:
    """How much is picture and how much noise, along a quarter circle (cosine schedule)."""
    angle = time * (math.pi / 2) * 0.995
    return angle.cos(), angle.sin().clamp_min(1e-3)
