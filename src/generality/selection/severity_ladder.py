"""Wrong solutions of the same tasks from teachers of falling strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BETRAYALS = ("wait,", "this is wrong", "this is incorrect", "i made a mistake", "let me try again")
"""Phrases by which a wrong solution gives itself away."""


@dataclass(frozen=True)
class SeverityLadder:
    """The same tasks, wrong in several ways.

    Attributes:
        tasks: places of the tasks for which every teacher gave a wrong solution.
        wrong: of each teacher, one wrong solution of each of them.
        lost: tasks left out, by teacher: those without a usable wrong sample. They are the easy
            ones: what remains is harder than what was asked.
    """

    tasks: list[int]
    wrong: dict[str, list[str]]
    lost: dict[str, int]


def severity_ladder(
    samples: Mapping[str, Sequence[Sequence[str]]],
    is_right: Callable[[int, str], Any],
    *,
    seed: int = 0,
    betrayals: Sequence[str] = BETRAYALS,
) -> SeverityLadder:
    """One wrong solution of each task from each teacher, for tasks where all of them have one.

    Natural errors: a sample that is wrong, not a right one made wrong. The outcome error rate is
    then what a `SupervisionMixer` sets, and only the severity differs between teachers.

    Source: He et al. 2024 (arXiv 2410.20533), whose wrong solutions are drawn so, three samples
    a problem at temperature 1, and whose stepwise error rate is varied by weaker teachers.

    Args:
        samples: by teacher, the sampled solutions of each task.
        is_right: whether a solution of the task at a place is right.
        seed: of the choice among wrong samples.
        betrayals: a wrong sample with one of these phrases (in lower case) is not used.

    Raises:
        ValueError: teachers with different numbers of tasks.

    >>> samples = {"strong": [["4", "5"], ["9"]], "weak": [["7", "8"], ["6", "wait, no: 3"]]}
    >>> ladder = severity_ladder(samples, lambda task, said: said == ["4", "9"][task])
    >>> ladder.tasks, ladder.wrong["strong"], ladder.lost
    ([0], ['5'], {'strong': 1, 'weak': 0})
    """
    if len({len(tasks) for tasks in samples.values()}) != 1:
        raise ValueError("every teacher samples solutions of the same tasks")
    usable = {
        teacher: [
            [
                said
                for said in found
                if not any(phrase in said.lower() for phrase in betrayals)
                and not is_right(task, said)
            ]
            for task, found in enumerate(tasks)
        ]
        for teacher, tasks in samples.items()
    }
    count = len(next(iter(usable.values())))
    tasks = [task for task in range(count) if all(found[task] for found in usable.values())]
    generator = np.random.default_rng(seed)
    wrong = {
        teacher: [found[task][generator.integers(len(found[task]))] for task in tasks]
        for teacher, found in usable.items()
    }
    lost = {teacher: sum(not found for found in tasks_) for teacher, tasks_ in usable.items()}
    return SeverityLadder(tasks, wrong, lost)
