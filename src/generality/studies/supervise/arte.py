"""Does a teacher tuned to its student's preferences write better training data?

Protocol (Liu et al. 2024, arXiv 2406.19227). A teacher drafts questions and rationales; a draft is
worth what the student gets right of an exam of discriminative questions with it as the only example
in context; the teacher is tuned by preference optimisation on these worths, and writes the data on
which the student is tuned. All arms tune the same student on equally many examples. Floor: data of
the teacher as it is, rationales drawn. Ceiling: data of the one kind and technique that gave the
best validation accuracy after tuning on it. Zero-shot and one-shot accuracy on chains of sums, half
of them of a length that the student knows well and half one step longer, and on still longer ones
("ood"). Rows with task "sums" are of SmolLM2, which learns sums by low-rank adapters from a teacher
aligned to it.

Differences from the paper, each with its effect: the teacher is a softmax over 6 kinds of questions
and 4 ways to explain them (no model writes; its preferences are learned exactly, in a second, and
it cannot discover anything new); students of 0.15M and 0.25M parameters, pretrained on solved
chains in three of the styles, half of them after a solved one of any length; 24 drafts of questions
and one task instead of 250 and 23 (noisier scores); aligned questions are drawn and their
rationales are the likeliest; "original-best" takes for each question the technique with the best
mean score for its kind, as scoring all 800 would cost 33 times the pool; the respondents of the
item response model are checkpoints of one student; "generic" data is more of what it was pretrained
on. `exam_constant` is what one constant answer gets of the exam: where it is high, the exam tells
no students apart.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from generality.benchmarks.worlds import ChainPrograms, Problem, solution
from generality.claims import Claim, Row, greater, rank_correlates
from generality.lab import Lab
from generality.studies.study import Paper

if TYPE_CHECKING:
    from generality.experiments.chain_student import ChainStudent
    from generality.selection import DraftPool, SoftmaxDrafter

PAPER = Paper("Aligning Teacher with Student Preferences for Tailored Training Data Generation",
              arxiv="2406.19227", year=2024)  # fmt: skip
FACTORS = ("task", "student", "shots", "technique", "kind")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    seeds: int = 4  # of drafts, preferences, written data, tuning
    student: str = "0.25M"
    other: str = "0.15M"  # a student for whom the teacher was not aligned
    lessons: int = 24_000  # chains to solve, half of them after one that was solved alike
    lesson_rate: float = 3e-3  # Adam, batch 32, cosine
    styles: tuple[str, ...] = ("full", "full", "terse", "reversed")  # of lessons, in equal shares
    known: int = 2  # steps of chains in lessons, at most
    hard: float = 0.05  # share of lessons that are as long as the target's longest, beside those
    easiest: int = 2  # steps of the target task's shortest chains
    steps: int = 3  # of its longest, drawn evenly between; one more in "ood"
    lengths: tuple[int, ...] = (1, 2, 3)  # steps of the chains that a teacher may ask about
    operators: tuple[str, ...] = ("+", "+-")  # and what they are made of
    validation: int = 100  # questions that exams are chosen from and cells judged by
    exam: int = 30  # most discriminative of them
    test: int = 120  # questions of each task
    questions: int = 24  # drafted
    question_pairs: int = 12
    written: int = 800  # training examples of every arm
    cell: int = 640  # training examples of each kind and technique, for oracle and proxy's validity
    rate: float = 5e-4  # of tuning: Adam, batch 16, 3 % warm-up, linear decay, one epoch
    real: str | None = "smollm2-135m"  # the model of its panel, or a size of `tiny_decoder`
    real_sums: int = 16  # that it learns from by LoRA, of three one-digit numbers
    real_drafts: int = 4  # of them, answered in every way and scored
    real_exam: int = 12  # sums that drafts are scored by
    real_test: int = 24  # others
    real_tokens: int = 32  # of an answer
    real_seeds: int = 3


SCALES = {
    "smoke": Config(
        seeds=2, student="0.05M", other="0.05M", lessons=96, known=1, easiest=1, steps=2,
        lengths=(2,), operators=("+-",), validation=12, exam=4, test=8, questions=6,
        question_pairs=4, written=16, cell=8, real="0.05M", real_sums=4, real_drafts=1, real_exam=2,
        real_test=2, real_tokens=4, real_seeds=1,
    ),
    "small": Config(),
    "full": Config(
        seeds=20, student="1M", other="0.6M", lessons=500_000, known=4, easiest=4, steps=5,
        lengths=(3, 4, 5), validation=400, exam=100, test=2000, questions=250,
        question_pairs=50, written=6750, cell=1000, real="hf:google/gemma-2b", real_sums=250,
        real_drafts=250, real_exam=40, real_test=500, real_seeds=5,
    ),
}  # fmt: skip

TARGET = {"task": "target", "student": "own"}
ZERO, ONE = {**TARGET, "shots": 0}, {**TARGET, "shots": 1}
SUMS = {"task": "sums"}
CLAIMS = (
    Claim("Data of the aligned teacher beats the original teacher's with its best rationales, "
          "zero-shot", greater("full", "original-best", where=ZERO)),
    Claim("And one-shot", greater("full", "original-best", where=ONE)),
    Claim("It beats the original teacher's data as drawn", greater("full", "floor", where=ZERO)),
    Claim("It beats as much generic data", greater("full", "generic", where=ZERO)),
    Claim("Aligning questions contributes more than aligning rationales",
          greater("question-only", "rationale-only", where=ZERO)),
    Claim("Aligned data helps beyond the task it was aligned on",
          greater("full", "original-best", where={**ZERO, "task": "ood"})),
    Claim("It helps another student of like size",
          greater("full", "floor", where={**ZERO, "student": "other"})),
    Claim("What a draft is worth in context predicts what tuning on its like gains",
          rank_correlates("proxy", "gain", unit=("kind", "technique"), minimum=0.3,
                          where={"method": "cell"})),
    Claim("SmolLM2 learns more from a teacher of sums that is aligned to it than from the teacher "
          "as it is", greater("rationale-only", "original-random", where=SUMS)),
    Claim("Right work is worth more in SmolLM2's context than work with a slip",
          greater("cell-worked", "cell-slipped", on="proxy", where=SUMS)),
)  # fmt: skip


@dataclass(frozen=True)
class Held:
    """Chains that no lesson and no draft has."""

    validation: list[Problem]
    tests: dict[str, list[Problem]]  # by task
    shot: str  # the solved problem of the target task that one-shot tests show
    prompts: frozenset[str]


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Pretrained students and an exam that all seeds share, then every seed's arms."""
    from generality.experiments.chain_student import ChainStudent

    held = held_out(config)
    own, other = (
        ChainStudent(
            lab, size, lessons(config, config.lessons, held, place), rate=config.lesson_rate,
            max_tokens=10 * config.steps + 12, seed=place,
        )
        for place, size in enumerate((config.student, config.other))
    )  # fmt: skip
    exam = discriminative_exam(config, own, held)
    [(_, said)] = Counter(problem.answer for problem in exam).most_common(1)
    for seed in lab.seeds(config.seeds):
        for row in seed_rows(config, own, other, held, exam, seed):
            yield Row(**row, exam_constant=said / len(exam))
    if config.real:
        from generality.experiments.sum_school import SumSchool
        from generality.experiments.tailored_sums import tailored_rows

        school = SumSchool(lab, config.real, max_tokens=config.real_tokens)
        for seed in lab.seeds(config.real_seeds):
            for row in tailored_rows(
                school, config.real_sums, config.real_test, exam=config.real_exam,
                drafts=config.real_drafts, seed=seed,
            ):  # fmt: skip
                yield Row(row, task="sums", student="smollm2", shots=0)


def held_out(config: Config) -> Held:
    """Different chains for validation, tests and the one that is shown."""
    from generality.benchmarks.worlds.chain_lessons import BETWEEN

    count, steps = 20 * (config.validation + config.test), (config.easiest, config.steps)
    drawn = ChainPrograms().sample(count, steps, 0)
    chains: list[Any] = list({chain.prompt: chain for chain in drawn}.values())
    end = config.validation + config.test
    ood = ChainPrograms().sample(config.test, config.steps + 1, 0)
    shot = f"{chains[end].prompt} {solution(chains[end], 'full')}{BETWEEN}"
    tests = {"target": chains[config.validation : end], "ood": [*ood]}
    prompts = frozenset(chain.prompt for chain in chains[: end + 1])
    return Held(chains[: config.validation], tests, shot, prompts)


def lessons(config: Config, count: int, held: Held, seed: int) -> tuple[list[str], list[str]]:
    """What students are pretrained on: chains shorter than the target's, and a few as long."""
    from generality.benchmarks.worlds.chain_lessons import chain_lessons

    hard = round(config.hard * count)
    tell = functools.partial(
        chain_lessons, styles=config.styles, avoid=held.prompts, shown_steps=(1, config.steps)
    )
    short = tell(count - hard, (1, config.known), 2 * seed)
    long = tell(hard, config.steps, 2 * seed + 1)
    return short[0] + long[0], short[1] + long[1]


def discriminative_exam(config: Config, student: ChainStudent, held: Held) -> list[Problem]:
    """The questions that tell the student's checkpoints, with and without an example, apart."""
    from generality.measures import discriminative_subset

    correct = [
        student.right(held.validation, weights, shot)
        for weights in student.checkpoints
        for shot in ("", held.shot)
    ]
    chosen = discriminative_subset(np.array(correct), config.exam).indices
    return [held.validation[int(place)] for place in chosen]


def seed_rows(
    config: Config, own: ChainStudent, other: ChainStudent, held: Held, exam: Sequence[Problem],
    seed: int,
) -> Iterator[Row]:  # fmt: skip
    """Drafts, the proxy's validity, and the student tuned on the data of every arm."""
    from generality.experiments.chain_student import shown
    from generality.selection import Draft, TailoredTeacher, WorldCheck
    from generality.selection.chain_drafter import chain_drafter
    from generality.selection.draft_pool import best_of_each

    original = chain_drafter(lengths=config.lengths, operators=config.operators, avoid=held.prompts)
    ways, count, at = len(original.techniques), config.written, seed + 1
    tailored = TailoredTeacher(
        original, own.answers, exam, WorldCheck(), config.questions, ways, config.question_pairs,
        config.questions, shown, seed,
    )  # fmt: skip
    pool = tailored.draft()
    cells = list(cell_rows(config, own, original, pool, held.validation, seed))
    yield from cells
    best = max(cells, key=lambda row: row["score"])
    oracle = original.only(best["kind"], best["technique"])
    worth = {(row["kind"], row["technique"]): row["proxy"] for row in cells}
    drawn = original.questions(count, at)
    asked = tailored.align(pool, ["question"]).teacher.questions(count, at)
    data = {
        "original-random": original.rationales(drawn, 1, at),
        "original-best": best_of_each(original.rationales(drawn, ways, at), ways, worth),
        "generic": [
            Draft(*pair) for pair in zip(*lessons(config, count, held, seed + 2), strict=True)
        ],
        "oracle": oracle.rationales(oracle.questions(count, at), 1, at),
        "rationale-only": tailored.align(pool, ["rationale"]).generate(count, seed=at),
        # a teacher whose rationales were not aligned explains as it always did
        "question-only": original.rationales(asked, 1, at),
        "full": tailored.align(pool).generate(count, seed=at),
    }
    few = {arm: data[arm] for arm in ("original-random", "oracle", "full")}
    for name, student, arms in (("own", own, data), ("other", other, few)):
        scores = {"vanilla": marks(student, student.weights, held)}
        for arm, drafts in arms.items():
            tuned = student.tuned(drafts, rate=config.rate, seed=seed)
            scores[arm] = marks(student, tuned, held)
        for arm, found in scores.items():
            words = [len(draft.rationale.split()) for draft in data.get(arm, [])]
            for (task, shots), score in found.items():
                yield Row(
                    method=arm, seed=seed, student=name, task=task, shots=shots, score=score,
                    floor=scores["original-random"][task, shots],
                    ceiling=scores["oracle"][task, shots],
                    words=float(np.mean(words)) if words else None,
                )  # fmt: skip


def marks(student: ChainStudent, weights: Any, held: Held) -> dict[tuple[str, int], float]:
    """Accuracy by task and number of examples in context, of which "ood" has none."""
    asked = (("target", ""), ("target", held.shot), ("ood", ""))
    return {
        (task, int(bool(shot))): float(student.right(held.tests[task], weights, shot).mean())
        for task, shot in asked
    }


def cell_rows(
    config: Config, student: ChainStudent, teacher: SoftmaxDrafter, pool: DraftPool,
    validation: Sequence[Problem], seed: int,
) -> Iterator[Row]:  # fmt: skip
    """What the drafts of a kind and technique are worth in context, and what tuning on it gains."""
    before = float(student.right(validation).mean())
    for kind, technique in itertools.product(teacher.kinds, teacher.techniques):
        explained = [draft for draft in pool if draft.technique == technique]
        same = [draft for draft in explained if draft.kind == kind]
        one = teacher.only(kind, technique)
        drafts = one.rationales(one.questions(config.cell, seed), 1, seed)
        tuned = student.tuned(drafts, rate=config.rate, seed=seed)
        after = float(student.right(validation, tuned).mean())
        yield Row(
            method="cell", seed=seed, kind=kind, technique=technique, score=after, floor=before,
            ceiling=None, gain=after - before,
            proxy=float(np.mean([draft.score for draft in same or explained])),
        )  # fmt: skip
