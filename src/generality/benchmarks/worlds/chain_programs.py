"""Chains of small sums: multi-step arithmetic whose every state can be checked."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from generality.benchmarks.worlds.problem import ANSWER, Problem

_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


@dataclass(frozen=True)
class Chain(Problem):
    """A program that changes one number step by step: `a = 3 ; b = a + 4 ; b ?`.

    Attributes:
        start: the first value.
        program: operator and number of each step.
        modulus: values are taken modulo this.
        names: of the variables, one more than there are steps.
    """

    start: int = 0
    program: tuple[tuple[str, int], ...] = ()
    modulus: int = 5
    names: str = ""
    values: tuple[int, ...] = field(default=(), compare=False)

    def segment(self, first: int, length: int) -> Chain:
        """The program of `length` steps from step `first` on (0 the first), as its own problem.

        It starts with the value that the chain has there, and keeps the names.

        >>> chain = make_chain(3, [("+", 4), ("-", 1), ("+", 3)])
        >>> chain.segment(1, 2).prompt, chain.segment(1, 2).answer
        ('b = 2 ; c = b - 1 ; d = c + 3 ; d ?', '4')
        """
        if first < 0 or length < 1 or first + length > len(self.program):
            raise ValueError(f"a chain of {len(self.program)} steps has no {length} from {first}")
        return make_chain(
            self.values[first],
            self.program[first : first + length],
            modulus=self.modulus,
            names=self.names[first : first + length + 1],
        )

    def renamed(self, seed: int) -> Chain:
        """The same program with other names: a paraphrase."""
        names = np.random.default_rng(seed).permutation(list(string.ascii_lowercase))
        return make_chain(
            self.start, self.program, modulus=self.modulus, names="".join(names[: len(self.names)])
        )


def make_chain(
    start: int,
    program: list[tuple[str, int]] | tuple[tuple[str, int], ...],
    *,
    modulus: int = 5,
    names: str = string.ascii_lowercase,
) -> Chain:
    """A chain from its program.

    >>> chain = make_chain(3, [("+", 4), ("-", 2)])
    >>> chain.prompt, chain.states, chain.answer
    ('a = 3 ; b = a + 4 ; c = b - 2 ; c ?', ('3', '2', '0'), '0')
    """
    values = [start]
    for operator, number in program:
        values.append(_OPERATIONS[operator](values[-1], number) % modulus)
    names = names[: len(values)]
    steps = [
        f"{name} = {before} {operator} {number}"
        for name, before, (operator, number) in zip(names[1:], names, program, strict=False)
    ]
    return Chain(
        task="chain",
        prompt=" ; ".join([f"{names[0]} = {start}", *steps, f"{names[-1]} ?"]),
        states=tuple(map(str, values)),
        answer=str(values[-1]),
        start=start,
        program=tuple((operator, int(number)) for operator, number in program),
        modulus=modulus,
        names=names,
        values=tuple(values),
    )


@dataclass(frozen=True)
class ChainPrograms:
    """A source of chains.

    Args:
        modulus: of all values, at most 21.
        operators: among `+`, `-`, `*`.
        rename: draw the names of variables; otherwise they are a, b, c, ….

    >>> [chain.prompt for chain in ChainPrograms().sample(2, (1, 2), seed=0)]
    ['a = 2 ; b = a + 1 ; c = b + 1 ; c ?', 'a = 0 ; b = a - 0 ; c = b - 4 ; c ?']
    """

    modulus: int = 5
    operators: str = "+-"
    rename: bool = False

    def sample(self, count: int, steps: int | tuple[int, int], seed: int) -> list[Chain]:
        """`count` chains of a number of steps, or of numbers drawn evenly from (least, most)."""
        least, most = (steps, steps) if isinstance(steps, int) else steps
        if not 1 <= least <= most < len(string.ascii_lowercase):
            raise ValueError("a chain has 1 to 25 steps")
        generator = np.random.default_rng(seed)
        chains = []
        for length in generator.integers(least, most + 1, size=count):
            start, *numbers = generator.integers(self.modulus, size=length + 1).tolist()
            operators = generator.choice(list(self.operators), size=length)
            letters = list(string.ascii_lowercase)
            names = "".join(generator.permutation(letters) if self.rename else letters)
            program = [(str(o), n) for o, n in zip(operators, numbers, strict=True)]
            chains.append(make_chain(start, program, modulus=self.modulus, names=names))
        return chains


def _full(chain: Chain) -> list[str]:
    lines = [f"{chain.names[0]} = {chain.start}"]
    steps = zip(chain.names[1:], chain.values, chain.program, chain.values[1:], strict=False)
    return lines + [f"{name} = {a} {op} {n} = {value}" for name, a, (op, n), value in steps]


def _named(chain: Chain) -> list[str]:
    return [f"{name} {value}" for name, value in zip(chain.names, chain.values, strict=True)]


STYLES: dict[str, Callable[[Chain], str]] = {
    "full": lambda chain: " ; ".join(_full(chain)),
    "states": lambda chain: " ".join(map(str, chain.values)),
    "named": lambda chain: " ".join(_named(chain)),
    "reversed": lambda chain: " , ".join(_named(chain)[::-1]),
    "terse": lambda chain: "",
}
"""Ways to write the work before the answer, all correct."""


def solution(chain: Chain, style: str = "states") -> str:
    """A correct solution in one of `STYLES`, the answer after `=>`.

    >>> chain = make_chain(3, [("+", 4), ("-", 2)])
    >>> for style in STYLES:
    ...     print(solution(chain, style))
    a = 3 ; b = 3 + 4 = 2 ; c = 2 - 2 = 0 => 0
    3 2 0 => 0
    a 3 b 2 c 0 => 0
    c 0 , b 2 , a 3 => 0
    => 0
    """
    if style not in STYLES:
        raise ValueError(f"there is no style '{style}'; known: {', '.join(STYLES)}")
    return f"{STYLES[style](chain)} {ANSWER} {chain.answer}".strip()


def step_flags(chain: Chain, response: str) -> list[bool] | None:
    """Which values that the response states are wrong, in the order of the program.

    A value is wrong when it is not the program's at that step, also where it follows from an
    earlier wrong one. Reads the styles "full", "states", "named" and "reversed"; None for a
    response that does not state as many values as there are.

    >>> chain = make_chain(3, [("+", 4), ("-", 2)])
    >>> step_flags(chain, "3 1 4 => 4"), step_flags(chain, "c 0 , b 1 , a 3 => 0")
    ([False, True, True], [False, True, False])
    >>> step_flags(chain, "a = 3 ; b = 3 + 4 = 2 ; c = 2 - 2 = 1 => 1"), step_flags(chain, "=> 0")
    ([False, False, True], None)
    """
    work = response.split(ANSWER)[0]
    if "=" in work:
        stated = [part.split("=")[-1].split() for part in work.split(";")]
    elif "," in work:
        stated = [part.split()[1:] for part in work.split(",")][::-1]
    else:
        stated = [[word] for word in work.split() if word not in chain.names]
    words = [part[0] if len(part) == 1 else "" for part in stated]
    if len(words) != len(chain.values):
        return None
    return [word != str(value) for word, value in zip(words, chain.values, strict=True)]
