"""NEAS: at the cost of one network, does an ensemble with a shared trunk do better?

Protocol (Chen et al. 2021, arXiv 2104.00597). A supernet of four blocks (3×3, 5×5 or depthwise
convolution, or nothing) learns all ensembles of two paths on small digits; paths share their first
blocks, the split is searched too. Three supernets: the whole space, one that drops combinations of
operators by accuracy, one by accuracy and diversity. Evolution picks from each within a limit of
arithmetic; what it picks is trained anew, all for equal steps. Floor: the best single path of the
first supernet under the same limit. Ceiling: two such networks trained apart, at twice the cost.
Also: the split fixed at nothing, half and all but the heads; the single path with a head as dear as
two; random ensembles within the limit. τ is the rank correlation of the supernet's accuracy with
that of networks trained alone, over ensembles that are in all three final spaces. The shift set is
the same digits with noise, turned by 25° or pale.

Differences from the paper, with their effect: 8-pixel digits and kilobytes of weights instead of
ImageNet and 16 GPUs, so differences are fractions of a point; no distillation or augmentation; the
score by which the space shrinks is a reconstruction, for the search code was not released.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from generality.benchmarks.shifted_digits import ShiftedDigits, shifted_digits
from generality.claims import Claim, Row, greater
from generality.lab import Lab
from generality.lab.threads import threads
from generality.measures.ensemble_diversity import ensemble_diversity
from generality.measures.flops import flops
from generality.measures.rank_correlation import rank_correlation
from generality.models.multi_head import combine_heads
from generality.modules.digit_supernet import conv_choices, conv_head, conv_supernet
from generality.modules.supernet import EnsembleArchitecture, Supernet
from generality.objectives.member_cross_entropy import member_cross_entropy
from generality.studies.study import Paper
from generality.training.ensemble_search import (
    Shrink,
    SupernetPlan,
    one_shot_accuracy,
    search_ensemble,
    train_supernet,
)
from generality.training.shrinking_sampler import ShrinkingSampler
from generality.training.train_steps import train_steps

PAPER = Paper(
    "One-Shot Neural Ensemble Architecture Search by Diversity-Guided Search Space Shrinking",
    arxiv="2104.00597", year=2021,
)  # fmt: skip
FACTORS = ()


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    style: str = "mnist"
    pixels: int = 8
    images: int = 1000  # to train on
    held: int = 300  # for potentiality and evolution
    test: int = 2000
    width: int = 12  # channels of every block
    head: int = 32  # channels of a member's head
    blocks: int = 4
    limit: float = 0.6  # of the dearest single path's arithmetic
    supernet_steps: int = 900
    shrink_at: tuple[int, ...] = (300, 600)
    probes: int = 64  # ensembles that give the potentiality
    weight: float = 1.0  # of diversity
    steps: int = 200  # of a network trained alone
    learning_rate: float = 0.05
    ranked: int = 12  # ensembles trained alone for τ
    randoms: int = 3  # random ensembles within the limit
    population: int = 16
    generations: int = 4
    parents: int = 6
    seeds: int = 4


SCALES = {
    "smoke": Config(
        style="uci", images=100, held=40, test=100, width=4, head=8, blocks=2, supernet_steps=9,
        shrink_at=(3, 6), probes=3, steps=4, ranked=3, randoms=1, population=3, generations=2,
        parents=2, seeds=2,
    ),
    "small": Config(),
    "full": Config(
        pixels=28, images=2000, width=40, head=160, blocks=12, supernet_steps=30_000,
        shrink_at=(10_000, 20_000), steps=10_000, ranked=40, population=50, generations=20,
        parents=10,
    ),
}  # fmt: skip

SHRINKS: dict[str, Shrink] = {
    "searched": "never", "accuracy-shrunk": "accuracy", "diversity-shrunk": "diversity",
}  # fmt: skip
OURS = "diversity-shrunk"
CLAIMS = (
    Claim(
        "A searched ensemble beats the best single path of equal arithmetic", greater(OURS, "floor")
    ),
    Claim(
        "It beats it by more than a dearer head explains (the single path with a head like two)",
        greater(OURS, "wide-head"),
    ),
    Claim("It beats the single path on shifted digits", greater(OURS, "single", on="shifted")),
    Claim("It beats random ensembles within the limit", greater(OURS, "random")),
    Claim(
        "A supernet ranks ensembles as training them alone does (τ above 0)",
        greater(OURS, 0.0, on="tau"),
    ),
    Claim("Shrinking by diversity raises τ over no shrinking", greater(OURS, "searched", on="tau")),
    Claim(
        "Shrinking by diversity raises τ over shrinking by accuracy alone",
        greater(OURS, "accuracy-shrunk", on="tau"),
    ),
    Claim(
        "Members disagree more after shrinking by diversity than by accuracy alone",
        greater(OURS, "accuracy-shrunk", on="disagreement"),
    ),
    Claim("A searched split beats sharing nothing", greater("searched", "split-none")),
    Claim("A searched split beats splitting at the heads", greater("searched", "split-heads")),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every seed."""
    for seed in lab.seeds(config.seeds):
        found = lab.step(search, config, seed)
        alone = {
            name: lab.step(train_alone, config, seed, which)
            for name, which in found["chosen"].items()
        }
        alone["wide-head"] = lab.step(
            train_alone, config, seed, found["chosen"]["single"], head=2 * config.head
        )
        drawn = [lab.step(train_alone, config, seed, which) for which in found["random"]]
        alone["random"] = {key: float(np.mean([d[key] for d in drawn])) for key in drawn[0]}
        twice = lab.step(train_alone, config, seed, found["chosen"]["single"], copies=2)
        ranked = [lab.step(train_alone, config, seed, which)["score"] for which in found["ranked"]]
        for name, result in {**alone, "deep-ensemble": twice}.items():
            row = Row(method=name, seed=seed, **result)
            if name in SHRINKS:
                scores = np.array(found["one_shot"][name])
                row["tau"] = rank_correlation(scores, np.array(ranked), resamples=0).tau
            row |= {"floor": alone["single"]["score"], "ceiling": twice["score"]}
            yield row


def search(config: Config, seed: int) -> dict[str, Any]:
    """What evolution picks in each space, and every supernet's accuracies of the same ensembles."""
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        digit = data(config, seed)
        train, held = digit.train, digit.held
        supernets, spaces = {}, {}
        for name, shrink in SHRINKS.items():
            spaces[name] = ShrinkingSampler([list(conv_choices(config.width))] * config.blocks)
            supernets[name] = build(config, seed)
            plan = SupernetPlan(
                steps=config.supernet_steps, shrink=shrink, shrink_at=config.shrink_at,
                probes=config.probes, weight=config.weight, learning_rate=config.learning_rate,
            )  # fmt: skip
            train_supernet(supernets[name], spaces[name], *train, held, plan, seed=seed)
        whole, space = supernets["searched"], spaces["searched"]
        costs = whole.costs(held[0][:1])
        dearest = costs[0]["stem"] + sum(max(c.values()) for c in costs[1:])
        limit = round(config.limit * dearest)
        evolve = partial(
            search_ensemble, calibration=train[0][:128], held=held, limit=limit, seed=seed,
            population=config.population, generations=config.generations, parents=config.parents,
        )  # fmt: skip
        chosen = {name: evolve(supernets[name], spaces[name]) for name in SHRINKS}
        chosen["single"] = evolve(whole, space.single(), split=config.blocks)
        for name, split in (("none", 0), ("half", config.blocks // 2), ("heads", config.blocks)):
            chosen[f"split-{name}"] = evolve(whole, space, split=split)
        common = ShrinkingSampler.common([*spaces.values()])
        rng = np.random.default_rng(seed)
        ranked = [common.sample(rng) for _ in range(config.ranked)]
        within = partial(space.sample, fits=lambda one: whole.flops(one, costs) <= limit)
        return {
            "chosen": {name: plain(one) for name, one in chosen.items()},
            "random": [plain(within(rng)) for _ in range(config.randoms)],
            "ranked": [plain(one) for one in ranked],
            "one_shot": {
                name: [one_shot_accuracy(net, one, train[0][:128], held) for one in ranked]
                for name, net in supernets.items()
            },
        }


def train_alone(
    config: Config, seed: int, which: list[Any], head: int | None = None, copies: int = 1
) -> dict[str, float]:
    """New weights for an architecture, `copies` times apart; what the mean of logits answers."""
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        digit = data(config, seed)
        architecture = EnsembleArchitecture(which[0], tuple(map(tuple, which[1])))
        wider = None if head is None else partial(conv_head, config.width, head)
        supernet = build(config, seed)
        models = [supernet.fresh(architecture, wider) for _ in range(copies)]
        for copy, model in enumerate(models):
            train_steps(
                model, *digit.train, steps=config.steps, seed=seed * 100 + copy,
                learning_rate=config.learning_rate, loss=member_cross_entropy,
            )  # fmt: skip

        def members(x: torch.Tensor) -> torch.Tensor:
            return torch.cat([model(x) for model in models])

        one = digit.test[0][:1]
        total, trunk = flops(models[0], one), flops(models[0].body, one)
        found = digit.accuracies(lambda x: combine_heads(members(x), "logits"))
        found |= {"megaflops": copies * total / 1e6, "shared": trunk / total}
        with torch.inference_mode():
            said = members(digit.test[0]).softmax(-1).numpy()
        if len(said) > 1:
            apart = ensemble_diversity(said, digit.test[1].numpy())
            found |= {"disagreement": apart.disagreement, "gain": apart.gain}
        return found


def data(config: Config, seed: int) -> ShiftedDigits:
    """The digits of a seed."""
    return shifted_digits(
        config.style, pixels=config.pixels, train=config.images, held=config.held,
        test=config.test, seed=seed,
    )  # fmt: skip


def build(config: Config, seed: int) -> Supernet:
    """The supernet of a seed."""
    torch.manual_seed(seed)
    return conv_supernet(config.width, blocks=config.blocks, head=config.head)


def plain(one: EnsembleArchitecture) -> list[Any]:
    """An architecture as JSON has it."""
    return [one.split, [list(combo) for combo in one.combos]]
