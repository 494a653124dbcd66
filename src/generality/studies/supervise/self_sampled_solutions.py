"""Do a model's own correct and partially correct programs teach it what one reference cannot?

Protocol (Ni et al. 2023, arXiv 2205.14318). A language model learns programs for word problems from
one reference each, then goes on in one of several ways for the same number of steps. Floor: the
reference alone (MLE). Ceiling: several valid programs of every problem, as an enumeration gives
them. Arms add what the model samples and what execution proves right: fully correct programs
(`full-only`), also beginnings whose state is that of a known program (`full+partial`, with plain
augmentation of the targets), the same under other losses (`mml`, `beta-mml`) or without
continuing known beginnings (`unguided`). Score: the share of new problems of which at least one of
k programs is right.

Differences from the paper, each with its effect: phrases about sums and products instead of GSM8K,
and a decoder of 0.15M parameters trained from nothing (what has to be learned is how to copy and
arrange, not how to read); a round of sampling for all problems once per epoch instead of in every
step (programs are up to one epoch old; it costs a tenth); the loss is over the program alone;
PASS@k by the unbiased estimate, PASS@1 greedy; equal numbers of steps, so more targets mean more
reading; a warm start on references alone, short enough that the model does not know them by heart.
Methods "… of sums" are of SmolLM2, which learns workings of sums by low-rank adapters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from generality.benchmarks.gsm8k_programs import gsm8k_programs
from generality.benchmarks.worlds import TARGET_WORDS, TargetPrograms
from generality.claims import Claim, Row, greater, interacts
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.measures import pass_at_k, solution_diversity
from generality.objectives import MultiTargetLoss
from generality.selection import StateTracer, arithmetic_executor
from generality.selection.self_sampling import tune_self_sampling
from generality.studies.study import Paper
from generality.training.writer import Writer

PAPER = Paper(
    "Learning Math Reasoning from Self-Sampled Correct and Partially-Correct Solutions",
    arxiv="2205.14318",
    year=2022,
)
FACTORS = ("k",)

ARMS: dict[str, dict[str, Any]] = {  # what differs from full+partial with plain augmentation
    "mle": {"samples": 0},
    "full-only": {"partial": False},
    "full+partial": {},
    "mml": {"kind": "mml"},
    "beta-mml": {"kind": "beta_mml"},
    "unguided": {"guided": False},
    "ceiling": {"samples": 0},
}


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    model: str = "0.15M"  # a size of `tiny_decoder`, or a model's name
    data: str = "target-programs"  # or "gsm8k"
    data_path: str | None = None  # folder of GSM8K's train.jsonl and test.jsonl; None: the hub
    problems: int = 400  # to learn from
    test: int = 80  # new ones
    terms: tuple[int, int] = (2, 3)  # of a phrase, least and most
    warm_epochs: float = 8  # on references, shared by all arms
    epochs: int = 5  # of every arm
    batch_size: int = 32  # problems
    learning_rate: float = 3e-3  # AdamW, constant at first, then linear to 0
    weight_decay: float = 0.1
    most: int = 4  # targets per problem and step
    ceiling_programs: int = 4  # valid programs per problem
    draws: int = 2  # programs sampled per problem and epoch
    beta: float = 0.25  # of beta-MML
    mean: bool = False  # augmentation by the mean over a problem's targets; the paper sums
    temperature: float = 0.8
    max_tokens: int = 32  # of a program
    samples: int = 20  # programs per test problem
    ks: tuple[int, ...] = (1, 5, 20)
    real: str | None = "smollm2-135m"  # the model of its panel, or a size of `tiny_decoder`
    real_sums: int = 16  # that it learns workings of by LoRA, of three one-digit numbers
    real_test: int = 24  # other sums
    real_samples: int = 4  # workings of each of these
    real_epochs: int = 2  # of every arm, after one that all share
    real_tokens: int = 32  # of a working
    real_seeds: int = 3
    seeds: int = 5

    def __post_init__(self) -> None:
        if self.data not in ("target-programs", "gsm8k"):
            raise UserError(f"data is 'target-programs' or 'gsm8k', not '{self.data}'.")
        if max(self.ks) > self.samples or min(self.ks) < 1:
            raise UserError(f"ks are between 1 and samples ({self.samples}).")


SCALES = {
    "smoke": Config(
        model="0.05M", problems=16, test=4, terms=(2, 2), warm_epochs=8, epochs=2, samples=4,
        ks=(1, 4), seeds=1, max_tokens=16, draws=1, real="0.05M", real_sums=4, real_test=2,
        real_samples=2, real_epochs=1, real_tokens=4, real_seeds=1,
    ),
    "small": Config(),
    "full": Config(
        model="hf:EleutherAI/gpt-neo-125m", data="gsm8k", problems=5500, test=1000,
        warm_epochs=4, epochs=18, learning_rate=1e-4, most=10, draws=1, max_tokens=100, samples=100,
        ks=(1, 5, 10, 20, 50, 100), seeds=3, real="hf:Qwen/Qwen2.5-0.5B", real_sums=500,
        real_test=500, real_samples=50, real_epochs=4,
    ),
}  # fmt: skip

MANY = {"k": lambda k: k == k.max()}
CLAIMS = (
    Claim(
        "Solutions that a model samples itself raise PASS@k at many samples",
        greater("full+partial", "floor", where=MANY),
    ),
    Claim(
        "They raise it more at many samples than at one",
        interacts(("method", "full+partial", "mle"), ("k", 20, 1)),
    ),
    Claim(
        "Partially correct programs add to fully correct ones",
        greater("full+partial", "full-only", where=MANY),
    ),
    Claim(
        "Plain augmentation beats maximum marginal likelihood",
        greater("full+partial", "mml", where=MANY),
    ),
    Claim(
        "So does a marginal likelihood tempered by beta",
        greater("beta-mml", "mml", where=MANY),
    ),
    Claim(
        "Going on from known beginnings finds more new correct programs per sample",
        greater("full+partial", "unguided", on="new_per_sample", where=MANY),
    ),
    Claim(
        "A model of more ways writes more different correct programs",
        greater("full+partial", "mle", on="programs", where=MANY),
    ),
    Claim(
        "SmolLM2 solves more sums in some of its samples after its own right workings than after "
        "one reference alone",
        greater("full+partial of sums", "mle of sums", where={"k": lambda k: k > 1}),
    ),
    Claim(
        "And after every working there is",
        greater("ceiling of sums", "mle of sums", where={"k": lambda k: k > 1}),
    ),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every arm and k, seed by seed."""
    for seed in lab.seeds(config.seeds):
        yield from seed_rows(config, lab, seed)
    if config.real:
        from generality.experiments.self_sampled_sums import sampled_rows
        from generality.experiments.sum_school import SumSchool

        school = SumSchool(lab, config.real, max_tokens=config.real_tokens)
        for seed in lab.seeds(config.real_seeds):
            for row in sampled_rows(
                school, config.real_sums, config.real_test, samples=config.real_samples,
                epochs=config.real_epochs, seed=seed,
            ):  # fmt: skip
                yield Row(row, method=f"{row['method']} of sums")


def seed_rows(config: Config, lab: Lab, seed: int) -> list[Row]:
    """One seed: its problems, the shared start, every arm."""
    train, test = problems(config, seed)
    world = config.data == "target-programs"
    separator = " ; " if world else "\n"
    start = Writer.tiny(config.model, TARGET_WORDS) if world else Writer.named(config.model)
    warm = start.tuned(
        lab, [p.prompt for p in train], [p.reference for p in train], seed=seed,
        config=training(config, config.warm_epochs, "constant"),
    )  # fmt: skip
    tracer = StateTracer(executor=arithmetic_executor)
    found: dict[str, dict[str, Any]] = {}
    for arm, change in ARMS.items():
        if arm == "ceiling" and not world:
            continue  # nobody can enumerate these
        known = (
            [p.programs(config.ceiling_programs, seed) for p in train] if arm == "ceiling" else None
        )
        kind: Any = "mle" if arm == "mle" else change.get("kind", "mle_aug")
        tuned = lab.step(
            tune_self_sampling, network=warm.network, tokenizer=warm.tokenizer,
            weights=warm.weights, prompts=[p.prompt for p in train],
            references=[p.reference for p in train], seed=seed, known=known,
            config=training(config, config.epochs, "linear"), tracer=tracer,
            partial=change.get("partial", True), separator=separator, device=lab.device,
            loss=MultiTargetLoss(kind, beta=config.beta, mean=config.mean),
            samples=change.get("samples", config.draws), guided=change.get("guided", True),
            temperature=config.temperature, max_tokens=config.max_tokens, most=config.most,
            every=math.ceil(config.problems / config.batch_size) if world else None,
        )  # fmt: skip
        writer = replace(warm, weights=tuned["weights"])
        found[arm] = {**training_facts(tuned), **scores(config, lab, test, writer, seed)}
    return [
        Row(
            method=arm, seed=seed, k=k, score=facts[f"pass@{k}"],
            floor=found["mle"][f"pass@{k}"],
            ceiling=found["ceiling"][f"pass@{k}"] if "ceiling" in found else None,
            **{name: value for name, value in facts.items() if not name.startswith("pass@")},
        )
        for arm, facts in found.items()
        for k in config.ks
    ]  # fmt: skip


def training_facts(tuned: dict[str, Any]) -> Row:
    """What an arm's sampling found. Shares that are 0 in most arms stay out: see `Row`."""
    sampled = tuned["sampled"]
    return Row(
        new_per_sample=tuned["counts"].get("full", 0) / sampled if sampled else None,
        full=float(np.mean([len(full) for full in tuned["full"]])),
    )


def scores(config: Config, lab: Lab, test: Sequence[Any], writer: Writer, seed: int) -> Row:
    """PASS@k on new problems, and how many ways of solving them the model knows."""
    write = functools.partial(
        writer.write, lab, [p.prompt for p in test], max_tokens=config.max_tokens, batch_size=400,
        chunk=400,
    )  # fmt: skip
    tracer = StateTracer(executor=arithmetic_executor)
    drawn = write(samples=config.samples, temperature=config.temperature, seed=seed)
    right = [
        [t for t in texts if solves(p, t, tracer)] for p, texts in zip(test, drawn, strict=True)
    ]
    greedy = [solves(p, texts[0], tracer) for p, texts in zip(test, write(), strict=True)]
    facts = {
        f"pass@{k}": float(pass_at_k(config.samples, [len(texts) for texts in right], k).mean())
        for k in config.ks
        if k > 1
    }
    return {
        **facts,
        "pass@1": float(np.mean(greedy)),
        "programs": solution_diversity(right).programs if any(right) else None,
    }


def solves(problem: Any, program: str, tracer: StateTracer) -> bool:
    """Whether a program runs and its answer is right."""
    trace = tracer(program)
    answer = trace.answers[-1] if trace else None
    return answer is not None and math.isclose(answer, float(problem.answer), abs_tol=1e-4)


def problems(config: Config, seed: int) -> tuple[list[Any], list[Any]]:
    """Problems to learn from, and others."""
    if config.data == "gsm8k":
        parts = [gsm8k_programs(split, folder=config.data_path) for split in ("train", "test")]
        return parts[0][: config.problems], parts[1][: config.test]
    drawn: list[Any] = list(
        TargetPrograms(config.terms).sample(config.problems + config.test, seed)
    )
    return drawn[: config.problems], drawn[config.problems :]


def training(config: Config, epochs: float, schedule: Any) -> TrainConfig:
    """As the paper's, but for the rates of a model trained from nothing."""
    return TrainConfig(
        epochs=epochs, batch_size=config.batch_size, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay, optimizer="adamw", max_grad_norm=1.0, schedule=schedule,
    )  # fmt: skip
