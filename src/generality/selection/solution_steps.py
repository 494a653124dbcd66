"""The steps of a written solution, and which of their sums are right."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_STEP = re.compile(r"^\s*(?:step\s*\d+\s*[:.)]|\d+\s*[.)]|[-*•])\s*", re.IGNORECASE)
_ANSWER = re.compile(
    r"^\W*(?:final\s+)?answer\W*[:=]\s*|\bthe answer is:?\s+|####\s*|=>\s*|\\boxed\{",
    re.IGNORECASE | re.MULTILINE,
)
_SUM = re.compile(
    r"(?<![\w.)])\(?[-−]?\$?\d[\d,.]*[\d\s.,+\-−*/×x÷()$%]*=\s*[-−]?\$?\d[\d,]*\.?\d*"
)
_SIGNS = str.maketrans({"−": "-", "×": "*", "÷": "/", "x": "*", "$": "", ",": ""})
_OPERATIONS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.USub: operator.neg,
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One step of a solution.

    Attributes:
        text: without its number.
        right: whether all sums in it are right; None where it has none to check.
    """

    text: str
    right: bool | None


def checked_steps(text: str) -> list[Step]:
    """The lines of a solution before its answer, each with a check of the sums written in it.

    A sum is an expression of numbers, an equals sign and a number; it is worked out, to half a
    unit of the last digit that is given. Anything else in a step is not checked.

    >>> for step in checked_steps("Step 1: 3 * 4 = 12\\nStep 2: 12 + 5 = 18.\\nSo:\\nAnswer: 18"):
    ...     print(step)
    Step(text='3 * 4 = 12', right=True)
    Step(text='12 + 5 = 18.', right=False)
    Step(text='So:', right=None)
    """
    found = _ANSWER.search(text)
    body = text[: found.start()] if found else text
    lines = [_STEP.sub("", line).strip() for line in body.splitlines()]
    return [Step(line, _right(line)) for line in lines if line]


def final_answer(text: str) -> str | None:
    """What a solution gives as its answer, after the last "Answer:", "The answer is", "####",
    "=>" or in the last \\boxed{}; None where it has none of these.

    >>> final_answer("Step 1: 3 * 4 = 12\\nAnswer: 12."), final_answer("It may be twelve.")
    ('12', None)
    """
    places = list(_ANSWER.finditer(text))
    if not places:
        return None
    rest = text[places[-1].end() :]
    if places[-1][0].endswith("{"):
        rest = rest.rpartition("}")[0] or rest
    lines = rest.strip().splitlines()
    answer = lines[0].strip(" *_`$").rstrip(".") if lines else ""
    return answer or None


def _right(line: str) -> bool | None:
    verdicts = []
    for found in _SUM.findall(line):
        left, _, right = found.rpartition("=")
        value = _worked_out(left)
        if value is None:
            continue
        given = right.translate(_SIGNS).strip().rstrip(".")
        digits = len(given.partition(".")[2])
        verdicts.append(abs(value - float(given)) <= 0.5 * 10.0**-digits * (1 + 1e-9))
    return all(verdicts) if verdicts else None


def _worked_out(expression: str) -> float | None:
    """The value of a sum; None where there is nothing to work out, or it is no sum."""
    try:
        tree = ast.parse(expression.translate(_SIGNS).strip(), mode="eval").body
        return None if isinstance(tree, ast.Constant) else float(_value(tree))
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.operand))
    raise ValueError("no sum")
