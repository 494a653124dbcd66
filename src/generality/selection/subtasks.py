"""Easier problems made from parts of hard ones, and the hard ones said again in other words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher


@dataclass(frozen=True)
class Solved:
    """A problem with its solution.

    Attributes:
        prompt: the problem.
        solution: its worked solution.
        source: place of the hard problem that it was made from; None for a problem of its own.
    """

    prompt: str
    solution: str
    source: int | None = None


Decompose = Callable[[Solved], Iterable[tuple[str, str]]]
"""From a hard problem to (prompt, solution) pairs that take their steps from its solution alone:
a rule of your domain's, or a language model asked for them."""

Check = Callable[[Solved, Solved], bool]
"""Whether a subtask (first) of a hard problem (second) may stay."""


def not_near_copy(similarity: float = 0.8) -> Check:
    """Whether the subtask's words are no more than so similar (in [0, 1]) to the hard problem's.

    >>> hard = Solved("a = 3 ; b = a + 4 ; c = b - 2 ; c ?", "3 2 0 => 0")
    >>> not_near_copy()(Solved("a = 3 ; b = a + 4 ; b ?", "3 2 => 2"), hard)
    True
    >>> not_near_copy()(Solved("a = 3 ; b = a + 4 ; c = b - 2 ; b ?", "3 2 => 2"), hard)
    False
    """

    def check(subtask: Solved, hard: Solved) -> bool:
        words = subtask.prompt.split(), hard.prompt.split()
        return SequenceMatcher(None, *words, autojunk=False).ratio() <= similarity

    check.__name__ = "not_near_copy"
    return check


def proper_part(count: Callable[[str], int], least: int = 2, most: float = 0.8) -> Check:
    """Whether the subtask's solution has at least `least` steps and at most the share `most`.

    Args:
        count: steps of a solution, such as its lines.
        least: a single step is no task.
        most: of the hard solution's steps; nearly all of them are no part.

    >>> lines = lambda solution: len(solution.splitlines())
    >>> hard = Solved("…", "1\\n2\\n3\\n4\\n5")
    >>> [proper_part(lines)(Solved("…", "\\n".join("x" * n)), hard) for n in (1, 2, 4, 5)]
    [False, True, True, False]
    """

    def check(subtask: Solved, hard: Solved) -> bool:
        return least <= count(subtask.solution) <= most * count(hard.solution)

    check.__name__ = "proper_part"
    return check


@dataclass
class SubtaskBuilder:
    """Makes easier problems of hard ones and keeps those that pass every check.

    A model that decomposes should be told the paper's rules: each part self-contained, with no
    hidden condition, solved by steps of the given solution only, not one step and not nearly all.
    Whether a problem is well posed is a check of yours (a judge); copies and sizes are here.

    Source: He et al. 2024 (arXiv 2410.20533), two (or three) subtasks a problem.

    Attributes:
        decompose: makes candidates.
        checks: what a candidate must pass, in this order.
        refused: how many candidates each check has stopped so far, by the check's name.

    >>> def halves(hard):
    ...     steps = hard.prompt.split(" ; ")
    ...     yield " ; ".join(steps[:2]), "…"
    ...     yield " ; ".join(steps), "…"
    >>> builder = SubtaskBuilder(halves, [not_near_copy()])
    >>> builder.build([Solved("a = 3 ; b = a + 4 ; c = b - 2 ; d = c + 1", "…")])
    [Solved(prompt='a = 3 ; b = a + 4', solution='…', source=0)]
    >>> dict(builder.refused)
    {'not_near_copy': 1}
    """

    decompose: Decompose
    checks: Sequence[Check] = field(default_factory=lambda: [not_near_copy()])
    refused: Counter[str] = field(default_factory=Counter)

    def build(self, hard: Iterable[Solved]) -> list[Solved]:
        """The subtasks of all problems that pass, each with the place of its source."""
        kept = []
        for place, whole in enumerate(hard):
            for prompt, solution in self.decompose(whole):
                subtask = Solved(prompt, solution, place)
                failed = next((check for check in self.checks if not check(subtask, whole)), None)
                if failed is None:
                    kept.append(subtask)
                else:
                    self.refused[getattr(failed, "__name__", repr(failed))] += 1
        return kept


def paraphrase_augment(
    tasks: Iterable[Solved], paraphrase: Callable[[str, str], tuple[str, str]]
) -> list[Solved]:
    """The tasks, then each one said again: the control for adding as many subtasks.

    Args:
        tasks: problems with solutions, right or wrong.
        paraphrase: from (prompt, solution) to the same in other words; it must not mend a wrong
            solution.

    >>> paraphrase_augment([Solved("a ?", "a = 1")], lambda p, s: (p.upper(), s.upper()))[1]
    Solved(prompt='A ?', solution='A = 1', source=0)
    """
    tasks = list(tasks)
    again = [
        Solved(*paraphrase(task.prompt, task.solution), source=place)
        for place, task in enumerate(tasks)
    ]
    return [*tasks, *again]
