"""How wrong the supervision is: by outcome, and step by step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Literal, Protocol, TypeVar

Solution = TypeVar("Solution", contravariant=True)


class StepJudge(Protocol[Solution]):
    """Says of each step of a solution whether it is wrong; None where the steps cannot be read.

    A function that compares with a reference, runs each step (`ArithmeticSteps`) or asks a model.
    """

    def __call__(self, solution: Solution, /) -> Sequence[bool] | None:
        """The flags of a solution's steps."""


def step_error_rate(
    solutions: Iterable[Any],
    step_judge: StepJudge[Any],
    *,
    aggregate: Literal["macro", "micro"] = "macro",
    propagate: bool = False,
) -> float:
    """The share of wrong steps, in [0, 1].

    A solution whose steps cannot be read, or that has none, counts as one wrong step.

    Source: He et al. 2024 (arXiv 2410.20533), where "SWER" is the macro mean. The paper does not
    say whether right work on a wrong premise is wrong; it changes the number a lot, so say which.

    Args:
        solutions: whatever `step_judge` takes.
        step_judge: the flags of a solution, True for a wrong step.
        aggregate: "macro", the mean over solutions of each one's share; "micro", over all steps.
        propagate: also count every step after a wrong one as wrong, as it rests on it. False takes
            the judge's flags as they are: a judge that compares with a reference has already
            flagged what follows from an error, one that checks each step by itself has not.

    Raises:
        ValueError: no solutions, or another `aggregate`.

    >>> flags = [[0, 1, 0, 0], [0, 0], [1, 1, 1], [0, 0, 0, 1, 0]]
    >>> round(step_error_rate(flags, list), 4)
    0.3625
    >>> round(step_error_rate(flags, list, aggregate="micro"), 6)
    0.357143
    >>> round(step_error_rate(flags, list, propagate=True), 4)
    0.5375
    """
    if aggregate not in ("macro", "micro"):
        raise ValueError(f"aggregate is 'macro' or 'micro', not '{aggregate}'")
    found = map(step_judge, solutions)
    judged = [[*map(bool, () if flags is None else flags)] or [True] for flags in found]
    if not judged:
        raise ValueError("there are no solutions to judge")
    if propagate:
        judged = [list(accumulate(flags, lambda before, flag: before or flag)) for flags in judged]
    if aggregate == "micro":
        return sum(map(sum, judged)) / sum(map(len, judged))
    return sum(sum(flags) / len(flags) for flags in judged) / len(judged)


def outcome_error_rate(solutions: Iterable[Any], is_right: Callable[[Any], Any]) -> float:
    """The share of solutions whose final answer is wrong, in [0, 1].

    Args:
        solutions: whatever `is_right` takes.
        is_right: whether a solution's answer is right.

    Raises:
        ValueError: no solutions.

    >>> flags = [[0, 1, 0, 0], [0, 0], [1, 1, 1], [0, 0, 0, 1, 0]]
    >>> outcome_error_rate(flags, lambda steps: not any(steps))
    0.75
    """
    right = [bool(is_right(solution)) for solution in solutions]
    if not right:
        raise ValueError("there are no solutions to judge")
    return 1 - sum(right) / len(right)


class ArithmeticSteps:
    """A judge that recomputes every `a + b = c` in a text, each step by itself.

    Reads sums and products of two numbers or more with +, -, −, *, ×, x, / and ÷ (products first),
    GSM8K's `<<3+4=7>>` among them; amounts in $ as numbers. What has brackets or powers before the
    `=` is not read. A slip in what was copied into a step is not seen; a judge with a reference
    sees it.

    Args:
        modulus: compare modulo this; None: up to `tolerance`.
        tolerance: absolute. A result with decimals may also be rounded to those it is written with.

    >>> judge = ArithmeticSteps()
    >>> judge("She has 3 + 4 = 7 apples and pays 7 × $2 + 1 = $16. The answer is 16.")
    [False, True]
    >>> ArithmeticSteps(modulus=5)("a = 3 ; b = 3 + 4 = 2 => 2"), judge("The answer is 2.")
    ([False], None)
    """

    def __init__(self, modulus: int | None = None, tolerance: float = 1e-6) -> None:
        self.modulus, self.tolerance = modulus, tolerance

    def __call__(self, solution: str, /) -> list[bool] | None:
        """Whether each equation of the text is wrong; None where it has none."""
        text = solution.replace("$", "")
        found = [
            self._wrong(match["terms"], match["result"])
            for match in _EQUATION.finditer(text)
            if not _goes_on(text, match.start())
        ]
        return found or None

    def _wrong(self, terms: str, result: str) -> bool:
        try:
            difference = abs(_value(terms) - _number(result))
        except ZeroDivisionError:
            return True
        if self.modulus is not None:
            difference %= self.modulus
            difference = min(difference, self.modulus - difference)
        decimals = len(result.partition(".")[2])
        return difference > self.tolerance + (0.5 * 10**-decimals if decimals else 0)


_NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?"
_OPERATOR = r"\s*([-−+*×x/÷])\s*"
_EQUATION = re.compile(
    rf"(?<![\d.])(?P<terms>{_NUMBER}(?:{_OPERATOR}{_NUMBER})+)\s*=\s*(?P<result>{_NUMBER})"
)


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _value(terms: str) -> float:
    """Of numbers and operators in turn; products before sums."""
    operators = [match[1] for match in re.finditer(rf"(?<=\d){_OPERATOR}", terms)]
    first, *others = map(_number, re.split(rf"(?<=\d){_OPERATOR}", terms)[::2])
    total, product = 0.0, first
    for operator, number in zip(operators, others, strict=True):
        if operator in "*×x":
            product *= number
        elif operator in "/÷":
            product /= number
        else:
            total, product = total + product, number if operator == "+" else -number
    return total + product


def _goes_on(text: str, start: int) -> bool:
    """Whether what stands before is part of the expression; a bullet at a line's start is not."""
    before = text[text.rfind("\n", 0, start) + 1 : start].strip()
    return len(before) > 1 and before[-1] in "^*×/÷+-−%"
