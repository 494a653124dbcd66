"""Can a small reasoner, taught by rewards beside a frozen model, guide larger ones and be summed?

Protocol (Kim et al. 2025, arXiv 2505.19075). Two frozen backbones, a small and a large one, solve
tasks on strings of letters now and then. A reasoner, at first a copy of the small backbone, is
added to its logits, and GRPO on exact right answers trains the reasoner alone. Axis "own": greedy
accuracy beside the backbone (floor), GRPO of the whole backbone (ceiling), GRPO of an adapter, and
the reasoner by itself. Axis "transfer": the same reasoner beside the large backbone, which it never
met; floor that backbone, ceiling its own GRPO, control the reasoner before any training (which
sharpens and adds an opinion, but has learnt nothing). Axis "composed": two reasoners, one a task,
summed on the task of doing one after the other; floor the small backbone, ceiling its GRPO on that
very task. `auc` is how well the reasoner's own log-probability of whole answers that the backbone
drew tells right from wrong ones.

Differences from the paper, each with its effect: decoders of 0.05 and 0.15 million parameters and
letters instead of 0.5 to 14 billion and mathematics (answers of three letters, no reasoning in
words, so rewards are dense enough to learn from within a minute); an adapter of rank 4 on so narrow
a model is a large part of it (a stronger rival than LoRA is there); the large backbone was trained
on more of the same data, so both err on the same things (transfer has less to add).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from generality.benchmarks.worlds import terse, world_tokenizer
from generality.claims import Claim, Row, greater, less
from generality.errors import UserError
from generality.experiments.guided_solvers import (
    CheckedProblems,
    GuidedSolvers,
    Network,
    Weights,
)
from generality.lab import Lab, TrainConfig
from generality.models import load_model, load_tokenizer, tiny_decoder
from generality.studies.study import Paper
from generality.training import GuidancePlan

PAPER = Paper(
    "Universal Reasoner: A Single, Composable Plug-and-Play Reasoner for Frozen LLMs",
    arxiv="2505.19075",
    year=2025,
)
FACTORS = ("task", "axis")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    small: str = "0.05M"  # backbone the reasoner is taught beside: a `tiny_decoder`, or a model
    large: str = "0.15M"  # backbone it is carried over to
    reasoner: str = "0.05M"  # as `small` in the tiny case: it starts as a copy of it
    gym: bool = False  # tasks of reasoning-gym and models by name, instead of letters
    tasks: tuple[str, str] = ("reverse", "successor")  # that may follow each other
    length: int = 3  # letters
    small_lessons: tuple[int, int] = (2700, 1250)  # solved problems of each task that it read once
    large_lessons: tuple[int, int] = (2300, 800)  # likewise the large one
    base_rate: float = 3e-3
    steps: int = 150  # of GRPO, for the reasoner and its rivals alike
    prompts: int = 8  # in a step
    group_size: int = 8  # answers to each
    learning_rate: float = 1e-3  # Adam's highest
    max_tokens: int = 6  # of an answer
    problems: int = 400  # that rewards are for
    test: int = 200
    half: float = 0.5  # weight of both reasoners in "both, half"
    drawn: int = 4  # answers of the backbone to each test problem, for `auc`
    seeds: int = 3

    def __post_init__(self) -> None:
        if not self.gym and self.reasoner != self.small:
            raise UserError("A tiny reasoner starts as a copy of the small backbone.")

    @property
    def plan(self) -> GuidancePlan:
        """How to learn from rewards."""
        names = ("steps", "prompts", "group_size", "learning_rate", "max_tokens")
        return GuidancePlan(**{name: getattr(self, name) for name in names})


SCALES = {
    "smoke": Config(
        large="0.05M", small_lessons=(32, 32), large_lessons=(48, 48), problems=12, test=8, seeds=1,
        steps=2, prompts=2, group_size=4, max_tokens=5, drawn=2,
    ),
    "small": Config(),
    "full": Config(
        small="hf:Qwen/Qwen2.5-3B-Instruct", large="hf:Qwen/Qwen2.5-14B-Instruct", gym=True,
        reasoner="hf:Qwen/Qwen2.5-0.5B-Instruct", tasks=("chain_sum", "simple_equations"),
        steps=1000, prompts=8, learning_rate=1e-6, max_tokens=1024, problems=7000,
        test=500,
    ),
}  # fmt: skip

OWN, TRANSFER, COMPOSED = {"axis": "own"}, {"axis": "transfer"}, {"axis": "composed"}
CLAIMS = (
    Claim(
        "A frozen backbone answers better with its reasoner",
        greater("unir", "floor", where=OWN),
        paper_says="65.6 to 77.5 on GSM8K with Llama-3.2 3B and 1B",
    ),
    Claim(
        "Better than after GRPO of an adapter",
        greater("unir", "adapter", where=OWN),
        paper_says="77.5 against 65.8",
    ),
    Claim(
        "And at least as well as after GRPO of the whole backbone",
        greater("unir", "ceiling", where=OWN),
        expected_at="full",
    ),
    Claim(
        "The reasoner improves a larger backbone that it never met",
        greater("unir", "floor", where=TRANSFER),
        paper_says="about 2.5 points on average from 3B to 14B",
    ),
    Claim(
        "By more than the same module does before it is taught",
        greater("unir", "untaught", where=TRANSFER),
    ),
    Claim(
        "Two reasoners together do a joint task better than the first alone",
        greater("both", "first", where=COMPOSED),
        paper_says="mathematics in German",
    ),
    Claim("And better than the second alone", greater("both", "second", where=COMPOSED)),
    Claim(
        "The reasoner's own log-probability tells right answers from wrong ones",
        greater("unir", 0.5, on="auc", where=OWN),
    ),
    Claim(
        "By itself it answers worse than together with the backbone",
        less("alone", "unir", where=OWN),
    ),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of the three axes, seed by seed."""
    tokenizer = load_tokenizer(config.small) if config.gym else world_tokenizer(config.tasks)
    networks = {
        size: functools.partial(network, getattr(config, size), config.gym, len(tokenizer))
        for size in ("small", "large", "reasoner")
    }
    world = CheckedProblems(config.test, config.length, config.gym)
    small, large = (
        base(config, lab, world, networks[size], tokenizer, size) for size in ("small", "large")
    )
    fresh = networks["reasoner"](0).state_dict() if config.gym else small
    solvers = GuidedSolvers(lab, networks, fresh, tokenizer, world, config.plan, config.problems)
    tried, teach = solvers.accuracy, solvers.teach
    joint = " ".join(config.tasks)
    for seed in lab.seeds(config.seeds):
        taught = {task: teach(task, "reasoner", "small", small, seed) for task in config.tasks}
        for task in config.tasks:
            auc = solvers.told_apart(task, "small", small, taught[task], config.drawn, seed)
            found = {
                "base": tried(task, "small", small),
                "ceiling": tried(task, "small", teach(task, "whole", "small", small, seed)),
                "adapter": tried(task, "small", teach(task, "adapter", "small", small, seed)),
                "alone": tried(task, "reasoner", taught[task]),
                "unir": tried(task, "small", small, [taught[task]]),
            }
            yield from rows(found, axis="own", task=task, seed=seed, auc=auc)
            found = {
                "base": tried(task, "large", large),
                "ceiling": tried(task, "large", teach(task, "whole", "large", large, seed)),
                "untaught": tried(task, "large", large, [fresh]),
                "unir": tried(task, "large", large, [taught[task]]),
            }
            yield from rows(found, axis="transfer", task=task, seed=seed)
        if not config.gym:
            first, second = (taught[task] for task in config.tasks)
            found = {
                "base": tried(joint, "small", small),
                "ceiling": tried(joint, "small", teach(joint, "whole", "small", small, seed)),
                "first": tried(joint, "small", small, [first]),
                "second": tried(joint, "small", small, [second]),
                "both": tried(joint, "small", small, [first, second]),
                "both, half": tried(joint, "small", small, [first, second], config.half),
            }
            yield from rows(found, axis="composed", task=joint, seed=seed)


def rows(found: dict[str, float], *, auc: float | None = None, **shared: Any) -> Iterator[Row]:
    """One for each method."""
    for method, score in found.items():
        yield Row(
            method=method, score=score, floor=found["base"], ceiling=found["ceiling"],
            auc=auc if method == "unir" else None, **shared,
        )  # fmt: skip


def network(name: str, gym: bool, vocabulary: int, seed: int) -> Any:
    """A tiny decoder, or a model by name."""
    if gym:
        return load_model(name, device="auto", dtype=torch.bfloat16)
    return tiny_decoder(name, seed, vocabulary=vocabulary, context=32)


def base(
    config: Config, lab: Lab, world: CheckedProblems, make: Network, tokenizer: Any, size: str
) -> Weights:
    """Weights of a backbone: as they come, or after some lessons in both tasks."""
    if config.gym:
        weights: Weights = make(0).state_dict()
        return weights
    lessons = zip(config.tasks, getattr(config, f"{size}_lessons"), strict=True)
    solved = [
        (problem.prompt, terse(problem))
        for task, count in lessons for problem in world.draw(task, count, 0)
    ]  # fmt: skip
    plan = TrainConfig(1, learning_rate=config.base_rate, warmup=0.1)
    return lab.sft(
        make, *zip(*solved, strict=True), tokenizer=tokenizer, config=plan, seed=0
    ).weights
