"""What a program has computed after each of its statements."""

from __future__ import annotations

import ast
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from generality.lab import sandbox

Key = tuple[str, ...]
Variables = Mapping[str, Any]
Executor = Callable[[str], list[tuple[str, Variables]] | None]
"""From a program to (statement, all variables after it) for each of its statements; None when it
cannot be run. Programs of another language than Python need one of their own."""

_OPERATIONS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip
_LARGEST = 1e15  # values beyond it end the arithmetic executor: they are no answers
_DIGITS = 9  # significant digits in which states are compared
_SECONDS = 5.0
_REPORT = "generality-state:"


@dataclass(frozen=True)
class Trace:
    """A program that ran, statement by statement.

    Attributes:
        statements: their source, as it was written.
        keys: the state after each, as the tracer's `key` names it.
        answers: the value of the answer's variable after each; None until it is set.
    """

    statements: tuple[str, ...]
    keys: tuple[Key, ...]
    answers: tuple[Any, ...]

    def canonical(self, count: int | None = None) -> tuple[str, ...]:
        """The first `count` statements without the accidents of formatting."""
        return tuple(map(_formatted, self.statements[:count]))


def values_only(variables: Variables) -> Key:
    """The sorted values of all variables, whatever their names; 3 and 3.0 are one value.

    Source: Ni et al. 2023 (arXiv 2205.14318), section 3.2. The paper compares the values' strings
    (`value_strings`), in which 3 and 3.0 differ and float noise counts; here numbers are compared
    in nine digits.

    >>> values_only({"n0": 3, "a": 12.0, "b": 0.1 + 0.2})
    ('0.3', '12', '3')
    """
    return tuple(sorted(map(_written, variables.values())))


def value_strings(variables: Variables) -> Key:
    """The paper's key: the sorted strings of the values, in which 3 and 3.0 differ.

    >>> value_strings({"x": 3.0, "y": 3})
    ('3', '3.0')
    """
    return tuple(sorted(map(str, variables.values())))


def arithmetic_executor(program: str) -> list[tuple[str, Variables]] | None:
    """Runs straight-line arithmetic in this process, by its syntax tree and not by Python.

    Assignments of numbers, variables and + - * / // % of them; anything else (a call, an
    attribute, a power, a number beyond 1e15) is None, so it is safe with any text.

    >>> arithmetic_executor("x = 3 * 4 ; answer = x - 1")
    [('x = 3 * 4', {'x': 12}), ('answer = x - 1', {'x': 12, 'answer': 11})]
    >>> arithmetic_executor("x = open('/etc/passwd')") is None
    True
    """
    statements = _statements(program)
    if statements is None:
        return None
    variables: dict[str, Any] = {}
    found: list[tuple[str, Variables]] = []
    for node, source in statements:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1):
            return None
        target = node.targets[0]
        if not isinstance(target, ast.Name):
            return None
        try:
            variables = {**variables, target.id: _evaluate(node.value, variables)}
        except (ValueError, KeyError, ArithmeticError, RecursionError):
            return None
        found.append((source, variables))
    return found


@dataclass(frozen=True)
class SandboxExecutor:
    """Runs Python programs in `generality.lab.sandbox`, noting plain variables after statements.

    Only top-level statements are steps; numbers, strings, and lists and dicts of them are state.
    """

    seconds: float = _SECONDS

    def __call__(self, program: str) -> list[tuple[str, Variables]] | None:
        """The states of one program."""
        return self.many([program])[0]

    def many(self, programs: Sequence[str]) -> list[list[tuple[str, Variables]] | None]:
        """The states of many programs, run in one worker."""
        parsed = [_statements(program) for program in programs]
        runnable = [i for i, statements in enumerate(parsed) if statements]
        codes = [_instrumented([source for _, source in parsed[i] or []]) for i in runnable]
        results = dict(zip(runnable, sandbox.run_many(codes, seconds=self.seconds), strict=True))
        return [
            _reported([source for _, source in statements or []], results[i].stdout)
            if i in results and results[i].ok
            else None
            for i, statements in enumerate(parsed)
        ]


@dataclass(frozen=True)
class StateTracer:
    """Statement-level execution: the states through which a program comes to its answer.

    Args:
        executor: runs a program. None: straight-line arithmetic in this process, and what goes
            beyond it in the sandbox.
        key: names a state, so that equal names mean equal states.
        answer: the variable that holds the final answer.

    >>> trace = StateTracer()("n0 = 3; a = n0 * 4; answer = a * n0 # rows")
    >>> trace.keys
    (('3',), ('12', '3'), ('12', '3', '36'))
    >>> trace.answers
    (None, None, 36)
    """

    executor: Executor | None = None
    key: Callable[[Variables], Key] = values_only
    answer: str = "answer"
    _sandbox: SandboxExecutor = field(default=SandboxExecutor(), repr=False)

    def __call__(self, program: str) -> Trace | None:
        """The trace of a program, or None when it cannot be run to its end."""
        return self.many([program])[0]

    def many(self, programs: Sequence[str]) -> list[Trace | None]:
        """The traces of many programs; those for the sandbox go through one worker together."""
        run = self.executor or arithmetic_executor
        found = [run(program) for program in programs]
        if self.executor is None:
            rest = [i for i, steps in enumerate(found) if steps is None and _worth(programs[i])]
            for i, steps in zip(
                rest, self._sandbox.many([programs[i] for i in rest]) if rest else [], strict=True
            ):
                found[i] = steps
        return [self._trace(steps) if steps else None for steps in found]

    def _trace(self, steps: list[tuple[str, Variables]]) -> Trace:
        return Trace(
            tuple(statement for statement, _ in steps),
            tuple(self.key(variables) for _, variables in steps),
            tuple(variables.get(self.answer) for _, variables in steps),
        )


def _worth(program: str) -> bool:
    """Whether a program that the arithmetic executor refused may run elsewhere.

    A name that nothing defines, or a syntax error, fails in Python too.
    """
    statements = _statements(program)
    return not all(_is_arithmetic(node) for node, _ in statements or [])


def _is_arithmetic(node: ast.stmt) -> bool:
    plain = (ast.Assign, ast.Name, ast.BinOp, ast.UnaryOp, ast.expr_context, *_OPERATIONS)
    return all(
        isinstance(part, plain)
        or (isinstance(part, ast.Constant) and type(part.value) in (int, float))
        for part in ast.walk(node)
    )


def _statements(program: str) -> list[tuple[ast.stmt, str]] | None:
    """The top-level statements with their source; None for what is not Python."""
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return [(node, ast.get_source_segment(program, node) or "") for node in tree.body]


def _evaluate(node: ast.expr, variables: Variables) -> Any:
    value: Any
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = node.value
    elif isinstance(node, ast.Name):
        value = variables[node.id]
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _evaluate(node.left, variables), _evaluate(node.right, variables)
        value = _OPERATIONS[type(node.op)](left, right)
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATIONS:
        value = _OPERATIONS[type(node.op)](_evaluate(node.operand, variables))
    else:
        raise ValueError(f"{type(node).__name__} is not arithmetic")
    if not abs(value) <= _LARGEST:  # NaN too
        raise ValueError("too large")
    return value


def _written(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return repr(value)
    if math.isfinite(value) and value == int(value):
        return str(int(value))
    return f"{value:.{_DIGITS}g}"


def _formatted(statement: str) -> str:
    try:
        return ast.unparse(ast.parse(statement))
    except (SyntaxError, ValueError):
        return " ".join(statement.split())


def _instrumented(statements: list[str]) -> str:
    """The program, printing its plain variables as JSON after each statement."""
    lines = [
        "import json as _json",
        "def _plain(v):",
        "    if isinstance(v, (list, tuple)): return all(map(_plain, v))",
        "    if isinstance(v, dict): return all(map(_plain, [*v, *v.values()]))",
        "    return v is None or isinstance(v, (bool, int, float, str))",
        "def _note(scope):",
        "    kept = {k: v for k, v in scope.items() if k[0] != '_' and _plain(v)}",
        f"    print('\\n{_REPORT}' + _json.dumps(kept))",
    ]
    for statement in statements:
        lines += [statement, "_note(dict(globals()))"]
    return "\n".join(lines)


def _reported(statements: list[str], stdout: str) -> list[tuple[str, Variables]] | None:
    notes = [line for line in stdout.splitlines() if line.startswith(_REPORT)]
    if len(notes) != len(statements):
        return None
    return [
        (statement, json.loads(note.removeprefix(_REPORT)))
        for statement, note in zip(statements, notes, strict=True)
    ]
