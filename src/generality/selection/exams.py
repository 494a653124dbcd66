"""Exams for a taught problem: questions with known answers that are like it, or fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from generality.selection.demonstration_worth import ExamItem

Encode = Callable[[list[str]], Float[np.ndarray, "texts dim"]]
"""Embeds texts; `functools.partial(lab.embed, "minilm-l6")` does."""


@dataclass(frozen=True)
class FixedExam:
    """The same questions for every problem.

    A question that is the taught problem itself is left out: its answer may stand in the
    demonstration.

    Args:
        items: the questions.
    """

    items: Sequence[ExamItem]

    def __call__(self, problem: str) -> list[ExamItem]:
        """The exam for a problem."""
        return [item for item in self.items if item.prompt != problem]


@dataclass(frozen=True)
class VariantExam:
    """The same problem with other numbers, as functional benchmarks give them.

    A variant whose answer is the problem's own rewards a student that copies the demonstration's:
    the generator should give none.

    Args:
        generator: from (problem, how many, seed) to variants with their answers.
        count: questions per exam, at least 1; the paper of learning by teaching has 3.
        seed: of the variants.

    >>> from generality.selection.demonstration_worth import Question
    >>> def other_numbers(problem, count, seed):
    ...     return [Question(f"{seed + i} + 2 ?", str(seed + i + 2)) for i in range(count)]
    >>> [item.prompt for item in VariantExam(other_numbers, count=2)("0 + 2 ?")]
    ['1 + 2 ?', '2 + 2 ?']
    """

    generator: Callable[[str, int, int], Sequence[ExamItem]]
    count: int = 3
    seed: int = 0

    def __call__(self, problem: str) -> list[ExamItem]:
        """Variants that differ from the problem and from each other.

        Raises:
            ValueError: the generator does not give enough of them.
        """
        found: dict[str, ExamItem] = {}
        for drawn in range(4):  # a generator may repeat itself, or the problem
            for item in self.generator(problem, self.count + drawn, self.seed + drawn):
                if item.prompt != problem:
                    found.setdefault(item.prompt, item)
            if len(found) >= self.count:
                return list(found.values())[: self.count]
        raise ValueError(f"the generator gave {len(found)} variants of '{problem[:60]}'")


@dataclass(frozen=True)
class SimilarExam:
    """The questions of a pool that are most like the problem, by cosine of embeddings.

    A score by exam means nothing where the exam is about something else, so that questions below
    `floor` are not taken: an exam may be shorter than `k`, and empty.

    Args:
        items: the pool, with known answers.
        encode: embeds texts.
        k: questions per exam.
        floor: smallest cosine, in [-1, 1].

    >>> from generality.selection.demonstration_worth import Question
    >>> letters = lambda texts: np.array([[t.count("+"), t.count("*")] for t in texts], float)
    >>> pool = [Question("1 + 1 ?", "2"), Question("2 * 3 ?", "6"), Question("4 + 4 ?", "8")]
    >>> [item.prompt for item in SimilarExam(pool, letters, k=2, floor=0.5)("7 + 1 ?")]
    ['1 + 1 ?', '4 + 4 ?']
    """

    items: Sequence[ExamItem]
    encode: Encode
    k: int = 3
    floor: float = 0.0
    _pool: Float[np.ndarray, "items dim"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pool = _unit(self.encode([item.prompt for item in self.items]))
        object.__setattr__(self, "_pool", pool)

    def __call__(self, problem: str) -> list[ExamItem]:
        """The exam for a problem, most similar first; the problem itself is never in it."""
        alike = self._pool @ _unit(self.encode([problem]))[0]
        order = np.argsort(-alike, kind="stable")
        near = [self.items[place] for place in order if alike[place] >= self.floor]
        return [item for item in near if item.prompt != problem][: self.k]


def _unit(rows: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    rows = np.asarray(rows, dtype=float)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
