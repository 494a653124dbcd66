"""Small word problems that many different programs solve."""

from __future__ import annotations

import random
from dataclasses import dataclass

from generality.benchmarks.worlds.problem import Problem

TARGET_WORDS = ("rows", "of", "more", "less", "answer")
"""Words beyond those of `world_tokenizer`: give them as `extra`."""

_VARIABLES = "uvwxyz"
_NUMBERS = range(2, 13)  # small enough to be told apart by a tiny model
_SEPARATOR = " ; "

Term = tuple[str, tuple[int, ...]]
"""Its kind ("rows", "more", "less") and its numbers."""


@dataclass(frozen=True)
class TargetProblem(Problem):
    """A quantity described in words, to be computed by a straight-line program.

    Attributes:
        terms: what is added up, in the order of the prompt. All numbers differ, so that a program
            can be carried over to other numbers (`renumbered`).
        reference: one valid program, drawn at random; its states are the problem's.
    """

    terms: tuple[Term, ...] = ()
    reference: str = ""

    @property
    def numbers(self) -> tuple[int, ...]:
        """All numbers in the order of the prompt."""
        return tuple(number for _, numbers in self.terms for number in numbers)

    def programs(self, count: int, seed: int) -> list[str]:
        """At most `count` different valid programs, the reference first."""
        rng = random.Random(f"{self.prompt}/{seed}")
        drawn = [self.reference, *(_program(self.terms, rng) for _ in range(4 * count))]
        return list(dict.fromkeys(drawn))[:count]

    def renumbered(self, seed: int) -> TargetProblem:
        """The same phrase about other numbers, all different from each other.

        A program that is right by more than accident stays right when its numbers are exchanged
        likewise.
        """
        rng = random.Random(f"{self.prompt}/{seed}")
        fresh = iter(rng.sample(_NUMBERS, len(self.numbers)))
        terms = tuple((kind, tuple(next(fresh) for _ in numbers)) for kind, numbers in self.terms)
        return _problem(terms, _program(terms, rng))


@dataclass(frozen=True)
class TargetPrograms:
    """A source of such problems.

    A phrase begins with rows of things (a product); further ones, some more or some less follow.
    A program computes one operation per statement; it may take the terms in any order and group
    and turn around what can be.

    Args:
        terms: the least and the most terms in a phrase, 2 to 4.

    >>> [problem] = TargetPrograms().sample(1, seed=0)
    >>> problem.prompt, problem.reference
    ('6 rows of 4 , 7 less ?', 'u = 4 * 6 ; answer = u - 7')
    >>> problem.states, problem.answer
    (('24', '17'), '17')
    """

    terms: tuple[int, int] = (2, 3)

    def sample(self, count: int, seed: int) -> list[TargetProblem]:
        """Different problems; the same for the same arguments."""
        low, high = self.terms
        if not 2 <= low <= high <= 4:
            raise ValueError(f"a phrase has 2 to 4 terms, not {self.terms}")
        rng = random.Random(f"target/{self.terms}/{seed}")
        found: dict[str, TargetProblem] = {}
        while len(found) < count:
            kinds = ["rows", *rng.choices(("rows", "more", "less"), k=rng.randint(low, high) - 1)]
            sizes = [2 if kind == "rows" else 1 for kind in kinds]
            numbers = iter(rng.sample(_NUMBERS, sum(sizes)))
            terms = tuple(
                (kind, tuple(next(numbers) for _ in range(size)))
                for kind, size in zip(kinds, sizes, strict=True)
            )
            problem = _problem(terms, _program(terms, rng))
            found.setdefault(problem.prompt, problem)
        return list(found.values())


def _problem(terms: tuple[Term, ...], reference: str) -> TargetProblem:
    phrases = [
        f"{x[0]} rows of {x[1]}" if kind == "rows" else f"{x[0]} {kind}" for kind, x in terms
    ]
    states = _values(reference)
    return TargetProblem(
        "target", " , ".join(phrases) + " ?", tuple(map(str, states)), str(states[-1]),
        terms, reference,
    )  # fmt: skip


def _program(terms: tuple[Term, ...], rng: random.Random) -> str:
    """One way to compute the terms' sum, of all there are."""
    ready = [(str(x[0]), -1 if kind == "less" else 1) for kind, x in terms if kind != "rows"]
    waiting = [x for kind, x in terms if kind == "rows"]
    total = len(waiting) + len(terms) - 1
    statements: list[str] = []
    while waiting or len(ready) > 1:
        pairs = [(i, j) for i in range(len(ready)) for j in range(i)]
        choice = rng.randrange(len(waiting) + len(pairs))
        if choice < len(waiting):
            rows, each = rng.sample(waiting.pop(choice), 2)
            computed, sign = f"{rows} * {each}", 1
        else:
            i, j = pairs[choice - len(waiting)]
            two = [ready.pop(i), ready.pop(j)]
            rng.shuffle(two)
            two.sort(key=lambda item: -item[1])  # what is taken away comes last
            (a, plus), (b, minus) = two
            computed, sign = f"{a} {'+' if plus == minus else '-'} {b}", plus
        name = "answer" if len(statements) == total - 1 else _VARIABLES[len(statements)]
        statements.append(f"{name} = {computed}")
        ready.append((name, sign))
    return _SEPARATOR.join(statements)


def _values(program: str) -> list[int]:
    """What each statement of a program of ours computes."""
    known: dict[str, int] = {}
    for statement in program.split(_SEPARATOR):
        name, _, left, operator, right = statement.split()
        x, y = (known[word] if word in known else int(word) for word in (left, right))
        known[name] = x * y if operator == "*" else x + y if operator == "+" else x - y
    return list(known.values())
