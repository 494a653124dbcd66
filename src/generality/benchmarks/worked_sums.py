"""Sums of reasoning-gym in plain words, with their work written down, rightly or wrongly."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cached_property

from generality.benchmarks.gym_problems import gym_problems
from generality.errors import UserError

_SAID = re.compile(r"answer is (-?\d+)")
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class WorkedSum:
    """A chain of sums, such as "4 - 1 + 7", as a question that a language model of the world reads.

    Attributes:
        expression: numbers with + or - between them, at least one sign.

    >>> problem = WorkedSum("4 - 1 + 7")
    >>> problem.prompt
    'Question: What is 4 - 1 + 7?\\nAnswer:'
    >>> problem.worked
    '4 - 1 + 7 = 3 + 7 = 10. The answer is 10.'
    >>> problem.slipped(0) != problem.worked, problem.check("3 and 7 make 10."), problem.parts()
    (True, True, [WorkedSum(expression='4 - 1'), WorkedSum(expression='3 + 7')])
    """

    expression: str

    @cached_property
    def values(self) -> tuple[int, ...]:
        """The running total, from the first number on."""
        first, *rest = self.expression.split()
        totals = [int(first)]
        for sign, number in zip(rest[::2], rest[1::2], strict=True):
            totals.append(totals[-1] + (int(number) if sign == "+" else -int(number)))
        return tuple(totals)

    @property
    def prompt(self) -> str:
        """The question; a response goes on after a space."""
        return f"Question: What is {self.expression}?\nAnswer:"

    @property
    def answer(self) -> str:
        """The right number."""
        return str(self.values[-1])

    @property
    def short(self) -> str:
        """The answer alone."""
        return f"The answer is {self.answer}."

    @property
    def worked(self) -> str:
        """What is left to do after each step, then the answer.

        Steps on their own ("4 - 1 = 3. 3 + 7 = 10.") are harder: SmolLM2-135M, tuned on 64 of them,
        copied the work well and went on adding after the last number.
        """
        return self._written(self.values)

    @property
    def terse(self) -> str:
        """The same work as totals alone, in a notation that texts hardly use."""
        return " >> ".join(map(str, self.values))

    def slipped(self, seed: int) -> str:
        """Work in which one step is wrong and the rest follows from it, so that the answer is too.

        The slip is of 1 to 9, in a step drawn by the seed and the expression.
        """
        rng = random.Random(f"{seed}/{self.expression}")
        place = rng.randrange(1, len(self.values))
        slip = rng.choice((-1, 1)) * rng.randint(1, 9)
        return self._written(
            [total + (slip if step >= place else 0) for step, total in enumerate(self.values)]
        )

    def parts(self) -> list[WorkedSum]:
        """The steps as sums of two numbers of their own: easier, and taken from the same work."""
        rest = self.expression.split()[1:]
        signs = zip(rest[::2], rest[1::2], strict=True)
        return [
            WorkedSum(f"{total} {sign} {number}")
            for total, (sign, number) in zip(self.values, signs, strict=False)
        ]

    def check(self, response: str) -> bool:
        """Whether `final_number` of a response is right.

        >>> WorkedSum("2 + 2").check("2 + 2 = 5. The answer is 4.\\n\\nQuestion: What is 1 + 1?")
        True
        """
        return final_number(response) == self.answer

    def _written(self, totals: tuple[int, ...] | list[int]) -> str:
        rest = self.expression.split()[1:]
        states = [" ".join([str(total), *rest[2 * i :]]) for i, total in enumerate(totals)]
        return f"{' = '.join(states)}. The answer is {totals[-1]}."


def final_number(response: str) -> str | None:
    """The last number after "answer is" in the first line, else the line's last number.

    >>> final_number("3 and 7 make 10."), final_number("I cannot say.")
    ('10', None)
    """
    line = response.strip().split("\n")[0]
    said = _SAID.findall(line) or _NUMBER.findall(line)
    return said[-1] if said else None


def worked_sums(
    count: int, seed: int, *, terms: int = 3, digits: int = 1, minus: bool = False
) -> list[WorkedSum]:
    """Different sums of the task chain_sum of reasoning-gym; the same for the same arguments.

    Args:
        count: how many.
        seed: of the draws.
        terms: numbers in a sum, at least 2.
        digits: of each number, at least 1.
        minus: whether numbers are taken away too. Small models are lost below zero: SmolLM2-135M
            gets 2 or 3 of 16 such sums of three one-digit numbers right after two solved ones.

    Raises:
        UserError: reasoning-gym is not installed, or there are not so many different sums.

    >>> [problem.expression for problem in worked_sums(2, 0, terms=2, minus=True)]
    ['0 - 4', '4 - 1']
    """
    apart = seed * 1_000_000  # problem i of reasoning-gym is drawn by seed + i: 0 and 1 share most
    drawn = gym_problems(
        "chain_sum", 3 * count * (1 if minus else 2 ** (terms - 1)), apart, min_terms=terms,
        max_terms=terms, min_digits=digits, max_digits=digits,
    )  # fmt: skip
    found = dict.fromkeys(
        expression
        for expression in (problem.entry["metadata"]["expression"] for problem in drawn)
        if minus or "-" not in expression
    )
    if len(found) < count:
        raise UserError(f"There are no {count} different sums of {terms} numbers among the draws.")
    return [WorkedSum(expression) for expression in list(found)[:count]]
