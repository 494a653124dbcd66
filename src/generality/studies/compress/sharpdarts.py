"""sharpDARTS: does Max-W find better networks than DARTS' softmax, and lean less to doing nothing?

Protocol (Hundt, Jain and Hager 2019, arXiv 1903.09900). Small digits; half of the training rows
teach the weights of all candidates, half the architecture. Two spaces: a cell (two nodes, edges
that are nothing, a skip, pooling or separable convolutions) and a grid of widths and operators
(HyperCuboid). `scalar` is DARTS' softmax, `max-w` the paper's weighting; what each decodes to is
trained anew for equal steps. Floor: the mean of random architectures. Ceiling: the best of all
trained in that space, chosen on the test set. Also a hand-made network, and `…, none allowed`: an
edge may decode to nothing. Space `none-edges` has as score the share of a cell's kept edges that
decode to nothing. τ is the rank correlation of accuracy with shared weights and when trained alone,
over the random architectures. Two more panels on one fixed network: the learning rate's schedule
(cosine against cosine power annealing), and DARTS' half-deep dilated convolution against a
SharpSepConv of equal dilation.

Differences from the paper, with their effect: 10-pixel digits, one cell and minutes instead of
CIFAR-10, eight cells and days; 150 search steps, so the architecture's learning rate is 0.01
instead of 3e-4 (at 3e-4 weights would stay even); no auxiliary head, cutout or drop-path; the shift
set (noise, turned by 25°, pale) stands for CIFAR-10.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from generality.benchmarks.shifted_digits import ShiftedDigits, shifted_digits
from generality.claims import Claim, Row, greater, less
from generality.lab import Lab
from generality.lab.cosine_power import CosinePowerAnnealingLR
from generality.lab.threads import threads
from generality.measures.rank_correlation import rank_correlation
from generality.modules.cell_network import conv_stem, pooled_head
from generality.modules.digit_spaces import CellSpace, GridSpace
from generality.modules.mixed_op import Weighting
from generality.modules.sharp_sep_conv import DilConv, SharpSepConv
from generality.studies.study import Paper
from generality.training.architecture_search import (
    SearchPlan,
    recalibrated_accuracy,
    search_architecture,
)
from generality.training.train_steps import train_steps

PAPER = Paper(
    "sharpDARTS: Faster and More Accurate Differentiable Architecture Search",
    arxiv="1903.09900", year=2019,
)  # fmt: skip
FACTORS = ("space",)


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    style: str = "mnist"
    pixels: int = 10
    images: int = 1000  # to train on; half of them search weights, half architecture
    test: int = 2000
    width: int = 8  # channels of the cell's nodes and of the fixed network
    cells: int = 1
    nodes: int = 2
    widths: tuple[int, ...] = (4, 8, 16)  # of the grid
    strides: tuple[int, ...] = (1, 2, 1)  # of the grid's layers
    search_steps: int = 150
    search_rate: float = 0.05  # of the weights while searching
    architecture_rate: float = 0.01
    steps: int = 200  # of a network trained alone
    learning_rate: float = 0.1
    randoms: int = 6  # random architectures, for the floor and τ
    seeds: int = 4


SCALES = {
    "smoke": Config(
        style="uci", pixels=8, images=120, test=120, width=4, nodes=1, widths=(2, 4), strides=(2,),
        search_steps=5, steps=5, randoms=3, seeds=2,
    ),
    "small": Config(),
    "full": Config(
        pixels=28, images=3000, width=16, cells=8, nodes=4, widths=(8, 16, 32, 64, 128),
        strides=(1, 2, 1, 2), search_steps=10_000, search_rate=0.025, architecture_rate=3e-4,
        steps=50_000, learning_rate=0.025, randoms=24,
    ),
}  # fmt: skip

SPACES = ("cell", "grid")
WEIGHTINGS: dict[str, Weighting] = {"scalar": "softmax", "max-w": "max_w"}
SCHEDULES = {"cosine": 1.0, "cosine-power-2": 2.0, "cosine-power-10": 10.0}
GRID, CELL = {"space": "grid"}, {"space": "cell"}
CLAIMS = (
    Claim("In a new space Max-W beats the softmax", greater("max-w", "scalar", where=GRID)),
    Claim(
        "In a new space Max-W beats the hand-made network", greater("max-w", "human", where=GRID)
    ),
    Claim(
        "In a new space the softmax is worse than the hand-made network",
        less("scalar", "human", where=GRID),
    ),
    Claim("In the new space Max-W beats random networks", greater("max-w", "floor", where=GRID)),
    Claim("In the cell Max-W beats random networks", greater("max-w", "floor", where=CELL)),
    Claim(
        "Max-W gives less weight to doing nothing",
        less("max-w", "scalar", on="none_weight", where=CELL),
    ),
    Claim(
        "Fewer edges decode to nothing under Max-W",
        less("max-w", "scalar", where={"space": "none-edges"}),
    ),
    Claim(
        "Max-W's supernet ranks networks as training them alone does, better than the softmax's",
        greater("max-w", "scalar", on="tau"),
    ),
    Claim(
        "Cosine power annealing (order 10) beats cosine annealing",
        greater("cosine-power-10", "cosine", where={"space": "schedule"}),
    ),
    Claim(
        "A dilated block of full depth beats DARTS' of half depth",
        greater("sharp-dilated", "dilated", where={"space": "block"}),
    ),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every seed and space."""
    for seed in lab.seeds(config.seeds):
        for space in SPACES:
            yield from of_space(config, lab, seed, space)
        panels = {"schedule": list(SCHEDULES), "block": ["dilated", "sharp-dilated"]}
        for space, methods in panels.items():
            found = {m: lab.step(train_fixed, config, seed, m) for m in methods}
            for method, result in found.items():
                floor = found[methods[0]]["score"]
                yield Row(
                    method=method, space=space, seed=seed, floor=floor, ceiling=None, **result
                )


def of_space(config: Config, lab: Lab, seed: int, space: str) -> Iterator[Row]:
    """Both searches in one space, with their controls."""
    searched = {name: lab.step(search, config, seed, space, name) for name in WEIGHTINGS}
    alone = partial(lab.step, train_alone, config, seed, space)
    random = [alone(which) for which in spaces(config)[space].random(config.randoms, seed)]
    trained = {"human": alone(spaces(config)[space].by_hand())}
    trained |= {name: alone(found["decoded"]) for name, found in searched.items()}
    if space == "cell":
        trained |= {f"{n}, none allowed": alone(s["with_none"]) for n, s in searched.items()}
    scores = [r["score"] for r in random]
    ends = {
        "floor": float(np.mean(scores)),
        "ceiling": max(*scores, *(r["score"] for r in trained.values())),
    }
    trained["random"] = {key: float(np.mean([r[key] for r in random])) for key in random[0]}
    for method, result in trained.items():
        row = Row(method=method, space=space, seed=seed, **result, **ends)
        if method in searched:
            one_shot = np.array(searched[method]["one_shot"])
            row["tau"] = rank_correlation(one_shot, np.array(scores), resamples=0).tau
            row |= searched[method]["weights"]
        yield row
    if space == "cell":
        for name, found in searched.items():
            edges = [op for node in found["with_none"] for _, op in node]
            yield Row(
                method=name, space="none-edges", seed=seed, score=edges.count("none") / len(edges),
                floor=None, ceiling=None,
            )  # fmt: skip


def spaces(config: Config) -> dict[str, Any]:
    """The known cell, and the new space."""
    return {
        "cell": CellSpace(config.width, config.nodes, config.cells),
        "grid": GridSpace(config.widths, config.strides),
    }


def search(config: Config, seed: int, space: str, weighting: str) -> dict[str, Any]:
    """What one search decodes to, and its shared weights' accuracy on the random architectures."""
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        digit, known = data(config, seed), spaces(config)[space]
        plan = SearchPlan(
            steps=config.search_steps, learning_rate=config.search_rate,
            architecture_rate=config.architecture_rate,
        )  # fmt: skip
        model = known.mixture(WEIGHTINGS[weighting])
        search_architecture(model, *digit.train, plan, seed=seed)
        found = {"weights": {}, "decoded": known.decoded(model), "one_shot": []}
        if isinstance(known, CellSpace):
            found["with_none"] = known.decoded(model, none=True)
            found["weights"] = {"none_weight": known.none_weight(model)}
        for which in known.random(config.randoms, seed):
            known.follow(model, which)
            found["one_shot"].append(
                recalibrated_accuracy(model, digit.train[0][:256], *digit.test)
            )
        return found


def train_alone(config: Config, seed: int, space: str, which: Any) -> dict[str, float]:
    """An architecture with new weights: accuracy on digits as they are, and shifted."""
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return taught(spaces(config)[space].network(which), config, seed, 2.0)


def train_fixed(config: Config, seed: int, method: str) -> dict[str, float]:
    """One fixed network under a schedule, or with a kind of dilated block."""
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = config.width
        blocks: dict[str, Callable[..., nn.Module]] = {
            "dilated": partial(DilConv, kernel=3, dilation=2),
            "sharp-dilated": partial(SharpSepConv, kernel=3, dilation=2),
        }
        block = blocks.get(method, partial(SharpSepConv, kernel=3))
        model = nn.Sequential(
            conv_stem(1, width), block(width, 2 * width), block(2 * width, 2 * width, stride=2),
            pooled_head(2 * width, 10),
        )  # fmt: skip
        return taught(model, config, seed, SCHEDULES.get(method, 2.0))


def taught(model: nn.Module, config: Config, seed: int, order: float) -> dict[str, float]:
    """Train for the steps that all have, under cosine power annealing of an order, and test."""
    digit = data(config, seed)
    train_steps(
        model, *digit.train, steps=config.steps, seed=seed, learning_rate=config.learning_rate,
        schedule=lambda o, steps: CosinePowerAnnealingLR(o, steps, 1e-4, order),
    )  # fmt: skip
    size = sum(p.numel() for p in model.parameters())
    return {**digit.accuracies(model), "kiloweights": size / 1e3}


def data(config: Config, seed: int) -> ShiftedDigits:
    """The digits of a seed."""
    return shifted_digits(
        config.style, pixels=config.pixels, train=config.images, held=0, test=config.test, seed=seed
    )
