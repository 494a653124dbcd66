"""How many different ways of solving a problem there are among its solutions."""

from __future__ import annotations

import ast
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SolutionDiversity:
    """Means over problems that have a solution.

    Attributes:
        solutions: solutions per problem, copies included.
        programs: different ones, whatever their names and formatting.
        paths: different sequences of states; NaN when no states were given.
        problems: how many problems have a solution.
    """

    solutions: float
    programs: float
    paths: float
    problems: int


def solution_diversity(
    solutions: Sequence[Sequence[str]],
    *,
    paths: Sequence[Sequence[Hashable]] | None = None,
) -> SolutionDiversity:
    """Distinct programs, and distinct paths through states, per problem.

    Args:
        solutions: for each problem, its (correct) solutions as Python source.
        paths: for each solution, the states it goes through
            (`generality.selection.StateTracer` gives them).

    Source: Ni et al. 2023 (arXiv 2205.14318), figure 4, with names disregarded as well.

    >>> programs = ["x = 3 * 4; answer = x + 1", "y=3*4\\nanswer = y+1", "answer = 1 + 3 * 4"]
    >>> solution_diversity([programs, []])
    SolutionDiversity(solutions=3.0, programs=2.0, paths=nan, problems=1)
    """
    solved = [i for i, programs in enumerate(solutions) if programs]
    n = len(solved)
    if paths is not None and [len(p) for p in paths] != [len(s) for s in solutions]:
        raise ValueError("paths are as many as solutions, problem by problem")

    def mean(counts: list[int]) -> float:
        return sum(counts) / n if n else float("nan")

    return SolutionDiversity(
        solutions=mean([len(solutions[i]) for i in solved]),
        programs=mean([len(set(map(canonical_program, solutions[i]))) for i in solved]),
        paths=mean([len(set(paths[i])) for i in solved]) if paths is not None else float("nan"),
        problems=n,
    )


def canonical_program(source: str) -> str:
    """The program with its variables named by the order of their first assignment.

    What does not parse keeps its words, one space apart.

    >>> canonical_program("total = 2 *3\\nanswer=total+ 1")
    'v0 = 2 * 3\\nv1 = v0 + 1'
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return " ".join(source.split())
    names: dict[str, str] = {}
    stored = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    for node in sorted(stored, key=lambda node: (node.lineno, node.col_offset)):
        names.setdefault(node.id, f"v{len(names)}")
    for part in ast.walk(tree):
        if isinstance(part, ast.Name) and part.id in names:
            part.id = names[part.id]
    return ast.unparse(tree)
