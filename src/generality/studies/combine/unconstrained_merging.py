"""Are experts better merged layer by layer, and fused where their architectures differ?

Protocol (Zhang et al. 2024, arXiv 2410.13699), on two skills that compose: reading digits turned by
90° and reading digits with light and dark exchanged; the composed task, which nobody is trained
on, is both at once. Homogeneous half: a base that reads upright digits is tuned on either skill,
and the two experts are merged by averaging, task arithmetic and TIES (one λ, chosen on a
development set), and by task arithmetic with weights of each layer's own, searched there by CMA-ES.
Control: the same search with as many evaluations for one weight of each expert. Floor: the base.
Ceiling: one model tuned on both skills (for the composed task, a model tuned on it). Heterogeneous
half: experts of other widths, whose weights cannot be merged, give distributions for a few labelled
images; the lowest cross-entropy's is the target (MinCE) beside the true label (λ = 0.9). Floor: the
pivot tuned on the labels alone. Ceiling: the pivot tuned on six times as many. Controls: uniform
targets (label smoothing), and the mean of distributions (AvgCE).

Differences from the paper, with their effect: perceptrons that read digits instead of language
models of 7B that reason in mathematics and code (composition is of image transformations; no
synergy is to be expected at this size); one vocabulary of ten classes, so nothing needs aligning
(that part, `generality.models.align_tokens`, is tested apart; gains may be larger for it); MinCE by
image instead of by sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from generality.claims import Claim, Row, greater
from generality.experiments.turned_digits import DigitParts, TurnedDigits
from generality.lab import Lab
from generality.lab.threads import threads
from generality.measures import synergy
from generality.objectives import fuse_distributions
from generality.studies.study import Paper
from generality.weights import search_merge

PAPER = Paper(
    "Unconstrained Model Merging for Enhanced LLM Reasoning", arxiv="2410.13699", year=2024
)
FACTORS = ("half", "task")

UPRIGHT, TURNED, INVERTED, BOTH = range(4)
SKILLS = [TURNED, INVERTED]


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    width: int = 128  # hidden units of both layers; of the pivot likewise
    sources: tuple[int, ...] = (64, 256)  # widths of the heterogeneous experts
    base_images: int = 600  # upright
    base_epochs: int = 40
    images: int = 500  # of each skill that experts are tuned on
    few: int = 80  # of each skill, labelled, that the pivot is tuned on
    validation: int = 200  # of each skill: development set of every choice and search
    test: int = 400  # of each task
    epochs: int = 50  # of experts: after 11 the one for inverted digits read 5 % of them, here 88 %
    pivot_epochs: int = 160  # as many updates as experts get; after 40 its floor was .27
    learning_rate: float = 5e-4  # Adam
    lams: tuple[float, ...] = (0.3, 0.5, 0.7, 1.0, 1.3)  # of the sum of two task vectors, of TIES
    density: float = 0.2  # of TIES
    budget: int = 100  # merges that a search tries
    lam: float = 0.9  # weight of the true label in the fusion loss
    seeds: int = 5


SCALES = {
    "smoke": Config(
        width=16, sources=(8, 24), base_images=200, base_epochs=3, images=100, few=30,
        validation=50, test=100, epochs=2, pivot_epochs=2, lams=(0.5, 1.0), budget=8, seeds=2,
    ),
    "small": Config(),
    "full": Config(width=512, sources=(128, 1024), budget=500, seeds=20),
}  # fmt: skip

HOMOGENEOUS, HETEROGENEOUS = {"half": "homogeneous"}, {"half": "heterogeneous"}
ON_SKILLS, COMPOSED = {**HOMOGENEOUS, "task": "skills"}, {**HOMOGENEOUS, "task": "composed"}
CLAIMS = (
    Claim(
        "Weights searched layer by layer beat the average on the two skills",
        greater("layerwise", "average", where=ON_SKILLS),
    ),
    Claim(
        "They beat task arithmetic with one λ",
        greater("layerwise", "task-arithmetic", where=ON_SKILLS),
    ),
    Claim("They beat TIES with one λ", greater("layerwise", "ties", where=ON_SKILLS)),
    Claim(
        "They beat as long a search for one weight of each expert",
        greater("layerwise", "searched-uniform", where=ON_SKILLS),
    ),
    Claim(
        "On a task that needs both skills the merge beats its best expert",
        greater("layerwise", 0.0, on="over_best", where=COMPOSED),
    ),
    Claim(
        "There it is better than the experts' gains add up to",
        greater("layerwise", 0.0, on="over_sum", where=COMPOSED),
        expected_at="full",
    ),
    Claim(
        "Fused distributions of other architectures beat tuning on the labels alone",
        greater("min-ce", "labels-alone", where=HETEROGENEOUS),
    ),
    Claim(
        "They beat label smoothing of the same weight",
        greater("min-ce", "label-smoothing", where=HETEROGENEOUS),
    ),
    Claim(
        "The best distribution beats the mean of distributions",
        greater("min-ce", "avg-ce", where=HETEROGENEOUS),
    ),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every seed: merges, then fusions."""
    for seed in lab.seeds(config.seeds):
        for half in (merges, fusions):
            yield from (Row(seed=seed, **row) for row in lab.step(half, config, seed))


def digits(config: Config, seed: int) -> TurnedDigits:
    """Upright, turned, inverted, and both at once."""
    parts = DigitParts(
        config.base_images, config.images, config.validation, config.test, config.epochs,
        config.learning_rate,
    )  # fmt: skip
    data = TurnedDigits((0, 90, 0, 90), parts, seed)
    data.turned[2:] = 1 - data.turned[2:]
    return data


def upright_base(config: Config, data: TurnedDigits, width: int) -> nn.Module:
    """A network of this width that reads upright digits."""
    rows = slice(0, config.base_images)
    inputs, labels = data.turned[UPRIGHT, rows], data.labels[rows]
    targets = nn.functional.one_hot(labels, 10).float()
    return data.train(data.network(width), inputs, targets[None], config.base_epochs, 1e-3)[0]


def merges(config: Config, seed: int) -> list[dict[str, Any]]:
    """The homogeneous half."""
    with threads(1):
        data = digits(config, seed)
        base = upright_base(config, data, config.width)
        experts = data.tune(base, [[TURNED], [INVERTED]])
        states = [expert.state_dict() for expert in experts]
        start, model = base.state_dict(), data.network(config.width)

        def fitness(state: dict[str, Tensor]) -> float:
            model.load_state_dict(state)
            return data.accuracy(model, "validation", SKILLS)

        named = {"base": base, "expert-turned": experts[0], "expert-inverted": experts[1]}
        named["multitask"] = data.tune(base, [SKILLS])[0]
        composed = data.tune(base, [[BOTH]])[0]
        for way, settings in {
            "average": {}, "task-arithmetic": {}, "ties": {"density": config.density},
        }.items():  # fmt: skip
            named[way] = data.best_merge(base, states, SKILLS, way, config.lams, **settings)[0]
        for how, granularity in (("layerwise", "tensor"), ("searched-uniform", "layer")):
            found = search_merge(
                states, start, fitness, granularity=granularity, budget=config.budget, seed=seed,
                lam=1.0,
            )  # fmt: skip
            named[how] = data.network(config.width)
            named[how].load_state_dict(found.tensors)
        rows = []
        for task, tasks in (("skills", SKILLS), ("composed", [BOTH])):
            scores = {who: data.accuracy(m, "test", tasks) for who, m in named.items()}
            best = named["multitask"] if task == "skills" else composed
            shared = {
                "floor": scores["base"], "ceiling": data.accuracy(best, "test", tasks),
                "half": "homogeneous", "task": task,
            }  # fmt: skip
            for method, score in scores.items():
                parts = [scores["expert-turned"], scores["expert-inverted"]]
                more = synergy(score, parts, scores["base"])
                rows.append(
                    {
                        "method": method, "score": score, "over_best": more.over_best,
                        "over_sum": more.over_sum, **shared,
                    }
                )  # fmt: skip
        return rows


def fusions(config: Config, seed: int) -> list[dict[str, Any]]:
    """The heterogeneous half."""
    with threads(1):
        data = digits(config, seed)
        pivot = upright_base(config, data, config.width)
        inputs, labels = data.examples("train", SKILLS, config.few)
        gold = nn.functional.one_hot(labels, 10).float()
        sources = [pivot]
        for width, skill in zip(config.sources, SKILLS, strict=True):
            sources += data.tune(upright_base(config, data, width), [[skill]])
        with torch.no_grad():
            logs = torch.stack([source(inputs).log_softmax(-1) for source in sources])
        entropies = -logs.gather(-1, labels.expand(len(logs), -1)[..., None])[..., 0]
        targets = {
            "labels-alone": gold,
            "min-ce": fuse_distributions(logs.exp(), entropies),
            "avg-ce": fuse_distributions(logs.exp(), entropies, "avg_ce"),
            "label-smoothing": torch.full_like(gold, 0.1),
        }
        # the two cross-entropies of the fusion loss add up to one towards their mix
        mixed = torch.stack([config.lam * gold + (1 - config.lam) * t for t in targets.values()])
        tuned = data.train(pivot, inputs, mixed, config.pivot_epochs, config.learning_rate)
        named = dict(zip(targets, tuned, strict=True))
        whole, true = data.examples("train", SKILLS, config.images)
        many = nn.functional.one_hot(true, 10).float()[None]
        best = data.train(pivot, whole, many, config.pivot_epochs, config.learning_rate)[0]
        scores = {how: data.accuracy(model, "test", SKILLS) for how, model in named.items()}
        return [
            {
                "method": how, "score": score, "floor": scores["labels-alone"],
                "ceiling": data.accuracy(best, "test", SKILLS), "half": "heterogeneous",
                "task": "skills",
            }
            for how, score in scores.items()
        ]  # fmt: skip
