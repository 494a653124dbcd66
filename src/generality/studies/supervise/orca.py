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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from generality.benchmarks.worlds import Explained, TwoTeachers
from generality.claims import Claim, Row, greater
from generality.errors import UserError
from generality.experiments.explanation_school import (
    ExplanationSchool,
    FileQueries,
    ListQueries,
)
from generality.experiments.sum_panels import explanation_rows
from generality.experiments.sum_school import SumSchool
from generality.lab import Lab, TrainConfig
from generality.lab.stages import Stage
from generality.selection.explained_stages import Said, explained_stage, mixed_stage, words_read
from generality.studies.study import Paper

PAPER = Paper("Orca: Progressive Learning from Complex Explanation Traces of GPT-4",
              arxiv="2306.02707", year=2023)  # fmt: skip
FACTORS = ("panel",)

TWO_STAGES = ("middle-strong", "strong-strong", "middle-middle", "strong-middle")
ARMS = ("answers", "answers-tokens", "strong", "strong-fifth", *TWO_STAGES, "mixed", "ceiling")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    model: str = "0.25M"  # a size of `tiny_decoder`; with data_path a model's name
    data_path: str | None = None  # folder of train.jsonl and test.jsonl; None: string tasks
    tasks: tuple[str, ...] = ("reverse", "sum", "count")  # of 8, those that answers did not teach
    unseen: tuple[str, ...] = ("dedupe", "swap", "last", "first")  # of many lists: none comes twice
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
    def queries(self) -> ListQueries | FileQueries:
        """Where queries, what teachers said of them and further problems come from."""
        if self.data_path is not None:
            return FileQueries(Path(self.data_path))
        return ListQueries(
            TwoTeachers(self.errors, self.every), self.tasks, self.unseen, self.lengths,
            self.between, self.longer, self.test, self.adaptation,
        )  # fmt: skip


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
    Claim("Explanations teach more than answers to the same queries",
          greater("strong", "answers"),
          paper_says="+26 points on BIG-Bench Hard over Vicuna-13B"),
    Claim("They do so when answers may be read until the tokens are as many",
          greater("strong", "answers-tokens")),
    Claim("Their lead holds on lengths and tasks that were not taught",
          greater("strong", "answers-tokens", where=NEW)),
    Claim("A student taught in stages comes up to its middle teacher on what was taught",
          greater("middle-strong", 0.9, where=SEEN)),
    Claim("A middle teacher's explanations before the strong one's beat the latter alone",
          greater("middle-strong", "strong-fifth"),
          paper_says="41.7 against 37.2 on AGIEval, with six times the data"),
    Claim("They do so at equal amounts of data: better than the strong teacher twice",
          greater("middle-strong", "strong-strong")),
    Claim("Ending with the strong teacher beats going on with the middle one",
          greater("middle-strong", "middle-middle")),
    Claim("A judge of form flatters the student of answers more than the student of explanations",
          greater("answers", "strong", on="flattery"),
          paper_says="Vicuna: 92 % of ChatGPT by a judge, 48 % on BIG-Bench Hard"),
    Claim("SmolLM2 learns more of sums from explanations than from answers to the same sums",
          greater("explanations of sums", "answers of sums")),
    Claim("And more than from answers of as many tokens",
          greater("explanations of sums", "answers-tokens of sums")),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every arm and panel, seed by seed."""
    n, queries = config.examples, config.queries
    tuning = TrainConfig(
        epochs=1.0, batch_size=config.batch_size, learning_rate=config.learning_rate,
        max_grad_norm=1.0,
    )  # fmt: skip
    of = ExplanationSchool.tiny if config.data_path is None else ExplanationSchool.named
    school = of(lab, config.model, tuning, max_tokens=config.max_tokens)
    base = None
    if isinstance(queries, ListQueries):
        base = school.begun(queries.explain(config.base_lengths, config.base_examples, 0))
    sizes = {"first": n, "second": round(n * config.fifth), "further": n * (config.more - 1)}
    for seed in lab.seeds(config.seeds):
        pools, panels = queries.pools(sizes, seed), queries.panels(seed)
        found: dict[str, dict[str, Row]] = {}
        for arm in ARMS:
            tuned = school.taught(stages(config, arm, pools), seed=seed, weights=base)
            exams = school.exams(
                tuned.weights, panels, explains=not arm.startswith("answers"), seed=seed,
                adaptation_epochs=config.adaptation_epochs,
            )  # fmt: skip
            found[arm] = {name: Row(row, tokens=tuned.tokens) for name, row in exams.items()}
        for arm, rows in found.items():
            for panel, row in rows.items():
                floor, ceiling = (found[name][panel]["score"] for name in ("answers", "ceiling"))
                yield Row(method=arm, seed=seed, panel=panel, floor=floor, ceiling=ceiling, **row)
    if config.real:
        sums = SumSchool(lab, config.real, max_tokens=config.real_tokens)
        for seed in lab.seeds(config.seeds):
            for row in explanation_rows(sums, config.real_sums, config.real_test, seed=seed):
                yield Row(row, method=f"{row['method']} of sums", panel="smollm2")


def stages(config: Config, arm: str, pools: Mapping[str, Sequence[Explained]]) -> list[Stage]:
    """What an arm learns from, one stage after another."""
    first, second = pools["first"], pools["second"]
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
        "ceiling": tell([*first, *pools["further"]], "strong"),
    }
    return [alone[arm]]
