"""Explanations against answers, and a middle teacher before the strong one: what helps a student?

Protocol (Mukherjee et al. 2023, arXiv 2306.02707). A small model that knows short problems is tuned
on longer ones, on a teacher's bare answers or on its explanations. Floor: answers. Ceiling: four
times as many explanations of the strong teacher. It is tested on lengths it saw, on one between
them, on longer ones, and on four tasks of which it then sees fifty examples each. The strong
teacher states every step and never errs; the middle one states every other step and goes wrong in
a tenth of its explanations (one step, from which the rest follows).

The paper compares five million explanations of the middle teacher and then one million of the
strong one with that one million alone, so that order and amount change together. Here all four
orders of two teachers learn from N, then N/5 examples (`middle-strong`, …), beside `strong-fifth`,
the paper's comparison. `answers-tokens` reads as many tokens as `strong` does. The panel `smollm2`
asks the first question of a model people know, with sums and low-rank adapters.

Differences from the paper, each with its effect: procedural tasks over letters and digits and a
decoder of 0.25M parameters instead of FLAN and LLaMA-13B (explanations are exact, and their length
is the number of steps); one word per system message (short, steps, check); the judge looks at form
alone (the worst case of one that does); optimiser and learning rate begin anew with each stage, as
in the paper. Scores are exact matches.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from generality.benchmarks.worlds import (
    TASKS,
    Explained,
    Problem,
    TwoTeachers,
    in_form,
    mixed_problems,
    read_explained,
    world_tokenizer,
)
from generality.claims import Claim, Row, greater
from generality.errors import UserError
from generality.experiments.sum_panels import explanation_rows
from generality.experiments.sum_school import SumSchool
from generality.lab import Lab, TrainConfig
from generality.lab.stages import Stage, tune_in_stages
from generality.models import load_model, load_tokenizer, tiny_decoder
from generality.selection.explained_stages import (
    TINY_MESSAGES,
    Said,
    explained_stage,
    mixed_stage,
    words_read,
)
from generality.studies.study import Paper

PAPER = Paper(
    "Orca: Progressive Learning from Complex Explanation Traces of GPT-4",
    arxiv="2306.02707",
    year=2023,
)
FACTORS = ("panel",)

WORDS = (*TASKS, *TINY_MESSAGES)
TWO_STAGES = ("middle-strong", "strong-strong", "middle-middle", "strong-middle")
ARMS = ("answers", "answers-tokens", "strong", "strong-fifth", *TWO_STAGES, "mixed", "ceiling")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    model: str = "0.25M"  # a size of `tiny_decoder`; with data_path a model's name
    data_path: str | None = None  # folder of train.jsonl and test.jsonl; None: string tasks
    tasks: tuple[str, ...] = ("reverse", "sum", "count")  # of 8, those that answers did not teach
    unseen: tuple[str, ...] = ("dedupe", "swap", "last", "or")
    base_examples: int = 20_000  # that the shared start is trained on, once each
    base_lengths: tuple[int, ...] = (2, 3)  # symbols
    lengths: tuple[int, ...] = (3, 5)  # that students learn from
    between: int = 4  # a length they do not see
    longer: int = 6  # another
    examples: int = 3000  # N, in equal shares of tasks and lengths
    fifth: float = 0.2  # of N, in the second stage
    more: int = 4  # times N, of the ceiling
    errors: float = 0.1  # share of the middle teacher's explanations that go wrong
    every: int = 2  # of the middle teacher's steps are stated
    adaptation: int = 50  # examples of each unseen task
    adaptation_epochs: float = 4.0
    epochs: float = 1.0  # of each stage
    learning_rate: float = 2e-3  # of Adam, cosine to 0 in each stage
    batch_size: int = 32
    test: int = 40  # problems of each task and length
    max_tokens: int = 40  # of a response
    real: str | None = "smollm2-135m"  # the model of its panel, or a size of `tiny_decoder`
    real_sums: int = 24  # that it learns from by LoRA, of three one-digit numbers
    real_test: int = 24  # other sums
    real_tokens: int = 40  # of an answer
    seeds: int = 4

    def __post_init__(self) -> None:
        if {self.between, self.longer} & {*self.lengths, *self.base_lengths}:
            raise UserError("between and longer are lengths that no training shows.")
        if set(self.tasks) & set(self.unseen):
            raise UserError("unseen tasks are not among tasks.")

    @property
    def teachers(self) -> TwoTeachers:
        """Who explains."""
        return TwoTeachers(self.errors, self.every)


SCALES = {
    "smoke": Config(
        model="0.05M", tasks=("reverse", "count"), unseen=("last",), base_examples=64,
        examples=40, more=2, adaptation=4, adaptation_epochs=1.0, test=2, max_tokens=12,
        real="0.05M", real_sums=4, real_test=2, real_tokens=4, seeds=1,
    ),
    "small": Config(),
    "full": Config(
        model="hf:meta-llama/Llama-2-7b-hf", data_path="data/openorca", examples=5_000_000,
        base_examples=0, epochs=4.0, learning_rate=2e-5, more=1, max_tokens=1024,
        real="hf:Qwen/Qwen2.5-1.5B", real_sums=500, real_test=200, seeds=3,
    ),
}  # fmt: skip

SEEN = {"panel": "seen"}
NEW = {"panel": ["between", "longer", "unseen tasks"]}
CLAIMS = (
    Claim(
        "Explanations teach more than answers to the same queries",
        greater("strong", "answers"),
        paper_says="+26 points on BIG-Bench Hard over Vicuna-13B",
    ),
    Claim(
        "They do so when answers may be read until the tokens are as many",
        greater("strong", "answers-tokens"),
    ),
    Claim(
        "Their lead holds on lengths and tasks that were not taught",
        greater("strong", "answers-tokens", where=NEW),
    ),
    Claim(
        "A student taught in stages comes up to its middle teacher on what was taught",
        greater("middle-strong", 0.9, where=SEEN),
    ),
    Claim(
        "A middle teacher's explanations before the strong one's beat the latter alone",
        greater("middle-strong", "strong-fifth"),
        paper_says="41.7 against 37.2 on AGIEval, with six times the data",
    ),
    Claim(
        "They do so at equal amounts of data: better than the strong teacher twice",
        greater("middle-strong", "strong-strong"),
    ),
    Claim(
        "Ending with the strong teacher beats going on with the middle one",
        greater("middle-strong", "middle-middle"),
    ),
    Claim(
        "A judge of form flatters the student of answers more than the student of explanations",
        greater("answers", "strong", on="flattery"),
        paper_says="Vicuna: 92 % of ChatGPT by a judge, 48 % on BIG-Bench Hard",
    ),
    Claim(
        "SmolLM2 learns more of sums from explanations than from answers to the same sums",
        greater("explanations of sums", "answers of sums"),
    ),
    Claim(
        "And more than from answers of as many tokens",
        greater("explanations of sums", "answers-tokens of sums"),
    ),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every arm and panel, seed by seed."""
    network, tokenizer = language_model(config)
    base = None
    if config.data_path is None:
        base = lab.sft(
            network, *base_examples(config), tokenizer=tokenizer, seed=0,
            config=training(config, 1.0),
        ).weights  # fmt: skip
    for seed in lab.seeds(config.seeds):
        pools, panels = data(config, seed)
        found: dict[str, dict[str, Row]] = {}
        for arm in ARMS:
            tuned = tune_in_stages(
                lab, network, stages(config, arm, pools), tokenizer=tokenizer, seed=seed,
                config=training(config, config.epochs), weights=base,
            )  # fmt: skip
            found[arm] = arm_rows(config, lab, arm, tuned.weights, panels, seed)
            for row in found[arm].values():
                row["tokens"] = tuned.tokens
        for arm, rows in found.items():
            for panel, row in rows.items():
                floor, ceiling = (found[name][panel]["score"] for name in ("answers", "ceiling"))
                yield Row(method=arm, seed=seed, panel=panel, floor=floor, ceiling=ceiling, **row)
    if config.real:
        school = SumSchool(lab, config.real, max_tokens=config.real_tokens)
        for seed in lab.seeds(config.seeds):
            for row in explanation_rows(school, config.real_sums, config.real_test, seed=seed):
                yield Row(row, method=f"{row['method']} of sums", panel="smollm2")


def stages(config: Config, arm: str, pools: dict[str, list[Explained]]) -> list[Stage]:
    """What an arm learns from, one stage after another."""
    first, second, further = pools["first"], pools["second"], pools["further"]
    tell = functools.partial(explained_stage, epochs=config.epochs)
    if arm == "answers-tokens":
        ratio = words_read(tell(first, "strong")) / words_read(tell(first, "answer"))
        return [explained_stage(first, "answer", config.epochs * ratio)]
    if arm in TWO_STAGES:
        one, two = (cast(Said, teacher) for teacher in arm.split("-"))
        return [tell(first, one), tell(second, two)]
    alone = {
        "answers": tell(first, "answer"),
        "mixed": mixed_stage(first, config.epochs),
        "strong": tell(first, "strong"),
        "strong-fifth": tell(second, "strong"),
        "ceiling": tell(first + further, "strong"),
    }
    return [alone[arm]]


def arm_rows(
    config: Config, lab: Lab, arm: str, weights: Any, panels: dict[str, Any], seed: int
) -> dict[str, Row]:
    """A row per panel: exact matches, asked as the arm was taught and asked for steps."""
    network, tokenizer = language_model(config)
    own = "short" if arm.startswith("answers") else "steps"
    teacher: Said = "answer" if own == "short" else "strong"
    rows: dict[str, Row] = {}
    for panel, (problems, adaptation) in panels.items():
        adapted = weights
        if adaptation:
            adapted = tune_in_stages(
                lab, network, [explained_stage(adaptation, teacher, config.adaptation_epochs)],
                tokenizer=tokenizer, config=training(config, 1.0), seed=seed, weights=weights,
            ).weights  # fmt: skip
        said = {
            system: lab.generate(
                network, [f"{system} {p.prompt}" for p in problems], weights=adapted,
                tokenizer=tokenizer, max_tokens=config.max_tokens, batch_size=320, chunk=1000,
            )
            for system in {own: None, "steps": None}
        }  # fmt: skip
        right = {
            system: np.mean([p.check(r[0]) for p, r in zip(problems, texts, strict=True)])
            for system, texts in said.items()
        }
        form = np.mean([in_form(p, r[0]) for p, r in zip(problems, said["steps"], strict=True)])
        rows[panel] = Row(
            score=float(right[own]),
            form=float(form),
            flattery=float(form - right["steps"]),
            response_words=float(np.mean([len(texts[0].split()) for texts in said[own]])),
        )
    return rows


def data(config: Config, seed: int) -> tuple[dict[str, list[Explained]], dict[str, Any]]:
    """Lessons for the stages, and panels of problems, with examples to adapt to where there are."""
    n = config.examples
    sizes = {"first": n, "second": round(n * config.fifth), "further": n * (config.more - 1)}
    if config.data_path is not None:
        folder = Path(config.data_path)
        ends = np.cumsum(list(sizes.values())).tolist()
        every = read_explained(folder / "train.jsonl")[: ends[-1]]
        parts = np.split(np.arange(len(every)), ends[:-1])
        pools = {k: [every[i] for i in part] for k, part in zip(sizes, parts, strict=True)}
        test = [Problem("", r.prompt, (), r.answer) for r in read_explained(folder / "test.jsonl")]
        return pools, {"seen": (test, [])}
    teachers, tasks, unseen = config.teachers, config.tasks, config.unseen
    pools = {
        name: teachers.explain(tasks, config.lengths, size, 10 * seed + place)
        for place, (name, size) in enumerate(sizes.items())
    }
    asked, adapt = 10 * seed + len(sizes), config.adaptation * len(unseen)
    lengths = {"seen": max(config.lengths), "between": config.between, "longer": config.longer}
    panels: dict[str, Any] = {
        name: (mixed_problems(tasks, [length], config.test * len(tasks), asked), [])
        for name, length in lengths.items()
    }
    panels["unseen tasks"] = (
        mixed_problems(unseen, config.lengths, 2 * config.test * len(unseen), asked),
        teachers.explain(unseen, config.lengths, adapt, asked + 1),
    )
    return pools, panels


def base_examples(config: Config) -> tuple[list[str], list[str]]:
    """Short problems, half answered and half explained."""
    drawn = config.teachers.explain(config.tasks, config.base_lengths, config.base_examples, 0)
    parts = explained_stage(drawn[::2], "answer"), explained_stage(drawn[1::2], "strong")
    return [*parts[0].prompts, *parts[1].prompts], [*parts[0].responses, *parts[1].responses]


def language_model(config: Config) -> tuple[Any, Any]:
    """From a seed to the network, and its tokenizer."""
    if config.data_path is None:
        tokenizer = world_tokenizer(WORDS)
        return functools.partial(tiny_decoder, config.model, vocabulary=len(tokenizer)), tokenizer
    return functools.partial(named, config.model), load_tokenizer(config.model)


def named(name: str, seed: int) -> Any:
    """A pretrained model; the seed changes nothing in it."""
    return load_model(name)


def training(config: Config, epochs: float) -> TrainConfig:
    """The same for all."""
    return TrainConfig(
        epochs=epochs, batch_size=config.batch_size, learning_rate=config.learning_rate,
        max_grad_norm=1.0,
    )  # fmt: skip
