"""What a strong teacher and a middle one say about the same list problems."""

from __future__ import annotations

import json
import random
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from generality.benchmarks.worlds.problem import ANSWER, Problem
from generality.benchmarks.worlds.string_tasks import mistaken, string_task, terse, trace
from generality.errors import UserError


@dataclass(frozen=True)
class Explained:
    """One query with what each teacher says.

    Attributes:
        prompt: the query.
        answer: the right answer alone.
        strong: the strong teacher's explanation, which ends with the answer.
        middle: the middle teacher's.
    """

    prompt: str
    answer: str
    strong: str
    middle: str


@dataclass(frozen=True)
class TwoTeachers:
    """A strong teacher, who states every step and never errs, and a middle one.

    The middle one leaves out steps and sometimes takes a wrong one, from which the rest follows. It
    stands for a teacher nearer to the student, as ChatGPT is to GPT-4 in Mukherjee et al. 2023
    (arXiv 2306.02707).

    Args:
        errors: share of the middle teacher's explanations that go wrong, in [0, 1].
        every: which of the steps the middle teacher states: 2 is every other, the last always.

    >>> [said] = TwoTeachers(errors=0.0).explain(["reverse"], [4], 1, seed=0)
    >>> print(said.prompt, said.answer, said.strong, said.middle, sep="\\n")
    reverse : d c b e ?
    => e b c d
    d ; c d ; b c d ; e b c d => e b c d
    c d ; e b c d => e b c d
    """

    errors: float = 0.1
    every: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.errors <= 1 or self.every < 1:
            raise ValueError("errors is a share in [0, 1] and every at least 1")

    def explain(
        self, tasks: Sequence[str], lengths: Sequence[int], count: int, seed: int, *,
        avoid: Container[str] = (),
    ) -> list[Explained]:  # fmt: skip
        """`count` problems of `mixed_problems` with what both teachers say.

        `avoid`: prompts that must not be among them, such as those of a test.
        """
        rng = random.Random(seed)
        return [
            Explained(
                problem.prompt, terse(problem), trace(problem),
                trace(
                    mistaken(problem, seed) if rng.random() < self.errors else problem,
                    every=self.every,
                ),
            )
            for problem in mixed_problems(tasks, lengths, count, seed, avoid=avoid)
        ]  # fmt: skip


def mixed_problems(
    tasks: Sequence[str], lengths: Sequence[int], count: int, seed: int, *,
    avoid: Container[str] = (),
) -> list[Problem]:  # fmt: skip
    """Problems shuffled over tasks and lengths, as evenly as the number allows.

    >>> problems = mixed_problems(["copy", "last"], [2, 3], 4, seed=0)
    >>> sorted((problem.task, len(problem.states)) for problem in problems)
    [('copy', 2), ('copy', 3), ('last', 2), ('last', 3)]
    """
    cells = [(task, length) for task in tasks for length in lengths]
    shares = [len(part) for part in np.array_split(range(count), len(cells))]
    found = [
        problem
        for (task, length), share in zip(cells, shares, strict=True)
        for problem in string_task(task).sample(share, length, seed, avoid=avoid)
    ]
    random.Random(seed).shuffle(found)
    return found


def in_form(problem: Problem, response: str) -> bool:
    """Whether a response looks like a full explanation, right or wrong: a judge of form alone.

    As many steps as the problem has, then an answer of the right length.

    >>> problem = string_task("reverse").problem("cab")
    >>> [in_form(problem, text) for text in ("a ; b ; c => a a a", "=> b a c", "c ; a => b a c")]
    [True, False, False]
    """
    steps, arrow, answer = response.partition(ANSWER)
    stated = [step.split() for step in steps.split(";")]
    as_many = len(stated) == max(len(problem.states), 1) and all(stated)
    return bool(arrow) and as_many and len(answer.split()) == len(problem.answer.split())


def read_explained(path: Path) -> list[Explained]:
    """Your own queries: JSON lines of prompt, answer, strong and middle (the last two may lack).

    Raises:
        UserError: there is no such file, or a line lacks its prompt or answer.
    """
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [
            Explained(row["prompt"], row["answer"], row.get("strong", ""), row.get("middle", ""))
            for row in rows
        ]
    except OSError as error:
        raise UserError(f"{path} is needed: JSON lines of prompt, answer, strong, middle.") from (
            error
        )
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: every line is JSON with a prompt and an answer.") from error
