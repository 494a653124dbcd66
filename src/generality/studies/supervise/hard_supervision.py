"""Hard tasks with errors or easier ones without: which supervision teaches hard reasoning?

Protocol (He et al. 2024, arXiv 2410.20533). Stage 1 tunes one model on easy tasks; all arms go on
from it. Stage 2 tunes it on one supervision set: solutions of hard tasks of which a share is wrong
in its outcome, clean solutions of parts of the same tasks, or both. Wrong solutions are natural
errors of two teachers of different strength, one slip that the rest follows from, or random
values. Floor: the model after stage 1. Ceiling: after stage 2 on right solutions only. Test: other
hard tasks. Arms of hard tasks and of subtasks read equally many tokens; where something is added
to hard tasks, equally many examples. The panel `smollm2` asks the same of a model people know, with
sums of reasoning-gym: floor that model as it is, ceiling after right work.

Differences from the paper, each with its effect: chains of sums modulo 5 and a decoder of a
quarter million parameters instead of competition mathematics and Llama 3 (steps are short and all
of one kind, so that correct steps can be learned from solutions with wrong answers more easily); a
step is compared with the reference's value there, so what follows from an error counts as wrong;
teachers are early checkpoints of one training instead of weaker language models; a paraphrase
renames the variables and leaves the solution as it is; greedy decoding instead of temperature 0.6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd
from scipy import stats

from generality.claims import Claim, Outcome, Row, Test, equivalent, greater, rank_correlates
from generality.errors import UserError
from generality.experiments.hard_tasks import ChainTasks, FileTasks, HardTasks
from generality.experiments.sum_panels import error_rows
from generality.experiments.sum_school import SumSchool
from generality.lab import Lab, TrainConfig
from generality.measures import outcome_error_rate, step_error_rate
from generality.pairing import Factors, select
from generality.selection import HardChains, Supervised, supervision_sets
from generality.studies.study import Paper
from generality.training.writer import Writer

PAPER = Paper(
    "Guiding Through Complexity: What Makes Good Supervision for Hard Reasoning Tasks?",
    arxiv="2410.20533",
    year=2024,
)
FACTORS = ("panel",)


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    model: str = "0.25M"  # a size of `tiny_decoder`; with data_path a model's name
    data_path: str | None = None  # folder of easy, hard and test .jsonl; None: chains of sums
    modulus: int = 5  # of the sums
    easy_steps: int = 2  # of the longest chain of stage 1
    hard_steps: int = 3  # of every hard chain
    style: str = "full"  # of solutions, see `generality.benchmarks.worlds.solution`
    part_steps: tuple[int, ...] = (2,)  # of the subtasks of a hard chain
    easy: int = 12_000  # examples of stage 1, read once
    easy_learning_rate: float = 3e-3
    easy_batch_size: int = 16
    teacher_tasks: int = 2000  # hard tasks the teachers learn from; no student sees them
    strong: float = 0.6  # share of the teachers' training after which the stronger one is kept
    weak: float = 0.3  # the same of the weaker one
    samples: int = 2  # of each teacher, a task
    temperature: float = 1.0  # of the teachers' samples
    tasks: int = 2000  # hard tasks for which teachers are asked; those they get right drop out
    test: int = 300  # other hard tasks
    error_rates: tuple[float, ...] = (0.5, 0.9)  # in outcome, of hard supervision
    added_to: float = 0.5  # outcome error rate of hard supervision that something is added to
    added: float = 0.1  # outcome error rate of the subtasks that are added
    epochs: float = 1.0  # of stage 2 over the hard tasks; other arms read as much
    learning_rate: float = 3e-3
    batch_size: int = 16
    max_tokens: int = 32  # of an answer
    seeds: int = 3
    real: str | None = "smollm2-135m"  # the model of its panel, or a size of `tiny_decoder`
    real_sums: int = 24  # that it learns from by LoRA, of three one-digit numbers
    real_test: int = 24  # other sums
    real_tokens: int = 40  # of an answer

    def __post_init__(self) -> None:
        if not 0 < self.weak < self.strong < 1 or not self.error_rates:
            raise UserError("weak and strong are shares in (0, 1), weak the smaller.")
        if not self.easy_steps < self.hard_steps or max(self.part_steps) >= self.hard_steps:
            raise UserError("easy_steps and part_steps are fewer than hard_steps.")


SCALES = {
    "smoke": Config(
        model="0.05M", style="states", easy=200, teacher_tasks=64, tasks=32, test=16, seeds=1,
        samples=1, error_rates=(0.9,), max_tokens=7, real="0.05M", real_sums=4, real_test=2,
        real_tokens=4,
    ),
    "small": Config(),
    "full": Config(
        model="hf:meta-llama/Meta-Llama-3-8B", data_path="data/hard-supervision", easy=164_000,
        error_rates=tuple(rate / 10 for rate in range(1, 11)), easy_learning_rate=2e-5,
        learning_rate=2e-5, epochs=2.0, seeds=5, batch_size=16, max_tokens=2048,
        real="hf:Qwen/Qwen2.5-1.5B", real_sums=500, real_test=200,
    ),
}  # fmt: skip

STEPS, OUTCOME = "step_error_rate", "outcome_error_rate"
POOL = {  # hard tasks alone, read once
    "method": lambda names: names.str.startswith("hard-") & (names != "hard-doubled")
}


def _steps_predict_better(rows: pd.DataFrame, factors: Factors) -> Outcome:
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
    Claim(
        "SmolLM2 learns more from sums 90 % wrong by one slip than from right parts of these sums",
        greater("slips", "parts", where={"panel": "smollm2"}),
    ),
    Claim(
        "It learns from sums 90 % wrong by one slip at all",
        greater("slips", "floor", where={"panel": "smollm2"}),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every arm, seed by seed."""
    world = tasks(config)
    plan = TrainConfig(1, config.batch_size, learning_rate=config.learning_rate, warmup=0.1)
    stage1 = replace(
        plan, batch_size=config.easy_batch_size, learning_rate=config.easy_learning_rate
    )  # fmt: skip
    base = world.writer.tuned(lab, *zip(*world.easy, strict=True), config=stage1, seed=0)

    def length(item: Supervised) -> int:
        return len(world.writer.tokenizer(f"{item.prompt} {item.response}")["input_ids"])

    def score(writer: Writer) -> float:
        tests = {"hard": world.test}
        return writer.accuracies(lab, tests, world.judge, max_tokens=config.max_tokens)["hard"]

    floor = score(base)
    for seed in lab.seeds(config.seeds):
        sets = supervision_sets(
            world.material(lab, base, plan, seed), error_rates=config.error_rates,
            added_to=config.added_to, added=config.added, length=length, seed=seed,
        )  # fmt: skip
        rows = []
        for method, (items, times) in sets.items():
            tuned = base.tuned(
                lab, [item.prompt for item in items], [item.response for item in items], seed=seed,
                config=replace(plan, epochs=config.epochs * times),
            )  # fmt: skip
            rows.append(
                Row(
                    method=method, seed=seed, score=score(tuned), floor=floor,
                    examples=len(items), tokens=tuned.training.tokens if tuned.training else None,
                    step_error_rate=step_error_rate(items, lambda item: item.flags),
                    outcome_error_rate=outcome_error_rate(items, lambda item: item.right),
                )
            )  # fmt: skip
        for row in rows:  # arms with something added read more than the ceiling does
            added = row["method"] in ("hard+subtasks", "hard+paraphrases", "hard-doubled")
            yield Row(row, ceiling=None if added else rows[0]["score"])
    if config.real:
        school = SumSchool(lab, config.real, max_tokens=config.real_tokens)
        for seed in lab.seeds(config.seeds):
            for row in error_rows(school, config.real_sums, config.real_test, seed=seed):
                yield Row(row, panel="smollm2")


def tasks(config: Config) -> HardTasks:
    """Chains of sums and their teachers, or your own files."""
    if config.data_path is not None:
        return FileTasks(config.data_path, Writer.named(config.model), easy=config.easy)
    source = HardChains(
        config.modulus, config.easy_steps, config.hard_steps, config.part_steps, config.style
    )
    return ChainTasks(
        source, Writer.tiny(config.model), easy_tasks=config.easy, tests=config.test,
        lessons=config.teacher_tasks, tasks=config.tasks, samples=config.samples,
        teachers={"strong": config.strong, "weak": config.weak}, temperature=config.temperature,
        max_tokens=config.max_tokens,
    )  # fmt: skip
