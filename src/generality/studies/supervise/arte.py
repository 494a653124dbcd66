"""Does a teacher tuned to its student's preferences write better training data?

Protocol (Liu et al. 2024, arXiv 2406.19227). A teacher drafts questions and rationales; a draft is
worth what the student gets right of an exam of discriminative questions with it as the only example
in context; the teacher is tuned by preference optimisation on these worths, and writes the data on
which the student is tuned. All arms tune the same student on equally many examples. Floor: data of
the teacher as it is, rationales drawn. Ceiling: data of the one kind and technique that gave the
best validation accuracy after tuning on it. Zero-shot and one-shot accuracy on longer chains of
sums than the student knows well, and on still longer ones ("ood").

Differences from the paper, each with its effect: the teacher is a softmax over 6 kinds of questions
and 4 ways to explain them (no model writes; its preferences are learned exactly, in a second, and
it cannot discover anything new); students of 0.15M and 0.25M parameters, pretrained on solved
chains in all correct styles; 24 drafts of questions and one task instead of 250 and 23 (noisier
scores); aligned questions are drawn and their rationales are the likeliest; "original-best" takes
for each question the technique with the best mean score for its kind, as scoring all 400 would cost
17 times the pool; the respondents of the item response model are checkpoints of one student;
"generic" data is more of what it was pretrained on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from generality.benchmarks.worlds import (
    STYLES,
    ChainPrograms,
    Problem,
    answer_of,
    solution,
    world_tokenizer,
)
from generality.claims import Claim, Row, greater, rank_correlates
from generality.lab import Lab, TrainConfig
from generality.studies.study import Paper

if TYPE_CHECKING:
    from generality.selection import Draft, DraftPool, SoftmaxDrafter

PAPER = Paper("Aligning Teacher with Student Preferences for Tailored Training Data Generation",
              arxiv="2406.19227", year=2024)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    seeds: int = 5  # of drafts, preferences, written data, tuning
    student: str = "0.25M"
    other: str = "0.15M"  # a student for whom the teacher was not aligned
    lessons: int = 24_000  # pretraining examples, each a demonstration and a question solved alike
    lesson_rate: float = 4e-3  # Adam, batch 32, cosine
    steps: int = 3  # of the target task's chains; one more in "ood"
    lengths: tuple[int, ...] = (1, 2, 3)  # steps of the chains that a teacher may ask about
    operators: tuple[str, ...] = ("+", "+-")  # and what they are made of
    validation: int = 100  # questions that exams are chosen from and cells judged by
    exam: int = 30  # most discriminative of them
    test: int = 120  # questions of each task
    questions: int = 24  # drafted
    question_pairs: int = 12
    written: int = 400  # training examples of every arm
    cell: int = 80  # training examples of each kind and technique, for the proxy's validity
    rate: float = 1e-3  # of tuning: Adam, batch 16, 3 % warm-up, linear decay, one epoch


SCALES = {
    "smoke": Config(
        seeds=2, student="0.05M", other="0.05M", lessons=96, steps=2, lengths=(2,),
        operators=("+-",), validation=12, exam=4, test=8, questions=6, question_pairs=4,
        written=16, cell=8,
    ),
    "small": Config(),
    "full": Config(
        seeds=20, student="1M", other="0.6M", lessons=500_000, steps=5, lengths=(3, 4, 5),
        validation=400, exam=100,
        test=2000, questions=250, question_pairs=50, written=6750, cell=1000,
    ),
}  # fmt: skip

TARGET = {"task": "target", "student": "own"}
ZERO, ONE = {**TARGET, "shots": 0}, {**TARGET, "shots": 1}
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
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Pretrained students and an exam that all seeds share, then every seed's arms."""
    own = Student(lab, config.student, config, 0)
    other = Student(lab, config.other, config, 1)
    chains = list({c.prompt: c for c in ChainPrograms().sample(
        20 * (config.validation + config.test), config.steps, 0)}.values())  # fmt: skip
    validation = chains[: config.validation]
    tests = {
        "target": chains[config.validation :][: config.test],
        "ood": ChainPrograms().sample(config.test, config.steps + 1, 0),
    }
    exam = short_exam(config, own, validation)
    taboo = {chain.prompt for chain in (*validation, *tests["target"])}
    for seed in lab.seeds(config.seeds):
        yield from seed_rows(config, own, other, validation, exam, tests, frozenset(taboo), seed)


class Student:
    """A tiny decoder that solves chains in the manner of the demonstration before them."""

    def __init__(self, lab: Lab, size: str, config: Config, seed: int) -> None:
        from generality.models import tiny_decoder

        self.lab, self.config, self.tokenizer = lab, config, world_tokenizer()
        self.network = functools.partial(tiny_decoder, size, vocabulary=len(self.tokenizer))
        schedule = TrainConfig(epochs=1, batch_size=32, learning_rate=config.lesson_rate,
                               warmup=0.05)  # fmt: skip
        shares = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
        tuned = lab.sft(
            self.network, *lessons(config.lessons, config.steps, seed), tokenizer=self.tokenizer,
            config=schedule, seed=seed, keep=shares,
        )  # fmt: skip
        self.weights = tuned.weights
        self.checkpoints = [*tuned.kept.values(), tuned.weights]

    def tuned(self, drafts: Sequence[Draft], seed: int) -> Any:
        """Weights after one epoch on these drafts."""
        schedule = TrainConfig(epochs=1, batch_size=16, learning_rate=self.config.rate,
                               schedule="linear", warmup=0.03)  # fmt: skip
        return self.lab.sft(
            self.network, [draft.question for draft in drafts],
            [draft.rationale for draft in drafts], tokenizer=self.tokenizer, config=schedule,
            weights=self.weights, seed=seed,
        ).weights  # fmt: skip

    def answers(self, prompts: Sequence[str], weights: Any = None) -> list[str]:
        """Greedy answers, up to where it would go on with a question of its own."""
        said = self.lab.generate(
            self.network, prompts, weights=self.weights if weights is None else weights,
            tokenizer=self.tokenizer, max_tokens=10 * self.config.steps + 12, batch_size=256,
            chunk=8192,
        )  # fmt: skip
        return [texts[0].split(" |")[0] for texts in said]

    def right(self, problems: Sequence[Problem], weights: Any = None, shot: str = "") -> list[bool]:
        """Which problems it solves, after a solved one or none."""
        prompts = [f"{shot}{problem.prompt}" for problem in problems]
        texts = self.answers(prompts, weights)
        return [answer_of(text) == p.answer for text, p in zip(texts, problems, strict=True)]


def lessons(count: int, steps: int, seed: int) -> tuple[list[str], list[str]]:
    """Questions; and their solution, another question and its solution in the same style.

    Four of five chains have fewer steps than the target task.
    """
    rng = np.random.default_rng(seed)
    easy = ChainPrograms().sample(2 * count, (1, max(1, steps - 1)), seed)
    hard = ChainPrograms().sample(2 * count, steps, seed + 1)
    chains = [hard[i] if rng.random() < 0.2 else easy[i] for i in range(2 * count)]
    styles = rng.choice(list(STYLES), size=count)
    first, second = chains[:count], chains[count:]
    return [chain.prompt for chain in first], [
        f"{solution(shown, style)} | {asked.prompt} {solution(asked, style)}"
        for shown, asked, style in zip(first, second, styles.tolist(), strict=True)
    ]


def one_shot(demo: Any, question: str) -> str:
    """What the student reads: as in its lessons."""
    return f"{demo.problem} {demo.rationale} | {question}"


def short_exam(config: Config, student: Student, validation: Sequence[Problem]) -> list[Problem]:
    """The questions that tell the student's checkpoints, with and without an example, apart."""
    from generality.measures import discriminative_subset

    chain = ChainPrograms().sample(1, config.steps, 0)[0]
    shots = ("", f"{chain.prompt} {solution(chain, 'full')} | ")
    correct = [student.right(validation, weights, shot)
               for weights in student.checkpoints for shot in shots]  # fmt: skip
    chosen = discriminative_subset(np.array(correct), config.exam).indices
    return [validation[int(place)] for place in chosen]


def seed_rows(
    config: Config, own: Student, other: Student, validation: Sequence[Problem],
    exam: Sequence[Problem], tests: dict[str, list[Any]], taboo: frozenset[str], seed: int,
) -> Iterator[Row]:  # fmt: skip
    """Drafts, the proxy's validity, and the student tuned on the data of every arm."""
    from generality.selection import TailoredTeacher, WorldCheck
    from generality.selection.chain_drafter import chain_drafter

    original = chain_drafter(lengths=config.lengths, operators=config.operators, avoid=taboo)
    tailored = TailoredTeacher(
        original, own.answers, exam, WorldCheck(), config.questions, len(original.techniques),
        config.question_pairs, config.questions, one_shot, seed,
    )  # fmt: skip
    pool = tailored.draft()
    cells = list(cell_rows(config, own, original, pool, validation, seed))
    yield from cells
    best = max(cells, key=lambda row: row["score"])
    proxy = {(row["kind"], row["technique"]): row["proxy"] for row in cells}
    aligned = {
        "rationale-only": tailored.align(pool, ["rationale"]),
        "question-only": tailored.align(pool, ["question"]),
        "full": tailored.align(pool),
    }
    drawn = original.questions(config.written, seed + 1)
    explained = original.rationales(drawn, len(original.techniques), seed + 1)
    data = {
        "original-random": original.rationales(drawn, 1, seed + 1),
        "original-best": best_of(explained, proxy, len(original.techniques)),
        "generic": generic(config, seed),
        "oracle": cell_drafts(original, best["kind"], best["technique"], config.written, seed + 1),
        **{name: each.generate(config.written, seed=seed + 1) for name, each in aligned.items()},
    }
    # A teacher whose rationales were not aligned explains as it always did.
    asked = aligned["question-only"].teacher.questions(config.written, seed + 1)
    data["question-only"] = original.rationales(asked, 1, seed + 1)
    for name, student in (("own", own), ("other", other)):
        few = ("original-random", "oracle", "full")
        arms = data if name == "own" else {arm: data[arm] for arm in few}
        scores = {arm: marks(config, student, student.tuned(drafts, seed), tests)
                  for arm, drafts in arms.items()}  # fmt: skip
        scores["vanilla"] = marks(config, student, student.weights, tests)
        for arm, found in scores.items():
            words = np.mean([len(d.rationale.split()) for d in data[arm]]) if arm in data else None
            for (task, shots), score in found.items():
                yield Row(
                    method=arm, seed=seed, student=name, task=task, shots=shots, score=score,
                    floor=scores["original-random"][task, shots],
                    ceiling=scores["oracle"][task, shots],
                    words=None if words is None else float(words),
                )  # fmt: skip


def marks(config: Config, student: Student, weights: Any, tests: dict[str, list[Any]]) -> Any:
    """Accuracy by task and number of examples in context."""
    chain = ChainPrograms().sample(1, config.steps, 0)[0]
    shots = ("", f"{chain.prompt} {solution(chain, 'full')} | ")
    return {(task, count): float(np.mean(student.right(problems, weights, shot)))
            for task, problems in tests.items() for count, shot in enumerate(shots)}  # fmt: skip


def cell_drafts(
    teacher: SoftmaxDrafter, kind: str, technique: str, count: int, seed: int
) -> list[Draft]:
    """Drafts of one kind and technique."""
    only = replace(teacher, kinds={kind: teacher.kinds[kind]},
                   techniques={technique: teacher.techniques[technique]})  # fmt: skip
    return only.rationales(only.questions(count, seed), 1, seed)


def cell_rows(
    config: Config, student: Student, teacher: SoftmaxDrafter, pool: DraftPool,
    validation: Sequence[Problem], seed: int,
) -> Iterator[Row]:  # fmt: skip
    """What the drafts of a kind and technique are worth in context, and what tuning on it gains."""
    before = float(np.mean(student.right(validation)))
    for kind in teacher.kinds:
        for technique in teacher.techniques:
            explained = [draft for draft in pool if draft.technique == technique]
            same = [draft for draft in explained if draft.kind == kind]
            drafts = cell_drafts(teacher, kind, technique, config.cell, seed)
            after = float(np.mean(student.right(validation, student.tuned(drafts, seed))))
            yield Row(
                method="cell", seed=seed, kind=kind, technique=technique, score=after, floor=before,
                ceiling=None, gain=after - before,
                proxy=float(np.mean([draft.score for draft in same or explained])),
            )  # fmt: skip


def best_of(
    explained: Sequence[Draft], proxy: dict[tuple[str, str], float], of: int
) -> list[Draft]:
    """Of each question's drafts the one whose kind and technique scored best."""
    groups = [explained[place : place + of] for place in range(0, len(explained), of)]
    return [max(group, key=lambda draft: proxy[draft.kind, draft.technique]) for group in groups]


def generic(config: Config, seed: int) -> list[Draft]:
    """More of what students were pretrained on."""
    from generality.selection import Draft

    asked, solved = lessons(config.written, config.steps, seed + 2)
    return [Draft(q, text.split(" | ")[0]) for q, text in zip(asked, solved, strict=True)]
