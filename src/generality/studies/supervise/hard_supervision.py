"""Hard tasks with errors or easier ones without: which supervision teaches hard reasoning?

Protocol (He et al. 2024, arXiv 2410.20533). Stage 1 tunes one model on easy tasks; all arms go on
from it. Stage 2 tunes it on one supervision set: solutions of hard tasks of which a share is wrong
in its outcome, clean solutions of parts of the same tasks, or both. Wrong solutions are natural
errors of two teachers of different strength, one slip that the rest follows from, or random
values. Floor: the model after stage 1. Ceiling: after stage 2 on right solutions only. Test: other
hard tasks. Arms of hard tasks and of subtasks read equally many tokens; where something is added
to hard tasks, equally many examples.

Differences from the paper, each with its effect: chains of sums modulo 5 and a decoder of a
quarter million parameters instead of competition mathematics and Llama 3 (steps are short and all
of one kind, so that correct steps can be learned from solutions with wrong answers more easily); a
step is compared with the reference's value there, so what follows from an error counts as wrong;
teachers are early checkpoints of one training instead of weaker language models; a paraphrase
renames the variables and leaves the solution as it is; greedy decoding instead of temperature 0.6.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from generality.benchmarks.worlds import ChainPrograms, solution, step_flags, world_tokenizer
from generality.benchmarks.worlds.wrong_chains import scrambled, slipped
from generality.claims import Claim, Outcome, Row, Test, equivalent, greater, rank_correlates
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.measures import ArithmeticSteps, outcome_error_rate, step_error_rate
from generality.models import load_model, load_tokenizer, tiny_decoder
from generality.pairing import select
from generality.selection import (
    NumberMatch,
    Solved,
    SubtaskBuilder,
    SupervisionMixer,
    not_near_copy,
    paraphrase_augment,
    severity_ladder,
)
from generality.studies.study import Paper

PAPER = Paper(
    "Guiding Through Complexity: What Makes Good Supervision for Hard Reasoning Tasks?",
    arxiv="2410.20533",
    year=2024,
)


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    model: str = "0.25M"  # a size of `tiny_decoder`; with data_path a model's name
    data_path: str | None = None  # folder of easy, hard and test .jsonl; None: chains of sums
    modulus: int = 5  # of the sums
    easy_steps: int = 2  # of the longest chain of stage 1
    hard_steps: int = 3  # of every hard chain
    part_steps: tuple[int, ...] = (2,)  # of the subtasks of a hard chain
    easy: int = 12_000  # examples of stage 1, read once
    easy_learning_rate: float = 3e-3
    teacher_tasks: int = 4000  # hard tasks the teachers learn from; no student sees them
    strong: float = 0.75  # share of the teachers' training after which the stronger one is kept
    weak: float = 0.3  # the same of the weaker one
    samples: int = 3  # of each teacher, a task
    temperature: float = 1.0  # of the teachers' samples
    tasks: int = 4000  # hard tasks for which teachers are asked; those they get right drop out
    test: int = 400  # other hard tasks
    error_rates: tuple[float, ...] = (0.5, 0.9)  # in outcome, of hard supervision
    added_to: float = 0.5  # outcome error rate of hard supervision that something is added to
    added: float = 0.1  # outcome error rate of the subtasks that are added
    epochs: float = 1.0  # of stage 2 over the hard tasks; other arms read as much
    learning_rate: float = 3e-3
    batch_size: int = 16
    max_tokens: int = 10  # of an answer
    seeds: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.weak < self.strong < 1 or not self.error_rates:
            raise UserError("weak and strong are shares in (0, 1), weak the smaller.")
        if not self.easy_steps < self.hard_steps or max(self.part_steps) >= self.hard_steps:
            raise UserError("easy_steps and part_steps are fewer than hard_steps.")


SCALES = {
    "smoke": Config(
        model="0.05M", easy=320, teacher_tasks=96, tasks=48, test=24, seeds=1, samples=1,
        error_rates=(0.9,), max_tokens=7,
    ),
    "small": Config(),
    "full": Config(
        model="hf:meta-llama/Meta-Llama-3-8B", data_path="data/hard-supervision", easy=164_000,
        error_rates=tuple(rate / 10 for rate in range(1, 11)), easy_learning_rate=2e-5,
        learning_rate=2e-5, epochs=2.0, seeds=5, batch_size=16, max_tokens=2048,
    ),
}  # fmt: skip

STEPS, OUTCOME = "step_error_rate", "outcome_error_rate"
POOL = {"method": lambda names: names.str.startswith("hard-")}  # hard tasks alone


def _steps_predict_better(rows: pd.DataFrame) -> Outcome:
    """Over the arms of each seed: the score's rank correlation with either rate, sign turned."""
    found = [
        Row(method=rate, seed=seed, score=-stats.spearmanr(arms[rate], arms["score"]).statistic)
        for seed, arms in select(rows, POOL, {STEPS, OUTCOME}).groupby("seed")
        for rate in (STEPS, OUTCOME)
    ]
    return replace(greater(STEPS, OUTCOME)(pd.DataFrame(found)), unit="rank correlation")


CLAIMS = (
    Claim(
        "Hard tasks, 90 % wrong by a teacher's natural errors, teach more than clean subtasks",
        greater("hard-90-strong", "subtasks"),
    ),
    Claim(
        "So do those of a weaker teacher",
        greater("hard-90-weak", "subtasks"),
    ),
    Claim(
        "So do hard tasks with 90 % random work",
        greater("hard-90-random", "subtasks"),
        paper_says="hard tasks win up to an outcome error rate of 90 %, whatever the errors",
    ),
    Claim(
        "At 90 % wrong outcomes, fewer wrong steps teach more: one slip against random work",
        greater("hard-90-slip", "hard-90-random"),
        paper_says="up to 30 points of accuracy at equal outcome error rates",
    ),
    Claim(
        "And a stronger teacher's errors against a weaker one's",
        greater("hard-90-strong", "hard-90-weak"),
    ),
    Claim(
        "Given the outcome error rate, accuracy falls with the stepwise error rate",
        rank_correlates(STEPS, "score", unit="method", sign=-1, partial=(OUTCOME,), where=POOL),
    ),
    Claim(
        "Accuracy follows the stepwise error rate more closely than the outcome error rate",
        Test(f"rank correlation with score: {STEPS} < {OUTCOME}", _steps_predict_better),
    ),
    Claim(
        "Subtasks added to hard tasks teach more than as many paraphrases",
        greater("hard+subtasks", "hard+paraphrases"),
    ),
    Claim(
        "And more than the hard tasks read twice as often",
        greater("hard+subtasks", "hard-doubled"),
    ),
    Claim(
        "Paraphrases teach no more than the hard tasks read twice as often",
        equivalent("hard+paraphrases", "hard-doubled", margin=0.05),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One example of supervision, and what a judge found in it."""

    prompt: str
    response: str
    flags: list[bool] | None  # of its steps, True for a wrong one; None where they cannot be read
    right: bool


@dataclass(frozen=True)
class Material:
    """What the arms are made of; `wrong`, `parts[i]` and `again` are of the tasks of `right`."""

    right: list[Item]
    wrong: dict[str, list[Item]]  # by kind of error
    parts: list[list[Item]]  # right, wrong: one subtask of each task
    more_parts: list[Item]  # all subtasks, right
    again: list[list[Item]]  # right, wrong: a paraphrase of each task


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every arm, seed by seed."""
    world = Chains(config) if config.data_path is None else Files(config)
    tune = functools.partial(lab.sft, world.network, tokenizer=world.tokenizer)
    plan = TrainConfig(1, config.batch_size, learning_rate=config.easy_learning_rate, warmup=0.1)
    base = tune(*zip(*world.easy, strict=True), config=plan, seed=0)

    def score(weights: Any) -> float:
        said = lab.generate(
            world.network, world.test, weights=weights, tokenizer=world.tokenizer,
            max_tokens=config.max_tokens,
        )  # fmt: skip
        return float(np.mean([world.is_right(i, text) for i, (text,) in enumerate(said)]))

    floor = score(base.weights)
    for seed in lab.seeds(config.seeds):
        arms = supervision(config, world.material(lab, base.weights, seed), world, seed)
        rows = []
        for method, (items, epochs) in arms.items():
            tuned = tune(
                [item.prompt for item in items], [item.response for item in items], seed=seed,
                config=replace(plan, epochs=epochs, learning_rate=config.learning_rate),
                weights=base.weights,
            )  # fmt: skip
            rows.append(
                Row(
                    method=method, seed=seed, score=score(tuned.weights), floor=floor,
                    examples=len(items), tokens=tuned.tokens,
                    step_error_rate=step_error_rate(items, lambda item: item.flags),
                    outcome_error_rate=outcome_error_rate(items, lambda item: item.right),
                )
            )  # fmt: skip
        for row in rows:  # arms with something added read more than the ceiling does
            added = row["method"] in ("hard+subtasks", "hard+paraphrases", "hard-doubled")
            yield Row(row, ceiling=None if added else rows[0]["score"])


def supervision(
    config: Config, material: Material, world: Chains | Files, seed: int
) -> dict[str, tuple[list[Item], float]]:
    """Of each arm its examples and its epochs."""

    def mixed(rate: float, right: Sequence[Item], wrong: Sequence[Item]) -> list[Item]:
        return SupervisionMixer(right, wrong, seed=seed).mix(rate)

    right, epochs = material.right, config.epochs
    share = sum(map(world.length, right)) / sum(map(world.length, material.more_parts))
    arms = {"hard-00": (right, epochs), "subtasks": (material.more_parts, epochs * share)}
    for kind, wrong in material.wrong.items():
        for rate in config.error_rates:
            arms[f"hard-{100 * rate:02.0f}-{kind}"] = mixed(rate, right, wrong), epochs
    hard = mixed(config.added_to, right, next(iter(material.wrong.values())))
    arms["hard+subtasks"] = hard + mixed(config.added, *material.parts), epochs
    arms["hard+paraphrases"] = hard + mixed(config.added_to, *material.again), epochs
    arms["hard-doubled"] = hard, 2 * epochs
    return arms


class Chains:
    """Chains of sums, and teachers that learn them for a while."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.source = ChainPrograms(config.modulus, rename=True)
        self.tokenizer = world_tokenizer()
        self.network = functools.partial(
            tiny_decoder, config.model, vocabulary=len(self.tokenizer), context=128
        )
        easy = self.source.sample(config.easy, (1, config.easy_steps), 0)
        self.easy = [(chain.prompt, solution(chain)) for chain in easy]
        shared = self.source.sample(config.test + config.teacher_tasks, config.hard_steps, 0)
        self.tests, self.lessons = shared[: config.test], shared[config.test :]
        self.test = [chain.prompt for chain in self.tests]

    def is_right(self, place: int, text: str) -> bool:
        """Whether this answers the test task at a place."""
        return self.tests[place].check(text)

    def length(self, item: Item) -> int:
        """Tokens of an example."""
        return len(item.prompt.split()) + len(item.response.split())

    def material(self, lab: Lab, base: Any, seed: int) -> Material:
        """The tasks of a seed, without those of the test, that both teachers got wrong once."""
        config = self.config
        tested = {(chain.start, chain.program) for chain in self.tests}
        drawn = self.source.sample(config.tasks, config.hard_steps, seed + 1)
        chains = [chain for chain in drawn if (chain.start, chain.program) not in tested]
        teachers = lab.sft(
            self.network, [chain.prompt for chain in self.lessons],
            [solution(chain) for chain in self.lessons], tokenizer=self.tokenizer, weights=base,
            config=TrainConfig(1, config.batch_size, learning_rate=config.learning_rate),
            keep=(config.weak, config.strong), seed=0,
        ).kept  # fmt: skip
        prompts = [chain.prompt for chain in chains]
        samples = {
            name: lab.generate(
                self.network, prompts, weights=teachers[f"{share:g}"], tokenizer=self.tokenizer,
                samples=config.samples, temperature=config.temperature, seed=seed,
                max_tokens=config.max_tokens,
            )
            for name, share in (("strong", config.strong), ("weak", config.weak))
        }  # fmt: skip
        ladder = severity_ladder(samples, lambda i, text: chains[i].check(text), seed=seed)
        chains = [chains[task] for task in ladder.tasks]
        seeds = np.random.default_rng(seed).integers(2**31, size=len(chains)).tolist()
        texts = {
            **ladder.wrong,
            "slip": [slipped(chain, s) for chain, s in zip(chains, seeds, strict=True)],
            "random": [scrambled(chain, s) for chain, s in zip(chains, seeds, strict=True)],
        }
        pairs = list(zip(chains, seeds, strict=True))
        known = {chain.prompt: chain for chain in chains}

        def segments(task: Solved) -> Iterator[tuple[str, str]]:
            for length in config.part_steps:
                first = int(generator.integers(config.hard_steps - length + 1))
                part = known[task.prompt].segment(first, length)
                known[part.prompt] = part
                yield part.prompt, solution(part)

        generator = np.random.default_rng(seed)
        tasks = [Solved(chain.prompt, solution(chain)) for chain in chains]
        built = SubtaskBuilder(segments, [not_near_copy(0.9)]).build(tasks)
        one = {part.source: known[part.prompt] for part in built}  # the last of each task
        parts = [one.get(i, chain.segment(0, 2)) for i, chain in enumerate(chains)]
        wrong = {kind: list(map(judged, chains, found)) for kind, found in texts.items()}
        renamed = {chain.prompt: chain.renamed(s) for chain, s in pairs}

        def again(items: list[Item]) -> list[Item]:
            said = [Solved(item.prompt, item.response) for item in items]
            new = paraphrase_augment(said, lambda prompt, text: (renamed[prompt].prompt, text))
            return [
                replace(item, prompt=twin.prompt)
                for item, twin in zip(items, new[len(items) :], strict=True)
            ]

        right = [judged(chain, solution(chain)) for chain in chains]
        return Material(
            right=right,
            wrong=wrong,
            parts=[
                [judged(part, solution(part)) for part in parts],
                [judged(part, slipped(part, s)) for part, s in zip(parts, seeds, strict=True)],
            ],
            more_parts=[judged(known[part.prompt], part.solution) for part in built],
            again=[again(right), again(wrong["strong"])],
        )


def judged(chain: Any, text: str) -> Item:
    """A solution of a chain and what is wrong in it."""
    return Item(chain.prompt, text, step_flags(chain, text), chain.check(text))


class Files:
    """Your own tasks, from three files of JSON lines in one folder.

    easy.jsonl: prompt, response. test.jsonl: prompt, answer. hard.jsonl: prompt, right, wrong (of
    each kind of error a solution), and `subtask` and `paraphrase`, each with prompt, right, wrong.
    Steps are judged by recomputing the equations in them.
    """

    def __init__(self, config: Config) -> None:
        folder = Path(config.data_path or "")
        self.tokenizer = load_tokenizer(config.model)
        self.network = functools.partial(_named, config.model)
        try:
            easy, self.hard, tests = (
                [json.loads(line) for line in (folder / name).read_text().splitlines()]
                for name in ("easy.jsonl", "hard.jsonl", "test.jsonl")
            )
        except OSError as error:
            raise UserError(f"{error.filename} is needed: see the study's page.") from error
        self.easy = [(row["prompt"], row["response"]) for row in easy[: config.easy]]
        self.test = [row["prompt"] for row in tests]
        self.answers = [row["answer"] for row in tests]

    def is_right(self, place: int, text: str) -> bool:
        """Whether this answers the test task at a place."""
        return NumberMatch()(self.test[place], text, self.answers[place]) >= 0.5

    def length(self, item: Item) -> int:
        """Tokens of an example."""
        return len(self.tokenizer(item.prompt + item.response)["input_ids"])

    def material(self, lab: Lab, base: Any, seed: int) -> Material:
        """The same for every seed: what differs is which tasks are wrong, and the training."""
        judge = ArithmeticSteps()

        def items(rows: list[dict[str, Any]], which: str) -> list[Item]:
            return [
                Item(row["prompt"], row[which], judge(row[which]), which == "right") for row in rows
            ]

        wrong = {
            kind: items([{**row, "wrong": row["wrong"][kind]} for row in self.hard], "wrong")
            for kind in self.hard[0]["wrong"]
        }
        parts, again = (
            [items([row[name] for row in self.hard], which) for which in ("right", "wrong")]
            for name in ("subtask", "paraphrase")
        )
        return Material(items(self.hard, "right"), wrong, parts, parts[0], again)


def _named(name: str, seed: int) -> Any:
    return load_model(name, device="cpu")
